//! Another parser's opinion on the same heads. What it takes and what it refuses was the measure
//! before there was one of our own.

use bytes::{Buf, BytesMut};
use http::{Method, Uri};
use proptest::{prelude::*, sample::Index};

use super::*;
use crate::http1::head::{self, Limits};

const LIMITS: Limits = Limits { bytes: 4096, fields: 100, target: 1000 };

/// What a head says, or `None` where its end hasn't come.
type Opinion<T> = Result<Option<T>, ()>;

type Asked = (Method, Uri, Version, HeaderMap);
type Answered = (Version, StatusCode, HeaderMap);

const FIRST_LINES: [&str; 14] = [
    "GET / HTTP/1.1",
    "POST /a/b?c=d&e HTTP/1.0",
    "GET http://h:80/a?b HTTP/1.1",
    "CONNECT h:443 HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "M-SEARCH /\u{e4} HTTP/1.1",
    "GET  / HTTP/1.1",
    "GET /a b HTTP/1.1",
    "HTTP/1.1 200 OK",
    "HTTP/1.0 404 Not\t\u{e4} Found",
    "HTTP/1.1 100 ",
    "HTTP/1.1 999",
    "HTTP/1.1 099 No",
    "",
];

const FIELDS: [&str; 16] = [
    "Host: h",
    "host:h:80",
    "Content-Length: 12 ",
    "CONTENT-TYPE:\t text/plain \t",
    "Connection: Keep-Alive",
    "connection: close, x",
    "Connection: close",
    "Set-Cookie: a=b; c",
    "set-cookie: d=\u{e4}",
    "x-none:",
    "x-space: \t ",
    "!#$%&'*+-.^_`|~09az: all of a token",
    "space : x",
    " folded",
    ": nameless",
    "no colon",
];

/// Those that mean something, most of the time.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![4 => prop::sample::select(&b"\r\n\r\n \t:#?/\0\x01\x1f\x7f\x80\xc3\xa4\xffHh1"[..]), 1 => any::<u8>()]
}

/// A head, or nearly, or its beginning.
fn head() -> impl Strategy<Value = Vec<u8>> {
    let end = || prop_oneof![6 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
    let field = (prop::sample::select(&FIELDS[..]), end());
    let lines = (prop::sample::select(&FIRST_LINES[..]), end(), prop::collection::vec(field, 0..8), 0..3_usize);
    let edits = prop::collection::vec((any::<Index>(), 0..3_usize, byte()), 0..4);
    (lines, edits, prop::option::weighted(0.3, any::<Index>())).prop_map(|(lines, edits, cut)| {
        let (first, end, fields, empty) = lines;
        let mut head = ["", "\r\n", "\n"][empty].as_bytes().to_vec();
        [first, end].into_iter().for_each(|part| head.extend_from_slice(part.as_bytes()));
        for part in fields.into_iter().flat_map(|(field, end)| [field, end]).chain(["\r\n"]) {
            head.extend_from_slice(part.as_bytes());
        }
        for (at, edit, byte) in edits {
            let at = at.index(head.len());
            head.splice(at..at + [0, 1, 1][edit], (edit < 2).then_some(byte));
        }
        cut.map(|cut| cut.index(head.len() + 1)).into_iter().for_each(|cut| head.truncate(cut));
        head
    })
}

/// Past the first empty line.
fn end(read: &[u8]) -> Option<usize> {
    (1..read.len()).find_map(|at| match read[at - 1..] {
        [b'\n', b'\n', ..] => Some(at + 1),
        [b'\n', b'\r', b'\n', ..] => Some(at + 2),
        _ => None,
    })
}

/// What comes of a complete head has to end where we say so; what doesn't is waited for, unless
/// it is known to be none.
fn judged<T>(read: &[u8], parsed: httparse::Result<usize>, told: impl FnOnce() -> Option<T>) -> Result<Option<T>, ()> {
    match (parsed, end(read)) {
        (Ok(httparse::Status::Complete(length)), Some(end)) if length == end => told().ok_or(()).map(Some),
        (Ok(httparse::Status::Partial), None) => Ok(None),
        _ => Err(()),
    }
}

fn map(fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for field in fields {
        let is = |value: &str| field.value.eq_ignore_ascii_case(value.as_bytes());
        if !(field.name.eq_ignore_ascii_case("connection") && (is("close") || is("keep-alive"))) {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            map.append(name, HeaderValue::from_bytes(field.value).ok()?);
        }
    }
    Some(map)
}

fn their_request(mut read: &[u8]) -> Opinion<Asked> {
    while read.starts_with(b"\r\n") {
        read.advance(2);
    }
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(read);
    judged(read, parsed, || {
        let target = request.path.filter(|target| !target.contains('#'))?;
        let version = [Version::HTTP_10, Version::HTTP_11][usize::from(request.version?)];
        Some((request.method?.parse().ok()?, target.parse().ok()?, version, map(request.headers)?))
    })
}

fn our_request(read: &[u8]) -> Opinion<Asked> {
    match head::read_request(&mut BytesMut::from(read), &mut 0, LIMITS) {
        Ok(Some(head)) => Ok(Some((head.parts.method, head.parts.uri, head.parts.version, head.parts.headers))),
        Ok(None) => Ok(None),
        // Of framing they know nothing.
        Err(Fault::Length) => their_request(read),
        Err(_) => Err(()),
    }
}

fn their_answer(read: &[u8]) -> Opinion<Answered> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut answer = httparse::Response::new(&mut fields);
    let parsed = answer.parse(read);
    // Nobody else than an agent is waited for in vain.
    if end(read).is_none() {
        return Ok(None);
    }
    judged(read, parsed, || {
        let version = [Version::HTTP_10, Version::HTTP_11][usize::from(answer.version?)];
        Some((version, StatusCode::from_u16(answer.code?).ok()?, map(answer.headers)?))
    })
}

