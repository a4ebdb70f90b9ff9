//! The one canonical form of a host and of an authority (threats R1).
//!
//! Policy, DNS, dial, SNI, certificate check, `Host` and the record all use the
//! value made here, so no two of them can disagree about where a request goes.
//! Everything that isn't plainly a host name or an IP literal is refused; nothing
//! is repaired but letter case and one trailing dot.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::shared::Shared;

/// Why a host or an authority was refused (RFC 9110 §4.2, RFC 1123 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host is longer than 253 characters")]
    TooLong,
    #[error("the host holds a character that no host name has")]
    Character,
    #[error("a label of the host is empty, too long, or starts or ends with a hyphen")]
    Label,
    #[error("the host looks like an IP address but isn't one in its usual form")]
    NumericHost,
    #[error("the host has an invalid internationalised label")]
    Punycode,
    #[error("the authority has user information")]
    UserInfo,
    #[error("the authority has no port")]
    NoPort,
    #[error("the port isn't a number from 1 to 65535")]
    Port,
}

/// A host in canonical form: lower-case A-labels without a trailing dot, or an IP address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    Name(Arc<str>),
    Ip(IpAddr),
}

impl Host {
    /// Parses a host as it stands in an authority: IPv6 addresses in brackets.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostError::NumericHost)?;
            let address: Ipv6Addr = inner.parse().map_err(|_| HostError::NumericHost)?;
            return Ok(Self::Ip(address.into()));
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > 253 {
            return Err(HostError::TooLong);
        }
        let mut internationalised = false;
        for label in text.split('.') {
            check_label(label)?;
            internationalised |= label.len() >= 4 && label.as_bytes()[..4].eq_ignore_ascii_case(b"xn--");
        }
        if looks_numeric(text) {
            let address: Ipv4Addr = text.parse().map_err(|_| HostError::NumericHost)?;
            return Ok(Self::Ip(address.into()));
        }
        let name = text.to_ascii_lowercase();
        if internationalised {
            check_punycode(&name)?;
        }
        Ok(Self::Name(name.into()))
    }

    /// The host's name, where it isn't an IP address.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }
}

/// A URL parser takes a host whose last label starts like a number for an IPv4
/// address (`0x7f.1`, `127.1`, `2130706433`); we take it for nothing else.
fn looks_numeric(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or(text);
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn check_label(label: &str) -> Result<(), HostError> {
    let bytes = label.as_bytes();
    if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') {
        return Err(if label.contains('@') { HostError::UserInfo } else { HostError::Character });
    }
    if bytes.is_empty() || bytes.len() > 63 || bytes.starts_with(b"-") || bytes.ends_with(b"-") {
        return Err(HostError::Label);
    }
    Ok(())
}

