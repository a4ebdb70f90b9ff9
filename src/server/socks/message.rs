//! The messages of SOCKS 5 (RFC 1928) and of its user and password (RFC 1929), as pure
//! functions of the bytes that are there. What can't be read whole is refused; hosts become
//! the one canonical form that every other door has (threats 24 to 26).
//!
//! ```text
//! Offer -> CHOOSE_… -> (Login -> LOGIN_…) -> Request -> reply
//! ```

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use zeroize::Zeroizing;

use crate::primitives::{Authority, Host, HostError};

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;

const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;

/// "Show nothing."
pub(super) const CHOOSE_NO_LOGIN: [u8; 2] = [VERSION, NO_LOGIN];
/// "Show user and password."
pub(super) const CHOOSE_LOGIN: [u8; 2] = [VERSION, LOGIN];
/// "None of what you offer will do."
pub(super) const CHOOSE_NOTHING: [u8; 2] = [VERSION, 0xff];

pub(super) const LOGIN_ACCEPTED: [u8; 2] = [LOGIN_VERSION, 0];
pub(super) const LOGIN_REFUSED: [u8; 2] = [LOGIN_VERSION, 1];

/// Replies that no judgement asks for (RFC 1928 §6).
pub(super) const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// A message and how many of the bytes it took; `None`: it isn't there to its end.
pub type Parsed<T> = Result<Option<(T, usize)>, Malformed>;

/// Why bytes are no message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("this isn't SOCKS 5")]
    Version,
    #[error("no way to log in is offered")]
    NoMethod,
    #[error("this isn't user and password as RFC 1929 has them")]
    LoginVersion,
    #[error("only CONNECT is served")]
    Command,
    #[error("the reserved byte isn't zero")]
    Reserved,
    #[error("the address is of no known type")]
    AddressType,
    #[error("the address isn't valid: {0}")]
    Host(#[from] HostError),
}

impl Malformed {
    /// What a request is answered with.
    pub(super) fn reply(self) -> u8 {
        match self {
            Self::Command => COMMAND_NOT_SUPPORTED,
            Self::AddressType => ADDRESS_TYPE_NOT_SUPPORTED,
            Self::Version | Self::NoMethod | Self::LoginVersion | Self::Reserved | Self::Host(_) => GENERAL_FAILURE,
        }
    }
}

// === Offer ===

/// How a client could log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub login: bool,
    pub no_login: bool,
}

impl Offer {
    /// RFC 1928 §3.
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        let Some((version, rest)) = bytes.split_first() else { return Ok(None) };
        if *version != VERSION {
            return Err(Malformed::Version);
        }
        let Some((methods, used)) = counted(rest) else { return Ok(None) };
        if methods.is_empty() {
            return Err(Malformed::NoMethod);
        }
        let offer = Self { login: methods.contains(&LOGIN), no_login: methods.contains(&NO_LOGIN) };
        Ok(Some((offer, 1 + used)))
    }
}

// === Login ===

/// An agent's name and key. Who it is, is not decided here.
pub struct Login {
    pub name: Box<[u8]>,
    pub key: Zeroizing<Box<[u8]>>,
}

impl Login {
    /// RFC 1929 §2. Either part may be empty: some clients can send one of them only.
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        let Some((version, rest)) = bytes.split_first() else { return Ok(None) };
        if *version != LOGIN_VERSION {
            return Err(Malformed::LoginVersion);
        }
        let Some((name, name_used)) = counted(rest) else { return Ok(None) };
        let Some((key, key_used)) = counted(&rest[name_used..]) else { return Ok(None) };
        let login = Self { name: name.into(), key: Zeroizing::new(key.into()) };
        Ok(Some((login, 1 + name_used + key_used)))
    }
}

/// Never what was sent.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

// === Request ===

/// A `CONNECT`: the only command that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request(pub Authority);

impl Request {
    /// RFC 1928 §4 and §5.
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        const CONNECT: u8 = 1;
        match bytes {
            [] => return Ok(None),
            [VERSION] | [VERSION, CONNECT] | [VERSION, CONNECT, 0] => return Ok(None),
            [VERSION, CONNECT, 0, ..] => {}
            [VERSION, CONNECT, ..] => return Err(Malformed::Reserved),
            [VERSION, ..] => return Err(Malformed::Command),
            _ => return Err(Malformed::Version),
        }
        let Some((host, used)) = host(&bytes[3..])? else { return Ok(None) };
        let Some([high, low]) = bytes[3 + used..].first_chunk() else { return Ok(None) };
        match u16::from_be_bytes([*high, *low]) {
            0 => Err(HostError::Port.into()),
            port => Ok(Some((Self(Authority::new(host, port)), 3 + used + 2))),
        }
    }
}

/// `ATYP` and `DST.ADDR`.
fn host(bytes: &[u8]) -> Parsed<Host> {
    let Some((kind, rest)) = bytes.split_first() else { return Ok(None) };
    let (host, used) = match kind {
        1 => match rest.first_chunk::<4>() {
            Some(address) => (Host::Ip(Ipv4Addr::from(*address).into()), address.len()),
            None => return Ok(None),
        },
        3 => match counted(rest) {
            Some((name, used)) => (named(name)?, used),
            None => return Ok(None),
        },
        4 => match rest.first_chunk::<16>() {
            Some(address) => (Host::Ip(Ipv6Addr::from(*address).into()), address.len()),
            None => return Ok(None),
        },
        _ => return Err(Malformed::AddressType),
    };
    Ok(Some((host, 1 + used)))
}

