//! The SOCKS 5 door (RFC 1928, RFC 1929): who asks and where to are settled before the reply,
//! as at a `CONNECT`, and what goes through it is what goes through every other door.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    doors::OwnDoors,
    support::{API, Facts, Stage},
    wire::Wire,
};

const SUCCEEDED: u8 = 0;
const GENERAL: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const CONNECTION_REFUSED: u8 = 5;
const COMMAND: u8 = 7;
const ADDRESS_TYPE: u8 = 8;

fn config(facts: &Facts) -> String {
    facts.config() + "\n[socks]\nlisten = [\"127.0.0.1:0\"]\n"
}

async fn stage() -> Stage {
    Stage::with(Default::default(), config).await
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![u8::try_from(bytes.len()).unwrap()];
    message.extend_from_slice(bytes);
    message
}

fn login(name: &str, key: &str) -> Vec<u8> {
    [&[1][..], &counted(name.as_bytes()), &counted(key.as_bytes())].concat()
}

fn to_domain(name: &[u8], port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3][..], &counted(name), &port.to_be_bytes()].concat()
}

fn to_v4(address: [u8; 4], port: u16) -> Vec<u8> {
    [&[5, 1, 0, 1][..], &address, &port.to_be_bytes()].concat()
}

fn to_v6(address: &str, port: u16) -> Vec<u8> {
    let address: std::net::Ipv6Addr = address.parse().unwrap();
    [&[5, 1, 0, 4][..], &address.octets(), &port.to_be_bytes()].concat()
}

/// Asks for a tunnel on a stream, as the stage's agent.
pub async fn open(stream: &mut TcpStream, key: &str, authority: &str) {
    let (host, port) = authority.rsplit_once(':').unwrap();
    let request = to_domain(host.as_bytes(), port.parse().unwrap());
    stream.write_all(&[&[5, 1, 2][..], &login("researcher", key), &request].concat()).await.unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [5, 2, 1, 0, 5, SUCCEEDED, 0, 1, 0, 0, 0, 0, 0, 0]);
}

/// A client that says one thing after the other.
struct Client(TcpStream);

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn known(stage: &Stage, address: std::net::SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        client.say(&[5, 1, 2]).await;
        assert_eq!(client.hear::<2>().await, [5, 2]);
        client.say(&login("researcher", &stage.key)).await;
        assert_eq!(client.hear::<2>().await, [1, 0]);
        client
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn hear<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// The code of the reply to a request.
    async fn ask(&mut self, request: &[u8]) -> u8 {
        self.say(request).await;
        self.reply().await
    }

    async fn reply(&mut self) -> u8 {
        let [version, code, zero, kind, ..] = self.hear::<10>().await;
        assert_eq!((version, zero, kind), (5, 0, 1));
        code
    }

    /// Nothing more comes but the end.
    async fn closed(mut self) {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
    }
}

fn codes(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["error"].as_str().unwrap_or("")).collect()
}

/// TLS inside, clear HTTP inside, and all of it at once or a byte at a time.
#[tokio::test]
async fn a_tunnel_is_intercepted_and_gets_the_token() {
    let stage = stage().await;
    let (socks, port) = (stage.socks(), stage.facts.api_port);
    let mut client = Client::known(&stage, socks).await;
    assert_eq!(client.ask(&to_domain(b"ORDERS.test.", port)).await, SUCCEEDED);
    let mut wire = Wire::over(client.0).secure(&stage, API, &["http/1.1"]).await.unwrap();
    let get = format!("GET /v1/orders HTTP/1.1\r\nHost: {}\r\n\r\n", stage.authority());
    wire.send(&get).await;
    assert_eq!(wire.answer().await.status, 200);

    // A client may send everything before it has an answer.
    let everything =
        [&[5, 2, 0, 2][..], &login("researcher", &stage.key), &to_domain(API.as_bytes(), port), get.as_bytes()]
            .concat();
    for step in [everything.len(), 1] {
        let mut client = Client::connect(socks).await;
        for bytes in everything.chunks(step) {
            client.say(bytes).await;
        }
        assert_eq!(client.hear::<4>().await, [5, 2, 1, 0]);
        assert_eq!(client.reply().await, SUCCEEDED);
        assert_eq!(Wire::over(client.0).answer().await.status, 200);
    }
    let seen = stage.world.api().seen();
    assert!(seen.len() == 3 && seen.iter().all(|seen| seen.claims.is_some()));
    drop(wire);
    let records = stage.final_records().await;
    assert_eq!(records.len(), 3);
    for record in records {
        assert_eq!((&record["listener"], &record["agent"]), (&"socks".into(), &"researcher".into()));
        assert_eq!((&record["route"], &record["method"]), (&"orders".into(), &"GET".into()));
    }
}