fn our_answer(read: &[u8]) -> Opinion<Answered> {
    let answer = head::read_answer(&mut BytesMut::from(read), &mut 0).map_err(|_| ())?;
    Ok(answer.map(|answer| {
        let head = answer.response.into_parts().0;
        (head.version, head.status, head.headers)
    }))
}

fn their_trailers(read: &[u8]) -> Opinion<HeaderMap> {
    if read.starts_with(b"\r\n") {
        return Ok(Some(HeaderMap::new()));
    }
    if end(read).is_none() {
        return Ok(None);
    }
    let mut fields = [httparse::EMPTY_HEADER; 100];
    match httparse::parse_headers(read, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if Some(length) == end(read) => {
            map(fields).ok_or(()).map(Some)
        }
        _ => Err(()),
    }
}

fn our_trailers(read: &[u8]) -> Opinion<HeaderMap> {
    head::read_trailers(&mut BytesMut::from(read), &mut 0).map_err(|_| ())
}

/// Each byte of each part of a head; a chance might not come upon it.
#[test]
fn every_byte_is_judged_alike_everywhere() {
    for head in ["GET /a?b HTTP/1.1\r\nab: cd e\r\n\r\n", "HTTP/1.1 200 O K\r\nab: cd e\r\n\r\n", "ab: cd e\r\n\r\n"] {
        for (at, byte) in (0..head.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
            let mut read = head.as_bytes().to_vec();
            read[at] = byte;
            for read in [&read[..], &read[..=at]] {
                assert_eq!(our_request(read), their_request(read), "{:?}", read.escape_ascii().to_string());
                assert_eq!(our_answer(read), their_answer(read), "{:?}", read.escape_ascii().to_string());
                assert_eq!(our_trailers(read), their_trailers(read), "{:?}", read.escape_ascii().to_string());
            }
        }
    }
}

fn capitals(name: &str) -> String {
    let parts: Vec<_> = name.split('-').map(|part| part[..1].to_uppercase() + &part[1..]).collect();
    parts.join("-")
}

/// Names that are told by their bytes are the ones that they are.
#[test]
fn usual_names_are_what_they_are_called() {
    let usual = "accept accept-encoding accept-language authorization cache-control connection content-encoding \
                 content-length content-type cookie date etag host proxy-authorization server transfer-encoding \
                 user-agent vary via";
    for usual in usual.split(' ') {
        for spelled in [usual.into(), usual.to_uppercase(), capitals(usual)] {
            assert_eq!(name(spelled.as_bytes()), HeaderName::from_bytes(spelled.as_bytes()).ok(), "{spelled}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn two_parsers_are_of_one_mind(read in head()) {
        let shown = read.escape_ascii().to_string();
        prop_assert_eq!(our_request(&read), their_request(&read), "{}", &shown);
        prop_assert_eq!(our_answer(&read), their_answer(&read), "{}", &shown);
        prop_assert_eq!(our_trailers(&read), their_trailers(&read), "{}", &shown);
    }

    /// Wherever the line feeds are, and whatever is beside them.
    #[test]
    fn lines_end_where_a_plain_look_finds_them(
        read in prop::collection::vec(prop::sample::select(&b"\n\r\x0b\x09\x8a\x0ba\0\xff"[..]), 0..80),
    ) {
        let (mut lines, mut searched) = (Lines::default(), 0);
        let end = lines.find_end(&read, &mut searched);
        let ends = |at: usize| read[..at].ends_with(b"\n\n") || read[..at].ends_with(b"\n\r\n");
        prop_assert_eq!(end, (1..=read.len()).find(|at| ends(*at)));
        if let Some(end) = end {
            let plain = read[..end].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            let taken: Vec<_> = std::iter::from_fn(|| lines.take(&read)).map(|line| &read[line]).collect();
            let count = read[..end].iter().filter(|byte| **byte == b'\n').count() - 1;
            prop_assert_eq!(taken, plain.take(count).collect::<Vec<_>>());
        }
    }

    /// However a head comes, its lines are the same, noted or not.
    #[test]
    fn lines_are_found_in_pieces(lines in prop::collection::vec("[a-z:]{1,9}\r?\n", 1..60), cut in any::<Index>()) {
        let read = lines.concat() + "\r\n";
        let (mut found, mut searched) = (Lines::default(), 0);
        found.find_end(&read.as_bytes()[..cut.index(read.len())], &mut searched);
        let mut found = Lines::default();
        let end = found.find_end(read.as_bytes(), &mut searched);
        prop_assert_eq!(end, Some(read.len()));
        let taken: Vec<_> = std::iter::from_fn(|| found.take(read.as_bytes())).collect();
        let taken: Vec<_> = taken.into_iter().map(|line| &read[line]).collect();
        prop_assert_eq!(taken, lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>());
    }
}
