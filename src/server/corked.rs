//! A stream beneath TLS that doesn't send what TLS has to say when its handshake is over until
//! there is something to go with it. Session tickets (RFC 8446 §4.6.1) are of no use before the
//! next connection, and alone they would cost each connection a packet.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{Accept, server::TlsStream};

/// The first byte of a record that is encrypted (RFC 8446 §5.2). No handshake begins with one.
const ENCRYPTED: u8 = 0x17;

/// Most that is taken at once behind what is held, so that both leave together.
const MOST_TOGETHER: usize = 16 * 1024;

/// To be put beneath a handshake as a server.
#[derive(Debug)]
pub(super) struct Corked<S> {
    io: S,
    state: State,
    held: Vec<u8>,
    /// How much of it was written.
    written: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The handshake is under way.
    Corked,
    /// … and a part of its flight is still to come, whatever it looks like.
    Torn,
    /// What is held waits for company, or for a flush.
    Open,
    /// It waits for the stream only.
    Leaving,
}

/// Drives a handshake to its end.
pub(super) async fn finish<S>(handshake: Accept<Corked<S>>) -> io::Result<TlsStream<Corked<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match handshake.into_fallible().await {
        Ok(mut stream) => {
            stream.get_mut().0.uncork();
            Ok(stream)
        }
        Err((error, mut io)) => {
            // Why it failed is the peer's to know, too, and may be encrypted already.
            io.uncork();
            let _ = io.flush().await;
            Err(error)
        }
    }
}

