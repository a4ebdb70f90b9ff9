//! Who asks? Judges the evidence a request shows; knows no connections.

pub mod proxy_auth;

use std::{collections::HashMap, sync::Arc};

use crate::primitives::AgentName;

/// An agent as the config names it.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    pub name: AgentName,
    /// SHA-256 of each key that is accepted; two while a key is being rotated.
    pub keys: Vec<[u8; 32]>,
    /// `[agents.anonymous]`: whoever shows no evidence at all.
    pub anonymous: bool,
}

/// An agent whose evidence was found good. Only [`Registry`] makes one.
#[derive(Clone, Debug)]
pub struct Agent {
    name: AgentName,
}

impl Agent {
    pub fn name(&self) -> &AgentName {
        &self.name
    }
}

#[cfg(test)]
impl Agent {
    /// An agent that showed nothing, for the tests of the rooms that need one.
    pub(crate) fn for_test(name: AgentName) -> Self {
        Self { name }
    }
}

/// All known agents; immutable, swapped whole on reload.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    agents: HashMap<AgentName, Arc<AgentSettings>>,
}

/// What a request shows of who sends it.
#[derive(Clone, Copy, Debug)]
pub enum Evidence<'a> {
    /// `Proxy-Authorization` of a forward request or a `CONNECT`.
    Proxy(&'a http::HeaderMap),
    /// Reverse mode: `Proxy-Authorization`, else `Authorization`, `x-api-key`, `api-key`.
    Reverse(&'a http::HeaderMap),
    /// Inside a tunnel: who opened it, looked up again for every request.
    Tunnel(&'a TunnelIdentity),
}

/// Who opened a tunnel: enough to ask the current registry again (threats 5, 106).
#[derive(Clone, Debug)]
pub struct TunnelIdentity {
    name: AgentName,
    /// The digest that was matched at `CONNECT`; `None` for the anonymous agent.
    key: Option<[u8; 32]>,
}

/// Why nobody was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("no agent key was sent")]
    Missing,
    #[error("the agent key isn't known")]
    Mismatch,
    #[error("the agent key can't be read")]
    Malformed,
    #[error("more than one agent key was sent")]
    Ambiguous,
}

impl Registry {
    pub fn new(_agents: Vec<AgentSettings>) -> Self {
        todo!()
    }

    pub fn identify(&self, _evidence: Evidence<'_>) -> Result<Agent, Unknown> {
        todo!()
    }

    /// What a tunnel opened with this evidence has to remember.
    pub fn identify_tunnel(&self, _evidence: Evidence<'_>) -> Result<(Agent, TunnelIdentity), Unknown> {
        todo!()
    }

    pub fn names(&self) -> impl Iterator<Item = &AgentName> {
        self.agents.keys()
    }

    /// The agent by name, for `explain` and `run`, which need no evidence.
    pub fn named(&self, _name: &AgentName) -> Option<Agent> {
        todo!()
    }
}
