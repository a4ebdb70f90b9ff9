//! The stage that behaviour tests stand on: a real authorization server, a real protected
//! API, the proxy between, all on free ports of loopback, TLS verified everywhere.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use cupbearer::{
    app::{self, Running, Surroundings},
    config::{self, Settings},
    credential::store::Memory,
    demo::{World, WorldSettings, world::CLIENT_ID},
    identity,
    primitives::{Clock, SystemClock, digest},
    tls::CertificateAuthority,
};
use serde_json::Value;

/// The API's name; it resolves to loopback by the config's `[resolve]`.
pub const API: &str = "orders.test";

/// What a config has to know of the stage.
#[derive(Clone, Debug)]
pub struct Facts {
    pub issuer: String,
    pub api_port: u16,
    pub key_sha256: String,
}

impl Facts {
    /// A complete config: one agent, one credential, one route for everything under `/v1`.
    /// Listens as forward proxy and, in reverse mode, for the API.
    pub fn config(&self) -> String {
        let Self { issuer, api_port, key_sha256 } = self;
        format!(
            r#"
[proxy]
listen = ["127.0.0.1:0"]
workers = 1

[state]
directory = "state"

[admin]
listen = "127.0.0.1:0"

[authorization_servers.main]
issuer = "{issuer}"
ca = "peers-ca.pem"

[credentials.orders]
grant = "client_credentials"
authorization_server = "main"
client_id = "{CLIENT_ID}"
client_auth = {{ method = "client_secret_basic", secret = {{ file = "client-secret" }} }}
audience = "https://orders.demo.test/"
scopes = ["read:orders", "write:orders"]
hosts = ["{API}:{api_port}"]

[agents.researcher]
key_sha256 = "{key_sha256}"

[[routes]]
name = "orders"
hosts = ["{API}:{api_port}"]
paths = ["/v1/**"]
agents = ["researcher"]
credential = "orders"
upgrade_http = true
upstream_ca = "peers-ca.pem"
danger_allow_private_addresses = ["127.0.0.0/8"]

[[reverse]]
name = "orders-base-url"
listen = "127.0.0.1:0"
upstream = "https://{API}:{api_port}"

[resolve]
"{API}" = "127.0.0.1"
"#
        )
    }
}

impl Facts {
    /// The same, with a credential that lives on the refresh token in a file.
    pub fn config_with_login(&self) -> String {
        let credential = "grant = \"refresh_token\"\nrefresh_token = { file = \"refresh-token\" }";
        let config = self.config().replace("grant = \"client_credentials\"", credential);
        let asks = |line: &&str| !line.starts_with("audience =") && !line.starts_with("scopes =");
        config.lines().filter(asks).map(|line| format!("{line}\n")).collect()
    }
}

/// Everything up and running; all of it ends with the value.
pub struct Stage {
    pub world: World,
    pub proxy: Running,
    pub facts: Facts,
    pub key: String,
    pub directory: tempfile::TempDir,
}

impl Stage {
    /// The ordinary stage.
    pub async fn start() -> Self {
        Self::with(WorldSettings::default(), Facts::config).await
    }

    /// A stage of its own: `config` makes the text of `proxy.toml`.
    pub async fn with(world: WorldSettings, config: impl FnOnce(&Facts) -> String) -> Self {
        let world = World::start(WorldSettings { dns_names: vec![API.to_owned()], ..world }).await.unwrap();
        let (key, hash) = identity::generate_key().unwrap();
        let facts = Facts {
            issuer: world.issuer().to_owned(),
            api_port: world.api_address().port(),
            key_sha256: digest::hex(&hash),
        };
        let directory = private_directory();
        fs::write(directory.path().join("peers-ca.pem"), world.ca_pem()).unwrap();
        fs::write(directory.path().join("client-secret"), world.client_secret().expose()).unwrap();
        fs::write(directory.path().join("proxy.toml"), config(&facts)).unwrap();
        let settings = load(&directory.path().join("proxy.toml"));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
        let instance = app::random_instance().unwrap();
        let proxy =
            app::start(&settings, Surroundings { authority, clock, instance, store: Arc::new(Memory::default()) })
                .unwrap();
        Self { world, proxy, facts, key: key.expose().to_owned(), directory }
    }

    /// Writes another config over the first one and reloads it.
    pub fn reload(&self, config: &str) {
        fs::write(self.config_path(), config).unwrap();
        self.proxy.reload(&load(&self.config_path())).unwrap();
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("proxy.toml")
    }

    pub fn forward(&self) -> SocketAddr {
        self.proxy.forward[0].tcp().unwrap()
    }

    pub fn reverse(&self) -> SocketAddr {
        self.proxy.reverse[0].tcp().unwrap()
    }

    pub fn socks(&self) -> SocketAddr {
        self.proxy.socks[0].tcp().unwrap()
    }

    /// `https://orders.test:PORT/path`.
    pub fn url(&self, path: &str) -> String {
        format!("https://{API}:{}{path}", self.facts.api_port)
    }

    /// An ordinary client with the agent's key, through the proxy: h2 and h1 inside the tunnel.
    pub fn agent(&self) -> reqwest::Client {
        self.agent_builder().build().unwrap()
    }

    pub fn agent_builder(&self) -> reqwest::ClientBuilder {
        let root = reqwest::Certificate::from_pem(self.proxy.authority().root_pem().as_bytes()).unwrap();
        let proxy = format!("http://researcher:{}@{}", self.key, self.forward());
        reqwest::Client::builder()
            .proxy(reqwest::Proxy::all(proxy).unwrap())
            .tls_certs_only([root])
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
    }

    /// A client for the reverse listener and the admin: no proxy at all.
    pub fn direct(&self) -> reqwest::Client {
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
    }

    /// Every line of the audit log so far.
    pub fn log(&self) -> Vec<Value> {
        self.proxy.recorder().flush();
        let text = fs::read_to_string(self.directory.path().join("state/audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The records of requests, without events.
    pub fn records(&self) -> Vec<Value> {
        self.log().into_iter().filter(|line| line.get("event").is_none()).collect()
    }
}

/// For files that nobody else may read.
pub fn private_directory() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

pub fn load(path: &std::path::Path) -> Settings {
    config::load(path).unwrap_or_else(|problems| panic!("{}", problems.render(false)))
}

/// The `code` of a refusal, by its body.
pub async fn code(response: reqwest::Response) -> String {
    let body: Value = response.json().await.unwrap();
    body["code"].as_str().unwrap().to_owned()
}
