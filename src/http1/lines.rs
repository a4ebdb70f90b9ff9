//! Where the lines of a head end (RFC 9112 §2). What looks for the head's end notes those of the
//! other lines on its way, so that nobody has to look for them again.

use std::ops::Range;

/// Line ends that are noted; those of further lines are looked for again.
const NOTED: usize = 24;

/// Bytes that are looked at in one go: lines are short, and a call of `memchr` for each costs more.
const WORD: usize = size_of::<u64>();

/// The lines before the empty one, in their order.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Where the next one starts.
    ends: [usize; NOTED],
    /// All of them.
    count: usize,
    /// How many were taken, …
    taken: usize,
    /// … and where the next one starts.
    start: usize,
}

impl Lines {
    /// Past the empty line, if it has come. A bare LF ends a line, too (RFC 9112 §2.2): a head
    /// that has them isn't waited for; what leaves has CR LF. `searched`: how far it was looked
    /// for already.
    pub(super) fn find_end(&mut self, read: &[u8], searched: &mut usize) -> Option<usize> {
        let mut start = *searched;
        while let Some(word) = read[start..].first_chunk() {
            let mut found = line_feeds(*word);
            while found != 0 {
                let next = start + found.trailing_zeros() as usize / 8 + 1;
                if self.note(next, read)
                    && let Some(end) = self.judge(next, read, searched)
                {
                    return end;
                }
                found &= found - 1;
            }
            start += WORD;
        }
        while let Some(byte) = read.get(start) {
            start += 1;
            if *byte == b'\n'
                && self.note(start, read)
                && let Some(end) = self.judge(start, read, searched)
            {
                return end;
            }
        }
        *searched = read.len();
        None
    }

    /// A line starts at `next`. True: it may be the empty one.
    #[inline]
    fn note(&mut self, next: usize, read: &[u8]) -> bool {
        if let Some(end) = self.ends.get_mut(self.count) {
            *end = next;
        }
        self.count += 1;
        read.get(next).is_none_or(|byte| *byte <= b'\r')
    }

    /// Where the line at `next` is the empty one: what is behind it, or that this can't be told yet.
    #[inline(never)]
    fn judge(&mut self, next: usize, read: &[u8], searched: &mut usize) -> Option<Option<usize>> {
        let end = match &read[next..] {
            [b'\n', ..] => next + 1,
            [b'\r', b'\n', ..] => next + 2,
            [] | [b'\r'] => {
                *searched = next - 1;
                return Some(None);
            }
            _ => return None,
        };
        Some(if *searched == 0 { Some(end) } else { self.find_all(&read[..end], searched) })
    }

    /// Of a head that came in pieces the first lines' ends aren't noted.
    #[cold]
    fn find_all(&mut self, head: &[u8], searched: &mut usize) -> Option<usize> {
        (*self, *searched) = (Self::default(), 0);
        self.find_end(head, searched)
    }

    /// How many haven't been taken.
    pub(super) fn left(&self) -> usize {
        self.count - self.taken
    }

    /// Where the next one is, without its end.
    pub(super) fn take(&mut self, head: &[u8]) -> Option<Range<usize>> {
        if self.taken == self.count {
            return None;
        }
        let start = self.start;
        self.start = match self.ends.get(self.taken) {
            Some(next) => *next,
            None => start + memchr::memchr(b'\n', &head[start..])? + 1,
        };
        self.taken += 1;
        let end = self.start - 1;
        Some(start..if head[start..end].ends_with(b"\r") { end - 1 } else { end })
    }
}

/// The top bits of the bytes of `word` that are line feeds, the first one's lowest.
fn line_feeds(word: [u8; WORD]) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; WORD]);
    let differ = u64::from_le_bytes(word) ^ u64::from_ne_bytes([b'\n'; WORD]);
    // No sum carries into the next byte.
    !(((differ & LOW) + LOW) | differ | LOW)
}
