//! Correlation ids: unique for a process's life and across processes, and cheap,
//! since every request gets one.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use super::digest::Hex;

/// Identifies one request in its record, its refusal and the logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId {
    process: u64,
    count: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Hex::<16>::of(self.process).as_str())?;
        match u32::try_from(self.count) {
            Ok(count) => f.write_str(Hex::<8>::of(count.into()).as_str()),
            Err(_) => write!(f, "{:x}", self.count),
        }
    }
}

impl RequestId {
    /// Hands over what `Display` shows, piece by piece.
    #[inline]
    pub fn write_with(self, mut write: impl FnMut(&[u8])) {
        write(Hex::<16>::of(self.process).as_bytes());
        match u32::try_from(self.count) {
            Ok(count) => write(Hex::<8>::of(count.into()).as_bytes()),
            Err(_) => write(format!("{:x}", self.count).as_bytes()),
        }
    }
}

/// The source of [`RequestId`]s: a random part for the process, then a counter.
#[derive(Debug)]
pub struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// `process` should be random: it tells two replicas' requests apart.
    pub fn new(process: u64) -> Self {
        Self { process, next: AtomicU64::new(1) }
    }

    pub fn next(&self) -> RequestId {
        RequestId { process: self.process, count: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_one_are_the_same() {
        for (count, expected) in [(1, "0000000000000abc00000001"), (0x1_2345_6789, "0000000000000abc123456789")] {
            let id = RequestId { process: 0xabc, count };
            let mut appended = Vec::new();
            id.write_with(|piece| appended.extend_from_slice(piece));
            assert_eq!(id.to_string(), expected);
            assert_eq!(String::from_utf8(appended).unwrap(), expected);
        }
    }
}
