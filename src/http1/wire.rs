//! A stream with what was read ahead of need and what waits to be written. Between two
//! messages it holds no memory.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    task::unconstrained,
};

use super::Fault;

/// The first read after a rest: a connection that waits for it holds no more.
const AT_REST: usize = 512;

/// Written bytes that may lie in front of what is still to be written.
const LARGEST_PREFIX: usize = 16 * 1024;

/// What one read may bring at most.
const LARGEST_READ: usize = 64 * 1024;

#[derive(Debug)]
pub struct Wire<S> {
    io: S,
    /// Read, and not yet understood.
    pub read: BytesMut,
    /// What the next read has room for: at first, …
    first_read: usize,
    /// … and now, where the peer fills it.
    room: usize,
    /// Heads and small pieces of bodies, from `written` on to be written.
    pub out: Vec<u8>,
    written: usize,
    /// Whether a byte was written since the last [`rest`](Self::rest).
    pub wrote_any: bool,
    unflushed: bool,
}

impl<S> Wire<S> {
    /// `first_read`: room for most of what comes.
    pub fn new(io: S, first_read: usize) -> Self {
        Self {
            io,
            read: BytesMut::new(),
            first_read,
            room: first_read,
            out: Vec::new(),
            written: 0,
            wrote_any: false,
            unflushed: false,
        }
    }

    /// The stream, and what was read ahead.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.io, self.read.freeze())
    }

    pub fn io(&self) -> &S {
        &self.io
    }

    pub(super) fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }

    pub(super) fn replace_io(&mut self, io: S) -> S {
        std::mem::replace(&mut self.io, io)
    }

    /// A wire over `io` that goes on where the reading of this one stands; this one only writes
    /// from now on.
    pub(super) fn hand_reading_to<T>(&mut self, io: T) -> Wire<T> {
        let read = std::mem::take(&mut self.read);
        Wire { read, room: self.room, ..Wire::new(io, self.first_read) }
    }

    /// … and back. Gives the other one's stream.
    pub(super) fn take_reading_of<T>(&mut self, other: Wire<T>) -> T {
        (self.read, self.room) = (other.read, other.room);
        other.io
    }

    /// Between two messages: gives the memory back.
    pub fn rest(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        if self.unwritten().is_empty() {
            self.out = Vec::new();
        }
        self.room = self.first_read.min(AT_REST);
    }

    /// Whether everything has left.
    pub fn is_flushed(&self) -> bool {
        self.unwritten().is_empty() && !self.unflushed
    }

    pub fn unwritten(&self) -> &[u8] {
        &self.out[self.written..]
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    /// Whether nothing was heard from the peer that nobody asked for, such as its leaving. What
    /// hasn't arrived yet can't be known. Costs no system call where nothing has happened.
    pub fn is_quiet(&mut self) -> bool {
        // Unconstrained: a task that has used up its budget would hear nothing.
        let heard = {
            let mut reading = pin!(unconstrained(poll_fn(|cx| self.poll_read(cx))));
            reading.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        !heard && self.read.is_empty()
    }

    /// Reads more; `Ok(0)` at the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Fault>> {
        // What lies behind the last message is used up first: as long as somebody has a part of
        // a buffer it can't be used again, and another one costs more than a head's parsing.
        if self.read.capacity() - self.read.len() < self.room / 2 {
            self.read.reserve(self.room);
        }
        let read = ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx)).map_err(Fault::Io)?;
        if read >= self.room {
            self.room = (self.room * 2).min(LARGEST_READ);
        }
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    /// Writes what waits, then `frame`, then `after`; they are shortened by what was written.
    /// Ready when something was.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        frame: &mut Bytes,
        after: &mut &'static [u8],
    ) -> Poll<Result<(), Fault>> {
        let head = &self.out[self.written..];
        let io = Pin::new(&mut self.io);
        let wrote = if frame.is_empty() && after.is_empty() {
            io.poll_write(cx, head)
        } else {
            let slices = [IoSlice::new(head), IoSlice::new(frame), IoSlice::new(after)];
            io.poll_write_vectored(cx, &slices[usize::from(head.is_empty())..])
        };
        let wrote = ready!(wrote).map_err(Fault::Io)?;
        if wrote == 0 {
            return Poll::Ready(Err(Fault::Io(io::ErrorKind::WriteZero.into())));
        }
        (self.wrote_any, self.unflushed) = (true, true);
        let of_head = wrote.min(head.len());
        self.written += of_head;
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written >= LARGEST_PREFIX {
            // Else all that a slow peer ever got would be kept.
            self.out.drain(..self.written);
            self.written = 0;
        }
        let of_frame = (wrote - of_head).min(frame.len());
        frame.advance(of_frame);
        if frame.is_empty() {
            // Gives the memory back while the next one is waited for.
            *frame = Bytes::new();
        }
        *after = &after[(wrote - of_head - of_frame).min(after.len())..];
        Poll::Ready(Ok(()))
    }

    /// Writes all that waits.
    pub fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while !self.unwritten().is_empty() {
            ready!(self.poll_write(cx, &mut Bytes::new(), &mut &b""[..]))?;
        }
        self.poll_flush(cx)
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx)).map_err(Fault::Io)?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Pin::new(&mut self.io).poll_shutdown(cx).map_err(Fault::Io)
    }
}
