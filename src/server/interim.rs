//! A stream into which interim answers are put between two of hyper's messages.
//!
//! hyper flushes the stream only once all it wrote is written; from then until its next
//! write the stream stands at a border, and 1xx heads may go out (they come while the
//! answer's own head isn't written yet). What comes while the answer before is still being
//! written (pipelining, a slow agent) is dropped: an interim answer may be lost, never misplaced.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{proxy::InterimSink, upstream::poll_write_gathered};

/// The agent's side of an h1 connection.
#[derive(Debug)]
pub(super) struct WithInterim<IO> {
    io: IO,
    sink: InterimSink,
    /// Everything that hyper wrote has been flushed.
    between_messages: bool,
    /// The rest of an interim answer that was partly written.
    pending: Vec<u8>,
}

impl<IO> WithInterim<IO> {
    pub(super) fn new(io: IO) -> (Self, InterimSink) {
        let sink = InterimSink::default();
        (Self { io, sink: sink.clone(), between_messages: true, pending: Vec::new() }, sink)
    }

    pub(super) fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncWrite + Unpin> WithInterim<IO> {
    /// Writes what waits, where it may; `Ready` when nothing of it is left half-written.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pending.is_empty() && self.between_messages {
            self.pending = self.sink.take();
        }
        let mut wrote = false;
        while !self.pending.is_empty() {
            let written = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.drain(..written);
            wrote = true;
        }
        if wrote { Pin::new(&mut self.io).poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }
}

impl<IO: AsyncWrite + Unpin> WithInterim<IO> {
    fn poll_before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_interim(cx))?;
        if !std::mem::replace(&mut self.between_messages, false) {
            self.sink.clear();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for WithInterim<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if read.is_pending() {
            // hyper reads while it waits for the answer, to learn of the agent's leaving.
            this.sink.watch(cx.waker());
            if let Poll::Ready(Err(error)) = this.poll_interim(cx) {
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for WithInterim<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.poll_before_write(cx))?;
        Pin::new(&mut this.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.poll_before_write(cx))?;
        poll_write_gathered(Pin::new(&mut this.io), cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.between_messages |= flushed.is_ready();
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode, header::LINK};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn interim_answers_go_out_between_messages_only() {
        let (mut agent, stream) = tokio::io::duplex(4096);
        let (mut stream, sink) = WithInterim::new(stream);
        let mut fields = HeaderMap::new();
        fields.insert(LINK, HeaderValue::from_static("</style.css>; rel=preload"));

        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await.unwrap();
        sink.push(StatusCode::PROCESSING, &fields);
        stream.write_all(b"k").await.unwrap();
        stream.flush().await.unwrap();
        sink.push(StatusCode::EARLY_HINTS, &fields);
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        drop(stream);

        let mut all = String::new();
        agent.read_to_string(&mut all).await.unwrap();
        let expected = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\
                        HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n\
                        HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(all, expected);
    }
}
