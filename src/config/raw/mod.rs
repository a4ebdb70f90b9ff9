//! The file section by section: each key read, its value parsed, nothing yet compared with
//! another section. Faulty values are reported and left out, so that what refers to a
//! faulty section is not called dangling.

pub(super) mod agents;
pub(super) mod credentials;
pub(super) mod fields;
pub(super) mod limits;
pub(super) mod listeners;
pub(super) mod routes;
pub(super) mod servers;
pub(super) mod source;
pub(super) mod upstream;
pub(super) mod url;

use std::{net::IpAddr, path::PathBuf};

use crate::{
    credential::ParentProxy,
    primitives::{Host, NameError},
};

use super::{
    StoreKind, StoreSettings,
    document::{At, Section},
    problem::shown,
};

/// The whole file.
pub(super) struct Config {
    pub(super) proxy: Option<listeners::Proxy>,
    pub(super) reverse: Vec<listeners::Reverse>,
    pub(super) socks: Option<listeners::Socks>,
    pub(super) admin: Option<listeners::Admin>,
    pub(super) state: State,
    pub(super) servers: Vec<servers::Server>,
    pub(super) credentials: Vec<credentials::Credential>,
    pub(super) agents: Vec<agents::Agent>,
    pub(super) routes: Vec<routes::Route>,
    pub(super) limits: limits::Limits,
    /// `[upstream]`.
    pub(super) parent: Option<ParentProxy>,
    pub(super) resolve: Vec<(String, IpAddr)>,
    pub(super) audit: Audit,
}

/// `[audit]`.
#[derive(Default)]
pub(super) struct Audit {
    pub(super) file: Option<PathBuf>,
    pub(super) danger_serve_unrecorded: bool,
}

/// `[state]`.
pub(super) struct State {
    pub(super) directory: Option<PathBuf>,
    pub(super) store: StoreSettings,
    pub(super) lock_memory: bool,
    pub(super) name_constraints: bool,
    pub(super) danger_allow_readable_secrets: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            directory: None,
            store: StoreSettings::default(),
            lock_memory: false,
            name_constraints: true,
            danger_allow_readable_secrets: false,
        }
    }
}

pub(super) fn read(mut root: Section<'_>) -> Config {
    let config = Config {
        proxy: root.section("proxy", "proxy", "[proxy]").map(listeners::proxy),
        reverse: root.array("reverse").into_iter().enumerate().map(|(at, each)| listeners::reverse(at, each)).collect(),
        socks: root.section("socks", "socks", "[socks]").map(listeners::socks),
        admin: root.section("admin", "admin", "[admin]").map(listeners::admin),
        state: root.section("state", "state", "[state]").map_or_else(State::default, state),
        servers: root
            .named("authorization_servers", "authorization_servers.NAME")
            .into_iter()
            .map(|(name, section)| servers::server(name, section))
            .collect(),
        credentials: root
            .named("credentials", "credentials.NAME")
            .into_iter()
            .map(|(name, section)| credentials::credential(name, section))
            .collect(),
        agents: root
            .named("agents", "agents.NAME")
            .into_iter()
            .map(|(name, section)| agents::agent(name, section))
            .collect(),
        routes: root.array("routes").into_iter().map(routes::route).collect(),
        limits: limits::limits(root.section("limits", "limits", "[limits]")),
        parent: root.section("upstream", "upstream", "[upstream]").and_then(upstream::upstream),
        resolve: resolve(&mut root),
        audit: root.section("audit", "audit", "[audit]").map(audit).unwrap_or_default(),
    };
    root.finish();
    config
}

fn state(mut section: Section<'_>) -> State {
    let directory = section.path("directory", "directory = \"~/.local/state/cupbearer\"").map(|path| path.value);
    let doc = section.doc;
    let danger_allow_readable_secrets = section.flag("danger_allow_readable_secrets");
    // Before the first file that holds one is looked at.
    doc.readable_secrets.set(danger_allow_readable_secrets);
    let lock_memory = section.flag("lock_memory");
    let name_constraints = section.boolean("name_constraints").is_none_or(|flag| flag.value);
    let kind = match section.entry("store") {
        Some((_, value)) if value.get_ref().is_table() => {
            let help = "write `store = \"embedded\"`, or \"memory\" to keep nothing";
            doc.problem(&value.span(), "a store on a server is not supported by this version", help);
            None
        }
        Some(_) => {
            section.choice("store", &[("embedded", StoreKind::Embedded), ("memory", StoreKind::Memory)], &["postgres"])
        }
        None => None,
    };
    let kind = kind.unwrap_or_default();
    let key = section.has("key").then(|| source::source(&mut section, "key", "CUPBEARER_STORE_KEY")).flatten();
    let _ = section.entry("key");
    if section.has("key") && kind == StoreKind::Memory {
        doc.problem(&section.place("key"), "a store in memory has no use for a `key`", "take one of the two out");
    }
    section.finish();
    State {
        directory,
        store: StoreSettings { kind, key },
        lock_memory,
        name_constraints,
        danger_allow_readable_secrets,
    }
}

fn audit(mut section: Section<'_>) -> Audit {
    let file = section.path("file", "file = \"audit.jsonl\"").map(|file| file.value);
    let danger_serve_unrecorded = section.flag("danger_serve_unrecorded");
    section.finish();
    Audit { file, danger_serve_unrecorded }
}

/// `[resolve]`: names with a fixed address each.
fn resolve(root: &mut Section<'_>) -> Vec<(String, IpAddr)> {
    let doc = root.doc;
    let mut fixed = Vec::new();
    for (name, address) in root.string_table("resolve", "\"api.example.com\" = \"10.0.0.7\"") {
        let host = match Host::parse(&name.value) {
            Ok(Host::Name(host)) => Some(host),
            Ok(Host::Ip(_)) => {
                doc.problem(&name.span, "an IP address needs no `[resolve]`", "write a host name before the `=`");
                None
            }
            Err(error) => {
                doc.problem(&name.span, format!("`{}` is no host name: {error}", shown(&name.value)), HOST_HELP);
                None
            }
        };
        let parsed: Result<IpAddr, _> = address.value.parse();
        match (host, parsed) {
            (Some(host), Ok(address)) => fixed.push((host.to_string(), address)),
            (None, Ok(_)) => {}
            (_, Err(_)) => doc.problem(
                &address.span,
                format!("`{}` is no IP address", shown(&address.value)),
                "write one address, without a port: \"10.0.0.7\"",
            ),
        }
    }
    fixed
}

pub(super) const HOST_HELP: &str = "write the host alone: no scheme, no path; international names in their `xn--` form";

/// A name that the operator chose, in the type of its role.
pub(super) fn named<N>(
    section: &Section<'_>,
    text: &At<String>,
    parse: impl Fn(&str) -> Result<N, NameError>,
) -> Option<N> {
    match parse(&text.value) {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("`{}` can't be a name", shown(&text.value));
            section.doc.problem(&text.span, message, error.to_string());
            None
        }
    }
}
