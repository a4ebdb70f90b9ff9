//! Handshakes, driven by rustls without buffers of its own: what is read lies in ours, and what is
//! said leaves in one piece when the peer has to hear it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};

use bytes::Bytes;
use rustls::{
    ClientConfig, Error, ExtractedSecrets, InvalidMessage, PeerMisbehaved, ProtocolVersion, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::ServerName,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, UnbufferedConnectionCommon, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{
    TlsStream, header_of, is_none,
    records::{HEADER, Keys, Records},
    scratch,
};

/// Read and not yet used at most, before more is read: as rustls has it for its own buffers.
const MOST_UNUSED: usize = 0xffff;

/// Records offered before others have their turn.
const MOST_UNREAD: usize = 64;

/// A handshake's outcome.
pub(super) struct Finished {
    pub(super) records: Records,
    pub(super) is_h2: bool,
    /// Records that came behind it, as they came.
    pub(super) ahead: Vec<u8>,
    /// Still to be said, with what is said first.
    pub(super) unsaid: Vec<u8>,
}

/// One of rustls's two kinds of connections.
trait Session: Sized {
    type Data;
    const IS_SERVER: bool;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data>;
    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error>;
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const IS_SERVER: bool = false;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data> {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keys::Client(keys)))
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const IS_SERVER: bool = true;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data> {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keys::Server(keys)))
    }
}

/// A handshake as a client. `alpn`: in place of what `config` offers.
///
/// # Errors
/// What TLS refuses is an [`Error`] in an [`io::Error`].
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    alpn: Option<Vec<Vec<u8>>>,
    io: S,
) -> io::Result<TlsStream<S>> {
    let session = match alpn {
        _ if !config.enable_secret_extraction => Err(no_keys()),
        Some(alpn) => UnbufferedClientConnection::new_with_alpn(config, name, alpn),
        None => UnbufferedClientConnection::new(config, name),
    };
    Handshake::new(session.map_err(failed)?, Bytes::new(), io).finish().await
}

/// A handshake as a server; `ahead`: what was read of the stream already.
///
/// # Errors
/// As [`connect`].
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    ahead: Bytes,
    io: S,
) -> io::Result<TlsStream<S>> {
    if !config.enable_secret_extraction {
        return Err(failed(no_keys()));
    }
    let session = UnbufferedServerConnection::new(config).map_err(failed)?;
    Handshake::new(session, ahead, io).finish().await.map_err(|error| {
        if is_nameless(&error) {
            io::Error::new(io::ErrorKind::InvalidData, "the server name isn't the host that this is the certificate of")
        } else {
            error
        }
    })
}

fn no_keys() -> Error {
    Error::General("these settings give no keys to records of our own".to_owned())
}

/// rustls has no error of its own for a resolver that found no certificate.
fn is_nameless(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(Error::General(text)) if text == "no server certificate chain resolved")
}

struct Handshake<H, S> {
    session: H,
    io: S,
    incoming: Vec<u8>,
    /// How much of it rustls was offered: one record more each time, so that what comes behind
    /// the handshake is left to those who go on with it.
    offered: usize,
    outgoing: Vec<u8>,
    /// Records that were offered since others had their turn.
    unread: usize,
}

/// What a handshake wants next.
enum Step {
    GoOn,
    /// The peer's next record.
    Hear,
    Done,
}

impl<H: Session, S: AsyncRead + AsyncWrite + Unpin> Handshake<H, S> {
    fn new(session: H, ahead: Bytes, io: S) -> Self {
        Self { session, io, incoming: ahead.into(), offered: 0, outgoing: Vec::new(), unread: 0 }
    }

    async fn finish(mut self) -> io::Result<TlsStream<S>> {
        loop {
            match self.step() {
                Ok(Step::GoOn) => {}
                Ok(Step::Hear) => self.hear().await?,
                Ok(Step::Done) => break,
                Err(error) => {
                    // Why it failed is the peer's to know, too.
                    self.last_words();
                    let _ = self.say().await;
                    return Err(failed(error));
                }
            }
        }
        let common = self.session.common();
        // Tickets are of no use before the next connection (RFC 8446 §4.6.1).
        let may_wait = H::IS_SERVER && common.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let is_h2 = common.alpn_protocol() == Some(b"h2");
        if !may_wait {
            self.say().await?;
        }
        let Self { session, io, incoming: ahead, outgoing: unsaid, .. } = self;
        let (secrets, keys) = session.into_keys().map_err(failed)?;
        let records = Records::new(secrets, keys).map_err(failed)?;
        Ok(TlsStream::new(io, Finished { records, is_h2, ahead, unsaid }))
    }

