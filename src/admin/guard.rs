//! Who may talk to the admin listener, judged from headers alone (threats 39 and 40).
//!
//! A page in the operator's browser can reach loopback. It can't choose `Host`: a foreign
//! name there is DNS rebinding and refused. It can't hide `Origin`: a change asked for by
//! another origin is refused. And it doesn't hold the key.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, Method, Uri, header, uri};

use crate::primitives::{Authority, Host, Secret};

/// What is refused before any handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// The request isn't for us: DNS rebinding, or a name that we don't go by.
    Host,
    /// A page of another origin asks for a change.
    Origin,
    /// No key, or the wrong one.
    Key,
}

/// The names that the listener goes by.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// `None`: a socket file, which has no address.
    listen: Option<IpAddr>,
}

impl Names {
    pub(super) fn new(listen: Option<SocketAddr>) -> Self {
        Self { listen: listen.map(|listen| listen.ip().to_canonical()) }
    }

    /// Every name that the request gives its target has to be ours, and one has to be there.
    /// The port isn't judged: a forwarded one differs, and rebinding needs a name.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Denied> {
        let mut named = headers.get_all(header::HOST).iter().map(|value| value.to_str().ok());
        let (host, second) = (named.next(), named.next());
        let target = uri.authority().map(|authority| Some(authority.as_str()));
        let all = [host, target];
        let ours = all.iter().flatten().all(|name| name.is_some_and(|name| self.has(name)));
        if second.is_some() || all == [None, None] || !ours { Err(Denied::Host) } else { Ok(()) }
    }

    fn has(&self, text: &str) -> bool {
        let Ok(authority) = Authority::parse(text, Some(80)) else { return false };
        match authority.host() {
            Host::Name(name) => &**name == "localhost",
            // Bound to all addresses, ours can't be listed; but what a browser was rebound
            // to has a name, so an address in `Host` is no attack.
            Host::Ip(address) => {
                let address = address.to_canonical();
                address.is_loopback() || self.listen.is_some_and(|own| address == own || own.is_unspecified())
            }
        }
    }
}

/// A change needs to come from no page at all or from one of ours (RFC 6454, Fetch metadata).
/// [`Names::check`] has to have passed: `Host` is trusted here.
pub(super) fn check_origin(method: &Method, headers: &HeaderMap) -> Result<(), Denied> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let site = headers.get_all("sec-fetch-site").iter();
    if !site.into_iter().all(|site| site == "same-origin" || site == "none") {
        return Err(Denied::Origin);
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let ours = |origin: &str| {
        let Ok(origin) = origin.parse::<Uri>() else { return false };
        let http = origin.scheme() == Some(&uri::Scheme::HTTP);
        let same = origin.authority().zip(host).is_some_and(|(theirs, host)| theirs.as_str() == host);
        http && same && origin.path() == "/" && origin.query().is_none()
    };
    let all = headers.get_all(header::ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(ours));
    if all { Ok(()) } else { Err(Denied::Origin) }
}

