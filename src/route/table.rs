//! The compiled table: host first (one hash look-up), then the few rules of that
//! host in order of specificity.

use std::sync::Arc;

use crate::primitives::{Authority, RouteName};

use super::{Route, Target};

/// All routes, compiled.
#[derive(Clone, Debug, Default)]
pub struct Table {}

/// Two routes that allow the same request with equal specificity: a config error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tie {
    pub first: RouteName,
    pub second: RouteName,
    /// What both match, for the message: `GET orders.example.com/v1/**`.
    pub example: String,
}

/// The rules that name a target's host, most specific first.
#[derive(Clone, Debug)]
pub struct Candidates<'table> {
    pub(crate) routes: &'table [Arc<Route>],
}

/// No route names the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoute;

impl Table {
    /// Compiles; reports every tie, not just the first.
    pub fn compile(_routes: Vec<Arc<Route>>) -> Result<Self, Vec<Tie>> {
        todo!()
    }

    /// The rules whose host (and port) match the target's.
    pub fn find(&self, _target: &Target) -> Result<Candidates<'_>, NoRoute> {
        todo!()
    }

    /// For `CONNECT`, where only the authority is known: the rules that name it,
    /// under either scheme.
    pub fn find_authority(&self, _authority: &Authority) -> Result<Candidates<'_>, NoRoute> {
        todo!()
    }

    pub fn routes(&self) -> &[Arc<Route>] {
        todo!()
    }
}
