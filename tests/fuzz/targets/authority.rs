//! The one form of a host and a port: made again it is the same, and a URL parser that takes the
//! text reads the same host and port in it.

#![no_main]

use std::net::IpAddr;

use cupbearer::primitives::{Authority, Host};
use url::Url;

fn same(url: &Url, authority: &Authority) {
    let host = match url.host().expect("a host") {
        url::Host::Domain(name) => Host::Name(name.strip_suffix('.').unwrap_or(name).into()),
        url::Host::Ipv4(address) => Host::Ip(IpAddr::V4(address)),
        url::Host::Ipv6(address) => Host::Ip(IpAddr::V6(address)),
    };
    assert_eq!(&host, authority.host(), "{url} for {authority}");
    assert_eq!(url.port_or_known_default(), Some(authority.port()), "{url} for {authority}");
    assert_eq!((url.username(), url.password(), url.path(), url.query()), ("", None, "/", None));
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(authority) = Authority::parse(text, Some(80)) else { return };
    assert_eq!(Authority::parse(&authority.to_string(), None).as_ref(), Ok(&authority), "{text:?}");
    let canonical = authority.to_string();
    assert!(canonical.is_ascii() && !canonical.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' '));
    same(&Url::parse(&format!("http://{authority}/")).expect("a URL"), &authority);
    if let Ok(url) = Url::parse(&format!("http://{text}/")) {
        same(&url, &authority);
    }
});
