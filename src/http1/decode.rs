//! Where a message's body ends (RFC 9112 §6 and §7). Pure: takes what was read, gives
//! what is body. A chunk size that two parsers could read in two ways is refused.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::{Fault, head};

/// Of one chunk's line, and of all extensions of one body.
const MAX_LINE: usize = 4 * 1024;
const MAX_EXTENSIONS: usize = 16 * 1024;

/// What is left of a body.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    Length(u64),
    /// Before a chunk's size.
    Size {
        extensions: usize,
    },
    Chunk {
        left: u64,
        extensions: usize,
    },
    /// The line end behind a chunk.
    ChunkEnd {
        extensions: usize,
    },
    Trailers {
        searched: usize,
    },
    UntilClose,
    Done,
    /// Nothing that comes now can be told from a body.
    Failed,
}

#[derive(Debug)]
pub enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// What was read doesn't do.
    More,
    End,
}

impl Decoder {
    pub fn none() -> Self {
        Self(State::Done)
    }

    pub fn length(length: u64) -> Self {
        Self(if length == 0 { State::Done } else { State::Length(length) })
    }

    pub fn chunked() -> Self {
        Self(State::Size { extensions: 0 })
    }

    pub fn until_close() -> Self {
        Self(State::UntilClose)
    }

    pub fn ends_with_connection(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// All of a body of known length, if it is there.
    pub fn whole(&mut self, read: &mut BytesMut) -> Option<Bytes> {
        let State::Length(left) = self.0 else { return None };
        let length = usize::try_from(left).ok().filter(|length| *length <= read.len())?;
        self.0 = State::Done;
        Some(read.split_to(length).freeze())
    }

    /// How many bytes are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            State::Failed
            | State::Size { .. }
            | State::Chunk { .. }
            | State::ChunkEnd { .. }
            | State::Trailers { .. }
            | State::UntilClose => None,
        }
    }

    /// The connection has ended. An error: the body hasn't.
    pub fn end_of_connection(&mut self) -> Result<(), Fault> {
        match self.0 {
            State::UntilClose | State::Done => {
                self.0 = State::Done;
                Ok(())
            }
            _ => Err(Fault::Closed),
        }
    }

    /// After an error only errors.
    pub fn decode(&mut self, read: &mut BytesMut) -> Result<Decoded, Fault> {
        let decoded = self.step(read);
        if decoded.is_err() {
            self.0 = State::Failed;
        }
        decoded
    }

    pub fn has_failed(&self) -> bool {
        matches!(self.0, State::Failed)
    }

    fn step(&mut self, read: &mut BytesMut) -> Result<Decoded, Fault> {
        loop {
            match &mut self.0 {
                State::Done => return Ok(Decoded::End),
                State::Failed => return Err(Fault::Malformed),
                State::UntilClose if read.is_empty() => return Ok(Decoded::More),
                State::UntilClose => return Ok(Decoded::Data(read.split().freeze())),
                State::Length(left) => {
                    let Some(data) = take(read, left) else { return Ok(Decoded::More) };
                    if *left == 0 {
                        self.0 = State::Done;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::Chunk { left, extensions } => {
                    let Some(data) = take(read, left) else { return Ok(Decoded::More) };
                    if *left == 0 {
                        self.0 = State::ChunkEnd { extensions: *extensions };
                    }
                    return Ok(Decoded::Data(data));
                }
                State::ChunkEnd { extensions } => match read.as_ref() {
                    [] | [b'\r'] => return Ok(Decoded::More),
                    [b'\r', b'\n', ..] => {
                        let _ = read.split_to(2);
                        self.0 = State::Size { extensions: *extensions };
                    }
                    _ => return Err(Fault::Malformed),
                },
                State::Size { extensions } => {
                    let Some((size, line)) = chunk_size(read)? else { return Ok(Decoded::More) };
                    let extensions = *extensions + line.extensions;
                    if extensions > MAX_EXTENSIONS {
                        return Err(Fault::TooLarge);
                    }
                    let _ = read.split_to(line.length);
                    self.0 = if size == 0 {
                        State::Trailers { searched: 0 }
                    } else {
                        State::Chunk { left: size, extensions }
                    };
                }
                State::Trailers { searched } => {
                    let Some(trailers) = head::read_trailers(read, searched)? else { return Ok(Decoded::More) };
                    self.0 = State::Done;
                    return Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) });
                }
            }
        }
    }
}

/// As much as is there, at most what is `left`.
fn take(read: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
    *left -= length as u64;
    (length > 0).then(|| read.split_to(length).freeze())
}

struct Line {
    /// With its end.
    length: usize,
    /// Bytes behind the size.
    extensions: usize,
}

/// The size that stands at the front of `read`: hexadecimal digits, then at most an
/// extension, then CR LF (RFC 9112 §7.1). `None`: not whole yet.
fn chunk_size(read: &[u8]) -> Result<Option<(u64, Line)>, Fault> {
    let Some(end) = memchr::memchr(b'\n', &read[..read.len().min(MAX_LINE)]) else {
        // Digits that never end are no size, and needn't be waited for.
        return if read.len() >= MAX_LINE || size_digits(read) > 16 { Err(Fault::Malformed) } else { Ok(None) };
    };
    let line = read[..end].strip_suffix(b"\r").ok_or(Fault::Malformed)?;
    let digits = size_digits(line);
    let (size, rest) = line.split_at(digits);
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    let is_extension = match rest.trim_ascii_start() {
        [] | [b';', ..] => rest.iter().all(is_text),
        _ => false,
    };
    if digits == 0 || digits > 16 || !is_extension {
        return Err(Fault::Malformed);
    }
    let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
    let line = Line { length: end + 1, extensions: rest.len() };
    Ok(Some((size.ok_or(Fault::Malformed)?, line)))
}

fn size_digits(line: &[u8]) -> usize {
    line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count()
}
