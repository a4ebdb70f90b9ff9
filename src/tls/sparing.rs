//! How a connection with TLS is read: with no more looks at what lies beneath than bring
//! something. tokio-rustls looks again behind everything that it gets, until there is nothing;
//! behind a small message that is in vain, and costs a lock and a waker's registration.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use rustls::CommonState;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

/// rustls reads 4 KiB at a time: when less came, nothing is left of it.
const LITTLE: usize = 3 * 1024;

/// A stream with TLS, after its handshake.
#[derive(Debug)]
pub struct Sparing<S> {
    /// Boxed: a session is large, and the stream is handed on with every request.
    stream: Box<S>,
    /// What went wrong behind something that was read: told at the next read.
    failed: Option<io::Error>,
}

/// A stream that tells how far its session is.
pub trait Session: AsyncBufRead + AsyncWrite + Unpin {
    fn session(&self) -> &CommonState;
}

impl<T: AsyncRead + AsyncWrite + Unpin> Session for client::TlsStream<T> {
    fn session(&self) -> &CommonState {
        self.get_ref().1
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Session for server::TlsStream<T> {
    fn session(&self) -> &CommonState {
        self.get_ref().1
    }
}

// === impl Sparing ===

impl<S> Sparing<S> {
    pub fn new(stream: S) -> Self {
        Self { stream: Box::new(stream), failed: None }
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: Session> Sparing<S> {
    /// Whether another read has to look at what lies beneath.
    pub fn is_used_up(&self) -> bool {
        self.failed.is_none() && self.stream.session().wants_read()
    }
}

impl<S: Session> AsyncRead for Sparing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let Self { stream, failed } = &mut *self;
        let mut got = 0;
        loop {
            match Pin::new(&mut **stream).poll_fill_buf(cx) {
                Poll::Ready(Ok(data)) => {
                    let taken = data.len().min(buf.remaining());
                    buf.put_slice(&data[..taken]);
                    Pin::new(&mut **stream).consume(taken);
                    got += taken;
                    let is_all = got < LITTLE && stream.session().wants_read();
                    if taken == 0 || buf.remaining() == 0 || is_all {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Err(error)) if got == 0 => return Poll::Ready(Err(error)),
                Poll::Ready(Err(error)) => {
                    *failed = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if got == 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: Session> AsyncWrite for Sparing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::{
        primitives::{Clock, Host, SystemClock},
        tls::{CertificateAuthority, LeafCache, client::upstream_config},
    };

    /// Counts looks that were in vain.
    struct Watched(DuplexStream, usize);

    impl AsyncRead for Watched {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let read = Pin::new(&mut self.0).poll_read(cx, buf);
            self.1 += usize::from(read.is_pending());
            read
        }
    }

    impl AsyncWrite for Watched {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, data)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    type Client = client::TlsStream<DuplexStream>;
    type Server = Sparing<server::TlsStream<Watched>>;

    /// Both ends, and nothing more under way between them.
    async fn pair() -> (Client, Server) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(authority.root_der().clone()).unwrap();
        let leaves = LeafCache::new(authority, clock, 4).unwrap();
        let config = leaves.server_config(&Host::parse("api.test").unwrap()).unwrap();
        let (near, far) = tokio::io::duplex(256 * 1024);
        let connector = TlsConnector::from(upstream_config(roots));
        let client = connector.connect("api.test".try_into().unwrap(), near);
        let server = TlsAcceptor::from(config).accept(Watched(far, 0));
        let (client, server) = tokio::try_join!(client, server).unwrap();
        (client, Sparing::new(server))
    }

    fn vain(server: &mut Server) -> usize {
        std::mem::take(&mut server.stream.get_mut().0.1)
    }

    #[tokio::test]
    async fn a_small_message_is_read_with_one_look() {
        let (mut client, mut server) = pair().await;
        let mut read = vec![0; 8192];
        for size in [1, 1000, LITTLE - 1] {
            client.write_all(&vec![7; size]).await.unwrap();
            vain(&mut server);
            assert_eq!(server.read(&mut read).await.unwrap(), size);
            assert_eq!(vain(&mut server), 0, "{size} bytes");
        }
    }

    #[tokio::test]
    async fn what_came_together_is_read_together() {
        let (mut client, mut server) = pair().await;
        for piece in 0..3 {
            client.write_all(&[piece; 100]).await.unwrap();
        }
        let mut read = vec![0; 64 * 1024];
        assert_eq!(server.read(&mut read).await.unwrap(), 300);
        assert!(read[..300].chunks(100).enumerate().all(|(at, piece)| piece == [at as u8; 100]));
        // Many records, of which the socket gives a part at a time.
        client.write_all(&vec![7; 60_000]).await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), 60_000);
        // And what has no room stays.
        client.write_all(b"little room").await.unwrap();
        assert_eq!(server.read(&mut read[..6]).await.unwrap(), 6);
        assert!(!server.is_used_up());
        assert_eq!(server.read(&mut read[6..]).await.unwrap(), 5);
        assert!(server.is_used_up() && &read[..11] == b"little room");
    }

    #[tokio::test]
    async fn an_end_that_was_told_is_one_and_one_that_was_not_is_an_error() {
        for is_told in [true, false] {
            let (mut client, mut server) = pair().await;
            client.write_all(&vec![7; 5000]).await.unwrap();
            if is_told {
                client.shutdown().await.unwrap();
            }
            drop(client);
            let mut read = vec![0; 8192];
            assert_eq!(server.read(&mut read).await.unwrap(), 5000, "what came before arrives");
            assert!(!server.is_used_up() || is_told);
            for _ in 0..2 {
                let end = server.read(&mut read).await.map_err(|error| error.kind());
                let expected = if is_told { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof) };
                assert_eq!(end, expected);
            }
        }
    }
}
