//! What connections are kept by. In an order and not hashed: agents choose authorities, and no
//! choice of theirs makes a search longer than the number of keys does.

use std::sync::Arc;

use crate::{
    primitives::{AgentName, Authority},
    route::Scheme,
    upstream::Destination,
};

/// A key as a request has it. What tells most keys apart stands first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted<'a> {
    /// Where the settings lie, not their number: after a reload the same number may mean
    /// other roots and other allowed addresses. The slot keeps them where they are.
    upstream: usize,
    scheme: Scheme,
    h1_only: bool,
    /// The number of the identity that its connections show; 0: none.
    identity: u64,
    authority: &'a Authority,
    agent: &'a AgentName,
}

/// As [`Wanted`], which is compared with it: a search moves no count.
pub(super) struct Key {
    upstream: usize,
    pub(super) scheme: Scheme,
    pub(super) h1_only: bool,
    identity: u64,
    pub(super) authority: Authority,
    agent: AgentName,
}

// === impl Wanted ===

impl<'a> Wanted<'a> {
    pub(super) fn by(to: &Destination<'a>) -> Self {
        let permit = to.permit;
        Self {
            agent: permit.agent().name(),
            upstream: Arc::as_ptr(&permit.route().upstream) as usize,
            scheme: permit.scheme(),
            authority: permit.authority(),
            h1_only: to.h1_only,
            identity: to.identity.map_or(0, |identity| identity.id()),
        }
    }
}

// === impl Key ===

impl Key {
    pub(super) fn of(Wanted { upstream, scheme, h1_only, identity, authority, agent }: Wanted<'_>) -> Self {
        Self { upstream, scheme, h1_only, identity, authority: authority.clone(), agent: agent.clone() }
    }

    pub(super) fn wanted(&self) -> Wanted<'_> {
        let Self { upstream, scheme, h1_only, identity, ref authority, ref agent } = *self;
        Wanted { upstream, scheme, h1_only, identity, authority, agent }
    }
}
