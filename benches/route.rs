//! From a target to the decision: what every request pays with 1,000 routes, beside what it
//! pays with 10. The ratio of the two is what counts: it should stay near one.

#![expect(clippy::expect_used, reason = "a benchmark that can't be set up should stop")]

use std::{hint::black_box, sync::Arc, time::Duration};

use cupbearer::{
    identity::{Agent, AgentSettings, Registry},
    policy::decide,
    primitives::{AgentName, Authority, CanonicalPath, RouteName},
    route::{AgentSet, Effect, HostPattern, PathPattern, Route, Scheme, Table, Target, Upstream},
};
use http::Method;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};

fn main() {
    divan::main();
}

/// How many routes there are; half of them name a host, half what is below one.
const ROUTES: [usize; 2] = [10, 1000];

/// A host that a route names.
#[divan::bench(args = ROUTES)]
fn hit(bencher: divan::Bencher<'_, '_>, routes: usize) {
    bench(bencher, routes, &format!("host{}.example.com", routes / 4));
}

/// A host below a wildcard, two labels deep.
#[divan::bench(args = ROUTES)]
fn wildcard_hit(bencher: divan::Bencher<'_, '_>, routes: usize) {
    bench(bencher, routes, &format!("a.b.zone{}.example.com", routes / 4));
}

/// A host that no route names.
#[divan::bench(args = ROUTES)]
fn miss(bencher: divan::Bencher<'_, '_>, routes: usize) {
    bench(bencher, routes, "a.b.unknown.example.org");
}

/// 1,000 routes that all name one host, the last of them meant.
#[divan::bench]
fn one_crowded_host(bencher: divan::Bencher<'_, '_>) {
    let table = table((0..1000).map(|n| (n, "api.example.com".to_owned(), format!("/v1/r{n}/**"))));
    let (agent, target) = (agent(), target("api.example.com", "/v1/r999/17"));
    bencher.bench(|| table.find(black_box(&target)).map(|found| decide(agent, &found, &target).is_ok()));
}

fn bench(bencher: divan::Bencher<'_, '_>, routes: usize, host: &str) {
    let half = routes / 2;
    let exact = (0..half).map(|n| (n, format!("host{n}.example.com"), "/v1/**".to_owned()));
    let wild = (0..half).map(|n| (half + n, format!("*.zone{n}.example.com"), "/v1/orders/**".to_owned()));
    let table = table(exact.chain(wild));
    let (agent, target) = (agent(), target(host, "/v1/orders/17"));
    bencher.bench(|| table.find(black_box(&target)).map(|found| decide(agent, &found, &target).is_ok()));
}

fn agent() -> &'static Agent {
    let name = AgentName::parse("researcher").expect("a name");
    let settings = AgentSettings { name: name.clone(), keys: Vec::new(), anonymous: false };
    Box::leak(Box::new(Registry::new(vec![settings]))).named(&name).expect("the agent")
}

fn target(host: &str, path: &str) -> Target {
    Target {
        scheme: Scheme::Https,
        authority: Authority::parse(host, Some(443)).expect("an authority"),
        method: Method::GET,
        path: CanonicalPath::parse(path).expect("a path"),
    }
}

fn table(routes: impl Iterator<Item = (usize, String, String)>) -> Table {
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let response_timeout = Duration::from_secs(1);
    let upstream = Arc::new(Upstream {
        id: 0,
        tls: Arc::new(tls),
        private_addresses: Vec::new(),
        response_timeout,
        direct: false,
    });
    let routes = routes.map(|(n, host, path)| Arc::new(route(n, &host, &path, upstream.clone()))).collect();
    Table::compile(routes).expect("no ties")
}

fn route(n: usize, host: &str, path: &str, upstream: Arc<Upstream>) -> Route {
    Route {
        name: RouteName::parse(&format!("r{n}")).expect("a name"),
        hosts: vec![HostPattern::parse(host).expect("a host")],
        methods: vec![Method::GET],
        paths: vec![PathPattern::parse(path).expect("a path")],
        agents: AgentSet::Any,
        effect: Effect::Allow,
        credential: None,
        upgrade_http: false,
        upgrades: Vec::new(),
        danger_allow_plaintext: false,
        upstream,
    }
}
