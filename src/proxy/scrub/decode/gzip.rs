//! gzip (RFC 1952): a head, deflated data, a checksum and a length; then perhaps another.

use bytes::{Buf, Bytes};
use flate2::{Crc, Decompress};

use super::{Step, Undecodable, inflate};

/// `FLG`, RFC 1952 §2.3.1.
const HEAD_CHECKSUM: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// The fixed part of a head; a checksum and a length behind the data.
const HEAD: usize = 10;
const TAIL: usize = 8;

pub(super) struct Gzip {
    at: At,
    /// Bytes of a part that is read whole.
    part: Vec<u8>,
    flags: u8,
    data: Decompress,
    checksum: Crc,
    /// A member came to its end.
    any: bool,
    /// How many that held nothing.
    empty: u32,
}

/// Members that hold nothing cost as much as others, and no agent's pace slows them down.
const MOST_EMPTY: u32 = 256;

/// Where in a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Head,
    ExtraLength,
    /// Bytes to skip.
    Skip(usize),
    /// Texts that end with a NUL.
    Name,
    Comment,
    HeadChecksum,
    Data,
    Tail,
    /// Behind the last member: what is there now is nobody's.
    Over,
}

impl Default for Gzip {
    fn default() -> Self {
        let (data, checksum) = (Decompress::new(false), Crc::new());
        Self { at: At::Head, part: Vec::new(), flags: 0, data, checksum, any: false, empty: 0 }
    }
}

impl Gzip {
    pub(super) fn is_complete(&self) -> bool {
        self.at == At::Over || (self.any && self.at == At::Head && self.part.is_empty())
    }

    pub(super) fn step(&mut self, input: &mut Bytes, out: &mut [u8]) -> Result<Step, Undecodable> {
        match self.at {
            At::Over => return Ok(Step::Complete),
            At::Data => return self.data(input, out),
            At::Tail => {
                let Some(tail) = self.take::<TAIL>(input) else { return Ok(Step::Wanting) };
                self.check(tail)?;
            }
            // Padding behind the last member is common, and no member.
            At::Head if self.any && self.part.is_empty() && input.first().is_some_and(|first| *first != 0x1f) => {
                self.at = At::Over;
            }
            At::Head => {
                let Some(head) = self.take::<HEAD>(input) else { return Ok(Step::Wanting) };
                self.head(head)?;
            }
            At::ExtraLength => {
                let Some(length) = self.take::<2>(input) else { return Ok(Step::Wanting) };
                self.at = At::Skip(u16::from_le_bytes(length).into());
            }
            At::Skip(0) => self.enter(EXTRA),
            At::Skip(left) => {
                let skipped = left.min(input.len());
                input.advance(skipped);
                self.at = At::Skip(left - skipped);
                return Ok(if input.is_empty() { Step::Wanting } else { Step::Output(0) });
            }
            At::Name | At::Comment => {
                let Some(end) = input.iter().position(|byte| *byte == 0) else {
                    input.clear();
                    return Ok(Step::Wanting);
                };
                input.advance(end + 1);
                self.enter(if self.at == At::Name { NAME } else { COMMENT });
            }
            At::HeadChecksum => {
                let Some(_) = self.take::<2>(input) else { return Ok(Step::Wanting) };
                self.enter(HEAD_CHECKSUM);
            }
        }
        Ok(Step::Output(0))
    }

    fn head(&mut self, head: [u8; HEAD]) -> Result<(), Undecodable> {
        let [0x1f, 0x8b, 8, flags, ..] = head else { return Err(Undecodable) };
        if flags & RESERVED != 0 {
            return Err(Undecodable);
        }
        self.flags = flags;
        self.data.reset(false);
        self.checksum.reset();
        self.enter(0);
        Ok(())
    }

    /// The next part of the head behind `part`, in the order of RFC 1952 §2.3.
    fn enter(&mut self, part: u8) {
        self.flags &= !part;
        self.at = match self.flags {
            flags if flags & EXTRA != 0 => At::ExtraLength,
            flags if flags & NAME != 0 => At::Name,
            flags if flags & COMMENT != 0 => At::Comment,
            flags if flags & HEAD_CHECKSUM != 0 => At::HeadChecksum,
            _ => At::Data,
        };
    }

    fn data(&mut self, input: &mut Bytes, out: &mut [u8]) -> Result<Step, Undecodable> {
        let step = inflate(&mut self.data, input, out)?;
        match step {
            Step::Output(made) => self.checksum.update(&out[..made]),
            Step::Wanting => {}
            Step::Complete => {
                self.at = At::Tail;
                return Ok(Step::Output(0));
            }
        }
        Ok(step)
    }

    fn check(&mut self, tail: [u8; TAIL]) -> Result<(), Undecodable> {
        let expected = [self.checksum.sum().to_le_bytes(), self.checksum.amount().to_le_bytes()].concat();
        if tail[..] != expected {
            return Err(Undecodable);
        }
        self.at = At::Head;
        self.any = true;
        self.empty += u32::from(self.checksum.amount() == 0);
        if self.empty > MOST_EMPTY { Err(Undecodable) } else { Ok(()) }
    }

    /// A part of `N` bytes, once it is whole.
    fn take<const N: usize>(&mut self, input: &mut Bytes) -> Option<[u8; N]> {
        let missing = N.saturating_sub(self.part.len()).min(input.len());
        self.part.extend_from_slice(&input.split_to(missing));
        let whole = <[u8; N]>::try_from(&*self.part).ok()?;
        self.part.clear();
        Some(whole)
    }
}
