//! The resident canary test: unusual secrets are planted everywhere, everything that can go
//! well or wrong is made to happen at the highest log level, and whatever comes out of the
//! program is searched for each of them, in every spelling (threats 19 and 20).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use cupbearer::{
    demo::{
        WorldSettings,
        authorization_server::{AuthMethod, Client, Fault, GrantType},
        world::{AUDIENCE, CLIENT_ID},
    },
    primitives::Secret,
};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    binary::{LIMIT, Serve, Town, direct, finish},
    support::API,
};

// The characters that forms, JSON, shells, base64 and terminals treat in their own ways.
const BY_FILE: &str = "cAn4ry-file+/=&%25 \"s\u{e9}cr\u{ea}t\"<>'\\";
const BY_ENV: &str = "cAn4ry-env:+/=&%41 $(x) `y` ~";
const BY_COMMAND: &str = "cAn4ry-command|?#[]@!*,;{}^";
const REFUSED: &str = "cAn4ry-refused\u{1f511}+ %zz";
const INLINE: &str = "cAn4ry-inline-in-the-config";
const OPAQUE_TOKEN: &str = "cAn4ry-opaque.access~token+/==";
const BAD_TOKEN: &str = "cAn4ry-token-with\r\nSet-Cookie: a=b";
const CUT_TOKEN: &str = "cAn4ry-in-an-answer-that-is-cut";
const OWN_AUTHORIZATION: &str = "cAn4ry-own-authorization";
const IN_QUERY: &str = "cAn4ry-in-the-query";
const WRONG_KEY: &str = "cup_cAn4ry-wrong-key-of-an-agent";
const WRONG_ADMIN_KEY: &str = "cAn4ry-wrong-key-of-the-operator-000";

const PLANTED: [&str; 12] = [
    BY_FILE,
    BY_ENV,
    BY_COMMAND,
    REFUSED,
    INLINE,
    OPAQUE_TOKEN,
    BAD_TOKEN,
    CUT_TOKEN,
    OWN_AUTHORIZATION,
    IN_QUERY,
    WRONG_KEY,
    WRONG_ADMIN_KEY,
];

const ENV_NAME: &str = "CANARY_CLIENT_SECRET";

// === The search ===

/// What came out, by where it came out.
#[derive(Default)]
struct Heap(Vec<(String, String)>);

impl Heap {
    fn add(&mut self, place: impl Into<String>, text: impl AsRef<[u8]>) {
        self.0.push((place.into(), String::from_utf8_lossy(text.as_ref()).into_owned()));
    }

    fn text(&self, place: &str) -> String {
        self.0.iter().filter(|(name, _)| name.contains(place)).map(|(_, text)| text.as_str()).collect()
    }

    /// Where which secret shows, in which spelling.
    fn search(&self, secrets: &BTreeSet<String>) -> Vec<String> {
        let mut found = Vec::new();
        for secret in secrets {
            for (spelling, needle) in spellings(secret) {
                for (place, text) in &self.0 {
                    let Some((before, after)) = text.split_once(&needle) else { continue };
                    let around = (tail(before, 120), after.chars().take(40).collect::<String>());
                    found.push(format!("{secret:?} as {spelling} in {place}: …{}[HERE]{}…", around.0, around.1));
                }
            }
        }
        found
    }
}

fn tail(text: &str, most: usize) -> String {
    text.chars().skip(text.chars().count().saturating_sub(most)).collect()
}

