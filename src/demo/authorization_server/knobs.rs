//! What may be otherwise from one real server to another without being wrong.

use std::time::Duration;

/// How the server behaves towards all clients. The default is what the RFCs ask for.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Of an access token; whole seconds, rounded up.
    pub token_lifetime: Duration,
    pub assertion_audience: AssertionAudience,
    /// Metadata names other endpoints for clients with certificates (RFC 8705 §5), and a
    /// certificate that is shown elsewhere goes unseen.
    pub mtls_aliases: bool,
    pub authorize: AuthorizeKnobs,
    /// Logins at another device.
    pub device: PollKnobs,
    /// Consent that is asked for on somebody's own device (CIBA).
    pub backchannel: PollKnobs,
    /// Auth0's statuses where RFC 6749 and RFC 8628 have 400: 403 for `invalid_grant` and for
    /// polls, 429 for `slow_down`.
    pub auth0_statuses: bool,
    /// Wrong: proofs are checked, and the tokens are bearer tokens all the same.
    pub dpop_downgrade: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            token_lifetime: Duration::from_secs(3600),
            assertion_audience: AssertionAudience::default(),
            mtls_aliases: false,
            authorize: AuthorizeKnobs::default(),
            device: PollKnobs::default(),
            backchannel: PollKnobs::default(),
            auth0_statuses: false,
            dpop_downgrade: false,
        }
    }
}

/// How the authorization endpoint answers.
#[derive(Clone, Debug)]
pub struct AuthorizeKnobs {
    /// The user says no.
    pub deny: bool,
    pub state: Returned,
    /// RFC 9207.
    pub iss: Returned,
    /// Whether metadata says that there will be an `iss`.
    pub promises_iss: bool,
}

impl Default for AuthorizeKnobs {
    fn default() -> Self {
        Self { deny: false, state: Returned::Right, iss: Returned::Right, promises_iss: true }
    }
}

/// A parameter of the authorization response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Returned {
    #[default]
    Right,
    Missing,
    Wrong(String),
}

/// How a login goes that a client polls for.
#[derive(Clone, Debug)]
pub struct PollKnobs {
    /// What each poll meets; the last one stands for all that follow.
    pub script: Vec<Poll>,
    /// Whole seconds. A poll that comes sooner is told to slow down, whatever the script says.
    pub interval: Duration,
    /// Whole seconds.
    pub lifetime: Duration,
}

impl Default for PollKnobs {
    fn default() -> Self {
        Self { script: vec![Poll::Approve], interval: Duration::from_secs(5), lifetime: Duration::from_secs(300) }
    }
}

/// What a poll meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    Pending,
    SlowDown,
    Approve,
    Deny,
    Expire,
}

/// What a client's assertion must name as its audience.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssertionAudience {
    /// The issuer as the sole value, a string (RFC 10070).
    #[default]
    Issuer,
    /// The token endpoint, or the endpoint that is called, among others (RFC 7523 §3 as most
    /// servers took it).
    Endpoint,
    Either,
}
