//! A human, played: `browser` and `device` log in at a scripted server, `logout` gives it
//! back, `callback` is what anybody on this machine may try at the loopback address.

mod browser;
mod callback;
mod device;
mod logout;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::Url;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::{Options, Page, Prompt, UserCode};
use crate::credential::{
    Broker, Error, Location, Settings, Spec,
    grant::{Grant, Login, LoginKind, Redirect},
    step::DpopUse,
    store::{Memory, Store},
    testing::{Act, AuthServer, Seen, answer, name, settings, shared, step, within},
};

const LIMIT: Duration = Duration::from_secs(60);

/// How a server differs from an ordinary one.
type Manners = dyn Fn(&Seen, usize) -> Option<Act> + Send + Sync;

/// A server that publishes metadata, with `more` in it, and answers each token request with
/// `at-N` and `rt-N`, and each revocation with 200.
async fn server(more: Value, manners: impl Fn(&Seen, usize) -> Option<Act> + Send + Sync + 'static) -> AuthServer {
    let manners: Box<Manners> = Box::new(manners);
    let tokens = Mutex::new(0);
    AuthServer::start(move |seen, number| {
        if let Some(act) = manners(seen, number) {
            return act;
        }
        match seen.path.as_str() {
            "/.well-known/oauth-authorization-server" => answer(200, &metadata(seen.header("host"), &more).to_string()),
            "/token" => {
                let mut tokens = tokens.lock().unwrap();
                *tokens += 1;
                granted(*tokens, if seen.headers.contains_key("dpop") { "DPoP" } else { "Bearer" })
            }
            "/revoke" => answer(200, ""),
            "/device" => answer(200, &begun(json!({})).to_string()),
            other => panic!("{other}"),
        }
    })
    .await
}

fn metadata(host: &str, more: &Value) -> Value {
    let mut metadata = json!({
        "issuer": format!("https://{host}"),
        "authorization_endpoint": format!("https://{host}/authorize?tenant=1"),
        "token_endpoint": format!("https://{host}/token"),
        "device_authorization_endpoint": format!("https://{host}/device"),
        "revocation_endpoint": format!("https://{host}/revoke"),
        "code_challenge_methods_supported": ["plain", "S256"],
    });
    for (name, value) in more.as_object().unwrap() {
        metadata[name] = value.clone();
    }
    metadata
}

fn granted(number: usize, kind: &str) -> Act {
    let body = json!({
        "access_token": format!("at-{number}"),
        "refresh_token": format!("rt-{number}"),
        "token_type": kind,
        "expires_in": 3600,
    });
    answer(200, &body.to_string())
}

fn begun(more: Value) -> Value {
    let mut begun = json!({
        "device_code": "canary-device-code",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://as.example/activate",
        "interval": 1,
        "expires_in": 600,
    });
    for (name, value) in more.as_object().unwrap() {
        begun[name] = value.clone();
    }
    begun
}

fn by_browser() -> LoginKind {
    let params = vec![("prompt".to_owned(), "consent".to_owned())];
    LoginKind::AuthorizationCode { redirect: Redirect::default(), params }
}

fn login_spec(server: &AuthServer, kind: LoginKind) -> (tempfile::TempDir, Spec) {
    let (directory, mut spec) = server.spec("orders", Location::Issuer(server.url("")));
    let step = step(&mut spec);
    step.grant = Grant::Login(Login { kind, seed: None, of: None });
    step.ask.scopes.push("offline_access".to_owned());
    (directory, spec)
}

fn bound(mut spec: Spec) -> Spec {
    step(&mut spec).dpop = DpopUse::Required;
    spec
}

fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::default())
}

fn broker(specs: &[Spec], store: &Arc<dyn Store>, settings: Settings) -> Broker {
    Broker::with_store(specs.to_vec(), shared(settings), store.clone()).unwrap()
}

/// What the human is shown.
#[derive(Debug)]
enum Shown {
    Page(Page),
    Code(UserCode),
}

struct Human(UnboundedSender<Shown>);

impl Prompt for Human {
    fn browse(&self, page: &Page) {
        let _ = self.0.send(Shown::Page(page.clone()));
    }

    fn enter(&self, code: &UserCode) {
        let _ = self.0.send(Shown::Code(code.clone()));
    }
}

/// A login on its way.
struct Attempt {
    shown: UnboundedReceiver<Shown>,
    done: JoinHandle<Result<(), Error>>,
}

impl Attempt {
    fn start(broker: &Broker, options: Options) -> Self {
        Self::start_for(broker, "orders", options)
    }

    fn start_for(broker: &Broker, credential: &str, options: Options) -> Self {
        let (shows, shown) = unbounded_channel();
        let (broker, credential) = (broker.clone(), name(credential));
        let done = tokio::spawn(async move { broker.log_in(&credential, &options, &Human(shows)).await });
        Self { shown, done }
    }

    async fn page(&mut self) -> Sent {
        match within(LIMIT, self.shown.recv()).await {
            Some(Shown::Page(page)) => Sent::read(&page),
            other => panic!("{other:?}"),
        }
    }

    async fn code(&mut self) -> UserCode {
        match within(LIMIT, self.shown.recv()).await {
            Some(Shown::Code(code)) => code,
            other => panic!("{other:?}"),
        }
    }

    async fn ended(self) -> Result<(), Error> {
        within(LIMIT, self.done).await.unwrap()
    }
}

/// What the authorization request says.
struct Sent {
    url: Url,
    params: HashMap<String, String>,
    redirect_uri: String,
}

impl Sent {
    fn read(page: &Page) -> Self {
        let url = Url::parse(&page.url).unwrap();
        let mut params = HashMap::new();
        for (name, value) in url.query_pairs() {
            assert!(params.insert(name.clone().into_owned(), value.into_owned()).is_none(), "{name} repeats");
        }
        assert_eq!(params["redirect_uri"], page.redirect_uri);
        assert_eq!(page.expires_in, Duration::from_secs(300));
        Self { url, params, redirect_uri: page.redirect_uri.clone() }
    }

    /// The browser comes back with our state and with `more`.
    async fn answer(&self, more: &[(&str, &str)]) -> (u16, String) {
        let state = [("state", self.params["state"].as_str())];
        self.bring(&[&state, more].concat()).await
    }

    async fn bring(&self, params: &[(&str, &str)]) -> (u16, String) {
        let mut url = Url::parse(&self.redirect_uri).unwrap();
        url.query_pairs_mut().extend_pairs(params);
        get(url.as_str()).await.unwrap()
    }
}

async fn get(url: &str) -> reqwest::Result<(u16, String)> {
    let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
    let response = client.get(url).send().await?;
    Ok((response.status().as_u16(), response.text().await?))
}

/// One login by browser, to a good end.
async fn log_in(broker: &Broker) {
    let mut attempt = Attempt::start(broker, Options::default());
    let page = attempt.page().await;
    assert_eq!(page.answer(&[("code", "c-1")]).await.0, 200);
    attempt.ended().await.unwrap();
}

async fn login_state(broker: &Broker) -> &'static str {
    broker.login_state(&name("orders")).await.unwrap().unwrap().state
}
