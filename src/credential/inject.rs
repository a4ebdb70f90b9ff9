//! Where a token goes in a request and what stands around it: `Authorization: Bearer …`, or
//! what an API wants instead (`x-api-key`, GitHub's `Basic b64(x-access-token:{token})`).

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, header::AUTHORIZATION};
use zeroize::Zeroizing;

use crate::primitives::{Secret, Trace};

/// The field and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    pub field: HeaderName,
    pub template: Template,
}

/// Text, `{token}`, and `b64(…)` around either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Token,
    Base64(Vec<Piece>),
}

/// Why a template can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("`{{token}}` doesn't stand in it")]
    NoToken,
    #[error("a `b64(` has no `)`")]
    Open,
    #[error("`b64(` inside of another one")]
    Nested,
    #[error("a character that no header field has")]
    Character,
}

impl Default for Injection {
    /// RFC 6750 §2.1.
    fn default() -> Self {
        let pieces = vec![Piece::Text("Bearer ".to_owned()), Piece::Token];
        Self { field: AUTHORIZATION, template: Template { source: "Bearer {token}".to_owned(), pieces } }
    }
}

/// Texts shorter than this stand in answers by chance.
const SHORTEST_TRACE: usize = 8;
/// And this long is what is left of one at least when its padding goes.
const SHORTEST_TRIMMED: usize = 16;

impl Injection {
    /// What an answer holds that repeats the token: the token, what it is in the field where
    /// that is Base64, and both as JSON, URLs and HTML may spell them (threat 15).
    pub(crate) fn traces(&self, token: &Secret) -> Box<[Trace]> {
        let mut texts = vec![Zeroizing::new(token.expose().to_owned())];
        for piece in self.template.pieces.iter().filter(|piece| matches!(piece, Piece::Base64(_))) {
            texts.push(filled(std::slice::from_ref(piece), token));
        }
        texts.iter_mut().for_each(|text| trim_padding(text));
        let spellings: Vec<_> = texts.iter().flat_map(|text| spellings(text)).collect();
        for spelling in spellings {
            if !texts.contains(&spelling) {
                texts.push(spelling);
            }
        }
        texts.retain(|text| text.len() >= SHORTEST_TRACE);
        texts.into_iter().map(|mut text| Trace::new(Secret::new(std::mem::take(&mut *text)))).collect()
    }

    /// Whether the token goes where RFC 6750 has it.
    pub fn is_bearer(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Template ===

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(TemplateError::Character);
        }
        let pieces = pieces(text)?;
        let token = |piece: &Piece| match piece {
            Piece::Token => true,
            Piece::Base64(inner) => inner.contains(&Piece::Token),
            Piece::Text(_) => false,
        };
        if pieces.iter().any(token) {
            Ok(Self { source: text.to_owned(), pieces })
        } else {
            Err(TemplateError::NoToken)
        }
    }

    /// The field's value.
    pub(crate) fn fill(&self, token: &Secret) -> Secret {
        Secret::new(std::mem::take(&mut *filled(&self.pieces, token)))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("b64(") {
        push_plain(&mut pieces, &rest[..at]);
        let inner = &rest[at + 4..];
        let end = inner.find(')').ok_or(TemplateError::Open)?;
        if inner[..end].contains("b64(") {
            return Err(TemplateError::Nested);
        }
        let mut within = Vec::new();
        push_plain(&mut within, &inner[..end]);
        pieces.push(Piece::Base64(within));
        rest = &inner[end + 1..];
    }
    push_plain(&mut pieces, rest);
    Ok(pieces)
}

fn push_plain(pieces: &mut Vec<Piece>, text: &str) {
    for (number, part) in text.split("{token}").enumerate() {
        if number > 0 {
            pieces.push(Piece::Token);
        }
        if !part.is_empty() {
            pieces.push(Piece::Text(part.to_owned()));
        }
    }
}

fn filled(pieces: &[Piece], token: &Secret) -> Zeroizing<String> {
    let length = pieces.iter().map(|piece| length(piece, token)).sum();
    // Whole at once: a buffer that grows leaves copies behind that nobody zeroes.
    let mut out = Zeroizing::new(String::with_capacity(length));
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Token => out.push_str(token.expose()),
            Piece::Base64(inner) => STANDARD.encode_string(filled(inner, token).as_bytes(), &mut out),
        }
    }
    out
}

