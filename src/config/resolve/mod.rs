//! One section against another: references, locks, ties, doubled addresses. What comes out
//! is in the terms of the rooms.

mod assertions;
mod credentials;
mod lint;
mod listeners;
mod references;
mod roots;
mod routes;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{admin, credential::Source, identity::AgentSettings, observe, route::Table, server};

use super::{
    Launch, Problems, Settings,
    document::{At, Document},
    problem::{closest, listed, shown},
    raw,
};

/// `None` where something is missing that a problem was reported for.
pub(super) fn settings(doc: &Document<'_>, raw: raw::Config, file: &Path) -> Option<Settings> {
    let state = state(doc, &raw);
    let agents = agents(doc, &raw);
    let listeners = listeners::listeners(doc, &raw);
    let roots = roots::Roots::default();
    let mut specs = credentials::specs(doc, &raw, &roots);
    references::check(doc, &raw);
    assertions::check(doc, &raw);
    let routes = routes::routes(doc, &raw, &roots, &mut specs);
    let launch = launch(doc, &raw, &specs);
    let table = compile(doc, &raw, &routes);
    lint::warn(doc, &raw);
    if doc.has_problems() {
        return None;
    }
    let state = state?;
    let audit_log = raw.audit.file.clone().unwrap_or_else(|| state.join("audit.jsonl"));
    let mut tokens = raw.limits.tokens.clone();
    tokens.resolve = raw.resolve.clone();
    tokens.parent = raw.parent.clone();
    let proxy = raw.proxy.as_ref();
    Some(Settings {
        file: file.to_owned(),
        state,
        server: server::Settings {
            forward: listeners.forward,
            reverse: listeners.reverse,
            socks: listeners.socks,
            unmatched: proxy.map(|proxy| proxy.unmatched).unwrap_or_default(),
            limits: raw.limits.server.clone(),
            drain: raw.limits.drain,
            workers: proxy.and_then(|proxy| proxy.workers),
        },
        dangers: dangers(&raw),
        lock_memory: raw.state.lock_memory,
        name_constraints: raw.state.name_constraints,
        proxy: raw.limits.proxy,
        upstream: raw.limits.upstream,
        store: raw.state.store,
        credentials: specs.list,
        tokens,
        agents,
        routes,
        table: table?,
        resolve: raw.resolve,
        observe: observe::Settings {
            audit_log: Some(audit_log),
            danger_serve_unrecorded: raw.audit.danger_serve_unrecorded,
        },
        admin: raw.admin.map(|admin| admin::Settings { listen: admin.listen.value }),
        launch,
        warnings: Problems::new(file, String::new(), Vec::new()),
    })
}

fn state(doc: &Document<'_>, raw: &raw::Config) -> Option<PathBuf> {
    if let Some(directory) = &raw.state.directory {
        return Some(directory.clone());
    }
    let set = |name: &str| (doc.env)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let found = set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .map(|parent| parent.join("cupbearer"));
    if found.is_none() && !doc.has_problems() {
        let help = "write [state] with `directory = \"/var/lib/cupbearer\"`";
        doc.problem(&(0..0), "no state directory is named, and HOME isn't set", help);
    }
    found
}

fn agents(doc: &Document<'_>, raw: &raw::Config) -> Vec<AgentSettings> {
    let mut owners: BTreeMap<[u8; 32], &str> = BTreeMap::new();
    let mut agents = Vec::new();
    for agent in &raw.agents {
        for key in &agent.keys {
            if let Some(other) = owners.insert(key.value, &agent.text.value) {
                let message = format!("the agent `{}` has this key too", shown(other));
                let help =
                    format!("one key, one agent: `cupbearer agent new {}` makes another", shown(&agent.text.value));
                doc.problem(&key.span, message, help);
            }
        }
        if let Some(name) = &agent.name {
            let keys = agent.keys.iter().map(|key| key.value).collect();
            agents.push(AgentSettings { name: name.clone(), keys, anonymous: is_anonymous(agent) });
        }
    }
    agents
}

fn is_anonymous(agent: &raw::agents::Agent) -> bool {
    agent.text.value == raw::agents::ANONYMOUS
}

fn compile(doc: &Document<'_>, raw: &raw::Config, routes: &[std::sync::Arc<crate::route::Route>]) -> Option<Table> {
    match Table::compile(routes.to_vec()) {
        Ok(table) => Some(table),
        Err(ties) => {
            for tie in ties {
                let name =
                    raw.routes.iter().filter_map(|route| route.name.as_ref()).find(|name| name.value == tie.second);
                let span = name.map_or(0..0, |name| name.span.clone());
                let message = format!("the routes `{}` and `{}` both allow {}", tie.first, tie.second, tie.example);
                doc.problem(&span, message, "make one more specific (a longer path, named methods), or join them");
            }
            None
        }
    }
}

fn launch(doc: &Document<'_>, raw: &raw::Config, specs: &credentials::Specs) -> Launch {
    let mut placeholders: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in raw.routes.iter().flat_map(|route| &route.env) {
        let before = placeholders.insert(name.value.clone(), value.value.clone());
        if before.is_some_and(|before| before != value.value) {
            let message = format!("another route gives {} another value", name.value);
            doc.problem(&name.span, message, "one variable has one placeholder: write the same value");
        }
    }
    let sources = specs.list.iter().flat_map(|spec| &spec.steps).flat_map(|step| step.sources());
    let parent = raw.parent.iter().filter_map(|parent| parent.login.as_ref()?.source());
    let sources = sources.chain(&raw.state.store.key).chain(parent);
    let sources: Vec<&Source> = sources.collect();
    let keyring = sources.iter().any(|source| matches!(source, Source::Keyring { .. }));
    let variables = sources.iter().filter_map(|source| source.variable().map(str::to_owned));
    let mut secret_variables: Vec<String> = variables.collect();
    secret_variables.sort();
    secret_variables.dedup();
    Launch {
        placeholders,
        secret_variables,
        keyring,
        agents: raw.agents.iter().filter_map(|agent| agent.name.clone()).collect(),
    }
}

fn dangers(raw: &raw::Config) -> Vec<String> {
    let servers = raw.servers.iter().filter(|server| server.danger_allow_http);
    let mut dangers: Vec<String> =
        servers.map(|server| format!("authorization_servers.{}.danger_allow_http", server.text.value)).collect();
    if raw.audit.danger_serve_unrecorded {
        dangers.push("audit.danger_serve_unrecorded".to_owned());
    }
    if raw.state.danger_allow_readable_secrets {
        dangers.push("state.danger_allow_readable_secrets".to_owned());
    }
    for route in &raw.routes {
        let Some(name) = &route.name else { continue };
        if route.danger_allow_plaintext.as_ref().is_some_and(|flag| flag.value) {
            dangers.push(format!("routes.{}.danger_allow_plaintext", name.value));
        }
        if !route.private_addresses.is_empty() {
            dangers.push(format!("routes.{}.danger_allow_private_addresses", name.value));
        }
    }
    dangers
}

/// A name that nothing in the file has.
fn dangling(doc: &Document<'_>, name: &At<String>, role: &str, table: &str, names: &[&str]) {
    let help = match closest(&name.value, names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`? The file has {}", listed(names.iter().copied())),
        None if names.is_empty() => format!("add a table [{table}.{}]", shown(&name.value)),
        None => format!("the file has {}", listed(names.iter().copied())),
    };
    doc.problem(&name.span, format!("there is no {role} `{}`", shown(&name.value)), help);
}
