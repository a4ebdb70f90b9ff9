//! A stream of an HTTP/2 connection as a stream of bytes, behind `CONNECT` (RFC 9113 §8.5,
//! RFC 8441 §5).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::small::Small;

/// Both directions; each ends by itself, a reset ends both (RFC 9113 §8.5). Dropped before they
/// have, the stream is cancelled.
#[derive(Debug)]
pub struct Duplex {
    sending: SendStream<Bytes>,
    receiving: RecvStream,
    /// Received, and not yet read.
    unread: Bytes,
    small: Small,
    has_ended: bool,
}

impl Duplex {
    pub fn new(sending: SendStream<Bytes>, receiving: RecvStream) -> Self {
        Self { sending, receiving, unread: Bytes::new(), small: Small::default(), has_ended: false }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receiving.poll_data(cx)) {
                Some(Ok(data)) => self.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        // Only now: a reader that stalls is to stop the peer.
        self.receiving.flow_control().release_capacity(length).map_err(io_error)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(reason) = self.sending.poll_reset(cx) {
            return Poll::Ready(Err(reason.map_or_else(io_error, closed)));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.small.poll_room(cx));
        self.sending.reserve_capacity(data.len());
        let room = loop {
            match self.sending.capacity() {
                0 => match ready!(self.sending.poll_capacity(cx)) {
                    Some(room) => drop(room.map_err(io_error)?),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                room => break room.min(data.len()),
            }
        };
        let piece = self.small.count(Bytes::copy_from_slice(&data[..room]));
        self.sending.send_data(piece, false).map_err(io_error)?;
        // Nothing is withheld from other streams for what may never be written.
        self.sending.reserve_capacity(0);
        Poll::Ready(Ok(room))
    }

    /// Nothing is kept here; whoever has nothing to write and nothing to read hears of a reset.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.sending.poll_reset(cx) {
            Poll::Ready(reason) => Poll::Ready(Err(reason.map_or_else(io_error, closed))),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.sending.send_data(Bytes::new(), true).map_err(io_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn closed(_: Reason) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
