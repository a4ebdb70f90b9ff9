//! Every way in by every protocol to every kind of upstream, with every kind of exchange:
//! nothing here is particular to one combination, so that none can be forgotten.

mod origin;
mod socket;

use std::{sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    ext::Protocol,
    upgrade,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use crate::{
    agents::{data, empty, fed, full, text},
    h2_doors::secure,
    scripted::{Body, Io, Wire, status},
    socks,
    support::{API, Facts, Stage},
    wire::basic,
};

use origin::{CASE, LONG, Origin, TOKENS, VERSION};

/// Combinations that run at once.
const AT_ONCE: usize = 6;
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    AbsoluteForm,
    Tunnel,
    /// The same tunnel, asked for by SOCKS.
    Socks,
    Reverse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    H1,
    H2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    Http,
    HttpsH1,
    HttpsH2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    Small,
    LongUp,
    LongDown,
    /// Each event is seen before the next one is sent.
    Events,
    WebSocket,
    /// Messages by turns, and trailers at the end.
    Bidi,
}

const DOORS: [Door; 4] = [Door::AbsoluteForm, Door::Tunnel, Door::Socks, Door::Reverse];
const SPEAKS: [Speaks; 2] = [Speaks::H1, Speaks::H2];
const UPSTREAMS: [Upstream; 3] = [Upstream::Http, Upstream::HttpsH1, Upstream::HttpsH2];
const EXCHANGES: [Exchange; 6] =
    [Exchange::Small, Exchange::LongUp, Exchange::LongDown, Exchange::Events, Exchange::WebSocket, Exchange::Bidi];

#[derive(Clone, Copy, Debug)]
struct Case {
    door: Door,
    speaks: Speaks,
    upstream: Upstream,
    exchange: Exchange,
}

impl Upstream {
    /// HTTP/1.1 is offered beside h2, as by any server: a WebSocket needs it.
    fn alpn(self) -> &'static [&'static str] {
        match self {
            Self::Http | Self::HttpsH1 => &["http/1.1"],
            Self::HttpsH2 => &["h2", "http/1.1"],
        }
    }

    /// The token goes over clear text to this machine only.
    fn host(self) -> &'static str {
        if self == Self::Http { "localhost" } else { API }
    }
}

impl Case {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for door in DOORS {
            for speaks in SPEAKS {
                for upstream in UPSTREAMS {
                    for exchange in EXCHANGES {
                        all.push(Self { door, speaks, upstream, exchange });
                    }
                }
            }
        }
        all.retain(Self::makes_sense);
        all
    }

    /// gRPC is h2 from end to end.
    fn makes_sense(&self) -> bool {
        self.exchange != Exchange::Bidi || (self.speaks == Speaks::H2 && self.upstream == Upstream::HttpsH2)
    }

    /// Over which protocol the upstream has to see it.
    fn version(&self) -> &'static str {
        let over_h2 = self.upstream == Upstream::HttpsH2 && self.exchange != Exchange::WebSocket;
        if over_h2 { "HTTP/2.0" } else { "HTTP/1.1" }
    }

    fn name(&self) -> String {
        format!("{self:?}")
    }
}

/// The stage, and an upstream of each kind.
struct World {
    stage: Stage,
    origins: Vec<Origin>,
}

impl World {
    async fn start() -> Self {
        let mut origins = Vec::new();
        for kind in UPSTREAMS {
            origins.push(Origin::start(kind).await);
        }
        let stage = Stage::with(Default::default(), |facts| config(facts, &origins)).await;
        Self { stage, origins }
    }

    fn origin(&self, case: Case) -> &Origin {
        &self.origins[case.upstream as usize]
    }
}

fn config(facts: &Facts, origins: &[Origin]) -> String {
    let hosts: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.authority)).collect();
    let own = format!("hosts = [\"{API}:{}\"]\n\n[agents", facts.api_port);
    let base = facts.config();
    assert!(base.contains(&own));
    let mut config =
        base.replace(&own, &format!("hosts = [\"{API}:{}\", {}]\n\n[agents", facts.api_port, hosts.join(", ")));
    // One listener for each upstream, after the stage's own; and the name of this machine.
    for (origin, kind) in origins.iter().zip(UPSTREAMS) {
        let Origin { authority, ca, .. } = origin;
        let (scheme, by_kind) = if kind == Upstream::Http {
            ("http", "danger_allow_plaintext = true".to_owned())
        } else {
            ("https", format!("upgrade_http = true\nupstream_ca = \"{ca}\""))
        };
        config.push_str(&format!(
            "\n[[routes]]\nname = \"{kind:?}\"\nhosts = [\"{authority}\"]\nagents = [\"researcher\"]\n\
             credential = \"orders\"\ndanger_allow_private_addresses = [\"127.0.0.0/8\"]\n{by_kind}\n\
             \n[[reverse]]\nname = \"to-{kind:?}\"\nlisten = \"127.0.0.1:0\"\nupstream = \"{scheme}://{authority}\"\n"
        ));
    }
    config.push_str("\n[socks]\nlisten = \"127.0.0.1:0\"\n");
    config.replace("[resolve]\n", "[resolve]\n\"localhost\" = \"127.0.0.1\"\n")
}

