//! Names to addresses. Judges none of them: that is the wall's.

use std::{collections::HashMap, future::Future, io, net::IpAddr, pin::Pin};

/// A source of addresses.
pub trait Resolve: std::fmt::Debug + Send + Sync {
    /// The addresses of a canonical host name, the most preferred first. Never called
    /// for an IP literal.
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;
}

/// `getaddrinfo`, after the operator's fixed names (`[resolve]`).
///
/// The machine's own rules hold: `/etc/hosts`, `nsswitch.conf`, search domains, and the
/// order of RFC 6724.
#[derive(Debug, Default)]
pub struct SystemResolver {
    fixed: HashMap<String, Vec<IpAddr>>,
}

impl SystemResolver {
    /// `fixed`: name and address; a name may stand in it several times.
    pub fn new(fixed: Vec<(String, IpAddr)>) -> Self {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for (name, address) in fixed {
            let name = name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase();
            names.entry(name).or_default().push(address);
        }
        Self { fixed: names }
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
        Box::pin(async move {
            if let Some(addresses) = self.fixed.get(host) {
                return Ok(addresses.clone());
            }
            let mut addresses = Vec::new();
            for address in tokio::net::lookup_host((host, 0)).await? {
                if !addresses.contains(&address.ip()) {
                    addresses.push(address.ip());
                }
            }
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fixed_names_come_before_dns() {
        let (first, second): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let resolver = SystemResolver::new(vec![("Api.Example.".into(), first), ("api.example".into(), second)]);
        assert_eq!(resolver.resolve("api.example").await.unwrap(), [first, second]);
    }

    #[tokio::test]
    async fn other_names_are_the_systems() {
        let addresses = SystemResolver::default().resolve("localhost").await.unwrap();
        assert!(!addresses.is_empty());
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }
}
