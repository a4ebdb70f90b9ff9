//! A human has logged in, or somebody handed us a refresh token: from there on it is
//! `refresh_token` (RFC 6749 §6). How the first one is come by is `login`'s: by a code on a
//! loopback port (RFC 8252) or on another device (RFC 8628).

use crate::{
    credential::{Source, error::SettingsError, request::TokenRequest},
    primitives::{CredentialName, Secret},
};

pub(super) const REFRESH_TOKEN: &str = "refresh_token";

/// A refresh token and its way in.
#[derive(Clone, Debug)]
pub struct Login {
    pub kind: LoginKind,
    /// A refresh token that was got elsewhere: the first one, or one newer than ours.
    pub seed: Option<Source>,
    /// Another credential's refresh token serves this one too (Auth0's multi-resource
    /// refresh tokens).
    pub of: Option<CredentialName>,
}

/// How a human logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginKind {
    /// Not here: the refresh token comes from the seed.
    RefreshToken,
    AuthorizationCode {
        redirect: Redirect,
        /// More parameters of the authorization request.
        params: Vec<(String, String)>,
    },
    DeviceCode,
}

/// Where the browser comes back to. RFC 8252 §7.3 wants `127.0.0.1` and a port of the
/// moment; some servers know only what was registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    pub localhost: bool,
    pub port: Option<u16>,
}

impl LoginKind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::RefreshToken => REFRESH_TOKEN,
            Self::AuthorizationCode { .. } => "authorization_code",
            Self::DeviceCode => "device_code",
        }
    }
}

/// `given`: the refresh token.
pub(super) fn fill(request: &mut TokenRequest, given: &[Secret]) -> Result<(), SettingsError> {
    request.set_secret("refresh_token", super::only(given)?)
}
