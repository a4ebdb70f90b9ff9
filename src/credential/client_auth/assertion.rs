//! JWTs made here: client assertions (RFC 7523 §2.2), assertions that are a grant (§2.1), and
//! tokens that need no server. A new one for every attempt, with an id of its own (E1-E3).

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::{
    credential::{
        error::{Failure, Fault, SettingsError},
        sign::{self, Header, SigningKey, Thumbprints},
        step::{Assertion, KeySource},
        tools::Tools,
    },
    primitives::Secret,
};

/// What an assertion is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occasion<'a> {
    /// The client that asserts itself.
    pub(crate) client: Option<&'a str>,
    pub(crate) issuer: Option<&'a str>,
    pub(crate) token_endpoint: &'a str,
    /// Where this request goes.
    pub(crate) endpoint: &'a str,
    pub(crate) scopes: &'a [&'a str],
    /// Unix time by the server's clock, as far as we know it.
    pub(crate) now: u64,
}

/// Reads the `choice`th key and signs with it.
pub(crate) async fn made(
    assertion: &Assertion,
    choice: usize,
    occasion: &Occasion<'_>,
    tools: &Tools,
) -> Result<Secret, Fault> {
    let source = assertion.keys.get(choice).or(assertion.keys.first());
    let source = source.ok_or_else(|| Fault::terminal(Failure::Settings(SettingsError::NoInput)))?;
    let text = tools.read(&source.source).await?;
    let account = ServiceAccount::read(&text);
    let pem = account.as_ref().map_or(&text, |account| &account.private_key);
    let key = SigningKey::parse(pem, source.algorithm).map_err(Fault::key)?;
    let thumbprints = thumbprints(source, tools).await?;
    if let Some(thumbprints) = &thumbprints {
        thumbprints.check(&key).map_err(Fault::key)?;
    }
    let file = Named { source, account: account.as_ref(), thumbprints };
    signed(assertion, &key, Some(&file), occasion)
}

/// What goes with a key besides the key.
pub(crate) struct Named<'a> {
    source: &'a KeySource,
    account: Option<&'a ServiceAccount>,
    thumbprints: Option<Thumbprints>,
}

/// Signs the claims of `occasion`.
pub(crate) fn signed(
    assertion: &Assertion,
    key: &SigningKey,
    named: Option<&Named<'_>>,
    occasion: &Occasion<'_>,
) -> Result<Secret, Fault> {
    let account = named.and_then(|named| named.account);
    let thumbprints = named.and_then(|named| named.thumbprints.as_ref());
    let key_id = named.and_then(|named| named.source.key_id.clone());
    let header = Header {
        typ: Some(assertion.typ.clone().map_or(Cow::Borrowed("JWT"), Cow::Owned)),
        kid: key_id.or_else(|| account.and_then(|account| account.key_id.clone())),
        x5t: thumbprints.map(|thumbprints| thumbprints.x5t.clone()),
        x5t_s256: thumbprints.map(|thumbprints| thumbprints.x5t_s256.clone()),
        ..Header::default()
    };
    let claims = claims(assertion, account, occasion).map_err(|error| Fault::terminal(Failure::Settings(error)))?;
    key.sign(&header, &Value::Object(claims)).map_err(Fault::key)
}

fn claims(
    assertion: &Assertion,
    account: Option<&ServiceAccount>,
    occasion: &Occasion<'_>,
) -> Result<Map<String, Value>, SettingsError> {
    let mut claims = Map::new();
    let own = || occasion.client.map(str::to_owned);
    let email = || account.and_then(|account| account.email.clone());
    let issuer = assertion.iss.clone().or_else(email).or_else(own);
    let subject = assertion.sub.clone().or_else(own);
    for (name, value) in [("iss", issuer), ("sub", subject), ("aud", assertion.aud.audience(occasion)?)] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            claims.insert(name.to_owned(), Value::String(value));
        }
    }
    claims.insert("iat".to_owned(), json!(occasion.now.saturating_sub(assertion.backdate.as_secs())));
    claims.insert("exp".to_owned(), json!(occasion.now + assertion.lifetime.as_secs()));
    if assertion.jti {
        claims.insert("jti".to_owned(), Value::String(sign::unique_id().map_err(|_| SettingsError::NoRandomness)?));
    }
    if assertion.scope_claim && !occasion.scopes.is_empty() {
        claims.insert("scope".to_owned(), Value::String(occasion.scopes.join(" ")));
    }
    claims.extend(assertion.claims.iter().cloned());
    Ok(claims)
}

