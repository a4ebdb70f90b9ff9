//! What a request pays for its token while one is at hand.

#![expect(clippy::expect_used, reason = "a benchmark that can't be set up has nothing to measure")]

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use cupbearer::{
    credential::{
        AuthorizationServer, Broker, Location, Settings, Source, Spec,
        client_auth::{Client, ClientAuth},
        grant::{ClientCredentials, Step, client_credentials::BodyFormat},
    },
    identity::{AgentSettings, Registry},
    observe::{self, Recorder},
    policy::{self, Permit},
    primitives::{
        AgentName, Authority, AuthorizationServerName, CanonicalPath, CredentialName, RouteName, SystemClock,
    },
    route::{AgentSet, CredentialBinding, CredentialId, Effect, HostPattern, Route, Scheme, Table, Target, Upstream},
};
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};

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
fn lease(broker: &Broker, permit: &Permit) -> bool {
    let lease = pin!(broker.lease(permit)).poll(&mut Context::from_waker(Waker::noop()));
    matches!(lease, Poll::Ready(Ok(lease)) if lease.header().is_some())
}

fn warm() -> (Runtime, Broker, Permit) {
    let runtime = Runtime::new().expect("a runtime");
    let address = runtime.block_on(serve());
    let settings = Settings {
        exchange_timeout: Duration::from_secs(10),
        lease_timeout: Duration::from_secs(10),
        storm_guard: Duration::from_secs(30),
        resolve: Vec::new(),
    };
    let recorder = Recorder::start(&observe::Settings::default()).expect("a recorder");
    let clock = Arc::new(SystemClock);
    let broker = Broker::new(vec![spec(address)], settings, clock, recorder, runtime.handle().clone());
    let (broker, permit) = (broker.expect("a broker"), permit());
    runtime.block_on(broker.lease(&permit)).expect("a token");
    (runtime, broker, permit)
}

fn spec(address: SocketAddr) -> Spec {
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let server = AuthorizationServer {
        name: AuthorizationServerName::parse("as").expect("a name"),
        location: Location::TokenEndpoint(format!("http://{address}/token")),
        tls,
        danger_allow_http: true,
    };
    let secret = Source::File(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")));
    let grant = ClientCredentials {
        client: Client { id: "client".to_owned(), auth: ClientAuth::SecretPost { secret } },
        audience: None,
        scopes: Vec::new(),
        resource: Vec::new(),
        params: Vec::new(),
        body: BodyFormat::Form,
    };
    Spec {
        name: CredentialName::parse("orders").expect("a name"),
        server: Arc::new(server),
        steps: vec![Step::ClientCredentials(grant)],
        default_ttl: Duration::from_secs(600),
        strict_scopes: false,
    }
}

fn permit() -> Permit {
    let name = AgentName::parse("agent").expect("a name");
    let registry = Registry::new(vec![AgentSettings { name: name.clone(), keys: Vec::new(), anonymous: true }]);
    let agent = registry.named(&name).expect("the agent");
    let hosts = vec![HostPattern::parse("orders.example.com").expect("a host")];
    let credential = CredentialName::parse("orders").expect("a name");
    let upstream = Upstream {
        id: 0,
        tls: Arc::new(spec(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).server.tls.clone()),
        private_addresses: Vec::new(),
        response_timeout: Duration::from_secs(60),
    };
    let route = Route {
        name: RouteName::parse("orders").expect("a name"),
        hosts: hosts.clone(),
        methods: Vec::new(),
        paths: Vec::new(),
        agents: AgentSet::Any,
        effect: Effect::Allow,
        credential: Some(CredentialBinding { name: credential, id: CredentialId(0), hosts }),
        upgrade_http: false,
        danger_allow_plaintext: false,
        upstream: Arc::new(upstream),
    };
    let target = Target {
        scheme: Scheme::Https,
        authority: Authority::parse("orders.example.com:443", None).expect("an authority"),
        method: http::Method::GET,
        path: CanonicalPath::parse("/v1/orders").expect("a path"),
    };
    let table = Table::compile(vec![Arc::new(route)]).expect("a table");
    let candidates = table.find(&target).expect("a route");
    policy::decide(&agent, &candidates, &target).expect("a permit")
}

/// A token endpoint that knows one answer.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let body = r#"{"access_token":"a-token","token_type":"Bearer","expires_in":86400}"#;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 16 * 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            // To the client's end, or what it still sends would reset the connection.
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
        }
    });
    address
}
