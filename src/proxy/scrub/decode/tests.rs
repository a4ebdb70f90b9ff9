//! Codings, undone in pieces of any size.

use std::io::Write;

use flate2::{Compression, GzBuilder, write};
use http::HeaderValue;

use super::*;

const FOX: &str = "The quick brown fox jumps over the lazy dog. ";

/// Forty foxes, by Node's zlib.
const FOXES_IN_BROTLI: &[u8] = &[
    0x1b, 0x07, 0x07, 0x88, 0x2c, 0x0e, 0x78, 0xd3, 0xd0, 0x95, 0x5d, 0x97, 0x10, 0xbb, 0x17, 0x2b, 0xa9, 0xca, 0xd0,
    0x92, 0xcc, 0x8c, 0xad, 0x41, 0x5c, 0xe6, 0xf2, 0x36, 0xc8, 0x19, 0x9e, 0x9e, 0x0a, 0x7b, 0x83, 0x0d, 0x38, 0x70,
    0x48, 0x20, 0x6f, 0x24, 0xbf, 0x41, 0xa7, 0x15, 0xce, 0x1c, 0x1e, 0x27, 0xaa, 0x29, 0x38, 0xc2, 0xa9, 0x74, 0x9f,
    0x06, 0x03,
];

fn foxes() -> Vec<u8> {
    FOX.repeat(40).into_bytes()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
}

/// All that comes out, with chunks of `size` going in; and whether it may end there.
fn decode(coding: Coding, coded: &[u8], size: usize) -> Result<(Vec<u8>, bool), Undecodable> {
    let mut decoder = Decoder::new(coding);
    let mut text = Vec::new();
    for chunk in coded.chunks(size) {
        let mut input = Bytes::copy_from_slice(chunk);
        loop {
            let piece = decoder.next(&mut input)?;
            assert!(piece.len() <= PIECE);
            if piece.is_empty() {
                break;
            }
            text.extend_from_slice(&piece);
        }
        assert!(input.is_empty());
    }
    Ok((text, decoder.is_complete()))
}

#[test]
fn each_coding_is_undone_wherever_it_is_cut() {
    let deflated = |zlib| {
        let mut encoder: Box<dyn FnMut() -> Vec<u8>> = if zlib {
            Box::new(|| {
                let mut encoder = write::ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(&foxes()).unwrap();
                encoder.finish().unwrap()
            })
        } else {
            Box::new(|| {
                let mut encoder = write::DeflateEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(&foxes()).unwrap();
                encoder.finish().unwrap()
            })
        };
        encoder()
    };
    let coded = [
        (Coding::Gzip, gzip(&foxes())),
        (Coding::Deflate, deflated(true)),
        (Coding::Deflate, deflated(false)),
        (Coding::Brotli, FOXES_IN_BROTLI.to_vec()),
        (Coding::Zstd, zstd(&foxes())),
    ];
    for (coding, coded) in coded {
        for size in 1..=coded.len() {
            let (text, complete) = decode(coding, &coded, size).unwrap();
            assert_eq!((text, complete), (foxes(), true), "{coding:?} in chunks of {size}");
        }
        let (_, complete) = decode(coding, &coded[..coded.len() - 1], 7).unwrap();
        assert!(!complete, "{coding:?}");
        assert_eq!(decode(coding, b"", 1), Ok((Vec::new(), true)));
        assert_eq!(decode(coding, &[0xff; 64], 9), Err(Undecodable), "{coding:?}");
    }
}

#[test]
fn members_of_gzip_follow_each_other_with_all_that_a_head_may_have() {
    let full = GzBuilder::new().filename("a.txt").comment("a comment").extra(&b"extra"[..]).mtime(1);
    let mut full = full.write(Vec::new(), Compression::fast());
    full.write_all(b"one ").unwrap();
    let mut coded = full.finish().unwrap();
    // With a checksum of the head, which flate2 doesn't write.
    let mut checked = gzip(b"two");
    checked[3] |= 1 << 1;
    checked.splice(10..10, [0, 0]);
    coded.extend(checked);
    for padding in [&b""[..], &[0; 20]] {
        let coded = [&coded, padding].concat();
        for size in 1..=coded.len() {
            assert_eq!(decode(Coding::Gzip, &coded, size), Ok((b"one two".to_vec(), true)), "{size}");
        }
    }
}

