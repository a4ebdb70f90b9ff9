//! Routes against agents, credentials and authorization servers.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::{
    credential::client_auth::IdentityFiles,
    primitives::{AgentName, CanonicalPath},
    route::{AgentSet, CredentialBinding, Effect, Route, Upstream},
    tls::{ClientIdentity, client::upstream_config},
};

use super::{
    super::{
        document::{At, Document},
        hosts::{HostEntry, Overlap},
        problem::{chain, listed, shown},
        raw::credentials::{Credential, Kind, Step},
    },
    credentials::Specs,
    dangling, raw,
    roots::Roots,
};

type RawRoute = raw::routes::Route;

/// Those that could be made; the others have their problems reported.
pub(super) fn routes(doc: &Document<'_>, raw: &raw::Config, roots: &Roots, specs: &mut Specs) -> Vec<Arc<Route>> {
    let mut names = BTreeSet::new();
    let mut upstreams = Upstreams { known: Vec::new(), fallback: raw.limits.response_timeout };
    let mut routes = Vec::new();
    for route in &raw.routes {
        let taken = route.name.as_ref().filter(|name| !names.insert(name.value.clone()));
        if let Some(name) = taken {
            let message = format!("another route is named `{}` too", name.value);
            doc.problem(&name.span, message, "records and metrics tell routes apart by name: choose another");
        }
        let agents = agents(doc, raw, route);
        let credential = credential(doc, raw, route, specs);
        authorization_servers(doc, raw, route);
        let upstream = upstreams.of(doc, roots, route);
        if !route.complete || taken.is_some() {
            continue;
        }
        if let (Some(name), Some(agents), Some(credential), Some(upstream)) =
            (&route.name, agents, credential, upstream)
        {
            routes.push(Arc::new(Route {
                name: name.value.clone(),
                hosts: route.hosts.iter().map(|host| host.pattern.clone()).collect(),
                methods: route.methods.clone(),
                paths: route.paths.clone(),
                agents,
                effect: route.effect,
                credential,
                upgrade_http: route.upgrade_http,
                upgrades: route.upgrades.clone(),
                danger_allow_plaintext: route.danger_allow_plaintext.as_ref().is_some_and(|flag| flag.value),
                upstream,
            }));
        }
    }
    routes
}

fn agents(doc: &Document<'_>, raw: &raw::Config, route: &RawRoute) -> Option<AgentSet> {
    let Some(list) = &route.agents else {
        return (route.effect == Effect::Deny).then_some(AgentSet::Any);
    };
    if let Some(star) = list.iter().find(|agent| agent.value == "*") {
        if list.len() > 1 {
            doc.problem(
                &star.span,
                "`*` already means every agent",
                "write `agents = [\"*\"]`, or name agents without it",
            );
            return None;
        }
        return Some(AgentSet::Any);
    }
    let known: Vec<&str> = raw.agents.iter().map(|agent| agent.text.value.as_str()).collect();
    let mut found: Option<Vec<AgentName>> = Some(Vec::new());
    for agent in list {
        match raw.agents.iter().find(|other| other.text.value == agent.value) {
            Some(other) => match (&other.name, &mut found) {
                (Some(name), Some(found)) => found.push(name.clone()),
                (_, found) => *found = None,
            },
            None => {
                dangling(doc, agent, "agent", "agents", &known);
                found = None;
            }
        }
    }
    found.map(AgentSet::Named)
}

