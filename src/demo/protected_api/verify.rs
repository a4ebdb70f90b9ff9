//! Is this token good? RFC 9068 §4 and RFC 6750 §2.1, without leeway.

use std::{collections::HashMap, fmt, time::Duration};

use http::{HeaderMap, header};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, JwkSet, KeyAlgorithm},
};
use reqwest::{Certificate, Client, redirect::Policy};
use tokio::sync::OnceCell;

use crate::demo::{
    Error,
    jwt::{ACCESS_TOKEN_TYPE, Claims},
};

use super::Settings;

const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// Why a request isn't let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// No bearer token at all: 401 without an error code (RFC 6750 §3.1).
    NoToken,
    /// More than one `Authorization` line: 400.
    Malformed,
    /// 401, with the reason.
    InvalidToken(&'static str),
    /// 403; the token is good but lacks this scope.
    InsufficientScope(&'static str),
    /// 503: the authorization server's keys can't be had.
    NoKeys,
}

/// Judges tokens by the keys of one authorization server.
pub(super) struct Verifier {
    settings: Settings,
    client: Client,
    /// By key id. Fetched once: the demo's authorization server never changes its key.
    keys: OnceCell<HashMap<String, Key>>,
}

struct Key {
    decoding: DecodingKey,
    validation: Validation,
}

impl Verifier {
    pub(super) fn new(settings: Settings) -> Result<Self, Error> {
        let root = Certificate::from_pem(settings.ca_pem.as_bytes()).map_err(Error::Client)?;
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .https_only(true)
            .tls_certs_only([root])
            .timeout(FETCH_LIMIT)
            .build()
            .map_err(Error::Client)?;
        Ok(Self { settings, client, keys: OnceCell::new() })
    }

    pub(super) async fn verify(&self, headers: &HeaderMap) -> Result<Claims, Rejection> {
        let token = bearer_token(headers)?;
        let keys = self.keys.get_or_try_init(|| self.fetch_keys()).await.map_err(|_| Rejection::NoKeys)?;
        // `alg: none` ends here: no such algorithm can be named.
        let header = decode_header(token).map_err(|_| Rejection::InvalidToken("the token isn't a JWT"))?;
        if !header.typ.as_deref().is_some_and(is_access_token_type) {
            return Err(Rejection::InvalidToken("the token isn't an access token"));
        }
        let key = header.kid.as_deref().and_then(|kid| keys.get(kid));
        let key = key.ok_or(Rejection::InvalidToken("the token's key is unknown"))?;
        // The algorithm is the key's, never the token's choice.
        let claims: Claims = decode(token, &key.decoding, &key.validation)
            .map_err(|_| Rejection::InvalidToken("signature, issuer or audience is wrong"))?
            .claims;
        self.check_times(&claims)?;
        Ok(claims)
    }

    /// RFC 7519 §4.1.4: not on the second of `exp` either.
    fn check_times(&self, claims: &Claims) -> Result<(), Rejection> {
        let now = self.settings.clock.unix_seconds();
        if now >= claims.exp {
            return Err(Rejection::InvalidToken("the token has expired"));
        }
        if claims.nbf.is_some_and(|nbf| now < nbf) {
            return Err(Rejection::InvalidToken("the token isn't valid yet"));
        }
        Ok(())
    }

    async fn fetch_keys(&self) -> Result<HashMap<String, Key>, reqwest::Error> {
        let answer = self.client.get(&self.settings.jwks_uri).send().await?.error_for_status()?;
        let set: JwkSet = answer.json().await?;
        Ok(set.keys.iter().filter_map(|jwk| self.key(jwk)).collect())
    }

    /// `None` for a key that isn't for signatures we take.
    fn key(&self, jwk: &Jwk) -> Option<(String, Key)> {
        let algorithm = match jwk.common.key_algorithm? {
            KeyAlgorithm::ES256 => Algorithm::ES256,
            KeyAlgorithm::RS256 => Algorithm::RS256,
            _ => return None,
        };
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        // By our own clock, see `check_times`.
        validation.validate_exp = false;
        let key = Key { decoding: DecodingKey::from_jwk(jwk).ok()?, validation };
        Some((jwk.common.key_id.clone()?, key))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn is_access_token_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").unwrap_or(&typ) == ACCESS_TOKEN_TYPE
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Rejection> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = lines.next().ok_or(Rejection::NoToken)?;
    if lines.next().is_some() {
        return Err(Rejection::Malformed);
    }
    let (scheme, token) = line.to_str().ok().and_then(|line| line.split_once(' ')).ok_or(Rejection::NoToken)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token) } else { Err(Rejection::NoToken) }
}
