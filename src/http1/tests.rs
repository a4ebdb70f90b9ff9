//! What an answer's bytes mean, however they are cut.

use proptest::prelude::*;

use bytes::BytesMut;
use http::Method;

use super::{head::Answer, *};

/// Everything that a whole answer is, or why it isn't one. `cuts`: what each read brings.
fn understood(answer: &[u8], cuts: &[usize], method: &Method) -> Result<(u16, Vec<u8>, usize, usize), String> {
    let failed = |fault: Fault| format!("{fault:?}");
    let (mut read, mut searched) = (BytesMut::new(), 0);
    let mut rest = answer;
    let mut cuts = cuts.iter().copied().chain(std::iter::repeat(answer.len().max(1)));
    let mut more = |read: &mut BytesMut| {
        let (now, later) = rest.split_at(cuts.next().unwrap().clamp(1, rest.len().max(1)).min(rest.len()));
        rest = later;
        read.extend_from_slice(now);
        !now.is_empty()
    };
    let Answer { response, terms } = loop {
        match head::read_answer(&mut read, &mut searched).map_err(failed)? {
            Some(answer) => break answer,
            None if more(&mut read) => {}
            None => return Err("cut".into()),
        }
    };
    let mut decoder = terms.framing(response.status(), response.version(), method).map_err(failed)?.decoder;
    let (mut body, mut trailers) = (Vec::new(), 0);
    loop {
        match decoder.decode(&mut read).map_err(failed)? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::Trailers(fields) => trailers = fields.len(),
            Decoded::End => break,
            Decoded::More if more(&mut read) => {}
            Decoded::More => decoder.end_of_connection().map_err(failed)?,
        }
    }
    Ok((response.status().as_u16(), body, trailers, read.len() + rest.len()))
}

fn whole(answer: &[u8]) -> Result<(u16, Vec<u8>, usize, usize), String> {
    understood(answer, &[], &Method::GET)
}

fn chunked(body: &str) -> Result<Vec<u8>, String> {
    let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
    whole(answer.as_bytes()).map(|(_, body, ..)| body)
}

