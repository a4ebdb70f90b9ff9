//! May they? Pure: no I/O, no clock. The only room that can make a [`Permit`]:
//! what needs one cannot run before the decision.

pub mod decide;

use std::sync::Arc;

use crate::{
    identity::Agent,
    observe::{Noted, Record},
    primitives::{Authority, Hint, RouteName},
    route::{CredentialBinding, Route, Scheme},
};

pub use decide::{decide, decide_tunnel};

/// The right to send one request (or open one tunnel) to one authority, as one agent,
/// under one route.
#[derive(Clone, Debug)]
pub struct Permit {
    agent: Agent,
    route: Arc<Route>,
    scheme: Scheme,
    authority: Authority,
}

impl Permit {
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The credential whose token goes along; `None`: forwarded with none.
    pub fn credential(&self) -> Option<&CredentialBinding> {
        self.route.credential.as_ref()
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

#[cfg(test)]
impl Permit {
    /// A permit that nobody decided on, for the tests of the rooms that need one.
    pub(crate) fn for_test(agent: Agent, route: Arc<Route>, scheme: Scheme, authority: Authority) -> Self {
        Self { agent, route, scheme, authority }
    }
}

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

impl RefusalReason {
    /// A stable word for records and metrics.
    pub fn code(self) -> &'static str {
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

    /// What the agent reads.
    pub fn text(self) -> &'static str {
        match self {
            Self::HostNotAllowed => "no route names this host",
            Self::MethodNotAllowed => "no route allows this method here",
            Self::PathNotAllowed => "no route allows this path",
            Self::AgentNotAllowed => "no route on this host is for this agent",
            Self::DeniedByRoute => "a route denies this request",
            Self::CredentialHost => "the route's credential may not be sent to this host",
            Self::PlaintextNotAllowed => "a token is never sent over clear-text HTTP",
            Self::AmbiguousPath => "the path can be read in more than one way",
        }
    }
}

impl Noted for Permit {
    fn note(&self, record: &mut Record) {
        record.decision.allowed = Some(true);
        record.decision.route = Some(self.route.name.clone());
        record.decision.reason = "allowed".into();
    }
}

impl Noted for Refusal {
    fn note(&self, record: &mut Record) {
        record.decision.allowed = Some(false);
        record.decision.route.clone_from(&self.route);
        record.decision.reason = self.reason.code().into();
    }
}
