//! Is this token good (RFC 9068 §4, without leeway), and is it shown by who may show it
//! (RFC 6750 §2.1, RFC 9449 §7)?

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header, request::Parts};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, JwkSet, KeyAlgorithm},
};
use reqwest::{Certificate, Client, redirect::Policy};
use tokio::sync::OnceCell;

use crate::demo::{
    Error,
    client_certificates::PeerCertificates,
    dpop::{self, ProofError},
    jwt::{ACCESS_TOKEN_TYPE, Claims},
};

use super::{Settings, challenge::Rejection};

const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// How a token is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Bearer,
    Dpop,
}

/// A token that is good, and shown by who may show it.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) scheme: Scheme,
    pub(super) claims: Claims,
}

/// Judges tokens by the keys of one authorization server.
pub(super) struct Verifier {
    settings: Settings,
    client: Client,
    /// By key id. Fetched once: the demo's authorization server never changes its key.
    keys: OnceCell<HashMap<String, Key>>,
    pub(super) dpop: dpop::Judge,
    /// Bearer tokens aren't taken.
    pub(super) only_dpop: AtomicBool,
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
        let dpop = dpop::Judge::new(Arc::clone(&settings.clock));
        Ok(Self { settings, client, keys: OnceCell::new(), dpop, only_dpop: AtomicBool::new(false) })
    }

    pub(super) async fn verify(&self, parts: &Parts) -> Result<Verified, Rejection> {
        let (scheme, token) = self.token(&parts.headers)?;
        // Before the token, so that no proof goes by unseen.
        let proved = self.dpop.judge(parts, Some(token));
        let keys = self.keys.get_or_try_init(|| self.fetch_keys()).await.map_err(|_| Rejection::NoKeys)?;
        let claims = read(token, keys).map_err(|flaw| Rejection::InvalidToken(scheme, flaw))?;
        self.check_times(&claims).map_err(|flaw| Rejection::InvalidToken(scheme, flaw))?;
        check_holder(scheme, &claims, proved)?;
        check_certificate(&claims, parts.extensions.get()).map_err(|flaw| Rejection::InvalidToken(scheme, flaw))?;
        Ok(Verified { scheme, claims })
    }

    /// For an answer's header; `lacking`: to a request that was refused for its nonce.
    pub(super) fn nonce(&self, lacking: bool) -> Option<HeaderValue> {
        self.dpop.nonce(lacking)
    }

    fn token<'a>(&self, headers: &'a HeaderMap) -> Result<(Scheme, &'a str), Rejection> {
        let only_dpop = self.only_dpop.load(Ordering::SeqCst);
        let wanted = if only_dpop { Scheme::Dpop } else { Scheme::Bearer };
        match shown_token(headers)?.ok_or(Rejection::NoToken(wanted))? {
            (Scheme::Bearer, _) if only_dpop => {
                Err(Rejection::InvalidToken(wanted, "tokens must be bound to a DPoP key"))
            }
            shown => Ok(shown),
        }
    }

    /// RFC 7519 §4.1.4: not on the second of `exp` either.
    fn check_times(&self, claims: &Claims) -> Result<(), &'static str> {
        let now = self.settings.clock.unix_seconds();
        if now >= claims.exp {
            return Err("the token has expired");
        }
        if claims.nbf.is_some_and(|nbf| now < nbf) {
            return Err("the token isn't valid yet");
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

fn read(token: &str, keys: &HashMap<String, Key>) -> Result<Claims, &'static str> {
    // `alg: none` ends here: no such algorithm can be named.
    let header = decode_header(token).map_err(|_| "the token isn't a JWT")?;
    if !header.typ.as_deref().is_some_and(is_access_token_type) {
        return Err("the token isn't an access token");
    }
    let key = header.kid.as_deref().and_then(|kid| keys.get(kid)).ok_or("the token's key is unknown")?;
    // The algorithm is the key's, never the token's choice.
    let read = decode::<Claims>(token, &key.decoding, &key.validation);
    Ok(read.map_err(|_| "signature, issuer or audience is wrong")?.claims)
}

/// A bound token with its proof, a bearer token without one (RFC 9449 §7.1, §7.2).
fn check_holder(scheme: Scheme, claims: &Claims, proved: Result<Option<String>, ProofError>) -> Result<(), Rejection> {
    match (scheme, &claims.cnf.jkt) {
        (Scheme::Bearer, None) => Ok(()),
        (Scheme::Bearer, Some(_)) => Err(Rejection::InvalidToken(Scheme::Dpop, "the token is bound to a DPoP key")),
        (Scheme::Dpop, None) => Err(Rejection::InvalidToken(scheme, "the token isn't bound to a DPoP key")),
        (Scheme::Dpop, Some(jkt)) => match proved? {
            None => Err(Rejection::InvalidProof("there is no proof")),
            Some(proved) if proved != *jkt => {
                Err(Rejection::InvalidToken(scheme, "the token is bound to another DPoP key"))
            }
            Some(_) => Ok(()),
        },
    }
}

/// RFC 8705 §3: the certificate of this very connection.
fn check_certificate(claims: &Claims, shown: Option<&PeerCertificates>) -> Result<(), &'static str> {
    match (&claims.cnf.x5t, shown.map(PeerCertificates::thumbprint)) {
        (None, _) => Ok(()),
        (Some(bound), Some(shown)) if *bound == shown => Ok(()),
        (Some(_), None) => Err("the token is bound to a certificate, and none is shown"),
        (Some(_), Some(_)) => Err("the token is bound to another certificate"),
    }
}

fn shown_token(headers: &HeaderMap) -> Result<Option<(Scheme, &str)>, Rejection> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Rejection::Malformed);
    }
    let shown = line.and_then(|line| line.to_str().ok()).and_then(|line| line.split_once(' '));
    Ok(shown.and_then(|(name, token)| {
        let scheme = [Scheme::Bearer, Scheme::Dpop].into_iter().find(|scheme| scheme.name().eq_ignore_ascii_case(name));
        scheme.map(|scheme| (scheme, token))
    }))
}

// === impl Scheme ===

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::Dpop => "DPoP",
        }
    }
}