// === The agent ===

enum Sender {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

struct Agent<'a> {
    world: &'a World,
    case: Case,
    sender: Sender,
    _driver: JoinSet<()>,
}

impl<'a> Agent<'a> {
    async fn connect(world: &'a World, case: Case) -> Self {
        let io = TokioIo::new(stream(world, case).await);
        let mut driver = JoinSet::new();
        let sender = match case.speaks {
            Speaks::H1 => {
                let (sender, connection) = http1::handshake(io).await.unwrap();
                driver.spawn(async move { drop(connection.with_upgrades().await) });
                Sender::H1(sender)
            }
            Speaks::H2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
                driver.spawn(async move { drop(connection.await) });
                Sender::H2(sender)
            }
        };
        Self { world, case, sender, _driver: driver }
    }

    /// What this way in and this protocol want to see, whatever is asked.
    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let Case { door, speaks, upstream, .. } = self.case;
        let (authority, key) = (&self.world.origin(self.case).authority, &self.world.stage.key);
        let inside = if upstream == Upstream::Http { "http" } else { "https" };
        let named = match door {
            Door::AbsoluteForm => ("http", authority.as_str()),
            Door::Tunnel | Door::Socks => (inside, authority.as_str()),
            Door::Reverse => ("http", "base.test"),
        };
        let request = Request::builder().method(method).header(CASE, self.case.name());
        let request = match (speaks, door) {
            (Speaks::H2, _) | (_, Door::AbsoluteForm) => request.uri(format!("{}://{}{path}", named.0, named.1)),
            (Speaks::H1, _) => request.uri(path),
        };
        let request = if speaks == Speaks::H1 { request.header(header::HOST, named.1) } else { request };
        match door {
            Door::AbsoluteForm => request.header(header::PROXY_AUTHORIZATION, basic("researcher", key)),
            Door::Tunnel | Door::Socks => request,
            Door::Reverse => request.header(header::AUTHORIZATION, format!("Bearer {key}")),
        }
    }

    async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        let answer = match &mut self.sender {
            Sender::H1(sender) => sender.send_request(request).await.unwrap(),
            Sender::H2(sender) => sender.send_request(request).await.unwrap(),
        };
        assert_eq!(answer.headers()[VERSION], self.case.version(), "{:?}", self.case);
        assert_eq!(answer.headers()[TOKENS], "1", "{:?}", self.case);
        answer
    }

    async fn ask(&mut self, method: Method, path: &str, body: Body) -> Response<Incoming> {
        let request = self.request(method, path).body(body).unwrap();
        let answer = self.send(request).await;
        assert_eq!(answer.status(), StatusCode::OK, "{:?}", self.case);
        answer
    }
}

/// What requests are sent over: TLS in a tunnel where the upstream has it, else clear.
async fn stream(world: &World, case: Case) -> Box<dyn Io> {
    let stage = &world.stage;
    let door = match case.door {
        Door::AbsoluteForm | Door::Tunnel => stage.forward(),
        Door::Socks => stage.socks(),
        Door::Reverse => stage.proxy.reverse[1 + case.upstream as usize].tcp().unwrap(),
    };
    let mut stream = TcpStream::connect(door).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let authority = &world.origin(case).authority;
    let inside: Box<dyn Io> = match case.door {
        Door::AbsoluteForm | Door::Reverse => return Box::new(stream),
        Door::Socks => {
            socks::open(&mut stream, &stage.key, authority).await;
            Box::new(stream)
        }
        Door::Tunnel => {
            let key = basic("researcher", &stage.key);
            let mut wire = Wire::new(stream);
            let head =
                format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\nproxy-authorization: {key}\r\n\r\n");
            wire.write(head).await;
            assert_eq!(status(&wire.head().await), 200);
            wire.into_inner()
        }
    };
    if case.upstream == Upstream::Http {
        return inside;
    }
    let alpn = if case.speaks == Speaks::H2 { "h2" } else { "http/1.1" };
    secure(inside, stage.proxy.authority().root_der().clone(), API, alpn).await
}

// === The exchanges ===

async fn run(world: &World, case: Case) {
    let mut agent = Agent::connect(world, case).await;
    match case.exchange {
        Exchange::Small => {
            let answer = agent.ask(Method::POST, "/v1/small", full("a few words")).await;
            assert_eq!(text(answer).await, "a few words");
        }
        Exchange::LongUp => {
            let answer = agent.ask(Method::POST, "/v1/up", origin::pattern(LONG)).await;
            assert_eq!(text(answer).await, LONG.to_string());
        }
        Exchange::LongDown => {
            let answer = agent.ask(Method::GET, "/v1/down", empty()).await;
            assert_eq!(origin::read_pattern(answer.into_body()).await, LONG);
        }
        Exchange::Events => events(&mut agent).await,
        Exchange::WebSocket => web_socket(&mut agent).await,
        Exchange::Bidi => bidi(&mut agent).await,
    }
}

