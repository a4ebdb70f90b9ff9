//! Where authorization servers are, as far as it is known. Agents have no business at the
//! places where tokens are asked for (threat 37): what the config names is looked at when the
//! config is read, and here is what only a server's metadata and its connections tell.

use std::{net::IpAddr, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use reqwest::Url;

use crate::primitives::{Authority, CanonicalPath, Host};

use super::metadata::Metadata;

/// Addresses that are kept of one server.
const MOST_ADDRESSES: usize = 64;

/// What is known of one server. Read by every request, changed once a day.
#[derive(Debug, Default)]
pub(crate) struct Premises {
    /// The issuer's, where the metadata has to be asked for.
    issuer: Option<Authority>,
    known: ArcSwapOption<Known>,
    /// Where it was reached.
    addresses: ArcSwap<Vec<IpAddr>>,
}

#[derive(Debug)]
struct Known {
    metadata: Arc<Metadata>,
    endpoints: Vec<(Host, CanonicalPath)>,
}

/// What a request would meet there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Nothing that this server is known for.
    Open,
    /// One of its endpoints.
    Endpoint,
    /// It is the issuer's host, and where on it the endpoints are isn't known.
    Unknown,
}

impl Premises {
    pub(crate) fn of_issuer(issuer: &str) -> Self {
        Self { issuer: Url::parse(issuer).ok().as_ref().and_then(authority), ..Self::default() }
    }

    /// Where the config names the endpoints, it has also judged the routes to their hosts: they
    /// are met by their addresses only.
    pub(crate) fn learn(&self, metadata: &Arc<Metadata>) {
        if self.known.load().as_ref().is_some_and(|known| Arc::ptr_eq(&known.metadata, metadata)) {
            return;
        }
        let endpoint = |url: &Url| Some((authority(url)?.host().clone(), CanonicalPath::parse(url.path()).ok()?));
        let endpoints = metadata.urls().filter_map(endpoint).collect();
        self.known.store(Some(Arc::new(Known { metadata: metadata.clone(), endpoints })));
    }

    /// A connection to it led there.
    pub(crate) fn reached(&self, address: IpAddr) {
        let address = address.to_canonical();
        let addresses = self.addresses.load();
        if addresses.contains(&address) {
            return;
        }
        let newest = addresses.iter().rev().take(MOST_ADDRESSES - 1).rev().copied();
        self.addresses.store(Arc::new(newest.chain([address]).collect()));
    }

    /// The names of its hosts, where no connection has told its addresses yet.
    pub(crate) fn unlocated(&self) -> Vec<Arc<str>> {
        if !self.addresses.load().is_empty() {
            return Vec::new();
        }
        let known = self.known.load();
        let endpoints = known.iter().flat_map(|known| &known.endpoints).map(|(host, _)| host);
        let hosts = self.issuer.iter().map(Authority::host).chain(endpoints);
        let mut names: Vec<Arc<str>> = hosts.filter_map(Host::name).map(Arc::from).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Whether the metadata would tell more.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.issuer.is_some() && self.known.load().is_none()
    }

    pub(crate) fn ground(&self, at: &Authority, path: &CanonicalPath) -> Ground {
        let by_address = self.is_address(at.host());
        let issuer = self.issuer.as_ref();
        match &*self.known.load() {
            None if issuer.is_some_and(|issuer| issuer == at || (by_address && issuer.port() == at.port())) => {
                Ground::Unknown
            }
            None => Ground::Open,
            Some(known) => {
                let by_name = |host: &Host| issuer.is_some() && host == at.host();
                let mut here = known.endpoints.iter().filter(|(host, _)| by_address || by_name(host));
                // What could be read as another path could be read as this one.
                let met = here.any(|(_, endpoint)| path.is_ambiguous() || is_same(endpoint, path));
                if met { Ground::Endpoint } else { Ground::Open }
            }
        }
    }

    /// Whether it is there, whatever is asked for.
    pub(crate) fn is_at(&self, host: &Host) -> bool {
        let named = |known: &Arc<Known>| known.endpoints.iter().any(|(at, _)| at == host);
        self.issuer.as_ref().is_some_and(|issuer| issuer.host() == host)
            || self.known.load().as_ref().is_some_and(named)
            || self.is_address(host)
    }

