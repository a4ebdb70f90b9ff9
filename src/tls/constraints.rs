//! Which names our issuing certificate may vouch for (RFC 5280 §4.2.1.10): whoever steals its
//! key poses as those hosts and as no other (threat 111). Knows names; not why they are wanted.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::{GeneralName, GeneralSubtree as Parsed},
    prelude::{FromDer, X509Certificate},
};

use crate::primitives::Host;

/// More would make every handshake longer than what it protects is worth.
const MOST: usize = 256;

/// Stands where no name is permitted: an empty list would mean all of them (RFC 6761 §6.4).
const NOTHING: &str = "invalid";

/// Hosts, and all that is below those with a name: a constraint can't say less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constraints {
    names: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Constraints {
    /// `None`: there are too many.
    pub fn new(hosts: impl IntoIterator<Item = Host>) -> Option<Self> {
        let mut all = Self::default();
        for host in hosts {
            match host {
                Host::Name(name) => drop(all.names.insert(name.to_string())),
                Host::Ip(address) => drop(all.addresses.insert(address)),
            }
        }
        let covered = |name: &str| parents(name).any(|parent| all.names.contains(parent));
        let names = all.names.iter().filter(|name| !covered(name)).cloned().collect();
        let all = Self { names, addresses: all.addresses };
        (all.names.len() + all.addresses.len() <= MOST).then_some(all)
    }

    /// Those of a certificate; `None`: it has none that we could have written.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let constraints = parsed.name_constraints().ok()??.value;
        let mut found = Self::default();
        for Parsed { base } in constraints.permitted_subtrees.as_ref()? {
            match base {
                GeneralName::DNSName(NOTHING) => {}
                GeneralName::DNSName(name) => drop(found.names.insert((*name).to_owned())),
                GeneralName::IPAddress(subnet) => drop(found.addresses.insert(address(subnet)?)),
                _other => return None,
            }
        }
        Some(found)
    }

    pub(super) fn admits(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => self.names.contains(&**name) || parents(name).any(|parent| self.names.contains(parent)),
            Host::Ip(address) => self.addresses.contains(address),
        }
    }

    /// Both kinds of name are always spoken of: one that isn't is free.
    pub(super) fn extension(&self) -> NameConstraints {
        let names = self.names.iter().map(String::as_str).chain(self.names.is_empty().then_some(NOTHING));
        let names = names.map(|name| GeneralSubtree::DnsName(name.to_owned()));
        let addresses = self.addresses.iter().map(|address| match address {
            IpAddr::V4(address) => CidrSubnet::V4(address.octets(), [0xff; 4]),
            IpAddr::V6(address) => CidrSubnet::V6(address.octets(), [0xff; 16]),
        });
        let all = [
            CidrSubnet::V4(Ipv4Addr::UNSPECIFIED.octets(), [0; 4]),
            CidrSubnet::V6(Ipv6Addr::UNSPECIFIED.octets(), [0; 16]),
        ];
        let excluded = if self.addresses.is_empty() { all.to_vec() } else { Vec::new() };
        NameConstraints {
            permitted_subtrees: names.chain(addresses.map(GeneralSubtree::IpAddress)).collect(),
            excluded_subtrees: excluded.into_iter().map(GeneralSubtree::IpAddress).collect(),
        }
    }
}

/// What stands behind each dot.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(dot, _)| &name[dot + 1..])
}

/// A single address, with its mask behind it.
fn address(subnet: &[u8]) -> Option<IpAddr> {
    let (address, mask) = subnet.split_at_checked(subnet.len() / 2)?;
    let whole = mask.iter().all(|byte| *byte == 0xff);
    match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
        (Ok(octets), _) if whole => Some(octets.into()),
        (_, Ok(octets)) if whole => Some(octets.into()),
        _subnet => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hosts: &[&str]) -> Constraints {
        Constraints::new(hosts.iter().map(|host| Host::parse(host).unwrap())).unwrap()
    }

    #[test]
    fn a_name_admits_itself_and_what_is_below() {
        let constraints = of(&["example.com", "api.example.com", "one.test", "192.0.2.1"]);
        assert_eq!(constraints, of(&["one.test", "192.0.2.1", "example.com"]), "one is covered by another");
        let admits = |host: &str| constraints.admits(&Host::parse(host).unwrap());
        assert!(admits("example.com") && admits("a.b.example.com") && admits("192.0.2.1"));
        assert!(!admits("evilexample.com") && !admits("com") && !admits("192.0.2.2") && !admits("[::1]"));
        assert!(!of(&[]).admits(&Host::parse("example.com").unwrap()));
    }

    #[test]
    fn too_many_are_none() {
        let hosts = |count| (0..count).map(|number| Host::parse(&format!("h{number}.test")).unwrap());
        assert!(Constraints::new(hosts(MOST)).is_some());
        assert!(Constraints::new(hosts(MOST + 1)).is_none());
    }
}
