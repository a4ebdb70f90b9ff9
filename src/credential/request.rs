//! A token request while it is being put together: the grant fills in parameters, client
//! authentication adds its own, the endpoint writes it out (RFC 6749 §3.2 and App. B).
//! Knows no network.

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::primitives::Secret;

use super::{error::SettingsError, grant::client_credentials::BodyFormat};

/// Parameters, and how they are written.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    params: Vec<(String, Secret)>,
    format: BodyFormat,
    authorization: Option<HeaderValue>,
    /// What an error text must never show, in each spelling that was sent.
    secrets: Vec<Secret>,
}

impl TokenRequest {
    pub(crate) fn new(grant_type: &str, format: BodyFormat) -> Self {
        let grant_type = ("grant_type".to_owned(), Secret::new(grant_type.to_owned()));
        Self { params: vec![grant_type], format, authorization: None, secrets: Vec::new() }
    }

    /// Adds a parameter; one that is there already is refused (A1).
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), SettingsError> {
        if self.params.iter().any(|(known, _)| known == name) {
            return Err(SettingsError::RepeatedParameter(name.to_owned()));
        }
        self.append(name, value);
        Ok(())
    }

    /// Adds a parameter that may repeat: `resource` (RFC 8707 §2).
    pub(crate) fn append(&mut self, name: &str, value: &str) {
        self.params.push((name.to_owned(), Secret::new(value.to_owned())));
    }

    /// Adds a parameter whose value is a secret.
    pub(crate) fn set_secret(&mut self, name: &str, value: &Secret) -> Result<(), SettingsError> {
        self.set(name, value.expose())?;
        self.hide(value.clone());
        Ok(())
    }

    pub(crate) fn authorize(&mut self, header: HeaderValue) {
        self.authorization = Some(header);
    }

    /// `secret` and its form-encoded spelling will be cut out of error texts.
    pub(crate) fn hide(&mut self, secret: Secret) {
        self.secrets.push(Secret::new(form_encoded(secret.expose()).to_string()));
        self.secrets.push(secret);
    }

    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    pub(crate) fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.format {
            BodyFormat::Form => "application/x-www-form-urlencoded",
            BodyFormat::Json => "application/json",
        })
    }

    /// The body, zeroed when the last holder drops it.
    pub(crate) fn body(&self) -> Bytes {
        let text = match self.format {
            BodyFormat::Form => self.form(),
            BodyFormat::Json => self.json(),
        };
        Bytes::from_owner(text)
    }

    fn form(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(self.capacity()));
        for (name, value) in &self.params {
            if !out.is_empty() {
                out.push('&');
            }
            push_encoded(&mut out, name);
            out.push('=');
            push_encoded(&mut out, value.expose());
        }
        out
    }

    /// A name that repeats becomes one array.
    fn json(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(self.capacity() * 2));
        for (at, (name, value)) in self.params.iter().enumerate() {
            if self.params[..at].iter().any(|(earlier, _)| earlier == name) {
                continue;
            }
            out.push(if at == 0 { '{' } else { ',' });
            push_json(&mut out, name);
            out.push(':');
            let more: Vec<&Secret> =
                self.params[at + 1..].iter().filter(|(later, _)| later == name).map(|(_, value)| value).collect();
            if more.is_empty() {
                push_json(&mut out, value.expose());
                continue;
            }
            out.push('[');
            push_json(&mut out, value.expose());
            for value in more {
                out.push(',');
                push_json(&mut out, value.expose());
            }
            out.push(']');
        }
        out.push('}');
        out
    }

    /// Enough for the worst encoding, so that the buffer never moves and leaves a copy.
    fn capacity(&self) -> usize {
        self.params.iter().map(|(name, value)| (name.len() + value.expose().len()) * 3 + 8).sum()
    }

    /// A server's words, fit for logs: our secrets cut out, control characters and what
    /// could forge a line gone, at most `limit` characters (threat 109).
    pub(crate) fn clean(&self, text: &str, limit: usize) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.expose(), "[secret]");
        }
        text.chars().map(|char| if is_printable(char) { char } else { ' ' }).take(limit).collect()
    }
}

/// Control characters, and the invisible ones that turn text around.
fn is_printable(char: char) -> bool {
    !char.is_control()
        && !matches!(char, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `application/x-www-form-urlencoded` (RFC 6749 App. B).
pub(crate) fn form_encoded(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 3));
    push_encoded(&mut out, text);
    out
}

fn push_encoded(out: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => {
                out.push('%');
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

fn push_json(out: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..='\u{1f}' => {
                let byte = u8::try_from(char).unwrap_or(0);
                out.push_str("\\u00");
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
            _ => out.push(char),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(format: BodyFormat, params: &[(&str, &str)]) -> TokenRequest {
        let mut request = TokenRequest::new("client_credentials", format);
        params.iter().for_each(|(name, value)| request.append(name, value));
        request
    }

    /// A1: the bytes.
    #[test]
    fn form_values_are_encoded() {
        let request = request(BodyFormat::Form, &[("scope", "a b"), ("x", "+&=% ä~*")]);
        assert_eq!(request.body(), "grant_type=client_credentials&scope=a+b&x=%2B%26%3D%25+%C3%A4%7E*");
        assert_eq!(request.content_type(), "application/x-www-form-urlencoded");
    }

    #[test]
    fn json_round_trips_and_repeats_as_an_array() {
        let odd = "q\"b\\c\n\u{1}ä";
        let request = request(BodyFormat::Json, &[("resource", "r1"), ("x", odd), ("resource", "r2")]);
        let read: serde_json::Value = serde_json::from_slice(&request.body()).unwrap();
        let wanted = serde_json::json!({"grant_type": "client_credentials", "resource": ["r1", "r2"], "x": odd});
        assert_eq!(read, wanted);
    }

    #[test]
    fn only_what_may_repeat_repeats() {
        let mut request = request(BodyFormat::Form, &[]);
        assert!(request.set("scope", "a").is_ok());
        assert!(matches!(request.set("scope", "b"), Err(SettingsError::RepeatedParameter(name)) if name == "scope"));
    }

    #[test]
    fn a_servers_words_are_cleaned() {
        let mut request = request(BodyFormat::Form, &[]);
        request.set_secret("client_secret", &Secret::new("p%+ ä".to_owned())).unwrap();
        let text = "bad\r\n\u{1b}[31m secret p%+ ä or p%25%2B+%C3%A4 \u{202e}";
        assert_eq!(request.clean(text, 200), "bad   [31m secret [secret] or [secret]  ");
        assert_eq!(request.clean(&"é".repeat(300), 200).chars().count(), 200);
        assert!(!format!("{request:?}").contains("p%+"), "{request:?}");
    }
}
