//! A code from the authorization endpoint, redeemed with the verifier of its challenge
//! (RFC 6749 §4.1.3, RFC 7636 §4.5). A code that is shown again ends the login it gave.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::time::Instant;

use crate::{
    demo::{
        Error,
        authorization_server::{
            Cause, Shared, client_auth::Caller, consent::Consent, error::OAuthError, post::Reply, request::Params,
        },
        journal::lock,
        random_secret,
    },
    primitives::{Secret, sha256},
};

/// RFC 6749 §4.1.2 has at most ten minutes.
const LIFE: Duration = Duration::from_secs(60);

/// By a code's digest.
#[derive(Debug, Default)]
pub(in crate::demo::authorization_server) struct Codes(HashMap<[u8; 32], Code>);

/// What a code stands for.
#[derive(Debug)]
pub(in crate::demo::authorization_server) struct Code {
    consent: Consent,
    redirect_uri: String,
    challenge: String,
    /// The DPoP key that has to be proved (RFC 9449 §10).
    jkt: Option<String>,
    issued: Instant,
    spent: bool,
    /// The refresh token that it was redeemed for.
    refresh_token: Option<Secret>,
}

impl Shared {
    pub(super) fn authorization_code(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let code = params.secret("code").ok_or_else(|| OAuthError::invalid_request("code is missing"))?;
        let digest = sha256(code.expose().as_bytes());
        let mut codes = lock(&self.codes);
        let unknown = || OAuthError::invalid_grant("the code is unknown, expired or another client's");
        let code = codes.0.get_mut(&digest).ok_or_else(unknown)?;
        if code.consent.client_id != caller.client.id {
            return Err(unknown());
        }
        if code.spent {
            if let Some(token) = &code.refresh_token {
                lock(&self.refresh_tokens).revoke(token, Cause::CodeReuse);
            }
            return Err(OAuthError::invalid_grant("the code was used before; what it gave is revoked"));
        }
        // Whatever comes of it: who guesses a verifier shall have one guess.
        code.spent = true;
        code.check(caller, params)?;
        let (reply, refresh_token) = self.grant_login(caller, code.consent.clone())?;
        code.refresh_token = refresh_token;
        Ok(reply)
    }
}

// === impl Codes ===

impl Codes {
    pub(in crate::demo::authorization_server) fn issue(&mut self, code: Code) -> Result<Secret, Error> {
        let secret = random_secret()?;
        self.0.insert(sha256(secret.expose().as_bytes()), code);
        Ok(secret)
    }
}

// === impl Code ===

impl Code {
    pub(in crate::demo::authorization_server) fn new(
        consent: Consent,
        redirect_uri: String,
        challenge: String,
    ) -> Self {
        let issued = Instant::now();
        Self { consent, redirect_uri, challenge, jkt: None, issued, spent: false, refresh_token: None }
    }

    pub(in crate::demo::authorization_server) fn bound_to(self, jkt: Option<String>) -> Self {
        Self { jkt, ..self }
    }

    fn check(&self, caller: &Caller, params: &Params) -> Result<(), OAuthError> {
        if self.issued.elapsed() >= LIFE {
            return Err(OAuthError::invalid_grant("the code has expired"));
        }
        if params.get("redirect_uri") != Some(self.redirect_uri.as_str()) {
            return Err(OAuthError::invalid_grant("redirect_uri isn't the one of the authorization request"));
        }
        if !params.get("code_verifier").is_some_and(|verifier| self.is_verified_by(verifier)) {
            return Err(OAuthError::invalid_grant("code_verifier doesn't fit the challenge"));
        }
        if self.jkt.is_some() && self.jkt != caller.binding.jkt {
            return Err(OAuthError::invalid_grant("the code is bound to another DPoP key"));
        }
        Ok(())
    }

    /// RFC 7636 §4.1, §4.6.
    fn is_verified_by(&self, verifier: &str) -> bool {
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        (43..=128).contains(&verifier.len())
            && verifier.bytes().all(unreserved)
            && URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes())) == self.challenge
    }
}

/// A SHA-256 in base64url.
pub(in crate::demo::authorization_server) fn is_challenge(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|digest| digest.len() == 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Code {
        let text = || "client".to_owned();
        let consent = Consent {
            client_id: text(),
            subject: text(),
            scopes: Vec::new(),
            audiences: Vec::new(),
            login: None,
            actor: None,
            holder: Default::default(),
        };
        // The pair of RFC 7636 app. B.
        Code::new(consent, "https://client.test/".to_owned(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".to_owned())
    }

    #[tokio::test]
    async fn a_verifier_is_long_enough_and_plain() {
        let code = code();
        assert!(code.is_verified_by("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
        assert!(!code.is_verified_by("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXK"));
        for bad in ["short".to_owned(), "x".repeat(129), format!("{}+", "x".repeat(43))] {
            let challenge = URL_SAFE_NO_PAD.encode(sha256(bad.as_bytes()));
            assert!(!Code { challenge, ..self::code() }.is_verified_by(&bad), "{bad}");
        }
        assert!(is_challenge(&code.challenge) && !is_challenge("plain"));
    }
}
