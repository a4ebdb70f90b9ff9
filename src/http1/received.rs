//! A server's side of a connection: requests as they come, and the wire by which their answers
//! leave. Of a request whose body isn't here yet the stream is lent to the body.

use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Method, request::Parts};
use tokio::io::AsyncRead;

use super::{
    Decoded, Fault, Received, Wire,
    head::{self, Head, Limits},
    lent::{Line, Progress, Rest},
};

#[cfg(test)]
mod tests;

/// Most heads of requests are smaller.
const FIRST_READ: usize = 4 * 1024;

/// Bytes behind a request that are kept while it is answered.
const MOST_AHEAD: usize = 64 * 1024;

/// A connection that requests come by.
#[derive(Debug)]
pub struct Receiver<S> {
    /// What is written to it leaves at any time; its reading is this one's.
    pub wire: Wire<Line<S>>,
    searched: usize,
    /// Of the request's body, if it isn't its reader's.
    rest: Rest,
}

/// A request whose head is there.
#[derive(Debug)]
pub struct Arrived {
    pub head: Box<Parts>,
    pub body: Received,
    /// The peer wants to keep the connection.
    pub keeps: bool,
}

// === impl Receiver ===

impl<S: AsyncRead + Unpin + Send + 'static> Receiver<S> {
    /// `ahead`: what was read of the stream already.
    pub fn new(ahead: Bytes, io: S) -> Self {
        let mut wire = Wire::new(Line::Own(io), FIRST_READ);
        wire.read = ahead.into();
        Self { wire, searched: 0, rest: Rest::none() }
    }

    /// The next request. `None`: the connection ended before a byte of it.
    pub fn poll_request(&mut self, cx: &mut Context<'_>, limits: Limits) -> Poll<Result<Option<Arrived>, Fault>> {
        loop {
            if let Some(head) = head::read_request(&mut self.wire.read, &mut self.searched, limits)? {
                return Poll::Ready(Ok(Some(self.arrived(head))));
            }
            match ready!(self.wire.poll_read(cx))? {
                0 if self.wire.read.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => return Poll::Ready(Ok(None)),
                0 => return Poll::Ready(Err(Fault::Closed)),
                _ => {}
            }
        }
    }

    fn arrived(&mut self, Head { parts: head, mut decoder, keeps, withholds }: Head) -> Arrived {
        self.rest = Rest::none();
        let body = if decoder.is_done() {
            Received::none()
        } else if head.method != Method::CONNECT
            && let Some(whole) = decoder.whole(&mut self.wire.read)
        {
            Received::whole(whole)
        } else {
            self.wire.lend(Rest { decoder, withheld: withholds, ..Rest::none() })
        };
        Arrived { head, body, keeps }
    }

    /// While a request is answered: ready once the peer has left. Reads what comes behind the
    /// request, up to a limit, but never what is its body's reader's. `wanted`: set where
    /// `100 Continue` has to be sent now, once.
    pub fn poll_departure(&mut self, cx: &mut Context<'_>, wanted: &mut bool) -> Poll<()> {
        if let Line::Lent(loan) = self.wire.io() {
            match loan.progress(cx, wanted) {
                Progress::Reading => return Poll::Pending,
                Progress::Gone => return Poll::Ready(()),
                Progress::Over => self.take_back(),
            }
        }
        let Self { wire, rest, .. } = self;
        // Else an agent that writes everything before it reads would wait for us, and we for it.
        while !rest.decoder.is_done() {
            match rest.decoder.decode(&mut wire.read) {
                Ok(Decoded::Data(_) | Decoded::Trailers(_)) => continue,
                Ok(Decoded::End) => break,
                Ok(Decoded::More) => {}
                Err(_) => wire.read.clear(),
            }
            match ready!(wire.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        while wire.read.len() < MOST_AHEAD {
            match ready!(wire.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Whether the peer left in the middle of a body, as its reader found.
    pub fn has_lost_its_peer(&self) -> bool {
        match self.wire.io() {
            Line::Own(_) => false,
            Line::Lent(loan) => loan.is_gone(),
        }
    }

    /// The request was answered: its body, if there is any left, is nobody's. True: another
    /// request may follow. What of the body was read already is skipped.
    pub fn finish(&mut self) -> bool {
        self.take_back();
        let Self { wire, rest: Rest { decoder, withheld, wanted, .. }, .. } = self;
        loop {
            match decoder.decode(&mut wire.read) {
                Ok(Decoded::Data(_) | Decoded::Trailers(_)) => {}
                Ok(Decoded::End) => return true,
                // A body that was never asked for may still come.
                Ok(Decoded::More) if *withheld || *wanted => return false,
                Ok(Decoded::More) => match wire.poll_read(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) | Poll::Pending => return false,
                },
                Err(_) => return false,
            }
        }
    }

    /// After [`finish`](Self::finish) said no: skips the rest of the body as it comes, up to
    /// `most` bytes. True: it has ended, and another request may follow.
    pub fn poll_skip(&mut self, cx: &mut Context<'_>, most: &mut usize) -> Poll<bool> {
        let Self { wire, rest, .. } = self;
        loop {
            match rest.decoder.decode(&mut wire.read) {
                Ok(Decoded::Data(data)) => match most.checked_sub(data.len()) {
                    Some(left) => *most = left,
                    None => return Poll::Ready(false),
                },
                Ok(Decoded::Trailers(_)) => {}
                Ok(Decoded::End) => return Poll::Ready(true),
                Ok(Decoded::More) => match ready!(wire.poll_read(cx)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(false),
                },
                Err(_) => return Poll::Ready(false),
            }
        }
    }

    /// Whether another request may follow, for all that is known now: of a body that was never
    /// asked for, or that somebody wants of whom the agent wasn't told, nobody knows whether it
    /// comes, and of one that nobody wants no more than `most` bytes are read.
    pub fn may_go_on(&self, most: u64) -> bool {
        match self.wire.io() {
            Line::Own(_) => self.rest.may_go_on(most),
            Line::Lent(loan) => loan.may_go_on(most),
        }
    }

    /// After [`finish`](Self::finish): reads and forgets; ready at the end of what comes.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        let mut discarded = 0;
        while discarded < most {
            self.wire.read.clear();
            match ready!(self.wire.poll_read(cx)) {
                Ok(read @ 1..) => discarded += read,
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }

    /// The stream and what was read ahead; `None` while a body is read from it.
    pub fn into_parts(mut self) -> Option<(S, Bytes)> {
        self.take_back();
        let (line, ahead) = self.wire.into_parts();
        match line {
            Line::Own(io) if self.rest.abandoned || self.rest.decoder.is_done() => Some((io, ahead)),
            Line::Own(_) | Line::Lent(_) => None,
        }
    }

    fn take_back(&mut self) {
        if let Some(rest) = self.wire.take_back() {
            self.rest = rest;
        }
    }
}
