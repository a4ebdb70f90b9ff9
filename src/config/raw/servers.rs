//! `[authorization_servers.NAME]`.

use std::path::PathBuf;

use crate::{credential::Location, primitives::AuthorizationServerName, route::Scheme};

use super::{
    super::document::{At, Section},
    listeners::is_loopback,
    named,
    url::{Url, url},
};

pub(in crate::config) struct Server {
    /// As the file names it, also where that is no valid name.
    pub(in crate::config) text: At<String>,
    pub(in crate::config) name: Option<AuthorizationServerName>,
    pub(in crate::config) location: Option<Location>,
    /// `location`, taken apart.
    pub(in crate::config) url: Option<Url>,
    pub(in crate::config) ca: Option<At<PathBuf>>,
    pub(in crate::config) danger_allow_http: bool,
}

const ISSUER: &str = "issuer = \"https://auth.example.com/\"";
const ENDPOINT: &str = "token_endpoint = \"https://auth.example.com/oauth/token\"";

pub(in crate::config) fn server(text: At<String>, mut section: Section<'_>) -> Server {
    let name = named(&section, &text, AuthorizationServerName::parse);
    let ca = section.path("ca", "ca = \"corp.pem\"");
    let danger_allow_http = section.flag("danger_allow_http");
    let (issuer, endpoint) = (section.has("issuer"), section.has("token_endpoint"));
    if issuer && endpoint {
        let help = "keep `issuer` to have the endpoint discovered, or `token_endpoint` to name it";
        section.doc.problem(&section.place("token_endpoint"), "both `issuer` and `token_endpoint`", help);
    } else if !issuer && !endpoint {
        section.need("issuer", &format!("{ISSUER}` or `{ENDPOINT}"));
    }
    let issuer = section.string("issuer", ISSUER);
    let endpoint = section.string("token_endpoint", ENDPOINT);
    let mut location = None;
    let mut parts = None;
    if let Some(issuer) = issuer {
        parts = checked(&section, "issuer", &issuer, danger_allow_http);
        if parts.as_ref().is_some_and(|url| url.has_query) {
            section.doc.problem(
                &issuer.span,
                "an issuer's URL can't have a query",
                "take it out (RFC 8414, section 2)",
            );
        }
        location = Some(Location::Issuer(issuer.value));
    }
    if let Some(endpoint) = endpoint {
        parts = parts.or(checked(&section, "token_endpoint", &endpoint, danger_allow_http));
        location = location.or(Some(Location::TokenEndpoint(endpoint.value)));
    }
    section.finish();
    Server { text, name, location, url: parts, ca, danger_allow_http }
}

/// Client secrets and tokens pass here: `https`, or a loopback address where the operator says so (A2).
fn checked(section: &Section<'_>, key: &str, text: &At<String>, danger_allow_http: bool) -> Option<Url> {
    let url = url(section.doc, key, text)?;
    if url.scheme == Scheme::Https {
        return Some(url);
    }
    let loopback = is_loopback(url.authority.host());
    if !loopback {
        let message = format!("`{key}` is http: the client's secret and the tokens would pass in clear text");
        let help = "write https://; http is for a loopback address only, with `danger_allow_http = true`";
        section.doc.problem(&text.span, message, help);
    } else if !danger_allow_http {
        let message = format!("`{key}` is http");
        section.doc.problem(
            &text.span,
            message,
            "write https://, or add `danger_allow_http = true` for this loopback address",
        );
    }
    Some(url)
}
