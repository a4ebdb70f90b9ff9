//! DPoP proofs (RFC 9449 §4.3) and the nonces that go into them (§8, §9). Both servers judge
//! proofs by the same rules, each with a memory and nonces of its own.
//!
//! Stricter than the RFC where a strict server may exist: `htu` must come without query.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, Uri, header, request::Parts};
use jsonwebtoken::{
    Algorithm, decode_header,
    jwk::{Jwk, ThumbprintHash},
};
use serde_json::Value;

use crate::primitives::{Clock, sha256};

use super::{
    Repeated,
    journal::lock,
    jwt::{Flaw, Jwt, SKEW},
    one_time::OneTime,
    random_id,
};

pub(super) const PROOF: HeaderName = HeaderName::from_static("dpop");
pub(super) const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// How old a proof may be, in seconds.
const LONGEST_LIFE: u64 = 60;

/// What a proof may be signed with: `algs` of a challenge, and metadata.
pub(super) const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Whether a server wants its nonce in each proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoncePolicy {
    #[default]
    Off,
    /// One, told to those who lack it, good until it is renewed.
    Required,
    /// A new one with every answer, whatever its status; only the newest `accepted` are good.
    EveryAnswer { accepted: usize },
}

/// Why a proof wasn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProofError {
    /// `invalid_dpop_proof`.
    Invalid(Flaw),
    /// `use_dpop_nonce`: the proof is good but for its nonce.
    Nonce,
}

#[derive(Debug)]
pub(super) struct Judge {
    clock: Arc<dyn Clock>,
    proofs: OneTime,
    nonces: Mutex<Nonces>,
}

#[derive(Debug, Default)]
struct Nonces {
    policy: NoncePolicy,
    /// The newest last.
    good: VecDeque<String>,
}

impl Judge {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, proofs: OneTime::default(), nonces: Mutex::default() }
    }

    /// The thumbprint of the key that the sender has proved to hold; `None` without a proof.
    /// `token` is the access token that came along, where one did.
    pub(super) fn judge(&self, parts: &Parts, token: Option<&str>) -> Result<Option<String>, ProofError> {
        let mut lines = parts.headers.get_all(PROOF).iter();
        let (proof, more) = (lines.next(), lines.next());
        let Some(proof) = proof else { return Ok(None) };
        let proof = proof.to_str().ok().filter(|_| more.is_none());
        let proof = proof.ok_or(ProofError::Invalid(Flaw("there must be one proof")))?;
        let (jwt, thumbprint) = read(proof).map_err(ProofError::Invalid)?;
        self.check(&jwt, &thumbprint, parts, token).map_err(ProofError::Invalid)?;
        if !lock(&self.nonces).admit(jwt.text("nonce")) {
            return Err(ProofError::Nonce);
        }
        Ok(Some(thumbprint))
    }

    fn check(&self, proof: &Jwt, thumbprint: &str, parts: &Parts, token: Option<&str>) -> Result<(), Flaw> {
        let now = self.clock.unix_seconds();
        let jti = proof.text("jti").filter(|jti| !jti.is_empty()).ok_or(Flaw("the proof has no jti"))?;
        // First of all, so that no proof is ever shown twice, for whatever reason it was refused.
        if !self.proofs.is_first(thumbprint, jti, now, now.saturating_add(LONGEST_LIFE + SKEW)) {
            return Err(Flaw("the proof was used before"));
        }
        if proof.text("htm") != Some(parts.method.as_str()) {
            return Err(Flaw("htm isn't the request's method"));
        }
        let htu = proof.text("htu").ok_or(Flaw("the proof has no htu"))?;
        if htu.contains(['?', '#']) {
            return Err(Flaw("htu has a query or a fragment"));
        }
        if target(htu).is_none() || target(htu) != request_target(parts) {
            return Err(Flaw("htu isn't the request's URI"));
        }
        let iat = proof.seconds("iat").ok_or(Flaw("the proof has no iat"))?;
        if iat.saturating_add(LONGEST_LIFE) < now || iat > now.saturating_add(SKEW) {
            return Err(Flaw("the proof is too old or from the future"));
        }
        let wanted = token.map(|token| URL_SAFE_NO_PAD.encode(sha256(token.as_bytes())));
        match (wanted, proof.text("ath")) {
            (Some(wanted), ath) if ath != Some(wanted.as_str()) => Err(Flaw("ath isn't the token's digest")),
            _ => Ok(()),
        }
    }

    /// For an answer's header; `lacking`: to a request that was refused for its nonce.
    pub(super) fn nonce(&self, lacking: bool) -> Option<HeaderValue> {
        lock(&self.nonces).give(lacking).and_then(|nonce| HeaderValue::try_from(nonce).ok())
    }

    /// The nonces given out so far are no good any more.
    pub(super) fn set_policy(&self, policy: NoncePolicy) {
        *lock(&self.nonces) = Nonces { policy, good: VecDeque::new() };
    }

    pub(super) fn repeated(&self) -> Vec<Repeated> {
        self.proofs.repeated()
    }
}

// === impl Nonces ===

