//! Host and path patterns, parsed once and compared label by label, segment by segment;
//! never as strings, where `*.x` could match `evilx` (threat 27).

use std::fmt;

use crate::primitives::{Authority, CanonicalPath, Host, HostError};

use super::Scheme;

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("`*` stands alone for the first label only, as in `*.example.com`")]
    Wildcard,
    #[error("a path pattern starts with `/`")]
    NotAbsolute,
    #[error("`*` and `**` stand for whole segments, as in `/v1/*/items/**`")]
    Glob,
    #[error("the path is not in its plain form")]
    AmbiguousPath,
}

// === impl HostPattern ===

/// `orders.example.com`, `*.example.com`, either with `:port`. Without a port, the
/// scheme's default one. `*.x` matches neither `x` nor `evilx`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {
    /// The whole host, or what stands behind `*.`.
    host: Host,
    wildcard: bool,
    port: Option<u16>,
}

impl HostPattern {
    /// # Errors
    /// What isn't a host, or has a `*` anywhere but in front.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.contains('*') {
            return Err(PatternError::Wildcard);
        }
        // Whatever the default, it only shows whether a port was written.
        let low = Authority::parse(rest, Some(1))?;
        let high = Authority::parse(rest, Some(2))?;
        let port = (low.port() == high.port()).then(|| low.port());
        let host = low.host().clone();
        if wildcard && host.name().is_none() {
            return Err(PatternError::Wildcard);
        }
        Ok(Self { host, wildcard, port })
    }

    /// `scheme` gives the port that a pattern without one stands for; a `CONNECT`
    /// (scheme not known yet) passes `None`, and then 80 and 443 both match.
    pub fn matches(&self, authority: &Authority, scheme: Option<Scheme>) -> bool {
        self.matches_port(authority.port(), scheme) && self.matches_host(authority.host())
    }

    pub(super) fn matches_port(&self, port: u16, scheme: Option<Scheme>) -> bool {
        match (self.port, scheme) {
            (Some(named), _) => named == port,
            (None, Some(scheme)) => port == scheme.default_port(),
            (None, None) => port == Scheme::Http.default_port() || port == Scheme::Https.default_port(),
        }
    }

    pub(super) fn matches_host(&self, host: &Host) -> bool {
        match (self.wildcard, &self.host, host) {
            (false, own, other) => own == other,
            (true, Host::Name(suffix), Host::Name(name)) => {
                name.strip_suffix(&**suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
            (true, _, _) => false,
        }
    }

    /// Whether every authority that `other` matches is matched by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let port = self.port == other.port || (self.port.is_none() && matches!(other.port, Some(80 | 443)));
        let host = match (self.wildcard, other.wildcard) {
            (false, true) => false,
            (true, true) if self.host == other.host => true,
            (_, _) => self.matches_host(&other.host),
        };
        port && host
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*." } else { "" };
        write!(f, "{star}{}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

// === impl PathPattern ===

/// `/v1/orders`, `/v1/*/items`, `/v1/orders/**` (also matches `/v1/orders`).
/// `*` is exactly one segment, `**` any number of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    segments: Vec<Segment>,
    /// Characters before the first `*`: how specific the pattern is.
    literal: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    Literal(Box<str>),
    One,
    Any,
}

impl PathPattern {
    /// # Errors
    /// What isn't a path in its canonical, unambiguous form with `*` and `**` for segments.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let path = CanonicalPath::parse(text).map_err(|_| match text.starts_with('/') {
            true => PatternError::AmbiguousPath,
            false => PatternError::NotAbsolute,
        })?;
        if path.is_ambiguous() || path.as_str() != text {
            return Err(PatternError::AmbiguousPath);
        }
        let segments = text[1..].split('/').map(Segment::parse).collect::<Result<Vec<_>, _>>()?;
        let literal = text.find('*').unwrap_or(text.len());
        Ok(Self { segments, literal })
    }

    /// Never true for a path that could be read in two ways.
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        !path.is_ambiguous() && matches(&self.segments, path.as_str().get(1..))
    }

    /// Length of the literal start, then whether there is no wildcard at all.
    pub(super) fn specificity(&self) -> (usize, bool) {
        (self.literal, self.segments.iter().all(|segment| matches!(segment, Segment::Literal(_))))
    }

    /// Whether some path matches both.
    pub(super) fn intersects(&self, other: &Self) -> bool {
        intersects(&self.segments, &other.segments)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::One => f.write_str("/*"),
            Segment::Any => f.write_str("/**"),
        })
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, PatternError> {
        match text {
            "*" => Ok(Self::One),
            "**" => Ok(Self::Any),
            literal if literal.contains('*') => Err(PatternError::Glob),
            literal => Ok(Self::Literal(literal.into())),
        }
    }
}

/// `rest` is what is left of the path behind a `/`; `None` when nothing is left.
///
/// Takes time in the product of both lengths at worst: of several `**`, only the last
/// one passed ever has to be tried further on.
fn matches(pattern: &[Segment], path: Option<&str>) -> bool {
    let (mut pattern, mut path) = (pattern, path);
    let mut retry: Option<(&[Segment], Option<&str>)> = None;
    loop {
        let stepped = match (pattern.split_first(), path) {
            (None, None) => return true,
            (Some((Segment::Any, rest)), _) => {
                retry = Some((rest, path));
                Some((rest, path))
            }
            (Some((segment, rest)), Some(text)) => {
                let (head, tail) = match text.split_once('/') {
                    Some((head, tail)) => (head, Some(tail)),
                    None => (text, None),
                };
                segment.fits(head).then_some((rest, tail))
            }
            (Some(_), None) | (None, Some(_)) => None,
        };
        match (stepped, &mut retry) {
            (Some(next), _) => (pattern, path) = next,
            (None, Some((after, at @ Some(_)))) => {
                *at = at.and_then(|text| text.split_once('/')).map(|(_, tail)| tail);
                (pattern, path) = (*after, *at);
            }
            (None, _) => return false,
        }
    }
}

