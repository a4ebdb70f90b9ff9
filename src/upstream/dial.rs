//! An address to a byte stream. A trait, so that the whole proxy runs over
//! in-memory streams in a test. Knows neither TLS nor HTTP.

use std::{
    future::Future,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf},
    net::TcpStream,
};

use crate::http1::poll_write_gathered;

/// A peer that is gone without a word is found out where a stream waits for it without sending
/// (server-sent events, a long poll): after `STUCK`, which stands in place of the probes' number
/// (tcp(7)); elsewhere than on Linux after that number, as the system has it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A peer that takes none of the bytes we have for it for this long is given up: nothing above
/// TCP limits how long a connection that nobody uses any more may wait to say so.
#[cfg(target_os = "linux")]
const STUCK: Duration = Duration::from_secs(600);

/// Opens streams.
pub trait Dial: std::fmt::Debug + Send + Sync {
    fn dial<'a>(&'a self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>>;
}

/// What a dial gives: an enum and not a box, since every byte passes through it.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Memory(DuplexStream),
}

/// TCP with `TCP_NODELAY` and keep-alive probes.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial<'a>(&'a self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
            let socket = SockRef::from(&stream);
            socket.set_tcp_keepalive(&keepalive)?;
            #[cfg(target_os = "linux")]
            socket.set_tcp_user_timeout(Some(STUCK))?;
            Ok(Stream::Tcp(stream))
        })
    }
}

// === impl Stream ===

impl Stream {
    /// Whether nothing was heard since the last read, as far as the runtime knows: neither reads
    /// nor waits. `false`: that isn't known.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            // Nothing is tried where nothing was heard.
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_err(),
            Self::Memory(_) => false,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => poll_write_gathered(Pin::new(stream), cx, slices),
            Self::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn tcp_is_sent_without_delay() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpDial.dial(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let Stream::Tcp(tcp) = &stream else { panic!("not TCP") };
        assert!(tcp.nodelay().unwrap());
        assert!(SockRef::from(tcp).keepalive().unwrap());
        assert_eq!(SockRef::from(tcp).tcp_user_timeout().unwrap(), Some(STUCK));
        assert!(stream.is_write_vectored());
        assert!(stream.is_silent());
        stream.write_all(b"there").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        peer.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "there");
        peer.write_all(b"back").await.unwrap();
        drop(peer);
        let Stream::Tcp(tcp) = &stream else { panic!("not TCP") };
        tcp.readable().await.unwrap();
        assert!(!stream.is_silent());
        text.clear();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "back");
    }
}
