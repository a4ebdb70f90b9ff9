//! What the lines of a head say (RFC 9112 §3 to §5). Each byte is judged once: those of methods,
//! targets, names and values by the types that they become, the others here.

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Version,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING,
        CONTENT_LENGTH, CONTENT_TYPE, COOKIE, DATE, ETAG, HOST, PROXY_AUTHORIZATION, SERVER, TRANSFER_ENCODING,
        USER_AGENT, VARY, VIA,
    },
};

use super::{Fault, Terms, lines::Lines};

#[cfg(test)]
mod tests;

/// A request line's method and target, and its version. The target is what lies between the
/// first space and the version; that it has no spaces itself is for the parser of URIs to say.
pub(super) fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], Version)> {
    let (front, version) = line.split_last_chunk::<8>()?;
    let (b' ', front) = front.split_last()? else { return None };
    let method = find(b' ', front)?;
    Some((&front[..method], &front[method + 1..], self::version(*version)?))
}

/// Of a reason phrase nothing is kept (RFC 9112 §4); there may be none.
pub(super) fn status_line(line: &[u8]) -> Option<(Version, StatusCode)> {
    let (version, rest) = line.split_first_chunk()?;
    let ([b' ', code @ ..], reason) = rest.split_first_chunk::<4>()? else { return None };
    if !(matches!(reason, [] | [b' ', ..]) && is_text(reason)) {
        return None;
    }
    Some((self::version(*version)?, StatusCode::from_bytes(code).ok()?))
}

fn version(version: [u8; 8]) -> Option<Version> {
    match &version {
        b"HTTP/1.1" => Some(Version::HTTP_11),
        b"HTTP/1.0" => Some(Version::HTTP_10),
        _ => None,
    }
}

/// The rest of the lines: fields, at `most` so many. Into `map` goes all but what is the
/// connection's and said in full by [`Terms`]. Values share the head's memory.
pub(super) fn fields(mut head: Bytes, lines: &mut Lines, most: usize, map: &mut HeaderMap) -> Result<Terms, Fault> {
    if lines.left() > most {
        return Err(Fault::TooLarge);
    }
    let mut terms = Terms::unsaid();
    while let Some(line) = lines.take(&head) {
        let bytes = &head[line.clone()];
        let Some(colon) = find(b':', bytes) else { return Err(Fault::Malformed) };
        let Some(name) = name(&bytes[..colon]) else { return Err(Fault::Malformed) };
        let (from, to) = without_space(bytes, colon + 1);
        if terms.note(&name, &bytes[from..to]) {
            continue;
        }
        let (from, to) = (line.start + from, line.start + to);
        // The last one takes the head itself: each further owner is an atomic operation or two.
        let value = if lines.left() == 0 {
            head.truncate(to);
            head.advance(from);
            std::mem::take(&mut head)
        } else {
            head.slice(from..to)
        };
        let Ok(value) = HeaderValue::from_maybe_shared(value) else { return Err(Fault::Malformed) };
        map.append(name, value);
    }
    Ok(terms)
}

/// A field's name. Most are some of these, and spelled so: to tell them by their bytes costs a
/// quarter of what it takes to judge any name.
fn name(name: &[u8]) -> Option<HeaderName> {
    Some(match name {
        b"Accept" | b"accept" => ACCEPT,
        b"Accept-Encoding" | b"accept-encoding" => ACCEPT_ENCODING,
        b"Accept-Language" | b"accept-language" => ACCEPT_LANGUAGE,
        b"Authorization" | b"authorization" => AUTHORIZATION,
        b"Cache-Control" | b"cache-control" => CACHE_CONTROL,
        b"Connection" | b"connection" => CONNECTION,
        b"Content-Encoding" | b"content-encoding" => CONTENT_ENCODING,
        b"Content-Length" | b"content-length" => CONTENT_LENGTH,
        b"Content-Type" | b"content-type" => CONTENT_TYPE,
        b"Cookie" | b"cookie" => COOKIE,
        b"Date" | b"date" => DATE,
        b"ETag" | b"Etag" | b"etag" => ETAG,
        b"Host" | b"host" => HOST,
        b"Proxy-Authorization" | b"proxy-authorization" => PROXY_AUTHORIZATION,
        b"Server" | b"server" => SERVER,
        b"Transfer-Encoding" | b"transfer-encoding" => TRANSFER_ENCODING,
        b"User-Agent" | b"user-agent" => USER_AGENT,
        b"Vary" | b"vary" => VARY,
        b"Via" | b"via" => VIA,
        _ => return HeaderName::from_bytes(name).ok(),
    })
}

