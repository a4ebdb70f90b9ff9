//! URLs of the file: `https://host[:port][/path]` in canonical form. Refuses what two
//! readers could take differently (user information, fragments).

use std::net::IpAddr;

use crate::{
    primitives::{Authority, Host, is_metadata_service},
    route::Scheme,
};

use super::{
    super::{
        document::{At, Document},
        problem::shown,
    },
    listeners::is_loopback,
};

/// A URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Url {
    pub(in crate::config) scheme: Scheme,
    pub(in crate::config) authority: Authority,
    /// Starts with `/`.
    pub(in crate::config) path: String,
    pub(in crate::config) has_query: bool,
}

pub(in crate::config) fn url(doc: &Document<'_>, key: &str, text: &At<String>) -> Option<Url> {
    match parse(&text.value) {
        Ok(url) => Some(url),
        Err(reason) => {
            // What stands before an `@` may be a password.
            let message = if text.value.contains('@') {
                doc.hide(&text.span);
                format!("`{key}` is no usable URL: {reason}")
            } else {
                format!("`{}` is no usable URL: {reason}", shown(&text.value))
            };
            doc.problem(&text.span, message, "write it as https://host/path");
            None
        }
    }
}

/// The metadata server of a cloud: at a link-local address, at an IPv6 address that clouds give
/// it, or by the name that Google does.
pub(in crate::config) fn is_metadata(host: &Host) -> bool {
    match host {
        Host::Name(name) => &**name == "metadata.google.internal",
        Host::Ip(IpAddr::V4(address)) => address.is_link_local(),
        Host::Ip(address @ IpAddr::V6(v6)) => v6.is_unicast_link_local() || is_metadata_service(*address),
    }
}

/// A URL of a metadata server: clear text is fine where it can't leave the machine or its host.
pub(in crate::config) fn metadata_url(doc: &Document<'_>, key: &str, text: &At<String>) -> Option<Url> {
    let parts = url(doc, key, text)?;
    let host = parts.authority.host();
    if parts.scheme == Scheme::Http && !is_loopback(host) && !is_metadata(host) {
        let message = format!("`{}` is no metadata server's address", shown(&parts.authority.to_string()));
        let help = "write https://; http:// is for link-local and loopback addresses and metadata.google.internal";
        doc.problem(&text.span, message, help);
        return None;
    }
    Some(parts)
}

fn parse(text: &str) -> Result<Url, String> {
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    if host.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@')) {
        return Err("it has user information".to_owned());
    }
    if text.contains('#') {
        return Err("it has a fragment".to_owned());
    }
    let uri: http::Uri = text.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let scheme = match uri.scheme_str() {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        Some(_) => return Err("its scheme is neither https nor http".to_owned()),
        None => return Err("it has no scheme".to_owned()),
    };
    let authority = uri.authority().ok_or("it has no host")?;
    let authority =
        Authority::parse(authority.as_str(), Some(scheme.default_port())).map_err(|error| error.to_string())?;
    Ok(Url { scheme, authority, path: uri.path().to_owned(), has_query: uri.query().is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_every_local_address_is_a_metadata_servers() {
        let is_metadata = |host| is_metadata(&Host::parse(host).unwrap());
        for host in ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[fd20:ce::254]", "metadata.google.internal"] {
            assert!(is_metadata(host), "{host}");
        }
        for host in ["[fd12::1]", "[fd00:ec2::253]", "10.0.0.1", "[2001:db8::1]", "metadata.google.example"] {
            assert!(!is_metadata(host), "{host}");
        }
    }

    #[test]
    fn urls_are_taken_apart_and_odd_ones_refused() {
        let url = parse("https://Auth.Example.com/tenant/?x=1").unwrap();
        assert_eq!(url.authority.as_str(), "auth.example.com:443");
        assert_eq!((url.path.as_str(), url.has_query), ("/tenant/", true));
        assert_eq!(parse("http://localhost:9000").unwrap().path, "/");
        assert_eq!(parse("https://a/robot@b:go").unwrap().path, "/robot@b:go");
        for text in
            ["auth.example.com", "//a", "ftp://a", "https://u:p@a", "https://a#b", "https://", "https://a b", "/x"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
