//! The wall: which addresses may be dialled (threats 24, 34, 36, 38, 39).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

/// Knows our own listeners, which nothing reaches through the proxy.
#[derive(Clone, Debug, Default)]
pub struct Wall {
    #[expect(dead_code, reason = "skeleton")]
    own: Arc<[SocketAddr]>,
}

impl Wall {
    /// `own`: every address this process listens on; an unspecified IP stands for all of the machine's.
    pub fn new(_own: Vec<SocketAddr>) -> Self {
        todo!()
    }

    /// Refuses all but public unicast addresses and those in `allowed`; cloud metadata
    /// only where `allowed` names that very address; our own listeners never.
    pub fn check(&self, _address: SocketAddr, _allowed: &[IpNet]) -> Result<(), &'static str> {
        todo!()
    }
}

/// What an address is, when it isn't plain public unicast.
pub fn special_purpose(_address: IpAddr) -> Option<&'static str> {
    todo!()
}
