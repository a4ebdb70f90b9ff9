//! May they? Pure: no I/O, no clock. The only room that can make a [`Permit`]:
//! what needs one cannot run before the decision.

pub mod decide;
mod refusal;
#[cfg(test)]
mod tests;

use crate::{
    identity::Agent,
    observe::{Noted, Record},
    primitives::Authority,
    route::{CredentialBinding, Route, Scheme},
};

pub use decide::{decide, decide_tunnel};
pub use refusal::{Refusal, RefusalReason};

/// The right to send one request (or open one tunnel) to one authority, as one agent,
/// under one route. Agent and route are lent by the rules that decided.
#[derive(Clone, Debug)]
pub struct Permit<'r> {
    agent: &'r Agent,
    route: &'r Route,
    scheme: Scheme,
    authority: Authority,
}

// === impl Permit ===

impl<'r> Permit<'r> {
    pub fn agent(&self) -> &'r Agent {
        self.agent
    }

    pub fn route(&self) -> &'r Route {
        self.route
    }

    /// The credential whose token goes along; `None`: forwarded with none.
    pub fn credential(&self) -> Option<&'r CredentialBinding> {
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
impl<'r> Permit<'r> {
    /// A permit that nobody decided on, for the tests of the rooms that need one.
    pub(crate) fn for_test(agent: &'r Agent, route: &'r Route, scheme: Scheme, authority: Authority) -> Self {
        Self { agent, route, scheme, authority }
    }
}

impl Noted for Permit<'_> {
    fn note(&self, record: &mut Record) {
        record.decision.allowed = Some(true);
        record.decision.route.set(&self.route.name);
        record.decision.reason = "allowed".into();
    }
}
