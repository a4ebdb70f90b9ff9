//! Doors for the fuzz targets in `tests/fuzz`: the parsers of what servers say. Built for them
//! only (`cfg(fuzzing)`). Each asserts what has to hold for any bytes.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, StatusCode};

use super::{
    expiry,
    lease::field_value,
    metadata::Metadata,
    request::TokenRequest,
    response::{self, Answer},
    step::{AnswerFormat, BodyFormat},
};
use crate::primitives::Secret;

const CANARY: &str = "c4n4ry-s3cret";

/// The answer of a token endpoint: the first byte chooses the status and the format, the rest
/// is the body.
pub fn token_response(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    const STATUSES: [u16; 8] = [200, 201, 302, 400, 401, 403, 429, 503];
    let status = StatusCode::from_u16(STATUSES[usize::from(choice & 7)]).unwrap_or(StatusCode::OK);
    let format = if choice & 8 == 0 {
        AnswerFormat::default()
    } else {
        AnswerFormat {
            token: Some("/data/token".to_owned()),
            expires_at: Some("/expires_at".to_owned()),
            extra: vec![("api".to_owned(), "/instance_url".to_owned())],
            bearer: true,
            ..AnswerFormat::default()
        }
    };
    let mut request = TokenRequest::new("client_credentials", BodyFormat::Form, Method::POST);
    if request.set_secret("client_secret", &Secret::new(CANARY.to_owned())).is_err() {
        return;
    }
    let headers = HeaderMap::new();
    let answer = Answer { status, headers: &headers, body };
    match response::read(&answer, &format, &request, SystemTime::UNIX_EPOCH) {
        Ok(granted) => {
            assert!(status.is_success());
            let value = field_value(granted.token.expose());
            assert!(value.is_some_and(|value| !value.is_empty()), "a token that no field can hold");
            let unix_now = 1_800_000_000;
            let life = expiry::life(
                granted.life.expires_in.as_ref(),
                granted.token.expose(),
                unix_now,
                Duration::from_secs(60),
            );
            assert!(life > Duration::ZERO && life <= Duration::from_secs(30 * 24 * 3600));
            assert!(!granted.scope.unwrap_or_default().contains(CANARY));
        }
        Err(fault) => {
            let shown = format!("{} {:?}", fault.failure.describe(), fault.failure);
            assert!(!shown.contains(CANARY), "our secret in an error");
            assert!(!fault.failure.describe().contains(['\n', '\r', '\u{1b}']), "a forged line");
        }
    }
}

/// The metadata of an authorization server.
pub fn metadata(data: &[u8]) {
    let https = |text: &str| reqwest::Url::parse(text).ok().filter(|url| url.scheme() == "https");
    if let Ok(metadata) = Metadata::read(data, https) {
        for kind in super::EndpointKind::ALL {
            for mtls in [false, true] {
                assert!(metadata.url(kind, mtls).is_none_or(|url| url.scheme() == "https"));
            }
        }
        assert!(metadata.url(super::EndpointKind::Token, false).is_some());
    }
}

/// The dates in a token.
pub fn token_dates(data: &[u8]) {
    let Ok(token) = std::str::from_utf8(data) else { return };
    let life = expiry::life(None, token, 1_800_000_000, Duration::from_secs(60));
    assert!(life > Duration::ZERO && life <= Duration::from_secs(30 * 24 * 3600));
    let window = expiry::window(life, 0.5);
    assert!(window.refresh <= window.usable && window.usable <= life);
}
