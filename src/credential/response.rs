//! Reads the answer of a token endpoint (RFC 6749 §5) and sorts it: a token, a refusal, an
//! outage, or nothing that can be used. The `error` string counts before the HTTP status,
//! for servers differ in their statuses (A14).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::primitives::Secret;

use super::{
    error::{Class, Failure, Fault, Misbehaviour, Outage, known_code},
    request::TokenRequest,
    step::AnswerFormat,
};

mod pointers;

pub(super) use pointers::Wiped;

/// No `Retry-After` holds us longer.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Longest text of a server that is kept, in characters.
const MAX_DETAIL: usize = 200;

/// An answer, whole.
pub(crate) struct Answer<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

/// What a token endpoint granted.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) token: Secret,
    pub(crate) kind: TokenKind,
    pub(crate) life: Life,
    /// As the server wrote it; `None`: as it was asked for (RFC 6749 §5.1).
    pub(crate) scope: Option<String>,
    /// Read, and used by no grant but those that expect one (A5).
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) id_token: Option<Secret>,
    /// RFC 8693 §2.2.1.
    pub(crate) issued_token_type: Option<String>,
    /// Until the refresh token ends unless it is used, and until the human has to log in
    /// again, in seconds, where the server says so (B5).
    pub(crate) refresh_life: (Option<u64>, Option<u64>),
    pub(crate) extra: Vec<(String, String)>,
}

/// What the server said of the token's end.
#[derive(Debug, Default)]
pub(crate) struct Life {
    pub(crate) expires_in: Option<Value>,
    pub(crate) expires_at: Option<SystemTime>,
}

/// How a token is sent (RFC 6749 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Bearer,
    /// Bound to a key (RFC 9449 §5).
    Dpop,
    /// To nobody: it is an input of the next step (RFC 8693 §2.2.1, ID-JAG).
    NotApplicable,
}

/// Members that we don't know are ignored, those given twice are refused.
#[derive(Default, Deserialize)]
struct Body {
    #[serde(default, deserialize_with = "secret")]
    access_token: Option<Secret>,
    token_type: Option<Value>,
    expires_in: Option<Value>,
    #[serde(skip)]
    expires_at: Option<Value>,
    scope: Option<Value>,
    #[serde(default, deserialize_with = "secret")]
    refresh_token: Option<Secret>,
    #[serde(default, deserialize_with = "secret")]
    id_token: Option<Secret>,
    issued_token_type: Option<Value>,
    #[serde(alias = "refresh_expires_in", alias = "refresh_token_expires_in")]
    refresh_token_timeout: Option<Value>,
    authorization_expires_in: Option<Value>,
    error: Option<Value>,
    error_description: Option<Value>,
    /// Between two polls, with `slow_down` (Auth0).
    interval: Option<Value>,
    #[serde(skip)]
    extra: Vec<(String, String)>,
}

/// Sorts an answer. `wall` is the time now, for dates in headers.
pub(crate) fn read(
    answer: &Answer<'_>,
    format: &AnswerFormat,
    request: &TokenRequest,
    wall: SystemTime,
) -> Result<Granted, Fault> {
    let status = answer.status;
    if status.is_redirection() {
        return Err(Fault::protocol(Misbehaviour::Redirect(status.as_u16())));
    }
    // serde_json's own message may quote what it read: it is dropped.
    let body = if *format == AnswerFormat::default() {
        serde_json::from_slice::<Body>(answer.body).ok()
    } else {
        pointers::read(answer.body, format)
    };
    if let Some(body) = &body
        && let Some(Value::String(code)) = &body.error
    {
        return Err(refusal(answer, code, body, request, wall));
    }
    if is_retryable(status) {
        return Err(Fault::outage(Outage::Status(status.as_u16()), wait(answer.headers, status, wall)));
    }
    if status != StatusCode::OK && status != StatusCode::CREATED {
        return Err(Fault::protocol(Misbehaviour::Status(status.as_u16())));
    }
    grant(body.ok_or_else(|| Fault::protocol(Misbehaviour::NotJson))?, format, request)
}

