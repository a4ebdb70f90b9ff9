//! Heads of messages (RFC 9112 §2 to §5): a request's is written, an answer's is read.
//! Nothing is repaired; what an answer says about its length is judged here, before a byte
//! of its body is looked at (§6.3, threats 78 to 81).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, DATE, EXPECT, HOST, TRANSFER_ENCODING},
    request::Parts,
    response,
};

use super::{Coding, Decoder, Fault, MAX_HEAD};

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

/// What an answer's head says besides what the agent gets.
#[derive(Debug)]
pub struct Framing {
    pub decoder: Decoder,
    /// The peer keeps the connection.
    pub keeps: bool,
}

/// What a server takes of a request's head.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of it all.
    pub bytes: usize,
    pub fields: usize,
    /// Bytes of the request's target.
    pub target: usize,
}

/// A request's head, and what it says of the connection.
#[derive(Debug)]
pub struct Head {
    pub request: Request<()>,
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
    for (name, value) in &head.headers {
        if *name != HOST && *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING && *name != COOKIE {
            write_field(out, name, value);
        }
    }
    write_cookies(out, &head.headers);
    if coding != Coding::Length(0) || head.headers.contains_key(CONTENT_LENGTH) || expects_body(&head.method) {
        write_coding(out, coding);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_coding(out: &mut Vec<u8>, coding: Coding) {
    match coding {
        Coding::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Coding::Length(length) => write_field(out, &CONTENT_LENGTH, &HeaderValue::from(length)),
        Coding::UntilClose => {}
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
pub fn read_answer(read: &mut BytesMut, searched: &mut usize) -> Result<Option<Response<()>>, Fault> {
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
    *response.headers_mut() = header_map(&head, parsed.headers)?;
    Ok(Some(response))
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
    let (mut few, mut many);
    let fields = if limits.fields <= MAX_FIELDS {
        few = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        &mut few[..limits.fields]
    } else {
        many = vec![MaybeUninit::uninit(); limits.fields];
        &mut many[..]
    };
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(&head, fields) {
        Ok(httparse::Status::Complete(length)) if length == end => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLarge),
        _ => return Err(Fault::Malformed),
    }
    let target = target(parsed.path, limits)?;
    let mut request = Request::new(());
    *request.method_mut() =
        parsed.method.and_then(|method| Method::from_bytes(method.as_bytes()).ok()).ok_or(Fault::Malformed)?;
    *request.uri_mut() = Uri::from_maybe_shared(head.slice_ref(target.as_bytes())).map_err(|_| Fault::Malformed)?;
    *request.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.headers_mut() = header_map(&head, parsed.headers)?;
    let (fields, version) = (request.headers(), request.version());
    let decoder = length(fields, version)?.unwrap_or(Decoder::none());
    let keeps = if version == Version::HTTP_10 { names(fields, "keep-alive") } else { !names(fields, "close") };
    let withholds = version == Version::HTTP_11 && !decoder.is_done() && fields.contains_key(EXPECT);
    Ok(Some(Head { request, decoder, keeps, withholds }))
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
    for (name, value) in &head.headers {
        let is_framing = *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING;
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
    if !head.headers.contains_key(DATE) {
        date(out);
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
        Ok(httparse::Status::Complete((length, fields))) if length == end => header_map(&block, fields).map(Some),
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

/// Values share the head's memory.
fn header_map(head: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Fault> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Fault::Malformed)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| Fault::Malformed)?;
        map.append(name, value);
    }
    Ok(map)
}

impl Framing {
    /// Where an answer to `method` ends (RFC 9112 §6.3), if it says so in one way only.
    pub fn of(answer: &response::Parts, method: &Method) -> Result<Self, Fault> {
        let fields = &answer.headers;
        let decoder = length(fields, answer.version)?;
        let is_bodiless = *method == Method::HEAD
            || matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || answer.status.is_informational();
        let decoder = if is_bodiless { Decoder::none() } else { decoder.unwrap_or(Decoder::until_close()) };
        let keeps = match answer.version {
            Version::HTTP_10 => names(fields, "keep-alive"),
            _ => !names(fields, "close"),
        };
        Ok(Self { keeps: keeps && !decoder.ends_with_connection(), decoder })
    }
}

fn length(fields: &HeaderMap, version: Version) -> Result<Option<Decoder>, Fault> {
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(None),
        (Some(length), None) if lengths.next().is_none() => {
            decimal(length.as_bytes()).map(|l| Some(Decoder::length(l)))
        }
        (None, Some(coding))
            if codings.next().is_none()
                && version != Version::HTTP_10
                && coding.as_bytes().eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(Some(Decoder::chunked()))
        }
        _ => Err(Fault::Length),
    }
}

fn decimal(digits: &[u8]) -> Result<u64, Fault> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Length);
    }
    // No body is that long; whoever says so means to have it counted wrong.
    let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    length.filter(|length| i64::try_from(*length).is_ok()).ok_or(Fault::Length)
}

fn names(fields: &HeaderMap, option: &str) -> bool {
    let values = fields.get_all(CONNECTION).iter();
    let mut options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|named| named.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}
