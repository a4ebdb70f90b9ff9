//! `application/x-www-form-urlencoded` as a strict reader takes it (RFC 6749 app. B).

/// The parameters in their order, repeated ones too. `None` where an escape is broken
/// or the text isn't UTF-8.
pub(super) fn parse(body: &str) -> Option<Vec<(String, String)>> {
    body.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

/// One name or value: `+` is a space, `%XX` a byte.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(out).ok()
}

/// The parameters as a query.
pub(super) fn encode(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        escape(name, &mut out);
        out.push('=');
        escape(value, &mut out);
    }
    out
}

fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_and_broken_ones_refused() {
        let pairs = parse("a=1+2&b=%26%3D%25%C3%A4&a=&c").unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "1 2"), ("b", "&=%ä"), ("a", ""), ("c", "")]);
        for broken in ["a=%", "a=%2", "a=%zz", "a=%ff"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = encode(&[("a b", "&=%ä+"), ("c", "")]);
        let read = parse(&written).unwrap();
        assert_eq!(read, [("a b".to_owned(), "&=%ä+".to_owned()), ("c".to_owned(), String::new())]);
    }
}
