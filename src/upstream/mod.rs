//! The way out: from a name to an address that may be dialled, to a verified
//! connection, to a pool of them. One [`Client`] a worker: no other thread touches it.

pub mod address;
pub mod client;
pub mod dial;
pub mod resolve;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    observe::{Noted, Record},
    policy::Permit,
};

pub use address::Wall;
pub use client::{Client, SendFailure, Sent};
pub use dial::{Dial, Stream, TcpDial};
pub use resolve::{Resolve, SystemResolver};

/// Limits of the way out.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For DNS, for TCP and for the TLS handshake, together.
    pub connect_timeout: Duration,
    /// An unused connection is closed after this.
    pub idle_timeout: Duration,
    /// Idle h1 connections kept per pool key.
    pub max_idle: usize,
    /// Requests on one h2 connection before another is opened.
    pub max_streams: usize,
}

/// Where a permitted request goes.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    pub permit: &'a Permit,
}

/// What went wrong on the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the name {host} can't be resolved")]
    Dns { host: String, source: std::io::Error },
    #[error("the name {host} resolves to no address")]
    NoAddress { host: String },
    /// Every address of the name is one that this route may not reach.
    #[error("{address} is {kind}, which the route doesn't allow")]
    AddressNotAllowed { address: IpAddr, kind: &'static str },
    #[error("can't connect to {address}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("connecting took longer than {limit:?}")]
    ConnectTimeout { limit: Duration },
    /// The certificate isn't good, or TLS failed otherwise.
    #[error("TLS with {host} failed")]
    Tls { host: String, source: std::io::Error },
    #[error("no answer within {limit:?}")]
    ResponseTimeout { limit: Duration },
    /// The upstream broke HTTP, or the connection, before its answer was complete.
    #[error("the upstream's answer broke off or isn't HTTP")]
    Http(#[source] hyper::Error),
}

impl Noted for Error {
    fn note(&self, _record: &mut Record) {}
}
