//! Through the parent proxy, where one is configured: dial it, ask it for a tunnel, and hand
//! the stream on as if it led to the upstream. TLS is then spoken with the upstream itself,
//! under its own name.
//!
//! The parent resolves the names, so the wall can't judge the address behind one. It still
//! judges addresses written as such, and keeps our own listeners out of reach as far as
//! names can be resolved here.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ipnet::IpNet;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use zeroize::Zeroizing;

use super::{Error, Stream, connect::Connector};
use crate::{
    primitives::{AgentName, Authority, Host, Secret},
    route::parent::{Parent as Way, ParentProtocol},
};

/// Bytes of the head of an answer to `CONNECT`.
const MAX_HEAD: usize = 16 * 1024;

/// How long a name is looked up that could be one of ours.
const OWN_NAME: Duration = Duration::from_secs(1);

/// The operator has chosen the parent: it may be at any address but ours and a metadata service's.
const ANYWHERE: [IpNet; 2] =
    [IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)];

/// Where the parent is, and who we are there.
#[derive(Debug)]
pub struct Parent {
    pub way: Arc<Way>,
    pub login: Option<Arc<dyn Login>>,
}

/// User and password at the parent, read when a connection is made.
pub trait Login: fmt::Debug + Send + Sync {
    fn read(&self) -> LoginFuture<'_>;

    /// The parent didn't take them: what was kept of them is not used again.
    fn refused(&self);
}

pub type LoginFuture<'a> =
    Pin<Box<dyn Future<Output = Result<UserPassword, Arc<dyn StdError + Send + Sync>>> + Send + 'a>>;

#[derive(Clone, Debug)]
pub struct UserPassword {
    pub user: String,
    pub password: Option<Secret>,
}

