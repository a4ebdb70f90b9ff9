//! Threat 106: what a reload takes away ends at once where it is still open, tunnels of every
//! kind, and what it doesn't touch goes on.

use cupbearer::demo::WorldSettings;
use http::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    agents::{Agent, Way, data, empty, open, raw_head, records},
    doors::OwnDoors,
    h2_doors::{handshake, tunnel},
    scripted::{Scripted, Wire, soon, status},
    support::{Facts, Stage},
    wire::basic,
};

const SOCKET: &str = "connection: upgrade\r\nupgrade: websocket\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// The config without the agent's key.
fn without_key(stage: &Stage, config: &str) -> String {
    config.replace(&stage.facts.key_sha256, &"0".repeat(64))
}

async fn goes_on(agent: &mut Wire, far: &mut Wire) {
    agent.write("ping").await;
    assert_eq!(far.exactly(4).await, b"ping");
    far.write("pong").await;
    assert_eq!(agent.exactly(4).await, b"pong");
}

/// Both ends are closed, and the only record says why.
async fn is_cut(stage: &Stage, mut agent: Wire, mut far: Wire, count: usize) -> Value {
    assert_eq!(agent.rest().await, "");
    assert_eq!(far.rest().await, "");
    let record = records(stage, count).await.pop().unwrap();
    assert_eq!(record["error"], "tunnel_revoked", "{record}");
    assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&4.into(), &4.into()), "{record}");
    record
}

#[tokio::test]
async fn a_blind_tunnel_is_cut_when_it_could_not_be_opened_any_more() {
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let with = |facts: &Facts| facts.config().replace("[proxy]\n", "[proxy]\nunmatched = \"tunnel\"\n");
    let stage = Stage::with(WorldSettings::default(), with).await;
    let own = OwnDoors::open(&stage, Some(far.local_addr().unwrap())).await;
    let good = with(&stage.facts);
    let route = "\n[[routes]]\nname = \"now-known\"\nhosts = [\"elsewhere.test\"]\nagents = [\"researcher\"]\n";
    let bad = [
        without_key(&stage, &good),
        good.replace("researcher", "somebody"),
        good.replace("unmatched = \"tunnel\"", "unmatched = \"deny\""),
        format!("{good}{route}"),
    ];
    let mut count = 0;
    for config in bad {
        for over_h2 in [false, true] {
            let stream = TcpStream::connect(own.forward).await.unwrap();
            let mut agent = if over_h2 {
                Wire::new(tunnel(&stage, &mut handshake(stream).await, "elsewhere.test:443").await)
            } else {
                let mut wire = Wire::new(stream);
                let key = basic("researcher", &stage.key);
                wire.write(format!("CONNECT elsewhere.test:443 HTTP/1.1\r\nproxy-authorization: {key}\r\n\r\n")).await;
                assert_eq!(status(&wire.head().await), 200);
                wire
            };
            let mut far = Wire::new(soon(far.accept()).await.unwrap().0);
            stage.reload(&good);
            goes_on(&mut agent, &mut far).await;
            stage.reload(&config);
            count += 1;
            let record = is_cut(&stage, agent, far, count).await;
            assert_eq!(
                (&record["protocol"], &record["host"]),
                (&"tunnel".into(), &"elsewhere.test".into()),
                "{record}"
            );
            stage.reload(&good);
        }
    }
}

#[tokio::test]
async fn a_websocket_is_cut_when_its_request_would_be_refused() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let good = upstream.config(&stage.facts);
    let bad = [
        without_key(&stage, &good),
        good.replace("paths = [\"/v1/**\"]", "paths = [\"/v2/**\"]"),
        good.replace("upgrade_http = true\n", "upgrade_http = true\nupgrades = []\n"),
    ];
    let mut count = 0;
    for config in bad {
        for way in Way::H1.into_iter().chain([Way::TunnelH2]) {
            let (mut agent, mut far) = websocket(&stage, &upstream, way).await;
            stage.reload(&good);
            goes_on(&mut agent, &mut far).await;
            stage.reload(&config);
            count += 1;
            let record = is_cut(&stage, agent, far, count).await;
            assert_eq!((&record["status"], &record["path"]), (&101.into(), &"/v1/socket".into()), "{way:?}: {record}");
            stage.reload(&good);
        }
    }
}

async fn websocket(stage: &Stage, upstream: &Scripted, way: Way) -> (Wire, Wire) {
    if way != Way::TunnelH2 {
        let mut agent = Wire::new(open(stage, &upstream.authority(), way).await);
        agent.write(raw_head(stage, &upstream.authority(), way, ("GET", "/v1/socket", "1.1"), SOCKET)).await;
        let mut far = upstream.accept().await;
        far.head().await;
        far.write(AGREED).await;
        assert_eq!(status(&agent.head().await), 101);
        return (agent, far);
    }
    let mut agent = Agent::connect(stage, &upstream.authority(), way).await;
    let (answer, far) = tokio::join!(agent.ask_for("websocket", "/v1/socket", &[]), async {
        let mut far = upstream.accept().await;
        let head = far.head().await;
        far.write(crate::upgrades::agreed(&head)).await;
        far
    });
    assert_eq!(answer.status(), StatusCode::OK);
    let io = TokioIo::new(soon(hyper::upgrade::on(answer)).await.unwrap());
    tokio::spawn(async move {
        let _agent = agent;
        std::future::pending::<()>().await;
    });
    (Wire::new(io), far)
}

/// An intercepted tunnel ends with all that is under way in it, where its agent couldn't open
/// it any more; where a request alone would be refused, it goes on.
#[tokio::test]
async fn an_intercepted_tunnel_is_cut_with_what_it_carries() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let good = upstream.config(&stage.facts);
    let deny = format!("[[routes]]\nname = \"no\"\nhosts = [\"{}\"]\neffect = \"deny\"\n", upstream.authority());
    let bad = [without_key(&stage, &good), format!("{good}\n{deny}")];
    let mut count = 0;
    for config in bad {
        for way in [Way::TunnelH1, Way::TunnelH2] {
            let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
            let asked = tokio::spawn(agent.send(agent.request(Method::GET, "/v1/orders").body(empty()).unwrap()));
            let mut far = upstream.accept().await;
            far.head().await;
            far.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
            let mut answer = soon(asked).await.unwrap().unwrap();
            assert_eq!(&data(&mut answer).await[..], b"first");
            let mut idle = Wire::new(open(&stage, &upstream.authority(), Way::TunnelH1).await);

            stage.reload(&good.replace("/v1/**", "/v2/**"));
            far.write("6\r\nsecond\r\n").await;
            assert_eq!(&data(&mut answer).await[..], b"second", "{way:?}");
            stage.reload(&config);
            let rest = soon(http_body_util::BodyExt::frame(answer.body_mut())).await;
            assert!(rest.is_some_and(|frame| frame.is_err()), "{way:?}: cut, and no clean end");
            assert_eq!(far.rest().await, "", "{way:?}");
            assert_eq!(idle.rest().await, "");
            count += 1;
            let record = records(&stage, count).await.pop().unwrap();
            assert_eq!((&record["error"], &record["bytes_out"]), (&"tunnel_revoked".into(), &11.into()), "{record}");
            stage.reload(&good);
        }
    }
    assert_eq!(stage.final_records().await.len(), count, "an idle tunnel has no record");
}
