//! `[[routes]]`.

use std::{path::PathBuf, time::Duration};

use http::Method;
use ipnet::IpNet;

use crate::{
    credential::client_auth::IdentityFiles,
    primitives::RouteName,
    route::{Effect, PathPattern, RefreshOn, Scheme},
};

use super::{
    super::{
        document::{At, Document, Section},
        hosts::{HostEntry, host_entries},
        problem::{Span, shown},
    },
    credentials::{client_auth::identity, scopes},
    named,
    source::is_variable,
    url::url,
};

pub(in crate::config) struct Route {
    pub(in crate::config) span: Span,
    pub(in crate::config) name: Option<At<RouteName>>,
    pub(in crate::config) hosts: Vec<HostEntry>,
    pub(in crate::config) methods: Vec<Method>,
    pub(in crate::config) paths: Vec<PathPattern>,
    /// `None`: any (deny routes), or a problem.
    pub(in crate::config) agents: Option<Vec<At<String>>>,
    pub(in crate::config) credential: Option<At<String>>,
    /// Instead of the credential's own.
    pub(in crate::config) scopes: Option<At<Vec<At<String>>>>,
    /// What an upstream may make the credential ask for besides.
    pub(in crate::config) max_scopes: Option<At<Vec<At<String>>>>,
    pub(in crate::config) refresh_on: Option<RefreshOn>,
    pub(in crate::config) htu_base: Option<At<String>>,
    pub(in crate::config) scrub: bool,
    pub(in crate::config) effect: Effect,
    pub(in crate::config) upgrade_http: bool,
    /// Past the parent proxy.
    pub(in crate::config) direct: Option<At<bool>>,
    pub(in crate::config) upgrades: Vec<String>,
    pub(in crate::config) upstream_ca: Option<At<PathBuf>>,
    /// What the upstream is shown of us.
    pub(in crate::config) upstream_certificate: Option<At<IdentityFiles>>,
    pub(in crate::config) private_addresses: Vec<IpNet>,
    pub(in crate::config) danger_allow_plaintext: Option<At<bool>>,
    pub(in crate::config) response_timeout: Option<Duration>,
    pub(in crate::config) env: Vec<(At<String>, At<String>)>,
    /// Whether a value was faulty: then the route isn't compared with others.
    pub(in crate::config) complete: bool,
}

pub(in crate::config) fn route(mut section: Section<'_>) -> Route {
    let doc = section.doc;
    let before = doc.problem_count();
    section.need("name", "name = \"orders-read\"");
    let name = section.string("name", "name = \"orders-read\"");
    if let Some(text) = &name {
        section.rename(format!("the route `{}`", shown(&text.value)));
    }
    let name =
        name.and_then(|text| named(&section, &text, RouteName::parse).map(|value| At { value, span: text.span }));
    let effect = section.choice("effect", &[("allow", Effect::Allow), ("deny", Effect::Deny)], &[]);
    let effect = effect.unwrap_or(Effect::Allow);
    section.need("hosts", "hosts = [\"api.example.com\"]");
    let hosts = section.strings(
        "hosts",
        "hosts = [\"api.example.com\"]",
        "an empty list names no host: the route would allow nobody anything",
    );
    let hosts = hosts.map_or(Vec::new(), |list| host_entries(doc, list.value));
    let methods = methods(&mut section);
    let paths = paths(&mut section);
    if effect == Effect::Allow {
        section.need("agents", "agents = [\"*\"]` for every agent, or name some: `agents = [\"researcher\"]");
    }
    let agents =
        section.strings("agents", "agents = [\"*\"]", "an empty list means nobody; every agent is `agents = [\"*\"]`");
    let credential = section.string("credential", "credential = \"orders\"");
    if let Some(credential) = credential.as_ref().filter(|_| effect == Effect::Deny) {
        doc.problem(&credential.span, "a route that denies has no use for a credential", "take one of the two out");
    }
    let token = token(&mut section);
    let upgrade_http = section.flag("upgrade_http");
    let direct = section.boolean("direct");
    let upgrades = upgrades(&mut section);
    let upstream_ca = section.path("upstream_ca", "upstream_ca = \"corp.pem\"");
    let upstream_certificate = upstream_certificate(&mut section);
    let private_addresses = networks(&mut section);
    let danger_allow_plaintext = section.boolean("danger_allow_plaintext");
    let response_timeout = section.duration("response_timeout");
    let env = placeholders(&mut section);
    section.unsupported(&["rate", "approval"]);
    let span = section.span.clone();
    section.finish();
    let complete = doc.problem_count() == before;
    let agents = agents.map(|list| list.value);
    Route {
        span,
        name,
        hosts,
        methods,
        paths,
        agents,
        credential,
        scopes: token.scopes,
        max_scopes: token.max_scopes,
        refresh_on: token.refresh_on,
        htu_base: token.htu_base,
        scrub: token.scrub,
        effect,
        upgrade_http,
        direct,
        upgrades,
        upstream_ca,
        upstream_certificate,
        private_addresses,
        danger_allow_plaintext,
        response_timeout,
        env,
        complete,
    }
}