/// What stands in brackets in a URL has an address type of its own here.
fn named(name: &[u8]) -> Result<Host, HostError> {
    let text = std::str::from_utf8(name).map_err(|_| HostError::Character)?;
    if text.starts_with('[') { Err(HostError::Character) } else { Host::parse(text) }
}

/// The bytes behind a length, and how many they are with it; `None`: not all are there.
fn counted(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first()?;
    let length = usize::from(*length);
    Some((rest.get(..length)?, 1 + length))
}

/// The answer to a request. `BND.ADDR` is all zeros: where we dial from is nobody's business.
pub(super) fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u8, address: &[u8], port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, kind];
        bytes.extend_from_slice(address);
        bytes.extend_from_slice(&port.to_be_bytes());
        bytes
    }

    fn domain(name: &[u8]) -> Vec<u8> {
        let mut address = vec![u8::try_from(name.len()).unwrap()];
        address.extend_from_slice(name);
        request(3, &address, 443)
    }

    fn asked(bytes: &[u8]) -> Result<String, Malformed> {
        Request::parse(bytes).map(|parsed| parsed.unwrap().0.0.to_string())
    }

    #[test]
    fn each_message_says_where_it_ends_and_waits_for_all_of_it() {
        fn check<T: fmt::Debug>(message: &[u8], parse: impl Fn(&[u8]) -> Parsed<T>) {
            for length in 0..message.len() {
                assert!(matches!(parse(&message[..length]), Ok(None)), "{length} of {message:?}");
            }
            let mut pipelined = message.to_vec();
            pipelined.extend_from_slice(b"\x16\x03\x01");
            assert_eq!(parse(&pipelined).unwrap().unwrap().1, message.len());
        }
        check(b"\x05\x02\x00\x02", Offer::parse);
        check(b"\x01\x01a\x03key", Login::parse);
        check(b"\x01\x00\x00", Login::parse);
        check(&domain(b"api.example.com"), Request::parse);
        check(&request(1, &[192, 0, 2, 1], 80), Request::parse);
        check(&request(4, &[0; 16], 80), Request::parse);
    }

    #[test]
    fn an_offer_is_a_set_of_methods() {
        let offer = |login, no_login| Ok(Some((Offer { login, no_login }, 5)));
        assert_eq!(Offer::parse(b"\x05\x03\x00\x01\x02"), offer(true, true));
        assert_eq!(Offer::parse(b"\x05\x03\x01\x01\x01"), offer(false, false));
        assert_eq!(Offer::parse(b"\x05\x00"), Err(Malformed::NoMethod));
        for other in [&b"\x04\x01\x00\x50"[..], b"GET / HTTP/1.1", b"\x16\x03\x01", b"\0"] {
            assert_eq!(Offer::parse(other), Err(Malformed::Version), "{other:?}");
        }
    }

    #[test]
    fn a_login_holds_what_was_sent() {
        let (login, _) = Login::parse(b"\x01\x0aresearcher\x03k:y").unwrap().unwrap();
        assert_eq!((&*login.name, &**login.key), (&b"researcher"[..], &b"k:y"[..]));
        assert_eq!(Login::parse(b"\x05\x01\x00").unwrap_err(), Malformed::LoginVersion);
        assert_eq!(format!("{login:?}"), "Login { .. }");
    }

    #[test]
    fn hosts_are_canonical() {
        assert_eq!(asked(&domain(b"API.Example.com.")).unwrap(), "api.example.com:443");
        assert_eq!(asked(&domain(b"127.0.0.1")).unwrap(), "127.0.0.1:443");
        assert_eq!(asked(&request(1, &[10, 0, 0, 1], 8443)).unwrap(), "10.0.0.1:8443");
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
        assert_eq!(asked(&request(4, &mapped, 443)).unwrap(), "[::ffff:127.0.0.1]:443");
    }

    /// Threats 24, 26, 29 and 30: what isn't plainly a host is none.
    #[test]
    fn odd_hosts_are_refused() {
        let names: [&[u8]; 19] = [
            b"",
            b"evil.test\0.example.com",
            b"example.com\0",
            b"\0",
            b"exa mple.com",
            b"example.com\r\n",
            b"example.com:443",
            b"user@example.com",
            b"example.com/x",
            b"exampl%65.com",
            b"\xff\xfe.com",
            "ex\u{e4}mple.com".as_bytes(),
            "example\u{3002}com".as_bytes(),
            b"0x7f.1",
            b"2130706433",
            b"127.1",
            b"::1",
            b"[::1]",
            b"xn--",
        ];
        for name in names {
            assert!(matches!(asked(&domain(name)), Err(Malformed::Host(_))), "{name:?}");
        }
        assert!(matches!(asked(&domain(&[b'a'; 255])), Err(Malformed::Host(_))));
        assert_eq!(asked(&request(1, &[192, 0, 2, 1], 0)), Err(HostError::Port.into()));
    }

    #[test]
    fn what_isnt_served_is_told_by_its_first_bytes() {
        let replies = [
            (&b"\x05\x02"[..], COMMAND_NOT_SUPPORTED),
            (b"\x05\x03\x00\x01", COMMAND_NOT_SUPPORTED),
            (b"\x05\x00", COMMAND_NOT_SUPPORTED),
            (b"\x05\x01\x00\x02", ADDRESS_TYPE_NOT_SUPPORTED),
            (b"\x05\x01\x00\x00", ADDRESS_TYPE_NOT_SUPPORTED),
            (b"\x05\x01\x01\x01", GENERAL_FAILURE),
            (b"\x04\x01", GENERAL_FAILURE),
        ];
        for (bytes, reply) in replies {
            assert_eq!(Request::parse(bytes).unwrap_err().reply(), reply, "{bytes:?}");
        }
    }
}
