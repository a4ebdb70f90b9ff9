//! Finds what looks like a secret written in the file, so that no problem shows it.
//! Works on the text and not on the parsed document: a line with a syntax error
//! may hold one too.

use super::problem::Span;

/// The values of keys that name a secret, wherever they are plain text.
pub(super) fn secret_spans(source: &str) -> Vec<Span> {
    source
        .match_indices('=')
        .filter(|(at, _)| names_a_secret(key_before(source, *at)))
        .filter_map(|(at, _)| value_after(source, at + 1))
        .collect()
}

/// Whether a key of this name probably holds a secret. `key` is a path under `tls`, but an
/// agent's own key where someone took `key_sha256` for it.
pub(super) fn names_a_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    ["secret", "password", "passwd", "passphrase", "api_key", "apikey", "private_key", "access_key"]
        .iter()
        .any(|part| key.contains(part))
        || key.ends_with("token")
        || matches!(key.as_str(), "key" | "bearer" | "authorization" | "assertion" | "client_assertion")
}

/// The text with every byte of `spans` but line breaks replaced by `*`: as long as before, so
/// that other spans still hold.
pub(super) fn apply(source: &str, spans: &[Span]) -> String {
    let mut out = String::with_capacity(source.len());
    for (at, character) in source.char_indices() {
        let hidden = !matches!(character, '\n' | '\r') && spans.iter().any(|span| span.contains(&at));
        if hidden {
            out.extend(std::iter::repeat_n('*', character.len_utf8()));
        } else {
            out.push(character);
        }
    }
    out
}

/// The last part of the key whose `=` is at `at`.
fn key_before(source: &str, at: usize) -> &str {
    let line = source[..at].trim_end_matches([' ', '\t']).trim_end_matches(['"', '\'']);
    let start = line
        .rfind(|character: char| !(character.is_ascii_alphanumeric() || matches!(character, '-' | '_')))
        .map_or(0, |before| before + line[before..].chars().next().map_or(1, char::len_utf8));
    &line[start..]
}

/// The plain value that begins at `from`; `None` for a table, whose own keys are looked at.
fn value_after(source: &str, from: usize) -> Option<Span> {
    let rest = source[from..].trim_start_matches([' ', '\t']);
    let start = source.len() - rest.len();
    let line_end = rest.find('\n').unwrap_or(rest.len());
    let length = if rest.starts_with('{') {
        return None;
    } else if rest.starts_with("\"\"\"") || rest.starts_with("'''") {
        rest[3..].find(&rest[..3]).map_or(rest.len(), |end| end + 6)
    } else if let Some(inner) = rest.strip_prefix('\'') {
        inner.find(['\'', '\n']).map_or(rest.len(), |end| (end + 2).min(line_end))
    } else if let Some(inner) = rest.strip_prefix('"') {
        quoted_length(inner).map_or(line_end, |end| (end + 2).min(line_end))
    } else if rest.starts_with('[') {
        rest.find(']').map_or(rest.len(), |end| end + 1)
    } else {
        line_end
    };
    (length > 0).then_some(start..start + length)
}

/// Where the basic string that goes on in `inner` ends, by its first unescaped quote.
fn quoted_length(inner: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'\n' => return None,
            b'"' if !escaped => return Some(at),
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(source: &str) -> String {
        apply(source, &secret_spans(source))
    }

    #[test]
    fn values_of_secret_keys_are_hidden_whatever_their_form() {
        assert_eq!(masked("client_secret = \"a\\\"b\" # c"), "client_secret = ****** # c");
        assert_eq!(masked("x = { secret = 'ab', id = 'c' }"), "x = { secret = ****, id = 'c' }");
        assert_eq!(masked("a.\"password\" = open sesame\nb = 1"), "a.\"password\" = ***********\nb = 1");
        assert_eq!(masked("GH_TOKEN = \"unclosed\nb = 1"), "GH_TOKEN = *********\nb = 1");
        assert_eq!(masked("secret = \"\"\"a\nb\"\"\"\nc = 1"), "secret = ****\n****\nc = 1");
        assert_eq!(masked("secret = 'é'"), "secret = ****");
    }

    #[test]
    fn tables_and_other_keys_stay() {
        for text in ["secret = { env = \"NAME\" }", "token_endpoint = \"https://a\"", "key_sha256 = \"00\"", "= ="] {
            assert_eq!(masked(text), text);
        }
    }
}
