//! Requests and answers over HTTP/1.1, in chunks of the first byte's size: cuts make no
//! difference, and nothing comes of a message that has failed once.

#![no_main]

use bytes::BytesMut;
use cupbearer::http1::{
    Decoded, Decoder, Framing,
    head::{self, Answer, Head, Limits},
};
use http::Method;

const LIMITS: Limits = Limits { bytes: 4096, fields: 20, target: 1000 };

/// What a message was understood as, and how much is behind it.
#[derive(Debug, PartialEq, Eq)]
struct Understood {
    head: String,
    body: Vec<u8>,
    trailers: String,
    behind: usize,
}

struct Input<'d> {
    read: BytesMut,
    rest: &'d [u8],
    size: usize,
}

impl Input<'_> {
    fn more(&mut self) -> bool {
        let (now, later) = self.rest.split_at(self.size.min(self.rest.len()));
        self.rest = later;
        self.read.extend_from_slice(now);
        !now.is_empty()
    }
}

fn request(input: &mut Input<'_>) -> Option<(String, Decoder)> {
    let mut searched = 0;
    loop {
        match head::read_request(&mut input.read, &mut searched, LIMITS).ok()? {
            Some(Head { parts, decoder, keeps, withholds }) => {
                return Some((format!("{parts:?} {keeps} {withholds}"), decoder));
            }
            None if input.more() => {}
            None => return None,
        }
    }
}

fn answer(input: &mut Input<'_>) -> Option<(String, Decoder)> {
    let mut searched = 0;
    loop {
        match head::read_answer(&mut input.read, &mut searched).ok()? {
            Some(Answer { response, terms }) => {
                let (status, version) = (response.status(), response.version());
                let Framing { decoder, keeps } = terms.framing(status, version, &Method::GET).ok()?;
                return Some((format!("{response:?} {keeps}"), decoder));
            }
            None if input.more() => {}
            None => return None,
        }
    }
}

fn understood(is_request: bool, data: &[u8], size: usize) -> Option<Understood> {
    let mut input = Input { read: BytesMut::new(), rest: data, size };
    let (head, mut decoder) = if is_request { request(&mut input)? } else { answer(&mut input)? };
    let (mut body, mut trailers) = (Vec::new(), String::new());
    loop {
        match decoder.decode(&mut input.read) {
            Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
            Ok(Decoded::Trailers(fields)) => trailers = format!("{fields:?}"),
            Ok(Decoded::End) => break,
            Ok(Decoded::More) if input.more() => {}
            Ok(Decoded::More) => decoder.end_of_connection().ok()?,
            Err(_) => {
                input.read.extend_from_slice(b"\r\n0\r\n\r\n");
                assert!(decoder.decode(&mut input.read).is_err(), "a second life");
                return None;
            }
        }
    }
    Some(Understood { head, body, trailers, behind: input.read.len() + input.rest.len() })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [choice, size, message @ ..] = data else { return };
    // How many empty lines there may be before a request is counted by reads.
    if message.starts_with(b"\r\n") {
        return;
    }
    let is_request = choice % 2 == 0;
    let whole = understood(is_request, message, message.len().max(1));
    let cut = understood(is_request, message, usize::from(*size).max(1));
    assert_eq!(whole, cut);
});
