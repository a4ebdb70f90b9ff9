//! Heads of messages (RFC 9112 §2 to §5): a request's is written, an answer's is read.
//! Nothing is repaired; what an answer says about its length is judged here, before a byte
//! of its body is looked at (§6.3, threats 78 to 81).

use bytes::{Buf, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, COOKIE, DATE, HOST, TE, TRANSFER_ENCODING},
    request::Parts,
    response,
};

use super::{Coding, Decoder, Fault, MAX_HEAD, Terms, lines::Lines, parse, used};

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
            Some(Own::Te) => {
                write_field(out, name, value);
                // Else a server's own proxy might pass it on (RFC 9110 §10.1.4).
                out.extend_from_slice(b"connection: te\r\n");
            }
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
    Te,
}

impl Own {
    fn of(name: &HeaderName) -> Option<Self> {
        // By their lengths first: nearly all fields are none of these.
        match name.as_str().len() {
            2 if *name == TE => Some(Self::Te),
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
    if read.is_empty() {
        return Ok(None);
    }
    let mut lines = Lines::default();
    let Some(end) = lines.find_end(read, searched) else {
        return if read.len() > MAX_HEAD { Err(Fault::TooLarge) } else { Ok(None) };
    };
    if end > MAX_HEAD {
        return Err(Fault::TooLarge);
    }
    let head = read.split_to(end).freeze();
    let Some((version, status)) = first_line(&head, &mut lines).and_then(parse::status_line) else {
        return Err(Fault::Malformed);
    };
    let mut response = Response::new(());
    (*response.version_mut(), *response.status_mut()) = (version, status);
    *response.headers_mut() = used::map(lines.left().min(MAX_FIELDS) + ADDED_TO_ANSWER);
    let terms = parse::fields(head, &mut lines, MAX_FIELDS, response.headers_mut())?;
    Ok(Some(Answer { response, terms }))
}

/// Takes a request's head off the front of `read`, once it is there whole; see
/// [`read_answer`].
pub fn read_request(read: &mut BytesMut, searched: &mut usize, limits: Limits) -> Result<Option<Head>, Fault> {
    if read.is_empty() {
        return Ok(None);
    }
    skip_empty_lines(read, searched)?;
    let mut lines = Lines::default();
    let Some(end) = lines.find_end(read, searched) else {
        return match read.len() {
            length if length > limits.bytes => Err(too_large(read, limits)),
            length if length <= EARLY && !parse::may_begin(read) => Err(Fault::Malformed),
            _ => Ok(None),
        };
    };
    if end > limits.bytes {
        return Err(too_large(read, limits));
    }
    let head = read.split_to(end).freeze();
    let Some((method, target, version)) = first_line(&head, &mut lines).and_then(parse::request_line) else {
        return Err(Fault::Malformed);
    };
    if target.len() > limits.target {
        return Err(Fault::TargetTooLong);
    }
    // The parser of URIs would drop a fragment: what is decided on has to be all that was sent.
    if target.contains(&b'#') {
        return Err(Fault::Malformed);
    }
    let mut parts = used::head(lines.left().min(limits.fields) + ADDED);
    parts.method = Method::from_bytes(method).map_err(|_| Fault::Malformed)?;
    parts.uri = Uri::from_maybe_shared(head.slice_ref(target)).map_err(|_| Fault::Malformed)?;
    parts.version = version;
    let terms = parse::fields(head, &mut lines, limits.fields, &mut parts.headers)?;
    let decoder = terms.decoder(version)?.unwrap_or(Decoder::none());
    let withholds = version == Version::HTTP_11 && !decoder.is_done() && terms.expects();
    Ok(Some(Head { parts, decoder, keeps: terms.keeps(version), withholds }))
}

/// Empty lines before a request are no part of it (RFC 9112 §2.2).
fn skip_empty_lines(read: &mut BytesMut, searched: &mut usize) -> Result<(), Fault> {
    let mut empty = 0;
    while read.starts_with(b"\r\n") {
        read.advance(2);
        *searched = 0;
        empty += 1;
        if empty > MAX_EMPTY {
            return Err(Fault::Malformed);
        }
    }
    Ok(())
}

/// One that is empty may come before it.
fn first_line<'h>(head: &'h [u8], lines: &mut Lines) -> Option<&'h [u8]> {
    let mut line = lines.take(head)?;
    if line.is_empty() {
        line = lines.take(head)?;
    }
    Some(&head[line])
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
    if read.starts_with(b"\r\n") {
        read.advance(2);
        *searched = 0;
        return Ok(Some(HeaderMap::new()));
    }
    let mut lines = Lines::default();
    let Some(end) = lines.find_end(read, searched) else {
        return if read.len() > MAX_TRAILERS { Err(Fault::TooLarge) } else { Ok(None) };
    };
    if end > MAX_TRAILERS {
        return Err(Fault::TooLarge);
    }
    let mut trailers = HeaderMap::with_capacity(lines.left().min(MAX_FIELDS));
    parse::fields(read.split_to(end).freeze(), &mut lines, MAX_FIELDS, &mut trailers).map_err(|_| Fault::Malformed)?;
    Ok(Some(trailers))
}
