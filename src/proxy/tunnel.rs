//! `CONNECT` (RFC 9110 §9.3.6): who asks and whether the host is allowed are settled
//! before the 200. What follows is intercepted, or, for a host that no route names and
//! only where the config says so, passes untouched and without any credential.

use std::{net::SocketAddr, sync::Arc};

use http::{
    Response,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};

use crate::{
    credential::Trespass,
    identity::{Agent, Evidence},
    observe::{Noted, Record, Traffic, record::Protocol},
    policy,
    primitives::Authority,
    upstream::{self, Stream},
};

use super::{
    Body, Error, Proxy, Rules, Seat, Standing, Unmatched,
    error::BadRequest,
    inbound::{Ingress, Tunnel},
    open::Open,
    respond,
};

/// Ports that a blind tunnel may lead to: the web's. Anything else wants a route.
const BLIND_PORTS: [u16; 3] = [443, 80, 8443];

/// How a `CONNECT` was judged.
#[derive(Debug)]
pub enum Opening {
    Refused(Box<Response<Body>>),
    /// Answer 200, then terminate TLS in the name of the tunnel's host.
    Intercept(Arc<Tunnel>, Handshake),
    /// Answer 200, then copy bytes both ways.
    Blind(Box<Blind>),
}

/// The record of an intercepted `CONNECT`, kept for the case that nothing comes of it:
/// requests inside the tunnel have records of their own.
#[derive(Debug)]
pub struct Handshake(pub(super) Open);

impl Handshake {
    /// The agent and we agreed on a protocol; each request is recorded from now on.
    pub fn succeeded(self) {
        self.0.discard();
    }

    /// A stable code: `agent_tls`, `tunnel_protocol`, `handshake_timeout`.
    pub fn failed(self, code: &'static str) {
        self.0.end(Some(code));
    }
}

/// A blind tunnel whose far end is connected.
#[derive(Debug)]
pub struct Blind {
    upstream: Stream,
    record: TunnelRecord,
}

impl Blind {
    pub(super) fn new((upstream, address): (Stream, SocketAddr), standing: Standing, mut open: Open) -> Self {
        open.asked.protocol = Protocol::Tunnel;
        open.outcome.upstream_addr = Some(address);
        open.outcome.status = Some(200);
        Self { upstream, record: TunnelRecord { open, standing } }
    }

    /// Separates the stream from the record, which wants [`TunnelRecord::end`].
    pub fn split(self) -> (Stream, TunnelRecord) {
        (self.upstream, self.record)
    }
}

/// The record of a connection on which bytes pass as they are.
#[derive(Debug)]
pub struct TunnelRecord {
    pub(super) open: Open,
    pub(super) standing: Standing,
}

impl TunnelRecord {
    /// Where what passes is counted.
    pub fn traffic(&self) -> &Traffic {
        &self.open.traffic
    }

    /// What it was let in for.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    pub fn end(self, error: Option<&'static str>) {
        self.open.end(error);
    }
}

impl Proxy {
    /// Judges a `CONNECT`.
    pub async fn open_tunnel(&self, ingress: &Ingress, seat: &Seat, head: &Parts) -> Opening {
        let rules = self.shared.rules.load_full();
        let mut open = self.open_record(ingress, head);
        match self.judge_connect(&rules, (ingress, seat), head, &mut open).await {
            Ok(Judged::Intercept(tunnel)) => Opening::Intercept(Arc::new(tunnel), Handshake(open)),
            Ok(Judged::Blind(connected, standing)) => Opening::Blind(Box::new(Blind::new(connected, standing, open))),
            Err(error) => {
                error.note(&mut open);
                Opening::Refused(Box::new(respond::Answering::to(head).refuse_tunnel(&error, open)))
            }
        }
    }

    async fn judge_connect(
        &self,
        rules: &Rules,
        from: (&Ingress, &Seat),
        head: &Parts,
        record: &mut Open,
    ) -> Result<Judged, Error> {
        let authority = connect_authority(head)?;
        let evidence = Evidence::Proxy(&head.headers);
        self.judge_tunnel(rules, from, (authority, evidence), record).await
    }

