//! One request, top to bottom: the corridor that every request walks, whichever
//! door it came through.

use std::time::Duration;

/// Limits of one request.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is kept of a request's body so that it can be sent again after a 401, in bytes.
    pub replay_limit: usize,
    /// How long `Expect: 100-continue` holds the body back.
    pub continue_timeout: Duration,
    /// No byte in either direction of a body for this long ends it.
    pub idle_timeout: Duration,
}
