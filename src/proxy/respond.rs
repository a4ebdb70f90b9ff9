//! What goes back to the agent: the upstream's answer, cleaned, or a refusal that an
//! agent can read (RFC 9457, RFC 9209).

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Response, Version,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, PROXY_AUTHENTICATE, RETRY_AFTER},
    request::Parts,
};
use http_body::Body as _;
use serde::Serialize;

use crate::upstream::Sent;

use super::{
    Body, Error, Proxy, Shared, body,
    error::{Ends, Verdict},
    forward::Answered,
    headers,
    open::Open,
};

/// Carries a refusal's stable code.
pub(super) const ERROR_FIELD: HeaderName = HeaderName::from_static("x-cupbearer-error");
pub(super) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// What an answer has to know of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answering {
    version: Version,
    /// An answer to `HEAD` has no body, whatever its fields say.
    head: bool,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    hint: &'a str,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Answering {
    pub(super) fn to(head: &Parts) -> Self {
        Self { version: head.version, head: head.method == Method::HEAD }
    }

    /// The upstream's answer.
    pub(super) fn pass_on(self, answered: Answered, proxy: &Proxy, open: Open) -> Response<Body> {
        let Answered { sent: Sent { response, ahead, .. }, screening, .. } = answered;
        let (mut parts, incoming) = self.clean(response, &proxy.shared).into_parts();
        let has_body = !(ahead.is_empty() && incoming.is_end_stream());
        let screen = screening.map(|screening| screening.begin(&mut parts, has_body, &proxy.large_codings));
        let screen = match screen.transpose() {
            Ok(screen) => screen.flatten(),
            Err(error) => return self.refuse(&error, open),
        };
        let settings = &proxy.shared.settings;
        let times = body::Times { idle: settings.idle_timeout, end: open.started + settings.total_timeout };
        Response::from_parts(parts, Body::upstream((ahead, incoming), times, screen, open))
    }

    pub(super) fn is_h2(self) -> bool {
        self.version == Version::HTTP_2
    }

    /// The upstream's answer without what is its connection's.
    pub(super) fn clean<B>(self, mut response: Response<B>, shared: &Shared) -> Response<B> {
        let received = std::mem::replace(response.version_mut(), Version::HTTP_11);
        headers::rewrite_response(response.headers_mut(), &shared.via, received);
        response.extensions_mut().clear();
        response
    }

    /// Our own answer.
    pub(super) fn refuse(self, error: &Error, mut open: Open) -> Response<Body> {
        let verdict = error.verdict();
        tracing::debug!(request = %open.id, code = verdict.code, error = %Chain(error), "refused");
        open.outcome.status = Some(verdict.status.as_u16());
        open.outcome.error = Some(verdict.code);
        let text = problem(error, &verdict, &open);
        let mut response = Response::new(if self.head { Bytes::new() } else { text });
        *response.status_mut() = verdict.status;
        self.write_fields(response.headers_mut(), &verdict);
        if self.is_h2() && matches!(verdict.ends, Ends::Connection | Ends::Guesses) {
            response.extensions_mut().insert(verdict.ends);
        }
        if self.head {
            open.end(None);
            return response.map(|_| Body::empty());
        }
        response.map(|text| Body::local(text, open))
    }

    fn write_fields(self, fields: &mut http::HeaderMap, verdict: &Verdict) {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.insert(ERROR_FIELD, HeaderValue::from_static(verdict.code));
        if let Ok(value) = HeaderValue::try_from(format!("cupbearer; error={}", verdict.proxy_status)) {
            fields.insert(PROXY_STATUS, value);
        }
        if verdict.status == http::StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            // git sends its credentials only after this.
            fields.insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"cupbearer\""));
        }
        if verdict.status == http::StatusCode::METHOD_NOT_ALLOWED {
            fields
                .insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        if let Some(wait) = verdict.retry_after {
            fields.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if verdict.ends != Ends::Nothing && !self.is_h2() {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

fn problem(error: &Error, verdict: &Verdict, open: &Open) -> Bytes {
    let route = verdict.route.as_ref().or(open.decision.route.get());
    let problem = Problem {
        r#type: format!("urn:cupbearer:problem:{}", verdict.code),
        title: verdict.status.canonical_reason().unwrap_or("Refused"),
        status: verdict.status.as_u16(),
        detail: error.to_string(),
        code: verdict.code,
        route: route.map(crate::primitives::RouteName::as_str),
        hint: verdict.hint.as_str(),
        request_id: open.id.to_string(),
        retry_after: verdict.retry_after.map(whole_seconds),
    };
    let mut text = serde_json::to_vec(&problem).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// Rounded up: coming back a fraction too early would be for nothing.
fn whole_seconds(wait: std::time::Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// An error with its causes, for our own log.
struct Chain<'a>(&'a Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