    fn step(&mut self) -> Result<Step, Error> {
        let UnbufferedStatus { discard, state } = self.session.process(&mut self.incoming[..self.offered]);
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut self.outgoing, |room| data.encode(room)).map(|()| Step::GoOn)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It leaves before anything is waited for. What was offered is used up as far as
                // it can be.
                data.done();
                Ok(if self.session.common().is_handshaking() { Step::Hear } else { Step::GoOn })
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Hear),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
            // Data before the end, which no configuration of ours allows, or a state that is new.
            Ok(_) => Err(Error::General("the handshake left its way".to_owned())),
            Err(error) => Err(error),
        };
        self.incoming.drain(..discard);
        self.offered -= discard;
        match step {
            // A message has begun in the record that ended the handshake.
            Ok(Step::Done) if self.offered > 0 => Err(PeerMisbehaved::KeyEpochWithPendingFragment.into()),
            step => step,
        }
    }

    /// Offers one record more, or as a server all that came before what is still to be said: they
    /// can't lie behind the handshake's end, and data that rustls skips (0-RTT that was refused) it
    /// looks at each time anew. A client has something to say already when a server's whole flight
    /// is there, and what that server says behind it.
    async fn hear(&mut self) -> io::Result<()> {
        let before = self.offered;
        let mut count = 0;
        while let Some((header, length)) = header_of(&self.incoming[self.offered..]) {
            if length == 0 {
                // No handshake has one, and skipping them would cost nobody anything but us.
                return Err(failed(InvalidMessage::InvalidEmptyPayload.into()));
            }
            if is_none(header, length) {
                // rustls says so.
                self.offered = self.incoming.len();
            } else if self.incoming.len() - self.offered >= HEADER + length {
                self.offered += HEADER + length;
            } else {
                break;
            }
            count += 1;
            if self.outgoing.is_empty() || !H::IS_SERVER {
                break;
            }
        }
        if self.offered > before {
            self.unread += count;
            if self.unread >= MOST_UNREAD {
                // Others have their turn, and the limit in time its chance.
                self.unread = 0;
                tokio::task::yield_now().await;
            }
            return Ok(());
        }
        self.say().await?;
        self.read().await
    }

    fn last_words(&mut self) {
        // No more than that: what failed would be looked at once more.
        while self.session.common().wants_write() {
            // Parts of messages lie in what was read: that has to stay.
            let UnbufferedStatus { discard, state: Ok(ConnectionState::EncodeTlsData(mut data)) } =
                self.session.process(&mut self.incoming[..self.offered])
            else {
                return;
            };
            if encode(&mut self.outgoing, |room| data.encode(room)).is_err() {
                return;
            }
            self.incoming.drain(..discard);
            self.offered -= discard;
        }
    }

    async fn say(&mut self) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            self.io.write_all(&self.outgoing).await?;
            self.outgoing = Vec::new();
            self.io.flush().await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> io::Result<()> {
        // A message in as many records as it has bytes would make a gigabyte.
        if self.incoming.len() >= MOST_UNUSED {
            return Err(failed(InvalidMessage::HandshakePayloadTooLarge.into()));
        }
        let Self { io, incoming, .. } = self;
        let read = poll_fn(|cx| {
            scratch::lend(|space| {
                let mut space = ReadBuf::new(space);
                ready!(Pin::new(&mut *io).poll_read(cx, &mut space))?;
                incoming.extend_from_slice(space.filled());
                Poll::Ready(Ok::<_, io::Error>(space.filled().len()))
            })
        });
        if read.await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"));
        }
        Ok(())
    }
}

/// Lets `encode` write behind what is there.
fn encode(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let before = outgoing.len();
    let wanted = match encode(&mut []) {
        Ok(written) => written,
        Err(EncodeError::InsufficientSize(more)) => more.required_size,
        Err(EncodeError::AlreadyEncoded) => 0,
    };
    outgoing.resize(before + wanted, 0);
    if wanted > 0 {
        encode(&mut outgoing[before..]).map_err(|_| Error::General("a record has no room".to_owned()))?;
    }
    Ok(())
}

pub(super) fn failed(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
