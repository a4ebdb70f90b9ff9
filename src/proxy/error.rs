//! Everything that can keep a request from its upstream's answer, and one exhaustive
//! table from there to what the agent reads: status, stable code, `Proxy-Status`,
//! hint, and when to try again. Never 401: an agent's SDK would start a login of its own.

use std::{borrow::Cow, time::Duration};

use http::StatusCode;

use crate::{
    credential, identity,
    observe::{Noted, Record},
    policy,
    primitives::{Hint, HostError, PathError, RouteName},
    route::NoRoute,
    upstream::{self, ParentFault},
};

use super::{recover::StepUp, seat::TooMany, upgrade::NotAllowed};

/// Why a request got no answer from its upstream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent's request isn't one that can be judged.
    #[error("{0}")]
    BadRequest(#[from] BadRequest),
    /// The request names another host than the tunnel it came through (threat 43).
    #[error("the request names another host than the tunnel it came through")]
    TargetMismatch,
    /// The agent didn't show a key that we know.
    #[error("{0}")]
    AgentUnknown(#[from] identity::Unknown),
    /// Policy says no.
    #[error("{}", .0.reason.reason())]
    Refused(Box<policy::Refusal>),
    /// No route names the host.
    #[error("no route names this host")]
    NoRoute,
    /// The host is an authorization server's: the agent has no business there (threat 37).
    #[error("{0}")]
    AuthorizationServer(#[from] credential::Trespass),
    /// There is no token: the operator's config, or the authorization server.
    #[error("there is no token for this request now")]
    Token(#[from] credential::Error),
    /// A token's proof can't be signed.
    #[error("the token's proof can't be made")]
    Proof(#[source] credential::sign::KeyError),
    /// The upstream wants a human to authenticate in another way, or anew (RFC 9470).
    #[error("the upstream wants a fresher or stronger authentication of the user")]
    StepUp(Box<StepUp>),
    /// The way to the upstream failed.
    #[error("{}", upstream_message(.0))]
    Upstream(#[from] upstream::Error),
    /// The upstream switched protocols without being asked (threat 65).
    #[error("the upstream switched protocols without being asked to")]
    UnaskedUpgrade,
    /// The upstream answered as if there had been no upgrade, where the agent would take that
    /// for one (RFC 8441 §5).
    #[error("the upstream didn't switch protocols")]
    NotUpgraded,
    /// The route doesn't allow the protocol that the request wants to change to.
    #[error("the route doesn't allow this protocol")]
    UpgradeNotAllowed(#[from] NotAllowed),
    /// The upstream's answer is text in a coding that was not asked for and can't be undone, so that
    /// nobody could see whether the token is in it (threat 15).
    #[error("the answer is in a coding that can't be looked through for the token")]
    UnaskedCoding,
    /// The agent has as much under way as it may (threat 87), or too many keys were wrong.
    #[error("{0}")]
    TooMany(#[from] TooMany),
    /// Its record couldn't be written (threat 108).
    #[error("the request can't be recorded now")]
    Unrecorded,
    /// The request has been through this proxy before (threat 38).
    #[error("the request came back to the proxy that sent it")]
    Loop,
}

/// What is wrong with the agent's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("the authority isn't valid: {0}")]
    Authority(#[from] HostError),
    #[error("the path isn't valid: {0}")]
    Path(#[from] PathError),
    #[error("a forward proxy needs the absolute form: `GET http://host/path`")]
    NotAbsoluteForm,
    #[error("only `http` and `https` can be proxied")]
    Scheme,
    #[error("the request needs exactly one `Host` field")]
    Host,
    #[error("the framing is ambiguous")]
    Framing,
    /// Behind a reverse listener's prefix or its upstream's own path.
    #[error("the path could be read in more than one way")]
    AmbiguousPath,
    /// It broke off, or its chunks are none.
    #[error("the request's body broke off")]
    Body,
    /// The agent's connection ended in the middle of it.
    #[error("the agent left before the end of the request's body")]
    AgentGone,
    #[error("the request's body did not come")]
    BodyTimeout,
    #[error("`Connection` can't be read")]
    Connection,
    #[error("`Connection` names a field that must reach the upstream")]
    ConnectionNamesProtectedField,
    #[error("`{method}` is never forwarded", method = .0.as_str())]
    Method(RefusedMethod),
    #[error("a token in the query isn't forwarded on this route")]
    TokenInQuery,
    /// RFC 9110 §15.5.15.
    #[error("the request's target is longer than the limit")]
    TargetTooLong,
    /// RFC 6585 §5.
    #[error("the request has more fields than the limit")]
    TooManyFields,
    #[error("the only expectation that can be met is `100-continue`")]
    Expectation,
    #[error("the SOCKS request can't be served")]
    Socks,
}

/// Methods that no route can allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedMethod {
    /// It would show the token to the agent (RFC 9110 §9.3.8, threat 11).
    Trace,
    Track,
    /// `CONNECT` inside a tunnel or in reverse mode (threat 44).
    Connect,
}

impl RefusedMethod {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Track => "TRACK",
            Self::Connect => "CONNECT",
        }
    }
}

/// What the agent is told.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) status: StatusCode,
    /// Stable, snake_case: part of the surface contract.
    pub(super) code: &'static str,
    /// RFC 9209 §2.3 error type.
    pub(super) proxy_status: &'static str,
    pub(super) hint: Hint,
    pub(super) route: Option<RouteName>,
    pub(super) retry_after: Option<Duration>,
    pub(super) ends: Ends,
}

/// What an answer is the last one of. Over HTTP/2, where one stream says nothing of the others, it
/// stands among the extensions of an answer that is the last of more than its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    Nothing,
    /// Of an HTTP/1 connection, that can't be trusted any more (threats R6).
    Framing,
    /// Of a connection that its agent has no place for. A tunnel on a stream has a place of its own.
    Connection,
    /// Of the connection, whatever came over it: somebody guesses keys (threat 4).
    Guesses,
}

impl Error {
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::BadRequest(bad) => bad.verdict(),
            Self::TargetMismatch => Verdict::new(400, "target_mismatch", "http_request_error")
                .hint("open a tunnel to the host that the request is for")
                .closing(),
            Self::AgentUnknown(_) => Verdict::new(407, "agent_unknown", "http_request_denied").hint(
                "set HTTP_PROXY and HTTPS_PROXY to http://AGENT:KEY@HOST:PORT, or with a base URL send the key as \
                 `Authorization: Bearer` or `x-api-key`; `cupbearer agent new` makes a key",
            ),
            Self::Refused(refusal) => refused(refusal),
            Self::NoRoute => Verdict::new(403, "host_not_allowed", "http_request_denied")
                .hint("add the host to a [[routes]] entry; `cupbearer explain METHOD URL` shows what is missing"),
            Self::AuthorizationServer(what) => trespass(*what),
            Self::Token(error) => token(error),
            Self::Proof(_) => Verdict::new(502, "credential_failed", "proxy_internal_error")
                .hint("the operator finds the cause in the log"),
            Self::StepUp(wanted) => {
                let verdict = Verdict::new(403, "login_required", "http_request_denied");
                Verdict { hint: wanted.hint(), ..verdict }
            }
            Self::Upstream(error) => upstream(error),
            Self::UnaskedUpgrade | Self::NotUpgraded => Verdict::new(502, "upstream_protocol", "http_upgrade_failed")
                .hint("the upstream's answer can't be forwarded"),
            Self::UpgradeNotAllowed(NotAllowed { route }) => Verdict {
                route: Some(route.clone()),
                ..Verdict::new(403, "upgrade_not_allowed", "http_request_denied")
                    .hint("the operator adds the protocol to the route's `upgrades`")
            },
            Self::UnaskedCoding => Verdict::new(502, "upstream_protocol", "http_response_content_coding")
                .hint("ask for it with `Accept-Encoding: identity`; the operator may set the route's `scrub = false`"),
            Self::TooMany(what) => too_many(*what),
            Self::Unrecorded => Verdict {
                retry_after: Some(Duration::from_secs(1)),
                ..Verdict::new(503, "audit_unavailable", "proxy_internal_error")
                    .hint("try again later; the operator sees to the audit log, the cause is in the proxy's own")
            },
            Self::Loop => Verdict::new(502, "loop_detected", "proxy_loop_detected")
                .hint("the URL leads back to the proxy itself; use the API's own host"),
        }
    }
}

impl BadRequest {
    pub(super) const CODE: &'static str = "bad_request";

    fn verdict(self) -> Verdict {
        let bad = |hint| Verdict::new(400, Self::CODE, "http_request_error").hint(hint);
        match self {
            Self::Authority(_) | Self::Path(_) | Self::AmbiguousPath => bad("write the URL in its plain form"),
            Self::NotAbsoluteForm => {
                bad("this is a forward proxy: set HTTP_PROXY to it, or use a [[reverse]] listener as the base URL")
            }
            Self::Scheme => bad("use an http:// or https:// URL"),
            Self::Host | Self::Framing | Self::Connection | Self::Body => {
                bad("send a well-formed HTTP request").closing()
            }
            Self::AgentGone => Verdict::new(400, "agent_gone", "http_request_error")
                .hint("stay until the request's body is sent")
                .closing(),
            Self::BodyTimeout => Verdict::new(408, Self::CODE, "http_request_error")
                .hint("send the request's body without long pauses")
                .closing(),
            Self::ConnectionNamesProtectedField => bad("leave end-to-end fields out of `Connection`").closing(),
            Self::Method(_) => {
                Verdict::new(405, "method_not_allowed", "http_request_denied").hint("use another method")
            }
            Self::TokenInQuery => bad("leave `access_token` out of the URL: the proxy adds the token"),
            Self::Socks => bad("use SOCKS 5, its CONNECT, and user and password"),
            Self::TargetTooLong => Verdict::new(414, Self::CODE, "http_request_error")
                .hint("shorten the URL; the operator may raise `request_target` of [limits]"),
            Self::TooManyFields => Verdict::new(431, Self::CODE, "http_request_error")
                .hint("send fewer header fields; the operator may raise `request_fields` of [limits]"),
            Self::Expectation => Verdict::new(417, Self::CODE, "http_request_error").hint("leave out `Expect`"),
        }
    }
}

fn trespass(what: credential::Trespass) -> Verdict {
    match what {
        credential::Trespass::Endpoint => Verdict::new(403, "host_not_allowed", "http_request_denied")
            .hint("tokens are got by the proxy; send the request to the API itself"),
        credential::Trespass::Unknown => Verdict {
            retry_after: Some(Duration::from_secs(1)),
            ..Verdict::new(503, "credential_unavailable", "connection_timeout")
                .hint("try again later; the operator checks the authorization server's metadata")
        },
    }
}

fn too_many(what: TooMany) -> Verdict {
    let verdict = Verdict::new(429, "rate_limited", "connection_limit_reached");
    let verdict = Verdict { retry_after: Some(Duration::from_secs(1)), ..verdict };
    match what {
        TooMany::Requests => {
            verdict.hint("wait for an answer first; the operator may raise `requests_per_agent` of [limits]")
        }
        TooMany::Connections => Verdict {
            ends: Ends::Connection,
            ..verdict.hint("use the connections again; the operator may raise `connections_per_agent` of [limits]")
        },
        TooMany::WrongKeys { rest } => Verdict {
            ends: Ends::Guesses,
            retry_after: Some(rest),
            ..verdict.hint("check the agent's key; the operator finds `agent_key_unknown` in the audit log")
        },
    }
}

fn refused(refusal: &policy::Refusal) -> Verdict {
    let verdict = Verdict::new(403, refusal.reason.code(), "http_request_denied");
    Verdict { hint: refusal.hint.clone(), route: refusal.route.clone(), ..verdict }
}

fn token(error: &credential::Error) -> Verdict {
    let verdict = if error.wants_a_human() {
        Verdict::new(403, error.code(), "http_request_denied")
    } else if error.is_the_agents() {
        Verdict::new(400, error.code(), "http_request_error")
    } else if error.is_temporary() {
        let wait = error.retry_after.unwrap_or(Duration::from_secs(1));
        Verdict { retry_after: Some(wait), ..Verdict::new(503, "credential_unavailable", "connection_timeout") }
    } else {
        Verdict {
            retry_after: error.retry_after,
            ..Verdict::new(502, "credential_failed", "proxy_configuration_error")
        }
    };
    Verdict { hint: error.hint(), ..verdict }
}

fn upstream(error: &upstream::Error) -> Verdict {
    use upstream::Error as E;
    let new = |status, code, hint| Verdict::new(status, code, error.proxy_status()).hint(hint);
    match error {
        E::Dns { .. } | E::NoAddress { .. } => new(502, "upstream_unreachable", "check the host's name"),
        E::AddressNotAllowed { .. } => new(
            403,
            "address_not_allowed",
            "the host is at a private address; if it is meant to be reached, the operator names the network in the \
             route's danger_allow_private_addresses",
        ),
        E::Connect { .. } => new(502, "upstream_unreachable", "try again later"),
        E::Parent(fault) => new(502, "upstream_unreachable", parent_hint(fault)),
        E::ConnectTimeout { .. } => new(504, "upstream_timeout", "try again later"),
        E::Tls { .. } if error.is_certificate() => new(
            502,
            "upstream_tls",
            "the host's certificate isn't trusted; for a private authority the operator sets the route's upstream_ca",
        ),
        E::Tls { .. } if error.is_alert() => new(
            502,
            "upstream_tls",
            "the host refused the handshake: it may want a client certificate (the route's upstream_certificate), or \
             something else than TLS 1.2 and 1.3",
        ),
        E::Tls { .. } => new(502, "upstream_tls", "the host doesn't speak TLS 1.2 or 1.3 there"),
        E::ResponseTimeout { .. } => new(504, "upstream_timeout", "try again, or raise the route's response_timeout"),
        E::Http2(_) | E::Http1(_) | E::Framing => {
            new(502, "upstream_protocol", "the host's answer broke off or isn't HTTP")
        }
    }
}

/// What the agent may read of it: no address, no cause chain.
fn upstream_message(error: &upstream::Error) -> Cow<'static, str> {
    use upstream::Error as E;
    let message = match error {
        E::Parent(fault) => return format!("the parent proxy {fault}").into(),
        E::Dns { .. } | E::NoAddress { .. } => "the upstream's name can't be resolved",
        E::AddressNotAllowed { .. } => "the upstream's address may not be reached through this route",
        E::Connect { .. } => "the upstream can't be reached",
        E::ConnectTimeout { .. } => "connecting to the upstream took too long",
        E::Tls { .. } => "the upstream's TLS can't be trusted",
        E::ResponseTimeout { .. } => "the upstream took too long to answer",
        E::Http2(_) | E::Http1(_) | E::Framing => "the upstream's answer can't be used",
    };
    message.into()
}

