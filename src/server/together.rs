//! A stream beneath HTTP/2 that sends what is written between two flushes in one piece. Frames
//! come one by one, those of several streams one behind the other, and each alone would cost a
//! record of TLS and a packet.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait at most: what a record of TLS holds (RFC 8446 §5.1).
const MOST: usize = 16 * 1024;

/// From here on copying costs more than it spares.
const LARGE: usize = 8 * 1024;

#[derive(Debug)]
pub(super) struct Together<S> {
    io: S,
    /// Empty, and without memory, between two flushes.
    waiting: Vec<u8>,
    /// How much of it was written.
    written: usize,
}

impl<S> Together<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, waiting: Vec::new(), written: 0 }
    }
}

impl<S: AsyncWrite + Unpin> Together<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        (self.waiting, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Together<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = data.iter().map(|slice| slice.len()).sum::<usize>();
        if length >= LARGE || self.waiting.len() + length > MOST {
            ready!(self.poll_send(cx))?;
        }
        if length >= LARGE {
            return Pin::new(&mut self.io).poll_write_vectored(cx, data);
        }
        data.iter().for_each(|slice| self.waiting.extend_from_slice(slice));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Together<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_before_a_flush_arrives_at_once_and_in_order() {
        for (room, pieces) in [(100_000, vec![10, 20, 30]), (7, vec![100, 9000, 3, 16_000, 16_383, 2, 40_000, 1])] {
            let (io, mut peer) = tokio::io::duplex(room);
            let mut together = Together::new(io);
            let sent: Vec<u8> = pieces.iter().enumerate().flat_map(|(at, size)| vec![at as u8; *size]).collect();
            let is_one = pieces.len() == 3;
            let writing = tokio::spawn(async move {
                for (at, size) in pieces.iter().enumerate() {
                    together.write_all(&vec![at as u8; *size]).await.unwrap();
                }
                together.flush().await.unwrap();
                assert_eq!(together.waiting.capacity(), 0);
                together.shutdown().await.unwrap();
            });
            let mut read = vec![0; 100_000];
            let first = peer.read(&mut read).await.unwrap();
            assert!(!is_one || first == sent.len(), "{first} of {}", sent.len());
            let mut rest = Vec::new();
            peer.read_to_end(&mut rest).await.unwrap();
            writing.await.unwrap();
            assert!([&read[..first], &rest].concat() == sent);
        }
    }
}