/// Threat 82: each costs as much as one with a text, and nobody's pace slows them down.
#[test]
fn members_that_hold_nothing_end_somewhere() {
    assert_eq!(
        decode(Coding::Gzip, &[gzip(b"").repeat(200), gzip(b"text")].concat(), 100),
        Ok((b"text".to_vec(), true))
    );
    assert_eq!(decode(Coding::Gzip, &gzip(b"").repeat(1000), 1000), Err(Undecodable));
}

#[test]
fn a_wrong_checksum_is_found() {
    let mut coded = gzip(b"text");
    let checksum = coded.len() - 8;
    coded[checksum] ^= 1;
    assert_eq!(decode(Coding::Gzip, &coded, 4), Err(Undecodable));
}

/// Threat 82: what is small on the wire comes out in pieces, each when it is asked for.
#[test]
fn a_bomb_goes_off_slowly() {
    let zeros = vec![0; 32 * 1024 * 1024];
    for (coding, coded) in [(Coding::Gzip, gzip(&zeros)), (Coding::Zstd, zstd(&zeros))] {
        let mut decoder = Decoder::new(coding);
        let mut input = Bytes::from(coded);
        for _ in 0..100 {
            assert_eq!(decoder.next(&mut input).unwrap().len(), PIECE, "{coding:?}");
        }
    }
}

#[test]
fn what_was_flushed_comes_out_at_once() {
    let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
    let mut decoder = Decoder::new(Coding::Gzip);
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        encoder.write_all(event.as_bytes()).unwrap();
        encoder.flush().unwrap();
        let mut input = Bytes::from(std::mem::take(encoder.get_mut()));
        assert_eq!(decoder.next(&mut input).unwrap(), event);
        assert!(decoder.next(&mut input).unwrap().is_empty());
    }
}

#[test]
fn a_beginning_is_decoded_as_far_as_it_came() {
    let large = Semaphore::new(1);
    let begun = |coding: &'static str, body: &[u8], most: usize| {
        let fields = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding))]);
        beginning(&fields, &Bytes::copy_from_slice(body), most, &large)
    };
    let zipped = gzip(&foxes());
    let coded = [
        ("gzip", zipped.clone()),
        ("br", FOXES_IN_BROTLI.to_vec()),
        ("zstd", zstd(&foxes())),
        ("identity", foxes()),
        // Not known, or none at all.
        ("utf-8", foxes()),
    ];
    for (coding, body) in coded {
        assert_eq!(begun(coding, &body, 100), foxes()[..100], "{coding}");
        assert_eq!(begun(coding, &body, 10_000), foxes(), "{coding}");
        assert_eq!(begun(coding, b"", 100), "", "{coding}");
    }
    assert_eq!(begun("gzip", &zipped[..zipped.len() - 8], 10_000), foxes(), "its end is still to come");
    assert_eq!(begun("gzip", &[0xff; 64], 100), "");
    // Threat 82.
    assert_eq!(begun("gzip", &gzip(&vec![0; 1024 * 1024]), 20_000).len(), 20_000);
    let taken = large.try_acquire().unwrap();
    assert_eq!(begun("br", FOXES_IN_BROTLI, 100), "");
    assert_eq!(begun("gzip", &zipped, 3), "The");
    drop(taken);
    assert_eq!(begun("br", FOXES_IN_BROTLI, 3), "The");
}

#[test]
fn codings_are_read_from_the_field() {
    let of = |values: &[&'static str]| {
        let fields = values.iter().map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value))).collect();
        Coding::of(&fields)
    };
    assert_eq!(of(&[]), Ok(None));
    assert_eq!(of(&["identity"]), Ok(None));
    assert_eq!(of(&["X-GZip"]), Ok(Some(Coding::Gzip)));
    assert_eq!(of(&[" identity , br"]), Ok(Some(Coding::Brotli)));
    assert_eq!(of(&["zstd, gzip"]), Err(UnknownCoding));
    assert_eq!(of(&["deflate", "gzip"]), Err(UnknownCoding));
    assert_eq!(of(&["compress"]), Err(UnknownCoding));
}
