//! Content codings (RFC 9110 §8.4.1), undone a piece at a time: a few kilobytes of input that
//! stand for gigabytes (threat 82) are expanded only as fast as the agent reads.

mod gzip;
mod zstd;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Buf, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};
use http::{HeaderMap, header::CONTENT_ENCODING};
use tokio::sync::Semaphore;

use gzip::Gzip;
use zstd::Zstd;

/// Most bytes that come out in one piece.
const PIECE: usize = 16 * 1024;

/// A coding that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// The body isn't what its coding says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body can't be decoded")]
pub struct Undecodable;

/// The body is in a coding that isn't known here, or in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnknownCoding;

impl Coding {
    /// `Ok(None)`: the body is as it is.
    pub(super) fn of(fields: &HeaderMap) -> Result<Option<Self>, UnknownCoding> {
        let mut found = None;
        let values = fields.get_all(CONTENT_ENCODING).iter();
        for name in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii) {
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            let coding = match name {
                b"" => continue,
                _ if is("identity") => continue,
                _ if is("gzip") || is("x-gzip") => Self::Gzip,
                _ if is("deflate") => Self::Deflate,
                _ if is("br") => Self::Brotli,
                _ if is("zstd") => Self::Zstd,
                _ => return Err(UnknownCoding),
            };
            if found.replace(coding).is_some() {
                return Err(UnknownCoding);
            }
        }
        Ok(found)
    }

    /// Whether undoing it takes megabytes, where gzip takes 32 KiB.
    pub(super) fn is_large(self) -> bool {
        match self {
            Self::Gzip | Self::Deflate => false,
            Self::Brotli | Self::Zstd => true,
        }
    }
}

/// At most `most` bytes of what a body begins with, decoded as far as it can be: `body` may be a
/// part of it. One in a coding that isn't known here is taken as it is. `large`: how many codings
/// may be undone at once that take megabytes; where no more may, nothing comes out.
pub(in crate::proxy) fn beginning(fields: &HeaderMap, body: &Bytes, most: usize, large: &Semaphore) -> Bytes {
    let Ok(Some(coding)) = Coding::of(fields) else { return body.slice(..most.min(body.len())) };
    let permit = coding.is_large().then(|| large.try_acquire());
    if matches!(permit, Some(Err(_))) {
        return Bytes::new();
    }
    let (mut decoder, mut input, mut text) = (Decoder::new(coding), body.clone(), BytesMut::new());
    while text.len() < most
        && let Ok(piece) = decoder.next(&mut input)
        && !piece.is_empty()
    {
        text.extend_from_slice(&piece[..piece.len().min(most - text.len())]);
    }
    text.freeze()
}

/// Undoes one coding.
pub(super) struct Decoder {
    kind: Kind,
    out: BytesMut,
    began: bool,
}

enum Kind {
    Gzip(Box<Gzip>),
    /// `None`: the first byte will tell whether it is zlib, or bare as some servers send it.
    Deflate(Option<Decompress>, bool),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>, bool),
    Zstd(Box<Zstd>),
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There may be more without more input.
    Output(usize),
    /// More input is wanted.
    Wanting,
    /// The stream is complete.
    Complete,
}

/// Never inlined: decoders are built and work on a stack of 50 KB, and a function that holds one
/// touches each of its pages for every answer, coded or not.
impl Decoder {
    #[inline(never)]
    pub(super) fn new(coding: Coding) -> Self {
        let alloc = StandardAlloc::default;
        let kind = match coding {
            Coding::Gzip => Kind::Gzip(Box::default()),
            Coding::Deflate => Kind::Deflate(None, false),
            // Strict: windows of RFC 7932, 16 MiB at most.
            Coding::Brotli => Kind::Brotli(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())), false),
            Coding::Zstd => Kind::Zstd(Box::default()),
        };
        Self { kind, out: BytesMut::new(), began: false }
    }

    /// The next piece, from `input` and from what was taken of it before; empty: all is out
    /// that can be. What follows the end of the stream is ignored.
    #[inline(never)]
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Bytes, Undecodable> {
        self.began |= !input.is_empty();
        if !self.began {
            return Ok(Bytes::new());
        }
        self.out.resize(PIECE, 0);
        let made = loop {
            match self.kind.step(input, &mut self.out)? {
                Step::Output(0) => continue,
                Step::Output(made) => break made,
                Step::Wanting if input.is_empty() => break 0,
                Step::Wanting => return Err(Undecodable),
                Step::Complete => {
                    input.clear();
                    break 0;
                }
            }
        };
        Ok(self.out.split_to(made).freeze())
    }

    /// Whether the body may end here.
    pub(super) fn is_complete(&self) -> bool {
        !self.began
            || match &self.kind {
                Kind::Gzip(gzip) => gzip.is_complete(),
                Kind::Deflate(_, complete) | Kind::Brotli(_, complete) => *complete,
                Kind::Zstd(zstd) => zstd.is_complete(),
            }
    }
}

impl Kind {
    fn step(&mut self, input: &mut Bytes, out: &mut [u8]) -> Result<Step, Undecodable> {
        match self {
            Self::Gzip(gzip) => gzip.step(input, out),
            Self::Zstd(zstd) => zstd.step(input, out),
            Self::Deflate(_, true) | Self::Brotli(_, true) => Ok(Step::Complete),
            Self::Deflate(state, complete) => {
                let state = match (&mut *state, input.first()) {
                    (Some(state), _) => state,
                    // RFC 1950 §2.2: the method is 8 in each zlib stream.
                    (none @ None, Some(first)) => none.insert(Decompress::new(first & 0x0f == 8)),
                    (None, None) => return Ok(Step::Wanting),
                };
                let step = inflate(state, input, out)?;
                *complete = step == Step::Complete;
                Ok(step)
            }
            Self::Brotli(state, complete) => {
                let (mut left, mut read, mut room, mut made, mut total) = (input.len(), 0, out.len(), 0, 0);
                let result =
                    BrotliDecompressStream(&mut left, &mut read, input, &mut room, &mut made, out, &mut total, state);
                input.advance(read);
                match result {
                    BrotliResult::ResultFailure => return Err(Undecodable),
                    BrotliResult::ResultSuccess => *complete = true,
                    BrotliResult::NeedsMoreInput if made == 0 => return Ok(Step::Wanting),
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                }
                Ok(Step::Output(made))
            }
        }
    }
}

/// A step of an inflating stream. When it is complete, there is no output besides.
fn inflate(state: &mut Decompress, input: &mut Bytes, out: &mut [u8]) -> Result<Step, Undecodable> {
    let (read, written) = (state.total_in(), state.total_out());
    let status = state.decompress(input, out, FlushDecompress::None).map_err(|_| Undecodable)?;
    let read = usize::try_from(state.total_in() - read).unwrap_or(usize::MAX);
    let made = usize::try_from(state.total_out() - written).unwrap_or(usize::MAX);
    input.advance(read.min(input.len()));
    match status {
        _ if made > 0 => Ok(Step::Output(made)),
        Status::StreamEnd => Ok(Step::Complete),
        Status::Ok if read > 0 && !input.is_empty() => Ok(Step::Output(0)),
        Status::Ok | Status::BufError => Ok(Step::Wanting),
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("complete", &self.is_complete()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
