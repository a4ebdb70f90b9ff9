//! Both servers together, with a certificate authority of their own: what `demo` starts
//! and what nearly every integration test stands in.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpListener;

use crate::primitives::{Authority, Clock, Host, Secret, SystemClock};

use super::{
    AuthorizationServer, AuthorizationServerHandle, ClientCertificate, Error, ProtectedApi, ProtectedApiHandle,
    Protocols,
    authorization_server::{self, AuthMethod, Client, GrantType, Knobs, Rotation},
    certificates::{self, DemoAuthority},
    jwt::SigningAlgorithm,
    protected_api::{self, READ_ORDERS, WRITE_ORDERS},
    random_secret,
};

/// The client that is registered at the start; its secret is [`World::client_secret`].
pub const CLIENT_ID: &str = "cupbearer-demo";
/// The API's name in `aud`. A name only: nothing is ever sent there.
pub const AUDIENCE: &str = "https://orders.demo.test/";

/// What may differ from one world to another.
#[derive(Clone, Debug)]
pub struct WorldSettings {
    /// Port 0: any free one.
    pub authorization_server: SocketAddr,
    pub api: SocketAddr,
    /// Names in both certificates, besides `localhost` and 127.0.0.1.
    pub dns_names: Vec<String>,
    /// Of the issuer's URL: starts with `/`. `/` alone is how Auth0's issuers end.
    pub issuer_path: String,
    pub token_lifetime: Duration,
    pub rotation: Rotation,
    pub algorithm: SigningAlgorithm,
    /// Clients besides [`CLIENT_ID`].
    pub clients: Vec<Client>,
    /// What the API offers by ALPN.
    pub api_protocols: Protocols,
    /// Requests at once on one h2 connection to the API; `None` leaves hyper's default.
    pub api_h2_streams: Option<u32>,
    /// Whether both servers ask for a client's certificate; they never want one.
    pub ask_client_certificates: bool,
    /// For certificates and tokens.
    pub clock: Arc<dyn Clock>,
}

impl Default for WorldSettings {
    fn default() -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            authorization_server: any_port,
            api: any_port,
            dns_names: Vec::new(),
            issuer_path: "/".to_owned(),
            token_lifetime: Duration::from_secs(3600),
            rotation: Rotation::On { leeway: Duration::ZERO },
            algorithm: SigningAlgorithm::default(),
            clients: Vec::new(),
            api_protocols: Protocols::default(),
            api_h2_streams: None,
            ask_client_certificates: false,
            clock: Arc::new(SystemClock),
        }
    }
}

/// An authorization server and an API that trusts it, both up. Dropping it stops both.
#[derive(Debug)]
pub struct World {
    authorization_server: AuthorizationServer,
    api: ProtectedApi,
    authority: DemoAuthority,
    clock: Arc<dyn Clock>,
    client_secret: Secret,
}

impl World {
    pub async fn start(settings: WorldSettings) -> Result<Self, Error> {
        let clock = &settings.clock;
        let authority = DemoAuthority::new(clock.as_ref())?;
        let mut names = vec!["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        names.extend(settings.dns_names);
        let client_secret = random_secret()?;

        let listener = TcpListener::bind(settings.authorization_server).await.map_err(Error::Listen)?;
        let address = listener.local_addr().map_err(Error::Listen)?;
        let asks_clients = settings.ask_client_certificates;
        let tls = authority.server_config(names.clone(), Protocols::default(), asks_clients, clock.as_ref())?;
        let mut clients = settings.clients;
        clients.push(demo_client(client_secret.clone()));
        let authorization_server = AuthorizationServer::start(
            authorization_server::Settings {
                issuer: format!("https://{address}{}", settings.issuer_path),
                clients,
                knobs: Knobs { token_lifetime: settings.token_lifetime, ..Knobs::default() },
                rotation: settings.rotation,
                algorithm: settings.algorithm,
                client_root: authority.der().clone(),
                clock: Arc::clone(clock),
            },
            listener,
            tls,
        )?;

        let listener = TcpListener::bind(settings.api).await.map_err(Error::Listen)?;
        let tls = authority.server_config(names, settings.api_protocols, asks_clients, clock.as_ref())?;
        let api = ProtectedApi::start(
            protected_api::Settings {
                issuer: authorization_server.handle().issuer().to_owned(),
                audience: AUDIENCE.to_owned(),
                jwks_uri: authorization_server.handle().jwks_uri().to_owned(),
                ca_pem: authority.pem().to_owned(),
                h2_streams: settings.api_h2_streams,
                clock: Arc::clone(clock),
            },
            listener,
            tls,
        )?;
        let clock = settings.clock;
        Ok(Self { authorization_server, api, authority, clock, client_secret })
    }

    /// The root that signed both servers' certificates.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// A certificate for a client, signed by that root. Servers ask for one only if they were
    /// [told to](WorldSettings::ask_client_certificates).
    pub fn client_certificate(&self, common_name: &str) -> Result<ClientCertificate, Error> {
        self.authority.client_certificate(common_name, self.clock.as_ref())
    }

    /// The same, signed by nobody but its own key.
    pub fn self_signed_certificate(&self, common_name: &str) -> Result<ClientCertificate, Error> {
        certificates::self_signed(common_name, self.clock.as_ref())
    }

    pub fn issuer(&self) -> &str {
        self.authorization_server.handle().issuer()
    }

    /// The API by its address; `https://{…}/v1/orders` is a URL.
    pub fn api_authority(&self) -> Authority {
        let address = self.api.address();
        Authority::new(Host::Ip(address.ip()), address.port())
    }

    pub fn api_url(&self, path: &str) -> String {
        format!("https://{}{path}", self.api.address())
    }

    pub fn client_secret(&self) -> &Secret {
        &self.client_secret
    }

    pub fn authorization_server(&self) -> &AuthorizationServerHandle {
        self.authorization_server.handle()
    }

    pub fn authorization_server_address(&self) -> SocketAddr {
        self.authorization_server.address()
    }

    pub fn api(&self) -> &ProtectedApiHandle {
        self.api.handle()
    }

    pub fn api_address(&self) -> SocketAddr {
        self.api.address()
    }

    /// The API refuses every token given out so far, as if all had been revoked.
    pub fn revoke_issued_tokens(&self) {
        for jti in self.authorization_server().issued() {
            self.api().revoke(&jti);
        }
    }

    /// From soon on, the authorization server can't be reached.
    pub fn stop_authorization_server(&self) {
        self.authorization_server.stop();
    }

    /// From soon on, the API can't be reached.
    pub fn stop_api(&self) {
        self.api.stop();
    }
}

fn demo_client(secret: Secret) -> Client {
    Client {
        id: CLIENT_ID.to_owned(),
        secrets: vec![secret],
        auth_methods: vec![AuthMethod::ClientSecretBasic, AuthMethod::ClientSecretPost],
        grants: vec![GrantType::ClientCredentials, GrantType::RefreshToken],
        scopes: vec![READ_ORDERS.to_owned(), WRITE_ORDERS.to_owned()],
        audiences: vec![AUDIENCE.to_owned()],
        ..Client::default()
    }
}
