//! Tunnels that SOCKS asks for instead of `CONNECT`: the same registry, table and policy
//! decide, before the reply, and each refusal has its record. Knows no bytes of SOCKS.

use http::Method;

use crate::{
    identity::{Evidence, TunnelIdentity},
    observe::{Noted, record::Protocol},
    primitives::{Authority, HostError},
    upstream,
};

use super::{
    Error, Proxy, Seat,
    error::BadRequest,
    inbound::Ingress,
    open::Open,
    tunnel::{Blind, Handshake, Judged, Opening},
};

/// An agent that has begun to speak. Its record is open: dropped, it is of an agent that left.
#[derive(Debug)]
pub struct Knock(Open);

/// How the wish for a tunnel was judged.
#[derive(Debug)]
pub enum SocksOpening {
    Refused(Denial),
    /// As after a `CONNECT`.
    Opened(Opening),
}

/// Why not, as a reply has it (RFC 1928 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    General = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
}

impl Proxy {
    pub fn knock(&self, ingress: &Ingress) -> Knock {
        Knock(self.open_record_of(ingress, Some(Method::CONNECT), Protocol::Socks5))
    }

    /// Who is it? `login`: name and key; `None`: the agent shows nothing.
    pub fn admit(
        &self,
        seat: &Seat,
        mut knock: Knock,
        login: Option<(&[u8], &[u8])>,
    ) -> Result<(Knock, TunnelIdentity), Denial> {
        let evidence = Evidence::Login(login);
        let rules = self.shared.rules.load();
        match rules.registry.identify_tunnel(evidence) {
            Ok((agent, identity)) => {
                agent.note(&mut knock.0);
                Ok((knock, identity))
            }
            Err(unknown) => Err(knock.refuse(&self.shared.stranger(seat, evidence, unknown))),
        }
    }

    /// May this agent go there? Asked anew of the rules of this moment.
    pub async fn open_socks(
        &self,
        (ingress, seat): (&Ingress, &Seat),
        mut knock: Knock,
        identity: &TunnelIdentity,
        authority: Authority,
    ) -> SocksOpening {
        let rules = self.shared.rules.load_full();
        let asked = (authority, Evidence::Tunnel(identity));
        match self.judge_tunnel(&rules, (ingress, seat), asked, &mut knock.0).await {
            Ok(Judged::Intercept(tunnel)) => {
                SocksOpening::Opened(Opening::Intercept(tunnel.into(), Handshake(knock.0)))
            }
            Ok(Judged::Blind(connected, standing)) => {
                SocksOpening::Opened(Opening::Blind(Box::new(Blind::new(connected, standing, knock.0))))
            }
            Err(error) => SocksOpening::Refused(knock.refuse(&error)),
        }
    }
}

impl Knock {
    /// What was sent can't be read, or isn't served.
    pub fn unreadable(self) {
        self.refuse(&BadRequest::Socks.into());
    }

    /// What was asked for is no host.
    pub fn no_host(self, error: HostError) {
        self.refuse(&error.into());
    }

    /// It ended before it was clear what was wanted; `error` is a stable code.
    pub fn ended(self, error: &'static str) {
        self.0.end(Some(error));
    }

    /// The record has the status that an agent at an HTTP door would have read.
    fn refuse(mut self, error: &Error) -> Denial {
        error.note(&mut self.0);
        tracing::debug!(request = %self.0.id, %error, "refused");
        self.0.outcome.status = Some(error.verdict().status.as_u16());
        self.0.end(None);
        Denial::of(error)
    }
}

impl Denial {
    fn of(error: &Error) -> Self {
        match error {
            Error::AgentUnknown(_)
            | Error::Refused(_)
            | Error::NoRoute
            | Error::AuthorizationServer(_)
            | Error::UpgradeNotAllowed(_)
            | Error::Upstream(upstream::Error::AddressNotAllowed { .. }) => Self::NotAllowed,
            Error::Upstream(error) => match error.proxy_status() {
                "connection_refused" => Self::ConnectionRefused,
                "destination_ip_unroutable" => Self::NetworkUnreachable,
                _ => Self::HostUnreachable,
            },
            Error::BadRequest(_)
            | Error::TargetMismatch
            | Error::Token(_)
            | Error::Proof(_)
            | Error::StepUp(_)
            | Error::UnaskedUpgrade
            | Error::NotUpgraded
            | Error::UnaskedCoding
            | Error::TooMany(_)
            | Error::Unrecorded
            | Error::Loop => Self::General,
        }
    }

    pub fn code(self) -> u8 {
        self as u8
    }
}