/// What an answer says that is no success, whatever endpoint it is from.
pub(crate) fn failed(answer: &Answer<'_>, request: &TokenRequest, wall: SystemTime) -> Fault {
    match read(answer, &AnswerFormat::default(), request, wall) {
        Err(fault) => fault,
        Ok(_) => Fault::protocol(Misbehaviour::Status(answer.status.as_u16())),
    }
}

fn grant(body: Body, format: &AnswerFormat, request: &TokenRequest) -> Result<Granted, Fault> {
    let token = body.access_token.filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| Fault::protocol(Misbehaviour::NoToken))?;
    // Every b64token is VCHAR, not the other way round; opaque tokens with `|` or `:` exist,
    // and any VCHAR is safe in a header (C3).
    if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::protocol(Misbehaviour::TokenCharacter));
    }
    let kind = kind(body.token_type, format, request)?;
    let scope = body.scope.and_then(scope_text).map(|text| request.clean(&text, LONGEST_SCOPE));
    let text = |value: Option<Value>| match value {
        Some(Value::String(text)) => Some(text),
        Some(_) | None => None,
    };
    let seconds = |value: Option<Value>| value.as_ref().and_then(whole_number);
    Ok(Granted {
        token,
        kind,
        life: Life { expires_in: body.expires_in, expires_at: body.expires_at.as_ref().and_then(moment) },
        scope,
        refresh_token: body.refresh_token.filter(|token| !token.is_empty()),
        id_token: body.id_token.filter(|token| !token.is_empty()),
        issued_token_type: text(body.issued_token_type),
        refresh_life: (seconds(body.refresh_token_timeout), seconds(body.authorization_expires_in)),
        extra: body.extra.into_iter().map(|(name, value)| (name, request.clean(&value, MAX_DETAIL))).collect(),
    })
}

fn kind(value: Option<Value>, format: &AnswerFormat, request: &TokenRequest) -> Result<TokenKind, Fault> {
    match value {
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("bearer") => Ok(TokenKind::Bearer),
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("dpop") => Ok(TokenKind::Dpop),
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("n_a") => Ok(TokenKind::NotApplicable),
        None | Some(Value::Null) if format.bearer => Ok(TokenKind::Bearer),
        None | Some(Value::Null) => Err(Fault::protocol(Misbehaviour::NoTokenType)),
        Some(Value::String(kind)) => Err(Fault::protocol(Misbehaviour::TokenType(request.clean(&kind, 40)))),
        Some(_) => Err(Fault::protocol(Misbehaviour::NotJson)),
    }
}

fn whole_number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// RFC 3339, or seconds or milliseconds since 1970: what is too large for the one is the other.
fn moment(value: &Value) -> Option<SystemTime> {
    const MILLISECONDS: u64 = 100_000_000_000;
    if let Some(number) = whole_number(value) {
        let since = if number >= MILLISECONDS { Duration::from_millis(number) } else { Duration::from_secs(number) };
        return SystemTime::UNIX_EPOCH.checked_add(since);
    }
    OffsetDateTime::parse(value.as_str()?.trim(), &Rfc3339).ok().map(SystemTime::from)
}

/// In characters. The scopes are shown to the operator; what is cut counts as not granted.
const LONGEST_SCOPE: usize = 16 * 1024;

/// Some servers write an array where RFC 6749 §3.3 has a space-separated list.
fn scope_text(scope: Value) -> Option<String> {
    match scope {
        Value::String(text) => Some(text),
        Value::Array(items) => Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

fn refusal(answer: &Answer<'_>, code: &str, body: &Body, request: &TokenRequest, wall: SystemTime) -> Fault {
    let description = body.error_description.as_ref().and_then(Value::as_str);
    let detail = request.clean(description.unwrap_or_default(), MAX_DETAIL);
    let status = answer.status;
    let known = known_code(code);
    let class =
        known.map_or_else(|| if is_retryable(status) { Class::Retryable } else { Class::Terminal }, |(_, class)| class);
    match class {
        Class::Terminal => {
            let code = known.map_or_else(|| request.clean(code, 64), |(code, _)| code.to_owned());
            Fault::terminal(Failure::Refused { code, detail })
        }
        Class::Retryable => {
            let code = known.map_or("oauth_error", |(code, _)| code);
            let outage = Outage::Refused { status: status.as_u16(), code, detail };
            let interval = body.interval.as_ref().and_then(whole_number).filter(|_| code == "slow_down");
            let interval = interval.map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT));
            Fault::outage(outage, wait(answer.headers, status, wall).max(interval))
        }
    }
}

