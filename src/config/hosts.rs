//! Which hosts a list of patterns names, as far as the comparison of two lists needs it: a
//! route's hosts against its credential's (the second lock). Matching of requests is
//! `route`'s own.

use crate::{
    primitives::Authority,
    route::{HostPattern, PatternError},
};

use super::{
    document::{At, Document},
    problem::{Span, shown},
    raw::HOST_HELP,
};

/// One entry of a `hosts` list.
#[derive(Clone, Debug)]
pub(super) struct HostEntry {
    pub(super) text: String,
    pub(super) span: Span,
    pub(super) pattern: HostPattern,
    shape: Shape,
}

/// How far one pattern reaches into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Overlap {
    Nothing,
    Some,
    All,
}

#[derive(Clone, Debug)]
struct Shape {
    wildcard: bool,
    /// Lower case, without `*.` and without a trailing dot.
    name: String,
    port: Option<u16>,
}

pub(super) fn host_entries(doc: &Document<'_>, list: Vec<At<String>>) -> Vec<HostEntry> {
    let mut entries = Vec::new();
    for text in list {
        match HostPattern::parse(&text.value) {
            Ok(pattern) => {
                let shape = Shape::of(&text.value);
                entries.push(HostEntry { text: shown(&text.value), span: text.span, pattern, shape });
            }
            Err(error) => {
                let help = match error {
                    PatternError::Wildcard => {
                        "write one host, or \"*.example.com\" for all below example.com".to_owned()
                    }
                    _ => without_scheme(&text.value)
                        .map_or(HOST_HELP.to_owned(), |host| format!("write \"{}\": no scheme, no path", shown(host))),
                };
                doc.problem(&text.span, format!("`{}` is no host: {error}", shown(&text.value)), help);
            }
        }
    }
    entries
}

/// What of `https://host/path` is the host.
fn without_scheme(text: &str) -> Option<&str> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    (host != text && !host.is_empty() && HostPattern::parse(host).is_ok()).then_some(host)
}

impl HostEntry {
    /// How much of what `self` names `lock` names too.
    pub(super) fn covered_by(&self, lock: &Self) -> Overlap {
        let (own, other) = (&self.shape, &lock.shape);
        let below = |name: &str, parent: &str| name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
        let hosts = match (own.wildcard, other.wildcard) {
            _ if own.wildcard == other.wildcard && own.name == other.name => Overlap::All,
            (_, true) if below(&own.name, &other.name) => Overlap::All,
            (true, _) if below(&other.name, &own.name) => Overlap::Some,
            _ => Overlap::Nothing,
        };
        // A pattern without a port means the scheme's: a token goes to 443, or 80 where clear text is allowed.
        let ports = match (own.port, other.port) {
            (one, same) if one == same => Overlap::All,
            (None, Some(443)) | (Some(80 | 443), None) => Overlap::All,
            (None, Some(80)) => Overlap::Some,
            _ => Overlap::Nothing,
        };
        hosts.min(ports)
    }

    pub(super) fn is_loopback(&self) -> bool {
        let name = self.shape.name.as_str();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        !self.shape.wildcard
            && (name == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()))
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.shape.port
    }
}

impl Shape {
    /// Of a text that is a good pattern.
    fn of(text: &str) -> Self {
        let (wildcard, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        let port = match Authority::parse(rest, None) {
            Ok(authority) => Some(authority.port()),
            Err(_) => None,
        };
        let host = match port {
            Some(_) => rest.rfind(':').map_or(rest, |colon| &rest[..colon]),
            None => rest,
        };
        Self { wildcard, name: host.trim_end_matches('.').to_ascii_lowercase(), port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> HostEntry {
        let pattern = HostPattern::parse(text).unwrap();
        HostEntry { text: text.to_owned(), span: 0..0, pattern, shape: Shape::of(text) }
    }

    #[test]
    fn coverage_goes_by_labels_and_ports() {
        let cases = [
            ("a.example.com", "a.example.com", Overlap::All),
            ("A.example.com.", "a.example.com", Overlap::All),
            ("a.example.com", "*.example.com", Overlap::All),
            ("*.b.example.com", "*.example.com", Overlap::All),
            ("*.example.com", "a.example.com", Overlap::Some),
            ("example.com", "*.example.com", Overlap::Nothing),
            ("evilexample.com", "*.example.com", Overlap::Nothing),
            ("a.example.com", "b.example.com", Overlap::Nothing),
            ("a.example.com:8443", "a.example.com", Overlap::Nothing),
            ("a.example.com:8443", "*.example.com:8443", Overlap::All),
            ("a.example.com:443", "a.example.com", Overlap::All),
            ("a.example.com", "a.example.com:443", Overlap::All),
        ];
        for (route, lock, expected) in cases {
            assert_eq!(entry(route).covered_by(&entry(lock)), expected, "{route} under {lock}");
        }
    }

    #[test]
    fn loopback_hosts_are_known() {
        for text in ["localhost:8080", "127.0.0.1", "[::1]:9000"] {
            assert!(entry(text).is_loopback(), "{text}");
        }
        for text in ["api.example.com", "*.localhost"] {
            assert!(!entry(text).is_loopback(), "{text}");
        }
    }
}
