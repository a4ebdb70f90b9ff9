//! One request, top to bottom: the corridor that every request walks, whichever
//! door it came through.
//!
//! ```text
//! Inbound -> identify -> find  -> decide -> prepare  -> lease -> forward -> respond
//!            Agent       Route    Permit    Prepared    Lease    Sent       Response, and the record's end
//! ```
//!
//! Each stage needs the value that the one before it returned. `server` brings the
//! requests; nothing here knows of sockets.

pub(crate) mod body;
pub(crate) mod challenge;
pub(crate) mod error;
pub(crate) mod explain;
pub(crate) mod forward;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guesses;
pub mod headers;
pub mod inbound;
pub(crate) mod interim;
pub mod marks;
pub(crate) mod open;
pub mod pipeline;
pub(crate) mod recover;
pub(crate) mod respond;
pub mod scrub;
mod seat;
pub mod socks;
mod spare;
pub mod standing;
pub mod tunnel;
mod turn;
pub mod upgrade;

use std::time::Duration;

pub use body::{AgentBody, Body, BodyError, RequestBody};
pub use error::{Ends, Error};
pub use explain::{Explanation, Judges, explain};
pub use guesses::{Guesses, Peer};
pub use headers::Via;
pub use inbound::{AgentRequest, Arrival, Ingress, Mount, Tunnel};
pub use interim::InterimSink;
pub use pipeline::{Proxy, Rules, Shared};
pub use seat::Seat;
pub use socks::{Denial, Knock, SocksOpening};
pub use standing::{REVOKED, Standing};
pub use tunnel::{Blind, Handshake, Opening, TunnelRecord};
pub use upgrade::{Answer, Switched, is_extended};

/// Limits of one request.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is kept of a request's body so that it can be sent again after a 401, in bytes.
    pub replay_limit: usize,
    /// How long `Expect: 100-continue` holds the body back.
    pub continue_timeout: Duration,
    /// An agent that sends no byte of a body for this long is given up.
    pub request_idle_timeout: Duration,
    /// An upstream that sends no byte of a body for this long is given up. Event streams
    /// and long polls are silent for minutes.
    pub idle_timeout: Duration,
    /// A request that is older than this is given up, whatever moves.
    pub total_timeout: Duration,
    /// Bytes of a request's target.
    pub request_target: usize,
    /// Fields of a request's head, over h2: those of h1 are counted where they are read.
    pub request_fields: usize,
    /// Requests of one agent under way at once, over all connections.
    pub agent_requests: usize,
    /// Connections of one agent at once, over all listeners.
    pub agent_connections: usize,
    /// Keys that are nobody's, in a minute, from one place.
    pub wrong_keys: u32,
}

/// What happens to a `CONNECT` to a host that no route names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    #[default]
    Deny,
    /// Bytes pass untouched and never with a credential.
    Tunnel,
}