#[tokio::test]
async fn real_curl_gets_through() {
    let stage = stage().await;
    let ca = stage.directory.path().join("root.pem");
    std::fs::write(&ca, stage.proxy.authority().root_pem()).unwrap();
    let curl = |key: &str| {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "--socks5-hostname"])
            .arg(stage.socks().to_string())
            .args(["--proxy-user", &format!("researcher:{key}"), "--cacert"])
            .arg(&ca)
            .arg(stage.url("/v1/orders"))
            .env_clear()
            .stdin(Stdio::null());
        curl
    };
    let output = curl(&stage.key).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200 2", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(curl("wrong").output().await.unwrap().status.code(), Some(97), "curl's code for a proxy's refusal");
    assert_eq!(stage.world.api().seen_count(), 1);
}

/// Threats 1, 3 and 8: who isn't known gets no further, and is told nothing.
#[tokio::test]
async fn only_known_agents_get_to_ask() {
    let stage = stage().await;
    let socks = stage.socks();
    let key = &stage.key;
    let logins = [
        (login("researcher", "wrong"), "agent_key_unknown"),
        (login("researcher", &key[1..]), "agent_key_unknown"),
        (login("researcher", &format!("{key}\0")), "agent_key_unknown"),
        (login("researcher\0", key), "agent_key_unknown"),
        (login("nobody", key), "agent_key_unknown"),
        (login("researcher", ""), "agent_key_malformed"),
        (login("", ""), "agent_key_malformed"),
    ];
    let mut reasons = Vec::new();
    for (login, reason) in logins {
        let mut client = Client::connect(socks).await;
        client.say(&[5, 1, 2]).await;
        assert_eq!(client.hear::<2>().await, [5, 2]);
        // What is asked for behind it is nobody's request.
        client.say(&[&login[..], &to_domain(API.as_bytes(), stage.facts.api_port)].concat()).await;
        assert_eq!(client.hear::<2>().await, [1, 1], "{reason}");
        client.closed().await;
        reasons.push(reason);
    }
    // Nothing is shown, and nobody is anonymous here.
    let mut client = Client::connect(socks).await;
    client.say(&[5, 1, 0]).await;
    assert_eq!(client.hear::<2>().await, [5, 0xff]);
    client.closed().await;
    reasons.push("agent_key_missing");
    // The key alone names its agent, as it does at the other doors.
    let mut client = Client::connect(socks).await;
    client.say(&[&[5, 1, 2][..], &login("", key)].concat()).await;
    assert_eq!(client.hear::<4>().await, [5, 2, 1, 0]);
    drop(client);
    stage.assert_nothing_left();
    let mut records = stage.final_records().await;
    let left = records.pop().unwrap();
    assert_eq!((&left["agent"], &left["error"]), (&"researcher".into(), &"agent_gone".into()));
    assert_eq!(records.iter().map(|record| record["reason"].as_str().unwrap()).collect::<Vec<_>>(), reasons);
    for record in records {
        assert_eq!((&record["status"], &record["error"]), (&407.into(), &"agent_unknown".into()));
        assert_eq!((&record["protocol"], &record["agent"]), (&"socks5".into(), &Value::Null));
    }
}

#[tokio::test]
async fn an_agent_without_a_key_is_the_anonymous_one_where_there_is_one() {
    let anonymous = |facts: &Facts| {
        config(facts).replace("agents = [\"researcher\"]", "agents = [\"anonymous\"]") + "\n[agents.anonymous]\n"
    };
    let stage = Stage::with(Default::default(), anonymous).await;
    for (host, code) in [(API, SUCCEEDED), ("other.test", NOT_ALLOWED)] {
        let mut client = Client::connect(stage.socks()).await;
        client.say(&[5, 2, 0, 1]).await;
        assert_eq!(client.hear::<2>().await, [5, 0]);
        assert_eq!(client.ask(&to_domain(host.as_bytes(), stage.facts.api_port)).await, code);
    }
    // Whoever shows a key means to be somebody.
    let mut client = Client::connect(stage.socks()).await;
    client.say(&[&[5, 2, 0, 2][..], &login("researcher", "wrong")].concat()).await;
    assert_eq!(client.hear::<4>().await, [5, 2, 1, 1]);
    // Known, and not allowed.
    let mut client = Client::known(&stage, stage.socks()).await;
    assert_eq!(client.ask(&to_domain(API.as_bytes(), stage.facts.api_port)).await, NOT_ALLOWED);
}

