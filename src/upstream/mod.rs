//! The way out: from a name to an address that may be dialled, to a verified
//! connection, to a pool of them. One [`Client`] a worker: no other thread touches it.
//! Knows a [`Permit`] and the request it is for; nothing of tokens, agents' keys or
//! what an answer means.
//!
//! ```text
//! send -> pool: a connection with room? ----------------------------> exchange -> Sent + guard
//!           \-> resolve -> wall -> dial -> TLS (ALPN) -> h1 | h2 --/      |
//!                                                     back to the pool <--/ when the guard is dropped
//! ```

pub mod address;
mod body;
pub mod client;
mod connect;
pub mod dial;
mod error;
mod h1;
mod h2;
mod lookups;
pub mod parent;
mod pool;
pub mod resolve;
#[cfg(test)]
mod testing;
mod transport;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, request::Parts};
use tokio::time::Instant;

use crate::{policy::Permit, tls::ClientIdentity};

pub use address::Wall;
pub use client::{Client, SendFailure, Sent};
pub use dial::{Dial, Stream, TcpDial};
pub use error::Error;
pub use h1::{Incoming, IncomingError};
pub use parent::{Parent, ParentFault};
pub use resolve::{Resolve, SystemResolver};
pub use transport::Upgraded;

/// Limits of the way out.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For DNS, for TCP and for the TLS handshake, together.
    pub connect_timeout: Duration,
    /// An unused connection is closed after this, or up to a quarter of it later.
    pub idle_timeout: Duration,
    /// Idle h1 connections kept per pool key.
    pub max_idle: usize,
    /// Requests on one h2 connection before another is opened.
    pub max_streams: usize,
}

/// Where a permitted request goes.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    pub permit: &'a Permit<'a>,
    /// When it is sent.
    pub now: Instant,
    /// Called when the request goes over h2, which takes its head for good, and whose servers
    /// hardly say `100 Continue`: whoever holds its body back for that would mostly wait for
    /// nothing.
    pub before_h2: &'a (dyn Fn(&Parts) + Sync),
    /// Told of each interim answer (1xx).
    pub on_interim: &'a (dyn Fn(StatusCode, &HeaderMap) + Sync),
    /// What the connection shows of us, where a token is bound to it (RFC 8705 §3).
    pub identity: Option<&'a Arc<ClientIdentity>>,
    /// The request goes over h1 whatever the upstream prefers: it has `Upgrade`, which h2 hasn't,
    /// or waits for a `100 Continue` that has to be heard.
    pub h1_only: bool,
}

impl<'a> Destination<'a> {
    /// For a request that waits for no interim answer.
    pub fn new(permit: &'a Permit) -> Self {
        let now = Instant::now();
        Self { permit, now, before_h2: &|_| (), on_interim: &|_, _| (), identity: None, h1_only: false }
    }
}

impl fmt::Debug for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("permit", self.permit).finish_non_exhaustive()
    }
}