fn upstream_certificate(section: &mut Section<'_>) -> Option<At<IdentityFiles>> {
    const EXAMPLE: &str = "upstream_certificate = { certificate = \"client.pem\", key = \"client.key\" }";
    let mut table = section.section("upstream_certificate", "upstream_certificate", EXAMPLE)?;
    let span = table.span.clone();
    let files = identity(&mut table, "certificate", "key");
    table.finish();
    files.map(|value| At { value, span })
}

/// What goes with `credential` only.
struct Token {
    scopes: Option<At<Vec<At<String>>>>,
    max_scopes: Option<At<Vec<At<String>>>>,
    refresh_on: Option<RefreshOn>,
    htu_base: Option<At<String>>,
    scrub: bool,
}

fn token(section: &mut Section<'_>) -> Token {
    for key in ["scopes", "max_scopes", "refresh_on", "htu_base", "scrub"] {
        if section.has(key) && !section.has("credential") {
            let message = format!("`{key}` is about a token, and this route has no credential");
            section.doc.problem(&section.place(key), message, "add `credential = \"NAME\"`, or take it out");
        }
    }
    let mut list = |key: &'static str| {
        let value = scopes(section, key);
        section.has(key).then(|| At { value, span: section.place(key) })
    };
    let (scopes, max_scopes) = (list("scopes"), list("max_scopes"));
    let scrub = section.boolean("scrub").is_none_or(|flag| flag.value);
    Token { scopes, max_scopes, refresh_on: refresh_on(section), htu_base: htu_base(section), scrub }
}

/// Which answers say that the token is no longer good.
fn refresh_on(section: &mut Section<'_>) -> Option<RefreshOn> {
    const TABLE: &str = "refresh_on = { status = 401, body = \"INVALID_SESSION_ID\" }";
    let (_, value) = section.entry("refresh_on")?;
    if value.get_ref().is_str() {
        let choices = [("invalid_token", 0), ("any_401", 1), ("never", 2)];
        return section.choice("refresh_on", &choices, &[]).map(|choice| match choice {
            0 => RefreshOn::InvalidToken,
            1 => RefreshOn::Any401,
            _ => RefreshOn::Never,
        });
    }
    if !value.get_ref().is_table() {
        section.wrong_kind(value, "refresh_on", "\"invalid_token\", \"any_401\", \"never\" or a table", TABLE);
        return None;
    }
    let mut table = section.section("refresh_on", "refresh_on", TABLE)?;
    table.need("status", "status = 401");
    let statuses = table.counts("status", 400..=599);
    let body = table.string("body", "body = \"INVALID_SESSION_ID\"").map(|text| text.value);
    table.finish();
    let statuses: Vec<u16> = statuses.into_iter().filter_map(|status| u16::try_from(status).ok()).collect();
    (!statuses.is_empty()).then_some(RefreshOn::Answer { statuses, body })
}

/// What the resource server takes for the start of its URLs (RFC 9449, section 4.3).
fn htu_base(section: &mut Section<'_>) -> Option<At<String>> {
    let text = section.string("htu_base", "htu_base = \"https://api.example.com/v1\"")?;
    let parts = url(section.doc, "htu_base", &text)?;
    if parts.has_query || parts.scheme != Scheme::Https {
        let message = "`htu_base` wants an https URL without a query";
        section.doc.problem(&text.span, message, "write `htu_base = \"https://api.example.com/v1\"`");
        return None;
    }
    Some(text)
}

