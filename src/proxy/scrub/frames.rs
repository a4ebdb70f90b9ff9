//! WebSocket messages (RFC 6455 §5) from an upstream, whose frames aren't masked: the token is
//! filled in their payloads, also where it lies in two frames of one message. Heads pass as they
//! came, since no length changes. No extension that compresses is agreed on where this is used:
//! see [`prefer_readable`](super::prefer_readable).

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::primitives::Trace;

use super::{
    Scrubber,
    screen::{SHORT, Screening},
    scrubbed,
};

/// Heads that may wait for what stands before them, of frames without payload for example.
const MOST_WAITING: usize = 64;

/// Most bytes of a control frame's payload (§5.5).
const MOST_OF_CONTROL: usize = 125;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Finds frames in a stream, and texts in them.
#[derive(Debug, Default)]
pub(super) struct Frames {
    at: At,
    /// Of a head, or of a control frame: what has come.
    part: BytesMut,
    scrubber: Scrubber,
    /// Bytes of payload that came and that went.
    came: u64,
    went: u64,
    /// Heads and control frames, each behind so many bytes of payload.
    waiting: VecDeque<(u64, Bytes)>,
    found: bool,
}

/// Where in a frame.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Head,
    Payload {
        left: u64,
        ends_message: bool,
    },
    Control {
        head: usize,
        left: usize,
    },
    /// What comes is no WebSocket: a text of its own, without an end.
    Raw,
    /// What came can't be looked through, and would give too much away.
    Stuck,
}

/// What a head says (§5.2).
struct Head {
    length: usize,
    payload: u64,
    is_control: bool,
    ends_message: bool,
}

impl Frames {
    /// Nothing more goes on.
    pub(super) fn is_stuck(&self) -> bool {
        matches!(self.at, At::Stuck)
    }

    /// Nothing comes at the moment, and what isn't WebSocket has no messages that tell when it is
    /// the agent's turn: a few bytes that may be the beginning of the token pass.
    pub(super) fn let_go(&mut self, out: &mut BytesMut) {
        if matches!(self.at, At::Raw) {
            out.extend_from_slice(&self.scrubber.release(SHORT));
        }
    }

