//! `proxy.toml` to settings. The only room that knows TOML. Every problem is
//! reported, each with its line and what to write instead.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use crate::{admin, credential, identity, observe, primitives::AgentName, proxy, route, server, upstream};

/// A config that was found good, in the terms of the rooms.
#[derive(Debug)]
pub struct Settings {
    /// The file, for messages and reloads.
    pub file: PathBuf,
    /// `[state] directory`, with `~` expanded.
    pub state: PathBuf,
    pub server: server::Settings,
    pub proxy: proxy::Settings,
    pub upstream: upstream::Settings,
    pub credentials: Vec<credential::Spec>,
    pub tokens: credential::Settings,
    pub agents: Vec<identity::AgentSettings>,
    pub routes: Vec<Arc<route::Route>>,
    /// Compiled from `routes`.
    pub table: route::Table,
    /// `[resolve]`.
    pub resolve: Vec<(String, std::net::IpAddr)>,
    pub observe: observe::Settings,
    /// `None` without an `[admin]` table.
    pub admin: Option<admin::Settings>,
    pub launch: Launch,
    /// Every `danger_…` switch that is on, as `routes.orders-read.danger_allow_plaintext`.
    pub dangers: Vec<String>,
    /// What is allowed but probably not meant, rendered like problems.
    pub warnings: Vec<String>,
}

/// What `run` and `env` need of the config.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// `env = { GH_TOKEN = "placeholder" }` of the routes, with who may use each.
    pub placeholders: BTreeMap<String, String>,
    /// Variables that hold our own secrets: removed from the child (standards 4.2).
    pub secret_variables: Vec<String>,
    /// The agents there are, for `run`'s default.
    pub agents: Vec<AgentName>,
}
