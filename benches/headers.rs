//! What the corridor does to the fields of an SDK's request, and of the answer to it.

#![expect(clippy::expect_used, reason = "a benchmark that can't be set up has nothing to measure")]

mod common;

use common::warm;
use cupbearer::{
    credential::Recipient,
    proxy::{
        Via,
        headers::{inject, rewrite_request, rewrite_response},
        marks::Marks,
    },
};
use divan::Bencher;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

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
    let (runtime, broker, permit) = warm();
    let lease = runtime.block_on(broker.lease(&permit, Default::default())).expect("a token");
    let (scheme, authority, path) = (permit.scheme(), permit.authority(), "/v1/messages");
    let to = Recipient { method: &Method::POST, scheme, authority, path, htu_base: None };
    let via = Via::new(7);
    bencher.with_inputs(|| fields.clone()).bench_local_refs(|fields| {
        let marks = Marks::of(fields);
        let rewritten = rewrite_request((fields, marks), &permit, &via, Version::HTTP_11, reverse);
        rewritten.is_ok() && inject(fields, &lease, &to).is_ok()
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
