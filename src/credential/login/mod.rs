//! A human logs in, and we get a refresh token: in a browser on this machine, or on any other
//! device. From there on it is a grant like others. Knows neither terminal nor browser: what
//! a human has to see goes through a [`Prompt`].
//!
//! ```text
//! authorization  listen on loopback -> Prompt::browse -> the browser comes back -> judge -> code
//! device         ask for a code -> Prompt::enter -> poll
//!   both: Exchange::settle    granted scopes judged, the session durable
//! ```

mod authorization;
mod callback;
mod device;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use crate::primitives::{Fingerprint, Hint};

use super::{
    Error,
    dpop::Prover,
    error::{Failure, Fault, Misbehaviour, SettingsError},
    exchange::{Exchange, LoginStep},
    grant::LoginKind,
};

/// Shows a human what to do. Nothing in it is a secret of ours.
pub trait Prompt: Send + Sync {
    /// Open this URL, in a browser on this machine.
    fn browse(&self, page: &Page);

    /// Enter this code, on any device.
    fn enter(&self, code: &UserCode);
}

/// Where a login begins, and where the browser comes back to.
#[derive(Clone, Debug)]
pub struct Page {
    pub url: String,
    /// Has to be registered at the server.
    pub redirect_uri: String,
    /// How long it is waited for.
    pub expires_in: Duration,
}

/// What RFC 8628 §3.2 wants to be shown. The server's words, fit for a terminal.
#[derive(Clone, Debug)]
pub struct UserCode {
    /// Where to enter the code.
    pub url: String,
    pub code: String,
    /// The same with the code in it.
    pub complete_url: Option<String>,
    pub expires_in: Duration,
}

/// What whoever starts a login may choose.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// On another device (RFC 8628), whatever the credential's grant says.
    pub device: bool,
    /// Parameters of the authorization request: `acr_values`, `max_age`, `prompt`. They
    /// replace those of the config.
    pub params: Vec<(String, String)>,
}

/// How a login ended at its server. Here it is forgotten.
#[derive(Debug)]
pub enum LoggedOut {
    Revoked,
    /// There was no refresh token to give back.
    NothingToRevoke,
    /// The server takes no tokens back, or none of this kind.
    Unsupported,
    /// The server may still take the refresh token.
    NotRevoked(Error),
}

/// A login, seen by either way of it.
struct Way<'a> {
    exchange: &'a Exchange,
    at: LoginStep<'a>,
    scopes: &'a [&'a str],
    params: &'a [(String, String)],
    /// Made for this login.
    prover: Option<&'a Arc<Prover>>,
}

/// One login, to its end. The fingerprint is the refresh token's.
pub(crate) async fn log_in(
    exchange: &Exchange,
    scopes: &[&str],
    options: &Options,
    prompt: &dyn Prompt,
) -> Result<Fingerprint, Fault> {
    let at = exchange.login_step().ok_or_else(no_login)?;
    let params = params(&at.login.kind, &options.params)?;
    let prover = exchange.fresh_prover(at.step)?;
    let way = Way { exchange, at, scopes, params: &params, prover: prover.as_ref() };
    let reached = match &at.login.kind {
        LoginKind::RefreshToken => return Err(no_login()),
        LoginKind::AuthorizationCode { redirect, .. } if !options.device => way.by_browser(redirect, prompt).await?,
        LoginKind::AuthorizationCode { .. } | LoginKind::DeviceCode => way.by_device(prompt).await?,
    };
    exchange.settle(at, scopes, reached).await
}

pub(crate) fn no_login() -> Fault {
    Fault::settings(SettingsError::NoLogin)
}

/// What to do about a login that failed; `None`: what the error itself says.
pub fn hint(error: &Error) -> Option<Hint> {
    let name = &error.credential;
    let text = match &*error.failure {
        Failure::Protocol(Misbehaviour::Lacks("refresh_token")) => format!(
            "the server gave no refresh token: add `offline_access` to `scopes` of credential `{name}`, or allow \
             refresh tokens for the client at the server"
        ),
        Failure::Protocol(Misbehaviour::Redirected(_)) => {
            "the answer may be forged: log in again, and only through the server's own pages".to_owned()
        }
        Failure::Protocol(Misbehaviour::NoEndpoint("authorization_endpoint")) => {
            "set `authorization_endpoint` of the authorization server, or log in with --device".to_owned()
        }
        Failure::Protocol(Misbehaviour::NoEndpoint("device_authorization_endpoint")) => {
            "set `device_authorization_endpoint` of the authorization server, or log in without --device".to_owned()
        }
        Failure::Refused { .. } => format!("see to the client at the server, then run `cupbearer login {name}` again"),
        Failure::NotApproved(_) => format!("run `cupbearer login {name}` again"),
        _ => return None,
    };
    Some(Hint::new(text))
}

/// Those of the config, unless they are given anew.
fn params(kind: &LoginKind, given: &[(String, String)]) -> Result<Vec<(String, String)>, Fault> {
    /// What makes the request ours: set through a parameter it would undo the checks.
    const RESERVED: &[&str] = &[
        "response_type",
        "response_mode",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "code_challenge",
        "code_challenge_method",
        "resource",
        "dpop_jkt",
        "request",
        "request_uri",
    ];
    let configured = match kind {
        LoginKind::AuthorizationCode { params, .. } => params.as_slice(),
        LoginKind::DeviceCode | LoginKind::RefreshToken => &[],
    };
    let replaced = |name: &String| given.iter().any(|(given, _)| given == name);
    let kept = configured.iter().filter(|(name, _)| !replaced(name));
    let params: Vec<(String, String)> = kept.chain(given).cloned().collect();
    for (at, (name, _)) in params.iter().enumerate() {
        if RESERVED.contains(&name.as_str()) {
            return Err(Fault::settings(SettingsError::ReservedParameter(name.clone())));
        }
        if params[..at].iter().any(|(earlier, _)| earlier == name) {
            return Err(Fault::settings(SettingsError::RepeatedParameter(name.clone())));
        }
    }
    Ok(params)
}