async fn events(agent: &mut Agent<'_>) {
    let (feeder, body) = fed();
    agent.world.origin(agent.case).will_say(&agent.case.name(), body);
    let mut answer = agent.ask(Method::GET, "/v1/events", empty()).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    for number in 0..5 {
        let event = format!("id: {number}\ndata: something happened\n\n");
        assert!(feeder.data(event.clone()).await);
        let mut seen = Vec::new();
        while seen.len() < event.len() {
            seen.extend(data(&mut answer).await);
        }
        assert_eq!(seen, event.as_bytes());
    }
    drop(feeder);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}

async fn web_socket(agent: &mut Agent<'_>) {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let is_h2 = agent.case.speaks == Speaks::H2;
    let method = if is_h2 { Method::CONNECT } else { Method::GET };
    let request = agent.request(method, "/v1/socket").header(header::SEC_WEBSOCKET_VERSION, "13");
    let request = if is_h2 {
        request.extension(Protocol::from_static("websocket"))
    } else {
        request
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_KEY, KEY)
    };
    let answer = agent.send(request.body(empty()).unwrap()).await;
    if is_h2 {
        assert_eq!(answer.status(), StatusCode::OK);
    } else {
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], socket::accept(KEY).as_str());
    }
    let mut io = TokioIo::new(upgrade::on(answer).await.unwrap());
    let long = vec![b'x'; 100_000];
    for (opcode, payload) in
        [(socket::TEXT, &b"hello"[..]), (socket::BINARY, b""), (socket::TEXT, &long[..300]), (socket::BINARY, &long)]
    {
        socket::send(&mut io, (opcode, payload), true).await;
        assert!(socket::receive(&mut io).await == (opcode, payload.to_vec(), false), "{:?}", agent.case);
    }
    socket::send(&mut io, (socket::CLOSE, &[0x03, 0xe8]), true).await;
    assert_eq!(socket::receive(&mut io).await, (socket::CLOSE, vec![0x03, 0xe8], false));
    assert_eq!(io.read(&mut [0]).await.unwrap(), 0);
    io.shutdown().await.unwrap();
}

async fn bidi(agent: &mut Agent<'_>) {
    let (feeder, body) = fed();
    let request = agent.request(Method::POST, "/v1/bidi").header(header::TE, "trailers");
    let request = request.header(header::CONTENT_TYPE, "application/grpc").body(body).unwrap();
    let mut answer = agent.send(request).await;
    for number in 0..5u8 {
        assert!(feeder.data(vec![number; 1000]).await);
        let mut echoed = Vec::new();
        while echoed.len() < 1000 {
            echoed.extend(data(&mut answer).await);
        }
        assert_eq!(echoed, [number; 1000]);
    }
    drop(feeder);
    let trailers = answer.body_mut().frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_combination_passes() {
    let world = Arc::new(World::start().await);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for case in Case::all() {
        let (world, places) = (Arc::clone(&world), Arc::clone(&places));
        running.spawn(async move {
            let _place = places.acquire().await.unwrap();
            timeout(PATIENCE, run(&world, case)).await.unwrap_or_else(|_| panic!("{case:?} takes too long"));
        });
    }
    let mut passed = 0;
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
        passed += 1;
    }
    eprintln!("matrix: {passed} combinations passed");
    // Five exchanges that make sense everywhere, and gRPC through each door.
    assert_eq!(passed, DOORS.len() * SPEAKS.len() * UPSTREAMS.len() * 5 + DOORS.len());

    let World { stage, .. } = Arc::into_inner(world).unwrap();
    let records = stage.final_records().await;
    assert_eq!(records.len(), passed);
    for record in &records {
        let switched = record["path"] == "/v1/socket";
        assert_eq!(
            (&record["status"], &record["error"]),
            (&if switched { 101 } else { 200 }.into(), &().into()),
            "{record}"
        );
        let long = |path| if record["path"] == path { LONG } else { 0 };
        assert!(record["bytes_in"].as_u64() >= Some(long("/v1/up")), "{record}");
        assert!(record["bytes_out"].as_u64() >= Some(long("/v1/down")), "{record}");
    }
    for protocol in ["http/1.1", "h2"] {
        let found = records.iter().filter(|record| record["protocol"] == protocol).count();
        let grpc = if protocol == "h2" { DOORS.len() } else { 0 };
        assert_eq!(found, DOORS.len() * UPSTREAMS.len() * 5 + grpc, "{protocol}");
    }
}
