//! A credential's recipe: a list of steps, each one exchange with a server or one thing made
//! here. Data only, as `config` writes it: where each secret is, never the secret.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use serde_json::Value;

use crate::primitives::CredentialName;

use super::{
    AuthorizationServer, Source,
    client_auth::{Client, ClientAuth},
    grant::Grant,
    sign::Algorithm,
};

/// One exchange. Its output may be the next one's input ([`Input::Previous`]).
#[derive(Clone, Debug)]
pub struct Step {
    pub grant: Grant,
    /// `None` for what needs no server: `static`, `basic`, `self_signed_jwt`.
    pub server: Option<Arc<AuthorizationServer>>,
    pub client: Client,
    pub ask: Ask,
    pub answer: AnswerFormat,
    pub dpop: DpopUse,
}

/// What a token request asks for, besides what its grant says.
#[derive(Clone, Debug)]
pub struct Ask {
    /// May repeat in a token exchange (RFC 8693 §2.1); elsewhere there is one at most.
    pub audience: Vec<String>,
    pub scopes: Vec<String>,
    /// RFC 8707; may repeat.
    pub resource: Vec<String>,
    /// Anything else the server wants.
    pub params: Vec<(String, String)>,
    /// Fields of the token request that a server wants and no RFC knows.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: BodyFormat,
    /// `POST`, but for some sources of tokens that are no token endpoint.
    pub method: Method,
}

/// How the token request's parameters are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BodyFormat {
    /// `application/x-www-form-urlencoded`, as RFC 6749 says.
    #[default]
    Form,
    /// `application/json`, which Auth0 takes too.
    Json,
}

/// Where in the answer things stand: JSON pointers (RFC 6901). `None`: where RFC 6749 §5.1
/// has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerFormat {
    pub token: Option<String>,
    pub token_type: Option<String>,
    pub expires_in: Option<String>,
    /// A moment instead of a duration: RFC 3339, or seconds or milliseconds since 1970.
    pub expires_at: Option<String>,
    pub scope: Option<String>,
    pub refresh_token: Option<String>,
    pub error: Option<String>,
    pub error_description: Option<String>,
    /// Shown to the operator by these names: Salesforce's `instance_url`.
    pub extra: Vec<(String, String)>,
    /// An answer without `token_type` is a Bearer token: for what is no token endpoint.
    pub bearer: bool,
}

/// Whether tokens are bound to a key of ours (RFC 9449).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DpopUse {
    #[default]
    Off,
    /// A server that answers with a Bearer token is believed.
    Preferred,
    /// … is refused: it would be a downgrade (RFC 9449 §5).
    Required,
}

/// A token or an assertion that a request sends along.
#[derive(Clone, Debug)]
pub enum Input {
    /// A secret of the operator's, read anew for each request: a projected token is
    /// replaced under our feet (E9).
    Source(Source),
    /// What another credential holds.
    Credential { name: CredentialName, which: Which },
    /// The `Authorization` that the agent sent, by explicit opt-in: the token that is got
    /// with it is for this agent's subject only.
    Agent,
    /// The output of the step before.
    Previous,
    /// Made and signed here.
    Jwt(Box<Assertion>),
}

/// Which of another credential's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Which {
    #[default]
    AccessToken,
    RefreshToken,
    IdToken,
}

/// A JWT that is made here (RFC 7523 §3).
#[derive(Clone, Debug)]
pub struct Assertion {
    /// Tried in order after `invalid_client` or `invalid_grant`; the last good one is kept.
    pub keys: Vec<KeySource>,
    pub iss: Option<String>,
    pub sub: Option<String>,
    pub aud: AudMode,
    pub lifetime: Duration,
    /// How far `iat` lies back, for servers whose clocks are behind (GitHub).
    pub backdate: Duration,
    pub typ: Option<String>,
    /// `scope` as a claim (Google).
    pub scope_claim: bool,
    pub jti: bool,
    pub claims: Vec<(String, Value)>,
}

/// A private key and how it signs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeySource {
    pub source: Source,
    /// `None`: what suits the key.
    pub algorithm: Option<Algorithm>,
    pub key_id: Option<String>,
    /// For `x5t` and `x5t#S256` (Entra): a PEM file.
    pub certificate: Option<std::path::PathBuf>,
}

/// What an assertion names as its audience (E2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum AudMode {
    /// The issuer as the only value (RFC 10070).
    #[default]
    Issuer,
    /// The token endpoint, whichever endpoint the request goes to.
    TokenEndpoint,
    /// The endpoint that the request goes to.
    Endpoint,
    Literal(String),
    /// No `aud` at all.
    Absent,
}

// === impl Step ===

impl Step {
    /// The name in the config, in events and in metric labels.
    pub fn name(&self) -> &'static str {
        self.grant.name()
    }

    /// The credentials that this one feeds on.
    pub fn feeds_on(&self) -> Vec<&CredentialName> {
        self.grant.inputs().into_iter().filter_map(Input::credential).collect()
    }

    /// Whether the token depends on who asks.
    pub fn takes_the_agents_token(&self) -> bool {
        self.grant.inputs().iter().any(|input| matches!(input, Input::Agent))
    }

    /// Every place where a secret of this step is.
    pub fn sources(&self) -> Vec<&Source> {
        let mut sources = self.client.auth.sources();
        sources.extend(self.grant.sources());
        for input in self.grant.inputs() {
            match input {
                Input::Source(source) => sources.push(source),
                Input::Jwt(assertion) => sources.extend(assertion.keys.iter().map(|key| &key.source)),
                Input::Credential { .. } | Input::Agent | Input::Previous => {}
            }
        }
        sources
    }
}

impl Input {
    fn credential(&self) -> Option<&CredentialName> {
        match self {
            Self::Credential { name, .. } => Some(name),
            Self::Source(_) | Self::Agent | Self::Previous | Self::Jwt(_) => None,
        }
    }
}

impl ClientAuth {
    /// Where its secrets are.
    pub fn sources(&self) -> Vec<&Source> {
        match self {
            Self::None => Vec::new(),
            Self::SecretBasic { secrets, .. } | Self::SecretPost { secrets } | Self::SecretJwt { secrets, .. } => {
                secrets.iter().collect()
            }
            Self::PrivateKeyJwt(assertion) => assertion.keys.iter().map(|key| &key.source).collect(),
            Self::Tls { .. } => Vec::new(),
            Self::Assertion { source, .. } => vec![source],
        }
    }
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            audience: Vec::new(),
            scopes: Vec::new(),
            resource: Vec::new(),
            params: Vec::new(),
            headers: Vec::new(),
            body: BodyFormat::Form,
            method: Method::POST,
        }
    }
}

impl Default for Assertion {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            iss: None,
            sub: None,
            aud: AudMode::Issuer,
            lifetime: Duration::from_secs(60),
            backdate: Duration::ZERO,
            typ: None,
            scope_claim: false,
            jti: true,
            claims: Vec::new(),
        }
    }
}