/// Threats 24, 26, 29 and 30 through this door, and what isn't SOCKS 5 at all.
#[tokio::test]
async fn hostile_bytes_are_refused_and_reach_nothing() {
    let stage = stage().await;
    let (socks, port) = (stage.socks(), stage.facts.api_port);
    let requests = [
        (to_domain(b"evil.test\0.orders.test", port), GENERAL, "bad_request"),
        (to_domain(b"orders.test\0", port), GENERAL, "bad_request"),
        (to_domain(b"", port), GENERAL, "bad_request"),
        (to_domain(b"orders.test:443", port), GENERAL, "bad_request"),
        (to_domain(b"x@orders.test", port), GENERAL, "bad_request"),
        (to_domain(b"2130706433", port), GENERAL, "bad_request"),
        (to_domain(b"[::1]", port), GENERAL, "bad_request"),
        (to_domain(API.as_bytes(), 0), GENERAL, "bad_request"),
        (to_domain(API.as_bytes(), port ^ 1), NOT_ALLOWED, "host_not_allowed"),
        (to_domain(b"127.0.0.1", port), NOT_ALLOWED, "host_not_allowed"),
        (to_v4([127, 0, 0, 1], port), NOT_ALLOWED, "host_not_allowed"),
        (to_v6("::ffff:127.0.0.1", port), NOT_ALLOWED, "host_not_allowed"),
        (to_v6("::", port), NOT_ALLOWED, "host_not_allowed"),
        (vec![5, 2, 0, 1, 127, 0, 0, 1, 0, 80], COMMAND, "bad_request"),
        (vec![5, 3, 0, 1, 0, 0, 0, 0, 0, 0], COMMAND, "bad_request"),
        (vec![5, 1, 0, 2, 0, 0, 0, 0, 0, 0], ADDRESS_TYPE, "bad_request"),
        (vec![5, 1, 7, 1, 127, 0, 0, 1, 0, 80], GENERAL, "bad_request"),
        (vec![4, 1, 0, 80, 127, 0, 0, 1, 0], GENERAL, "bad_request"),
    ];
    let mut expected = Vec::new();
    for (request, code, error) in requests {
        let mut client = Client::known(&stage, socks).await;
        assert_eq!(client.ask(&[&request[..], b"GET / HTTP/1.1\r\n\r\n"].concat()).await, code, "{request:?}");
        client.closed().await;
        expected.push(error);
    }
    for bytes in [&b"\x04\x01\x00\x50\x7f\0\0\x01\0"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0", b"\x05\0"] {
        let mut client = Client::connect(socks).await;
        client.say(bytes).await;
        client.closed().await;
        expected.push("bad_request");
    }
    let mut client = Client::connect(socks).await;
    client.say(&[5, 2, 1, 3]).await;
    assert_eq!(client.hear::<2>().await, [5, 0xff]);
    client.closed().await;
    expected.push("bad_request");
    // Who says nothing is nobody.
    drop(Client::connect(socks).await);
    stage.assert_nothing_left();
    assert_eq!(codes(&stage.final_records().await), expected);
}

/// Threat 52: silence in the middle of each message.
#[tokio::test]
async fn a_silent_client_is_closed_in_time() {
    let limits = |facts: &Facts| config(facts) + "\n[limits]\nhandshake_timeout = \"300ms\"\n";
    let stage = Stage::with(Default::default(), limits).await;
    let known = [&[5, 1, 2][..], &login("researcher", &stage.key)].concat();
    let silences = [&b""[..], b"\x05", b"\x05\x01\x02", &known, &[&known[..], b"\x05\x01"].concat()];
    for bytes in silences {
        let mut client = Client::connect(stage.socks()).await;
        client.say(bytes).await;
        let mut rest = Vec::new();
        client.0.read_to_end(&mut rest).await.unwrap();
    }
    stage.assert_nothing_left();
    assert_eq!(codes(&stage.final_records().await), ["handshake_timeout"; 4]);
}

