//! Heads of messages (RFC 9112 §2 to §5): a request's is written, an answer's is read.
//! Nothing is repaired; what an answer says about its length is judged here, before a byte
//! of its body is looked at (§6.3, threats 78 to 81).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, COOKIE, DATE, HOST, TRANSFER_ENCODING},
    request::Parts,
    response,
};

use super::{Coding, Decoder, Fault, MAX_HEAD, Terms, used};

/// Fields of a head, and of trailers.
const MAX_FIELDS: usize = 100;

/// Bytes of trailers.
const MAX_TRAILERS: usize = 16 * 1024;

/// Empty lines before a request.
const MAX_EMPTY: usize = 8;

/// Up to so many bytes a head without its end is looked at each time that more of it comes.
const EARLY: usize = 4 * 1024;

/// Room for most heads.
const USUAL: usize = 512;

/// Fields that are added to a request's head on its way: a token, `Via` and what goes with a
/// body.
const ADDED: usize = 4;

/// … and to an answer's: `Via`.
const ADDED_TO_ANSWER: usize = 1;

/// What a server takes of a request's head.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of it all.
    pub bytes: usize,
    pub fields: usize,
    /// Bytes of the request's target.
    pub target: usize,
}

/// An answer's head, and what it says of its message and the connection.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<()>,
    pub terms: Terms,
}

/// A request's head, and what it says of the connection.
#[derive(Debug)]
pub struct Head {
    /// Boxed: it is handed on a dozen times.
    pub parts: Box<Parts>,
    pub decoder: Decoder,
    /// The peer wants to keep the connection.
    pub keeps: bool,
    /// The body comes only when it is asked for (RFC 9110 §10.1.1).
    pub withholds: bool,
}

/// Writes a request's head. Of its fields those that say where it goes and where it ends are
/// written anew: `host` is what was permitted, the length is the body's own.
pub fn write_request(out: &mut Vec<u8>, head: &Parts, host: &HeaderValue, coding: Coding) {
    out.reserve(USUAL);
    // `http://host?query` has a query and no path, which no request line can hold.
    let path = Some(head.uri.path()).filter(|path| !path.is_empty()).unwrap_or("/");
    let query = head.uri.query();
    let question = if query.is_some() { "?" } else { "" };
    for part in [head.method.as_str(), " ", path, question, query.unwrap_or(""), " HTTP/1.1\r\nhost: "] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(host.as_bytes());
    out.extend_from_slice(b"\r\n");
    let (mut has_length, mut has_cookies) = (false, false);
    for (name, value) in &head.headers {
        match Own::of(name) {
            None => write_field(out, name, value),
            Some(Own::Length) => has_length = true,
            Some(Own::Cookie) => has_cookies = true,
            Some(Own::Host | Own::Coding) => {}
        }
    }
    if has_cookies {
        write_cookies(out, &head.headers);
    }
    if coding != Coding::Length(0) || has_length || expects_body(&head.method) {
        write_coding(out, coding);
    }
    out.extend_from_slice(b"\r\n");
}

/// A field that isn't written as it came.
enum Own {
    Host,
    Length,
    Coding,
    Cookie,
}

impl Own {
    fn of(name: &HeaderName) -> Option<Self> {
        // By their lengths first: nearly all fields are none of these.
        match name.as_str().len() {
            4 if *name == HOST => Some(Self::Host),
            6 if *name == COOKIE => Some(Self::Cookie),
            14 if *name == CONTENT_LENGTH => Some(Self::Length),
            17 if *name == TRANSFER_ENCODING => Some(Self::Coding),
            _ => None,
        }
    }
}

fn write_coding(out: &mut Vec<u8>, coding: Coding) {
    match coding {
        Coding::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Coding::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Coding::UntilClose => {}
    }
}

fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] += (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[first..]);
        }
    }
}

