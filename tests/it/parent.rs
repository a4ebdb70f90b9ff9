//! A parent proxy on the way out: what goes through it, what goes past it, and what an agent
//! reads when it says no.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use cupbearer::demo::WorldSettings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::{
    support::{API, Facts, Stage},
    wire::{Answer, Fault, Origin, Way, Wire, basic, connect_head},
};

const USER: &str = "gatekeeper";
const PASSWORD: &str = "s3cret:w%41rd/@";

/// How the parent answers.
#[derive(Clone, Debug)]
enum Mood {
    /// Tunnels to the port that was asked for, on loopback, whatever the name.
    Tunnel,
    /// Everything leads here.
    Misleads(SocketAddr),
    /// Says this and closes.
    Says(Vec<u8>),
    /// After the greeting and the login of SOCKS.
    Replies(u8),
}

/// Speaks HTTP and SOCKS 5, by the first byte.
struct Parent {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    mood: Mood,
    /// What it takes; `None`: anybody.
    login: Option<(String, String)>,
    /// Each `host:port` that was asked for, with the login that was shown.
    asked: Vec<String>,
    connections: usize,
}

impl Parent {
    async fn start(login: Option<(&str, &str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let state = Arc::new(Mutex::new(State { mood: Mood::Tunnel, login, asked: Vec::new(), connections: 0 }));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.lock().unwrap().connections += 1;
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    fn set(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mood = state.lock().unwrap().mood.clone();
    let first = stream.read_u8().await.ok()?;
    if let Mood::Says(bytes) = &mood {
        if first != 5 {
            until_blank_line(&mut stream).await?;
        } else {
            let mut rest = vec![0; usize::from(stream.read_u8().await.ok()?)];
            stream.read_exact(&mut rest).await.ok()?;
        }
        stream.write_all(bytes).await.ok()?;
        return stream.shutdown().await.ok();
    }
    let port = if first == 5 { socks(&mut stream, &state, &mood).await? } else { http(&mut stream, &state).await? };
    let to = if let Mood::Misleads(to) = mood { to } else { SocketAddr::from(([127, 0, 0, 1], port)) };
    let mut upstream = TcpStream::connect(to).await.ok()?;
    if first == 5 {
        stream.write_all(&[5, 0, 0, 3, 1, b'x', 0, 80]).await.ok()?;
    } else {
        stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 parent\r\n\r\n").await.ok()?;
    }
    let _ = copy_bidirectional(&mut stream, &mut upstream).await;
    Some(())
}

async fn until_blank_line(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn http(stream: &mut TcpStream, state: &Mutex<State>) -> Option<u16> {
    let head = until_blank_line(stream).await?;
    let mut lines = head.lines();
    let authority = lines.next()?.strip_prefix("ONNECT ")?.strip_suffix(" HTTP/1.1")?.to_owned();
    assert_eq!(lines.next()?, format!("Host: {authority}"));
    let fields = lines.filter_map(|line| line.split_once(": "));
    let mut shown = fields.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
    let shown = shown.next().map(|(_, value)| value.strip_prefix("Basic ").unwrap().to_owned());
    let shown = shown.map(|text| String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap());
    if note(state, &authority, shown) {
        return authority.rsplit_once(':')?.1.parse().ok();
    }
    let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 6\r\n\r\nlog in";
    stream.write_all(refusal).await.ok()?;
    None
}

async fn socks(stream: &mut TcpStream, state: &Mutex<State>, mood: &Mood) -> Option<u16> {
    let mut methods = vec![0; usize::from(stream.read_u8().await.ok()?)];
    stream.read_exact(&mut methods).await.ok()?;
    let wanted = if state.lock().unwrap().login.is_some() { 2 } else { 0 };
    if !methods.contains(&wanted) {
        stream.write_all(&[5, 0xff]).await.ok()?;
        return None;
    }
    stream.write_all(&[5, wanted]).await.ok()?;
    let mut shown = None;
    if wanted == 2 {
        assert_eq!(stream.read_u8().await.ok()?, 1);
        let (user, password) = (counted(stream).await?, counted(stream).await?);
        let good = state.lock().unwrap().login == Some((user.clone(), password.clone()));
        stream.write_all(&[1, u8::from(!good)]).await.ok()?;
        good.then_some(())?;
        shown = Some(format!("{user}:{password}"));
    }
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.ok()?;
    assert_eq!(head, [5, 1, 0, 3], "a name is sent as a name");
    let name = counted(stream).await?;
    let port = stream.read_u16().await.ok()?;
    note(state, &format!("{name}:{port}"), shown);
    if let Mood::Replies(code) = mood {
        stream.write_all(&[5, *code, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
        return None;
    }
    Some(port)
}

async fn counted(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = vec![0; usize::from(stream.read_u8().await.ok()?)];
    stream.read_exact(&mut bytes).await.ok()?;
    String::from_utf8(bytes).ok()
}

fn note(state: &Mutex<State>, authority: &str, shown: Option<String>) -> bool {
    let mut state = state.lock().unwrap();
    state.asked.push(format!("{authority} {}", shown.as_deref().unwrap_or("nobody")));
    let wanted = state.login.as_ref().map(|(user, password)| format!("{user}:{password}"));
    wanted.is_none_or(|wanted| shown == Some(wanted))
}

/// The stage's config by way of `parent`, with nothing that says where the API is: only the
/// parent knows. The authorization server has a name of the outside, too.
fn through(facts: &Facts, parent: &str) -> String {
    let as_port = facts.issuer.trim_end_matches('/').rsplit_once(':').unwrap().1;
    let issuer = format!("issuer = \"{}\"", facts.issuer);
    let endpoint = format!("token_endpoint = \"https://{API}:{as_port}/oauth/token\"");
    let config = facts.config().replace(&issuer, &endpoint);
    let config = config.replace(&format!("[resolve]\n\"{API}\" = \"127.0.0.1\"\n"), "");
    let config = config.replace("danger_allow_private_addresses = [\"127.0.0.0/8\"]\n", "");
    assert!(config.contains("token_endpoint") && !config.contains("[resolve]") && !config.contains("danger_allow"));
    format!("{config}\n[upstream]\n{parent}\n")
}

async fn stage(parent: impl Into<String>) -> Stage {
    let parent = parent.into();
    Stage::with(WorldSettings::default(), |facts| through(facts, &parent)).await
}

/// A parent that wants a login, and a stage that has it, the password in a file.
async fn with_login(scheme: &str) -> (Parent, Stage) {
    let parent = Parent::start(Some((USER, PASSWORD))).await;
    let proxy = format!("proxy = \"{scheme}://{USER}@{}\"", parent.address);
    let stage = stage(format!("{proxy}\nproxy_credentials = {{ password = {{ file = \"password\" }} }}")).await;
    fs::write(stage.directory.path().join("password"), format!("{PASSWORD}\n")).unwrap();
    (parent, stage)
}

async fn get(stage: &Stage) -> Answer {
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(Way::AbsoluteForm.head(stage, "GET", "/v1/orders") + "\r\n").await;
    wire.answer().await
}

/// Names go to the parent as they are, for requests, tunnels and tokens alike; TLS is the
/// upstream's own.
#[tokio::test]
async fn everything_goes_through_the_parent() {
    for scheme in ["http", "socks5", "socks5h"] {
        let (parent, stage) = with_login(scheme).await;
        let token_endpoint = stage.world.authorization_server_address().port();
        assert_eq!(get(&stage).await.status, 200, "{scheme}");
        let response = stage.agent().get(stage.url("/v1/orders")).send().await.unwrap();
        assert_eq!((response.status(), response.version()), (http::StatusCode::OK, http::Version::HTTP_2));
        let login = format!("{USER}:{PASSWORD}");
        let asked = [format!("{API}:{token_endpoint} {login}"), format!("{} {login}", stage.authority())];
        assert_eq!(parent.asked(), asked, "{scheme}: one connection each, the second request on the first's");
        assert!(stage.world.api().seen().iter().all(|seen| seen.claims.is_some()));
        let address = parent.address.to_string();
        let records = stage.final_records().await;
        assert!(records.iter().all(|record| record["upstream_addr"] == address.as_str()), "{records:#?}");
    }
}

/// The upstream's certificate counts and never the parent's word (threat 47).
#[tokio::test]
async fn a_parent_that_misleads_is_found_out() {
    let parent = Parent::start(None).await;
    let stage = stage(format!("proxy = \"http://{}\"", parent.address)).await;
    // A token is got first, while the parent is honest.
    assert_eq!(get(&stage).await.status, 200);
    stage.reload(&fs::read_to_string(stage.config_path()).unwrap());
    let origin = Origin::start(Fault::SelfSigned).await;
    parent.set(Mood::Misleads(origin.address));
    let answer = get(&stage).await;
    assert_eq!((answer.status, &*answer.code()), (502, "upstream_tls"));
    assert_eq!(origin.text(), "");
}

#[tokio::test]
async fn what_a_parent_refuses_is_told_as_it_is() {
    let says = |text: &str| Mood::Says(text.as_bytes().to_vec());
    let cases = [
        ("http", says("HTTP/1.1 503 Busy\r\n\r\n"), "the parent proxy answered 503"),
        ("http", says("HTTP/1.0 403 Forbidden\r\nX: y\r\n\r\nno"), "the parent proxy answered 403"),
        ("http", says("HTTP/1.1 407 Log in\r\n\r\n"), "the parent proxy doesn't take our credentials"),
        ("http", says("HTTP/1.1 100 Continue\r\n\r\n"), "the parent proxy answered 100"),
        ("http", says("HTTP/1.1 2000 OK\r\n\r\n"), "the parent proxy doesn't answer as a proxy does"),
        ("http", says("SSH-2.0-x\r\n\r\n"), "the parent proxy doesn't answer as a proxy does"),
        ("http", says("HTTP/1.1 200 OK\r\n"), "the parent proxy doesn't answer as a proxy does"),
        (
            "http",
            says(&format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(20_000))),
            "the parent proxy doesn't answer as a proxy does",
        ),
        ("http", says(""), "the parent proxy doesn't answer as a proxy does"),
        ("socks5", Mood::Replies(2), "the parent proxy answered with the SOCKS reply 2"),
        ("socks5", Mood::Replies(5), "the parent proxy answered with the SOCKS reply 5"),
        ("socks5", Mood::Says(vec![5, 0xff]), "the parent proxy doesn't take our credentials"),
        ("socks5", Mood::Says(vec![5, 7]), "the parent proxy doesn't answer as a proxy does"),
        ("socks5", says("HTTP/1.1 400 Bad Request\r\n\r\n"), "the parent proxy doesn't answer as a proxy does"),
        ("socks5", Mood::Says(vec![5, 0, 5]), "the parent proxy broke off"),
    ];
    let without_token = |facts: &Facts, parent: &str| through(facts, parent).replace("credential = \"orders\"\n", "");
    for scheme in ["http", "socks5"] {
        let parent = Parent::start(None).await;
        let proxy = format!("proxy = \"{scheme}://{}\"", parent.address);
        let stage = Stage::with(WorldSettings::default(), |facts| without_token(facts, &proxy)).await;
        for (_, mood, detail) in cases.iter().filter(|(of, ..)| *of == scheme) {
            parent.set(mood.clone());
            let answer = get(&stage).await;
            assert_eq!((answer.status, &*answer.code()), (502, "upstream_unreachable"), "{mood:?}");
            assert_eq!(answer.problem()["detail"], *detail, "{mood:?}");
            let wants_login = detail.contains("credentials");
            assert_eq!(answer.problem()["hint"].as_str().unwrap().contains("proxy_credentials"), wants_login);
        }
        assert_eq!(stage.world.api().seen_count(), 0);
        parent.set(Mood::Tunnel);
        assert_eq!(get(&stage).await.status, 401, "the API's own answer");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = format!("proxy = \"http://{closed}\"");
    let stage = Stage::with(WorldSettings::default(), |facts| without_token(facts, &proxy)).await;
    assert_eq!(get(&stage).await.problem()["detail"], "the parent proxy can't be reached");
}

/// A password is read for each connection: a new one counts without a restart.
#[tokio::test]
async fn a_wrong_password_is_told_and_a_new_one_counts() {
    for scheme in ["http", "socks5"] {
        let (parent, stage) = with_login(scheme).await;
        let file = stage.directory.path().join("password");
        fs::remove_file(&file).unwrap();
        assert_eq!(get(&stage).await.code(), "credential_failed", "not even a token is to be had");
        assert_eq!(parent.connections(), 0);
        fs::write(&file, PASSWORD).unwrap();
        stage.reload(&fs::read_to_string(stage.config_path()).unwrap().replace("credential = \"orders\"\n", ""));
        fs::write(&file, "wrong").unwrap();
        let problem = get(&stage).await.problem();
        assert_eq!(problem["detail"], "the parent proxy doesn't take our credentials", "{scheme}");
        assert!(!problem.to_string().contains("wrong") && !problem.to_string().contains(USER));
        fs::write(&file, PASSWORD).unwrap();
        assert_eq!(get(&stage).await.status, 401, "the API's own answer");
    }
}

/// `no_proxy` and a route's `direct`.
#[tokio::test]
async fn some_hosts_are_reached_without_the_parent() {
    let parent = Parent::start(None).await;
    let proxy = format!("proxy = \"http://{}\"", parent.address);
    let known = |config: String| {
        let route = "upstream_ca = \"peers-ca.pem\"\n";
        let allowed = format!("{route}danger_allow_private_addresses = [\"127.0.0.0/8\"]\n");
        format!("{}\n[resolve]\n\"{API}\" = \"127.0.0.1\"\n", config.replace(route, &allowed))
    };
    let past = format!("{proxy}\nno_proxy = [\"*.internal\", \"{API}\"]");
    let stage = Stage::with(WorldSettings::default(), |facts| known(through(facts, &past))).await;
    assert_eq!(get(&stage).await.status, 200);
    assert_eq!(parent.connections(), 0, "neither for the API nor for its token");
    let direct = |facts: &Facts| {
        known(through(facts, &proxy)).replace("upgrade_http = true", "upgrade_http = true\ndirect = true")
    };
    let stage = Stage::with(WorldSettings::default(), direct).await;
    assert_eq!(get(&stage).await.status, 200);
    assert_eq!(parent.asked().len(), 1, "for the token alone: {:?}", parent.asked());
}

/// Threats 24, 36, 38 and 39: the parent resolves names; addresses written as such, and our
/// own listeners, are refused here.
#[tokio::test]
async fn the_wall_stands_as_far_as_it_can_see() {
    let parent = Parent::start(None).await;
    let proxy = format!("proxy = \"http://{}\"", parent.address);
    let stage = stage(proxy).await;
    let own = [stage.forward().port(), stage.proxy.admin.unwrap().port()];
    let hosts = ["10.0.0.1:80", "[fd00::1]:80", "169.254.169.254:80", "127.0.0.1:80", "localhost:80", "203.0.113.7:80"];
    let mut hosts: Vec<String> = hosts.map(str::to_owned).to_vec();
    hosts.extend(own.iter().flat_map(|port| [format!("localhost:{port}"), format!("127.0.0.1:{port}")]));
    let config = fs::read_to_string(stage.config_path()).unwrap();
    stage.reload(&format!("{config}\n[[routes]]\nname = \"walled\"\nhosts = {hosts:?}\nagents = [\"researcher\"]\n"));
    for host in &hosts {
        let mut wire = Wire::connect(stage.forward()).await;
        let key = basic("researcher", &stage.key);
        wire.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {key}\r\n\r\n")).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, &*answer.code()), (403, "address_not_allowed"), "{host}");
    }
    assert_eq!(parent.connections(), 0);
}

/// A name that leads to one of our own listeners, where it can be known.
#[tokio::test]
async fn a_name_of_ours_isnt_sent_to_the_parent() {
    let parent = Parent::start(None).await;
    let proxy = format!("proxy = \"http://{}\"", parent.address);
    let stage = Stage::with(WorldSettings::default(), |facts| {
        through(facts, &proxy) + "\n[resolve]\n\"self.test\" = \"127.0.0.1\"\n"
    })
    .await;
    let admin = format!("self.test:{}", stage.proxy.admin.unwrap().port());
    let config = fs::read_to_string(stage.config_path()).unwrap();
    stage.reload(&format!(
        "{config}\n[[routes]]\nname = \"self\"\nhosts = [\"{admin}\"]\nagents = [\"researcher\"]\n\
         danger_allow_private_addresses = [\"127.0.0.0/8\"]\n"
    ));
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(connect_head(&stage, &admin)).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.send(format!("GET /healthz HTTP/1.1\r\nHost: {admin}\r\n\r\n")).await;
    assert_eq!(wire.answer().await.code(), "address_not_allowed");
    assert_eq!(parent.connections(), 0);
}

/// `unmatched = "tunnel"`: a blind tunnel goes through the parent, too, byte for byte.
#[tokio::test]
async fn a_blind_tunnel_goes_through_the_parent() {
    let far_end = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for scheme in ["http", "socks5"] {
        let parent = Parent::start(None).await;
        parent.set(Mood::Misleads(far_end.local_addr().unwrap()));
        let proxy = format!("proxy = \"{scheme}://{}\"", parent.address);
        let open = |facts: &Facts| through(facts, &proxy).replace("workers = 1", "workers = 1\nunmatched = \"tunnel\"");
        let stage = Stage::with(WorldSettings::default(), open).await;
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(connect_head(&stage, "anything.example:443")).await;
        // The upstream speaks first, right behind the parent's answer.
        let (mut stream, _) = far_end.accept().await.unwrap();
        stream.write_all(b"220 hello\r\n").await.unwrap();
        assert_eq!(wire.answer().await.status, 200);
        drop(stream);
        assert_eq!(wire.closed().await, b"220 hello\r\n");
        assert_eq!(parent.asked(), ["anything.example:443 nobody"]);
        drop(wire);
        assert!(stage.proxy.shutdown(Duration::from_secs(10)).await);
    }
}

/// What the upstream says may come in one piece with the parent's answer.
#[tokio::test]
async fn not_a_byte_behind_the_parents_answer_is_lost() {
    let parent = Parent::start(None).await;
    parent.set(Mood::Says(b"HTTP/1.1 200 OK\r\n\r\n220 hello\r\n".to_vec()));
    let proxy = format!("proxy = \"http://{}\"", parent.address);
    let open = |facts: &Facts| through(facts, &proxy).replace("workers = 1", "workers = 1\nunmatched = \"tunnel\"");
    let stage = Stage::with(WorldSettings::default(), open).await;
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(connect_head(&stage, "anything.example:443")).await;
    assert_eq!(wire.answer().await.status, 200);
    // A half-closed tunnel goes on until both sides are done.
    wire.finish().await;
    assert_eq!(wire.closed().await, b"220 hello\r\n");
}
