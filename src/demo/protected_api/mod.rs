//! A small API over HTTPS that serves nobody without a proper access token, and tells
//! tests what it saw.
//!
//! ```text
//!   GET  /v1/orders, /v1/orders/{id}   scope read:orders
//!   POST /v1/orders                    scope write:orders; counts how often it was applied
//!   GET  /v1/whoami                    the token's claims
//!   GET  /v1/stream                    server-sent events: ?count=N (else for ever), ?every_ms=200
//!   POST /v1/echo                      streams the body back
//!   GET  /v1/bytes/{n}                 n bytes
//!   POST /v1/sink                      counts bytes
//! ```
//!
//! A request passes `guard.rs` (who may) before `endpoints.rs` (what it does). Knows of the
//! authorization server only the issuer's name and where its keys are.

mod challenge;
mod endpoints;
mod guard;
mod verify;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use http::{HeaderMap, Method, Version};
use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::primitives::Clock;

use super::{
    Error, NoncePolicy, Repeated,
    https::{ConnectionId, Server},
    journal::{Journal, lock},
    jwt::Claims,
};

use guard::Sighting;
use verify::Verifier;

/// Scopes that the API asks for.
pub const READ_ORDERS: &str = "read:orders";
pub const WRITE_ORDERS: &str = "write:orders";

/// What the API trusts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Must be a token's `iss`, character for character.
    pub issuer: String,
    /// Must be in a token's `aud`.
    pub audience: String,
    /// Fetched once, with the first token.
    pub jwks_uri: String,
    /// PEM: the only root trusted for `jwks_uri`.
    pub ca_pem: String,
    /// Requests at once on one h2 connection; `None` leaves hyper's default.
    pub h2_streams: Option<u32>,
    pub clock: Arc<dyn Clock>,
}

/// A running API; stops when dropped.
#[derive(Debug)]
pub struct ProtectedApi {
    server: Server,
    handle: ProtectedApiHandle,
}

impl ProtectedApi {
    /// Serves on `listener` under `tls`. Must be called inside a tokio runtime.
    pub fn start(settings: Settings, listener: TcpListener, tls: Arc<ServerConfig>) -> Result<Self, Error> {
        let h2_streams = settings.h2_streams;
        let shared = Arc::new(Shared {
            verifier: Verifier::new(settings)?,
            seen: Journal::default(),
            applied: AtomicUsize::new(0),
            reject_next: AtomicUsize::new(0),
            revoked: Mutex::default(),
            reject_issued_before: AtomicU64::new(0),
        });
        let server = Server::start(listener, tls, h2_streams, guard::protect(endpoints::routes(&shared), &shared))?;
        Ok(Self { server, handle: ProtectedApiHandle(shared) })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn handle(&self) -> &ProtectedApiHandle {
        &self.handle
    }

    /// From soon on, connections are refused; there is no way back.
    pub fn stop(&self) {
        self.server.stop();
    }
}

#[derive(Debug)]
struct Shared {
    verifier: Verifier,
    seen: Journal<Sighting>,
    applied: AtomicUsize,
    reject_next: AtomicUsize,
    /// By `jti`.
    revoked: Mutex<HashSet<String>>,
    /// In seconds since 1970.
    reject_issued_before: AtomicU64,
}

/// A request as the API saw it. **Holds the token** (in `headers`, marked sensitive, so that
/// `Debug` masks it): for tests and the demo only.
#[derive(Clone, Debug)]
pub struct Seen {
    pub connection: Option<ConnectionId>,
    pub method: Method,
    /// With the query.
    pub path: String,
    /// `:authority` (h2) or `Host` (h1).
    pub authority: Option<String>,
    pub version: Version,
    pub headers: HeaderMap,
    /// The `x5t#S256` of the certificate that was shown on the connection.
    pub certificate: Option<String>,
    /// Set if the token was good, even where the request was refused for its scope.
    pub claims: Option<Claims>,
    /// The error of RFC 6750 §3.1 that it was refused with; `unauthorized` where no token was
    /// shown.
    pub refusal: Option<&'static str>,
    /// Bytes of the body that had been read when [`ProtectedApiHandle::seen`] was called.
    pub body_length: u64,
    /// Whether the body had been read to its end by then.
    pub body_ended: bool,
}

// === impl ProtectedApiHandle ===

/// Looks into a running API and turns its knobs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ProtectedApiHandle(Arc<Shared>);

impl ProtectedApiHandle {
    /// The requests so far (the last 10,000), oldest first, refused ones too.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.map(Sighting::seen)
    }

    /// How many requests have arrived since the start.
    pub fn seen_count(&self) -> usize {
        self.0.seen.total()
    }

    /// Returns as soon as that many requests have arrived, answered or not.
    pub async fn wait_for_requests(&self, count: usize) {
        self.0.seen.wait_for(count).await;
    }

    /// How often `POST /v1/orders` did its work: its body read to the end, an order made.
    pub fn applied(&self) -> usize {
        self.0.applied.load(Ordering::SeqCst)
    }

    /// Answers the next `requests` that come with a good token with 401 `invalid_token`,
    /// before they have any effect.
    pub fn reject_next(&self, requests: usize) {
        self.0.reject_next.store(requests, Ordering::SeqCst);
    }

    /// The DPoP nonces given out so far are no good any more.
    pub fn set_dpop_nonces(&self, policy: NoncePolicy) {
        self.0.verifier.dpop.set_policy(policy);
    }

    /// Whether tokens have to be bound to a DPoP key; at the start they needn't.
    pub fn require_dpop(&self, required: bool) {
        self.0.verifier.only_dpop.store(required, Ordering::SeqCst);
    }

    /// The DPoP proofs that came twice. A client that makes a new one for each attempt leaves
    /// this empty.
    pub fn repeated_proofs(&self) -> Vec<Repeated> {
        self.0.verifier.dpop.repeated()
    }

    /// From now on the token with this `jti` is an `invalid_token`, however long it would live.
    pub fn revoke(&self, jti: &str) {
        lock(&self.0.revoked).insert(jti.to_owned());
    }

    /// The same for every token with an `iat` before `time`. `iat` counts whole seconds: a token made
    /// earlier in the second of `time` passes. To be exact, [`revoke`](Self::revoke) by `jti`.
    pub fn reject_all_issued_before(&self, time: SystemTime) {
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.0.reject_issued_before.store(seconds, Ordering::SeqCst);
    }
}