/// An h2 client may cut its cookies into as many fields (RFC 9113 §8.2.3).
fn write_cookies(out: &mut Vec<u8>, fields: &HeaderMap) {
    let mut before = "cookie: ";
    for crumb in fields.get_all(COOKIE) {
        out.extend_from_slice(std::mem::replace(&mut before, "; ").as_bytes());
        out.extend_from_slice(crumb.as_bytes());
    }
    if before == "; " {
        out.extend_from_slice(b"\r\n");
    }
}

pub fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.reserve(name.as_str().len() + value.len() + 4);
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Servers want to hear of a length even where it is none (RFC 9110 §8.6).
fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Takes an answer's head off the front of `read`, once it is there whole. `searched`: how far
/// its end was looked for already.
pub fn read_answer(read: &mut BytesMut, searched: &mut usize) -> Result<Option<Answer>, Fault> {
    let Some(end) = end_of_head(read, searched) else {
        return if read.len() > MAX_HEAD { Err(Fault::TooLarge) } else { Ok(None) };
    };
    if end > MAX_HEAD {
        return Err(Fault::TooLarge);
    }
    *searched = 0;
    let head = read.split_to(end).freeze();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, &head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == end => {}
        Ok(_) => return Err(Fault::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLarge),
        Err(_) => return Err(Fault::Malformed),
    }
    let mut response = Response::new(());
    *response.status_mut() = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Fault::Malformed)?;
    *response.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut fields = used::map(parsed.headers.len() + ADDED_TO_ANSWER);
    fill(&mut fields, &head, parsed.headers)?;
    *response.headers_mut() = fields;
    Ok(Some(Answer { response, terms: Terms::of(parsed.headers) }))
}

/// Takes a request's head off the front of `read`, once it is there whole; see
/// [`read_answer`].
pub fn read_request(read: &mut BytesMut, searched: &mut usize, limits: Limits) -> Result<Option<Head>, Fault> {
    // Empty lines before a request are no part of it (RFC 9112 §2.2).
    let mut empty = 0;
    while read.starts_with(b"\r\n") {
        read.advance(2);
        *searched = 0;
        empty += 1;
        if empty > MAX_EMPTY {
            return Err(Fault::Malformed);
        }
    }
    let Some(end) = end_of_head(read, searched) else {
        return if read.len() > limits.bytes { Err(too_large(read, limits)) } else { may_be_one(read).map(|()| None) };
    };
    if end > limits.bytes {
        return Err(too_large(read, limits));
    }
    *searched = 0;
    let head = read.split_to(end).freeze();
    let mut few = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut many = Vec::new();
    let fields = if limits.fields <= MAX_FIELDS {
        &mut few[..limits.fields]
    } else {
        many.resize_with(limits.fields, MaybeUninit::uninit);
        &mut many[..]
    };
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(&head, fields) {
        Ok(httparse::Status::Complete(length)) if length == end => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLarge),
        _ => return Err(Fault::Malformed),
    }
    let target = target(parsed.path, limits)?;
    let mut parts = used::head(parsed.headers.len() + ADDED);
    parts.method =
        parsed.method.and_then(|method| Method::from_bytes(method.as_bytes()).ok()).ok_or(Fault::Malformed)?;
    parts.uri = Uri::from_maybe_shared(head.slice_ref(target.as_bytes())).map_err(|_| Fault::Malformed)?;
    parts.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    fill(&mut parts.headers, &head, parsed.headers)?;
    let (terms, version) = (Terms::of(parsed.headers), parts.version);
    let decoder = terms.decoder(version)?.unwrap_or(Decoder::none());
    let withholds = version == Version::HTTP_11 && !decoder.is_done() && terms.expects();
    Ok(Some(Head { parts, decoder, keeps: terms.keeps(version), withholds }))
}

fn target(sent: Option<&str>, limits: Limits) -> Result<&str, Fault> {
    let target = sent.ok_or(Fault::Malformed)?;
    match target.len() > limits.target {
        true => Err(Fault::TargetTooLong),
        // The parser of URIs would drop a fragment: what is decided on has to be all that was sent.
        false if target.contains('#') => Err(Fault::Malformed),
        false => Ok(target),
    }
}

