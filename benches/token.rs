//! What a request pays for its token while one is at hand.

#![expect(clippy::expect_used, reason = "a benchmark that can't be set up has nothing to measure")]

mod common;

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use common::warm;
use cupbearer::{credential::Broker, policy::Permit};

fn main() {
    divan::main();
}

/// A lease of a fresh token: one load, one comparison of times.
#[divan::bench]
fn cached_lease(bencher: divan::Bencher<'_, '_>) {
    let (_runtime, broker, permit) = warm();
    bencher.bench_local(|| lease(&broker, &permit));
}

/// The same from several threads at once: they share one reference count.
#[divan::bench(threads = [1, 2, 4])]
fn cached_lease_shared(bencher: divan::Bencher<'_, '_>) {
    let (_runtime, broker, permit) = warm();
    bencher.bench(|| lease(&broker, &permit));
}

/// A lease at hand never waits, so one poll is all of it.
fn lease(broker: &Broker, permit: &Permit<'_>) -> bool {
    let lease = pin!(broker.lease(permit, Default::default())).poll(&mut Context::from_waker(Waker::noop()));
    matches!(lease, Poll::Ready(Ok(lease)) if lease.is_some())
}