/// The secret as programs write it. Base64 in each of the three ways that it can lie in a
/// longer text, as in `Basic`.
fn spellings(secret: &str) -> Vec<(String, String)> {
    let percent = |upper: bool, space: &str| -> String {
        secret
            .bytes()
            .map(|byte| match byte {
                byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => char::from(byte).to_string(),
                b' ' => space.to_owned(),
                byte if upper => format!("%{byte:02X}"),
                byte => format!("%{byte:02x}"),
            })
            .collect()
    };
    let json = json!(secret).to_string();
    let debug = format!("{secret:?}");
    let texts = [
        ("itself", secret.to_owned()),
        ("percent", percent(true, "%20")),
        ("lower percent", percent(false, "%20")),
        ("form", percent(true, "+")),
        ("json", json[1..json.len() - 1].to_owned()),
        ("debug", debug[1..debug.len() - 1].to_owned()),
        ("its first line", secret.lines().next().unwrap().to_owned()),
    ];
    let mut spellings = Vec::new();
    for (name, text) in &texts {
        spellings.push(((*name).to_owned(), text.clone()));
        for offset in 0..3 {
            let bytes = [&vec![0; offset], text.as_bytes()].concat();
            let skip = [0, 2, 3][offset];
            let cut = usize::from(bytes.len() % 3 != 0);
            for (kind, encoded) in [("base64", STANDARD_NO_PAD.encode(&bytes)), ("url", URL_SAFE_NO_PAD.encode(&bytes))]
            {
                let sure = &encoded[skip..encoded.len() - cut];
                spellings.push((format!("{name}, {kind} at {offset}"), sure.to_owned()));
            }
        }
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        spellings.push((format!("{name}, hex"), hex.to_uppercase()));
        spellings.push((format!("{name}, lower hex"), hex));
    }
    assert!(spellings.iter().all(|(_, text)| text.len() >= 8), "too short to mean anything");
    spellings.sort_by(|one, other| one.1.cmp(&other.1));
    spellings.dedup_by(|one, other| one.1 == other.1);
    spellings
}

/// The search finds what it is there to find, and nothing else.
#[test]
fn a_planted_canary_is_found_in_every_spelling() {
    for secret in PLANTED {
        let secrets = BTreeSet::from([secret.to_owned()]);
        let mut clean = Heap::default();
        clean.add("log", "cAn4ry-without-a-meaning ".repeat(50));
        assert_eq!(clean.search(&secrets), Vec::<String>::new());
        for (spelling, text) in spellings(secret) {
            let mut heap = Heap::default();
            heap.add("log", format!("before {text} after"));
            assert!(!heap.search(&secrets).is_empty(), "{secret:?} as {spelling} isn't found");
        }
        // As it would lie in a header.
        for user in ["a", "ab", "abc"] {
            let mut heap = Heap::default();
            heap.add("log", format!("authorization: Basic {}", STANDARD_NO_PAD.encode(format!("{user}:{secret}"))));
            assert!(!heap.search(&secrets).is_empty(), "{secret:?} isn't found in Basic");
        }
    }
}

// === The stage ===

fn client(id: &str, secret: &str) -> Client {
    Client {
        id: id.to_owned(),
        secrets: vec![Secret::new(secret.to_owned())],
        auth_methods: vec![AuthMethod::ClientSecretBasic, AuthMethod::ClientSecretPost],
        grants: vec![GrantType::ClientCredentials],
        scopes: vec!["read:orders".to_owned(), "write:orders".to_owned()],
        audiences: vec![AUDIENCE.to_owned()],
        ..Client::default()
    }
}

/// A credential and its route for each place where a secret can be; `refused` has the wrong one.
fn config(plain: String, api_port: u16) -> String {
    let mut config = plain;
    let sources = [
        ("by-file", "basic", "{ file = \"file-secret\" }", "/v1/orders"),
        ("by-env", "post", &format!("{{ env = \"{ENV_NAME}\" }}"), "/v1/whoami"),
        ("by-command", "basic", "{ command = [\"cat\", \"command-secret\"] }", "/v1/bytes/*"),
        ("refused", "post", "{ file = \"refused-secret\" }", "/v1/echo"),
    ];
    for (name, method, source, path) in sources {
        config.push_str(&format!(
            r#"
[credentials.{name}]
grant = "client_credentials"
authorization_server = "main"
client_id = "{name}"
client_auth = {{ method = "client_secret_{method}", secret = {source} }}
audience = "{AUDIENCE}"
hosts = ["{API}:{api_port}"]

[[routes]]
name = "{name}"
hosts = ["{API}:{api_port}"]
paths = ["{path}"]
agents = ["researcher"]
credential = "{name}"
upgrade_http = true
upstream_ca = "peers-ca.pem"
danger_allow_private_addresses = ["127.0.0.0/8"]
"#
        ));
    }
    config
}

