//! Zstandard (RFC 8878), with the window that RFC 9659 allows in HTTP. What it decodes comes
//! out a window late, so that no upstream is asked for it: an event stream would stand still.

use std::io::Read;

use bytes::{Buf, Bytes, BytesMut};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Step, Undecodable};

/// RFC 9659 §3.
const LARGEST_WINDOW: u64 = 8 * 1024 * 1024;

/// RFC 8878 §3.1.1.
const MAGIC: u32 = 0xfd2f_b528;
/// §3.1.2: frames to skip.
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;
const BLOCK_HEAD: usize = 3;
const CHECKSUM: usize = 4;

pub(super) struct Zstd {
    frame: FrameDecoder,
    /// What isn't decoded yet: less than a block, and the chunk that it came with.
    waiting: BytesMut,
    /// Within a frame, and whether a checksum ends it.
    inside: Option<bool>,
    /// Bytes of a frame that holds no data.
    skip: usize,
    any: bool,
}

impl Default for Zstd {
    fn default() -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(LARGEST_WINDOW);
        Self { frame, waiting: BytesMut::new(), inside: None, skip: 0, any: false }
    }
}

impl Zstd {
    pub(super) fn is_complete(&self) -> bool {
        self.any && self.inside.is_none() && self.skip == 0 && self.waiting.is_empty()
    }

    pub(super) fn step(&mut self, input: &mut Bytes, out: &mut [u8]) -> Result<Step, Undecodable> {
        let made = self.frame.read(out).map_err(|_| Undecodable)?;
        if made > 0 {
            return Ok(Step::Output(made));
        }
        self.waiting.extend_from_slice(input);
        input.clear();
        let skipped = self.skip.min(self.waiting.len());
        self.waiting.advance(skipped);
        self.skip -= skipped;
        let went_on = match self.inside {
            _ if self.skip > 0 => None,
            None => self.enter()?,
            Some(checksum) => self.block(checksum)?,
        };
        Ok(went_on.map_or(Step::Wanting, |()| Step::Output(0)))
    }

    /// A frame's head, once it is whole.
    fn enter(&mut self) -> Result<Option<()>, Undecodable> {
        let Some((magic, rest)) = self.waiting.split_first_chunk() else { return Ok(None) };
        let magic = u32::from_le_bytes(*magic);
        if SKIPPABLE.contains(&magic) {
            let Some((length, _)) = rest.split_first_chunk() else { return Ok(None) };
            self.skip = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Undecodable)?;
            self.waiting.advance(8);
            self.any = true;
            return Ok(Some(()));
        }
        if magic != MAGIC {
            return Err(Undecodable);
        }
        let Some(descriptor) = rest.first().copied() else { return Ok(None) };
        let length = 5 + head_length(descriptor);
        let Some(mut head) = self.waiting.get(..length) else { return Ok(None) };
        self.frame.reset(&mut head).map_err(|_| Undecodable)?;
        self.waiting.advance(length);
        self.inside = Some(descriptor_has_checksum(descriptor));
        self.any = true;
        Ok(Some(()))
    }

    /// A block, once it is whole (§3.1.1.2).
    fn block(&mut self, checksum: bool) -> Result<Option<()>, Undecodable> {
        let Some([a, b, c]) = self.waiting.first_chunk::<BLOCK_HEAD>() else { return Ok(None) };
        let head = u32::from_le_bytes([*a, *b, *c, 0]);
        let is_last = head & 1 == 1;
        let repeats_a_byte = (head >> 1) & 0b11 == 1;
        let size = if repeats_a_byte { 1 } else { usize::try_from(head >> 3).map_err(|_| Undecodable)? };
        let end = BLOCK_HEAD + size + if is_last && checksum { CHECKSUM } else { 0 };
        if size > 128 * 1024 {
            return Err(Undecodable);
        }
        let Some(mut block) = self.waiting.get(..end) else { return Ok(None) };
        self.frame.decode_blocks(&mut block, BlockDecodingStrategy::UptoBlocks(1)).map_err(|_| Undecodable)?;
        self.waiting.advance(end);
        if is_last {
            self.inside = None;
        }
        Ok(Some(()))
    }
}

/// What follows a frame's descriptor (§3.1.1.1).
fn head_length(descriptor: u8) -> usize {
    let is_single_segment = descriptor & (1 << 5) != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 0b11)];
    let content_size = match descriptor >> 6 {
        0 => usize::from(is_single_segment),
        power => 1 << power,
    };
    usize::from(!is_single_segment) + dictionary + content_size
}

fn descriptor_has_checksum(descriptor: u8) -> bool {
    descriptor & (1 << 2) != 0
}
