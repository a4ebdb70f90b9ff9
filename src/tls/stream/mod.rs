//! A stream with TLS: rustls's handshake, and then records that are opened where they were read
//! and sent where they were made, with nothing kept between two of them. A small message costs one
//! look at what lies beneath and one write.
//!
//! ```text
//! connect, accept -> handshake -> TlsStream: records, each direction with its key
//! ```

mod handshake;
mod records;
mod scratch;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{AlertDescription, InvalidMessage};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use handshake::{Finished, failed};
pub use handshake::{accept, connect};
use records::{Failed, HEADER, MOST_IN_RECORD, MOST_PROTECTED, Opened, Records};

/// Taken by one write at most, in bytes.
const MOST_WRITTEN: usize = 4 * MOST_IN_RECORD;

/// Of every version, as records name it.
const MAJOR: u8 = 3;

/// Pieces of one write that are looked at.
const MOST_PIECES: usize = 8;

/// A stream with TLS, after its handshake.
pub struct TlsStream<S> {
    io: S,
    /// Boxed: it is large, and the stream is handed on with every request.
    session: Box<Session>,
}

struct Session {
    records: Records,
    is_h2: bool,
    /// Records that were read and had no room, and the beginning of one.
    ahead: Vec<u8>,
    /// What was opened and had no room.
    plain: Vec<u8>,
    /// Records on their way out; of the first one, how much has left.
    leaving: VecDeque<Vec<u8>>,
    left: usize,
    /// What is leaving may wait for what is said first, or for a flush.
    is_patient: bool,
    heard: Heard,
    has_said_all: bool,
}

/// Whether more may come.
enum Heard {
    More,
    /// The peer has said that this was all.
    End,
    /// What was read before this comes first.
    Failed(io::Error),
    /// … and who reads was told.
    Told,
}

// === impl TlsStream ===

impl<S> TlsStream<S> {
    fn new(io: S, finished: Finished) -> Self {
        let Finished { records, is_h2, ahead, unsaid } = finished;
        let leaving = if unsaid.is_empty() { VecDeque::new() } else { VecDeque::from([unsaid]) };
        let session = Session {
            records,
            is_h2,
            ahead,
            plain: Vec::new(),
            is_patient: !leaving.is_empty(),
            leaving,
            left: 0,
            heard: Heard::More,
            has_said_all: false,
        };
        Self { io, session: Box::new(session) }
    }

    /// Whether ALPN chose HTTP/2.
    pub fn is_h2(&self) -> bool {
        self.session.is_h2
    }

    pub fn io(&self) -> &S {
        &self.io
    }