async fn thumbprints(source: &KeySource, tools: &Tools) -> Result<Option<Thumbprints>, Fault> {
    let Some(path) = &source.certificate else { return Ok(None) };
    let pem = tools.read(&crate::credential::Source::File(path.clone())).await?;
    Thumbprints::parse(pem.expose()).map(Some).map_err(Fault::key)
}

/// Google's file of a service account: the key, and who it is for.
pub(crate) struct ServiceAccount {
    private_key: Secret,
    email: Option<String>,
    key_id: Option<String>,
}

impl ServiceAccount {
    /// `None`: the text is something else, a bare key.
    fn read(text: &Secret) -> Option<Self> {
        if !text.expose().trim_start().starts_with('{') {
            return None;
        }
        let Value::Object(mut object) = serde_json::from_str(text.expose()).ok()? else { return None };
        let mut take = |name: &str| match object.remove(name) {
            Some(Value::String(text)) => Some(text),
            Some(_) | None => None,
        };
        let private_key = Secret::new(take("private_key")?);
        Some(Self { private_key, email: take("client_email"), key_id: take("private_key_id") })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::credential::{step::AudMode, testing};

    fn claims_of(assertion: &Assertion, occasion: &Occasion<'_>) -> Map<String, Value> {
        claims(assertion, None, occasion).unwrap()
    }

    /// E1: the client is issuer and subject, the issuer is the one audience, one string; the
    /// life is short and the id is new.
    #[test]
    fn a_client_asserts_itself() {
        let occasion = Occasion { client: Some("client-1"), ..testing::occasion() };
        let first = claims_of(&Assertion::default(), &occasion);
        assert_eq!((&first["iss"], &first["sub"]), (&json!("client-1"), &json!("client-1")));
        assert_eq!(first["aud"], json!("https://as.example/"));
        assert_eq!(first["exp"].as_u64().unwrap() - first["iat"].as_u64().unwrap(), 60);
        let second = claims_of(&Assertion::default(), &occasion);
        let jti = first["jti"].as_str().unwrap();
        assert!((22..=64).contains(&jti.len()), "{jti}");
        assert_ne!(first["jti"], second["jti"]);
    }

    /// E2.
    #[test]
    fn the_audience_is_what_the_server_wants() {
        let occasion = testing::occasion();
        let aud = |aud: AudMode| claims_of(&Assertion { aud, ..Assertion::default() }, &occasion).get("aud").cloned();
        assert_eq!(aud(AudMode::Issuer), Some(json!("https://as.example/")));
        assert_eq!(aud(AudMode::TokenEndpoint), Some(json!("https://as.example/token")));
        assert_eq!(aud(AudMode::Endpoint), Some(json!("https://as.example/revoke")));
        assert_eq!(aud(AudMode::Literal("x".to_owned())), Some(json!("x")));
        assert_eq!(aud(AudMode::Absent), None);
        let nowhere = Occasion { issuer: None, ..occasion };
        assert!(matches!(claims(&Assertion::default(), None, &nowhere), Err(SettingsError::NoIssuer)));
    }

    #[test]
    fn a_service_account_speaks_for_itself() {
        let file =
            json!({"type": "service_account", "private_key": "PEM", "client_email": "a@b", "private_key_id": "k"});
        let account = ServiceAccount::read(&Secret::new(file.to_string())).unwrap();
        let assertion = Assertion {
            scope_claim: true,
            lifetime: Duration::from_secs(3600),
            backdate: Duration::from_secs(60),
            claims: vec![("target".to_owned(), json!(["x"]))],
            ..Assertion::default()
        };
        let occasion = Occasion { scopes: &["a", "b"], ..testing::occasion() };
        let claims = claims(&assertion, Some(&account), &occasion).unwrap();
        assert_eq!(
            (&claims["iss"], &claims["scope"], &claims["target"]),
            (&json!("a@b"), &json!("a b"), &json!(["x"]))
        );
        assert!(!claims.contains_key("sub"));
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3660);
        for bare in ["-----BEGIN PRIVATE KEY-----", "{\"kty\":\"EC\"}", "{", ""] {
            assert!(ServiceAccount::read(&Secret::new(bare.to_owned())).is_none());
        }
    }
}
