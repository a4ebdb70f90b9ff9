//! Each preset against a server that behaves as its provider is documented to: its status
//! codes, its odd bodies, what it leaves out. The server looks at what it gets as the provider
//! would, JWTs with their signatures, and a test looks at what was made of the answer.

mod auth0;
mod cognito;
mod entra;
mod github;
mod google;
mod keycloak;
mod odd;
mod okta;
mod salesforce;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    sync::{Arc, LazyLock, Mutex},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use cupbearer::{
    config::{self, Problems, Settings},
    credential::{Broker, Error, TokenState, store::Memory},
    observe::Recorder,
    primitives::{Clock, CredentialName, Host, Secret, SystemClock},
    tls::{CertificateAuthority, LeafCache},
};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Handle, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::support::{Facts, Stage};

/// The one host of every provider here; it resolves to loopback by the config's `[resolve]`.
const HOST: &str = "provider.test";

/// The private key of all clients: making an RSA key takes long.
static KEY: LazyLock<rcgen::KeyPair> = LazyLock::new(|| rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());

/// What a provider does with a request.
type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A provider: its authorization server, and its API where a test wants one.
struct Provider {
    base: String,
    authority: String,
    directory: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
    _serving: JoinSet<()>,
}

/// A request, as it arrived.
#[derive(Clone, Debug)]
struct Seen {
    /// Of the server: `https://provider.test:1234`.
    base: String,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: String,
    /// How many requests for the same path came before.
    nth: usize,
}

/// An answer, as the provider's documentation shows it.
#[derive(Clone, Debug)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

// === impl Provider ===

impl Provider {
    async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::with("https", script).await
    }

    /// A metadata server: no TLS.
    async fn in_clear_text(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::with("http", script).await
    }

    async fn with(scheme: &str, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let root = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
        let directory = crate::support::private_directory();
        fs::write(directory.path().join("ca.pem"), root.root_pem()).unwrap();
        let leaves = LeafCache::new(root, clock, 1).unwrap();
        let mut tls = rustls::ServerConfig::clone(&leaves.server_config(&Host::parse(HOST).unwrap()).unwrap());
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = (scheme == "https").then(|| TlsAcceptor::from(Arc::new(tls)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let authority = if tls.is_some() { format!("{HOST}:{}", address.port()) } else { address.to_string() };
        let base = format!("{scheme}://{authority}");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let serving = (base.clone(), seen.clone(), Arc::new(script) as Arc<Script>);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, (base, seen, script)) = (tls.clone(), serving.clone());
                connections.spawn(async move {
                    let service = service_fn(|request| {
                        let (base, seen, script) = (base.clone(), seen.clone(), script.clone());
                        async move { Ok::<_, Infallible>(answer(request, base, &seen, &*script).await) }
                    });
                    // A client that goes away is normal here.
                    let _ = match tls {
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                        }
                        None => http1::Builder::new().serve_connection(TokioIo::new(stream), service).await,
                    };
                });
            }
        });
        Self { base, authority, directory, seen, _serving: tasks }
    }

    /// A file that configs name as `FILES/NAME`.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    /// `text` with `PROVIDER` (its URL), `AUTHORITY` and `FILES` filled in, as a whole file.
    fn config(&self, text: &str) -> String {
        let files = self.directory.path().display().to_string();
        let text = text.replace("PROVIDER", &self.base).replace("AUTHORITY", &self.authority).replace("FILES", &files);
        format!("{text}\n[state]\ndirectory = \"state\"\n[resolve]\n\"{HOST}\" = \"127.0.0.1\"\n")
    }

    fn parse(&self, text: &str) -> Result<Settings, Problems> {
        config::parse(&self.config(text), &self.directory.path().join("proxy.toml"), &|_| None)
    }

    /// What `check` says of `text`.
    fn problems(&self, text: &str) -> String {
        self.parse(text).expect_err("a problem").render(false)
    }

    /// Tokens as the config says, without a proxy around.
    fn broker(&self, text: &str) -> Broker {
        let settings = self.parse(text).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        let recorder = Recorder::start(&cupbearer::observe::Settings::default()).unwrap();
        let (clock, store) = (Arc::new(SystemClock), Arc::new(Memory::default()));
        Broker::new(settings.credentials, settings.tokens, clock, recorder, Handle::current(), store).unwrap()
    }

    /// A running proxy, with this provider as the API.
    async fn stage(&self, text: &str) -> Stage {
        Stage::with(Default::default(), |Facts { key_sha256, .. }| {
            let head = "[proxy]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n";
            let agent = format!("[agents.researcher]\nkey_sha256 = \"{key_sha256}\"\n");
            self.config(&format!("{head}{agent}{text}"))
        })
        .await
    }

    /// The requests for `path`, in their order.
    fn seen(&self, path: &str) -> Vec<Seen> {
        self.all().into_iter().filter(|seen| seen.path == path).collect()
    }

    fn all(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

async fn answer(
    request: Request<Incoming>,
    base: String,
    all: &Mutex<Vec<Seen>>,
    script: &Script,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let path = head.uri.path().to_owned();
    let seen = {
        let mut all = all.lock().unwrap();
        let nth = all.iter().filter(|earlier| earlier.path == path).count();
        all.push(Seen { base, method: head.method, path, headers: head.headers, body, nth });
        all[all.len() - 1].clone()
    };
    let Reply { status, headers, body } = script(&seen);
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Full::new(body.into())).unwrap()
}