/// `None`: a problem; `Some(None)`: the route has no credential.
#[expect(clippy::option_option, reason = "absent and faulty are two things here")]
fn credential(
    doc: &Document<'_>,
    raw: &raw::Config,
    route: &RawRoute,
    specs: &mut Specs,
) -> Option<Option<CredentialBinding>> {
    let Some(reference) = &route.credential else { return Some(None) };
    let Some(credential) = raw.credentials.iter().find(|other| other.text.value == reference.value) else {
        let known: Vec<&str> = raw.credentials.iter().map(|other| other.text.value.as_str()).collect();
        dangling(doc, reference, "credential", "credentials", &known);
        return None;
    };
    if !credential.hosts.is_empty() {
        for host in &route.hosts {
            second_lock(doc, &reference.value, host, &credential.hosts);
        }
    }
    check_scopes(doc, route, credential);
    check_certificate(doc, route, credential);
    let values = |list: &At<Vec<At<String>>>| list.value.iter().map(|scope| scope.value.clone()).collect();
    let scopes: Option<Vec<String>> = route.scopes.as_ref().map(values);
    let max_scopes: Vec<String> = route.max_scopes.as_ref().map(values).unwrap_or_default();
    let refresh_on = route.refresh_on.clone().unwrap_or_else(|| credential.preset.refresh_on.rule());
    Some(Some(CredentialBinding {
        name: credential.name.clone()?,
        id: specs.id(&reference.value, scopes.as_deref(), &max_scopes)?,
        hosts: credential.hosts.iter().map(|host| host.pattern.clone()).collect(),
        refresh_on,
        scrub: route.scrub,
        htu_base: route.htu_base.as_ref().map(|base| base.value.clone()),
    }))
}

/// Scopes of a route, against what the credential's last step makes of scopes.
fn check_scopes(doc: &Document<'_>, route: &RawRoute, credential: &Credential) {
    let Some(last) = credential.steps.last() else { return };
    let Some(kind) = last.kind else { return };
    for (key, list) in [("scopes", &route.scopes), ("max_scopes", &route.max_scopes)] {
        let Some(list) = list.as_ref() else { continue };
        if !kind.is_scoped() {
            let name = shown(&credential.text.value);
            let message = format!("the token of `{name}` doesn't depend on scopes: its grant is \"{}\"", kind.as_str());
            doc.problem(&list.span, message, format!("take `{key}` out"));
        }
    }
    if let Some(scopes) = &route.scopes {
        raw::credentials::check_scopes(doc, &scopes.value, kind, credential.preset, &scopes.span);
        check_login(doc, &scopes.value, last, credential);
    }
}

/// RFC 6749, section 6: a refresh asks for no more than the login did.
fn check_login(doc: &Document<'_>, scopes: &[At<String>], last: &Step, credential: &Credential) {
    let own = &last.ask.scopes;
    if !matches!(last.kind, Some(Kind::AuthorizationCode | Kind::DeviceCode)) || own.is_empty() {
        return;
    }
    for scope in scopes.iter().filter(|scope| !own.contains(&scope.value)) {
        let name = shown(&credential.text.value);
        let message = format!("the login of `{name}` doesn't ask for the scope `{}`", shown(&scope.value));
        let help = format!("add it to `scopes` of [credentials.{name}], and run `cupbearer login {name}` again");
        doc.problem(&scope.span, message, help);
    }
}

fn second_lock(doc: &Document<'_>, credential: &str, host: &HostEntry, lock: &[HostEntry]) {
    let credential = shown(credential);
    let best = lock.iter().map(|other| host.covered_by(other)).max().unwrap_or(Overlap::Nothing);
    let allowed = listed(lock.iter().map(|other| other.text.as_str()));
    match best {
        Overlap::All => {}
        Overlap::Some => {
            let message =
                format!("the credential `{credential}` is for {allowed} only, and `{}` reaches further", host.text);
            doc.warning(&host.span, message, "requests to the other hosts will be refused");
        }
        Overlap::Nothing => {
            let message = format!("the credential `{credential}` may not be sent to `{}`", host.text);
            let help = format!("its `hosts` are {allowed}: add the host there if its tokens are meant for it");
            doc.problem(&host.span, message, help);
        }
    }
}

