//! How the client proves itself at the token endpoint (RFC 6749 §2.3).

use super::Source;

/// A client as the authorization server knows it.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    pub auth: ClientAuth,
}

/// One method a request (A4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    SecretBasic { secret: Source, encoding: BasicEncoding },
    SecretPost { secret: Source },
}

/// How id and secret are written before base64 (A3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BasicEncoding {
    /// Each form-urlencoded first (RFC 6749 §2.3.1).
    #[default]
    Rfc6749,
    /// Plainly concatenated, as Auth0 documents.
    Raw,
}