#[test]
fn an_answer_ends_where_it_says() {
    let is = |answer: &str, body: &str, surplus| {
        assert_eq!(whole(answer.as_bytes()), Ok((200, body.into(), 0, surplus)), "{answer:?}");
    };
    is("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokmore", "ok", 4);
    is("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore", "", 4);
    is("HTTP/1.1 200 OK\r\nContent-Length: 00000000000000000002\r\n\r\nok", "ok", 0);
    is("HTTP/1.1 200\r\n\r\nuntil it closes", "until it closes", 0);
    is("HTTP/1.0 200 OK\r\n\r\nuntil it closes", "until it closes", 0);
    is("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2;a=\"b\"\r\nok\r\n0\r\n\r\nmore", "ok", 4);
    let no_body = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
    assert_eq!(understood(no_body, &[], &Method::HEAD), Ok((200, vec![], 0, 0)));
    assert_eq!(whole(b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\nok"), Ok((204, vec![], 0, 2)));
    assert_eq!(whole(b"HTTP/1.1 304 No\r\ncontent-length: 2\r\n\r\nok"), Ok((304, vec![], 0, 2)));
    let trailed = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: 1\r\nb: 2\r\n\r\n";
    assert_eq!(whole(trailed), Ok((200, vec![], 2, 0)));
}

/// Said in full by what the head says of the connection, and by nobody else.
#[test]
fn options_of_the_connection_are_heard() {
    for (options, keeps, is_left) in [
        ("keep-alive", true, false),
        ("Keep-Alive", true, false),
        ("KEEP-ALIVE", true, false),
        ("Close", false, false),
        ("close ,\tx", false, true),
        ("keep-alive, x", true, true),
        ("", false, true),
    ] {
        let mut read = BytesMut::from(format!("HTTP/1.0 204 No\r\nConnection: {options}\r\n\r\n").as_str());
        let Answer { response, terms } = head::read_answer(&mut read, &mut 0).unwrap().unwrap();
        let framing = terms.framing(response.status(), response.version(), &Method::GET).unwrap();
        assert_eq!((framing.keeps, response.headers().contains_key("connection")), (keeps, is_left), "{options}");
    }
}

/// Of lines there can be more in an allowed head than any map has room for.
#[test]
fn heads_of_nothing_but_lines_are_too_large() {
    let limits = head::Limits { bytes: MAX_HEAD, fields: 100, target: 100 };
    let lines = |first: &str| BytesMut::from(format!("{first}{}\n", "a\n".repeat(25_000)).as_str());
    let request = head::read_request(&mut lines("GET / HTTP/1.1\n"), &mut 0, limits);
    assert!(matches!(request, Err(Fault::TooLarge)), "{request:?}");
    let answer = head::read_answer(&mut lines("HTTP/1.1 200 OK\n"), &mut 0);
    assert!(matches!(answer, Err(Fault::TooLarge)), "{answer:?}");
    let trailers = head::read_trailers(&mut lines(""), &mut 0);
    assert!(matches!(trailers, Err(Fault::TooLarge)), "{trailers:?}");
    let few = head::read_trailers(&mut BytesMut::from(format!("a: {}\n\n", "x".repeat(17_000)).as_str()), &mut 0);
    assert!(matches!(few, Err(Fault::TooLarge)), "they count as much when they come whole");
}

/// Threats 78, 80 and 81.
#[test]
fn what_could_be_read_in_two_ways_is_no_answer() {
    for fields in [
        "content-length: 2\r\ncontent-length: 2",
        "content-length: 2\r\ntransfer-encoding: chunked",
        "content-length: +2",
        "content-length: 2, 2",
        "content-length: 0x2",
        "content-length: 9223372036854775808",
        "content-length: 18446744073709551616",
        "content-length:",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: xchunked",
        " folded: x",
        "a: b\r\n folded",
        "name : x",
        "na me: x",
        "bare: a\rb",
        "nul: a\0b",
        ": x",
        "no colon",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok");
        assert!(whole(answer.as_bytes()).is_err(), "{fields:?}");
    }
    for line in
        ["HTTP/1.1 2000 OK", "HTTP/1.1 99 OK", "HTTP/2 200 OK", "HTTP/1.1 OK", "ICY 200 OK", "\0", "HTTP/1.1  200"]
    {
        assert!(whole(format!("{line}\r\n\r\n").as_bytes()).is_err(), "{line:?}");
    }
    assert!(whole(b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").is_err());
    assert!(whole(&[b'x'; MAX_HEAD + 1]).is_err_and(|error| error == "TooLarge"));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
    assert!(whole(many.as_bytes()).is_err_and(|error| error == "TooLarge"));
}

/// Threats 58 and 59, from the other side.
#[test]
fn a_chunk_size_is_digits_and_nothing_else() {
    assert_eq!(chunked("2\r\nok\r\n00\r\n\r\n").unwrap(), b"ok");
    assert_eq!(chunked("2 \t\r\nok\r\n0\r\n\r\n").unwrap(), b"ok");
    for body in [
        "0x2\r\nok\r\n0\r\n\r\n",
        "+2\r\nok\r\n0\r\n\r\n",
        "-2\r\nok\r\n0\r\n\r\n",
        "2_0\r\nok\r\n0\r\n\r\n",
        " 2\r\nok\r\n0\r\n\r\n",
        "\r\nok\r\n0\r\n\r\n",
        ";a\r\nok\r\n0\r\n\r\n",
        "2\nok\r\n0\r\n\r\n",
        "2\r\nok\n0\r\n\r\n",
        "2\r\nokay\r\n0\r\n\r\n",
        "2;a\rb\r\nok\r\n0\r\n\r\n",
        "2;a\0\r\nok\r\n0\r\n\r\n",
        "2 3\r\nok\r\n0\r\n\r\n",
        "10000000000000002\r\nok\r\n0\r\n\r\n",
        "2\r\nok\r\n0\r\nno colon\r\n\r\n",
        "2\r\nok\r\n",
        "2\r\no",
    ] {
        assert!(chunked(body).is_err(), "{body:?}");
    }
    assert!(chunked(&"0".repeat(17)).is_err_and(|error| error == "Malformed"), "not waited for");
    assert!(chunked(&format!("2;{}\r\nok\r\n0\r\n\r\n", "x".repeat(5000))).is_err());
    let extended = format!("1;{}\r\no\r\n", "x".repeat(1000)).repeat(17);
    assert!(chunked(&format!("{extended}0\r\n\r\n")).is_err_and(|error| error == "TooLarge"));
}

/// An error is the end: what comes behind it is no body, and no next request.
#[test]
fn after_an_error_nothing_is_understood() {
    for (body, behind) in [("0\r\nbad\r\n\r\n", "\r\n"), ("x\r\n", "0\r\n\r\n"), ("0\r\nxxxxx", "\r\n\r\n")] {
        let mut decoder = Decoder::chunked();
        let mut read = BytesMut::from(body);
        let first = decoder.decode(&mut read);
        read.extend_from_slice(behind.as_bytes());
        assert!(first.is_err() || decoder.decode(&mut read).is_err(), "{body:?}");
        read.extend_from_slice(b"\r\n");
        assert!(decoder.decode(&mut read).is_err() && decoder.has_failed(), "{body:?}");
    }
}

/// RFC 9110 §10.1.4: what is the connection's is named as such.
#[test]
fn te_leaves_as_the_connections() {
    let head = http::Request::get("/v1").header("te", "trailers").header("x-a", "1").body(()).unwrap().into_parts().0;
    let mut out = Vec::new();
    head::write_request(&mut out, &head, &http::HeaderValue::from_static("h"), Coding::Length(0));
    let out = String::from_utf8(out).unwrap();
    assert_eq!(out, "GET /v1 HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: te\r\nx-a: 1\r\n\r\n");
}

/// What is decided on as `/` leaves as `/`.
#[test]
fn a_request_line_has_a_path() {
    for (uri, line) in [
        ("http://h?x=1", "GET /?x=1 HTTP/1.1"),
        ("http://h", "GET / HTTP/1.1"),
        ("http://h?", "GET /? HTTP/1.1"),
        ("/a?b=/c", "GET /a?b=/c HTTP/1.1"),
    ] {
        let (mut head, ()) = http::Request::get(uri).body(()).unwrap().into_parts();
        head.uri = head.uri.path_and_query().cloned().unwrap().into();
        let mut out = Vec::new();
        head::write_request(&mut out, &head, &http::HeaderValue::from_static("h"), Coding::Length(0));
        assert_eq!(String::from_utf8(out).unwrap(), format!("{line}\r\nhost: h\r\n\r\n"), "{uri}");
    }
}

/// Threat 29.
#[test]
fn a_fragment_is_no_part_of_a_target() {
    let limits = head::Limits { bytes: 4096, fields: 10, target: 100 };
    for target in ["/a#b", "http://h/#", "h:443#x"] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: h\r\n\r\n");
        assert!(head::read_request(&mut request.as_str().into(), &mut 0, limits).is_err(), "{target}");
    }
}

/// However they are cut, empty lines before a request are no part of it.
#[test]
fn empty_lines_may_be_cut() {
    let limits = head::Limits { bytes: 4096, fields: 10, target: 100 };
    let (mut read, mut searched) = (BytesMut::from("\r"), 0);
    assert!(head::read_request(&mut read, &mut searched, limits).unwrap().is_none());
    read.extend_from_slice(b"\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert!(head::read_request(&mut read, &mut searched, limits).unwrap().is_some());
}

/// Empty lines cost nobody anything, and are counted.
#[test]
fn a_flood_of_empty_lines_is_no_request() {
    let limits = head::Limits { bytes: 4096, fields: 10, target: 100 };
    let few = "\r\n".repeat(3) + "GET / HTTP/1.1\r\n\r\n";
    assert!(head::read_request(&mut few.as_str().into(), &mut 0, limits).unwrap().is_some());
    let many = "\r\n".repeat(30);
    assert!(head::read_request(&mut many.as_str().into(), &mut 0, limits).is_err());
}

/// What a slow peer got already isn't kept.
#[tokio::test]
async fn a_slow_peer_costs_no_memory() {
    let (io, mut peer) = tokio::io::duplex(1000);
    let mut wire = Wire::new(io, 0);
    let mut outgoing = Outgoing::new(frames(10_000), Coding::Chunked);
    let mut read = vec![0; 700];
    loop {
        let done = std::future::poll_fn(|cx| std::task::Poll::Ready(outgoing.poll(cx, &mut wire).is_ready())).await;
        assert!(wire.out.capacity() < 256 * 1024, "{}", wire.out.capacity());
        if done {
            break;
        }
        tokio::io::AsyncReadExt::read(&mut peer, &mut read).await.unwrap();
    }
}

/// Threat 79: what came of an answer before it broke off arrives, and its end doesn't.
#[tokio::test]
async fn what_came_before_the_break_arrives() {
    let (io, mut peer) = tokio::io::duplex(1000);
    let mut wire = Wire::new(io, 0);
    wire.out.extend_from_slice(b"head ");
    let body = Pieces(vec![Err(std::io::ErrorKind::ConnectionReset.into()), Ok("half")]);
    let mut outgoing = Outgoing::patient(body, Coding::Length(9));
    assert!(std::future::poll_fn(|cx| outgoing.poll(cx, &mut wire)).await.is_err());
    let mut read = [0; 9];
    tokio::io::AsyncReadExt::read_exact(&mut peer, &mut read).await.unwrap();
    assert_eq!(&read, b"head half");
}

/// The last one first.
struct Pieces(Vec<Result<&'static str, std::io::Error>>);

impl http_body::Body for Pieces {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>> {
        std::task::Poll::Ready(self.0.pop().map(|piece| piece.map(|piece| http_body::Frame::data(piece.into()))))
    }
}

/// A body in many small frames, all at hand.
fn frames(frames: usize) -> Pieces {
    Pieces((0..frames).map(|_| Ok("nine hundred ninety-nine characters or so")).collect())
}

proptest! {
    /// However the bytes come, they mean the same.
    #[test]
    fn cuts_make_no_difference(
        body in proptest::collection::vec("[a-z\r\n]{0,40}", 0..6),
        coding in 0..3,
        spoil in proptest::option::of((0..400usize, any::<u8>())),
        cuts in proptest::collection::vec(1..30usize, 0..60),
    ) {
        let mut answer = match coding {
            0 => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}surplus", body.concat().len(), body.concat()),
            1 => format!("HTTP/1.1 200 OK\r\nx: y\r\n\r\n{}", body.concat()),
            _ => {
                let chunks = body.iter().filter(|chunk| !chunk.is_empty());
                let chunks: String = chunks.map(|chunk| format!("{:X};e\r\n{chunk}\r\n", chunk.len())).collect();
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\nt: u\r\n\r\nsurplus")
            }
        }
        .into_bytes();
        if let Some((at, byte)) = spoil {
            let at = at % answer.len();
            answer[at] = byte;
        }
        let (pieces, at_once) = (understood(&answer, &cuts, &Method::GET), whole(&answer));
        prop_assert_eq!(pieces.is_ok(), at_once.is_ok());
        if let (Ok(pieces), Ok(at_once)) = (pieces, at_once) {
            prop_assert_eq!(pieces, at_once);
        }
    }
}
