//! Where a listener is: an IP address and a port, or a socket file.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(UnixAddress),
}

/// A socket file and who may connect: whoever may write to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixAddress {
    pub path: PathBuf,
    /// Permission bits, as `chmod` has them.
    pub mode: u32,
}

impl ListenAddress {
    /// The address that a client on the network would dial.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    pub fn unix(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(address) => Some(&address.path),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// As the config has it.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(address) => write!(f, "unix:{}", address.path.display()),
        }
    }
}
