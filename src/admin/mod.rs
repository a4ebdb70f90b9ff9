//! The operator's door: health, metrics and the API, on a socket of its own.

use std::net::SocketAddr;

/// `[admin]`.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
}
