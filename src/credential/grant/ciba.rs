//! A human approves on a device of theirs (OpenID Connect CIBA Core 1.0, poll mode): the
//! authentication request first, then the token endpoint is polled with its id.

use crate::{
    credential::{Source, error::SettingsError, request::TokenRequest},
    primitives::Secret,
};

/// The grant type of the specification.
pub const GRANT_TYPE: &str = "urn:openid:params:grant-type:ciba";

/// Auth0's bound, the tightest one known.
const MAX_BINDING_MESSAGE: usize = 64;

/// Who is asked, and what they read.
#[derive(Clone, Debug)]
pub struct Ciba {
    pub hint: Hint,
    pub binding_message: Option<String>,
    /// In seconds.
    pub requested_expiry: Option<u64>,
}

/// Exactly one (CIBA §7.1).
#[derive(Clone, Debug)]
pub enum Hint {
    LoginHint(String),
    LoginHintToken(Source),
    IdTokenHint(Source),
}

impl Hint {
    pub(super) fn source(&self) -> Option<&Source> {
        match self {
            Self::LoginHint(_) => None,
            Self::LoginHintToken(source) | Self::IdTokenHint(source) => Some(source),
        }
    }
}

impl Ciba {
    /// The authentication request (CIBA §7.1), before the client signs it. `hint`: what the
    /// hint's source holds. `message`: what the human reads instead of the configured text.
    pub(crate) fn ask(
        &self,
        request: &mut TokenRequest,
        hint: Option<&Secret>,
        message: Option<&str>,
    ) -> Result<(), SettingsError> {
        match (&self.hint, hint) {
            (Hint::LoginHint(text), _) => request.set("login_hint", text)?,
            (Hint::LoginHintToken(_), Some(token)) => request.set_secret("login_hint_token", token)?,
            (Hint::IdTokenHint(_), Some(token)) => request.set_secret("id_token_hint", token)?,
            (Hint::LoginHintToken(_) | Hint::IdTokenHint(_), None) => return Err(SettingsError::NoInput),
        }
        if let Some(message) = message.or(self.binding_message.as_deref()) {
            request.set("binding_message", &binding_message(message))?;
        }
        if let Some(seconds) = self.requested_expiry {
            request.set("requested_expiry", &seconds.to_string())?;
        }
        Ok(())
    }
}

/// `given`: the authentication request's id.
pub(super) fn fill(request: &mut TokenRequest, given: &[Secret]) -> Result<(), SettingsError> {
    request.set_secret("auth_req_id", super::only(given)?)
}

/// Only what every server takes: an agent's words may be in it (standards 1.I).
pub(crate) fn binding_message(text: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() || " +-_.,:#".contains(char) { char } else { '-' };
    text.chars().map(plain).take(MAX_BINDING_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_words_become_harmless() {
        assert_eq!(binding_message("GET /v1/orders?x=<b>\u{202e}\n"), "GET -v1-orders-x--b---");
        assert_eq!(binding_message(&"x".repeat(100)).len(), 64);
    }
}
