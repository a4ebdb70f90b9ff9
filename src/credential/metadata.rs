//! What an authorization server says of itself (RFC 8414 §2), as far as a client needs it.

use std::collections::BTreeMap;

use reqwest::Url;
use serde::Deserialize;

use super::error::Misbehaviour;

/// Longest list that is read.
const MOST: usize = 64;

/// An endpoint of an authorization server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointKind {
    Token,
    Authorization,
    DeviceAuthorization,
    BackchannelAuthentication,
    Revocation,
}

impl EndpointKind {
    pub const ALL: [Self; 5] = [
        Self::Token,
        Self::Authorization,
        Self::DeviceAuthorization,
        Self::BackchannelAuthentication,
        Self::Revocation,
    ];

    /// The member of the metadata, and the key in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token_endpoint",
            Self::Authorization => "authorization_endpoint",
            Self::DeviceAuthorization => "device_authorization_endpoint",
            Self::BackchannelAuthentication => "backchannel_authentication_endpoint",
            Self::Revocation => "revocation_endpoint",
        }
    }
}

/// Endpoints and what the server can do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) issuer: Option<String>,
    endpoints: BTreeMap<EndpointKind, Url>,
    /// `mtls_endpoint_aliases` (RFC 8705 §5).
    mtls: BTreeMap<EndpointKind, Url>,
    pub(crate) code_challenge_methods: Option<Vec<String>>,
    /// RFC 9207.
    pub(crate) names_its_issuer: bool,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    token_endpoint: Option<String>,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    backchannel_authentication_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    #[serde(default)]
    mtls_endpoint_aliases: BTreeMap<String, serde_json::Value>,
    code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Metadata {
    /// Reads a document. `permitted`: whether a URL may be asked. The token endpoint has to
    /// be one; another endpoint that isn't counts as not there. `Err(None)`: no document.
    pub(crate) fn read(text: &[u8], permitted: impl Fn(&str) -> Option<Url>) -> Result<Self, Option<Misbehaviour>> {
        let document: Document = serde_json::from_slice(text).map_err(|_| None)?;
        let mut metadata = Self {
            issuer: Some(document.issuer),
            code_challenge_methods: document
                .code_challenge_methods_supported
                .map(|methods| methods.into_iter().take(MOST).collect()),
            names_its_issuer: document.authorization_response_iss_parameter_supported,
            ..Self::default()
        };
        let token = document.token_endpoint.ok_or(Misbehaviour::NoEndpoint(EndpointKind::Token.as_str()))?;
        let url = permitted(&token).ok_or_else(|| Misbehaviour::Endpoint(printable(&token)))?;
        metadata.endpoints.insert(EndpointKind::Token, url);
        let others = [
            (EndpointKind::Authorization, document.authorization_endpoint),
            (EndpointKind::DeviceAuthorization, document.device_authorization_endpoint),
            (EndpointKind::BackchannelAuthentication, document.backchannel_authentication_endpoint),
            (EndpointKind::Revocation, document.revocation_endpoint),
        ];
        for (kind, text) in others {
            if let Some(url) = text.as_deref().and_then(&permitted) {
                metadata.endpoints.insert(kind, url);
            }
        }
        for kind in EndpointKind::ALL {
            let alias = document.mtls_endpoint_aliases.get(kind.as_str()).and_then(serde_json::Value::as_str);
            if let Some(url) = alias.and_then(&permitted) {
                metadata.mtls.insert(kind, url);
            }
        }
        Ok(metadata)
    }

    /// What the operator names counts before what the server says.
    pub(crate) fn set(&mut self, kind: EndpointKind, url: Url) {
        self.mtls.remove(&kind);
        self.endpoints.insert(kind, url);
    }

    /// Of all endpoints.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &Url> {
        self.endpoints.values().chain(self.mtls.values())
    }

    /// `mtls`: for a client that shows a certificate there.
    pub(crate) fn url(&self, kind: EndpointKind, mtls: bool) -> Option<&Url> {
        let alias = self.mtls.get(&kind).filter(|_| mtls);
        alias.or_else(|| self.endpoints.get(&kind))
    }
}

/// What a server wrote, fit for a log line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn https(text: &str) -> Option<Url> {
        Url::parse(text).ok().filter(|url| url.scheme() == "https")
    }

    #[test]
    fn endpoints_and_aliases_are_told_apart() {
        let text = br#"{"issuer":"https://a/","token_endpoint":"https://a/t","revocation_endpoint":"http://a/r",
            "authorization_endpoint":"https://a/z","mtls_endpoint_aliases":{"token_endpoint":"https://m/t","x":1},
            "code_challenge_methods_supported":["S256"],"authorization_response_iss_parameter_supported":true}"#;
        let mut metadata = Metadata::read(text, https).unwrap();
        let url = |metadata: &Metadata, kind, mtls| metadata.url(kind, mtls).map(ToString::to_string);
        assert_eq!(url(&metadata, EndpointKind::Token, false).as_deref(), Some("https://a/t"));
        assert_eq!(url(&metadata, EndpointKind::Token, true).as_deref(), Some("https://m/t"));
        assert_eq!(url(&metadata, EndpointKind::Authorization, true).as_deref(), Some("https://a/z"));
        assert_eq!(url(&metadata, EndpointKind::Revocation, false), None, "not https");
        metadata.set(EndpointKind::Token, https("https://o/t").unwrap());
        assert_eq!(url(&metadata, EndpointKind::Token, true).as_deref(), Some("https://o/t"));
        assert!(metadata.names_its_issuer && metadata.code_challenge_methods.is_some());
    }

    #[test]
    fn a_document_without_a_token_endpoint_is_none() {
        let fault = |text: &str| Metadata::read(text.as_bytes(), https).unwrap_err();
        assert!(fault("[]").is_none() && fault("").is_none());
        assert!(matches!(fault(r#"{"issuer":"https://a/"}"#), Some(Misbehaviour::NoEndpoint("token_endpoint"))));
        assert!(matches!(fault(r#"{"issuer":"a","token_endpoint":"http://a"}"#), Some(Misbehaviour::Endpoint(_))));
    }
}
