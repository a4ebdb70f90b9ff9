//! The proxy between us and the upstreams, where there is one, and which hosts are reached
//! without it. Names are looked at as they are: whoever needs a parent proxy may have no DNS
//! for the outside.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::primitives::{Authority, Host, is_metadata_service};

use super::pattern::HostPattern;

/// `[upstream] proxy` and `no_proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    pub protocol: ParentProtocol,
    pub authority: Authority,
    pub past: Vec<Past>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentProtocol {
    /// `CONNECT` (RFC 9110 §9.3.6), for `http://` upstreams too.
    Http,
    /// RFC 1928, RFC 1929.
    Socks5,
}

/// A host that is reached without the parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// At any port, where the pattern has none.
    Host(HostPattern),
    /// Addresses written as such. A name isn't resolved to be compared with a network.
    Network(IpNet),
}

impl Parent {
    /// Whether the way to `to` leads through the parent. This machine, its link's addresses
    /// and the metadata service of its cloud are others over there: they never do.
    pub fn covers(&self, to: &Authority) -> bool {
        !is_local(to.host()) && !self.past.iter().any(|past| past.names(to))
    }
}

impl Past {
    fn names(&self, to: &Authority) -> bool {
        match (self, to.host()) {
            (Self::Host(pattern), host) => pattern.names(host) && pattern.port().is_none_or(|port| port == to.port()),
            (Self::Network(network), Host::Ip(address)) => network.contains(&address.to_canonical()),
            (Self::Network(_), Host::Name(_)) => false,
        }
    }
}

fn is_local(host: &Host) -> bool {
    match host {
        // The last one is Google's metadata server.
        Host::Name(name) => matches!(&**name, "localhost" | "metadata.google.internal") || name.ends_with(".localhost"),
        Host::Ip(address) => {
            let address = address.to_canonical();
            let of_the_link = match address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            of_the_link || address.is_loopback() || address.is_unspecified() || is_metadata_service(address)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_isnt_excepted_goes_through_the_parent() {
        let host = |text| Past::Host(HostPattern::parse(text).unwrap());
        let network = |text: &str| Past::Network(text.parse().unwrap());
        let past = vec![host("*.internal"), host("wiki.test:8443"), host("10.1.1.1"), network("10.2.0.0/16")];
        let authority = Authority::parse("parent.test:3128", None).unwrap();
        let parent = Parent { protocol: ParentProtocol::Http, authority, past };
        let covers = |text: &str| parent.covers(&Authority::parse(text, None).unwrap());
        for direct in [
            "a.internal:443",
            "a.b.internal:9",
            "wiki.test:8443",
            "10.1.1.1:80",
            "10.2.3.4:443",
            "[::ffff:10.2.3.4]:443",
            "localhost:443",
            "x.localhost:443",
            "127.0.0.1:443",
            "[::1]:443",
            "[::ffff:127.0.0.1]:443",
            "0.0.0.0:443",
            "169.254.169.254:80",
            "metadata.google.internal:80",
            "[fe80::1]:80",
            "100.100.100.200:80",
            "[::ffff:100.100.100.200]:80",
            "192.0.0.192:80",
            "168.63.129.16:80",
            "[fd00:ec2::254]:80",
            "[fd20:ce::254]:80",
            "[fd00:42::42]:80",
        ] {
            assert!(!covers(direct), "{direct}");
        }
        for through in [
            "internal:443",
            "evilinternal:443",
            "wiki.test:443",
            "10.3.0.1:443",
            "api.test:443",
            "1.1.1.1:443",
            "100.100.100.201:80",
            "[fd12::1]:80",
        ] {
            assert!(covers(through), "{through}");
        }
    }
}
