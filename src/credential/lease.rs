//! A lease: the right to send one request with one token, and how the token is put in. A
//! bearer token's field is built once; a token bound to a key has a new proof for every
//! attempt. Knows requests by method and URL only.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header::AUTHORIZATION};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use zeroize::Zeroizing;

use crate::{
    observe::{Noted, Record, TokenUse},
    primitives::{Authority, CredentialName, Fingerprint, Secret, Trace, sha256},
    route::Scheme,
    tls::ClientIdentity,
};

use super::{
    dpop::{self, Prover},
    inject::Injection,
    response::TokenKind,
    sign::KeyError,
};

/// The right to send one request with one token.
#[derive(Clone, Debug)]
pub struct Lease {
    token: Option<Arc<Token>>,
    wait: Duration,
}

/// Whom a request goes to, as the resource server sees it (RFC 9449 §4.3).
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    pub method: &'a Method,
    pub scheme: Scheme,
    pub authority: &'a Authority,
    /// Without the query.
    pub path: &'a str,
    /// What the resource server believes its URL to begin with, where that differs.
    pub htu_base: Option<&'a str>,
}

impl Lease {
    pub(crate) fn new(token: Arc<Token>, wait: Duration) -> Self {
        Self { token: Some(token), wait }
    }

    /// For a route without a credential.
    pub(crate) fn none() -> Self {
        Self { token: None, wait: Duration::ZERO }
    }

    pub(crate) fn token(&self) -> Option<&Arc<Token>> {
        self.token.as_ref()
    }

    /// Puts the token in, last of all: exactly one field, ours. For each attempt anew.
    ///
    /// # Errors
    /// A proof can't be signed: nothing may be sent.
    pub fn authorize(&self, fields: &mut HeaderMap, to: &Recipient<'_>) -> Result<(), KeyError> {
        let Some(token) = &self.token else { return Ok(()) };
        if let Some(prover) = &token.prover {
            fields.insert(dpop::FIELD, prover.resource_proof(to, &token.hash)?);
        }
        fields.insert(token.field.clone(), token.value.clone());
        Ok(())
    }

    /// Whether [`authorize`](Self::authorize) writes this field.
    pub fn puts_in(&self, name: &HeaderName) -> bool {
        let puts_in = |token: &Arc<Token>| token.field == *name || (token.prover.is_some() && *name == dpop::FIELD);
        self.token.as_ref().is_some_and(puts_in)
    }

    /// Whether there is a token at all.
    pub fn is_some(&self) -> bool {
        self.token.is_some()
    }

    pub fn generation(&self) -> Option<u64> {
        self.token.as_ref().map(|token| token.generation)
    }

    /// The field that the token is in, and the value as it is sent.
    pub fn field(&self) -> Option<(&HeaderName, &HeaderValue)> {
        self.token.as_ref().map(|token| (&token.field, &token.value))
    }

    /// What an answer holds that repeats the token: for whoever looks for it there.
    pub fn traces(&self) -> &[Trace] {
        self.token.as_ref().map_or(&[], |token| &token.traces)
    }

    /// The certificate that the token is bound to: the upstream has to see it, too.
    pub fn identity(&self) -> Option<&Arc<ClientIdentity>> {
        self.token.as_ref().and_then(|token| token.identity.as_ref())
    }

    /// The scheme of the upstream's challenges for this token.
    pub fn scheme(&self) -> &'static str {
        if self.is_bound_to_key() { "dpop" } else { "bearer" }
    }

    /// Each attempt has a proof of its own.
    pub fn is_bound_to_key(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.prover.is_some())
    }

    /// Whether a nonce of this resource server is known; none is needed without a key.
    pub fn knows_nonce(&self, to: &Recipient<'_>) -> bool {
        self.token.as_ref().and_then(|token| token.prover.as_ref()).is_none_or(|prover| prover.knows_nonce(to))
    }

    /// Takes the nonce from any answer of the resource server's (RFC 9449 §8.2). `true`: it
    /// is another one than was known.
    pub fn learn(&self, to: &Recipient<'_>, answer: &HeaderMap) -> bool {
        let prover = self.token.as_ref().and_then(|token| token.prover.as_ref());
        prover.is_some_and(|prover| prover.learn_resource(to, answer))
    }
}