/// `Authorization: Bearer KEY`, once, compared in constant time.
pub(super) fn check_key(headers: &HeaderMap, key: &Secret) -> Result<(), Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Denied::Key) };
    let Some((scheme, shown)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Err(Denied::Key);
    };
    let shown = Secret::new(shown.trim_start_matches(' ').to_owned());
    if scheme.eq_ignore_ascii_case("bearer") && shown.equals(key) { Ok(()) } else { Err(Denied::Key) }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn names(listen: &str) -> Names {
        Names::new(Some(listen.parse().unwrap()))
    }

    fn host(listen: &str, host: &str) -> Result<(), Denied> {
        names(listen).check(&Uri::from_static("/metrics"), &headers(&[("host", host)]))
    }

    #[test]
    fn our_own_names_pass() {
        for text in ["127.0.0.1:9180", "127.0.0.1", "localhost:9180", "LOCALHOST", "[::1]:9180", "127.0.0.2:80"] {
            assert_eq!(host("127.0.0.1:9180", text), Ok(()), "{text}");
        }
        assert_eq!(host("10.1.2.3:9180", "10.1.2.3:9180"), Ok(()));
        for text in ["localhost", "127.0.0.1"] {
            assert_eq!(Names::new(None).check(&Uri::from_static("/"), &headers(&[("host", text)])), Ok(()));
        }
        assert_eq!(host("0.0.0.0:9180", "10.9.8.7:9180"), Ok(()));
        assert_eq!(host("[::]:9180", "10.9.8.7:9180"), Ok(()));
    }

    /// Threat 40: DNS rebinding.
    #[test]
    fn foreign_names_are_refused() {
        for text in [
            "evil.example",
            "evil.example:9180",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.1",
            "0x7f.0.0.1",
            "user@localhost",
            "10.1.2.3",
            "0.0.0.0",
            "",
            "localhost, evil.example",
            "b\u{e9}",
        ] {
            assert_eq!(host("127.0.0.1:9180", text), Err(Denied::Host), "{text}");
        }
        assert_eq!(host("0.0.0.0:9180", "evil.example"), Err(Denied::Host));
        assert_eq!(host("10.1.2.3:9180", "10.1.2.4"), Err(Denied::Host));
    }

    #[test]
    fn all_names_of_a_request_must_be_ours() {
        let check = |uri, pairs: &[(&'static str, &str)]| {
            names("127.0.0.1:9180").check(&Uri::from_static(uri), &headers(pairs))
        };
        assert_eq!(check("/", &[]), Err(Denied::Host));
        assert_eq!(check("/", &[("host", "localhost"), ("host", "localhost")]), Err(Denied::Host));
        assert_eq!(check("http://evil.example/", &[("host", "localhost")]), Err(Denied::Host));
        assert_eq!(check("http://localhost/", &[("host", "evil.example")]), Err(Denied::Host));
        assert_eq!(check("http://localhost/", &[("host", "localhost")]), Ok(()));
        assert_eq!(check("http://localhost/", &[]), Ok(()));
    }

    /// Threat 40: CSRF.
    #[test]
    fn a_change_comes_from_no_page_or_from_ours() {
        let check = |method, pairs: &[(&'static str, &str)]| {
            let mut all = vec![("host", "127.0.0.1:9180")];
            all.extend_from_slice(pairs);
            check_origin(&method, &headers(&all))
        };
        assert_eq!(check(Method::POST, &[]), Ok(()));
        assert_eq!(check(Method::POST, &[("origin", "http://127.0.0.1:9180")]), Ok(()));
        assert_eq!(
            check(Method::POST, &[("origin", "http://127.0.0.1:9180"), ("sec-fetch-site", "same-origin")]),
            Ok(())
        );
        assert_eq!(check(Method::GET, &[("origin", "http://evil.example")]), Ok(()));
        let foreign = [
            "http://evil.example",
            "http://127.0.0.1:9181",
            "http://127.0.0.1",
            "https://127.0.0.1:9180",
            "http://127.0.0.1:9180.evil.example",
            "http://user@127.0.0.1:9180",
            "null",
            "",
        ];
        for origin in foreign {
            assert_eq!(check(Method::POST, &[("origin", origin)]), Err(Denied::Origin), "{origin}");
            assert_eq!(check(Method::DELETE, &[("origin", origin)]), Err(Denied::Origin), "{origin}");
        }
        for site in ["cross-site", "same-site", "?"] {
            assert_eq!(check(Method::POST, &[("sec-fetch-site", site)]), Err(Denied::Origin), "{site}");
        }
        let two = [("origin", "http://127.0.0.1:9180"), ("origin", "http://evil.example")];
        assert_eq!(check(Method::POST, &two), Err(Denied::Origin));
    }

    #[test]
    fn only_the_key_opens() {
        let key = Secret::new("canary-key".to_owned());
        let check = |pairs: &[(&'static str, &str)]| check_key(&headers(pairs), &key);
        assert_eq!(check(&[("authorization", "Bearer canary-key")]), Ok(()));
        assert_eq!(check(&[("authorization", "bearer  canary-key")]), Ok(()));
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer canary-ke",
            "Bearer canary-key2",
            "Bearer CANARY-KEY",
            "canary-key",
            "Basic canary-key",
        ] {
            assert_eq!(check(&[("authorization", value)]), Err(Denied::Key), "{value}");
        }
        assert_eq!(check(&[]), Err(Denied::Key));
        assert_eq!(check(&[("cookie", "key=canary-key")]), Err(Denied::Key));
        let twice = [("authorization", "Bearer canary-key"), ("authorization", "Bearer canary-key")];
        assert_eq!(check(&twice), Err(Denied::Key));
    }
}
