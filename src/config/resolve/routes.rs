//! Routes against agents, credentials and authorization servers.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::{
    credential::Location,
    primitives::{AgentName, CanonicalPath},
    route::{AgentSet, CredentialBinding, CredentialId, Effect, Route, Upstream},
    tls::client::upstream_config,
};

use super::{
    super::{
        document::Document,
        hosts::{HostEntry, Overlap},
        problem::{listed, shown},
    },
    dangling, raw,
    roots::Roots,
};

type RawRoute = raw::routes::Route;

/// Those that could be made; the others have their problems reported.
pub(super) fn routes(doc: &Document<'_>, raw: &raw::Config, roots: &Roots) -> Vec<Arc<Route>> {
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
        let credential = credential(doc, raw, route);
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
fn credential(doc: &Document<'_>, raw: &raw::Config, route: &RawRoute) -> Option<Option<CredentialBinding>> {
    let Some(reference) = &route.credential else { return Some(None) };
    let Some(id) = raw.credentials.iter().position(|other| other.text.value == reference.value) else {
        let known: Vec<&str> = raw.credentials.iter().map(|other| other.text.value.as_str()).collect();
        dangling(doc, reference, "credential", "credentials", &known);
        return None;
    };
    let credential = &raw.credentials[id];
    if !credential.hosts.is_empty() {
        for host in &route.hosts {
            second_lock(doc, &reference.value, host, &credential.hosts);
        }
    }
    Some(Some(CredentialBinding {
        name: credential.name.clone()?,
        id: CredentialId(id),
        hosts: credential.hosts.iter().map(|host| host.pattern.clone()).collect(),
        refresh_on: Default::default(),
        htu_base: None,
    }))
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
        let Some(url) = &server.url else { continue };
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
        let endpoint = matches!(server.location, Some(Location::TokenEndpoint(_))) && matches(&url.path);
        if everything || endpoint {
            let message = format!(
                "agents could reach the authorization server `{}` ({})",
                shown(&server.text.value),
                url.authority
            );
            let help = "name what they need there with `paths`, without the token endpoint, or deny that host in a route of its own";
            doc.problem(&span, message, help);
        }
    }
}

/// Whether a route denies whole hosts to everybody.
fn denies_all(route: &RawRoute) -> bool {
    let everybody = route.agents.as_ref().is_none_or(|list| list.iter().any(|agent| agent.value == "*"));
    route.effect == Effect::Deny && route.paths.is_empty() && route.methods.is_empty() && everybody
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
    private_addresses: Vec<IpNet>,
    response_timeout: Duration,
}

impl Upstreams {
    fn of(&mut self, doc: &Document<'_>, roots: &Roots, route: &RawRoute) -> Option<Arc<Upstream>> {
        let mut private_addresses = route.private_addresses.clone();
        private_addresses.sort();
        private_addresses.dedup();
        let key = Key {
            ca: route.upstream_ca.as_ref().map(|ca| ca.value.clone()),
            private_addresses,
            response_timeout: route.response_timeout.unwrap_or(self.fallback),
        };
        if let Some((_, upstream)) = self.known.iter().find(|(known, _)| *known == key) {
            return Some(upstream.clone());
        }
        let store = roots.store(doc, route.upstream_ca.as_ref(), &route.span)?;
        let upstream = Arc::new(Upstream {
            id: u32::try_from(self.known.len()).unwrap_or(u32::MAX),
            tls: upstream_config(store),
            private_addresses: key.private_addresses.clone(),
            response_timeout: key.response_timeout,
        });
        self.known.push((key, upstream.clone()));
        Some(upstream)
    }
}