    fn is_address(&self, host: &Host) -> bool {
        match host {
            Host::Ip(address) => self.addresses.load().contains(&address.to_canonical()),
            Host::Name(_) => false,
        }
    }
}

/// Servers differ in whether they look at case, and at a slash at the end.
fn is_same(endpoint: &CanonicalPath, path: &CanonicalPath) -> bool {
    let plain = |path: &CanonicalPath| path.as_str().trim_end_matches('/').to_ascii_lowercase();
    plain(endpoint) == plain(path)
}

fn authority(url: &Url) -> Option<Authority> {
    Some(Authority::new(Host::parse(url.host_str()?).ok()?, url.port_or_known_default()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(token_endpoint: &str) -> Arc<Metadata> {
        let document = format!(r#"{{"issuer":"https://login.test/","token_endpoint":"{token_endpoint}"}}"#);
        Arc::new(Metadata::read(document.as_bytes(), |text| Url::parse(text).ok()).unwrap())
    }

    fn ground(premises: &Premises, host: &str, path: &str) -> Ground {
        premises.ground(&Authority::parse(host, Some(443)).unwrap(), &CanonicalPath::parse(path).unwrap())
    }

    #[test]
    fn a_discovered_endpoint_is_met_at_its_own_host_and_in_every_spelling() {
        let premises = Premises::of_issuer("https://login.test/");
        assert!(premises.is_incomplete());
        assert_eq!(ground(&premises, "login.test", "/api"), Ground::Unknown);
        assert_eq!(ground(&premises, "login.test:8443", "/api"), Ground::Open, "another server");
        assert_eq!(ground(&premises, "tokens.test", "/oauth/token"), Ground::Open);
        premises.learn(&metadata("https://tokens.test/oauth/token"));
        assert!(!premises.is_incomplete());
        for path in ["/oauth/token", "/oauth/token/", "/OAuth/Token", "/oauth/%74oken", "/oauth//token", "/x/../y"] {
            assert_eq!(ground(&premises, "tokens.test", path), Ground::Endpoint, "{path}");
            assert_eq!(ground(&premises, "tokens.test:80", path), Ground::Endpoint, "{path}");
        }
        assert_eq!(ground(&premises, "tokens.test", "/oauth/tokens"), Ground::Open);
        assert_eq!(ground(&premises, "login.test", "/oauth/token"), Ground::Open);
        assert_eq!(ground(&premises, "login.test", "/x/../y"), Ground::Open);
        let is_at = |host| premises.is_at(&Host::parse(host).unwrap());
        assert!(is_at("tokens.test") && is_at("login.test") && !is_at("other.test"));
        premises.learn(&metadata("https://login.test/token"));
        assert_eq!(ground(&premises, "tokens.test", "/oauth/token"), Ground::Open, "it has moved");
    }

    #[test]
    fn a_server_is_known_by_the_addresses_that_it_was_reached_at() {
        let premises = Premises::default();
        premises.learn(&metadata("https://login.test/token"));
        assert_eq!(ground(&premises, "192.0.2.1", "/token"), Ground::Open);
        premises.reached("::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(ground(&premises, "192.0.2.1", "/token"), Ground::Endpoint);
        assert_eq!(ground(&premises, "[::ffff:192.0.2.1]", "/token"), Ground::Endpoint);
        assert_eq!(ground(&premises, "192.0.2.1", "/orders"), Ground::Open);
        assert_eq!(ground(&premises, "192.0.2.2", "/token"), Ground::Open);
        assert_eq!(ground(&premises, "login.test", "/token"), Ground::Open, "the config's to judge");
        for last in 2..=250 {
            premises.reached(IpAddr::from([192, 0, 2, last]));
        }
        assert_eq!(premises.addresses.load().len(), MOST_ADDRESSES);
        assert_eq!(ground(&premises, "192.0.2.250", "/token"), Ground::Endpoint);
    }
}
