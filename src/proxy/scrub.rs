//! Answers that repeat the token (threat 15): an API's debug page, an error that shows the
//! request, a `Location`. The agent gets asterisks in its place, as many as the token has
//! characters, so that lengths stay true. Only what is literally the token is found:
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
use memchr::memmem;

use crate::primitives::Secret;

pub use decode::Undecodable;
pub use frames::Screened;
pub(super) use screen::{Came, Screen, Screening, clean_interim, prefer_readable};

/// What stands where the token stood.
const FILLER: u8 = b'*';

/// Bytes of a needle that are searched for; the rest is compared. Short, so that the search
/// is set up in no time. Taken from the end: JWTs begin alike, and end in a signature.
const ANCHOR: usize = 16;
/// The same for its beginning at the end of a chunk.
const START: usize = 4;

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
    pub fn push(&mut self, needles: &[Secret], chunk: Bytes) -> Bytes {
        let mut filled = self.filled.take();
        if let Some(filled) = &mut filled {
            filled.extend_from_slice(&chunk);
        }
        let text = if self.held.is_empty() { chunk } else { joined(&self.held, &chunk) };
        for needle in needles.iter().map(bytes) {
            each_occurrence(&text, needle, |start| {
                let filled = filled.get_or_insert_with(|| BytesMut::from(&*text));
                filled[start..start + needle.len()].fill(FILLER);
                self.found = true;
            });
        }
        let begun = needles.iter().map(|needle| begun(&text, bytes(needle))).max().unwrap_or_default();
        let cut = text.len() - begun;
        let from = self.released.min(cut);
        self.released -= from;
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

    /// Nothing comes at the moment, and the other side may wait for what is held back: up to
    /// `most` bytes pass. Should a needle have begun with them, its rest is filled.
    pub fn release(&mut self, most: usize) -> Bytes {
        if self.holds() > most {
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
pub fn scrub_fields(needles: &[Secret], fields: &mut HeaderMap) -> bool {
    let has_needle = |text: &[u8]| needles.iter().any(|needle| memmem::find(text, bytes(needle)).is_some());
    let shortest = needles.iter().map(|needle| bytes(needle).len()).min().unwrap_or(usize::MAX);
    let mut found = false;
    for value in fields.values_mut().filter(|value| value.len() >= shortest) {
        if !has_needle(value.as_bytes()) {
            continue;
        }
        found = true;
        let clean = scrubbed(needles, value.as_bytes());
        *value = HeaderValue::from_maybe_shared(clean).unwrap_or(HeaderValue::from_static("*"));
    }
    let named = |name: &&HeaderName| name.as_str().len() >= shortest && has_needle(name.as_str().as_bytes());
    let names: Vec<_> = fields.keys().filter(named).cloned().collect();
    for name in &names {
        fields.remove(name);
    }
    found || !names.is_empty()
}

/// A whole text.
fn scrubbed(needles: &[Secret], text: &[u8]) -> Bytes {
    let mut scrubber = Scrubber::default();
    let mut clean = BytesMut::from(scrubber.push(needles, Bytes::copy_from_slice(text)));
    clean.extend_from_slice(&scrubber.finish());
    clean.freeze()
}

fn bytes(needle: &Secret) -> &[u8] {
    needle.expose().as_bytes()
}

fn joined(held: &[u8], chunk: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(held.len() + chunk.len());
    text.extend_from_slice(held);
    text.extend_from_slice(chunk);
    text.freeze()
}

/// Also those that overlap.
fn each_occurrence(text: &[u8], needle: &[u8], mut found: impl FnMut(usize)) {
    if needle.is_empty() {
        return;
    }
    let before = needle.len().saturating_sub(ANCHOR);
    let (head, anchor) = needle.split_at(before);
    let finder = memmem::Finder::new(anchor);
    for at in overlapping(&finder, text.get(before..).unwrap_or_default()) {
        if &text[at..at + before] == head {
            found(at);
        }
    }
}

/// How many bytes at the end of `text` are the beginning of `needle`, at most, and not all
/// of it.
fn begun(text: &[u8], needle: &[u8]) -> usize {
    let tail = &text[text.len().saturating_sub(needle.len().saturating_sub(1))..];
    let start = &needle[..needle.len().min(START)];
    let is_beginning = |at: &usize| needle.starts_with(&tail[*at..]);
    let finder = memmem::Finder::new(start);
    // The earliest is the longest; the last bytes are too few to be found by `start`.
    let last = tail.len().saturating_sub(start.len().saturating_sub(1))..tail.len();
    overlapping(&finder, tail).chain(last).find(is_beginning).map_or(0, |at| tail.len() - at)
}

/// Each place in turn, also of those that overlap.
fn overlapping<'a>(finder: &'a memmem::Finder<'_>, text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + finder.find(text.get(from..)?)?;
        from = at + 1;
        Some(at)
    })
}

#[cfg(test)]
mod tests;