fn parent_hint(fault: &ParentFault) -> &'static str {
    match fault {
        ParentFault::Login | ParentFault::Password(_) => {
            "the operator sets `proxy_credentials` of [upstream]; the cause is in the log"
        }
        ParentFault::Status(_) | ParentFault::Reply(_) => "the parent proxy may not allow this host, or can't reach it",
        ParentFault::Unreachable(_) | ParentFault::Broken(_) | ParentFault::Protocol => {
            "try again later; the operator checks `proxy` of [upstream]"
        }
    }
}

impl Verdict {
    fn new(status: u16, code: &'static str, proxy_status: &'static str) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            proxy_status,
            hint: Hint::fixed(""),
            route: None,
            retry_after: None,
            ends: Ends::Nothing,
        }
    }

    fn hint(self, text: &'static str) -> Self {
        Self { hint: Hint::fixed(text), ..self }
    }

    fn closing(self) -> Self {
        Self { ends: Ends::Framing, ..self }
    }
}

// === conversions ===

impl From<policy::Refusal> for Error {
    fn from(refusal: policy::Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<StepUp> for Error {
    fn from(wanted: StepUp) -> Self {
        Self::StepUp(Box::new(wanted))
    }
}

impl StepUp {
    /// The command, with what the upstream asked for as far as a shell takes it as it is.
    fn hint(&self) -> Hint {
        let plain = |text: &&String| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:/".contains(&byte));
        let mut command = format!("the operator runs `cupbearer login {}", self.credential);
        for (name, value) in [("acr_values", &self.acr_values), ("max_age", &self.max_age)] {
            if let Some(value) = value.as_ref().filter(plain) {
                command.push_str(&format!(" --param {name}={value}"));
            }
        }
        command.push('`');
        Hint::new(command)
    }
}

impl From<NoRoute> for Error {
    fn from(_: NoRoute) -> Self {
        Self::NoRoute
    }
}

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        Self::BadRequest(error.into())
    }
}

impl From<PathError> for Error {
    fn from(error: PathError) -> Self {
        Self::BadRequest(error.into())
    }
}

impl Noted for Error {
    fn note(&self, record: &mut Record) {
        match self {
            Self::AgentUnknown(unknown) => unknown.note(record),
            Self::Refused(refusal) => refusal.note(record),
            Self::NoRoute => NoRoute.note(record),
            Self::AuthorizationServer(_) => {
                record.decision.allowed = Some(false);
                record.decision.reason = "authorization_server".into();
            }
            Self::UpgradeNotAllowed(_) => {
                record.decision.allowed = Some(false);
                record.decision.reason = "upgrade_not_allowed".into();
            }
            Self::Token(error) => error.note(record),
            Self::TooMany(what) => what.note(record),
            Self::Proof(_) | Self::StepUp(_) => {}
            Self::Upstream(error) => error.note(record),
            Self::BadRequest(_)
            | Self::TargetMismatch
            | Self::UnaskedUpgrade
            | Self::NotUpgraded
            | Self::UnaskedCoding
            | Self::Unrecorded
            | Self::Loop => {}
        }
        record.outcome.error = Some(self.verdict().code);
    }
}
