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
use serde_json::{Value, json};

use super::{
    Shared,
    fault::{Afterwards, Verdict, disconnect},
};

const JWKS_PATH: &str = "/.well-known/jwks.json";
pub(super) const TOKEN_PATH: &str = "/oauth/token";

/// Where things are, as absolute URLs.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) token: String,
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
        Some(Self { token: format!("{origin}{TOKEN_PATH}"), jwks: format!("{origin}{JWKS_PATH}"), path })
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

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    let mut router = Router::new().route(JWKS_PATH, get(jwks));
    for path in shared.endpoints.metadata_paths() {
        router = router.route(&path, get(metadata));
    }
    router.with_state(shared)
}

pub(super) fn document(shared: &Shared) -> Value {
    json!({
        "issuer": shared.issuer,
        "token_endpoint": shared.endpoints.token,
        "jwks_uri": shared.endpoints.jwks,
        "grant_types_supported": ["client_credentials", "refresh_token"],
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [shared.signer.algorithm_name()],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    })
}

async fn metadata(State(shared): State<Arc<Shared>>) -> Response {
    match shared.discovery_fault.meet().await {
        Verdict::Answer(answer) => *answer,
        Verdict::Proceed(Afterwards::Lose) => disconnect(),
        Verdict::Proceed(afterwards) => {
            let mut document = document(&shared);
            afterwards.apply(&mut document);
            Json(document).into_response()
        }
    }
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.signer.jwks()).into_response()
}