    /// Whether another read has to look at what lies beneath.
    pub fn is_used_up(&self) -> bool {
        let Session { ahead, plain, heard, .. } = &*self.session;
        plain.is_empty() && ahead.is_empty() && matches!(heard, Heard::More)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Reads records and opens them into `buf`. Ready with nothing in it: what came wasn't data.
    fn poll_records(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, session } = self;
        scratch::lend(|space| {
            // Less than a read brings: a record's beginning, or what one read brought.
            let kept = session.ahead.len();
            debug_assert!(kept <= space.len());
            let mut filled = kept;
            if !holds_record(&session.ahead) {
                let mut more = ReadBuf::new(&mut space[kept..]);
                ready!(Pin::new(io).poll_read(cx, &mut more))?;
                filled += more.filled().len();
                if filled == kept {
                    let end = "peer closed connection without sending TLS close_notify";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, end)));
                }
            }
            if kept > 0 {
                space[..kept].copy_from_slice(&session.ahead);
                session.ahead = Vec::new();
            }
            session.open_into(&mut space[..filled], buf);
            Poll::Ready(Ok(()))
        })
    }

    /// What reading makes us say doesn't wait for something to be written.
    fn poll_reply(&mut self, cx: &mut Context<'_>) {
        if !self.session.leaving.is_empty() && !self.session.is_patient {
            // Who writes next is told what went wrong.
            let _ = self.poll_leave(cx);
        }
    }

    /// Why no more is read; the peer hears it, too, as far as it listens.
    #[cold]
    fn tell(&mut self, cx: &mut Context<'_>) -> io::Error {
        let _ = self.poll_leave(cx);
        match std::mem::replace(&mut self.session.heard, Heard::Told) {
            Heard::Failed(error) => error,
            _told => io::ErrorKind::InvalidData.into(),
        }
    }

    /// Sends what is leaving.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, session } = self;
        let Session { leaving, left, is_patient, .. } = &mut **session;
        while let Some(first) = leaving.front() {
            let io = Pin::new(&mut *io);
            let mut sent = ready!(if leaving.len() == 1 || !io.is_write_vectored() {
                io.poll_write(cx, &first[*left..])
            } else {
                let mut slices = [IoSlice::new(&[]); MOST_PIECES];
                slices[0] = IoSlice::new(&first[*left..]);
                slices[1..]
                    .iter_mut()
                    .zip(leaving.range(1..))
                    .for_each(|(slice, record)| *slice = IoSlice::new(record));
                io.poll_write_vectored(cx, &slices[..leaving.len().min(MOST_PIECES)])
            })?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(first) = leaving.front() {
                let rest = first.len() - *left;
                if sent < rest {
                    *left += sent;
                    break;
                }
                sent -= rest;
                *left = 0;
                leaving.pop_front();
            }
        }
        *is_patient = false;
        Poll::Ready(Ok(()))
    }

    /// Protects `parts`, and sends them as far as they leave now.
    fn poll_say(&mut self, cx: &mut Context<'_>, parts: &[&[u8]]) -> Poll<io::Result<usize>> {
        if self.session.has_said_all {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !self.session.leaving.is_empty() && !self.session.is_patient {
            ready!(self.poll_leave(cx))?;
        }
        let taken = parts.iter().map(|part| part.len()).sum::<usize>().min(MOST_WRITTEN);
        if taken == 0 {
            return Poll::Ready(Ok(0));
        }
        let Session { records, leaving, left, is_patient, .. } = &mut *self.session;
        records.prepare(taken.div_ceil(MOST_IN_RECORD), leaving).map_err(failed)?;
        let mut record = records.seal_data(parts, (0, taken.min(MOST_IN_RECORD))).map_err(failed)?;
        let is_alone = leaving.len() == 1;
        if taken <= MOST_IN_RECORD && leaving.is_empty() {
            // Nearly always.
            let sent = match Pin::new(&mut self.io).poll_write(cx, &record) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            if sent < record.len() {
                *left = sent;
                leaving.push_back(record);
            }
            return Poll::Ready(Ok(taken));
        }
        match leaving.front_mut() {
            // Alone, and nothing has gone between.
            Some(tickets) if *is_patient && is_alone => tickets.append(&mut record),
            Some(_) | None => leaving.push_back(record),
        }
        for start in (MOST_IN_RECORD..taken).step_by(MOST_IN_RECORD) {
            let record = records.seal_data(parts, (start, taken.min(start + MOST_IN_RECORD)));
            leaving.push_back(record.map_err(failed)?);
        }
        *is_patient = false;
        match self.poll_leave(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }
}

impl Session {
    /// Gives what was opened and had no room.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.plain.len().min(buf.remaining());
        buf.put_slice(&self.plain[..length]);
        if length == self.plain.len() {
            self.plain = Vec::new();
        } else {
            self.plain.drain(..length);
        }
    }

    /// Opens the records in `space`, as far as they are whole and `buf` has room.
    fn open_into(&mut self, mut space: &mut [u8], buf: &mut ReadBuf<'_>) {
        let before = buf.filled().len();
        while let Some((header, mut length)) = header_of(space) {
            if length > MOST_PROTECTED {
                return self.fail(Failed::new(AlertDescription::RecordOverflow, InvalidMessage::MessageTooLarge));
            }
            if header[1] != MAJOR {
                return self.fail(Failed::new(AlertDescription::DecodeError, InvalidMessage::UnknownProtocolVersion));
            }
            length += HEADER;
            let has_no_room = buf.filled().len() > before && length - HEADER > buf.remaining();
            if length > space.len() || has_no_room {
                break;
            }
            let (record, rest) = std::mem::take(&mut space).split_at_mut(length);
            space = rest;
            match self.records.open(header, &mut record[HEADER..]) {
                Ok(Opened::Data(data)) => {
                    let taken = data.len().min(buf.remaining());
                    buf.put_slice(&data[..taken]);
                    self.plain.extend_from_slice(&data[taken..]);
                }
                Ok(Opened::Nothing) => {}
                Ok(Opened::Reply(record)) => self.leaving.push_back(record),
                Ok(Opened::End) => {
                    // Whatever follows is nobody's (RFC 8446 §6.1).
                    self.heard = Heard::End;
                    return;
                }
                Err(failed) => return self.fail(failed),
            }
        }
        if !space.is_empty() {
            self.ahead = space.to_vec();
        }
    }

    #[cold]
    fn fail(&mut self, Failed { alert, error }: Failed) {
        if let Some(alert) = alert.filter(|_| !self.has_said_all)
            && let Ok(record) = self.records.seal_alert(alert)
        {
            self.leaving.push_back(record);
        }
        self.has_said_all = true;
        self.heard = Heard::Failed(failed(error));
    }
}

/// The header that `bytes` begin with, and how long its record's payload is.
fn header_of(bytes: &[u8]) -> Option<([u8; HEADER], usize)> {
    let header = *bytes.first_chunk::<HEADER>()?;
    Some((header, usize::from(u16::from_be_bytes([header[3], header[4]]))))
}

/// … or the beginning of one that can't be opened.
fn holds_record(bytes: &[u8]) -> bool {
    header_of(bytes).is_some_and(|(header, length)| bytes.len() >= HEADER + length || is_none(header, length))
}

/// Whether no record begins like that.
fn is_none(header: [u8; HEADER], length: usize) -> bool {
    length > MOST_PROTECTED || header[1] != MAJOR
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while buf.filled().len() == before && buf.remaining() > 0 {
            if !self.session.plain.is_empty() {
                self.session.give(buf);
                break;
            }
            match &mut self.session.heard {
                Heard::More => {
                    ready!(self.poll_records(cx, buf))?;
                    self.poll_reply(cx);
                }
                Heard::End => break,
                Heard::Failed(_) | Heard::Told => return Poll::Ready(Err(self.tell(cx))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_say(cx, &[data])
    }

    /// One record for all of them, where they are small.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut parts: [&[u8]; MOST_PIECES] = [&[]; MOST_PIECES];
        let mut count = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()).take(MOST_PIECES) {
            parts[count] = slice;
            count += 1;
        }
        self.poll_say(cx, &parts[..count])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_leave(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.session.has_said_all, true) {
            let record = self.session.records.seal_alert(AlertDescription::CloseNotify).map_err(failed)?;
            self.session.leaving.push_back(record);
        }
        ready!(self.poll_leave(cx))?;
        match ready!(Pin::new(&mut self.io).poll_shutdown(cx)) {
            // The peer has closed its side, which ends both in places.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("io", &self.io).field("is_h2", &self.session.is_h2).finish_non_exhaustive()
    }
}
