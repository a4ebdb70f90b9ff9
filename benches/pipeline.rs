//! The whole pipeline in memory: an agent, the proxy with everything on (identity, routes,
//! policy, a token, the record with its audit log, metrics), an upstream, all on one thread
//! over `tokio::io::duplex`. No system call and no network is in it, so that what is left
//! is ours and hyper's.
//!
//! Times mean nothing without the baselines of the same run:
//!
//! | | |
//! | --- | --- |
//! | `direct` | a hyper client and a hyper server, nothing between |
//! | `relay` | a bare hyper relay between them: any proxy that speaks h1 pays this |
//! | `absolute_form`, `reverse` | cupbearer between them; its own price is the difference to `relay` |
//! | `direct_tls` | as `direct`, under TLS |
//! | `intercepted` | cupbearer between them, TLS on both sides |

#![expect(clippy::unwrap_used, reason = "a benchmark that can't be set up has nothing to measure")]
#![allow(clippy::panic, reason = "the tests' stage")]

#[path = "../tests/it/memory.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod memory;

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use cupbearer::primitives::{Clock, SystemClock};
use divan::Bencher;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

use memory::{Agent, CLEAR, MemoryStage, Origin, SECURE, Way};

/// Counts allocations, too: they don't depend on what else the machine is doing.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler<mimalloc::MiMalloc> = divan::AllocProfiler::new(mimalloc::MiMalloc);

const PATH: &str = "/v1/orders?limit=2";

fn main() {
    divan::main();
}

#[divan::bench]
fn direct(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let agent = runtime.block_on(async { memory::h1(origin().open(false)).await });
    bench(bencher, &runtime, agent, || direct_request(CLEAR));
}

#[divan::bench]
fn direct_tls(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let agent = runtime.block_on(async {
        let origin = origin();
        memory::h1(memory::secure(origin.open(true), origin.authority().root_der().clone()).await).await
    });
    bench(bencher, &runtime, agent, || direct_request(SECURE));
}

#[divan::bench]
fn relay(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let agent = runtime.block_on(async {
        let (near, far) = memory::duplex();
        let upstream = hyper::client::conn::http1::handshake(TokioIo::new(origin().open(false))).await;
        let (sender, connection) = upstream.unwrap();
        tokio::spawn(connection);
        let idle = Arc::new(Mutex::new(Some(sender)));
        let service = service_fn(move |request| pass_on(Arc::clone(&idle), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(far), service));
        memory::h1(near).await
    });
    bench(bencher, &runtime, agent, || direct_request(CLEAR));
}

async fn pass_on(
    idle: Arc<Mutex<Option<SendRequest<Incoming>>>>,
    request: Request<Incoming>,
) -> hyper::Result<Response<Incoming>> {
    let mut sender = idle.lock().unwrap().take().unwrap();
    sender.ready().await?;
    let response = sender.send_request(request).await;
    *idle.lock().unwrap() = Some(sender);
    response
}

#[divan::bench]
fn absolute_form(bencher: Bencher<'_, '_>) {
    through_the_proxy(bencher, Way::AbsoluteForm);
}

#[divan::bench]
fn reverse(bencher: Bencher<'_, '_>) {
    through_the_proxy(bencher, Way::Reverse);
}

#[divan::bench]
fn intercepted(bencher: Bencher<'_, '_>) {
    through_the_proxy(bencher, Way::Intercepted);
}

fn through_the_proxy(bencher: Bencher<'_, '_>, way: Way) {
    let runtime = runtime();
    let stage = runtime.block_on(MemoryStage::start());
    let agent = runtime.block_on(stage.connect(way));
    bench(bencher, &runtime, agent, || stage.request(way, PATH));
    // What was measured must be what was meant.
    let records = stage.records();
    assert!(records.iter().all(|record| record["status"] == 200 && record["credential"] == "orders"));
    assert!(!records.is_empty());
}

fn bench(bencher: Bencher<'_, '_>, runtime: &Runtime, agent: Agent, request: impl Fn() -> Request<Full<Bytes>>) {
    let agent = RefCell::new(agent);
    bencher.with_inputs(request).bench_local_values(|request| {
        let mut agent = agent.borrow_mut();
        runtime.block_on(exchange(&mut agent, request));
    });
}

/// One request, and its answer to the end.
async fn exchange(agent: &mut Agent, request: Request<Full<Bytes>>) {
    agent.ready().await.unwrap();
    let response = agent.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn origin() -> Origin {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Origin::new(&clock)
}

/// What arrives at the upstream when the proxy is between.
fn direct_request(host: &'static str) -> Request<Full<Bytes>> {
    let mut request = memory::sdk_request(PATH);
    let token = HeaderValue::from_static("Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl");
    request.headers_mut().insert(header::AUTHORIZATION, token);
    request.headers_mut().insert(header::HOST, HeaderValue::from_static(host));
    request
}