fn length(piece: &Piece, token: &Secret) -> usize {
    match piece {
        Piece::Text(text) => text.len(),
        Piece::Token => token.expose().len(),
        Piece::Base64(inner) => inner.iter().map(|piece| length(piece, token)).sum::<usize>().div_ceil(3) * 4,
    }
}

/// Each spelling of the padding begins with the text without it. A short text keeps its own:
/// less of it would stand in answers by chance.
fn trim_padding(text: &mut String) {
    let length = text.trim_end_matches('=').len();
    if length >= SHORTEST_TRIMMED {
        text.truncate(length);
    }
}

/// What Base64 and passwords hold and some encoders escape though they needn't.
const ESCAPED: [char; 7] = ['+', '/', '=', '<', '>', '&', '\''];

/// As others may write `text`, each in a way that encoders have; many are the same where it holds
/// little to escape, and a text without one of [`ESCAPED`] (a JWT) has two.
fn spellings(text: &str) -> Vec<Zeroizing<String>> {
    let json = spelled(text, |character| matches!(character, '"' | '\\'), |byte| format!("\\{}", char::from(byte)));
    let url = spelled(text, is_reserved, |byte| format!("%{byte:02X}"));
    let mut all = vec![json, url];
    if !text.contains(ESCAPED) {
        return all;
    }
    // A path keeps its `/`.
    let in_path = |character: char| character != '/' && is_reserved(character);
    all.push(spelled(text, is_reserved, |byte| format!("%{byte:02x}")));
    all.push(spelled(text, in_path, |byte| format!("%{byte:02X}")));
    all.push(spelled(text, in_path, |byte| format!("%{byte:02x}")));
    all.push(spelled(&all[0], |character| character == '/', |_| "\\/".to_owned()));
    // .NET escapes `+` and keeps `/`; Go and Gson write lower case.
    for kept in [None, Some('/')] {
        let is_escaped = |character: char| ESCAPED.contains(&character) && Some(character) != kept;
        all.push(spelled(&all[0], is_escaped, |byte| format!("\\u{byte:04X}")));
        all.push(spelled(&all[0], is_escaped, |byte| format!("\\u{byte:04x}")));
    }
    // Go and .NET escape `+`, templates in JavaScript the others, and the careful all.
    for escaped in [&['+'][..], &['/', '='], &['+', '/', '=']] {
        let is_escaped = |character: char| escaped.contains(&character);
        all.push(spelled(text, is_escaped, |byte| format!("&#{byte};")));
        all.push(spelled(text, is_escaped, |byte| format!("&#x{byte:X};")));
        all.push(spelled(text, is_escaped, |byte| format!("&#x{byte:x};")));
    }
    all
}