fn methods(section: &mut Section<'_>) -> Vec<Method> {
    let doc = section.doc;
    let list = section.strings(
        "methods",
        "methods = [\"GET\"]",
        "an empty list names no method; leave `methods` out for every method",
    );
    let mut methods = Vec::new();
    for text in list.map_or(Vec::new(), |list| list.value) {
        let upper = text.value.to_ascii_uppercase();
        let name = shown(&text.value);
        match Method::from_bytes(text.value.as_bytes()) {
            _ if text.value == "*" => {
                doc.problem(&text.span, "`*` is no method", "leave `methods` out for every method");
            }
            Ok(Method::CONNECT | Method::TRACE) => {
                doc.problem(
                    &text.span,
                    format!("`{name}` can't be allowed by a route"),
                    "take it out: CONNECT follows from the host, TRACE is always refused",
                );
            }
            Ok(_) if upper != text.value => {
                doc.problem(
                    &text.span,
                    format!("methods are written in capitals: `{name}` is another method"),
                    format!("write \"{}\"", shown(&upper)),
                );
            }
            Ok(method) => methods.push(method),
            Err(_) => doc.problem(&text.span, format!("`{name}` is no method"), "write methods = [\"GET\", \"HEAD\"]"),
        }
    }
    methods
}

fn paths(section: &mut Section<'_>) -> Vec<PathPattern> {
    let doc = section.doc;
    let list = section.strings(
        "paths",
        "paths = [\"/v1/**\"]",
        "an empty list names no path; leave `paths` out for every path",
    );
    let mut paths = Vec::new();
    for text in list.map_or(Vec::new(), |list| list.value) {
        match PathPattern::parse(&text.value) {
            Ok(path) => paths.push(path),
            Err(error) => {
                let message = format!("`{}` is no path pattern: {error}", shown(&text.value));
                doc.problem(&text.span, message, "write /v1/orders, /v1/*/items or /v1/orders/**");
            }
        }
    }
    paths
}

/// The protocols that an agent may change to. Here an empty list has a meaning: none.
fn upgrades(section: &mut Section<'_>) -> Vec<String> {
    const EXAMPLE: &str = "upgrades = [\"websocket\"]";
    let doc = section.doc;
    match section.entry("upgrades") {
        None => return vec!["websocket".to_owned()],
        Some((_, value)) if value.get_ref().as_array().is_some_and(|list| list.is_empty()) => return Vec::new(),
        Some(_) => {}
    }
    let list = section.strings("upgrades", EXAMPLE, "");
    let mut tokens = Vec::new();
    for text in list.map_or(Vec::new(), |list| list.value) {
        let name = shown(&text.value);
        let protocol = text.value.split('/').next().unwrap_or_default().to_ascii_lowercase();
        if text.value.split('/').count() > 2 || !text.value.split('/').all(is_token) {
            doc.problem(&text.span, format!("`{name}` is no protocol's name"), format!("write {EXAMPLE}"));
        } else if ["http", "h2c", "tls"].contains(&&*protocol) {
            let message = format!("requests inside `{name}` couldn't be judged");
            doc.problem(&text.span, message, "take it out: agents have other ways to speak HTTP/2 and TLS");
        } else {
            tokens.push(text.value);
        }
    }
    tokens
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let marks = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || marks.contains(&byte))
}

fn networks(section: &mut Section<'_>) -> Vec<IpNet> {
    const KEY: &str = "danger_allow_private_addresses";
    let doc = section.doc;
    let list = section.strings(KEY, "danger_allow_private_addresses = [\"10.0.0.0/8\"]", "leave it out to allow none");
    list.map_or(Vec::new(), |list| list.value).iter().filter_map(|text| network(doc, text)).collect()
}

fn network(doc: &Document<'_>, text: &At<String>) -> Option<IpNet> {
    if let Ok(address) = text.value.parse::<std::net::IpAddr>() {
        return Some(IpNet::from(address));
    }
    let Ok(network) = text.value.parse::<IpNet>() else {
        let message = format!("`{}` is neither an address nor a network", shown(&text.value));
        doc.problem(&text.span, message, "write \"127.0.0.1\" or \"10.0.0.0/8\"");
        return None;
    };
    if network.trunc() != network {
        let message = format!("`{network}` has bits beyond its prefix");
        doc.problem(&text.span, message, format!("write \"{}\"", network.trunc()));
        return None;
    }
    Some(network)
}

fn placeholders(section: &mut Section<'_>) -> Vec<(At<String>, At<String>)> {
    let doc = section.doc;
    let mut found = section.string_table("env", "env = { GH_TOKEN = \"placeholder\" }");
    found.retain(|(name, _)| {
        let good = is_variable(&name.value);
        if !good {
            let message = format!("`{}` is no name of an environment variable", shown(&name.value));
            doc.problem(&name.span, message, "letters, digits and `_`");
        }
        good
    });
    for (name, value) in &found {
        if value.value.contains('\0') {
            doc.problem(&name.span, "a variable's value can't hold a NUL", "write \"placeholder\"");
        }
    }
    found
}