/// Turns: see `Prover::take_turns`.
impl Lease {
    pub fn take_turns(&self, to: &Recipient<'_>) {
        if let Some(prover) = self.token.as_ref().and_then(|token| token.prover.as_ref()) {
            prover.take_turns(to);
        }
    }

    /// How long the request waited for the token.
    pub fn waited(&self) -> Duration {
        self.wait
    }

    pub async fn turn(&self, to: &Recipient<'_>) -> Option<OwnedSemaphorePermit> {
        self.token.as_ref()?.prover.as_ref()?.turn(to).await
    }
}

impl Noted for Lease {
    fn note(&self, record: &mut Record) {
        record.credential.set_or_clear(self.token.as_ref().map(|token| &token.credential));
        record.token = self.token.as_ref().map(|token| TokenUse {
            fingerprint: token.fingerprint,
            generation: token.generation,
            wait: self.wait,
        });
    }
}

/// A token at hand.
pub(crate) struct Token {
    pub(crate) credential: CredentialName,
    field: HeaderName,
    value: HeaderValue,
    pub(crate) secret: Secret,
    /// What an answer holds that repeats it.
    traces: Box<[Trace]>,
    /// base64url of its SHA-256: `ath` (RFC 9449 §4.2). Empty without a prover.
    hash: String,
    pub(crate) prover: Option<Arc<Prover>>,
    pub(crate) identity: Option<Arc<ClientIdentity>>,
    pub(crate) generation: u64,
    pub(crate) fingerprint: Fingerprint,
    /// As the server granted it, where it said so.
    pub(crate) scope: Option<String>,
    /// Asked for besides the credential's own (step-up).
    pub(crate) more_scopes: Vec<String>,
    /// What else the server said of it, by the names of the config.
    pub(crate) extra: Vec<(String, String)>,
    /// This process asked for it; else another one did and left it in the store.
    pub(crate) minted: bool,
    /// From here on a flight brings the next one.
    pub(crate) refresh_at: Instant,
    /// From here on it is not sent any more.
    pub(crate) expires_at: Instant,
}

/// What a [`Token`] is made of.
pub(crate) struct Material {
    pub(crate) secret: Secret,
    pub(crate) kind: TokenKind,
    pub(crate) prover: Option<Arc<Prover>>,
    pub(crate) identity: Option<Arc<ClientIdentity>>,
    pub(crate) scope: Option<String>,
    pub(crate) extra: Vec<(String, String)>,
    pub(crate) minted: bool,
}

impl Token {
    /// `None`: the token holds a character that no field has.
    pub(crate) fn new(
        credential: CredentialName,
        generation: u64,
        material: Material,
        injection: &Injection,
        (refresh_at, expires_at): (Instant, Instant),
    ) -> Option<Self> {
        let Material { secret, kind, prover, identity, scope, extra, minted } = material;
        let prover = prover.filter(|_| kind == TokenKind::Dpop);
        let (field, value) = match prover {
            Some(_) => (AUTHORIZATION, field_value(&format!("DPoP {}", secret.expose()))?),
            None => (injection.field.clone(), field_value(injection.template.fill(&secret).expose())?),
        };
        let hash = prover.as_ref().map(|_| URL_SAFE_NO_PAD.encode(sha256(secret.expose().as_bytes())));
        Some(Self {
            credential,
            field,
            value,
            hash: hash.unwrap_or_default(),
            fingerprint: secret.fingerprint(),
            traces: injection.traces(&secret),
            secret,
            prover,
            identity,
            generation,
            scope,
            more_scopes: Vec::new(),
            extra,
            minted,
            refresh_at,
            expires_at,
        })
    }

    /// Whether `other` would be sent as the very same bytes.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({} #{}, {})", self.credential, self.generation, self.fingerprint)
    }
}

/// A field's value that is a secret: sensitive (never in an HPACK table), zeroed when the last
/// clone goes.
pub(crate) fn field_value(text: &str) -> Option<HeaderValue> {
    let text = Zeroizing::new(text.to_owned());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
    value.set_sensitive(true);
    Some(value)
}