impl Segment {
    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => **literal == *text,
            Self::One => !text.is_empty(),
            Self::Any => true,
        }
    }

    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(one), Self::Literal(two)) => one == two,
            (Self::Literal(text), Self::One) | (Self::One, Self::Literal(text)) => !text.is_empty(),
            (Self::One, Self::One) | (Self::Any, _) | (_, Self::Any) => true,
        }
    }
}

/// At load only, on patterns of a few segments each.
fn intersects(one: &[Segment], two: &[Segment]) -> bool {
    match (one.split_first(), two.split_first()) {
        (None, None) => true,
        (Some((Segment::Any, rest)), _) => intersects(rest, two) || (!two.is_empty() && intersects(one, &two[1..])),
        (_, Some((Segment::Any, _))) => intersects(two, one),
        (Some((a, one)), Some((b, two))) => a.meets(b) && intersects(one, two),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(pattern: &str, authority: &str) -> bool {
        let authority = Authority::parse(authority, None).unwrap();
        HostPattern::parse(pattern).unwrap().matches(&authority, Some(Scheme::Https))
    }

    /// Threats 25 and 27.
    #[test]
    fn hosts_match_label_by_label() {
        assert!(host("api.example.com", "API.example.com.:443"));
        assert!(host("*.example.com", "a.example.com:443"));
        assert!(host("*.example.com", "a.b.example.com:443"));
        assert!(!host("*.example.com", "example.com:443"));
        assert!(!host("*.example.com", "evilexample.com:443"));
        assert!(!host("*.example.com", "a.example.com.evil.net:443"));
        assert!(!host("api.example.com", "apixexample.com:443"));
        assert!(!host("api.example.com", "api.example.com:8443"));
        assert!(host("api.example.com:8443", "api.example.com:8443"));
        assert!(!host("api.example.com:8443", "api.example.com:443"));
        assert!(host("127.0.0.1", "127.0.0.1:443"));
        assert!(host("[::1]:8443", "[::1]:8443"));
        assert!(!host("[::1]", "[::1]:80"));
    }

    #[test]
    fn odd_host_patterns_are_refused() {
        for text in ["*", "a.*.com", "**.example.com", "*example.com", "*.*.com", "*.127.0.0.1"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        assert!(matches!(HostPattern::parse("exämple.com"), Err(PatternError::Host(_))));
        assert_eq!(HostPattern::parse("*.Example.com:8443").unwrap().to_string(), "*.example.com:8443");
    }

    #[test]
    fn covering_is_about_every_match() {
        let covers = |one, two| HostPattern::parse(one).unwrap().covers(&HostPattern::parse(two).unwrap());
        assert!(covers("a.b", "a.b"));
        assert!(covers("a.b", "a.b:443"));
        assert!(!covers("a.b", "a.b:8443"));
        assert!(!covers("a.b:443", "a.b"));
        assert!(covers("*.b", "a.b"));
        assert!(covers("*.b", "*.b"));
        assert!(covers("*.b", "*.a.b"));
        assert!(!covers("*.a.b", "*.b"));
        assert!(!covers("a.b", "*.b"));
    }

    fn path(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).unwrap().matches(&CanonicalPath::parse(path).unwrap())
    }

    /// Threat 69.
    #[test]
    fn paths_match_segment_by_segment() {
        assert!(path("/v1/orders", "/v1/orders"));
        assert!(!path("/v1/orders", "/v1/orders/"));
        assert!(!path("/v1/orders", "/v1/ordersx"));
        assert!(!path("/v1/orders", "/V1/orders"));
        for below in ["/v1/orders", "/v1/orders/", "/v1/orders/7", "/v1/orders/7/items"] {
            assert!(path("/v1/orders/**", below), "{below}");
        }
        assert!(!path("/v1/orders/**", "/v1/ordersx"));
        assert!(!path("/v1/orders/**", "/v1"));
        assert!(path("/v1/*/items", "/v1/7/items"));
        assert!(!path("/v1/*/items", "/v1/7/8/items"));
        assert!(!path("/v1/*/items", "/v1//items"));
        assert!(path("/**/end", "/end"));
        assert!(path("/**/end", "/a/b/end"));
        assert!(path("/**/a/**/b", "/x/a/y/a/z/b"));
        assert!(!path("/**/a/**/b", "/x/b/y"));
        assert!(path("/**", "/"));
        assert!(path("/", "/"));
        assert!(!path("/", "/a"));
        for ambiguous in
            ["/v1/orders/../keys", "/v1/orders/%2e%2e/keys", "/v1/orders%2f7", "/v1/orders//7", "/v1/orders;x"]
        {
            assert!(!path("/v1/orders/**", ambiguous) && !path("/**", ambiguous), "{ambiguous}");
        }
    }

    #[test]
    fn odd_path_patterns_are_refused() {
        for text in ["v1", "", "/v1/*x", "/a//b", "/../a", "/a%2fb", "/%41", "/a b", "/v1?x"] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn intersections_are_found() {
        let meet = |one, two| PathPattern::parse(one).unwrap().intersects(&PathPattern::parse(two).unwrap());
        assert!(meet("/a/**", "/a/b"));
        assert!(meet("/a/*/c", "/a/b/*"));
        assert!(meet("/**/c", "/a/**"));
        assert!(!meet("/a/*", "/a"));
        assert!(!meet("/a/b", "/a/c"));
        assert!(!meet("/a/**/x", "/a/*/y"));
    }
}
