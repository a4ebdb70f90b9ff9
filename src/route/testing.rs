//! Routes and targets in few words, for tests here and in the rooms above.

use std::{sync::Arc, time::Duration};

use http::Method;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};

use crate::primitives::{AgentName, Authority, CanonicalPath, CredentialName, RouteName};

use super::{
    AgentSet, CredentialBinding, CredentialId, Effect, HostPattern, PathPattern, RefreshOn, Route, Scheme, Table,
    Target, Upstream,
};

/// Trusts nobody and reaches nothing.
pub(crate) fn upstream() -> Arc<Upstream> {
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let response_timeout = Duration::from_secs(1);
    Arc::new(Upstream { id: 0, tls: Arc::new(tls), private_addresses: Vec::new(), response_timeout, direct: false })
}

pub(crate) fn hosts(patterns: &[&str]) -> Vec<HostPattern> {
    patterns.iter().map(|text| HostPattern::parse(text).unwrap()).collect()
}

pub(crate) fn agents(names: &[&str]) -> AgentSet {
    AgentSet::Named(names.iter().map(|name| AgentName::parse(name).unwrap()).collect())
}

/// Allows any agent and any request on these hosts, with no credential.
pub(crate) fn route(name: &str, patterns: &[&str]) -> Route {
    thread_local!(static UPSTREAM: Arc<Upstream> = upstream());
    Route {
        name: RouteName::parse(name).unwrap(),
        hosts: hosts(patterns),
        methods: Vec::new(),
        paths: Vec::new(),
        agents: AgentSet::Any,
        effect: Effect::Allow,
        credential: None,
        upgrade_http: false,
        upgrades: vec!["websocket".to_owned()],
        danger_allow_plaintext: false,
        upstream: UPSTREAM.with(Arc::clone),
    }
}

impl Route {
    pub(crate) fn methods(mut self, methods: &[&str]) -> Self {
        self.methods = methods.iter().map(|method| Method::from_bytes(method.as_bytes()).unwrap()).collect();
        self
    }

    pub(crate) fn paths(mut self, paths: &[&str]) -> Self {
        self.paths = paths.iter().map(|path| PathPattern::parse(path).unwrap()).collect();
        self
    }

    pub(crate) fn agents(mut self, names: &[&str]) -> Self {
        self.agents = agents(names);
        self
    }

    pub(crate) fn deny(mut self) -> Self {
        self.effect = Effect::Deny;
        self
    }

    pub(crate) fn upgrade(mut self) -> Self {
        self.upgrade_http = true;
        self
    }

    /// With a credential whose own hosts are these.
    pub(crate) fn credential(mut self, name: &str, locked_to: &[&str]) -> Self {
        let name = CredentialName::parse(name).unwrap();
        self.credential = Some(CredentialBinding {
            name,
            id: CredentialId(0),
            hosts: hosts(locked_to),
            refresh_on: RefreshOn::default(),
            scrub: true,
            htu_base: None,
        });
        self
    }

    pub(crate) fn plaintext(mut self) -> Self {
        self.danger_allow_plaintext = true;
        self
    }
}

/// Panics on a tie.
pub(crate) fn table(routes: impl IntoIterator<Item = Route>) -> Table {
    Table::compile(routes.into_iter().map(Arc::new).collect()).unwrap()
}

pub(crate) fn authority(text: &str) -> Authority {
    Authority::parse(text, None).unwrap()
}

/// `target("GET", "https://host[:port]/path")`.
pub(crate) fn target(method: &str, url: &str) -> Target {
    let (scheme, rest) = url.split_once("://").unwrap();
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let slash = rest.find('/').unwrap();
    Target {
        scheme,
        authority: Authority::parse(&rest[..slash], Some(scheme.default_port())).unwrap(),
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        path: CanonicalPath::parse(&rest[slash..]).unwrap(),
    }
}