/// An A-label has to decode to something that encodes to itself (RUSTSEC-2024-0421).
fn check_punycode(name: &str) -> Result<(), HostError> {
    match idna::domain_to_ascii_strict(name) {
        Ok(ascii) if ascii == name => Ok(()),
        Ok(_) | Err(_) => Err(HostError::Punycode),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(address)) => address.fmt(f),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Authority ===

/// A host and a port in canonical form. Cheap to clone: one is made a tunnel or
/// a forward request and then handed down the pipeline.
#[derive(Clone)]
pub struct Authority(Arc<Parts>);

struct Parts {
    host: Host,
    port: u16,
    /// `host:port`, as keys and messages want it. It says all that the others do.
    text: Box<str>,
    /// Bytes of the host in it.
    host_len: usize,
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Authority {}

impl Shared for Authority {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Ord for Authority {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.text.cmp(&other.0.text)
    }
}

impl PartialOrd for Authority {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Authority {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl Authority {
    pub fn new(host: Host, port: u16) -> Self {
        let text: Box<str> = format!("{host}:{port}").into();
        let host_len = text.rfind(':').unwrap_or(text.len());
        Self(Arc::new(Parts { host, port, text, host_len }))
    }

    /// Parses `host[:port]`; without a port, `default_port` is taken where there is one.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, HostError> {
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        let port_at = match text.rfind(':') {
            Some(colon) if text.ends_with(']') && text.starts_with('[') && colon < text.len() => None,
            other => other,
        };
        let (host, port) = match port_at {
            Some(colon) => (&text[..colon], parse_port(&text[colon + 1..])?),
            None => (text, default_port.ok_or(HostError::NoPort)?),
        };
        Ok(Self::new(Host::parse(host)?, port))
    }

    pub fn host(&self) -> &Host {
        &self.0.host
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// `host:port`, always with the port.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The host as text: an IPv6 address in brackets.
    pub fn host_str(&self) -> &str {
        &self.0.text[..self.0.host_len]
    }

    /// The same host at another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self::new(self.0.host.clone(), port)
    }

    /// Whether `text` names this authority when `default_port` stands for a missing
    /// port. Spares the parse for the spelling that nearly every client sends.
    pub fn is_named_by(&self, text: &str, default_port: u16) -> bool {
        if text == self.as_str() {
            return true;
        }
        if self.port() == default_port && text == self.host_str() {
            return true;
        }
        Self::parse(text, Some(default_port)).is_ok_and(|other| other == *self)
    }
}

fn parse_port(text: &str) -> Result<u16, HostError> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(HostError::Port),
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Result<String, HostError> {
        Host::parse(text).map(|host| host.to_string())
    }

    #[test]
    fn one_host_has_one_form() {
        for spelling in ["api.example.com", "API.Example.COM", "api.example.com."] {
            assert_eq!(canonical(spelling).as_deref(), Ok("api.example.com"));
        }
        assert_eq!(canonical("127.0.0.1").as_deref(), Ok("127.0.0.1"));
        assert_eq!(canonical("[0:0:0:0:0:0:0:1]").as_deref(), Ok("[::1]"));
        assert_eq!(canonical("xn--bcher-kva.example").as_deref(), Ok("xn--bcher-kva.example"));
    }

    /// Threats 24, 26, 28: odd spellings of addresses and names.
    #[test]
    fn odd_hosts_are_refused() {
        let numeric =
            ["0x7f.1", "2130706433", "0177.0.0.1", "127.1", "0", "127.0.0.0x1", "1.2.3.4.5", "[::1%eth0]", "[::1"];
        for text in numeric {
            assert_eq!(canonical(text), Err(HostError::NumericHost), "{text}");
        }
        let characters = [
            "a b",
            "a\0.b",
            "ex%61mple.com",
            "a\\b",
            "a\r\nb",
            "ｅxample.com",
            "a。b",
            "so\u{ad}ft.com",
            "a_b.com",
            "a/b",
        ];
        for text in characters {
            assert_eq!(canonical(text), Err(HostError::Character), "{text}");
        }
        for text in ["a..b", "-a.b", "a-.b", ".a", "a.."] {
            assert_eq!(canonical(text), Err(HostError::Label), "{text}");
        }
        for text in ["xn--example-.com", "xn--.com", "xn--a.com"] {
            assert!(canonical(text).is_err(), "{text}");
        }
        assert_eq!(canonical(""), Err(HostError::Empty));
        assert_eq!(canonical("."), Err(HostError::Empty));
        assert_eq!(canonical(&"a.".repeat(127)[..]).map(|_| ()), Ok(()));
        assert_eq!(canonical(&"a.".repeat(128)[..]), Err(HostError::TooLong));
    }

    /// Threats 29 and 30.
    #[test]
    fn authorities_need_one_plain_port() {
        let parse = |text| Authority::parse(text, None).map(|authority| authority.to_string());
        assert_eq!(parse("A.example:443").as_deref(), Ok("a.example:443"));
        assert_eq!(parse("[::1]:8443").as_deref(), Ok("[::1]:8443"));
        assert_eq!(parse("a.example"), Err(HostError::NoPort));
        assert_eq!(parse("[::1]"), Err(HostError::NoPort));
        for text in ["a:0", "a:65536", "a:+1", "a:-1", "a:", "a: 1", "a:1e3", "a:000443"] {
            assert_eq!(parse(text), Err(HostError::Port), "{text}");
        }
        assert_eq!(parse("a:1:2"), Err(HostError::Character));
        assert_eq!(parse("user@a:1"), Err(HostError::UserInfo));
    }

    #[test]
    fn an_authority_knows_its_spellings() {
        let Ok(authority) = Authority::parse("api.example.com:443", None) else { panic!("parse") };
        for text in ["api.example.com", "api.example.com:443", "API.example.com.", "api.example.COM:443"] {
            assert!(authority.is_named_by(text, 443), "{text}");
        }
        for text in ["api.example.com:80", "evil.com", "api.example.com@evil.com", ""] {
            assert!(!authority.is_named_by(text, 443), "{text}");
        }
        assert!(!authority.with_port(8443).is_named_by("api.example.com", 443));
    }
}