    /// Whatever protocol asks for the tunnel.
    pub(super) async fn judge_tunnel(
        &self,
        rules: &Rules,
        (ingress, seat): (&Ingress, &Seat),
        (authority, evidence): (Authority, Evidence<'_>),
        record: &mut Open,
    ) -> Result<Judged, Error> {
        record.asked.authority.set(&authority);
        let stranger = |unknown| self.shared.stranger(seat, evidence, unknown);
        let (agent, identity) = rules.registry.identify_tunnel(evidence).map_err(stranger)?;
        agent.note(record);
        seat.take(agent, &self.shared.settings, record)?;
        if let Ok(candidates) = rules.routes.find_authority(&authority) {
            policy::decide_tunnel(agent, &candidates, &authority)?;
            let (listener, recorder) = (ingress.listener().clone(), Arc::clone(&self.recorder));
            return Ok(Judged::Intercept(Tunnel::new(listener, authority, identity, recorder)));
        }
        // A host that a route names has no other way in than the route, at no port: what is
        // denied or protected at 443 isn't to be had untouched at 8443.
        match rules.unmatched {
            Unmatched::Tunnel if !rules.routes.names_host(authority.host()) => {
                let connected = self.connect_blind(rules, (agent, &authority), record).await?;
                Ok(Judged::Blind(connected, Standing::blind(identity, authority)))
            }
            Unmatched::Tunnel | Unmatched::Deny => Err(policy::Refusal::no_route(agent, &authority).into()),
        }
    }

    async fn connect_blind(
        &self,
        rules: &Rules,
        (agent, authority): (&Agent, &Authority),
        record: &mut Record,
    ) -> Result<(Stream, SocketAddr), Error> {
        // First, since it asks nobody.
        check_blind(&rules.authorization_servers, authority)?;
        if rules.broker.leads_to_authorization_server(authority.host()).await {
            return Err(Trespass::Endpoint.into());
        }
        record.decision.allowed = Some(true);
        record.decision.reason = "unmatched_tunnelled".into();
        self.upstream.connect_raw(agent.name(), authority, &[]).await.map_err(upstream_error)
    }
}

/// Where a blind tunnel may lead.
pub(super) fn check_blind(authorization_servers: &[Authority], authority: &Authority) -> Result<(), Error> {
    if authorization_servers.iter().any(|server| server.host() == authority.host()) {
        return Err(Trespass::Endpoint.into());
    }
    if BLIND_PORTS.contains(&authority.port()) { Ok(()) } else { Err(Error::NoRoute) }
}

pub(super) enum Judged {
    Intercept(Tunnel),
    Blind((Stream, SocketAddr), Standing),
}

fn upstream_error(error: upstream::Error) -> Error {
    Error::Upstream(error)
}

/// Authority-form with a port, nothing else (threats 30 and 46).
fn connect_authority(head: &Parts) -> Result<Authority, Error> {
    let uri = &head.uri;
    let plain = uri.scheme().is_none() && uri.path_and_query().is_none();
    let text = uri.authority().filter(|_| plain).map_or("", http::uri::Authority::as_str);
    let headers = &head.headers;
    let empty = headers.get(CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0");
    if !empty || headers.contains_key(TRANSFER_ENCODING) {
        return Err(BadRequest::Framing.into());
    }
    Ok(Authority::parse(text, None)?)
}

impl respond::Answering {
    /// Bytes that come behind a refused `CONNECT` belong to no request: the connection
    /// ends (threat 46), but for the 407 that git waits for.
    fn refuse_tunnel(self, error: &Error, open: Open) -> Response<Body> {
        let mut response = self.refuse(error, open);
        if response.status() != http::StatusCode::PROXY_AUTHENTICATION_REQUIRED
            && response.version() != http::Version::HTTP_2
        {
            response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        response
    }
}
