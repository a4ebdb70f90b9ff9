//! Answers that repeat the token (threat 15): an API's debug page, an error that shows the
//! request, a `Location`. The agent gets asterisks in its place, as many as the token has
//! characters, so that lengths stay true. Found is the token as it is and as common encoders
//! spell it ([`Lease::traces`](crate::credential::Lease::traces)):
//! [the documents](../../docs/security.md) name what can't be.
//!
//! ```text
//! fields, trailers, 1xx -> scrub_fields
//! body -> decode (gzip, deflate, br, zstd) -> Scrubber -> the agent      Screen holds all three
//! WebSocket -> frames -> Scrubber -> the agent                           Screened, a stream
//! ```

mod decode;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod screen;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::primitives::Trace;

pub use decode::Undecodable;
pub(super) use decode::beginning;
pub use frames::Screened;
pub(super) use screen::{Came, Screen, Screening, clean_interim, prefer_readable, tell};

/// What stands where the token stood.
const FILLER: u8 = b'*';

/// Finds needles in a stream, wherever it is cut, and fills their places. What comes out
/// doesn't depend on the cuts: every byte of every occurrence is filled, also of those that
/// overlap.
///
/// A chunk without a needle passes as it is, without a copy. Held back is only what may be
/// the beginning of a needle.
#[derive(Debug, Default)]
pub struct Scrubber {
    /// The end of what came: the beginning of a needle, as it came.
    held: Bytes,
    /// How many bytes of it are released already.
    released: usize,
    /// The same as it will go, where that differs: a needle ended in it.
    filled: Option<BytesMut>,
    found: bool,
}

impl Scrubber {
    /// What can go on of `chunk` and of what was held back before it. `needles` are the same
    /// each time; an empty one is in nothing.
    pub fn push(&mut self, needles: &[Trace], chunk: Bytes) -> Bytes {
        self.pass(needles, chunk, |text| needles.iter().map(|needle| needle.begun(text)).max().unwrap_or_default())
    }

    /// The same for the last chunk: nothing is held back.
    pub fn push_last(&mut self, needles: &[Trace], chunk: Bytes) -> Bytes {
        self.pass(needles, chunk, |_| 0)
    }

    /// `begun`: how many bytes at the end of a text may be the beginning of a needle.
    fn pass(&mut self, needles: &[Trace], chunk: Bytes, begun: impl FnOnce(&[u8]) -> usize) -> Bytes {
        let mut filled = self.filled.take();
        if let Some(filled) = &mut filled {
            filled.extend_from_slice(&chunk);
        }
        let text = if self.held.is_empty() { chunk } else { joined(&self.held, &chunk) };
        for needle in needles {
            for start in needle.places(&text) {
                let filled = filled.get_or_insert_with(|| BytesMut::from(&*text));
                filled[start..start + needle.len()].fill(FILLER);
                self.found = true;
            }
        }
        let cut = text.len() - begun(&text);
        let from = self.released.min(cut);
        self.released -= from;
        if from == 0 && cut == text.len() && filled.is_none() {
            self.held = Bytes::new();
            return text;
        }
        self.held = text.slice(cut..);
        match filled {
            None => text.slice(from..cut),
            Some(mut filled) => {
                let rest = filled.split_off(cut);
                self.filled = Some(rest).filter(|rest| *rest != self.held);
                filled.freeze().slice(from..)
            }
        }
    }

    /// Nothing comes at the moment, and the other side may wait for what is held back: the first
    /// `most` bytes of what may be a needle pass. Should it be one, its rest is filled.
    pub fn release(&mut self, most: usize) -> Bytes {
        if !self.may_release(most) {
            return Bytes::new();
        }
        let from = std::mem::replace(&mut self.released, self.held.len());
        self.going(from)
    }

    /// The stream is over: what was held back is no needle.
    pub fn finish(&mut self) -> Bytes {
        let rest = self.going(self.released);
        *self = Self { found: self.found, ..Self::default() };
        rest
    }

    /// Whether [`release`](Self::release) lets something pass. What passed counts: a needle that
    /// comes in pieces doesn't pass piece by piece.
    pub fn may_release(&self, most: usize) -> bool {
        self.holds() > 0 && self.held.len() <= most
    }

    /// How many bytes are held back.
    pub fn holds(&self) -> usize {
        self.held.len() - self.released
    }

    fn going(&self, from: usize) -> Bytes {
        match &self.filled {
            None => self.held.slice(from..),
            Some(filled) => Bytes::copy_from_slice(&filled[from..]),
        }
    }

    /// Whether a needle was found so far.
    pub fn found(&self) -> bool {
        self.found
    }
}

/// Fills needles in the values of fields; a field whose name holds one is removed. `true`:
/// there was one.
pub fn scrub_fields(needles: &[Trace], fields: &mut HeaderMap) -> bool {
    let search = Search::new(needles);
    let found = fields.iter().any(|(name, value)| search.finds(name, value));
    if found {
        fill_fields(&search, fields);
    }
    found
}

/// Needles, each as long as that at least.
struct Search<'a> {
    needles: &'a [Trace],
    shortest: usize,
}

impl<'a> Search<'a> {
    fn new(needles: &'a [Trace]) -> Self {
        Self { needles, shortest: needles.iter().map(Trace::len).min().unwrap_or(usize::MAX) }
    }

    fn is_in(&self, text: &[u8]) -> bool {
        text.len() >= self.shortest && self.needles.iter().any(|needle| needle.is_in(text))
    }

    fn finds(&self, name: &HeaderName, value: &HeaderValue) -> bool {
        self.is_in(value.as_bytes()) || self.is_in(name.as_str().as_bytes())
    }
}

/// Hardly ever wanted.
#[cold]
fn fill_fields(search: &Search<'_>, fields: &mut HeaderMap) {
    let mut names = Vec::new();
    for (name, value) in fields.iter_mut() {
        if search.is_in(name.as_str().as_bytes()) {
            names.push(name.clone());
        }
        if search.is_in(value.as_bytes()) {
            let clean = scrubbed(search.needles, value.as_bytes());
            *value = HeaderValue::from_maybe_shared(clean).unwrap_or(HeaderValue::from_static("*"));
        }
    }
    for name in &names {
        fields.remove(name);
    }
}

/// A whole text.
fn scrubbed(needles: &[Trace], text: &[u8]) -> Bytes {
    Scrubber::default().push_last(needles, Bytes::copy_from_slice(text))
}

fn joined(held: &[u8], chunk: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(held.len() + chunk.len());
    text.extend_from_slice(held);
    text.extend_from_slice(chunk);
    text.freeze()
}

#[cfg(test)]
mod tests;
