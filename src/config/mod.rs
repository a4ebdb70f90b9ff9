//! `proxy.toml` to settings. The only room that knows TOML. Every problem is
//! reported, each with its line and what to write instead.
//!
//! ```text
//! text -> toml (syntax) -> document (which keys, of what kind) -> raw/* (one section each)
//!      -> resolve/* (one section against another) -> Settings, or Problems
//! ```
//!
//! It refuses to know secrets: only where each one is.

mod document;
pub mod env;
mod hosts;
mod json;
mod mask;
mod preset;
mod problem;
mod raw;
mod resolve;
#[cfg(test)]
mod tests;
mod units;

use std::{collections::BTreeMap, ffi::OsString, path::Path, path::PathBuf, sync::Arc};

use toml::de::DeTable;

use crate::{
    admin, credential, identity, observe,
    primitives::{AgentName, CredentialName},
    proxy, route, server, upstream,
};

use document::{Document, Section};

pub use problem::{Problem, Problems};

/// A config that was found good, in the terms of the rooms.
#[derive(Debug)]
pub struct Settings {
    /// The file, for messages and reloads.
    pub file: PathBuf,
    /// `[state] directory`, with `~` expanded.
    pub state: PathBuf,
    pub store: StoreSettings,
    /// `[state] lock_memory`: nothing of the process may reach the swap area.
    pub lock_memory: bool,
    /// `[state] name_constraints`: our CA vouches for the hosts of the routes only.
    pub name_constraints: bool,
    pub server: server::Settings,
    pub proxy: proxy::Settings,
    pub upstream: upstream::Settings,
    /// Each as the file has it, in its order, then those that differ by a route's scopes.
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
    /// What is allowed but probably not meant.
    pub warnings: Problems,
}

impl Settings {
    /// Each name once, in the order of the file.
    pub fn credential_names(&self) -> Vec<&CredentialName> {
        let mut names: Vec<&CredentialName> = Vec::new();
        for spec in &self.credentials {
            if !names.contains(&&spec.name) {
                names.push(&spec.name);
            }
        }
        names
    }
}

/// Where tokens and logins are kept between two starts.
#[derive(Clone, Debug, Default)]
pub struct StoreSettings {
    pub kind: StoreKind,
    /// What it is encrypted with; `None`: a key file in the state directory, made on the
    /// first start.
    pub key: Option<credential::Source>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// In the state directory.
    #[default]
    Embedded,
    /// Nowhere: gone with the process.
    Memory,
}

/// What `run` and `env` need of the config.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// `env = { GH_TOKEN = "placeholder" }` of the routes, with who may use each.
    pub placeholders: BTreeMap<String, String>,
    /// Variables that hold our own secrets: removed from the child (standards 4.2).
    pub secret_variables: Vec<String>,
    /// Whether a secret is in the keyring, which any program on its bus may ask.
    pub keyring: bool,
    /// The agents there are, for `run`'s default.
    pub agents: Vec<AgentName>,
}

/// Reads and checks a config file, in the process's environment.
///
/// # Errors
/// Everything that is wrong with it; the operator is at fault.
pub fn load(path: &Path) -> Result<Settings, Problems> {
    let whole_file = |message: String, help: &str| {
        Problems::new(path, String::new(), vec![Problem::whole_file(message, help.to_owned())])
    };
    let bytes = std::fs::read(path).map_err(|error| {
        whole_file(format!("can't read {}: {error}", path.display()), "name another file with --config")
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, path, &|name| std::env::var_os(name)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let problem =
                Problem::new(&text, at..at + 1, "the file isn't UTF-8 text".to_owned(), "save it as UTF-8".to_owned());
            Err(Problems::new(path, problem::masked(&text, &[]), vec![problem]))
        }
    }
}

/// Checks the text of a config file. `file` gives messages their name and relative paths
/// their start; files that the config names are looked at.
///
/// # Errors
/// Everything that is wrong with it; the operator is at fault.
pub fn parse(text: &str, file: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Settings, Problems> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let doc = Document::new(text, directory, env);
    let (table, errors) = DeTable::parse_recoverable(text);
    let syntax: Vec<Problem> = errors.iter().map(|error| syntax_problem(text, error)).collect();
    let raw = raw::read(Section::root(&doc, table.get_ref()));
    if let Some(problem) = syntax.first() {
        // Only keeps `resolve` from settings nobody will use; the real ones are added below.
        doc.problem(&problem.span, String::new(), String::new());
    }
    let settings = resolve::settings(&doc, raw, file);
    let (mut problems, warnings, secrets) = doc.into_findings();
    let masked = problem::masked(text, &secrets);
    if !syntax.is_empty() {
        // What was made of a broken line says nothing that its syntax error doesn't.
        problems.retain(|problem| !syntax.iter().any(|broken| broken.line == problem.line));
        problems.extend(syntax);
    }
    match settings {
        Some(mut settings) if problems.is_empty() => {
            settings.warnings = Problems::new(file, masked, warnings);
            Ok(settings)
        }
        Some(_) | None => Err(Problems::new(file, masked, problems)),
    }
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or(text.len()..text.len());
    let (message, help) = match error.message() {
        "duplicate key" => ("this name stands twice in the same table", "keep one of them"),
        message => (message, "strings stand in quotes, lists in [ ], tables under [NAME] or in { }"),
    };
    Problem::new(text, span, format!("not TOML: {message}"), help.to_owned())
}