/// Who speaks another protocol would wait for an answer, and we for the end of a head.
fn may_be_one(read: &[u8]) -> Result<(), Fault> {
    if read.len() > EARLY {
        return Ok(());
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::Request::new(&mut fields).parse(read) {
        // Too many for us may be few enough for who sets the limit.
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Ok(()),
        Err(_) => Err(Fault::Malformed),
    }
}

/// Which part of a head is too long.
fn too_large(read: &[u8], limits: Limits) -> Fault {
    let line = memchr::memchr(b'\n', read).unwrap_or(read.len());
    let method = memchr::memchr(b' ', read).unwrap_or(line);
    if line.saturating_sub(method) > limits.target { Fault::TargetTooLong } else { Fault::TooLarge }
}

/// Writes an answer's head. `coding`: `None` where the answer has no body, whatever its fields
/// say of the one that it would have. `connection`: what it says of the connection. `date`: for
/// an answer without one (RFC 9110 §6.6.1).
pub fn write_answer(
    out: &mut Vec<u8>,
    head: &response::Parts,
    coding: Option<Coding>,
    connection: Option<&str>,
    date: impl FnOnce(&mut Vec<u8>),
) {
    out.reserve(USUAL);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut has_date = false;
    for (name, value) in &head.headers {
        let is_framing = matches!(Own::of(name), Some(Own::Length | Own::Coding));
        has_date |= *name == DATE;
        if !(is_framing && coding.is_some()) {
            write_field(out, name, value);
        }
    }
    if let Some(coding) = coding {
        write_coding(out, coding);
    }
    if let Some(option) = connection {
        for part in ["connection: ", option, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    if !has_date {
        date(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim answer (RFC 9110 §15.2).
pub fn write_interim(out: &mut Vec<u8>, status: StatusCode, fields: &HeaderMap) {
    for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or(""), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in fields {
        write_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Takes trailers off the front of `read` like a head.
pub fn read_trailers(read: &mut BytesMut, searched: &mut usize) -> Result<Option<HeaderMap>, Fault> {
    let end = if read.starts_with(b"\r\n") { Some(2) } else { end_of_head(read, searched) };
    let Some(end) = end else {
        return if read.len() > MAX_TRAILERS { Err(Fault::TooLarge) } else { Ok(None) };
    };
    *searched = 0;
    let block = read.split_to(end).freeze();
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(&block, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == end => {
            let mut trailers = HeaderMap::with_capacity(fields.len());
            fill(&mut trailers, &block, fields)?;
            Ok(Some(trailers))
        }
        _ => Err(Fault::Malformed),
    }
}

/// Past the empty line. A bare LF ends a line, too (RFC 9112 §2.2): a head that has them isn't
/// waited for; what leaves has CR LF.
fn end_of_head(read: &[u8], searched: &mut usize) -> Option<usize> {
    let mut from = *searched;
    while let Some(at) = memchr::memchr(b'\n', &read[from..]) {
        let next = from + at + 1;
        match read.get(next..) {
            Some([b'\n', ..]) => return Some(next + 1),
            Some([b'\r', b'\n', ..]) => return Some(next + 2),
            Some([] | [b'\r']) | None => {
                *searched = from + at;
                return None;
            }
            Some(_) => from = next,
        }
    }
    *searched = read.len();
    None
}

/// All but what is the connection's and said in full by [`Terms`]. Values share the head's
/// memory.
fn fill(map: &mut HeaderMap, head: &Bytes, fields: &[httparse::Header<'_>]) -> Result<(), Fault> {
    for field in fields.iter().filter(|field| !Terms::hold_all_of(field)) {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Fault::Malformed)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| Fault::Malformed)?;
        map.append(name, value);
    }
    Ok(())
}
