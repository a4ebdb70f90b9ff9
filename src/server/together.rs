//! A stream beneath HTTP/2 that sends in one piece what a connection writes each time that it is
//! looked at. Frames come one by one, those of several streams one behind the other, and h2
//! flushes behind each of them that holds data: each alone would cost a record of TLS and a
//! packet.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait at most: what a record of TLS holds (RFC 8446 §5.1).
const MOST: usize = 16 * 1024;

/// From here on copying costs more than it spares.
const LARGE: usize = 8 * 1024;

/// The stream, for the connection.
#[derive(Debug)]
pub(super) struct Together<S>(Arc<Mutex<Waiting<S>>>);

/// A connection over such a stream: what it wrote leaves when it has nothing more to do.
pub(super) struct Driven<S, C> {
    pub(super) connection: Pin<Box<C>>,
    stream: Arc<Mutex<Waiting<S>>>,
}

#[derive(Debug)]
struct Waiting<S> {
    io: S,
    /// Without memory while nothing waits.
    bytes: Vec<u8>,
    /// How much of it was written.
    written: usize,
    /// What went wrong while nobody asked: the next one to ask is told.
    failed: Option<io::ErrorKind>,
}

/// The connection that `serve` makes of the stream.
pub(super) fn drive<S, C>(io: S, serve: impl FnOnce(Together<S>) -> C) -> Driven<S, C> {
    let stream = Arc::new(Mutex::new(Waiting { io, bytes: Vec::new(), written: 0, failed: None }));
    Driven { connection: Box::pin(serve(Together(Arc::clone(&stream)))), stream }
}

impl<S: AsyncWrite + Unpin, C: Future> Future for Driven<S, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let ended = self.connection.as_mut().poll(cx);
        if ended.is_pending() {
            let mut waiting = lock(&self.stream);
            if let Poll::Ready(Err(error)) = waiting.poll_send(cx) {
                waiting.failed = Some(error.kind());
                cx.waker().wake_by_ref();
            }
        }
        ended
    }
}

impl<S> Waiting<S> {
    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl<S: AsyncWrite + Unpin> Waiting<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if self.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.bytes.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.bytes[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        (self.bytes, self.written) = (Vec::new(), 0);
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Together<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut waiting = lock(&self.0);
        waiting.check()?;
        let length = data.iter().map(|slice| slice.len()).sum::<usize>();
        if length >= LARGE || waiting.bytes.len() + length > MOST {
            ready!(waiting.poll_send(cx))?;
        }
        if length >= LARGE {
            return Pin::new(&mut waiting.io).poll_write_vectored(cx, data);
        }
        data.iter().for_each(|slice| waiting.bytes.extend_from_slice(slice));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Small frames wait for those of other streams: who drives the connection sends them, and
    /// no later than it comes to rest.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = lock(&self.0);
        waiting.check()?;
        if waiting.bytes.is_empty() { Pin::new(&mut waiting.io).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = lock(&self.0);
        ready!(waiting.poll_send(cx))?;
        Pin::new(&mut waiting.io).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Together<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut waiting = lock(&self.0);
        waiting.check()?;
        Pin::new(&mut waiting.io).poll_read(cx, buf)
    }
}

/// One task's all along; nothing panics while it is held.
fn lock<S>(waiting: &Mutex<Waiting<S>>) -> MutexGuard<'_, Waiting<S>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_at_a_time_arrives_at_once_and_in_order() {
        for (room, pieces) in [(100_000, vec![10, 20, 30]), (7, vec![100, 9000, 3, 16_000, 16_383, 2, 40_000, 1])] {
            let (io, mut peer) = tokio::io::duplex(room);
            let sent: Vec<u8> = pieces.iter().enumerate().flat_map(|(at, size)| vec![at as u8; *size]).collect();
            let is_one = pieces.len() == 3;
            let (go_on, held) = tokio::sync::oneshot::channel::<()>();
            let driven = drive(io, |mut together| async move {
                for (at, size) in pieces.iter().enumerate() {
                    together.write_all(&vec![at as u8; *size]).await.unwrap();
                    together.flush().await.unwrap();
                }
                // At rest: nothing more is written for now.
                held.await.unwrap();
                assert_eq!(lock(&together.0).bytes.capacity(), 0);
                together.shutdown().await.unwrap();
            });
            let writing = tokio::spawn(driven);
            let mut read = vec![0; sent.len()];
            let first = peer.read(&mut read).await.unwrap();
            assert!(!is_one || first == sent.len(), "{first} of {}", sent.len());
            peer.read_exact(&mut read[first..]).await.unwrap();
            assert!(read == sent);
            go_on.send(()).unwrap();
            assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
            writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_heard_of() {
        let (io, peer) = tokio::io::duplex(100);
        drop(peer);
        let driven = drive(io, |mut together| async move {
            together.write_all(b"small").await.unwrap();
            let _ = together.flush().await;
            // What was written is lost; who reads or writes is told.
            tokio::task::yield_now().await;
            together.write_all(b"more").await.is_err()
        });
        assert!(driven.await, "the next write is told");
    }
}
