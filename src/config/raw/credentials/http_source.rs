//! Tokens that come from no token endpoint: any HTTP answer, GitHub's installations, the
//! metadata server of a cloud.

use std::{path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, header};
use serde_json::{Map, Value, json};

use crate::{
    credential::{
        ClearText,
        grant::{Grant, HttpSource},
        step::{Assertion, AudMode, Input, KeySource},
    },
    route::Scheme,
};

use super::{
    super::{
        super::{
            document::{At, Section},
            json,
            problem::shown,
        },
        source,
        url::{Url, metadata_url, url},
    },
    Kind,
    input::{Context, Notes, Signed, input},
};

/// Where such a token is asked for.
pub(in crate::config) struct Place {
    pub(in crate::config) url: String,
    /// Its name where a server's is shown.
    pub(in crate::config) host: String,
    pub(in crate::config) ca: Option<At<PathBuf>>,
    pub(in crate::config) clear_text: ClearText,
}

impl Place {
    /// The token endpoint of a provider that has one for all.
    pub(super) fn known(url: &str, host: &str) -> Self {
        Self { url: url.to_owned(), host: host.to_owned(), ca: None, clear_text: ClearText::Never }
    }
}

/// `None`: a problem was reported.
pub(super) fn place(section: &mut Section<'_>, kind: Kind) -> Option<Place> {
    let ca = section.path("ca", "ca = \"corp.pem\"");
    let (url, parts) = match kind {
        Kind::GithubApp => installation(section)?,
        Kind::MetadataServer => metadata(section)?,
        _any_url => {
            const EXAMPLE: &str = "url = \"https://tokens.example.com/token\"";
            section.need("url", EXAMPLE);
            let text = section.string("url", EXAMPLE)?;
            let parts = secure(section, "url", &text)?;
            (text.value, parts)
        }
    };
    let clear_text = if kind == Kind::MetadataServer { ClearText::Metadata } else { ClearText::Never };
    Some(Place { url, host: parts.authority.host().to_string(), ca, clear_text })
}

fn secure(section: &Section<'_>, key: &str, text: &At<String>) -> Option<Url> {
    let parts = url(section.doc, key, text)?;
    if parts.scheme == Scheme::Https {
        return Some(parts);
    }
    let message = format!("`{key}` is http: the token would pass in clear text");
    section.doc.problem(
        &text.span,
        message,
        "write https://; a cloud's metadata server has the grant \"metadata_server\"",
    );
    None
}

fn metadata(section: &mut Section<'_>) -> Option<(String, Url)> {
    const EXAMPLE: &str =
        "url = \"http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token\"";
    section.need("url", EXAMPLE);
    let text = section.string("url", EXAMPLE)?;
    let parts = metadata_url(section.doc, "url", &text)?;
    Some((text.value, parts))
}

pub(super) fn metadata_server() -> Grant {
    Grant::Http(Box::new(HttpSource { name: Kind::MetadataServer.as_str(), authorization: None, json: None }))
}

pub(super) fn source(section: &mut Section<'_>, context: Context<'_>, notes: &mut Notes) -> Option<Grant> {
    let has_authorization = section.has("authorization");
    let authorization = input(section, "authorization", context, notes);
    if has_authorization && authorization.is_none() {
        return None;
    }
    let has_json = section.has("json");
    if has_json && section.has("params") {
        let help = "put what stands in `params` into `json`";
        section.doc.problem(&section.place("params"), "both `json` and `params`", help);
    }
    let members = json::members(section, "json", "json = { scope = [\"read\"] }");
    let json: Map<String, Value> = members.into_iter().map(|(name, value)| (name.value, value)).collect();
    let json = has_json.then_some(Value::Object(json));
    Some(Grant::Http(Box::new(HttpSource { name: Kind::Http.as_str(), authorization, json })))
}

