//! Frames cut anywhere, messages in any number of frames.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::primitives::Secret;

const TOKEN: &str = "t0ken-of-this-lease";

fn needles() -> Vec<Trace> {
    vec![Trace::new(Secret::new(TOKEN.to_owned()))]
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut frame = vec![first];
    match length {
        0..126 => frame.push(u8::try_from(length).unwrap()),
        126..65536 => frame.extend([&[126][..], &u16::try_from(length).unwrap().to_be_bytes()].concat()),
        _ => frame.extend([&[127][..], &(length as u64).to_be_bytes()].concat()),
    }
    frame.extend(payload);
    frame
}

/// What comes out for each chunk.
fn pass<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool) {
    let mut frames = Frames::default();
    let mut all = Vec::new();
    for chunk in chunks {
        let mut out = BytesMut::new();
        frames.push(&needles(), Bytes::copy_from_slice(chunk), &mut out);
        all.push(out.to_vec());
    }
    let mut out = BytesMut::new();
    frames.finish(&needles(), &mut out);
    all.push(out.to_vec());
    (all, frames.found)
}

#[test]
fn a_token_is_filled_in_one_frame_and_in_two() {
    let (one, two) = TOKEN.split_at(7);
    let ping = frame(0x89, b"ping");
    let sent = [frame(0x01, one.as_bytes()), ping.clone(), frame(0x00, b""), frame(0x80, two.as_bytes())].concat();
    let stars = "*".repeat(TOKEN.len());
    let clean = [frame(0x01, &[b'*'; 7]), ping, frame(0x00, b""), frame(0x80, &stars.as_bytes()[7..])].concat();
    for size in 1..=sent.len() {
        let (out, found) = pass(sent.chunks(size));
        assert_eq!((out.concat(), found), (clean.clone(), true), "in chunks of {size}");
    }
    // Two messages are two texts.
    let sent = [frame(0x81, one.as_bytes()), frame(0x81, two.as_bytes())].concat();
    assert_eq!(pass([&*sent]), (vec![sent, vec![]], false));
}

#[test]
fn a_message_that_is_over_waits_for_nothing() {
    for message in [frame(0x81, b"t0ken-of"), frame(0x82, &[b't'; 70_000]), frame(0x89, b"t"), frame(0x88, b"")] {
        assert_eq!(pass([&*message]), (vec![message, vec![]], false));
    }
    assert!(pass([&*frame(0x8a, TOKEN.as_bytes())]).1, "in a control frame, too");
    let cut_off = [&[0x89, 125][..], TOKEN.as_bytes()].concat();
    let (out, found) = pass([&*cut_off]);
    assert_eq!((out.concat(), found), ([&[0x89, 125][..], &[b'*'; TOKEN.len()]].concat(), true), "whole or not");
}

#[test]
fn what_is_no_frame_of_a_server_is_a_text_of_its_own() {
    let masked = [&[0x81, 0x82, 1, 2, 3, 4][..], b"hi"].concat();
    let extended = frame(0xc1, b"hi");
    let long_ping = frame(0x89, &[b'x'; 126]);
    for bytes in [masked, extended, long_ping, b"no frames at all".to_vec()] {
        let before = [frame(0x01, b"t0"), bytes].concat();
        assert_eq!(pass([&*before]).0.concat(), before);
        let sent = [before.clone(), frame(0x81, TOKEN.as_bytes()), b"end".to_vec()].concat();
        let clean = [before, frame(0x81, &[b'*'; TOKEN.len()]), b"end".to_vec()].concat();
        for size in 1..=sent.len() {
            let (out, found) = pass(sent.chunks(size));
            assert_eq!((out.concat(), found), (clean.clone(), true), "in chunks of {size}");
        }
    }
    // The beginning of the token doesn't pass for want of a frame.
    let (out, _) = pass([&*[frame(0x01, &TOKEN.as_bytes()[..12]), frame(0xc1, b"x"), frame(0x81, b"more")].concat()]);
    assert_eq!(out.concat(), [0x01, 12]);
}

#[test]
fn heads_without_end_do_not_pile_up() {
    let mut frames = Frames::default();
    let mut out = BytesMut::new();
    frames.push(&needles(), frame(0x01, &TOKEN.as_bytes()[..TOKEN.len() - 1]).into(), &mut out);
    for _ in 0..1000 {
        frames.push(&needles(), frame(0x8a, b"pong").into(), &mut out);
        assert!(frames.waiting.len() <= MOST_WAITING);
    }
    frames.finish(&needles(), &mut out);
    assert!(frames.is_stuck() && !out.windows(4).any(|part| part == b"t0ke"), "{out:?}");
}

proptest! {
    /// Whatever the frames and the cuts: each message is filled as one text.
    #[test]
    fn messages_come_out_clean(
        messages in proptest::collection::vec(proptest::collection::vec("(t0ken|-of-|this|-lease|t0ken-of-this-lease|[a-z]{0,200}){0,4}", 1..5), 1..4),
        size in 1usize..300,
    ) {
        let write = |texts: &[Vec<u8>]| -> Vec<u8> {
            let last = texts.len() - 1;
            let frames = texts.iter().enumerate().map(|(at, text)| {
                frame(u8::from(at == 0) | if at == last { 0x80 } else { 0 }, text)
            });
            frames.collect::<Vec<_>>().concat()
        };
        let (mut sent, mut clean) = (Vec::new(), Vec::new());
        for message in &messages {
            let texts: Vec<Vec<u8>> = message.iter().map(|text| text.as_bytes().to_vec()).collect();
            sent.extend(write(&texts));
            let mut whole = scrubbed(&needles(), &texts.concat());
            let filled: Vec<Vec<u8>> = texts.iter().map(|text| whole.split_to(text.len()).to_vec()).collect();
            clean.extend(write(&filled));
        }
        prop_assert_eq!(pass(sent.chunks(size)).0.concat(), clean);
    }
}

/// Without a token to look for, the stream is the stream.
#[tokio::test]
async fn an_unwatched_stream_is_read_and_written_as_it_is() {
    let (mut near, far) = tokio::io::duplex(64);
    let mut far = Screened::new(far, None);
    near.write_all(TOKEN.as_bytes()).await.unwrap();
    let mut read = vec![0; TOKEN.len()];
    far.read_exact(&mut read).await.unwrap();
    far.write_all(&read).await.unwrap();
    far.shutdown().await.unwrap();
    let mut back = String::new();
    near.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, TOKEN);
}