async fn town() -> Town {
    let clients = vec![
        client("by-file", BY_FILE),
        client("by-env", BY_ENV),
        client("by-command", BY_COMMAND),
        client("refused", "another secret than the one that is sent"),
    ];
    let settings = WorldSettings { clients, ..WorldSettings::default() };
    let town = Town::with(settings, |facts| config(facts.config(), facts.api_port)).await;
    let only = town.facts.config().replace("\"client-secret\"", "\"file-secret\"").replace(CLIENT_ID, "by-file");
    town.home.write("only.toml", only);
    town.home.write("file-secret", BY_FILE);
    town.home.write("command-secret", BY_COMMAND);
    town.home.write("refused-secret", REFUSED);
    town
}

/// Everything that came out of the program, and every secret that went in or through.
struct Hunt {
    town: Town,
    heap: Heap,
    secrets: BTreeSet<String>,
}

impl Hunt {
    async fn start(log: &str, filter: &str) -> (Self, Serve) {
        let town = town().await;
        let mut command = town.home.cupbearer(&["serve", "-vv", "--log", log]);
        command.env("CUPBEARER_LOG", filter);
        let serve = Serve::start(command_with_secret(&mut command)).await;
        let mut text = town.config();
        for address in [serve.forward, serve.admin, serve.reverse] {
            text = text.replacen("\"127.0.0.1:0\"", &format!("\"{address}\""), 1);
        }
        town.home.write("proxy.toml", text);
        let mut secrets: BTreeSet<String> = PLANTED.iter().map(|secret| (*secret).to_owned()).collect();
        secrets.insert(town.key.clone());
        (Self { town, heap: Heap::default(), secrets }, serve)
    }

    /// A `cupbearer` command; what it prints is evidence.
    async fn cupbearer(&mut self, arguments: &[&str]) -> i32 {
        let mut command = self.town.home.cupbearer(arguments);
        let finished = finish(command_with_secret(&mut command)).await;
        self.heap.add(format!("cupbearer {}", arguments.join(" ")), finished.all());
        finished.status
    }

