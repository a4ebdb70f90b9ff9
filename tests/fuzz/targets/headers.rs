//! Fields at the border, a line of the data each: nothing of the agent's connection and none of
//! its keys leaves, there is exactly one `Authorization`, ours, and `Via` names us last; what an
//! upstream sends loses its connection's fields, too.

#![no_main]

#[path = "../../../benches/common/mod.rs"]
mod common;

use std::sync::OnceLock;

use cupbearer::{
    credential::{Broker, Lease, Recipient},
    policy::Permit,
    proxy::{
        Via,
        headers::{inject, rewrite_request, rewrite_response},
        marks::Marks,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "proxy-authorization",
    "proxy-authenticate",
    "http2-settings",
    "x-forwarded-for",
    "x_forwarded_for",
    "forwarded",
];
const KEYS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];

struct World {
    _runtime: tokio::runtime::Runtime,
    _broker: Broker,
    permit: Permit<'static>,
    lease: Lease,
    via: Via,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let (runtime, broker, permit) = common::warm();
        let lease = runtime.block_on(broker.lease(&permit, Default::default())).expect("a token");
        World { _runtime: runtime, _broker: broker, permit, lease, via: Via::new(7) }
    })
}

fn fields(data: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

/// What `Connection` names.
fn options(fields: &HeaderMap) -> Vec<HeaderName> {
    let values = fields.get_all("connection").iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    values.filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok()).collect()
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [choice, data @ ..] = data else { return };
    let World { permit, lease, via, .. } = world();
    let version = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][usize::from(choice % 3)];
    let mut request = fields(data);
    let named = options(&request);
    let marks = Marks::of(&request);
    if rewrite_request((&mut request, marks), permit, via, version, choice & 0x80 != 0).is_ok() {
        let (scheme, authority, path) = (permit.scheme(), permit.authority(), "/v1/messages");
        let to = Recipient { method: &Method::POST, scheme, authority, path, htu_base: None };
        inject(&mut request, lease, &to).expect("a token that goes in");
        let ours: Vec<_> = request.get_all("authorization").iter().collect();
        assert_eq!(ours, [lease.field().expect("a token").1]);
        for name in HOP_BY_HOP.iter().chain(&KEYS) {
            assert!(!request.contains_key(*name), "{name} leaves");
        }
        assert!(request.get_all("te").iter().all(|value| value == "trailers"));
        for name in named.iter().filter(|name| !["te", "via", "accept-encoding"].contains(&name.as_str())) {
            assert!(!request.contains_key(name), "{name} was named by `Connection`");
        }
        let last = request.get_all("via").iter().next_back().expect("us");
        assert!(last.as_bytes().ends_with(b"cupbearer-0000000000000007"));
        let marks = Marks::of(&request);
        let again = rewrite_request((&mut request, marks), permit, via, version, false);
        assert!(again.is_err(), "it would have come back");
    }
    let mut response = fields(data);
    rewrite_response(&mut response, via, version);
    for name in ["connection", "keep-alive", "transfer-encoding", "upgrade", "alt-svc", "x-cupbearer-error"] {
        assert!(!response.contains_key(name), "{name} reaches the agent");
    }
});