/// `unmatched = "tunnel"`: as at a `CONNECT`, with its limits (threats 34 and 37), and told apart.
#[tokio::test]
async fn an_unnamed_host_is_tunnelled_untouched() {
    let open = |facts: &Facts| config(facts).replace("workers = 1", "workers = 1\nunmatched = \"tunnel\"");
    let stage = Stage::with(Default::default(), open).await;
    let far_end = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let doors = OwnDoors::open(&stage, Some(far_end.local_addr().unwrap())).await;
    let served = tokio::spawn(async move {
        let (mut stream, _) = far_end.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(b"\0anything back\xff").await.unwrap();
        all
    });
    let mut client = Client::known(&stage, doors.socks).await;
    client.say(&[&to_domain(b"anything.example", 443)[..], b"SSH-2.0-x\r\n"].concat()).await;
    assert_eq!(client.reply().await, SUCCEEDED);
    client.say(b"more").await;
    client.0.shutdown().await.unwrap();
    let mut back = Vec::new();
    client.0.read_to_end(&mut back).await.unwrap();
    assert_eq!((&*served.await.unwrap(), &*back), (&b"SSH-2.0-x\r\nmore"[..], &b"\0anything back\xff"[..]));

    let nowhere = OwnDoors::open(&stage, None).await;
    let refused = [
        (to_domain(b"anything.example", 443), CONNECTION_REFUSED),
        (to_domain(b"private.example", 443), NOT_ALLOWED),
        (to_v4([169, 254, 169, 254], 80), NOT_ALLOWED),
        (to_v6("::1", 443), NOT_ALLOWED),
        (to_domain(b"anything.example", 22), NOT_ALLOWED),
        (to_domain(API.as_bytes(), 443), NOT_ALLOWED),
    ];
    for (request, code) in refused {
        let mut client = Client::known(&stage, nowhere.socks).await;
        assert_eq!(client.ask(&request).await, code, "{request:?}");
    }
    let records = stage.final_records().await;
    assert_eq!(records.len(), 7);
    let tunnel = records.iter().find(|record| record["protocol"] == "tunnel").unwrap();
    assert_eq!((&tunnel["bytes_in"], &tunnel["bytes_out"]), (&15.into(), &15.into()));
    assert_eq!((&tunnel["listener"], &tunnel["error"]), (&"socks".into(), &Value::Null));
    let mut errors = codes(&records);
    errors.sort_unstable();
    let not_allowed = ["address_not_allowed"; 3].into_iter().chain(["host_not_allowed"; 2]);
    let expected: Vec<_> = [""].into_iter().chain(not_allowed).chain(["upstream_unreachable"]).collect();
    assert_eq!(errors, expected);
}

/// Threats 38 and 39: this door is one of our own listeners.
#[tokio::test]
async fn the_door_is_not_reached_through_the_proxy() {
    let stage = stage().await;
    let (socks, admin) = (stage.socks().port(), stage.proxy.admin.unwrap().port());
    stage.reload(&format!(
        "{}\n[[routes]]\nname = \"self\"\nhosts = [\"127.0.0.1:{socks}\", \"127.0.0.1:{admin}\"]\n\
         agents = [\"researcher\"]\ndanger_allow_private_addresses = [\"127.0.0.1/32\"]\n",
        config(&stage.facts)
    ));
    for port in [socks, admin] {
        let mut client = Client::known(&stage, stage.socks()).await;
        assert_eq!(client.ask(&to_v4([127, 0, 0, 1], port)).await, SUCCEEDED);
        let mut wire = Wire::over(client.0);
        wire.send(format!("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n")).await;
        assert_eq!(wire.answer().await.code(), "address_not_allowed");
    }
}

/// Threat 106: what was asked for by SOCKS is cut as well.
#[tokio::test]
async fn a_tunnel_ends_with_its_agents_permission() {
    let stage = stage().await;
    let mut client = Client::known(&stage, stage.socks()).await;
    assert_eq!(client.ask(&to_domain(API.as_bytes(), stage.facts.api_port)).await, SUCCEEDED);
    let mut wire = Wire::over(client.0).secure(&stage, API, &["http/1.1"]).await.unwrap();
    wire.send(format!("GET /v1/orders HTTP/1.1\r\nHost: {}\r\n\r\n", stage.authority())).await;
    assert_eq!(wire.answer().await.status, 200);
    stage.reload(&config(&stage.facts).replace(&stage.facts.key_sha256, &"0".repeat(64)));
    assert_eq!(wire.closed().await, b"");
    let mut again = Client::connect(stage.socks()).await;
    again.say(&[5, 1, 2]).await;
    assert_eq!(again.hear::<2>().await, [5, 2]);
    again.say(&login("researcher", &stage.key)).await;
    assert_ne!(again.hear::<2>().await, [1, 0]);
}
