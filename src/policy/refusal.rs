//! Why not, in words for the agent and for the record. A reason is fixed text; only a
//! hint may hold what was asked for, quoted so that it can be pasted into a shell.

use std::borrow::Cow;

use crate::{
    identity::Agent,
    observe::{Noted, Record},
    primitives::{AgentName, Authority, Hint, RouteName},
    route::{Route, Scheme, Target},
};

/// Why not. Carries what the agent may read.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// The route that came nearest or that denied, where one did.
    pub route: Option<RouteName>,
    pub hint: Hint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// No route names the host.
    HostNotAllowed,
    MethodNotAllowed,
    PathNotAllowed,
    /// Routes match, but none for this agent.
    AgentNotAllowed,
    /// A route with `effect = "deny"`.
    DeniedByRoute,
    /// The credential's own `hosts` don't name this one: the second lock.
    CredentialHost,
    /// A token would go over clear-text HTTP.
    PlaintextNotAllowed,
    /// The path could be read in two ways and a rule looks at paths.
    AmbiguousPath,
}

/// Longer than this, what was asked for isn't repeated in a hint.
const LONGEST_URL: usize = 300;

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(reason: RefusalReason, route: Option<&Route>, agent: &Agent, target: &Target) -> Self {
        let hint = match (reason, route.and_then(|route| route.credential.as_ref())) {
            (RefusalReason::CredentialHost, Some(credential)) => {
                let host = target.authority.host();
                let name = &credential.name;
                Hint::new(format!("add \"{host}\" to `hosts` of [credentials.{name}] if its token may go there"))
            }
            (RefusalReason::PlaintextNotAllowed, _) => {
                Hint::fixed("use https://, or set `upgrade_http = true` on the route")
            }
            (RefusalReason::AmbiguousPath, _) => Hint::fixed(
                "send the path without dot segments, empty segments, `;`, backslashes, or encoded forms of those and of `/` and `%`",
            ),
            _ => {
                let url = url(target.scheme, &target.authority, target.path.as_str());
                explain(target.method.as_str(), &url, agent.name())
            }
        };
        Self { reason, route: route.map(|route| route.name.clone()), hint }
    }

    pub(super) fn of_tunnel(
        reason: RefusalReason,
        route: Option<RouteName>,
        agent: &Agent,
        authority: &Authority,
    ) -> Self {
        let scheme = if authority.port() == Scheme::Http.default_port() { Scheme::Http } else { Scheme::Https };
        Self { reason, route, hint: explain("GET", &url(scheme, authority, "/"), agent.name()) }
    }

    /// Where no route names the host, so that there is nothing to decide.
    pub fn no_route(agent: &Agent, authority: &Authority) -> Self {
        Self::of_tunnel(RefusalReason::HostNotAllowed, None, agent, authority)
    }
}

impl Noted for Refusal {
    fn note(&self, record: &mut Record) {
        record.decision.allowed = Some(false);
        record.decision.route.set_or_clear(self.route.as_ref());
        record.decision.reason = self.reason.word().into();
    }
}

fn url(scheme: Scheme, authority: &Authority, path: &str) -> String {
    let name = scheme.as_str();
    if authority.port() == scheme.default_port() {
        format!("{name}://{}{path}", authority.host())
    } else {
        format!("{name}://{authority}{path}")
    }
}

/// The command that shows what would happen, and why.
fn explain(method: &str, url: &str, agent: &AgentName) -> Hint {
    if method.len() + url.len() > LONGEST_URL {
        return Hint::new(format!("cupbearer explain METHOD URL --agent {agent}"));
    }
    Hint::new(format!("cupbearer explain {} {} --agent {agent}", quoted(method), quoted(url)))
}

/// As one word of a POSIX shell. An agent chose the text and a person may paste it.
fn quoted(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:%@+,=".contains(&byte);
    if text.bytes().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")).into() }
}

// === impl RefusalReason ===

impl RefusalReason {
    /// The stable code that an agent reads; several reasons may share one.
    pub fn code(self) -> &'static str {
        match self {
            Self::HostNotAllowed | Self::CredentialHost => "host_not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed | Self::AmbiguousPath => "path_not_allowed",
            Self::AgentNotAllowed => "agent_not_allowed",
            Self::DeniedByRoute => "denied_by_route",
            Self::PlaintextNotAllowed => "plaintext_not_allowed",
        }
    }

    /// For the record and the metrics: one word for each reason.
    pub fn word(self) -> &'static str {
        match self {
            Self::HostNotAllowed => "host_not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed => "path_not_allowed",
            Self::AgentNotAllowed => "agent_not_allowed",
            Self::DeniedByRoute => "denied_by_route",
            Self::CredentialHost => "credential_host",
            Self::PlaintextNotAllowed => "plaintext_not_allowed",
            Self::AmbiguousPath => "ambiguous_path",
        }
    }

    /// For the answer's `detail`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::HostNotAllowed => "no route names the host",
            Self::MethodNotAllowed => "the routes for this path don't allow the method",
            Self::PathNotAllowed => "no route for this agent allows the path",
            Self::AgentNotAllowed => "no route allows this agent on the host",
            Self::DeniedByRoute => "a route denies the request",
            Self::CredentialHost => "the route's credential may not go to the host",
            Self::PlaintextNotAllowed => "the route doesn't allow clear-text http",
            Self::AmbiguousPath => "the path could be read in more than one way",
        }
    }
}
