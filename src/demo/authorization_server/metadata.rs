//! Metadata at both well-known places (RFC 8414 §3, OpenID Connect Discovery 1.0 §4),
//! and the public keys.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::Uri;
use jsonwebtoken::{Algorithm, jwk::JwkSet};
use serde_json::{Map, Value, json};

use crate::demo::{dpop, journal::lock};

use super::{AuthMethod, Endpoint, GrantType, Shared, authorize::AUTHORIZE_PATH, fault::Verdict};

const JWKS_PATH: &str = "/.well-known/jwks.json";

/// Where things are, as absolute URLs.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) token: String,
    origin: String,
    pub(super) jwks: String,
    /// The issuer's path without a `/` at its end.
    path: String,
}

impl Endpoints {
    pub(super) fn of(issuer: &str) -> Option<Self> {
        let issuer: Uri = issuer.parse().ok()?;
        let origin = match (issuer.scheme_str(), issuer.authority(), issuer.query()) {
            (Some("https"), Some(authority), None) => format!("https://{authority}"),
            _ => return None,
        };
        let path = issuer.path().trim_end_matches('/').to_owned();
        let token = format!("{origin}{}", Endpoint::Token.path());
        Some(Self { token, jwks: format!("{origin}{JWKS_PATH}"), origin, path })
    }

    pub(super) fn url(&self, endpoint: Endpoint) -> String {
        self.at(endpoint.path())
    }

    pub(super) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// RFC 8414 puts the well-known part before the issuer's path, OIDC behind it.
    fn metadata_paths(&self) -> BTreeSet<String> {
        let path = &self.path;
        BTreeSet::from([
            format!("/.well-known/oauth-authorization-server{path}"),
            format!("/.well-known/openid-configuration{path}"),
            format!("{path}/.well-known/openid-configuration"),
        ])
    }
}

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    let mut router = Router::new().route(JWKS_PATH, get(jwks));
    for path in shared.endpoints.metadata_paths() {
        router = router.route(&path, get(metadata));
    }
    router.with_state(Arc::clone(shared))
}

pub(super) fn document(shared: &Shared) -> Value {
    let knobs = lock(&shared.knobs).clone();
    let signing = dpop::ALGORITHMS;
    let assertion_algorithms = [&signing[..], &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512]].concat();
    let mut document = json!({
        "issuer": shared.issuer,
        "jwks_uri": shared.endpoints.jwks,
        "grant_types_supported": GrantType::ALL.map(GrantType::name),
        "authorization_endpoint": shared.endpoints.at(AUTHORIZE_PATH),
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": knobs.authorize.promises_iss,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [shared.key.algorithm()],
        "token_endpoint_auth_methods_supported": AuthMethod::ALL.into_iter().filter_map(AuthMethod::name).collect::<Vec<_>>(),
        "token_endpoint_auth_signing_alg_values_supported": assertion_algorithms,
        "authorization_grant_profiles_supported": ["urn:ietf:params:oauth:grant-profile:id-jag"],
        "backchannel_token_delivery_modes_supported": ["poll"],
        "backchannel_user_code_parameter_supported": false,
        "dpop_signing_alg_values_supported": signing,
        "tls_client_certificate_bound_access_tokens": true,
    });
    for endpoint in Endpoint::ALL {
        document[endpoint.name()] = shared.endpoints.url(endpoint).into();
    }
    if knobs.mtls_aliases {
        let alias = |endpoint: Endpoint| (endpoint.name().to_owned(), shared.endpoints.at(&endpoint.alias()).into());
        document["mtls_endpoint_aliases"] = Endpoint::ALL.into_iter().map(alias).collect::<Map<_, _>>().into();
    }
    document
}

async fn metadata(State(shared): State<Arc<Shared>>) -> Response {
    match shared.discovery_fault.meet().await {
        Verdict::Answer(answer) => *answer,
        Verdict::Proceed(afterwards) => {
            let mut document = document(&shared);
            afterwards.amend(&mut document);
            shared.discovery_fault.release(afterwards, Json(document).into_response()).await
        }
    }
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Response {
    Json(JwkSet { keys: vec![shared.key.public().clone()] }).into_response()
}