impl Nonces {
    fn admit(&self, nonce: Option<&str>) -> bool {
        self.policy == NoncePolicy::Off || nonce.is_some_and(|nonce| self.good.iter().any(|good| good == nonce))
    }

    fn give(&mut self, lacking: bool) -> Option<String> {
        let kept = match self.policy {
            NoncePolicy::Off => return None,
            NoncePolicy::Required if !lacking => return None,
            NoncePolicy::Required if !self.good.is_empty() => return self.good.back().cloned(),
            NoncePolicy::Required => 1,
            NoncePolicy::EveryAnswer { accepted } => accepted,
        };
        let nonce = random_id().ok()?;
        self.good.push_back(nonce.clone());
        while self.good.len() > kept {
            self.good.pop_front();
        }
        Some(nonce)
    }
}

/// A proof signed by the key that it carries, and that key's thumbprint.
fn read(proof: &str) -> Result<(Jwt, String), Flaw> {
    let header = decode_header(proof).map_err(|_| Flaw("the proof isn't a JWT"))?;
    let key = header.jwk.ok_or(Flaw("the proof has no jwk"))?;
    if holds_private_key(proof) {
        return Err(Flaw("the proof's jwk holds a private key"));
    }
    let jwt = Jwt::signed_by_one(proof, std::slice::from_ref(&key))?;
    if !jwt.is_of_type(&["dpop+jwt"]) {
        return Err(Flaw("the proof is of another type"));
    }
    let thumbprint = thumbprint(&key).ok_or(Flaw("the proof's jwk can't be read"))?;
    Ok((jwt, thumbprint))
}

/// RFC 7638.
pub(super) fn thumbprint(key: &Jwk) -> Option<String> {
    key.thumbprint(ThumbprintHash::SHA256).ok()
}

/// The JWT library reads the public members only, so that the others have to be looked for.
fn holds_private_key(proof: &str) -> bool {
    let header = proof.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header: Option<Value> = header.and_then(|header| serde_json::from_slice(&header).ok());
    let private =
        |key: &Value| ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|name| key.get(name).is_some());
    header.is_none_or(|header| header.get("jwk").is_none_or(private))
}

fn request_target(parts: &Parts) -> Option<String> {
    let host = || parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = parts.uri.authority().map(http::uri::Authority::as_str).or_else(host)?;
    target(&format!("https://{authority}{}", parts.uri.path()))
}

/// A URI as RFC 3986 §6.2.2 and §6.2.3 normalise it, without its query.
fn target(uri: &str) -> Option<String> {
    let uri: Uri = uri.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?.to_ascii_lowercase(), uri.host()?.to_ascii_lowercase());
    let default = if scheme == "https" { 443 } else { 80 };
    let port = uri.port_u16().filter(|port| *port != default).map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{scheme}://{host}{port}{}", normal_path(uri.path())?))
}

/// Escapes in upper case, and none where none is needed.
fn normal_path(path: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = path;
    while let Some((plain, escaped)) = rest.split_once('%') {
        let digits = escaped.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        out.push_str(plain);
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        rest = &escaped[2..];
    }
    out.push_str(rest);
    Some(if out.is_empty() { "/".to_owned() } else { out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_compared_in_their_normal_form() {
        let same = [
            ("https://a.test/x", "HTTPS://A.Test:443/x"),
            ("https://a.test", "https://a.test/"),
            ("https://a.test/%7eme/%2f", "https://a.test/~me/%2F"),
            ("https://a.test:8443/x", "https://a.test:8443/x?query"),
        ];
        for (one, other) in same {
            assert_eq!(target(one).unwrap(), target(other).unwrap());
        }
        let different = [
            ("https://a.test/x", "http://a.test/x"),
            ("https://a.test/x", "https://a.test/x/"),
            ("https://a.test/x", "https://a.test/X"),
            ("https://a.test/x", "https://a.test:8443/x"),
            ("https://a.test/a/b", "https://a.test/a%2Fb"),
        ];
        for (one, other) in different {
            assert_ne!(target(one).unwrap(), target(other).unwrap());
        }
        for broken in ["/x", "https://a.test/%zz", "https://a.test/%4"] {
            assert_eq!(target(broken), None, "{broken}");
        }
    }

    #[test]
    fn only_the_newest_nonces_are_good() {
        let mut nonces = Nonces { policy: NoncePolicy::EveryAnswer { accepted: 2 }, good: VecDeque::new() };
        let given: Vec<_> = (0..3).map(|_| nonces.give(false).unwrap()).collect();
        let good = given.iter().map(|nonce| nonces.admit(Some(nonce))).collect::<Vec<_>>();
        assert_eq!((good, nonces.admit(None)), (vec![false, true, true], false));

        let mut nonces = Nonces { policy: NoncePolicy::Required, good: VecDeque::new() };
        assert_eq!(nonces.give(false), None, "only those who lack it are told");
        let told = nonces.give(true).unwrap();
        assert_eq!(nonces.give(true), Some(told.clone()));
        assert!(nonces.admit(Some(&told)) && !nonces.admit(Some("made-up")));
    }
}
