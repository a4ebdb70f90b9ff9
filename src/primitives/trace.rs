//! A secret's text as it is looked for in what others send. What the search needs besides the
//! text is found once, and is a place in it and no copy: nothing of the secret lies anywhere
//! but in its [`Secret`].

use memchr::{arch::all::packedpair::Pair, memchr_iter};

use super::Secret;

/// Bytes of the text that one is chosen of, its rarest: the last ones, since tokens begin alike.
const END: usize = u8::MAX as usize;
/// The same for its beginning at the end of a text. As few bytes of that are looked at one by one.
const START: usize = 4;

/// A text that gives a secret away.
#[derive(Clone)]
pub struct Trace {
    text: Secret,
    /// Where its rarest byte is.
    rare: usize,
    /// Where that of its beginning is.
    rare_of_start: usize,
}

impl Trace {
    pub fn new(text: Secret) -> Self {
        let bytes = text.expose().as_bytes();
        let before = bytes.len().saturating_sub(END);
        let (rare, rare_of_start) = (before + rarest(&bytes[before..]), rarest(&bytes[..bytes.len().min(START)]));
        Self { text, rare, rare_of_start }
    }

    pub fn secret(&self) -> &Secret {
        &self.text
    }

    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Such a one is in nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub fn is_in(&self, text: &[u8]) -> bool {
        self.places(text).next().is_some()
    }

    /// Where it begins in `text`, each time, also where it overlaps itself.
    pub fn places<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        starts(self.bytes(), self.rare, text).filter(|at| text[*at..].starts_with(self.bytes()))
    }

    /// How many bytes at the end of `text` are its beginning, at most, and not all of it.
    pub fn begun(&self, text: &[u8]) -> usize {
        let whole = self.bytes();
        let tail = &text[text.len().saturating_sub(whole.len().saturating_sub(1))..];
        // The earliest is the longest; the last ones are too short to hold the byte.
        let last = tail.len().saturating_sub(self.rare_of_start)..tail.len();
        let mut all = starts(whole, self.rare_of_start, tail).chain(last);
        all.find(|at| whole.starts_with(&tail[*at..])).map_or(0, |at| tail.len() - at)
    }

    fn bytes(&self) -> &[u8] {
        self.text.expose().as_bytes()
    }
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.text.fmt(f)
    }
}

/// Where `whole` may begin in `text`, by the byte at `place`.
fn starts<'a>(whole: &[u8], place: usize, text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    // Of an empty one there is no byte; nor is it in an empty text.
    let (byte, text) = whole.get(place).map_or((0, &[][..]), |byte| (*byte, text));
    memchr_iter(byte, text).filter_map(move |at| at.checked_sub(place))
}

fn rarest(text: &[u8]) -> usize {
    Pair::new(text).map_or(0, |pair| usize::from(pair.index1()))
}
