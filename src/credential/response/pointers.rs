//! Answers that aren't RFC 6749's: what we want of them stands where the config says.

use serde_json::Value;
use zeroize::Zeroize;

use crate::primitives::Secret;

use super::{super::step::AnswerFormat, Body};

/// `None`: no JSON object.
pub(super) fn read(text: &[u8], format: &AnswerFormat) -> Option<Body> {
    let mut answer = Wiped(serde_json::from_slice(text).ok()?);
    if !answer.0.is_object() {
        return None;
    }
    let extra =
        format.extra.iter().filter_map(|(name, pointer)| Some((name.clone(), shown(answer.0.pointer(pointer)?)?)));
    let mut body = Body { extra: extra.collect(), ..Body::default() };
    let mut take = |pointer: &Option<String>, standard: &str| {
        answer.0.pointer_mut(pointer.as_deref().unwrap_or(standard)).map(Value::take).filter(|value| !value.is_null())
    };
    let secret = |value: Option<Value>| match value {
        Some(Value::String(text)) => Some(Secret::new(text)),
        Some(_) | None => None,
    };
    body.access_token = secret(take(&format.token, "/access_token"));
    body.refresh_token = secret(take(&format.refresh_token, "/refresh_token"));
    body.id_token = secret(take(&None, "/id_token"));
    body.token_type = take(&format.token_type, "/token_type");
    body.expires_in = take(&format.expires_in, "/expires_in");
    body.expires_at = format.expires_at.as_ref().and_then(|pointer| take(&Some(pointer.clone()), ""));
    body.scope = take(&format.scope, "/scope");
    body.issued_token_type = take(&None, "/issued_token_type");
    body.error = take(&format.error, "/error");
    body.error_description = take(&format.error_description, "/error_description");
    body.interval = take(&None, "/interval");
    Some(body)
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A document whose strings are zeroed when it goes: there may be secrets in it that nobody
/// asked for.
pub(crate) struct Wiped(pub(crate) Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_stand_where_the_config_says() {
        let format = AnswerFormat {
            token: Some("/data/token".to_owned()),
            expires_at: Some("/data/ends".to_owned()),
            extra: vec![("api".to_owned(), "/instance_url".to_owned())],
            ..AnswerFormat::default()
        };
        let text = br#"{"data":{"token":"t","ends":"2027-01-15T08:00:00Z"},"instance_url":"https://x","scope":"a"}"#;
        let body = read(text, &format).unwrap();
        assert_eq!(body.access_token.as_ref().map(Secret::expose), Some("t"));
        assert_eq!(body.expires_at, Some("2027-01-15T08:00:00Z".into()));
        assert_eq!(body.scope, Some("a".into()));
        assert_eq!(body.extra, [("api".to_owned(), "https://x".to_owned())]);
        assert!(read(b"[]", &format).is_none() && read(b"", &format).is_none());
        assert!(read(b"{}", &format).unwrap().access_token.is_none());
    }
}
