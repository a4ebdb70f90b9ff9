//! Why there is no token.

use std::{sync::Arc, time::Duration};

use crate::{
    observe::{Noted, Record},
    primitives::{CredentialName, Hint},
};

/// Shared by every caller that waited for the same flight.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no token for credential `{credential}`: {failure}")]
pub struct Error {
    pub credential: CredentialName,
    pub failure: Arc<Failure>,
    /// When another attempt may be made.
    pub retry_after: Option<Duration>,
}

/// What went wrong; the variant says who is at fault.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The authorization server refused: the operator has to change something.
    #[error("the authorization server answered `{code}`{}", detail_suffix(.detail))]
    Refused { code: String, detail: String },
    /// The authorization server is down, slow or over its limits: it will pass.
    #[error("the authorization server is unavailable: {0}")]
    Unavailable(String),
    /// The authorization server's answer can't be used: wrong by the standards.
    #[error("the authorization server's answer can't be used: {0}")]
    Protocol(String),
    /// A secret can't be read: the operator's machine is at fault.
    #[error("can't read the client secret: {0}")]
    Source(#[source] super::source::SourceError),
    /// The request waited as long as it may.
    #[error("the token didn't come in time")]
    Timeout,
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

impl Error {
    /// Whether waiting helps (503) or not (502).
    pub fn is_temporary(&self) -> bool {
        match *self.failure {
            Failure::Unavailable(_) | Failure::Timeout => true,
            Failure::Refused { .. } | Failure::Protocol(_) | Failure::Source(_) => false,
        }
    }

    pub fn hint(&self) -> Hint {
        todo!()
    }
}

impl Noted for Error {
    fn note(&self, _record: &mut Record) {
        todo!()
    }
}
