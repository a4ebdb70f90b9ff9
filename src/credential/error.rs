//! Why there is no token: who is at fault, whether waiting helps, what to do about it.
//!
//! What an authorization server said is cleaned before it gets in here; no variant holds
//! a secret. Knows nothing of status codes that agents see: that table is `proxy`'s.

use std::{sync::Arc, time::Duration};

use crate::{
    observe::{Noted, Record},
    primitives::{CredentialName, Hint},
};

use super::{sign::KeyError, source::SourceError, vault::VaultError};

/// Shared by every caller that waited for the same flight.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no token for credential `{credential}`: {failure}")]
pub struct Error {
    pub credential: CredentialName,
    pub failure: Arc<Failure>,
    /// When another attempt may be made; `None` where waiting doesn't help.
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
    Unavailable(#[source] Outage),
    /// The authorization server's answer can't be used: wrong by the standards.
    #[error("the authorization server's answer can't be used: {0}")]
    Protocol(#[source] Misbehaviour),
    /// A secret can't be read: the operator's machine is at fault.
    #[error("can't read the client secret: {0}")]
    Source(#[source] SourceError),
    /// The credential's settings can't work; `config` should have said so.
    #[error("the credential's settings can't work: {0}")]
    Settings(#[source] SettingsError),
    /// A human has to log in; waiting doesn't help, and neither does asking again.
    #[error("a login is needed: {0}")]
    LoginRequired(LoginReason),
    /// The human who was asked said no, or didn't answer in time.
    #[error("the human who was asked didn't approve: {0}")]
    NotApproved(&'static str),
    /// What is kept on the disk can't be read or written.
    #[error("the token store can't be used: {0}")]
    Store(#[source] VaultError),
    /// A private key can't be used: the operator's to mend.
    #[error("can't use the private key: {0}")]
    Key(#[source] KeyError),
    /// A client certificate or its key can't be used: the operator's to mend.
    #[error("can't use the client certificate: {0}")]
    Certificate(#[source] crate::tls::Error),
    /// The browser's answer couldn't be waited for: this machine is at fault.
    #[error("can't listen for the browser on this machine")]
    Callback(#[source] std::io::Error),
    /// The credential that this one feeds on has no token.
    #[error("{0}")]
    Feed(#[source] Box<Error>),
    /// The request waited as long as it may.
    #[error("the token didn't come in time")]
    Timeout,
    /// A refresh ended without a result: a defect of ours, or the process is ending.
    #[error("the token request was given up")]
    Abandoned,
}

/// Why a refresh token is none, or none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginReason {
    #[error("there has been no login yet")]
    Never,
    #[error("the authorization server doesn't take the refresh token any more")]
    Refused,
    /// B3: the server may have rotated the token in an answer that we never had.
    #[error(
        "a refresh broke off before its answer was kept, and the authorization server doesn't take the refresh token \
         again (a leeway for rotated tokens, where the server has that setting, would have saved it)"
    )]
    Ambiguous,
    #[error("the login has expired")]
    Expired,
    /// RFC 9470.
    #[error("the resource wants a fresher or stronger authentication")]
    StepUp,
}

/// How an authorization server is away.
#[derive(Debug, thiserror::Error)]
pub enum Outage {
    #[error("it can't be reached")]
    Connect(#[source] reqwest::Error),
    #[error("the connection broke")]
    Broken(#[source] reqwest::Error),
    #[error("it didn't answer within {0:?}")]
    Slow(Duration),
    #[error("it answered HTTP {0}")]
    Status(u16),
    #[error("it answered HTTP {status} `{code}`{}", detail_suffix(.detail))]
    Refused { status: u16, code: &'static str, detail: String },
}

/// How an answer is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Misbehaviour {
    /// Not followed: a 307 would send the secret elsewhere (RFC 9700 §4.12).
    #[error("a redirect (HTTP {0}), which is never followed")]
    Redirect(u16),
    #[error("HTTP {0} without an OAuth error")]
    Status(u16),
    #[error("more than {0} bytes")]
    TooLarge(usize),
    #[error("not the JSON object that RFC 6749 §5.1 describes")]
    NotJson,
    #[error("no `access_token` in it")]
    NoToken,
    #[error("a character in `access_token` that no bearer token has (RFC 6750 §2.1)")]
    TokenCharacter,
    #[error("no `token_type` in it (RFC 6749 §5.1 requires one)")]
    NoTokenType,
    #[error("`token_type` is `{0}`, not Bearer (RFC 6749 §7.1)")]
    TokenType(String),
    #[error("the granted scope lacks `{missing}`")]
    ScopeNarrower { missing: String },
    #[error("the granted scope has `{extra}`, which wasn't asked for (`strict_scopes`)")]
    ScopeWider { extra: String },
    /// RFC 8414 §3.3: compared code point by code point.
    #[error("the metadata's issuer is `{found}`, but `{expected}` is configured; they must be equal to the character")]
    Issuer { expected: String, found: String },
    #[error("no metadata found for issuer `{issuer}` (last: {last} from {url})")]
    NoMetadata { issuer: String, url: String, last: String },
    #[error("the metadata has no `{0}`")]
    NoEndpoint(&'static str),
    #[error("the metadata's endpoint `{0}` isn't an https URL")]
    Endpoint(String),
    #[error("no `issued_token_type` in it (RFC 8693 §2.2.1 requires one)")]
    NoIssuedTokenType,
    #[error("it issued a `{issued}`, not the `{wanted}` that was asked for")]
    IssuedTokenType { issued: String, wanted: String },
    /// RFC 9449 §5.
    #[error(
        "`token_type` is Bearer, though a token bound to our key was asked for: a downgrade (`dpop = \"required\"`)"
    )]
    Downgrade,
    #[error("`token_type` is DPoP, though no proof was sent (set `dpop`)")]
    UnaskedDpop,
    #[error("`token_type` is N_A: the token is an input for another step, not for a request")]
    NotForRequests,
    #[error("the answer lacks `{0}`")]
    Lacks(&'static str),
    /// RFC 9207 §2.4, and what else an answer at a redirect has to hold.
    #[error("the answer of the authorization endpoint can't be trusted: {0}")]
    Redirected(&'static str),
    #[error("its certificate can't be trusted")]
    Tls(#[source] reqwest::Error),
    #[error("the request can't be made")]
    Request(#[source] reqwest::Error),
}

/// What no load should have let through.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("there is no credential of this name")]
    UnknownCredential,
    #[error("it has no step")]
    NoSteps,
    #[error("the parameter `{0}` is given twice")]
    RepeatedParameter(String),
    #[error("`{0}` can't be set in `params`")]
    ReservedParameter(String),
    #[error("`{0}` isn't an https URL")]
    Url(String),
    #[error("what it feeds on isn't there")]
    NoInput,
    #[error("the agent sent no token of its own in `Authorization`, and this credential exchanges it")]
    NoSubject,
    #[error("the assertion's audience is the issuer, and none is configured (set `issuer`, or `aud_mode`)")]
    NoIssuer,
    #[error("a token can't stand in a header field")]
    NoFieldValue,
    #[error("the system gave no random numbers")]
    NoRandomness,
    #[error("the SAML assertion that its source gives has ended")]
    ExpiredAssertion,
    #[error("nobody logs in for this credential")]
    NoLogin,
    /// RFC 7636 §4.2.
    #[error("the server's metadata names its methods of PKCE, and S256 isn't among them")]
    NoPkce,
    #[error("the HTTP client can't be made")]
    Client(#[source] reqwest::Error),
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

impl Error {
    /// Whether waiting helps (503) or not (502).
    pub fn is_temporary(&self) -> bool {
        match *self.failure {
            Failure::Unavailable(_) | Failure::Timeout | Failure::Abandoned => true,
            Failure::Feed(ref error) => error.is_temporary(),
            // Another process is at it, or was stopped in the middle.
            Failure::Store(VaultError::Busy { .. }) => true,
            Failure::Refused { .. }
            | Failure::Protocol(_)
            | Failure::Source(_)
            | Failure::Settings(_)
            | Failure::LoginRequired(_)
            | Failure::NotApproved(_)
            | Failure::Store(_)
            | Failure::Key(_)
            | Failure::Certificate(_)
            | Failure::Callback(_) => false,
        }
    }

    /// A human has to do something before a token can be had: 403, not 502.
    pub fn wants_a_human(&self) -> bool {
        match &*self.failure {
            Failure::LoginRequired(_) | Failure::NotApproved(_) => true,
            Failure::Feed(error) => error.wants_a_human(),
            _something_else => false,
        }
    }

    /// The agent has to send something else: 400, not 502.
    pub fn is_the_agents(&self) -> bool {
        match &*self.failure {
            Failure::Settings(SettingsError::NoSubject) => true,
            Failure::Feed(error) => error.is_the_agents(),
            _something_else => false,
        }
    }

    /// The stable code of `surface.md`.
    pub fn code(&self) -> &'static str {
        match &*self.failure {
            Failure::LoginRequired(_) => "login_required",
            Failure::NotApproved(_) => "approval_denied",
            Failure::Settings(SettingsError::NoSubject) => "bad_request",
            Failure::Feed(error) => error.code(),
            _ if self.is_temporary() => "credential_unavailable",
            _ => "credential_failed",
        }
    }

    /// What to do about it; a command where one helps.
    pub fn hint(&self) -> Hint {
        let name = &self.credential;
        match &*self.failure {
            Failure::Refused { code, .. } => self.refusal_hint(code),
            Failure::Unavailable(_) => Hint::new(match self.retry_after {
                Some(wait) => format!(
                    "try again in {} s; the operator can try at once with `cupbearer token refresh {name}`",
                    wait.as_secs().max(1)
                ),
                None => format!("try again later; `cupbearer token refresh {name}` tries at once"),
            }),
            Failure::Protocol(wrong) => self.protocol_hint(wrong),
            Failure::Source(_) => Hint::new(format!(
                "make the secret of credential `{name}` readable, then run `cupbearer token refresh {name}`"
            )),
            Failure::LoginRequired(_) => Hint::new(format!("the operator runs `cupbearer login {name}`")),
            Failure::NotApproved(_) => Hint::fixed("ask the human who approves, then send the request again"),
            Failure::Store(_) => {
                Hint::new(format!("see to the state directory, then run `cupbearer token refresh {name}`"))
            }
            Failure::Callback(_) => {
                Hint::fixed("free the port of `redirect`, or leave it out for a free one; --device needs none")
            }
            Failure::Key(_) | Failure::Certificate(_) => Hint::new(format!(
                "see to the key files of credential `{name}`, then run `cupbearer token refresh {name}`"
            )),
            Failure::Feed(error) => error.hint(),
            Failure::Settings(SettingsError::NoLogin) => {
                Hint::new(format!("credential `{name}` needs no login: `cupbearer token show {name}` tells its state"))
            }
            Failure::Settings(SettingsError::NoSubject) => {
                Hint::fixed("send a token of your own in `Authorization`: this route exchanges it for the API's")
            }
            Failure::Settings(SettingsError::UnknownCredential) => Hint::fixed("run `cupbearer token list`"),
            Failure::Settings(_) => Hint::fixed("run `cupbearer check`"),
            Failure::Timeout | Failure::Abandoned => Hint::new(format!("try again; see `cupbearer token show {name}`")),
        }
    }

    fn protocol_hint(&self, wrong: &Misbehaviour) -> Hint {
        match wrong {
            Misbehaviour::Issuer { .. } => Hint::fixed(
                "copy `issuer` from the server's own metadata, to the character (a slash at the end counts), \
                 or set `token_endpoint`",
            ),
            Misbehaviour::NoMetadata { .. } => {
                Hint::fixed("check `issuer`, or set `token_endpoint` where the server publishes no metadata")
            }
            Misbehaviour::ScopeNarrower { .. } | Misbehaviour::ScopeWider { .. } => Hint::new(format!(
                "make `scopes` of credential `{}` what the server grants to this client",
                self.credential
            )),
            Misbehaviour::Tls(_) => {
                Hint::fixed("check the server's certificate; a private authority is named with `ca`")
            }
            _another => Hint::fixed(
                "check that `token_endpoint` or `issuer` names an OAuth 2.0 token endpoint that issues Bearer tokens",
            ),
        }
    }

    fn refusal_hint(&self, code: &str) -> Hint {
        let name = &self.credential;
        let what = match code {
            "invalid_client" => "check `client_id` and the client secret",
            "unauthorized_client" | "unsupported_grant_type" => "allow this grant for the client at the server",
            "invalid_scope" => "check `scopes`",
            "invalid_target" => "check `audience` and `resource`",
            "access_denied" => "authorize the client for the `audience` at the server",
            _ => "check the credential's settings",
        };
        Hint::new(format!("{what} (credential `{name}`), then run `cupbearer token refresh {name}`"))
    }
}

impl Noted for Error {
    fn note(&self, record: &mut Record) {
        record.outcome.error = Some(self.code());
    }
}

// === impl Failure ===

impl Failure {
    /// A stable class for events and metric labels; never what a server made up.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => known_code(code).map_or("oauth_error", |(code, _)| code),
            Self::Unavailable(outage) => outage.class(),
            Self::Protocol(fault) => fault.class(),
            Self::Source(_) => "secret_unreadable",
            Self::Settings(_) => "settings",
            Self::LoginRequired(_) => "login_required",
            Self::NotApproved(_) => "not_approved",
            Self::Store(_) => "store",
            Self::Key(_) => "key",
            Self::Certificate(_) => "certificate",
            Self::Callback(_) => "callback",
            Self::Feed(error) => error.failure.class(),
            Self::Timeout => "timeout",
            Self::Abandoned => "abandoned",
        }
    }

    /// The whole story for operators: what happened, and the cause at the bottom of it.
    pub fn describe(&self) -> String {
        let text = self.to_string();
        let mut deepest: &dyn std::error::Error = self;
        while let Some(cause) = deepest.source() {
            deepest = cause;
        }
        let cause = deepest.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    }

    /// The authorization server's own words, already cleaned; else ours.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Refused { detail, .. } | Self::Unavailable(Outage::Refused { detail, .. }) => detail.clone(),
            other => other.describe(),
        }
    }
}

impl Outage {
    fn class(&self) -> &'static str {
        match self {
            Self::Connect(_) => "unreachable",
            Self::Broken(_) => "broken_connection",
            Self::Slow(_) => "timeout",
            Self::Status(429) => "too_many_requests",
            Self::Status(_) => "server_error",
            Self::Refused { code, .. } => code,
        }
    }
}

impl Misbehaviour {
    fn class(&self) -> &'static str {
        match self {
            Self::Redirect(_) => "redirect",
            Self::Issuer { .. } => "issuer_mismatch",
            Self::NoMetadata { .. } | Self::NoEndpoint(_) | Self::Endpoint(_) => "discovery",
            Self::Downgrade | Self::UnaskedDpop => "dpop",
            Self::Redirected(_) => "redirect_answer",
            Self::ScopeNarrower { .. } | Self::ScopeWider { .. } => "scope_mismatch",
            Self::Tls(_) => "tls",
            Self::Status(_)
            | Self::TooLarge(_)
            | Self::NotJson
            | Self::NoToken
            | Self::TokenCharacter
            | Self::NoTokenType
            | Self::TokenType(_)
            | Self::NoIssuedTokenType
            | Self::IssuedTokenType { .. }
            | Self::NotForRequests
            | Self::Lacks(_)
            | Self::Request(_) => "invalid_answer",
        }
    }
}

// === the table of error codes ===

/// What a code of RFC 6749 §5.2 and its extensions means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// An operator or a human has to act.
    Terminal,
    /// It passes.
    Retryable,
}

/// The codes we know, with their class (standards 1.A); `None`: the HTTP status decides.
pub(crate) fn known_code(code: &str) -> Option<(&'static str, Class)> {
    const KNOWN: &[(&str, Class)] = &[
        ("invalid_request", Class::Terminal),
        ("invalid_client", Class::Terminal),
        ("invalid_grant", Class::Terminal),
        ("unauthorized_client", Class::Terminal),
        ("unsupported_grant_type", Class::Terminal),
        ("invalid_scope", Class::Terminal),
        ("invalid_target", Class::Terminal),
        ("invalid_authorization_details", Class::Terminal),
        ("unsupported_token_type", Class::Terminal),
        ("access_denied", Class::Terminal),
        ("expired_token", Class::Terminal),
        ("authorization_pending", Class::Terminal),
        ("interaction_required", Class::Terminal),
        ("login_required", Class::Terminal),
        ("consent_required", Class::Terminal),
        ("mfa_required", Class::Terminal),
        ("insufficient_user_authentication", Class::Terminal),
        ("use_dpop_nonce", Class::Terminal),
        ("invalid_dpop_proof", Class::Terminal),
        ("temporarily_unavailable", Class::Retryable),
        ("server_error", Class::Retryable),
        ("too_many_requests", Class::Retryable),
        ("slow_down", Class::Retryable),
    ];
    KNOWN.iter().find(|(known, _)| *known == code).copied()
}

// === impl Fault ===

/// One failed exchange: what happened and whether to try again.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) failure: Failure,
    pub(crate) retry: Retry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Not before something was changed.
    No,
    /// Later; not before this, where the server said so.
    After(Option<Duration>),
}

impl Fault {
    pub(crate) fn terminal(failure: Failure) -> Self {
        Self { failure, retry: Retry::No }
    }

    pub(crate) fn settings(error: SettingsError) -> Self {
        Self::terminal(Failure::Settings(error))
    }

    pub(crate) fn key(error: KeyError) -> Self {
        Self::terminal(Failure::Key(error))
    }

    /// The credential that this one feeds on failed; its own failure says whether to wait.
    pub(crate) fn feed(error: Error) -> Self {
        let retry = if error.is_temporary() { Retry::After(error.retry_after) } else { Retry::No };
        Self { failure: Failure::Feed(Box::new(error)), retry }
    }

    pub(crate) fn login(reason: LoginReason) -> Self {
        Self::terminal(Failure::LoginRequired(reason))
    }

    /// A full disk may be emptied: worth another try soon.
    pub(crate) fn store(error: VaultError) -> Self {
        Self { failure: Failure::Store(error), retry: Retry::After(None) }
    }

    /// The server's error code, if it said one.
    pub(crate) fn code(&self) -> Option<&str> {
        match &self.failure {
            Failure::Refused { code, .. } => Some(code),
            Failure::Unavailable(Outage::Refused { code, .. }) => Some(code),
            _ => None,
        }
    }

    pub(crate) fn protocol(fault: Misbehaviour) -> Self {
        Self::terminal(Failure::Protocol(fault))
    }

    pub(crate) fn outage(outage: Outage, wait: Option<Duration>) -> Self {
        Self { failure: Failure::Unavailable(outage), retry: Retry::After(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(failure: Failure) -> Error {
        let Ok(credential) = CredentialName::parse("orders") else { panic!("name") };
        Error { credential, failure: Arc::new(failure), retry_after: None }
    }

    #[test]
    fn codes_say_whether_waiting_helps() {
        assert_eq!(error(Failure::Timeout).code(), "credential_unavailable");
        assert_eq!(error(Failure::Unavailable(Outage::Status(503))).code(), "credential_unavailable");
        assert_eq!(error(Failure::Protocol(Misbehaviour::NoToken)).code(), "credential_failed");
    }

    #[test]
    fn an_agent_without_a_token_of_its_own_is_told_to_send_one() {
        let missing = || error(Failure::Settings(SettingsError::NoSubject));
        for error in [missing(), error(Failure::Feed(Box::new(missing())))] {
            assert!(error.is_the_agents() && !error.is_temporary() && !error.wants_a_human());
            assert_eq!(error.code(), "bad_request");
            assert!(error.hint().as_str().contains("`Authorization`"), "{}", error.hint());
        }
        assert!(!error(Failure::Settings(SettingsError::NoInput)).is_the_agents());
    }

    #[test]
    fn hints_name_what_to_change() {
        let refused = error(Failure::Refused { code: "invalid_client".to_owned(), detail: String::new() });
        assert!(refused.hint().as_str().contains("client_id"), "{}", refused.hint());
        assert!(refused.hint().as_str().contains("cupbearer token refresh orders"));
        let issuer = Misbehaviour::Issuer { expected: "https://a/".to_owned(), found: "https://a".to_owned() };
        let text = error(Failure::Protocol(issuer)).to_string();
        assert!(text.contains("`https://a/`") && text.contains("`https://a`"), "{text}");
    }

    #[test]
    fn operators_are_told_the_cause() {
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let failure = Failure::Source(SourceError::File { path: "/run/secret".into(), source });
        assert_eq!(failure.describe(), "can't read the client secret: /run/secret can't be read: permission denied");
        assert_eq!(Failure::Timeout.describe(), Failure::Timeout.to_string());
    }

    #[test]
    fn a_code_that_a_server_made_up_is_no_label() {
        let failure = Failure::Refused { code: "x".repeat(60), detail: String::new() };
        assert_eq!(failure.class(), "oauth_error");
    }
}