/// What URLs and forms escape (RFC 3986 §2.3).
fn is_reserved(character: char) -> bool {
    !(character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_' | '~'))
}

/// Most bytes that stand for one: `\u002F`, `&#x2F;`.
const LONGEST_ESCAPE: usize = 6;

/// `text` with the bytes of some characters escaped.
fn spelled(text: &str, is_escaped: impl Fn(char) -> bool, escape: impl Fn(u8) -> String) -> Zeroizing<String> {
    let escaped: usize = text.chars().filter(|character| is_escaped(*character)).map(char::len_utf8).sum();
    // Whole at once, as above.
    let mut out = Zeroizing::new(String::with_capacity(text.len() + (LONGEST_ESCAPE - 1) * escaped));
    for character in text.chars() {
        if is_escaped(character) {
            character.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| out.push_str(&escape(byte)));
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(template: &str, token: &str) -> Vec<String> {
        let template = Template::parse(template).unwrap();
        let traces = Injection { field: AUTHORIZATION, template }.traces(&Secret::new(token.to_owned()));
        traces.iter().map(|trace| trace.secret().expose().to_owned()).collect()
    }

    #[test]
    fn a_token_leaves_more_than_one_trace() {
        assert_eq!(traces("Bearer {token}", "eyJ.plain-token_1"), ["eyJ.plain-token_1"]);
        assert_eq!(traces("{token}", r#"a"b\cdefgh"#), [r#"a"b\cdefgh"#, r#"a\"b\\cdefgh"#, "a%22b%5Ccdefgh"]);
        assert_eq!(traces("Bearer {token}", "short"), [""; 0]);
    }

    #[test]
    fn the_padding_of_a_long_text_is_not_looked_for() {
        let basic = STANDARD.encode("me:a-password");
        assert_eq!(traces("Basic b64(me:{token})", "a-password"), ["a-password", basic.trim_end_matches('=')]);
        assert_eq!(traces("Bearer {token}", "sixteen-of-them.="), ["sixteen-of-them."]);
        let short = traces("Bearer {token}", "but-fifteen.xyz=");
        assert_eq!(short[..3], ["but-fifteen.xyz=", "but-fifteen.xyz%3D", "but-fifteen.xyz%3d"]);
        assert!(short.contains(&"but-fifteen.xyz&#x3D;".to_owned()), "{short:?}");
    }

    #[test]
    fn what_encoders_escape_is_looked_for_as_they_write_it() {
        let mut of_both = traces("Bearer {token}", "ya29/to+ken/of+an/API==");
        assert_eq!(of_both[0], "ya29/to+ken/of+an/API");
        of_both.sort_unstable();
        let mut wanted = [
            "ya29/to+ken/of+an/API",
            "ya29%2Fto%2Bken%2Fof%2Ban%2FAPI",
            "ya29%2fto%2bken%2fof%2ban%2fAPI",
            "ya29/to%2Bken/of%2Ban/API",
            "ya29/to%2bken/of%2ban/API",
            r"ya29\/to+ken\/of+an\/API",
            r"ya29\u002Fto\u002Bken\u002Fof\u002Ban\u002FAPI",
            r"ya29\u002fto\u002bken\u002fof\u002ban\u002fAPI",
            r"ya29/to\u002Bken/of\u002Ban/API",
            r"ya29/to\u002bken/of\u002ban/API",
            "ya29/to&#43;ken/of&#43;an/API",
            "ya29/to&#x2B;ken/of&#x2B;an/API",
            "ya29/to&#x2b;ken/of&#x2b;an/API",
            "ya29&#47;to+ken&#47;of+an&#47;API",
            "ya29&#x2F;to+ken&#x2F;of+an&#x2F;API",
            "ya29&#x2f;to+ken&#x2f;of+an&#x2f;API",
            "ya29&#47;to&#43;ken&#47;of&#43;an&#47;API",
            "ya29&#x2F;to&#x2B;ken&#x2F;of&#x2B;an&#x2F;API",
            "ya29&#x2f;to&#x2b;ken&#x2f;of&#x2b;an&#x2f;API",
        ];
        wanted.sort_unstable();
        assert_eq!(of_both, wanted);
        let mut of_one = traces("Bearer {token}", "a+token-of-an-API");
        of_one.sort_unstable();
        assert_eq!(
            of_one,
            [
                "a%2Btoken-of-an-API",
                "a%2btoken-of-an-API",
                "a&#43;token-of-an-API",
                "a&#x2B;token-of-an-API",
                "a&#x2b;token-of-an-API",
                "a+token-of-an-API",
                r"a\u002Btoken-of-an-API",
                r"a\u002btoken-of-an-API",
            ]
        );
        let of_a_password = traces("{token}", r#"it's <a "pass">&word"#);
        for spelling in [r#"it\u0027s \u003ca \"pass\"\u003e\u0026word"#, "it%27s%20%3Ca%20%22pass%22%3E%26word"] {
            assert!(of_a_password.iter().any(|trace| trace == spelling), "{spelling}: {of_a_password:?}");
        }
    }

    fn fill(template: &str) -> Result<String, TemplateError> {
        Template::parse(template).map(|template| template.fill(&Secret::new("t0ken".to_owned())).expose().to_owned())
    }

    #[test]
    fn the_token_goes_where_the_api_wants_it() {
        assert_eq!(fill("Bearer {token}").as_deref(), Ok("Bearer t0ken"));
        assert_eq!(fill("{token}").as_deref(), Ok("t0ken"));
        assert_eq!(fill("token={token};v=1").as_deref(), Ok("token=t0ken;v=1"));
        let basic = format!("Basic {}", STANDARD.encode("x-access-token:t0ken"));
        assert_eq!(fill("Basic b64(x-access-token:{token})").as_deref(), Ok(&*basic));
        assert_eq!(Injection::default().template, Template::parse("Bearer {token}").unwrap());
    }

    #[test]
    fn a_template_that_sends_no_token_or_breaks_a_header_is_refused() {
        assert_eq!(fill("Bearer"), Err(TemplateError::NoToken));
        assert_eq!(fill("Basic b64({token}"), Err(TemplateError::Open));
        assert_eq!(fill("b64(b64({token}))"), Err(TemplateError::Nested));
        assert_eq!(fill("{token}\r\nx: y"), Err(TemplateError::Character));
        assert_eq!(fill("ü{token}"), Err(TemplateError::Character));
    }
}