// === impl Seen ===

impl Seen {
    /// The parameters of a token request, each of which stands there once.
    #[track_caller]
    fn form(&self) -> BTreeMap<String, String> {
        assert_eq!(self.method, Method::POST);
        assert_eq!(self.header("content-type"), "application/x-www-form-urlencoded");
        let url = reqwest::Url::parse(&format!("https://x/?{}", self.body)).unwrap();
        let mut form = BTreeMap::new();
        for (name, value) in url.query_pairs() {
            assert!(form.insert(name.clone().into_owned(), value.into_owned()).is_none(), "{name} repeats");
        }
        form
    }

    /// The form is exactly this.
    #[track_caller]
    fn asks<const N: usize>(&self, wanted: [(&str, &str); N]) {
        let form = self.form();
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut wanted = wanted;
        wanted.sort_unstable();
        assert_eq!(form, wanted);
    }

    /// Empty where there is none.
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// What is in `Authorization: Basic`.
    #[track_caller]
    fn basic(&self) -> String {
        let pair = self.header("authorization").strip_prefix("Basic ").expect("Basic");
        String::from_utf8(STANDARD.decode(pair).unwrap()).unwrap()
    }

    #[track_caller]
    fn bearer(&self) -> &str {
        self.header("authorization").strip_prefix("Bearer ").expect("Bearer")
    }
}

// === impl Reply ===

impl Reply {
    fn text(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.to_owned() }
    }

    fn json(status: u16, body: &Value) -> Self {
        Self::text(status, &body.to_string()).with("content-type", "application/json")
    }

    /// `{"error": …, "error_description": …}`.
    fn error(status: u16, code: &str, description: &str) -> Self {
        Self::json(status, &json!({ "error": code, "error_description": description }))
    }

    /// An ordinary token for an hour.
    fn token(token: &str) -> Self {
        Self::json(200, &json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 }))
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn nothing_here() -> Self {
        Self::text(404, "Not Found")
    }
}

/// The document at a well-known place of this issuer.
fn metadata(seen: &Seen, issuer: &str, endpoints: &[(&str, &str)]) -> Reply {
    let mut document = json!({ "issuer": format!("{}{issuer}", seen.base) });
    for (name, path) in endpoints {
        document[*name] = format!("{}{path}", seen.base).into();
    }
    Reply::json(200, &document)
}

// === tokens and keys ===

fn name(text: &str) -> CredentialName {
    CredentialName::parse(text).unwrap()
}

async fn refresh(broker: &Broker, credential: &str) -> Result<TokenState, Error> {
    broker.refresh(&name(credential)).await
}

fn state(broker: &Broker, credential: &str) -> TokenState {
    broker.states().into_iter().find(|state| state.credential == credential).unwrap()
}

/// This token is the one that is in use, for about so many seconds.
#[track_caller]
fn holds(state: &TokenState, token: &str, seconds: u64) {
    let fingerprint = Secret::new(token.to_owned()).fingerprint().to_string();
    assert_eq!((state.state, state.fingerprint.as_deref()), ("valid", Some(fingerprint.as_str())), "{state:?}");
    let left = state.expires_in_seconds.unwrap();
    assert!((seconds.saturating_sub(60)..=seconds).contains(&left), "{left} s of {seconds}");
}

fn unix_now() -> u64 {
    SystemClock.unix_seconds()
}

/// The key's public half takes the signature, and `aud` is this one text. Header and claims.
#[track_caller]
fn verified(jwt: &str, algorithm: Algorithm, audience: &str) -> (Value, Value) {
    let (header, claims) = verified_without_audience(jwt, algorithm);
    assert_eq!(claims["aud"], audience);
    (header, claims)
}

#[track_caller]
fn verified_without_audience(jwt: &str, algorithm: Algorithm) -> (Value, Value) {
    let mut validation = Validation::new(algorithm);
    validation.validate_aud = false;
    let key = DecodingKey::from_rsa_pem(KEY.public_key_pem().as_bytes()).unwrap();
    let claims = jsonwebtoken::decode::<Value>(jwt, &key, &validation).unwrap().claims;
    let (issued, ends) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
    assert!(issued <= unix_now() && unix_now() - issued < 120 && issued < ends, "{claims}");
    (part(jwt, 0), claims)
}

/// Header (0) or claims (1), unverified.
fn part(jwt: &str, number: usize) -> Value {
    let part = jwt.split('.').nth(number).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// A token with claims, of the provider's own making.
fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({ "alg": "RS256", "typ": "at+jwt" })), part(claims), "c2lnbmF0dXJl")
}

/// As GitHub hands keys out: PKCS#1.
fn pkcs1_pem() -> String {
    // RFC 5208 around RFC 8017: version, algorithm, and the octet string's own header.
    let der = &KEY.serialized_der()[26..];
    assert_eq!(der[..2], [0x30, 0x82]);
    let digits = STANDARD.encode(der);
    let lines: Vec<&str> = digits.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", lines.join("\n"))
}
