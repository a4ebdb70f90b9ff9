//! The one decision function for all entrances (threat 72).

use crate::{
    identity::Agent,
    primitives::Authority,
    route::{Candidates, Target},
};

use super::{Permit, Refusal};

/// Deny beats allow; among those that allow, the most specific wins.
pub fn decide(_agent: &Agent, _candidates: &Candidates<'_>, _target: &Target) -> Result<Permit, Refusal> {
    todo!()
}

/// May this agent open a tunnel to intercept? Whether any route could allow it a
/// request there; every request inside is decided on its own.
pub fn decide_tunnel(_agent: &Agent, _candidates: &Candidates<'_>, _authority: &Authority) -> Result<(), Refusal> {
    todo!()
}