/// Why the parent gives no tunnel.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ParentFault {
    #[error("can't be reached")]
    Unreachable(#[source] Arc<Error>),
    #[error("broke off")]
    Broken(#[source] Arc<io::Error>),
    #[error("answered {0}")]
    Status(u16),
    /// RFC 1928 §6.
    #[error("answered with the SOCKS reply {0}")]
    Reply(u8),
    #[error("doesn't take our credentials")]
    Login,
    #[error("wants credentials that can't be read")]
    Password(#[source] Arc<dyn StdError + Send + Sync>),
    #[error("doesn't answer as a proxy does")]
    Protocol,
}

impl From<io::Error> for ParentFault {
    fn from(error: io::Error) -> Self {
        Self::Broken(Arc::new(error))
    }
}

impl Connector {
    /// A stream to `to` by way of the parent, and the parent's address.
    pub(super) async fn through(
        &self,
        parent: &Parent,
        agent: &AgentName,
        to: &Authority,
        allowed: &[IpNet],
    ) -> Result<(Stream, SocketAddr), Error> {
        self.judge(agent, to, allowed).await?;
        let unreachable = |error| Error::Parent(ParentFault::Unreachable(Arc::new(error)));
        let (mut stream, address) = self.reach(agent, &parent.way.authority, &ANYWHERE).await.map_err(unreachable)?;
        let login = match &parent.login {
            Some(login) => Some(login.read().await.map_err(|error| Error::Parent(ParentFault::Password(error)))?),
            None => None,
        };
        let asked = match parent.way.protocol {
            ParentProtocol::Http => connect(&mut stream, to, login.as_ref()).await,
            ParentProtocol::Socks5 => socks(&mut stream, to, login.as_ref()).await,
        };
        match asked {
            Ok(()) => Ok((stream, address)),
            Err(fault) => {
                if let (ParentFault::Login, Some(login)) = (&fault, &parent.login) {
                    login.refused();
                }
                Err(Error::Parent(fault))
            }
        }
    }

    /// What can be judged without the outside's DNS.
    async fn judge(&self, agent: &AgentName, to: &Authority, allowed: &[IpNet]) -> Result<(), Error> {
        let name = match to.host() {
            Host::Ip(address) => {
                let judged = self.wall.check(SocketAddr::new(*address, to.port()), allowed);
                return judged.map_err(|kind| Error::AddressNotAllowed { address: *address, kind });
            }
            Host::Name(name) => name,
        };
        if !self.wall.has_port(to.port()) {
            return Ok(());
        }
        // That is waited for, too: who fills the agent's places mustn't pass unjudged.
        let place = self.lookups.place(agent).await;
        let place = place.map_err(|source| Error::Dns { host: name.to_string(), source })?;
        let found = timeout(OWN_NAME, place.resolve(name)).await;
        let found: Vec<IpAddr> = found.ok().and_then(Result::ok).unwrap_or_default();
        for address in found {
            self.wall
                .check(SocketAddr::new(address, to.port()), &ANYWHERE)
                .map_err(|kind| Error::AddressNotAllowed { address, kind })?;
        }
        Ok(())
    }
}

// === HTTP ===

async fn connect(stream: &mut Stream, to: &Authority, login: Option<&UserPassword>) -> Result<(), ParentFault> {
    let mut head = Zeroizing::new(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n"));
    if let Some(UserPassword { user, password }) = login {
        let password = password.as_ref().map_or("", Secret::expose);
        let pair = Zeroizing::new(format!("{user}:{password}"));
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
        head.push_str("Proxy-Authorization: Basic ");
        head.push_str(&encoded);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    match status(&read_head(stream).await?) {
        Some(200..=299) => Ok(()),
        Some(407) => Err(ParentFault::Login),
        Some(other) => Err(ParentFault::Status(other)),
        None => Err(ParentFault::Protocol),
    }
}

/// Up to the blank line and not a byte more: what follows is the upstream's. Each read asks
/// for no more than is missing of the line's end.
async fn read_head(stream: &mut Stream) -> Result<Vec<u8>, ParentFault> {
    const END: &[u8; 4] = b"\r\n\r\n";
    let mut head = Vec::with_capacity(256);
    let mut piece = [0; END.len()];
    while !head.ends_with(END) {
        let seen = (1..END.len()).rev().find(|length| head.ends_with(&END[..*length])).unwrap_or(0);
        let read = stream.read(&mut piece[..END.len() - seen]).await?;
        if read == 0 || head.len() > MAX_HEAD {
            return Err(ParentFault::Protocol);
        }
        head.extend_from_slice(&piece[..read]);
    }
    Ok(head)
}

/// RFC 9112 §4.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, [b' ' | b'\r', ..]) = rest.split_at_checked(3)? else { return None };
    let number: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (100..=599).contains(&number).then_some(number)
}

// === SOCKS ===

async fn socks(stream: &mut Stream, to: &Authority, login: Option<&UserPassword>) -> Result<(), ParentFault> {
    const NO_LOGIN: u8 = 0;
    const LOGIN: u8 = 2;
    let offer: &[u8] = if login.is_some() { &[5, 2, NO_LOGIN, LOGIN] } else { &[5, 1, NO_LOGIN] };
    stream.write_all(offer).await?;
    match (read_exactly(stream).await?, login) {
        ([5, NO_LOGIN], _) => {}
        ([5, LOGIN], Some(login)) => log_in(stream, login).await?,
        ([5, 0xff], _) => return Err(ParentFault::Login),
        _ => return Err(ParentFault::Protocol),
    }
    let mut request = vec![5, 1, 0];
    match to.host() {
        Host::Name(name) => {
            request.push(3);
            push_counted(&mut request, name.as_bytes())?;
        }
        Host::Ip(IpAddr::V4(address)) => {
            request.push(1);
            request.extend_from_slice(&address.octets());
        }
        Host::Ip(IpAddr::V6(address)) => {
            request.push(4);
            request.extend_from_slice(&address.octets());
        }
    }
    request.extend_from_slice(&to.port().to_be_bytes());
    stream.write_all(&request).await?;
    let [version, reply, _, kind] = read_exactly(stream).await?;
    match (version, reply) {
        (5, 0) => {}
        (5, reply) => return Err(ParentFault::Reply(reply)),
        _ => return Err(ParentFault::Protocol),
    }
    skip_address(stream, kind).await
}

/// RFC 1929.
async fn log_in(stream: &mut Stream, login: &UserPassword) -> Result<(), ParentFault> {
    let mut message = Zeroizing::new(Vec::with_capacity(513));
    message.push(1);
    push_counted(&mut message, login.user.as_bytes())?;
    push_counted(&mut message, login.password.as_ref().map_or("", Secret::expose).as_bytes())?;
    stream.write_all(&message).await?;
    match read_exactly(stream).await? {
        [_, 0] => Ok(()),
        _ => Err(ParentFault::Login),
    }
}

/// `BND.ADDR` and `BND.PORT`, which nobody needs.
async fn skip_address(stream: &mut Stream, kind: u8) -> Result<(), ParentFault> {
    let length = match kind {
        1 => 4,
        4 => 16,
        3 => {
            let [length] = read_exactly(stream).await?;
            usize::from(length)
        }
        _ => return Err(ParentFault::Protocol),
    };
    stream.read_exact(&mut [0; 257][..length + 2]).await?;
    Ok(())
}

async fn read_exactly<const N: usize>(stream: &mut Stream) -> Result<[u8; N], ParentFault> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// What is longer than its length can say is no login that anybody takes.
fn push_counted(message: &mut Vec<u8>, bytes: &[u8]) -> Result<(), ParentFault> {
    message.push(u8::try_from(bytes.len()).map_err(|_| ParentFault::Login)?);
    message.extend_from_slice(bytes);
    Ok(())
}
