//! A SOCKS 5 door (RFC 1928): `CONNECT` alone, user and password (RFC 1929) are the agent's
//! name and key. What follows the reply is what follows an HTTP `CONNECT`: interception, or
//! a blind tunnel.
//!
//! ```text
//! offer -> login -> identify -> request -> judge -> reply -> connect::intercept | relay::carry
//! ```

pub mod message;

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use crate::{
    http1::Peeked,
    identity::TunnelIdentity,
    observe::ConnectionState,
    proxy::{Knock, Opening, SocksOpening},
};

use super::{
    connect,
    connection::{Io, Session},
    relay::carry,
};
use message::{
    CHOOSE_LOGIN, CHOOSE_NO_LOGIN, CHOOSE_NOTHING, LOGIN_ACCEPTED, LOGIN_REFUSED, Login, Malformed, Offer, Parsed,
    Request, SUCCEEDED, reply,
};

/// Read at once; no message is longer than 513 bytes.
const CHUNK: usize = 1024;

/// Read and thrown away behind a refusal, so that a reset doesn't overtake it.
const FAREWELL: u64 = 64 * 1024;

/// Serves one connection to its end. One that never says a word leaves no record.
pub(super) async fn serve<S: Io>(session: &Session, io: S) {
    let handshake = session.gauge.enter(ConnectionState::Handshake);
    let deadline = Instant::now() + session.connections.limits.handshake_timeout;
    let mut line = Line { io, read: BytesMut::new(), deadline };
    let mut drain = session.drain.clone();
    let spoke = tokio::select! {
        () = drain.stopped() => return,
        spoke = line.fill() => spoke,
    };
    if spoke.is_err() {
        return;
    }
    let knock = session.connections.proxy.knock(&session.ingress);
    let Some((knock, identity)) = greet(session, knock, &mut line).await else { return };
    let Some(opening) = request(session, knock, &identity, &mut line).await else { return };
    let io = line.into_peeked();
    drop(handshake);
    match opening {
        Opening::Intercept(tunnel, handshake) => connect::intercept(session, io, tunnel, handshake).await,
        Opening::Blind(tunnel) => {
            let _counted = session.gauge.enter(ConnectionState::Tunnel);
            let (upstream, record) = tunnel.split();
            carry(session, io, upstream, record).await;
        }
        Opening::Refused(_) => {}
    }
}

/// Settles who asks. `None`: it was told, and is over.
async fn greet<S: Io>(session: &Session, knock: Knock, line: &mut Line<S>) -> Option<(Knock, TunnelIdentity)> {
    let (proxy, seat) = (&session.connections.proxy, session.place.seat());
    let offer = match line.next(Offer::parse).await {
        Ok(offer) => offer,
        Err(trouble) => return trouble.note(knock),
    };
    if !offer.login && !offer.no_login {
        knock.unreadable();
        return line.answer(None, CHOOSE_NO_LOGIN, CHOOSE_NOTHING).await;
    }
    if !offer.login {
        return line.answer(proxy.admit(seat, knock, None).ok(), CHOOSE_NO_LOGIN, CHOOSE_NOTHING).await;
    }
    if line.write(&CHOOSE_LOGIN).await.is_err() {
        return None;
    }
    let login = match line.next(Login::parse).await {
        Ok(login) => login,
        Err(trouble) => return trouble.note(knock),
    };
    let admitted = proxy.admit(seat, knock, Some((&login.name, &login.key))).ok();
    line.answer(admitted, LOGIN_ACCEPTED, LOGIN_REFUSED).await
}

/// Settles where to. `None`: it was told, and is over.
async fn request<S: Io>(
    session: &Session,
    knock: Knock,
    identity: &TunnelIdentity,
    line: &mut Line<S>,
) -> Option<Opening> {
    let authority = match line.next(Request::parse).await {
        Ok(Request(authority)) => authority,
        Err(trouble) => {
            trouble.note::<()>(knock);
            if let Trouble::Malformed(malformed) = trouble {
                line.refuse(&reply(malformed.reply())).await;
            }
            return None;
        }
    };
    let opening = session
        .connections
        .proxy
        .open_socks((&session.ingress, session.place.seat()), knock, identity, authority)
        .await;
    // To connect may have taken all the time there was.
    line.deadline = Instant::now() + session.connections.limits.handshake_timeout;
    match opening {
        SocksOpening::Refused(denial) => {
            line.refuse(&reply(denial.code())).await;
            None
        }
        SocksOpening::Opened(opening) => line.write(&reply(SUCCEEDED)).await.ok().map(|()| opening),
    }
}

/// Why there is no message.
#[derive(Clone, Copy)]
enum Trouble {
    Malformed(Malformed),
    TimedOut,
    Gone,
}

impl Trouble {
    /// Ends the record; there is nothing to go on with.
    fn note<T>(self, knock: Knock) -> Option<T> {
        match self {
            Self::Malformed(Malformed::Host(error)) => knock.no_host(error),
            Self::Malformed(_) => knock.unreadable(),
            Self::TimedOut => knock.ended("handshake_timeout"),
            Self::Gone => drop(knock),
        }
        None
    }
}

/// A client's stream, and what was read of it ahead: clients may send the next message, and
/// what goes into the tunnel, before they have an answer.
struct Line<S> {
    io: S,
    read: BytesMut,
    deadline: Instant,
}

impl<S: Io> Line<S> {
    async fn next<T>(&mut self, parse: impl Fn(&[u8]) -> Parsed<T>) -> Result<T, Trouble> {
        loop {
            if let Some((message, used)) = parse(&self.read).map_err(Trouble::Malformed)? {
                self.read.advance(used);
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Trouble> {
        self.read.reserve(CHUNK);
        match timeout_at(self.deadline, self.io.read_buf(&mut self.read)).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0) | Err(_)) => Err(Trouble::Gone),
            Err(_) => Err(Trouble::TimedOut),
        }
    }

    async fn write(&mut self, message: &[u8]) -> io::Result<()> {
        let write = async {
            self.io.write_all(message).await?;
            self.io.flush().await
        };
        timeout_at(self.deadline, write).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Says yes, or says no and ends the connection.
    async fn answer<T>(&mut self, settled: Option<T>, yes: [u8; 2], no: [u8; 2]) -> Option<T> {
        if settled.is_none() {
            self.refuse(&no).await;
        } else if self.write(&yes).await.is_err() {
            return None;
        }
        settled
    }

    /// The last word. What comes behind it belongs to nobody (threat 46).
    async fn refuse(&mut self, message: &[u8]) {
        if self.write(message).await.is_err() || self.io.shutdown().await.is_err() {
            return;
        }
        let mut rest = (&mut self.io).take(FAREWELL);
        let _ = timeout_at(self.deadline, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }

    fn into_peeked(self) -> Peeked<S> {
        let ahead = if self.read.is_empty() { Bytes::new() } else { self.read.freeze() };
        Peeked::new(ahead, self.io)
    }
}
