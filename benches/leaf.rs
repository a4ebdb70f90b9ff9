//! What the first and every later connection to an intercepted host costs.

#![expect(clippy::expect_used, reason = "a bench that can't be set up has to stop")]

use std::sync::Arc;

use cupbearer::{
    primitives::{Clock, Host, SystemClock},
    tls::{CertificateAuthority, LeafCache},
};
use divan::Bencher;

fn main() {
    divan::main();
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::ephemeral(&clock()).expect("a new authority")
}

fn host(text: &str) -> Host {
    Host::parse(text).expect("a plain host")
}

/// One leaf: a serial, a TBS, a P-256 signature.
#[divan::bench]
fn mint(bencher: Bencher) {
    let (authority, host) = (authority(), host("api.example.com"));
    bencher.bench(|| authority.issue(divan::black_box(&host)));
}

/// Settings of a host that has been seen, by several threads at once.
#[divan::bench(threads = [1, 2, 4])]
fn cache_hit(bencher: Bencher) {
    let cache = LeafCache::new(Arc::new(authority()), clock(), 1024).expect("a cache");
    let host = host("api.example.com");
    cache.server_config(&host).expect("a leaf");
    bencher.bench(|| cache.server_config(divan::black_box(&host)));
}

/// Settings of a host that has not been seen, in a cache that is full.
#[divan::bench]
fn cache_miss(bencher: Bencher) {
    let cache = LeafCache::new(Arc::new(authority()), clock(), 64).expect("a cache");
    let mut next = 0_u32;
    bencher
        .with_inputs(|| {
            next += 1;
            host(&format!("h{next}.example.com"))
        })
        .bench_local_refs(|host| cache.server_config(host));
}
