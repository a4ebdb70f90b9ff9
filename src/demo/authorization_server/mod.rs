//! A small authorization server over HTTPS, for clients of every kind. It obeys the RFCs
//! until a test turns one of its [`Knobs`] or sets a [`Fault`].
//!
//! ```text
//!   POST /oauth/token                                     post.rs, then token.rs and grant/
//!   POST /oauth/device/code                               post.rs, then grant/device_code.rs
//!   POST /bc-authorize                                    post.rs, then grant/ciba.rs
//!   POST /oauth/revoke                                    post.rs, then revocation.rs
//!   GET  /activate                                        grant/device_code.rs
//!   GET  /authorize                                       authorize.rs
//!   GET  /.well-known/jwks.json
//!   GET  /.well-known/oauth-authorization-server[/path]   RFC 8414
//!   GET  [/path]/.well-known/openid-configuration         OIDC Discovery, and the RFC 8414 §5 spelling
//! ```
//!
//! It has one user, who consents to everything unless a knob says otherwise, and never sees a
//! page. Refresh tokens can be had without a login from the [`AuthorizationServerHandle`].

mod authorize;
mod client;
mod client_auth;
mod consent;
mod error;
mod evidence;
mod fault;
mod form;
mod grant;
mod handle;
mod knobs;
mod metadata;
mod poll;
mod post;
mod record;
mod request;
mod revocation;
mod token;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::Router;
use jsonwebtoken::jwk::Jwk;
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::net::TcpListener;

use crate::primitives::Clock;

use super::{
    Error,
    client_certificates::ClientRoots,
    dpop,
    https::Server,
    journal::Journal,
    jwt::{SigningAlgorithm, SigningKey},
    one_time::OneTime,
};

pub use client::{AuthMethod, CertificateRule, Client, ForeignIdentity, GrantType, SamlAssertion};
pub use consent::USER;
pub use fault::Fault;
pub use grant::{Cause, RevokedFamily, Rotation};
use grant::{Codes, RefreshTokens};
pub use handle::AuthorizationServerHandle;
pub use knobs::{AssertionAudience, AuthorizeKnobs, Knobs, Poll, PollKnobs, Returned};
use poll::Waiting;
use post::Desk;
pub use post::Endpoint;
pub use record::{BasicEncoding, BodyFormat, Granted, Outcome, TokenRequest};

/// How the server starts out; a [`AuthorizationServerHandle`] changes some of it later.
#[derive(Clone, Debug)]
pub struct Settings {
    /// An https URL. Character for character what metadata and tokens say, with or
    /// without a `/` at the end; may have a path.
    pub issuer: String,
    pub clients: Vec<Client>,
    pub knobs: Knobs,
    pub rotation: Rotation,
    pub algorithm: SigningAlgorithm,
    /// Clients' certificates for `tls_client_auth` are signed by this one.
    pub client_root: CertificateDer<'static>,
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
        let shared = Arc::new(Shared::new(settings)?);
        let router = Router::new()
            .merge(post::routes(&shared))
            .merge(authorize::routes(&shared))
            .merge(grant::routes(&shared))
            .merge(metadata::routes(&shared));
        let server = Server::start(listener, tls, None, router)?;
        Ok(Self { server, handle: AuthorizationServerHandle::new(shared) })
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
    key: SigningKey,
    clock: Arc<dyn Clock>,
    clients: Mutex<BTreeMap<String, Client>>,
    knobs: Mutex<Knobs>,
    /// The `jti` of clients' assertions.
    assertions: OneTime,
    dpop: dpop::Judge,
    client_roots: ClientRoots,
    refresh_tokens: Mutex<RefreshTokens>,
    /// By issuer: other servers whose tokens count as evidence.
    trusted: Mutex<BTreeMap<String, Vec<Jwk>>>,
    codes: Mutex<Codes>,
    devices: Mutex<Waiting>,
    approvals: Mutex<Waiting>,
    /// The `jti` of access tokens that their clients revoked.
    revoked: Mutex<BTreeSet<String>>,
    token_desk: Desk,
    device_desk: Desk,
    backchannel_desk: Desk,
    revocation_desk: Desk,
    authorization_requests: Journal<Vec<(String, String)>>,
    discovery_fault: fault::Switch,
    /// The `jti` of each access token given out.
    issued: Journal<String>,
}

impl Shared {
    fn new(settings: Settings) -> Result<Self, Error> {
        Ok(Self {
            endpoints: metadata::Endpoints::of(&settings.issuer).ok_or(Error::Issuer)?,
            key: SigningKey::generate(settings.algorithm)?,
            clients: Mutex::new(settings.clients.into_iter().map(|client| (client.id.clone(), client)).collect()),
            knobs: Mutex::new(settings.knobs),
            assertions: OneTime::default(),
            client_roots: ClientRoots::new(settings.client_root)?,
            dpop: dpop::Judge::new(Arc::clone(&settings.clock)),
            refresh_tokens: Mutex::new(RefreshTokens::new(settings.rotation)),
            trusted: Mutex::default(),
            codes: Mutex::default(),
            devices: Mutex::default(),
            approvals: Mutex::default(),
            revoked: Mutex::default(),
            token_desk: Desk::default(),
            device_desk: Desk::default(),
            backchannel_desk: Desk::default(),
            revocation_desk: Desk::default(),
            authorization_requests: Journal::default(),
            discovery_fault: fault::Switch::default(),
            issued: Journal::default(),
            issuer: settings.issuer,
            clock: settings.clock,
        })
    }
}
