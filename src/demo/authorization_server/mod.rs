//! A small authorization server over HTTPS: `client_credentials` and `refresh_token`
//! with rotation, JWT access tokens, JWKS and metadata. It obeys the RFCs until a
//! test sets a [`Fault`].
//!
//! ```text
//!   POST /oauth/token                                     token.rs: read -> fault? -> grant -> answer
//!   GET  /.well-known/jwks.json
//!   GET  /.well-known/oauth-authorization-server[/path]   RFC 8414
//!   GET  [/path]/.well-known/openid-configuration         OIDC Discovery, and the RFC 8414 §5 spelling
//! ```
//!
//! Knows no users and no browser: refresh tokens are minted by [`AuthorizationServerHandle`].

mod fault;
mod form;
mod metadata;
mod refresh;
mod request;
mod token;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::primitives::{Clock, Secret};

use super::{
    Error,
    https::Server,
    journal::{Journal, lock},
    jwt::{Claims, Signer, SigningAlgorithm},
    random_secret,
};

pub use fault::Fault;
use refresh::RefreshTokens;
pub use refresh::Rotation;
pub use request::{AuthMethod, BasicEncoding, BodyFormat, TokenRequest};

/// A grant that this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantType {
    ClientCredentials,
    RefreshToken,
}

/// A registered client.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    /// Any of them is accepted: several during a rotation.
    pub secrets: Vec<Secret>,
    pub auth_methods: Vec<AuthMethod>,
    pub grants: Vec<GrantType>,
    /// What it may ask for, and what it gets where it asks for nothing (RFC 6749 §3.3).
    pub scopes: Vec<String>,
    pub audiences: Vec<String>,
    /// Where a request names no audience. `None`: such a request is refused.
    pub default_audience: Option<String>,
}

/// How the server starts out; a [`AuthorizationServerHandle`] changes some of it later.
#[derive(Clone, Debug)]
pub struct Settings {
    /// An https URL. Character for character what metadata and tokens say, with or
    /// without a `/` at the end; may have a path.
    pub issuer: String,
    pub clients: Vec<Client>,
    /// Of an access token; whole seconds, rounded up.
    pub token_lifetime: Duration,
    pub rotation: Rotation,
    pub algorithm: SigningAlgorithm,
    pub clock: Arc<dyn Clock>,
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct AuthorizationServer {
    server: Server,
    handle: AuthorizationServerHandle,
}

impl AuthorizationServer {
    /// Serves on `listener` under `tls`. Must be called inside a tokio runtime.
    pub fn start(settings: Settings, listener: TcpListener, tls: Arc<ServerConfig>) -> Result<Self, Error> {
        let endpoints = metadata::Endpoints::of(&settings.issuer).ok_or(Error::Issuer)?;
        let shared = Arc::new(Shared {
            signer: Signer::generate(settings.algorithm)?,
            clients: Mutex::new(settings.clients.into_iter().map(|client| (client.id.clone(), client)).collect()),
            token_lifetime: Mutex::new(settings.token_lifetime),
            refresh_tokens: Mutex::new(RefreshTokens::new(settings.rotation)),
            issuer: settings.issuer,
            endpoints,
            clock: settings.clock,
            token_fault: fault::Switch::default(),
            discovery_fault: fault::Switch::default(),
            token_requests: Journal::default(),
            issued: Journal::default(),
        });
        let router =
            Router::new().merge(token::routes(Arc::clone(&shared))).merge(metadata::routes(Arc::clone(&shared)));
        let server = Server::start(listener, tls, None, router)?;
        Ok(Self { server, handle: AuthorizationServerHandle(shared) })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn handle(&self) -> &AuthorizationServerHandle {
        &self.handle
    }

    /// From soon on, connections are refused; there is no way back.
    pub fn stop(&self) {
        self.server.stop();
    }
}

#[derive(Debug)]
struct Shared {
    issuer: String,
    endpoints: metadata::Endpoints,
    signer: Signer,
    clients: Mutex<BTreeMap<String, Client>>,
    token_lifetime: Mutex<Duration>,
    refresh_tokens: Mutex<RefreshTokens>,
    clock: Arc<dyn Clock>,
    token_fault: fault::Switch,
    discovery_fault: fault::Switch,
    token_requests: Journal<TokenRequest>,
    /// The `jti` of each access token given out.
    issued: Journal<String>,
}

// === impl AuthorizationServerHandle ===

/// Looks into a running server and turns its knobs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuthorizationServerHandle(Arc<Shared>);

impl AuthorizationServerHandle {
    /// The token requests so far (the last 10,000), oldest first, refused ones too.
    pub fn token_requests(&self) -> Vec<TokenRequest> {
        self.0.token_requests.map(Clone::clone)
    }