/// The statuses of the table in standards 1.A, and those that proxies before a server make
/// up (520-530).
pub(crate) fn is_retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=599)
}

/// How long the server wants us to wait: `Retry-After` in seconds or as a date (RFC 9110
/// §10.2.3), else `X-RateLimit-Reset` in unix time where the limit was hit.
pub(crate) fn wait(headers: &HeaderMap, status: StatusCode, wall: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let until = |time: SystemTime| time.duration_since(wall).unwrap_or_default();
    let after = text(RETRY_AFTER.as_str()).and_then(|value| match value.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok().map(until),
    });
    let reset = || {
        let limited = status == StatusCode::TOO_MANY_REQUESTS;
        let seconds = limited.then(|| text("x-ratelimit-reset")).flatten()?.parse().ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).map(until)
    };
    after.or_else(reset).map(|wait| wait.min(MAX_WAIT))
}

/// A string as a [`Secret`], with no copy in between that outlives it.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Option<Secret>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(Secret::new(text.to_owned())))
        }

        fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
            Ok(Some(Secret::new(text)))
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::credential::{error::Retry, step::BodyFormat};

    const WALL: u64 = 1_800_000_000;

    fn wall() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(WALL)
    }

    fn sort(status: u16, headers: &[(&'static str, &str)], body: &str) -> Result<Granted, Fault> {
        let mut request = TokenRequest::new("client_credentials", BodyFormat::Form, http::Method::POST);
        request.set_secret("client_secret", &Secret::new("hunter2hunter2".to_owned())).unwrap();
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer { status, headers: &headers, body: body.as_bytes() };
        read(&answer, &AnswerFormat::default(), &request, wall())
    }

    fn fault(status: u16, body: &str) -> Fault {
        sort(status, &[], body).expect_err(body)
    }

    #[test]
    fn a_token_is_taken() {
        for kind in ["bearer", "Bearer", "BEARER"] {
            for status in [200, 201] {
                let body = format!(
                    r#"{{"access_token":"a.b|c~","token_type":"{kind}","x":{{"y":[1]}},"refresh_token":"r","scope":"a b"}}"#
                );
                let granted = sort(status, &[], &body).unwrap();
                assert_eq!((granted.token.expose(), granted.scope.as_deref()), ("a.b|c~", Some("a b")));
            }
        }
        let array = sort(200, &[], r#"{"access_token":"t","token_type":"bearer","scope":["a","b"]}"#).unwrap();
        assert_eq!(array.scope.as_deref(), Some("a b"));
    }

    /// Threats 90 and 91, A6, A13, C3.
    #[test]
    fn what_is_no_bearer_token_is_refused() {
        let deep = "[".repeat(5000);
        let table = [
            ("", "not the JSON object"),
            ("<html>", "not the JSON object"),
            ("[]", "not the JSON object"),
            (&deep, "not the JSON object"),
            (r#"{"token_type":"bearer"}"#, "no `access_token`"),
            (r#"{"access_token":null,"token_type":"bearer"}"#, "no `access_token`"),
            (r#"{"access_token":"","token_type":"bearer"}"#, "no `access_token`"),
            (r#"{"access_token":5,"token_type":"bearer"}"#, "not the JSON object"),
            (r#"{"access_token":["t"],"token_type":"bearer"}"#, "not the JSON object"),
            (r#"{"access_token":"t","access_token":"u","token_type":"bearer"}"#, "not the JSON object"),
            (r#"{"access_token":"t\r\nX: y","token_type":"bearer"}"#, "a character"),
            (r#"{"access_token":"t u","token_type":"bearer"}"#, "a character"),
            (r#"{"access_token":"tü","token_type":"bearer"}"#, "a character"),
            (r#"{"access_token":"t\u0000","token_type":"bearer"}"#, "a character"),
            (r#"{"access_token":"t\u007f","token_type":"bearer"}"#, "a character"),
            (r#"{"access_token":"t"}"#, "no `token_type`"),
            (r#"{"access_token":"t","token_type":null}"#, "no `token_type`"),
            (r#"{"access_token":"t","token_type":7}"#, "not the JSON object"),
            (r#"{"access_token":"t","token_type":"mac"}"#, "`mac`"),
        ];
        for (body, wanted) in table {
            let fault = fault(200, body);
            assert_eq!(fault.retry, Retry::No, "{body}");
            assert!(
                matches!(&fault.failure, Failure::Protocol(text) if text.to_string().contains(wanted)),
                "{fault:?}"
            );
        }
    }

    /// A14: the `error` string first, then the status; every row of the table.
    #[test]
    fn errors_are_sorted_by_string_then_status() {
        let terminal = [
            "invalid_request",
            "invalid_client",
            "invalid_grant",
            "unauthorized_client",
            "unsupported_grant_type",
            "invalid_scope",
            "invalid_target",
            "invalid_authorization_details",
            "unsupported_token_type",
            "access_denied",
            "login_required",
            "mfa_required",
        ];
        for code in terminal {
            for status in [200, 400, 401, 403, 429, 500, 503] {
                let fault = fault(status, &format!(r#"{{"error":"{code}"}}"#));
                assert!(matches!(&fault.failure, Failure::Refused { code: found, .. } if found == code), "{fault:?}");
                assert_eq!((fault.retry, fault.failure.class()), (Retry::No, code));
            }
        }
        for code in ["temporarily_unavailable", "server_error", "too_many_requests"] {
            for status in [200, 400, 403, 429, 500] {
                let fault = fault(status, &format!(r#"{{"error":"{code}"}}"#));
                assert_eq!((fault.retry, fault.failure.class()), (Retry::After(None), code));
            }
        }
        for status in [408, 425, 429, 500, 502, 503, 504, 522] {
            for body in ["", "Too many requests", r#"{"error":{"code":1}}"#, r#"{"error":"whatever"}"#] {
                assert_eq!(fault(status, body).retry, Retry::After(None), "{status} {body}");
            }
        }
        for status in [202, 204, 301, 302, 307, 308, 400, 401, 403, 404, 501] {
            let token = r#"{"access_token":"t","token_type":"bearer"}"#;
            assert_eq!(fault(status, token).retry, Retry::No, "{status}");
        }
        assert!(matches!(fault(307, "").failure, Failure::Protocol(Misbehaviour::Redirect(307))));
    }

    #[test]
    fn the_servers_wish_is_read() {
        let waits = |status, headers: &[(&'static str, &str)]| sort(status, headers, "").expect_err("outage").retry;
        let seconds = |seconds| Retry::After(Some(Duration::from_secs(seconds)));
        let date = httpdate::fmt_http_date(wall() + Duration::from_secs(90));
        let past = httpdate::fmt_http_date(wall() - Duration::from_secs(90));
        let reset = (WALL + 40).to_string();
        assert_eq!(waits(429, &[("retry-after", "17")]), seconds(17));
        assert_eq!(waits(503, &[("retry-after", &date)]), seconds(90));
        assert_eq!(waits(503, &[("retry-after", &past)]), seconds(0));
        assert_eq!(waits(429, &[("x-ratelimit-reset", &reset)]), seconds(40));
        assert_eq!(waits(503, &[("x-ratelimit-reset", &reset)]), Retry::After(None));
        assert_eq!(waits(429, &[("retry-after", "99999999999")]), seconds(3600));
        assert_eq!(waits(429, &[("retry-after", "99999999999999999999999")]), Retry::After(None));
        assert_eq!(waits(429, &[("x-ratelimit-reset", "18446744073709551615")]), Retry::After(None));
    }

    #[test]
    fn a_servers_words_dont_carry_our_secret() {
        let fault = fault(401, r#"{"error":"invalid_client","error_description":"bad hunter2hunter2\r\nFORGED"}"#);
        let Failure::Refused { detail, .. } = &fault.failure else { panic!("{fault:?}") };
        assert_eq!(detail, "bad [secret]  FORGED");
        let hidden = sort(400, &[], r#"{"error":"hunter2hunter2"}"#).expect_err("refused");
        assert!(!format!("{hidden:?}").contains("hunter2"));
    }
}