/// Where the first `byte` is, which is near: a call of `memchr` costs more.
fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let (words, rest) = bytes.as_chunks();
    for (number, word) in words.iter().enumerate() {
        // The top bit of each byte that was `byte`. Those behind the first may be wrong: it has
        // borrowed from them.
        let differ = u64::from_le_bytes(*word) ^ u64::from_ne_bytes([byte; 8]);
        let found = differ.wrapping_sub(ONES) & !differ & (ONES << 7);
        if found != 0 {
            return Some(number * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|other| *other == byte).map(|at| bytes.len() - rest.len() + at)
}

/// Where a value starts and ends: white space around it is no part of it (RFC 9112 §5).
fn without_space(line: &[u8], mut from: usize) -> (usize, usize) {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    while line.get(from).is_some_and(is_space) {
        from += 1;
    }
    let mut to = line.len();
    while to > from && is_space(&line[to - 1]) {
        to -= 1;
    }
    (from, to)
}

/// What values and reason phrases are made of.
fn is_text(bytes: &[u8]) -> bool {
    // Without an early return, so that it is vectorised.
    bytes.iter().fold(true, |is_text, byte| is_text & (*byte >= b' ' && *byte != 0x7f || *byte == b'\t'))
}

/// Whether a head may begin so. Who speaks another protocol would wait for an answer, and we
/// for the end of a head.
pub(super) fn may_begin(read: &[u8]) -> bool {
    let mut lines = read.strip_prefix(b"\n").unwrap_or(read).split(|byte| *byte == b'\n');
    let last = lines.next_back().unwrap_or_default();
    let mut whole = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let Some(first) = whole.next() else { return may_begin_request_line(last) };
    request_line(first).is_some_and(|(method, target, _)| is_token(method) && is_target(target))
        && whole.all(is_field)
        && may_begin_field(last)
}

fn may_begin_request_line(line: &[u8]) -> bool {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (method, target, version) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let may_begin_target = |target: &[u8]| target.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
    match (method, target, version) {
        (b"" | b"\r", None, _) => true,
        (_, None, _) => is_token(method),
        (_, Some(target), None) => is_token(method) && may_begin_target(target),
        (_, Some(target), Some(rest)) => {
            let is_version = |known: &[u8; 8]| known.starts_with(rest) || rest.strip_suffix(b"\r") == Some(known);
            is_token(method) && is_target(target) && [b"HTTP/1.0", b"HTTP/1.1"].into_iter().any(is_version)
        }
    }
}

fn may_begin_field(line: &[u8]) -> bool {
    match line.strip_suffix(b"\r") {
        Some(line) => line.is_empty() || is_field(line),
        None => line.is_empty() || is_token(line) || is_field(line),
    }
}

fn is_field(line: &[u8]) -> bool {
    let mut parts = line.splitn(2, |byte| *byte == b':');
    parts.next().is_some_and(is_token) && parts.next().is_some_and(is_text)
}

fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.iter().all(|byte| *byte > b' ' && *byte != 0x7f) && std::str::from_utf8(target).is_ok()
}

fn is_token(token: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !token.is_empty() && token.iter().all(is_tchar)
}