    /// The head and the body of an answer that we made, or the upstream.
    async fn keep(&mut self, what: &str, request: reqwest::RequestBuilder) -> Option<u16> {
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(_) => return None,
        };
        let status = answer.status();
        let mut text = format!("{status} {:?} ", answer.headers()).into_bytes();
        text.extend(answer.bytes().await.unwrap_or_default());
        self.heap.add(format!("answer to {what}"), text);
        Some(status.as_u16())
    }

    /// Bytes as an agent may send them that keeps no rules.
    async fn raw(&mut self, what: &str, serve: &Serve, text: &str) {
        let mut stream = TcpStream::connect(serve.forward).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
        self.heap.add(format!("answer to {what}"), answer);
    }

    async fn requests_that_go_well(&mut self, serve: &Serve) {
        let own = format!("Bearer {OWN_AUTHORIZATION}");
        let agent = self.town.agent(serve);
        let query = format!("?q={IN_QUERY}");
        for path in ["/v1/orders", "/v1/whoami", "/v1/bytes/10"] {
            let url = self.town.url(&format!("{path}{query}"));
            let request = agent.get(&url).header("authorization", &own).header("x-api-key", OWN_AUTHORIZATION);
            assert_eq!(self.keep(path, request).await, Some(200));
            let plain = agent.get(url.replace("https://", "http://")).header("authorization", &own);
            assert_eq!(self.keep(path, plain).await, Some(200));
        }
        let base = format!("http://{}/v1/orders{query}", serve.reverse);
        for (name, value) in
            [("x-api-key", self.town.key.clone()), ("authorization", format!("Bearer {}", self.town.key))]
        {
            assert_eq!(self.keep("base URL", direct().get(&base).header(name, value)).await, Some(200));
        }
        // A 401 upstream: the token is renewed, and the second time passed on.
        self.town.world.api().reject_next(1);
        assert_eq!(self.keep("a 401", agent.get(self.town.url("/v1/orders"))).await, Some(200));
        self.town.world.api().reject_next(9);
        assert_eq!(self.keep("two 401", agent.get(self.town.url("/v1/orders"))).await, Some(401));
        self.town.world.api().reject_next(0);
    }

    async fn requests_that_are_refused(&mut self, serve: &Serve) {
        let agent = self.town.agent(serve);
        let stranger = self.town.agent_with_key(serve, WRONG_KEY);
        let own = format!("Bearer {OWN_AUTHORIZATION}");
        let plain = |path: &str| format!("http://{API}:{}{path}", self.town.facts.api_port);
        let requests = [
            ("a path", agent.get(plain(&format!("/v2?q={IN_QUERY}"))), 403),
            ("a host", agent.get(format!("http://other.test/?q={IN_QUERY}")), 403),
            ("a method", agent.request(Method::TRACE, plain("/v1/orders")), 405),
            ("a token in the query", agent.get(plain(&format!("/v1/orders?access_token={IN_QUERY}"))), 400),
            ("a wrong key", stranger.get(plain("/v1/orders")), 407),
            ("a wrong secret", agent.post(plain("/v1/echo")).body("x"), 502),
        ];
        for (what, request, status) in requests {
            assert_eq!(self.keep(what, request.header("authorization", &own)).await, Some(status), "{what}");
        }
        let base = format!("http://{}/v1/orders", serve.reverse);
        assert_eq!(self.keep("a wrong key", direct().get(&base).header("x-api-key", WRONG_KEY)).await, Some(407));
        let _ = stranger.get(self.town.url("/v1/orders")).send().await;

        let key = STANDARD_NO_PAD.encode(format!("researcher:{WRONG_KEY}"));
        let raws = [
            format!("GET http://me:{OWN_AUTHORIZATION}@{API}/v1/orders HTTP/1.1\r\nHost: {API}\r\n\r\n"),
            format!("CONNECT me:{OWN_AUTHORIZATION}@{API}:443 HTTP/1.1\r\nHost: {API}:443\r\n\r\n"),
            format!("GET http://{API}/ HTTP/1.1\r\nAuthor ization: {OWN_AUTHORIZATION}\r\n\r\n"),
            format!("GET http://{API}/ HTTP/1.1\r\nAuthorization: {OWN_AUTHORIZATION}\0\r\n\r\n"),
            format!(
                "GET /?access_token={IN_QUERY} HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Basic {key}\r\n\r\n"
            ),
            format!("{OWN_AUTHORIZATION}\r\n\r\n"),
            format!("GET http://{API}/ HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Weird {WRONG_KEY}\r\n\r\n"),
            format!(
                "GET http://{API}/ HTTP/1.1\r\nHost: {API}\r\nProxy-Authorization: Basic {key}\r\nProxy-Authorization: Bearer {WRONG_KEY}\r\n\r\n"
            ),
            format!(
                "GET http://{API}/ HTTP/1.1\r\nHost: {API}\r\nConnection: {OWN_AUTHORIZATION}, authorization\r\n\r\n"
            ),
        ];
        for text in &raws {
            self.raw(
                &format!("{text:?}")
                    .replace(OWN_AUTHORIZATION, "…")
                    .replace(WRONG_KEY, "…")
                    .replace(IN_QUERY, "…")
                    .replace(&key, "…"),
                serve,
                text,
            )
            .await;
        }
    }

    /// The authorization server misbehaves in every way that has our secrets in it.
    async fn token_requests_that_fail(&mut self, serve: &Serve) {
        let basic = STANDARD.encode(format!("{}:{}", form("by-file"), form(BY_FILE)));
        let echoes =
            [format!("it was {BY_FILE}"), format!("it was {}", form(BY_FILE)), format!("it was Basic {basic}")];
        let over = |members: serde_json::Value| Fault::Override(members.as_object().unwrap().clone());
        let echo = |status: u16, body: serde_json::Value| Fault::Status { status, body: body.to_string() };
        let mut faults = Vec::new();
        for text in &echoes {
            faults.extend([
                echo(400, json!({ "error": "invalid_client", "error_description": text })),
                echo(401, json!({ "error": text })),
                echo(503, json!({ "error": "server_error", "error_description": text })),
                echo(500, json!(text)),
                over(json!({ "token_type": text })),
            ]);
        }
        faults.extend([
            Fault::RawBody(format!("{{\"token_type\":\"Bearer\",\"access_token\":\"{CUT_TOKEN}")),
            Fault::RawBody(format!("{{\"token_type\":\"Bearer\",\"access_token\":[\"{CUT_TOKEN}\"]}}")),
            Fault::RawBody(format!("\"{CUT_TOKEN}\"")),
            Fault::Redirect { status: 307, location: format!("https://{API}/?code={CUT_TOKEN}") },
            over(json!({ "token_type": "mac", "access_token": OPAQUE_TOKEN })),
            over(json!({ "token_type": null, "access_token": OPAQUE_TOKEN })),
            over(json!({ "access_token": BAD_TOKEN })),
            Fault::Disconnect,
            Fault::LoseAnswer,
        ]);
        let server = self.town.world.authorization_server().clone();
        for (number, fault) in faults.into_iter().enumerate() {
            server.set_fault(Some(fault.clone()));
            assert_eq!(self.cupbearer(&["token", "refresh", "by-file", "-vv"]).await, 1, "{number}: {fault:?}");
            // Only this credential is in it: nobody else is told its secret.
            assert_eq!(self.cupbearer(&["check", "--online", "-vv", "--config", "only.toml"]).await, 1);
            assert_eq!(self.cupbearer(&["token", "show", "by-file"]).await, 0);
        }
        assert_eq!(self.cupbearer(&["token", "list", "--json"]).await, 0);
        // A token that the API refuses; then nothing is left to serve with.
        server.set_fault(Some(over(json!({ "access_token": OPAQUE_TOKEN, "expires_in": 3600 }))));
        assert_eq!(self.cupbearer(&["token", "refresh", "by-file"]).await, 0);
        let request = self.town.agent(serve).get(self.town.url("/v1/orders"));
        assert_eq!(self.keep("an opaque token", request).await, Some(401));
        server.set_fault(None);
    }

    async fn operators_questions(&mut self, serve: &Serve) {
        let admin_key = fs::read_to_string(self.town.home.work("state/admin.key")).unwrap().trim().to_owned();
        for (key, good) in [(&*admin_key, true), (WRONG_ADMIN_KEY, false)] {
            for path in ["/healthz", "/readyz", "/metrics", "/api/v1/tokens", "/api/v1/tokens/refused"] {
                let url = format!("http://{}{path}?key={IN_QUERY}", serve.admin);
                let status = self.keep(&format!("admin {path}"), direct().get(url).bearer_auth(key)).await.unwrap();
                assert_eq!(status, if good || !path.starts_with("/api") { 200 } else { 401 }, "{path}");
            }
            let url = format!("http://{}/api/v1/tokens/refused/refresh", serve.admin);
            let status = self.keep("admin refresh", direct().post(url).bearer_auth(key)).await;
            assert_eq!(status, Some(if good { 502 } else { 401 }));
        }
        self.secrets.insert(admin_key);

        let url = self.town.url(&format!("/v1/orders?q={IN_QUERY}"));
        assert_eq!(self.cupbearer(&["explain", "GET", &url, "-vv"]).await, 0);
        let url = self.town.url(&format!("/v1/orders?access_token={IN_QUERY}"));
        assert_eq!(self.cupbearer(&["explain", "GET", &url, "--json"]).await, 1);
        assert_eq!(self.cupbearer(&["check", "-vv"]).await, 0);
        // A run has an agent's key of its own.
        let script = format!(
            "echo \"$CLOUDSDK_PROXY_PASSWORD\" > run-key; curl -sS -o /dev/null {}",
            self.town.url("/v1/orders")
        );
        assert_eq!(self.cupbearer(&["run", "-vv", "--", "sh", "-c", &script]).await, 0);
        let key = fs::read_to_string(self.town.home.work("run-key")).unwrap().trim().to_owned();
        assert!(key.starts_with("cup_"), "{key}");
        self.secrets.insert(key);
        // The arguments hold the canary themselves: not evidence.
        for (place, _) in &mut self.heap.0 {
            *place = place.replace(IN_QUERY, "…");
        }
    }

    /// A config that has secrets in it, which is refused.
    async fn a_bad_reload(&mut self, serve: &mut Serve) {
        let good = self.town.config();
        let bad = good.replace("{ file = \"file-secret\" }", &format!("\"{INLINE}\""));
        let bad = bad.replacen("key_sha256 = \"", &format!("key_sha256 = \"{}", self.town.key), 1);
        self.town.home.write("proxy.toml", &bad);
        serve.signal(Signal::SIGHUP);
        serve.wait_for("the former one stays in force").await;
        assert_eq!(self.cupbearer(&["check", "-vv"]).await, 2);
        self.town.home.write("proxy.toml", good);
        serve.signal(Signal::SIGHUP);
        serve.wait_for("the config was reloaded").await;
    }

    async fn the_world_goes_down(&mut self, serve: &Serve) {
        let agent = self.town.agent(serve);
        self.town.world.stop_authorization_server();
        assert_eq!(self.cupbearer(&["token", "refresh", "by-command"]).await, 1);
        self.town.world.stop_api();
        assert_eq!(self.keep("an API that is gone", agent.get(self.town.url("/v1/bytes/1"))).await, Some(502));
    }

    /// Ends the proxy and gathers what it leaves.
    async fn gather(&mut self, serve: Serve) {
        let status = format!("/proc/{}/cmdline", serve.id());
        self.heap.add(&status, fs::read(&status).unwrap());
        let ended = serve.terminate().await.expect(0);
        self.heap.add("serve's stdout", ended.stdout);
        self.heap.add("serve's log", ended.stderr);
        let state = self.town.home.work("state");
        let files = files(&state);
        assert!(files.iter().any(|path| path.ends_with("audit.jsonl")), "{files:?}");
        for path in files {
            let kept = path.ends_with("admin.key") || path.extension().is_some_and(|extension| extension == "key");
            if !kept {
                self.heap.add(path.display().to_string(), fs::read(&path).unwrap());
            }
        }
        for seen in self.town.world.api().seen() {
            let value = seen.headers.get("authorization").expect("the API saw a request without a token");
            let token = value.to_str().unwrap().strip_prefix("Bearer ").unwrap();
            assert_ne!(token, OWN_AUTHORIZATION);
            self.secrets.insert(token.to_owned());
        }
    }
}