    /// How many token requests have arrived since the start.
    pub fn token_request_count(&self) -> usize {
        self.0.token_requests.total()
    }

    /// Returns as soon as that many token requests have arrived, answered or not.
    pub async fn wait_for_token_requests(&self, count: usize) {
        self.0.token_requests.wait_for(count).await;
    }

    /// The `jti` of the access tokens given out so far (the last 10,000), oldest first.
    pub fn issued(&self) -> Vec<String> {
        self.0.issued.map(Clone::clone)
    }

    /// For tokens to come; whole seconds, rounded up.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        *lock(&self.0.token_lifetime) = lifetime;
    }

    pub fn set_rotation(&self, rotation: Rotation) {
        lock(&self.0.refresh_tokens).set_rotation(rotation);
    }

    /// A refresh token of a new family, as a login would have given one: for `scope`
    /// (separated by spaces) at the client's default audience, or else its first.
    pub fn issue_refresh_token(&self, client_id: &str, scope: &str) -> Result<Secret, Error> {
        let audience = {
            let clients = lock(&self.0.clients);
            let client = clients.get(client_id).ok_or(Error::UnknownClient)?;
            client.default_audience.clone().or_else(|| client.audiences.first().cloned())
        };
        let grant = refresh::Grant {
            client_id: client_id.to_owned(),
            scopes: scope.split_ascii_whitespace().map(str::to_owned).collect(),
            audiences: audience.into_iter().collect(),
        };
        lock(&self.0.refresh_tokens).issue(grant)
    }

    /// Withdraws all refresh tokens of a client, used and unused.
    pub fn revoke_refresh_tokens(&self, client_id: &str) {
        lock(&self.0.refresh_tokens).revoke_client(client_id);
    }

    /// Gives a client a new secret; the old ones are refused at once.
    pub fn rotate_client_secret(&self, client_id: &str) -> Result<Secret, Error> {
        let secret = random_secret()?;
        self.set_client_secrets(client_id, vec![secret.clone()])?;
        Ok(secret)
    }

    /// Several secrets overlap, as they do during a rotation.
    pub fn set_client_secrets(&self, client_id: &str, secrets: Vec<Secret>) -> Result<(), Error> {
        lock(&self.0.clients).get_mut(client_id).ok_or(Error::UnknownClient)?.secrets = secrets;
        Ok(())
    }

    /// What the token endpoint does wrong until this is called again.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.0.token_fault.set(fault, None);
    }

    /// What it does wrong for the next `requests`; then it is well again.
    pub fn set_fault_for(&self, requests: usize, fault: Fault) {
        self.0.token_fault.set(Some(fault), Some(requests));
    }

    /// The same for the metadata documents, never for the JWKS.
    pub fn set_discovery_fault(&self, fault: Option<Fault>) {
        self.0.discovery_fault.set(fault, None);
    }

    /// An access token with any claims, signed with the server's key, for tests of
    /// resource servers.
    pub fn sign(&self, claims: &Claims) -> Result<Secret, Error> {
        self.0.signer.sign(claims)
    }

    /// The RFC 8414 document as it is served.
    pub fn metadata(&self) -> Value {
        metadata::document(&self.0)
    }

    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    pub fn token_endpoint(&self) -> &str {
        &self.0.endpoints.token
    }

    pub fn jwks_uri(&self) -> &str {
        &self.0.endpoints.jwks
    }
}