/// The endpoint of an installation's tokens, from `api_url` and `installation_id`.
fn installation(section: &mut Section<'_>) -> Option<(String, Url)> {
    section.need("installation_id", "installation_id = 1234567");
    let installation = number(section, "installation_id");
    let api = section.string("api_url", "api_url = \"https://api.github.com\"");
    let api = api.unwrap_or(At { value: "https://api.github.com".to_owned(), span: section.span.clone() });
    let parts = secure(section, "api_url", &api)?;
    if parts.has_query {
        section.doc.problem(&api.span, "`api_url` can't have a query", "take it out");
    }
    let base = api.value.trim_end_matches('/');
    Some((format!("{base}/app/installations/{}/access_tokens", installation?), parts))
}

/// A JWT of the app's own, and a body that narrows what the token is for.
pub(super) fn github_app(section: &mut Section<'_>, notes: &mut Notes) -> Option<Grant> {
    let (has_app, has_client) = (section.has("app_id"), section.has("client_id"));
    if has_app && has_client {
        section.doc.problem(&section.place("app_id"), "both `app_id` and `client_id`", "keep one of them");
    } else if !has_app && !has_client {
        section.need("client_id", "client_id = \"Iv23…\"` or `app_id = 12345");
    }
    let client = section.string("client_id", "client_id = \"Iv23…\"").map(|text| text.value);
    let issuer = client.or(number(section, "app_id"));
    let _ = section.entry("app_id");
    let key = source::source(section, "key", "GITHUB_APP_KEY");
    let json = narrowing(section);
    let key = key?;
    notes.signed.push(Signed { span: section.place("key"), aud: AudMode::Absent, keys: vec![key.clone()] });
    let made = Assertion {
        keys: vec![KeySource { source: key, algorithm: None, key_id: None, certificate: None }],
        iss: Some(issuer?),
        aud: AudMode::Absent,
        // GitHub: at most ten minutes, and its clock may be behind ours.
        lifetime: Duration::from_secs(540),
        backdate: Duration::from_secs(60),
        jti: false,
        ..Assertion::default()
    };
    let authorization = Some(Input::Jwt(Box::new(made)));
    Some(Grant::Http(Box::new(HttpSource { name: Kind::GithubApp.as_str(), authorization, json })))
}

/// What GitHub wants besides; the file's own fields come after them and count.
pub(super) fn github_headers() -> [(HeaderName, HeaderValue); 2] {
    [
        (header::ACCEPT, HeaderValue::from_static("application/vnd.github+json")),
        (HeaderName::from_static("x-github-api-version"), HeaderValue::from_static("2022-11-28")),
    ]
}

fn narrowing(section: &mut Section<'_>) -> Option<Value> {
    let mut body = Map::new();
    let repositories = section.strings(
        "repositories",
        "repositories = [\"cupbearer\"]",
        "leave `repositories` out for all that the app is installed in",
    );
    if let Some(list) = repositories {
        for name in list.value.iter().filter(|name| name.value.contains('/')) {
            let short = name.value.rsplit('/').next().unwrap_or_default();
            let message = format!("`{}` has its owner before it", shown(&name.value));
            section.doc.problem(&name.span, message, format!("write \"{}\"", shown(short)));
        }
        let names: Vec<String> = list.value.into_iter().map(|name| name.value).collect();
        body.insert("repositories".to_owned(), json!(names));
    }
    let permissions = section.string_table("permissions", "permissions = { contents = \"read\" }");
    if !permissions.is_empty() {
        let permissions: Map<String, Value> =
            permissions.into_iter().map(|(name, value)| (name.value, Value::String(value.value))).collect();
        body.insert("permissions".to_owned(), Value::Object(permissions));
    }
    (!body.is_empty()).then_some(Value::Object(body))
}

/// An id that GitHub shows as a number.
fn number(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    if section.entry(key).is_some_and(|(_, value)| value.get_ref().is_integer()) {
        return section.count(key, 1..=u64::MAX).map(|number| number.to_string());
    }
    let text = section.string(key, &format!("{key} = 1234567"))?;
    if text.value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.value);
    }
    let message = format!("`{}` is no number", shown(&text.value));
    section.doc.problem(&text.span, message, format!("write `{key} = 1234567`"));
    None
}
