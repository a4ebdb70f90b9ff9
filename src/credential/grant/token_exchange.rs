//! Token exchange (RFC 8693). `grant_type` and token types are free strings, for the servers
//! that have an exchange of their own making (Auth0's Token Vault).

use crate::{
    credential::{
        error::{Misbehaviour, SettingsError},
        request::TokenRequest,
        step::Input,
    },
    primitives::Secret,
};

/// The grant type of the RFC.
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// What is exchanged for what.
#[derive(Clone, Debug)]
pub struct TokenExchange {
    pub grant_type: String,
    pub subject: Subject,
    pub actor: Option<Subject>,
    pub requested_token_type: Option<String>,
}

/// A token and its type: both or none (RFC 8693 §2.1).
#[derive(Clone, Debug)]
pub struct Subject {
    pub input: Input,
    pub token_type: String,
}

impl TokenExchange {
    pub(super) fn inputs(&self) -> Vec<&Input> {
        std::iter::once(&self.subject).chain(&self.actor).map(|subject| &subject.input).collect()
    }

    pub(super) fn fill(&self, request: &mut TokenRequest, given: &[Secret]) -> Result<(), SettingsError> {
        request.set_secret("subject_token", super::only(given)?)?;
        request.set("subject_token_type", &self.subject.token_type)?;
        if let Some(actor) = &self.actor {
            request.set_secret("actor_token", given.get(1).ok_or(SettingsError::NoInput)?)?;
            request.set("actor_token_type", &actor.token_type)?;
        }
        if let Some(wanted) = &self.requested_token_type {
            request.set("requested_token_type", wanted)?;
        }
        Ok(())
    }

    /// RFC 8693 §2.2.1: the answer says what it issued, and that is what was asked for. An
    /// exchange of a server's own making is held to no more than not contradicting us.
    pub(crate) fn check(&self, issued: Option<&str>) -> Result<(), Misbehaviour> {
        match (issued, &self.requested_token_type) {
            (None, _) if self.grant_type == GRANT_TYPE => Err(Misbehaviour::NoIssuedTokenType),
            (Some(issued), Some(wanted)) if issued != wanted => {
                let (issued, wanted) = (issued.chars().take(200).collect(), wanted.clone());
                Err(Misbehaviour::IssuedTokenType { issued, wanted })
            }
            (None | Some(_), _) => Ok(()),
        }
    }
}