    /// What can go on, appended to `out`.
    pub(super) fn push(&mut self, needles: &[Trace], mut input: Bytes, out: &mut BytesMut) {
        while !input.is_empty() {
            match self.at {
                At::Stuck => input.clear(),
                At::Raw => self.raw(needles, std::mem::take(&mut input), out),
                At::Head => self.head(needles, &mut input, out),
                At::Payload { left, ends_message } => {
                    let taken = input.split_to(input.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                    self.came += taken.len() as u64;
                    let left = left - taken.len() as u64;
                    let clean = self.scrubber.push(needles, taken);
                    self.found |= self.scrubber.found();
                    self.go(clean, out);
                    self.at = At::Payload { left, ends_message };
                    self.end_frame(out);
                }
                At::Control { head, left } => {
                    let taken = left.min(input.len());
                    self.part.extend_from_slice(&input.split_to(taken));
                    if taken < left {
                        self.at = At::Control { head, left: left - taken };
                        continue;
                    }
                    self.control(needles, head);
                    let frame = self.part.split().freeze();
                    self.at = At::Head;
                    self.stand(frame, out);
                }
            }
        }
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self, needles: &[Trace], out: &mut BytesMut) {
        if self.is_stuck() {
            return;
        }
        let rest = self.scrubber.finish();
        self.go(rest, out);
        if let At::Control { head, .. } = self.at {
            self.control(needles, head);
        }
        out.extend_from_slice(&self.part.split());
    }

    /// Cleans the payload of a control frame, as far as it has come.
    fn control(&mut self, needles: &[Trace], head: usize) {
        let payload = self.part.split_off(head.min(self.part.len()));
        let clean = scrubbed(needles, &payload);
        self.found |= clean != payload;
        self.part.extend_from_slice(&clean);
    }

    fn raw(&mut self, needles: &[Trace], text: Bytes, out: &mut BytesMut) {
        out.extend_from_slice(&self.scrubber.push(needles, text));
        self.found |= self.scrubber.found();
    }

    fn head(&mut self, needles: &[Trace], input: &mut Bytes, out: &mut BytesMut) {
        let wanted = match head_length(&self.part) {
            Some(length) => length - self.part.len(),
            None => 2 - self.part.len(),
        };
        self.part.extend_from_slice(&input.split_to(wanted.min(input.len())));
        if head_length(&self.part).is_none_or(|length| self.part.len() < length) {
            return;
        }
        let Some(head) = Head::read(&self.part) else {
            if self.scrubber.holds() > SHORT {
                self.at = At::Stuck;
                return;
            }
            let rest = self.scrubber.finish();
            self.go(rest, out);
            self.at = At::Raw;
            let part = self.part.split().freeze();
            return self.raw(needles, part, out);
        };
        if head.is_control {
            let left = usize::try_from(head.payload).unwrap_or(MOST_OF_CONTROL);
            self.at = At::Control { head: head.length, left };
            if left == 0 {
                let frame = self.part.split().freeze();
                self.at = At::Head;
                self.stand(frame, out);
            }
            return;
        }
        let bytes = self.part.split().freeze();
        self.at = At::Payload { left: head.payload, ends_message: head.ends_message };
        self.stand(bytes, out);
        self.end_frame(out);
    }

    /// A message that is over holds nothing back: it may be the agent's turn to speak.
    fn end_frame(&mut self, out: &mut BytesMut) {
        let At::Payload { left: 0, ends_message } = self.at else { return };
        self.at = At::Head;
        if ends_message {
            let rest = self.scrubber.finish();
            self.go(rest, out);
        }
    }

    /// Payload, with what stands between.
    fn go(&mut self, mut payload: Bytes, out: &mut BytesMut) {
        while let Some((place, _)) = self.waiting.front() {
            let before = usize::try_from(place - self.went).unwrap_or(usize::MAX);
            if before > payload.len() {
                break;
            }
            out.extend_from_slice(&payload.split_to(before));
            self.went += before as u64;
            if let Some((_, bytes)) = self.waiting.pop_front() {
                out.extend_from_slice(&bytes);
            }
        }
        self.went += payload.len() as u64;
        out.extend_from_slice(&payload);
    }

    /// What stands behind all payload that came.
    fn stand(&mut self, bytes: Bytes, out: &mut BytesMut) {
        if self.came == self.went {
            out.extend_from_slice(&bytes);
            return;
        }
        if self.waiting.len() == MOST_WAITING {
            self.at = At::Stuck;
            return;
        }
        self.waiting.push_back((self.came, bytes));
    }
}

impl Head {
    /// `None`: it is masked, or needs an extension, or a control frame is too long (§5.2, §5.5).
    fn read(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else { return None };
        let is_control = first & 0x08 != 0;
        let payload = match second & 0x7f {
            126 => u16::from_be_bytes(*rest.first_chunk()?).into(),
            127 => u64::from_be_bytes(*rest.first_chunk()?),
            short => short.into(),
        };
        let is_good = first & 0x70 == 0 && second & 0x80 == 0 && (!is_control || payload <= MOST_OF_CONTROL as u64);
        is_good.then(|| Self { length: bytes.len(), payload, is_control, ends_message: first & 0x80 != 0 })
    }
}

/// `None`: that isn't known before its second byte.
fn head_length(bytes: &[u8]) -> Option<usize> {
    Some(match bytes.get(1)? & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    })
}

/// An upstream's stream, read through `Frames` where the token must not pass.
#[derive(Debug)]
pub struct Screened<S> {
    stream: S,
    watch: Option<Box<Watch>>,
}

#[derive(Debug)]
struct Watch {
    screening: Screening,
    frames: Frames,
    read: BytesMut,
    ready: BytesMut,
    ended: bool,
    told: bool,
}

impl<S> Screened<S> {
    pub(in crate::proxy) fn new(stream: S, screening: Option<Screening>) -> Self {
        let watch = screening.map(|screening| {
            let (read, ready) = (BytesMut::new(), BytesMut::new());
            Box::new(Watch { screening, frames: Frames::default(), read, ready, ended: false, told: false })
        });
        Self { stream, watch }
    }
}

impl Watch {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.ready.is_empty() && !self.ended {
            if self.frames.is_stuck() {
                let error = "the upstream's WebSocket messages can't be looked through for the token";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            self.read.resize(CHUNK, 0);
            let mut buffer = ReadBuf::new(&mut self.read);
            let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
            let length = buffer.filled().len();
            self.read.truncate(length);
            if read.is_pending() {
                self.frames.let_go(&mut self.ready);
                if !self.ready.is_empty() {
                    break;
                }
                // A connection may say nothing for hours.
                (self.read, self.ready) = (BytesMut::new(), BytesMut::new());
            }
            ready!(read)?;
            if length == 0 {
                self.ended = true;
                self.frames.finish(self.screening.traces(), &mut self.ready);
            } else {
                self.frames.push(self.screening.traces(), self.read.split().freeze(), &mut self.ready);
            }
            if self.frames.found && !std::mem::replace(&mut self.told, true) {
                self.screening.tell("a WebSocket message");
            }
        }
        let length = self.ready.len().min(into.remaining());
        into.put_slice(&self.ready[..length]);
        self.ready.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.watch {
            None => Pin::new(&mut this.stream).poll_read(cx, into),
            Some(watch) => watch.poll_read(&mut this.stream, cx, into),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