impl<S> Corked<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, state: State::Corked, held: Vec::new(), written: 0 }
    }

    /// The handshake is over.
    fn uncork(&mut self) {
        self.state = State::Open;
    }

    /// Whether what is written now is told after the handshake and not in it.
    fn holds(&self, data: &[u8]) -> bool {
        self.state == State::Corked && data.first() == Some(&ENCRYPTED)
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.held[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        if !self.held.is_empty() {
            (self.held, self.written, self.state) = (Vec::new(), 0, State::Open);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes as `poll_write_vectored` does; `write`: where nothing is held.
    fn poll_slices(
        &mut self,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let length = data.iter().map(|slice| slice.len()).sum();
        if data.iter().find(|slice| !slice.is_empty()).is_some_and(|first| self.holds(first)) {
            data.iter().for_each(|slice| self.held.extend_from_slice(slice));
            return Poll::Ready(Ok(length));
        }
        if self.held.is_empty() {
            let written = ready!(write(Pin::new(&mut self.io), cx))?;
            match self.state {
                State::Corked | State::Torn => {
                    self.state = if written < length { State::Torn } else { State::Corked };
                }
                State::Open | State::Leaving => {}
            }
            return Poll::Ready(Ok(written));
        }
        if self.state == State::Leaving {
            ready!(self.poll_held(cx))?;
            return write(Pin::new(&mut self.io), cx);
        }
        self.state = State::Leaving;
        let before = self.held.len();
        for slice in data {
            let room = MOST_TOGETHER - (self.held.len() - before).min(MOST_TOGETHER);
            self.held.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let taken = self.held.len() - before;
        if let Poll::Ready(Err(error)) = self.poll_held(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Corked | State::Torn) && !self.held.is_empty() {
            // A handshake that waits for its peer has said nothing that may wait.
            if let Poll::Ready(Err(error)) = self.poll_held(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_slices(cx, &[IoSlice::new(data)], |io, cx| io.poll_write(cx, data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_slices(cx, data, |io, cx| match data {
            // TLS says nearly everything in one, and the kernel takes that for less.
            [one] => io.poll_write(cx, one),
            several => io.poll_write_vectored(cx, several),
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !matches!(self.state, State::Corked | State::Torn) {
            ready!(self.poll_held(cx))?;
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConnection, RootCertStore};
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::{
        primitives::{Clock, Host, SystemClock},
        tls::{CertificateAuthority, LeafCache, client::upstream_config},
    };

    /// What has arrived by now.
    async fn arrived(peer: &mut DuplexStream) -> Vec<u8> {
        let mut read = vec![0; 100_000];
        let read_now = tokio::time::timeout(std::time::Duration::ZERO, peer.read(&mut read));
        let length = read_now.await.map_or(0, Result::unwrap);
        read[..length].to_vec()
    }

    fn corked(room: usize) -> (Corked<DuplexStream>, DuplexStream) {
        let (io, peer) = tokio::io::duplex(room);
        (Corked::new(io), peer)
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_leave_with_the_first_answer() {
        let (mut io, mut peer) = corked(100_000);
        io.write_all(b"\x16hello").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(arrived(&mut peer).await, b"\x16hello");
        io.write_all(b"\x17tickets").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(arrived(&mut peer).await, b"");
        io.uncork();
        io.write_all(b"\x17answer").await.unwrap();
        assert_eq!(arrived(&mut peer).await, b"\x17tickets\x17answer");
        io.write_all(b"\x17more").await.unwrap();
        assert_eq!(arrived(&mut peer).await, b"\x17more");
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_leave_with_a_flush() {
        let (mut io, mut peer) = corked(100_000);
        io.write_all(b"\x17tickets").await.unwrap();
        io.uncork();
        assert_eq!(arrived(&mut peer).await, b"");
        io.flush().await.unwrap();
        assert_eq!(arrived(&mut peer).await, b"\x17tickets");
        assert!(io.held.capacity() == 0);
    }

    #[tokio::test]
    async fn a_peer_hears_why_its_handshake_failed() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(authority.root_der().clone()).unwrap();
        let leaves = LeafCache::new(authority, clock, 4).unwrap();
        let config = leaves.server_config(&Host::parse("api.test").unwrap()).unwrap();
        let (io, mut peer) = corked(100_000);
        let handshake = tokio::spawn(finish(TlsAcceptor::from(config).accept(io)));

        let mut client = ClientConnection::new(upstream_config(roots), "api.test".try_into().unwrap()).unwrap();
        let mut said = Vec::new();
        while client.is_handshaking() {
            said.clear();
            client.write_tls(&mut said).unwrap();
            if said.is_empty() {
                let mut heard = [0; 4096];
                let length = peer.read(&mut heard).await.unwrap();
                client.read_tls(&mut &heard[..length]).unwrap();
                client.process_new_packets().unwrap();
            } else if said[0] == 0x16 {
                peer.write_all(&said).await.unwrap();
            }
        }
        // What the client ends with, spoilt on its way.
        said.clear();
        client.write_tls(&mut said).unwrap();
        *said.last_mut().unwrap() ^= 1;
        peer.write_all(&said).await.unwrap();
        assert!(handshake.await.unwrap().is_err());
        let mut alert = Vec::new();
        peer.read_to_end(&mut alert).await.unwrap();
        client.read_tls(&mut &*alert).unwrap();
        let told = client.process_new_packets().unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    }

    /// A handshake waits for its peer, and its peer for what it has said.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_while_the_peer_is_waited_for() {
        let (mut io, mut peer) = corked(100_000);
        io.write_all(b"\x17more of a flight").await.unwrap();
        let mut byte = [0];
        assert!(tokio::time::timeout(std::time::Duration::ZERO, io.read(&mut byte)).await.is_err());
        assert_eq!(arrived(&mut peer).await, b"\x17more of a flight");
    }

    /// The rest of a flight that the peer had no room for may look like anything.
    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_flight_is_not_held() {
        let (mut io, mut peer) = corked(4);
        assert_eq!(io.write(b"\x16123\x17rest").await.unwrap(), 4);
        assert_eq!(arrived(&mut peer).await, b"\x16123");
        assert_eq!(io.write(b"\x17re").await.unwrap(), 3);
        assert_eq!(arrived(&mut peer).await, b"\x17re");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_without_room_gets_all_of_it_in_order() {
        let (mut io, mut peer) = corked(3);
        io.write_all(b"\x17tickets").await.unwrap();
        io.uncork();
        let mut sent = b"\x17tickets".to_vec();
        let writing = tokio::spawn(async move {
            for piece in 0..5_u8 {
                io.write_all(&vec![piece; 9000 * usize::from(piece)]).await.unwrap();
            }
            io.shutdown().await.unwrap();
        });
        (0..5_u8).for_each(|piece| sent.extend(vec![piece; 9000 * usize::from(piece)]));
        let mut read = Vec::new();
        peer.read_to_end(&mut read).await.unwrap();
        writing.await.unwrap();
        assert!(read == sent);
    }
}