/// An agent must not talk to a token endpoint (threat 37).
fn authorization_servers(doc: &Document<'_>, raw: &raw::Config, route: &RawRoute) {
    if route.effect == Effect::Deny {
        return;
    }
    for server in &raw.servers {
        for (url, is_endpoint) in &server.urls {
            let names = |route: &RawRoute| {
                route
                    .hosts
                    .iter()
                    .find(|host| host.pattern.matches(&url.authority, Some(url.scheme)))
                    .map(|host| host.span.clone())
            };
            let Some(span) = names(route) else { continue };
            if raw.routes.iter().any(|other| denies_all(other) && names(other).is_some()) {
                continue;
            }
            let matches = |path: &str| {
                CanonicalPath::parse(path).is_ok_and(|path| route.paths.iter().any(|pattern| pattern.matches(&path)))
            };
            let everything = route.paths.is_empty() || matches("/any/path/at/all");
            if everything || (*is_endpoint && matches(&url.path)) {
                let name = shown(&server.text.value);
                let message = format!("agents could reach the authorization server `{name}` ({})", url.authority);
                let help = "name what they need there with `paths`, without the token endpoint, or deny that host in a route of its own";
                doc.problem(&span, message, help);
                break;
            }
        }
    }
}

/// Whether a route denies whole hosts to everybody.
fn denies_all(route: &RawRoute) -> bool {
    let everybody = route.agents.as_ref().is_none_or(|list| list.iter().any(|agent| agent.value == "*"));
    route.effect == Effect::Deny && route.paths.is_empty() && route.methods.is_empty() && everybody
}

/// Read now, and again at each reload: connections made before keep what they have shown.
fn identity(doc: &Document<'_>, files: &At<IdentityFiles>) -> Option<ClientIdentity> {
    match ClientIdentity::load(&files.value.certificate, &files.value.key) {
        Ok(identity) => Some(identity),
        Err(error) => {
            let help = "name a PEM file with the certificate and one with its key, which others can't read";
            doc.problem(&files.span, chain(&error), help);
            None
        }
    }
}

/// One connection shows one certificate.
fn check_certificate(doc: &Document<'_>, route: &RawRoute, credential: &Credential) {
    let client = credential.steps.last().and_then(|step| step.client.as_ref());
    let bound = client.is_some_and(|client| client.auth.binds_tokens());
    if let Some(files) = route.upstream_certificate.as_ref().filter(|_| bound) {
        let name = shown(&credential.text.value);
        let message = format!("the tokens of `{name}` hold with its own certificate only, which the upstream is shown");
        doc.problem(&files.span, message, "take `upstream_certificate` out");
    }
}

/// Routes that reach their upstreams the same way share the settings, and so the pool.
struct Upstreams {
    known: Vec<(Key, Arc<Upstream>)>,
    /// `[limits] response_timeout`.
    fallback: Duration,
}

#[derive(PartialEq)]
struct Key {
    ca: Option<PathBuf>,
    identity: Option<IdentityFiles>,
    private_addresses: Vec<IpNet>,
    response_timeout: Duration,
    direct: bool,
}

impl Upstreams {
    fn of(&mut self, doc: &Document<'_>, roots: &Roots, route: &RawRoute) -> Option<Arc<Upstream>> {
        let mut private_addresses = route.private_addresses.clone();
        private_addresses.sort();
        private_addresses.dedup();
        let key = Key {
            ca: route.upstream_ca.as_ref().map(|ca| ca.value.clone()),
            identity: route.upstream_certificate.as_ref().map(|files| files.value.clone()),
            private_addresses,
            response_timeout: route.response_timeout.unwrap_or(self.fallback),
            direct: route.direct.as_ref().is_some_and(|flag| flag.value),
        };
        if let Some((_, upstream)) = self.known.iter().find(|(known, _)| *known == key) {
            return Some(upstream.clone());
        }
        let store = roots.store(doc, route.upstream_ca.as_ref(), &route.span)?;
        let tls = upstream_config(store);
        let tls = match &route.upstream_certificate {
            Some(files) => Arc::new(identity(doc, files)?.shown_by(&tls)),
            None => tls,
        };
        let upstream = Arc::new(Upstream {
            id: u32::try_from(self.known.len()).unwrap_or(u32::MAX),
            tls,
            private_addresses: key.private_addresses.clone(),
            response_timeout: key.response_timeout,
            direct: key.direct,
        });
        self.known.push((key, upstream.clone()));
        Some(upstream)
    }
}
