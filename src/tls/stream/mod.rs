//! A stream with TLS: rustls's handshake, and then records that are opened where they were read
//! and sent where they were made, with nothing kept between two of them. A small message costs one
//! look at what lies beneath and one write.
//!
//! ```text
//! connect, accept -> handshake -> TlsStream: records, each direction with its key
//! ```

#[cfg(fuzzing)]
pub mod fuzzing;
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
use records::{Failed, HEADER, LARGEST, MOST_IN_RECORD, MOST_PROTECTED, Opened, Records, SLOT, Said};

/// Made by one write at most.
const RECORDS: usize = scratch::ROOM / SLOT;

/// Taken by one write at most, in bytes.
const MOST_WRITTEN: usize = RECORDS * MOST_IN_RECORD;

/// Read at once at most: where all records are of the largest size, none is cut.
const READ: usize = RECORDS * LARGEST;

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

/// How much of what was made has left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    Partly,
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
                let mut more = ReadBuf::new(&mut space[kept..READ]);
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
        let count = taken.div_ceil(MOST_IN_RECORD);
        self.session.records.prepare(count, &mut self.session.leaving).map_err(failed)?;
        let sent = scratch::lend(|space| self.poll_seal(cx, parts, taken, space))?;
        if sent == Sent::Partly {
            // As far as it goes.
            if let Poll::Ready(Err(error)) = self.poll_leave(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(taken))
    }

    /// Makes records of `parts`, and sends them from where they are made, if nothing is before them.
    fn poll_seal(&mut self, cx: &mut Context<'_>, parts: &[&[u8]], taken: usize, space: &mut [u8]) -> io::Result<Sent> {
        let Session { records, leaving, is_patient, .. } = &mut *self.session;
        let mut places = [const { 0..0 }; RECORDS];
        let mut count = 0;
        for (start, slot) in (0..taken).step_by(MOST_IN_RECORD).zip((0..RECORDS).map(|slot| slot * SLOT)) {
            let said = Said { parts, start, end: taken.min(start + MOST_IN_RECORD) };
            let place = records.seal_data(said, &mut space[slot..slot + SLOT]).map_err(failed)?;
            places[count] = slot + place.start..slot + place.end;
            count += 1;
        }
        let mut sent = 0;
        if leaving.is_empty() {
            let io = Pin::new(&mut self.io);
            let written = if let [one] = &places[..count] {
                io.poll_write(cx, &space[one.clone()])
            } else {
                let slices = places.clone().map(|place| IoSlice::new(&space[place]));
                io.poll_write_vectored(cx, &slices[..count])
            };
            match written {
                Poll::Ready(Ok(written)) => sent = written,
                Poll::Ready(Err(error)) => {
                    // What follows would have a gap before it.
                    self.session.has_said_all = true;
                    return Err(error);
                }
                Poll::Pending => {}
            }
        } else if *is_patient && leaving.len() == 1 {
            // Tickets, which leave in one piece with the answer.
            *is_patient = false;
            leaving[0].extend_from_slice(&space[places[0].clone()]);
            sent = places[0].len();
        }
        for place in &places[..count] {
            let of_it = sent.min(place.len());
            sent -= of_it;
            if of_it < place.len() {
                leaving.push_back(space[place.start + of_it..place.end].to_vec());
            }
        }
        *is_patient = false;
        Ok(if leaving.is_empty() { Sent::All } else { Sent::Partly })
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
                Ok(Opened::Reply(record)) if self.has_said_all => drop(record),
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
                    let was_empty = self.session.leaving.is_empty();
                    ready!(self.poll_records(cx, buf))?;
                    if was_empty && !self.session.leaving.is_empty() {
                        // What reading makes us say waits for nothing else that is said. Where
                        // something was leaving already, who writes sees to it, and mustn't lose
                        // its waker to who reads. What goes wrong, the next to write is told.
                        let _ = self.poll_leave(cx);
                    }
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
