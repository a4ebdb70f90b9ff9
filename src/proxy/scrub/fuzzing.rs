//! Doors for the fuzz targets in `tests/fuzz`; built for them only (`cfg(fuzzing)`).

use bytes::{Bytes, BytesMut};

use super::{
    decode::{Coding, Decoder, Undecodable},
    frames::Frames,
    *,
};
use crate::primitives::Secret;

/// A bomb shows what it is long before that.
const ENOUGH: usize = 1 << 20;

/// The first byte chooses the coding and the second the size of chunks: cuts make no difference
/// to a whole body, and make none of what is broken.
pub fn decode(data: &[u8]) {
    let [choice, size, coded @ ..] = data else { return };
    let coding = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd][usize::from(choice % 4)];
    let whole = decoded(coding, [coded]);
    let cut = decoded(coding, coded.chunks(usize::from(*size).max(1)));
    assert_eq!(whole, cut, "{coding:?}");
}

/// What comes out of a whole body that isn't longer than [`ENOUGH`]; `None`: it is no such.
fn decoded<'a>(coding: Coding, chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(coding);
    let mut text = Vec::new();
    for chunk in chunks {
        let mut input = Bytes::copy_from_slice(chunk);
        loop {
            match decoder.next(&mut input) {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => text.extend_from_slice(&piece),
                // How much comes out before that depends on the cuts.
                Err(Undecodable) => return None,
            }
            if text.len() > ENOUGH {
                return None;
            }
        }
    }
    decoder.is_complete().then_some(text)
}

/// Frames of any making, cut by the first byte: the same comes out, as many bytes as went in unless
/// it sticks, and without a needle nothing is changed.
pub fn frames(data: &[u8]) {
    let [size, sent @ ..] = data else { return };
    let needles = [Trace::new(Secret::new("tokentoken".to_owned()))];
    let pass = |needles: &[Trace], size: usize| {
        let (mut frames, mut out) = (Frames::default(), BytesMut::new());
        for chunk in sent.chunks(size.max(1)) {
            frames.push(needles, Bytes::copy_from_slice(chunk), &mut out);
        }
        frames.finish(needles, &mut out);
        (out, frames.is_stuck())
    };
    assert!(pass(&[], usize::from(*size)) == (sent.into(), false));
    let (whole, is_stuck) = pass(&needles, sent.len());
    assert!(if is_stuck { whole.len() < sent.len() } else { whole.len() == sent.len() });
    assert!(pass(&needles, usize::from(*size)) == (whole, is_stuck));
}
