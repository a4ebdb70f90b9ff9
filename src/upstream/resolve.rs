//! Names to addresses.

use std::{future::Future, io, net::IpAddr, pin::Pin};

/// A source of addresses.
pub trait Resolve: std::fmt::Debug + Send + Sync {
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;
}

/// `getaddrinfo`, after the operator's fixed names (`[resolve]`).
#[derive(Debug, Default)]
pub struct SystemResolver {
    #[expect(dead_code, reason = "skeleton")]
    fixed: Vec<(String, IpAddr)>,
}

impl SystemResolver {
    pub fn new(_fixed: Vec<(String, IpAddr)>) -> Self {
        todo!()
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, _host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
        todo!()
    }
}
