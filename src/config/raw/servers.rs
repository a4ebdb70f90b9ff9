//! `[authorization_servers.NAME]`.

use std::path::PathBuf;

use crate::{
    credential::{EndpointKind, Location},
    primitives::AuthorizationServerName,
    route::Scheme,
};

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
    pub(in crate::config) endpoints: Vec<(EndpointKind, String)>,
    /// `location` and `endpoints`, taken apart; whether each is an endpoint itself.
    pub(in crate::config) urls: Vec<(Url, bool)>,
    pub(in crate::config) ca: Option<At<PathBuf>>,
    pub(in crate::config) danger_allow_http: bool,
}

const ISSUER: &str = "issuer = \"https://auth.example.com/\"";
const ENDPOINT: &str = "token_endpoint = \"https://auth.example.com/oauth/token\"";

pub(in crate::config) fn server(text: At<String>, mut section: Section<'_>) -> Server {
    let name = named(&section, &text, AuthorizationServerName::parse);
    let ca = section.path("ca", "ca = \"corp.pem\"");
    let danger_allow_http = section.flag("danger_allow_http");
    if !section.has("issuer") && !section.has("token_endpoint") {
        section.need("issuer", &format!("{ISSUER}` or `{ENDPOINT}"));
    }
    let mut urls = Vec::new();
    let issuer = section.string("issuer", ISSUER);
    if let Some(issuer) = &issuer {
        let parts = checked(&section, "issuer", issuer, danger_allow_http);
        if parts.as_ref().is_some_and(|url| url.has_query) {
            section.doc.problem(
                &issuer.span,
                "an issuer's URL can't have a query",
                "take it out (RFC 8414, section 2)",
            );
        }
        urls.extend(parts.map(|url| (url, false)));
    }
    let mut endpoints = Vec::new();
    for kind in EndpointKind::ALL {
        let key = kind.as_str();
        let Some(text) = section.string(key, &format!("{key} = \"https://auth.example.com/…\"")) else { continue };
        urls.extend(checked(&section, key, &text, danger_allow_http).map(|url| (url, true)));
        endpoints.push((kind, text.value));
    }
    let location = match issuer {
        Some(issuer) => Some(Location::Issuer(issuer.value)),
        None => {
            let at = endpoints.iter().position(|(kind, _)| *kind == EndpointKind::Token);
            at.map(|at| Location::TokenEndpoint(endpoints.remove(at).1))
        }
    };
    section.finish();
    Server { text, name, location, endpoints, urls, ca, danger_allow_http }
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