fn command_with_secret(command: &mut tokio::process::Command) -> tokio::process::Command {
    let mut command = std::mem::replace(command, tokio::process::Command::new("true"));
    command.env(ENV_NAME, BY_ENV);
    command
}

/// `application/x-www-form-urlencoded`, as RFC 6749 §2.3.1 wants it in `Basic`.
fn form(text: &str) -> String {
    let mut form = reqwest::Url::parse("http://a/").unwrap();
    form.query_pairs_mut().append_pair("k", text);
    form.query().unwrap().strip_prefix("k=").unwrap().to_owned()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// `words`: what the log has in it if it is as loud as was asked for.
async fn hunt(log: &str, filter: &str, words: [&str; 2]) {
    let (mut hunt, mut serve) = Hunt::start(log, filter).await;
    hunt.requests_that_go_well(&serve).await;
    hunt.requests_that_are_refused(&serve).await;
    hunt.token_requests_that_fail(&serve).await;
    hunt.operators_questions(&serve).await;
    hunt.a_bad_reload(&mut serve).await;
    hunt.the_world_goes_down(&serve).await;
    hunt.gather(serve).await;

    // All this was looked at, and it says something.
    for (place, said) in [
        ("serve's log", words[0]),
        ("serve's log", words[1]),
        ("serve's log", "invalid_client"),
        ("audit.jsonl", "token.failed"),
        ("audit.jsonl", "path_not_allowed"),
        ("admin /metrics", "cupbearer_token_refresh_failures_total"),
        ("admin /api/v1/tokens", "by-command"),
        ("cupbearer token show", "fingerprint"),
        ("cupbearer check", "problem"),
        ("answer to a wrong key", "agent_unknown"),
        ("/cmdline", "serve"),
    ] {
        assert!(hunt.heap.text(place).contains(said), "nothing of {said} in {place}");
    }
    assert!(hunt.secrets.len() > PLANTED.len() + 5, "only {} secrets", hunt.secrets.len());
    let found = hunt.heap.search(&hunt.secrets);
    assert!(found.is_empty(), "secrets came out:\n{}", found.join("\n"));
    // The search itself works on this very heap.
    hunt.heap.add("a leak", format!("x{BY_ENV}x"));
    assert!(!hunt.heap.search(&hunt.secrets).is_empty());
}

#[tokio::test]
async fn no_secret_comes_out_of_our_loudest_log() {
    hunt("text", "", ["TRACE", "cupbearer::proxy"]).await;
}

#[tokio::test]
async fn no_secret_comes_out_of_the_libraries_loudest_log() {
    hunt("json", "trace", ["\"target\":\"h2::", "\"target\":\"hyper"]).await;
}
