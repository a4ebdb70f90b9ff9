//! What the corridor does to the fields of an SDK's request, and of the answer to it.

#![expect(clippy::expect_used, reason = "a benchmark that can't be set up has nothing to measure")]

use std::{sync::Arc, time::Duration};

use cupbearer::{
    identity::{AgentSettings, Registry},
    policy::{self, Permit},
    primitives::{AgentName, Authority, CanonicalPath, CredentialName, RouteName},
    proxy::{
        Via,
        headers::{inject, rewrite_request, rewrite_response},
    },
    route::{
        AgentSet, CredentialBinding, CredentialId, Effect, HostPattern, PathPattern, Route, Scheme, Table, Target,
        Upstream,
    },
};
use divan::Bencher;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};

/// Counts allocations, too.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler<mimalloc::MiMalloc> = divan::AllocProfiler::new(mimalloc::MiMalloc);

fn main() {
    divan::main();
}

const REQUEST: [(&str, &str); 17] = [
    ("host", "api.example.com"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("connection", "keep-alive"),
    ("content-length", "512"),
    ("content-type", "application/json"),
    ("user-agent", "ExampleSDK/Python 2.31.0"),
    ("x-stainless-arch", "x64"),
    ("x-stainless-async", "false"),
    ("x-stainless-lang", "python"),
    ("x-stainless-os", "Linux"),
    ("x-stainless-package-version", "2.31.0"),
    ("x-stainless-read-timeout", "600"),
    ("x-stainless-retry-count", "0"),
    ("x-stainless-runtime", "CPython"),
    ("x-stainless-runtime-version", "3.13.2"),
    ("idempotency-key", "stainless-python-retry-7f6c2f5e"),
];

const RESPONSE: [(&str, &str); 10] = [
    ("date", "Mon, 23 Nov 2026 22:24:05 GMT"),
    ("content-type", "application/json"),
    ("content-length", "1024"),
    ("connection", "keep-alive"),
    ("x-request-id", "req_0123456789abcdef"),
    ("x-ratelimit-limit", "5000"),
    ("x-ratelimit-remaining", "4999"),
    ("strict-transport-security", "max-age=31536000"),
    ("alt-svc", "h3=\":443\"; ma=86400"),
    ("server", "example"),
];

/// In through the forward proxy.
#[divan::bench]
fn request(bencher: Bencher<'_, '_>) {
    let fields = with(&REQUEST, "proxy-authorization", "Basic cmVzZWFyY2hlcjpjdXBfMDEyMzQ1Njc4OWFiY2RlZg==");
    bench_request(bencher, &fields, false);
}

/// In through a base URL, where the agent's key stands in `Authorization`.
#[divan::bench]
fn reverse_request(bencher: Bencher<'_, '_>) {
    let fields = with(&REQUEST, "authorization", "Bearer cup_0123456789abcdef0123456789abcdef0123456789a");
    bench_request(bencher, &fields, true);
}

/// What only the copy costs that each round of the others starts from.
#[divan::bench]
fn baseline_copy(bencher: Bencher<'_, '_>) {
    let fields = with(&REQUEST, "authorization", "Bearer cup_0123456789abcdef0123456789abcdef0123456789a");
    bencher.bench_local(|| divan::black_box(&fields).clone());
}

#[divan::bench]
fn response(bencher: Bencher<'_, '_>) {
    let (fields, via) = (map(&RESPONSE), Via::new(7));
    bencher.with_inputs(|| fields.clone()).bench_local_refs(|fields| {
        rewrite_response(fields, &via, Version::HTTP_11);
    });
}

fn bench_request(bencher: Bencher<'_, '_>, fields: &HeaderMap, reverse: bool) {
    let (permit, via) = (permit(), Via::new(7));
    let mut token = HeaderValue::from_static("Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl");
    token.set_sensitive(true);
    bencher.with_inputs(|| fields.clone()).bench_local_refs(|fields| {
        let rewritten = rewrite_request(fields, &permit, &via, Version::HTTP_11, reverse);
        inject(fields, Some(&token));
        rewritten.is_ok()
    });
}

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    fields.iter().map(field).collect()
}

fn with(fields: &[(&'static str, &'static str)], name: &'static str, value: &'static str) -> HeaderMap {
    let mut fields = map(fields);
    fields.insert(name, HeaderValue::from_static(value));
    fields
}

/// For a route that names methods, paths and a credential: everything is looked at.
fn permit() -> Permit {
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let response_timeout = Duration::from_secs(1);
    let upstream = Upstream { id: 0, tls: Arc::new(tls), private_addresses: Vec::new(), response_timeout };
    let hosts = vec![HostPattern::parse("api.example.com").expect("a host")];
    let credential = CredentialName::parse("api").expect("a name");
    let route = Route {
        name: RouteName::parse("api").expect("a name"),
        hosts: hosts.clone(),
        methods: vec![http::Method::POST],
        paths: vec![PathPattern::parse("/v1/**").expect("a path")],
        agents: AgentSet::Any,
        effect: Effect::Allow,
        credential: Some(CredentialBinding { name: credential, id: CredentialId(0), hosts }),
        upgrade_http: false,
        danger_allow_plaintext: false,
        upstream: Arc::new(upstream),
    };
    let target = Target {
        scheme: Scheme::Https,
        authority: Authority::parse("api.example.com:443", None).expect("an authority"),
        method: http::Method::POST,
        path: CanonicalPath::parse("/v1/messages").expect("a path"),
    };
    let name = AgentName::parse("researcher").expect("a name");
    let settings = AgentSettings { name: name.clone(), keys: Vec::new(), anonymous: false };
    let agent = Registry::new(vec![settings]).named(&name).expect("the agent");
    let table = Table::compile(vec![Arc::new(route)]).expect("no ties");
    policy::decide(&agent, &table.find(&target).expect("a route"), &target).expect("a permit")
}
