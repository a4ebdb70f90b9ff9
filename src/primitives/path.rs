//! The one canonical form of a request's path (threats 69 and 70, RFC 3986 §6.2.2).
//!
//! Percent-encoded unreserved characters are decoded and the hexadecimal digits of
//! the others are put in upper case; that form is decided on and forwarded. What two
//! servers could read in two ways (an encoded slash, a dot segment, `;`, `//` …) is
//! kept as it came but marked [`CanonicalPath::is_ambiguous`]: where rules look at
//! paths, such a request is refused.

use std::{borrow::Cow, fmt, sync::Arc};

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path doesn't start with `/`")]
    NotAbsolute,
    #[error("the path has a `%` that two hexadecimal digits don't follow")]
    PercentEncoding,
    #[error("the path holds a character that a path can't have")]
    Character,
}

/// A path without its query, in canonical form.
/// Cheap to clone: the record keeps one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CanonicalPath {
    text: Arc<str>,
    ambiguous: bool,
}

impl CanonicalPath {
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        // Once over all bytes: nearly every path is as it should be, and each request has one.
        let kinds = raw.bytes().fold(0, |kinds, byte| kinds | KINDS[usize::from(byte)]);
        if kinds & NONE != 0 {
            return Err(PathError::Character);
        }
        let text = if kinds & PERCENT == 0 { Cow::Borrowed(raw) } else { decode_unreserved(raw)? };
        let ambiguous = is_ambiguous(&text);
        Ok(Self { text: text.into(), ambiguous })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether two servers could disagree about which resource this names.
    pub fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }
}

/// In no path.
const NONE: u8 = 1;
const PERCENT: u8 = 2;
/// Servers read it in several ways.
const DOUBTFUL: u8 = 4;

/// What each byte is to a path.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            0..=b' ' | 0x7f.. | b'?' | b'#' => NONE,
            b'%' => PERCENT,
            b'\\' | b';' => DOUBTFUL,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

fn decode_unreserved(raw: &str) -> Result<Cow<'_, str>, PathError> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).ok_or(PathError::PercentEncoding)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PathError::PercentEncoding);
        }
        let byte = u8::from_str_radix(digits, 16).map_err(|_| PathError::PercentEncoding)?;
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&digits.to_ascii_uppercase());
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

fn is_ambiguous(canonical: &str) -> bool {
    let mut kinds = 0;
    // The segment that ends with each byte: nothing of it yet, `.`, `..`, or anything else.
    let (mut dots, mut is_other) = (0, false);
    for byte in canonical.bytes().skip(1) {
        if byte == b'/' {
            if !is_other && dots <= 2 {
                return true;
            }
            (dots, is_other) = (0, false);
            continue;
        }
        kinds |= KINDS[usize::from(byte)];
        if byte == b'.' { dots += 1 } else { is_other = true }
    }
    let ends_in_dots = !is_other && (dots == 1 || dots == 2);
    ends_in_dots || kinds & DOUBTFUL != 0 || (kinds & PERCENT != 0 && has_doubtful_encoding(canonical))
}

/// Whether something is encoded that servers read in several ways: a slash, a backslash, a percent
/// sign, a semicolon, a control, or what is no UTF-8, of which some make dots and slashes (overlong
/// forms) and others nothing.
fn has_doubtful_encoding(canonical: &str) -> bool {
    let mut parts = canonical.split('%');
    let mut decoded = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, text) = part.split_at_checked(2).unwrap_or((part, ""));
        let byte = u8::from_str_radix(digits, 16).unwrap_or(b'%');
        if matches!(byte, b'/' | b'\\' | b'%' | b';' | 0..=0x1f | 0x7f) {
            return true;
        }
        decoded.push(byte);
        decoded.extend_from_slice(text.as_bytes());
    }
    std::str::from_utf8(&decoded).is_err()
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(raw: &str) -> (String, bool) {
        match CanonicalPath::parse(raw) {
            Ok(path) => (path.to_string(), path.is_ambiguous()),
            Err(error) => panic!("{raw}: {error}"),
        }
    }

    #[test]
    fn unreserved_characters_are_decoded_and_the_rest_kept() {
        assert_eq!(canonical("/v1/orders"), ("/v1/orders".to_owned(), false));
        assert_eq!(canonical("/%7euser/%41"), ("/~user/A".to_owned(), false));
        assert_eq!(canonical("/caf%c3%a9"), ("/caf%C3%A9".to_owned(), false));
        assert_eq!(canonical("/a%20b"), ("/a%20b".to_owned(), false));
        assert_eq!(canonical("/dir/"), ("/dir/".to_owned(), false));
        assert_eq!(canonical("/"), ("/".to_owned(), false));
    }

    /// Threat 69.
    #[test]
    fn what_two_servers_could_read_differently_is_ambiguous() {
        let paths = [
            "/a/../b",
            "/a/..",
            "/./a",
            "/a/%2e%2e/b",
            "/a/%2E/b",
            "/a//b",
            "//a",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a;x=1",
            "/a%3bx",
            "/a%252fb",
            "/a%00",
            "/a%0d%0a",
            "/%c0%ae",
            "/%e0%80%ae%e0%80%ae%e0%80%afadmin",
            "/%f0%80%80%af",
            "/.%80./admin",
            "/caf%e9",
            "/%ed%a0%80",
            "/%c3",
            "/%c3/%a9",
            "/%ff",
            "/a%7f",
        ];
        for path in paths {
            assert!(canonical(path).1, "{path}");
        }
    }

    /// Segment by segment, as it was written first.
    fn is_plainly_ambiguous(canonical: &str) -> bool {
        let segments: Vec<_> = canonical[1..].split('/').collect();
        let (_, inner) = segments.split_last().unwrap();
        inner.contains(&"")
            || segments.iter().any(|segment| matches!(*segment, "." | "..") || segment.contains(['\\', ';']))
            || ["%2F", "%5C", "%25", "%3B", "%0", "%1", "%7F"].iter().any(|doubtful| canonical.contains(doubtful))
            || segments.iter().any(|segment| String::from_utf8(decoded(segment)).is_err())
    }

    fn decoded(text: &str) -> Vec<u8> {
        let mut bytes = text.bytes();
        let digit = |bytes: &mut std::str::Bytes<'_>| char::from(bytes.next().unwrap()).to_digit(16).unwrap() as u8;
        std::iter::from_fn(|| {
            let byte = bytes.next()?;
            Some(if byte == b'%' { digit(&mut bytes) * 16 + digit(&mut bytes) } else { byte })
        })
        .collect()
    }

    proptest::proptest! {
        #[test]
        fn one_look_tells_what_many_do(path in "/([a./;2Ff5C\\\\]|%[0-9a-f]{2}|%c3%a9|%e2%82%ac){0,8}") {
            if let Ok(path) = CanonicalPath::parse(&path) {
                proptest::prop_assert_eq!(path.is_ambiguous(), is_plainly_ambiguous(path.as_str()), "{}", path);
            }
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let refused = |raw| CanonicalPath::parse(raw).map(|path| path.to_string());
        assert_eq!(refused("a"), Err(PathError::NotAbsolute));
        assert_eq!(refused(""), Err(PathError::NotAbsolute));
        assert_eq!(refused("*"), Err(PathError::NotAbsolute));
        for raw in ["/%", "/%4", "/%zz", "/%+1"] {
            assert_eq!(refused(raw), Err(PathError::PercentEncoding), "{raw}");
        }
        for raw in ["/a b", "/a?b", "/a#b", "/é", "/a\u{7f}"] {
            assert_eq!(refused(raw), Err(PathError::Character), "{raw}");
        }
    }
}
