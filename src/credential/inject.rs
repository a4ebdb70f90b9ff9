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

impl Injection {
    /// What an answer holds that repeats the token: the token, what it is in the field where
    /// that is Base64, and both as JSON and URLs may spell them (threat 15).
    pub(crate) fn traces(&self, token: &Secret) -> Box<[Trace]> {
        let mut texts = vec![Zeroizing::new(token.expose().to_owned())];
        for piece in self.template.pieces.iter().filter(|piece| matches!(piece, Piece::Base64(_))) {
            texts.push(filled(std::slice::from_ref(piece), token));
        }
        let spellings = texts.iter().flat_map(|text| [in_json(text), text.replace('/', "\\/").into(), in_url(text)]);
        let spellings: Vec<Zeroizing<String>> = spellings.collect();
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

/// As JSON writes it (RFC 8259 §7), without the quotes.
fn in_json(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(2 * text.len()));
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// As URLs and forms write it (RFC 3986 §2.1).
fn in_url(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(3 * text.len()));
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => {
                let digit = |half: u8| char::from(b"0123456789ABCDEF"[usize::from(half)]);
                out.extend(['%', digit(other >> 4), digit(other & 0xf)]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_more_than_one_trace() {
        let traces = |template: &str, token: &str| -> Vec<String> {
            let template = Template::parse(template).unwrap();
            let traces = Injection { field: AUTHORIZATION, template }.traces(&Secret::new(token.to_owned()));
            traces.iter().map(|trace| trace.secret().expose().to_owned()).collect()
        };
        assert_eq!(traces("Bearer {token}", "eyJ.plain-token_1"), ["eyJ.plain-token_1"]);
        assert_eq!(
            traces("Bearer {token}", "ya29/to+ken=="),
            ["ya29/to+ken==", r"ya29\/to+ken==", "ya29%2Fto%2Bken%3D%3D"]
        );
        assert_eq!(traces("{token}", r#"a"b\cdefgh"#), [r#"a"b\cdefgh"#, r#"a\"b\\cdefgh"#, "a%22b%5Ccdefgh"]);
        let basic = STANDARD.encode("me:a-password");
        assert_eq!(traces("Basic b64(me:{token})", "a-password"), ["a-password", &basic, &basic.replace('=', "%3D")]);
        assert_eq!(traces("Bearer {token}", "short"), [""; 0]);
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
