//! Reading a JWT that somebody else made: a client's assertion, a subject token, a DPoP proof.
//! Finds out only that a key signed it; what the claims must say is the reader's business.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Header, Validation,
    dangerous::insecure_decode_claims,
    decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk},
};
use serde_json::{Map, Value};

use crate::primitives::Secret;

/// Seconds by which a peer's clock may differ from ours.
pub(in crate::demo) const SKEW: u64 = 10;

/// What is wrong with a JWT, in words for `error_description`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::demo) struct Flaw(pub(in crate::demo) &'static str);

/// What a JWT says in a claim before anybody has checked it: whose keys to look for.
pub(in crate::demo) fn said(token: &str, claim: &str) -> Option<String> {
    let claims: Value = insecure_decode_claims(token).ok()?;
    claims.get(claim)?.as_str().map(str::to_owned)
}

/// A JWT whose signature was checked, with claims that nobody has judged yet.
#[derive(Debug)]
pub(in crate::demo) struct Jwt {
    header: Header,
    claims: Map<String, Value>,
}

impl Jwt {
    /// Signed by one of `keys`; by that with the header's `kid` where there is one.
    pub(in crate::demo) fn signed_by_one(token: &str, keys: &[Jwk]) -> Result<Self, Flaw> {
        let header = header(token)?;
        let named = |key: &&Jwk| match (&header.kid, &key.common.key_id) {
            (Some(wanted), Some(kid)) => wanted == kid,
            (None, _) | (_, None) => true,
        };
        let mut fitting = keys.iter().filter(named).filter(|key| algorithms(key).contains(&header.alg)).peekable();
        if fitting.peek().is_none() {
            return Err(Flaw("no key is registered for its kid and alg"));
        }
        let decoding = fitting.filter_map(|key| DecodingKey::from_jwk(key).ok());
        Self::verify(token, header.alg, decoding)
    }

    /// Signed with one of `secrets` that is long enough (RFC 7518 §3.2).
    pub(in crate::demo) fn signed_with_one(token: &str, secrets: &[Secret]) -> Result<Self, Flaw> {
        let header = header(token)?;
        let shortest = match header.alg {
            Algorithm::HS256 => 32,
            Algorithm::HS384 => 48,
            Algorithm::HS512 => 64,
            _ => return Err(Flaw("its alg isn't one for a shared secret")),
        };
        let secrets = secrets.iter().map(|secret| secret.expose().as_bytes());
        let decoding = secrets.filter(|secret| secret.len() >= shortest).map(DecodingKey::from_secret);
        Self::verify(token, header.alg, decoding)
    }

    fn verify(token: &str, algorithm: Algorithm, mut keys: impl Iterator<Item = DecodingKey>) -> Result<Self, Flaw> {
        let mut validation = Validation::new(algorithm);
        // Signature only: times go by our own clock, and the rest differs from reader to reader.
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_aud) = (false, false);
        let read = keys.find_map(|key| decode::<Map<String, Value>>(token, &key, &validation).ok());
        let read = read.ok_or(Flaw("its signature is wrong"))?;
        Ok(Self { header: read.header, claims: read.claims })
    }

    pub(in crate::demo) fn header(&self) -> &Header {
        &self.header
    }

    /// RFC 7515 §4.1.9: in any case, with or without `application/`.
    pub(in crate::demo) fn is_of_type(&self, types: &[&str]) -> bool {
        let typ = self.header.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        let typ = typ.strip_prefix("application/").unwrap_or(&typ);
        types.iter().any(|wanted| wanted.eq_ignore_ascii_case(typ))
    }

    pub(in crate::demo) fn claim(&self, name: &str) -> Option<&Value> {
        self.claims.get(name)
    }

    pub(in crate::demo) fn text(&self, name: &str) -> Option<&str> {
        self.claim(name)?.as_str()
    }

    /// A `NumericDate`: whole seconds since 1970, or a fraction that is cut off.
    pub(in crate::demo) fn seconds(&self, name: &str) -> Option<u64> {
        let value = self.claim(name)?;
        value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
    }

    /// One or several (RFC 7519 §4.1.3).
    pub(in crate::demo) fn audiences(&self) -> Vec<&str> {
        match self.claim("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// In force at `now`, and not for longer than `longest` seconds from then.
    pub(in crate::demo) fn check_times(&self, now: u64, longest: Option<u64>) -> Result<(), Flaw> {
        let exp = self.seconds("exp").ok_or(Flaw("it has no exp"))?;
        if now >= exp.saturating_add(SKEW) {
            return Err(Flaw("it has expired"));
        }
        if longest.is_some_and(|longest| exp > now.saturating_add(longest).saturating_add(SKEW)) {
            return Err(Flaw("it expires too late"));
        }
        let early = |name| self.seconds(name).is_some_and(|time| time > now.saturating_add(SKEW));
        if early("nbf") || early("iat") {
            return Err(Flaw("it is from the future"));
        }
        Ok(())
    }
}

/// What a public key may have signed with. Nothing for a symmetric key: who can read one could
/// have made the signature.
fn algorithms(key: &Jwk) -> Vec<Algorithm> {
    let possible = match &key.algorithm {
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => Vec::new(),
        },
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms().to_vec(),
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        _ => Vec::new(),
    };
    let declared = key.common.key_algorithm;
    possible.into_iter().filter(|algorithm| declared.is_none_or(|declared| declared == (*algorithm).into())).collect()
}

fn header(token: &str) -> Result<Header, Flaw> {
    // `alg: none` ends here: no such algorithm can be named.
    let header = decode_header(token).map_err(|_| Flaw("it isn't a JWT"))?;
    if header.crit.is_some() {
        return Err(Flaw("its header has crit, and nothing critical is understood here"));
    }
    Ok(header)
}
