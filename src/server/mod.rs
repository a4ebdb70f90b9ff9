//! The doors: listeners, connections, `CONNECT` and interception. Serves any
//! `AsyncRead + AsyncWrite`; what a request may do is decided in `proxy`.
//!
//! ```text
//! listener --accept--> connection (TLS? h2? h1?) --request--> proxy
//!                          |
//!                          +--CONNECT--> connect --200--> peek: TLS  -> leaf -> connection
//!          \--SOCKS--> socks ----reply----/                 clear HTTP -> connection
//!                                                         else       -> closed
//! ```
//!
//! Each worker is a thread with a single-threaded runtime, its own listeners on the
//! same addresses (`SO_REUSEPORT`), its own upstream pool and its own lane of the recorder. On
//! the way of a request nothing waits for another worker.

pub mod connect;
pub mod connection;
mod date;
mod deadline;
pub mod drain;
mod h1;
mod h2;
pub mod listener;
pub mod peek;
mod rare;
mod relay;
pub mod socks;
mod together;
pub mod unix;
mod upgrade;

use std::{path::PathBuf, time::Duration};

use crate::primitives::{ListenAddress, ListenerName};

pub use crate::proxy::{Mount, Unmatched};
pub use drain::{Drain, DrainHandle};
pub use listener::{Door, Places, bind};
pub use unix::{SocketFile, bind_unix};

/// What to listen on, and the limits of a connection.
#[derive(Clone, Debug)]
pub struct Settings {
    pub forward: Vec<ForwardListener>,
    pub reverse: Vec<ReverseListener>,
    pub socks: Vec<SocksListener>,
    pub unmatched: Unmatched,
    pub limits: Limits,
    /// How long requests under way may go on after SIGTERM.
    pub drain: Duration,
    /// Worker threads, each with its own listeners and upstream pool; `None`: one a core.
    pub workers: Option<usize>,
}

/// `[proxy]`: where `HTTP_PROXY` and `HTTPS_PROXY` point.
#[derive(Clone, Debug)]
pub struct ForwardListener {
    /// `proxy`, or `proxy-2` … where there are several addresses.
    pub name: ListenerName,
    pub listen: ListenAddress,
    pub tls: Option<ListenerTls>,
}

/// `[[reverse]]`: a base URL.
#[derive(Clone, Debug)]
pub struct ReverseListener {
    /// `name`, else `reverse-1` ….
    pub name: ListenerName,
    pub listen: ListenAddress,
    pub tls: Option<ListenerTls>,
    /// At least one; longest prefix first. `upstream = …` is the one with the prefix `/`.
    pub mounts: Vec<Mount>,
}

/// `[socks]`: SOCKS 5.
#[derive(Clone, Debug)]
pub struct SocksListener {
    /// `socks`, or `socks-2` … where there are several addresses.
    pub name: ListenerName,
    pub listen: ListenAddress,
}

/// `tls = { certificate, key }`: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// `[limits]`, as far as it concerns connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's head.
    pub request_head: usize,
    /// Fields of a request's head.
    pub request_fields: usize,
    /// Connections a listener holds at once, over all workers, tunnels among them; more
    /// wait in the backlog.
    pub connections: usize,
    /// For a request's head to arrive, and for a kept connection to be used again.
    pub head_timeout: Duration,
    /// For a TLS handshake, and for the first byte inside a tunnel.
    pub handshake_timeout: Duration,
    /// A blind tunnel or an upgraded connection without a byte for this long is closed.
    pub tunnel_idle_timeout: Duration,
    /// … and one that is older than this, whatever moves.
    pub tunnel_timeout: Duration,
    /// Requests at once on one h2 connection.
    pub h2_streams: u32,
    /// h2 streams that an agent reset before they were looked at (rapid reset, threat 75); past
    /// it the connection ends. So does one after `h2_errors` streams that we had to reset.
    pub h2_resets: usize,
    pub h2_errors: usize,
    /// Minted certificates kept.
    pub leaf_cache: usize,
}
