//! A token request while it is being put together: the grant fills in parameters, client
//! authentication adds its own, the endpoint writes it out (RFC 6749 §3.2 and App. B).
//! Knows no network.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use zeroize::Zeroizing;

use crate::primitives::Secret;

use super::{error::SettingsError, lease::field_value, step::BodyFormat};

/// Parameters, and how they are written.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    method: Method,
    params: Vec<(String, Secret)>,
    format: BodyFormat,
    authorization: Option<HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A JSON body that is no list of parameters.
    whole: Option<String>,
    /// What an error text must never show, in each spelling that was sent.
    secrets: Vec<Secret>,
}

impl TokenRequest {
    /// `grant_type` is empty for what is no token request.
    pub(crate) fn new(grant_type: &str, format: BodyFormat, method: Method) -> Self {
        let mut request = Self {
            method,
            params: Vec::new(),
            format,
            authorization: None,
            headers: Vec::new(),
            whole: None,
            secrets: Vec::new(),
        };
        if !grant_type.is_empty() {
            request.append("grant_type", grant_type);
        }
        request
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

    /// `Authorization: Bearer`, for what takes a token to give one.
    pub(crate) fn authorize_bearer(&mut self, token: &Secret) -> Result<(), SettingsError> {
        let value = field_value(&format!("Bearer {}", token.expose())).ok_or(SettingsError::NoFieldValue)?;
        self.authorize(value);
        self.hide(token.clone());
        Ok(())
    }

    /// Sets a field; one that is there already is replaced.
    pub(crate) fn header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
    }

    /// A JSON body instead of the parameters.
    pub(crate) fn whole_body(&mut self, json: String) {
        self.whole = Some(json);
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    pub(crate) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// `secret` and its form-encoded spelling will be cut out of error texts.
    pub(crate) fn hide(&mut self, secret: Secret) {
        self.secrets.push(Secret::new(form_encoded(secret.expose()).to_string()));
        self.secrets.push(secret);
    }

    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// `None`: there is nothing to send.
    pub(crate) fn content_type(&self) -> Option<HeaderValue> {
        if self.whole.is_some() {
            return Some(HeaderValue::from_static("application/json"));
        }
        if self.params.is_empty() {
            return None;
        }
        Some(HeaderValue::from_static(match self.format {
            BodyFormat::Form => "application/x-www-form-urlencoded",
            BodyFormat::Json => "application/json",
        }))
    }

    /// The body, zeroed when the last holder drops it.
    pub(crate) fn body(&self) -> Bytes {
        let text = match (&self.whole, self.format) {
            (Some(whole), _) => Zeroizing::new(whole.clone()),
            (None, _) if self.params.is_empty() => Zeroizing::default(),
            (None, BodyFormat::Form) => self.form(),
            (None, BodyFormat::Json) => self.json(),
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
        printable(&text, limit)
    }
}

/// Somebody else's words, fit for logs and terminals.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    text.chars().map(|char| if is_printable(char) { char } else { ' ' }).take(limit).collect()
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
        let mut request = TokenRequest::new("client_credentials", format, Method::POST);
        params.iter().for_each(|(name, value)| request.append(name, value));
        request
    }

    /// A1: the bytes.
    #[test]
    fn form_values_are_encoded() {
        let request = request(BodyFormat::Form, &[("scope", "a b"), ("x", "+&=% ä~*")]);
        assert_eq!(request.body(), "grant_type=client_credentials&scope=a+b&x=%2B%26%3D%25+%C3%A4%7E*");
        assert_eq!(request.content_type().unwrap(), "application/x-www-form-urlencoded");
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
