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
    /// Wrong: proofs are checked, and the tokens are bearer tokens all the same.
    pub dpop_downgrade: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            token_lifetime: Duration::from_secs(3600),
            assertion_audience: AssertionAudience::default(),
            mtls_aliases: false,
            dpop_downgrade: false,
        }
    }
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
