//! What is peculiar to each provider: defaults for the keys that the file leaves out, and
//! what its servers are known not to take. A value in the file always wins.

use std::time::Duration;

use crate::{
    credential::{
        client_auth::BasicEncoding,
        sign::Algorithm,
        step::{AudMode, DpopUse},
    },
    route::RefreshOn,
};

use super::raw::credentials::Kind;

/// One provider's peculiarities.
#[derive(Debug)]
pub(super) struct Preset {
    /// Empty: no preset.
    pub(super) name: &'static str,
    pub(super) grant: Option<Kind>,
    /// The same for all its customers: no authorization server has to be named.
    pub(super) token_endpoint: Option<&'static str>,
    /// Of `client_auth`.
    pub(super) client: Claims,
    /// Of an assertion that is the grant.
    pub(super) grant_jwt: Claims,
    /// Of a JWT that is the token.
    pub(super) own_jwt: Claims,
    pub(super) encoding: BasicEncoding,
    /// Of `client_credentials`.
    pub(super) dpop: DpopUse,
    pub(super) extra: &'static [(&'static str, &'static str)],
    pub(super) refresh_on: Refusal,
    pub(super) audience: Audience,
    pub(super) resource: bool,
    pub(super) scopes: Scopes,
    /// `None`: any method of client authentication.
    pub(super) methods: Option<&'static [&'static str]>,
}

/// Of a JWT that is made here.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) aud: Aud,
    pub(super) lifetime: Duration,
    pub(super) algorithm: Option<Algorithm>,
    /// Those that the servers take; empty: not known.
    pub(super) algorithms: &'static [Algorithm],
    /// The key is known by the thumbprint of its certificate.
    pub(super) wants_certificate: bool,
    /// What `sub` has to be, where the file has to say it.
    pub(super) sub: Option<&'static str>,
    pub(super) scope_claim: bool,
}

/// `aud`, where the file doesn't say.
#[derive(Clone, Copy, Debug)]
pub(super) enum Aud {
    Issuer,
    TokenEndpoint,
    Literal(&'static str),
}

/// Which answers of the provider's APIs say that a token is no longer good.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    InvalidToken,
    Any401,
    Body(&'static str),
}

/// What the provider makes of `audience`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    Taken,
    /// Tokens without one are of little use.
    Wanted,
    ExchangeOnly,
    Never,
}

/// What `scopes` of `client_credentials` look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scopes {
    Any,
    /// There has to be one.
    Wanted,
    /// One, which ends in `/.default`.
    Default,
    /// `resource-server/scope`.
    Qualified,
}

const FIVE_MINUTES: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);

/// RFC 10070: the issuer is the audience, and the life is short.
const STANDARD: Claims = Claims {
    aud: Aud::Issuer,
    lifetime: Duration::from_secs(60),
    algorithm: None,
    algorithms: &[],
    wants_certificate: false,
    sub: None,
    scope_claim: false,
};

/// What counts without a preset.
pub(super) const NONE: Preset = Preset {
    name: "",
    grant: None,
    token_endpoint: None,
    client: STANDARD,
    grant_jwt: Claims { lifetime: FIVE_MINUTES, ..STANDARD },
    own_jwt: Claims { lifetime: HOUR, ..STANDARD },
    encoding: BasicEncoding::Rfc6749,
    dpop: DpopUse::Off,
    extra: &[],
    refresh_on: Refusal::InvalidToken,
    audience: Audience::Taken,
    resource: true,
    scopes: Scopes::Any,
    methods: None,
};

/// Basic is plainly concatenated; the issuer ends in a slash.
const AUTH0: Preset = Preset {
    name: "auth0",
    encoding: BasicEncoding::Raw,
    client: Claims { algorithms: &[Algorithm::Rs256, Algorithm::Rs384, Algorithm::Ps256], ..STANDARD },
    audience: Audience::Wanted,
    ..NONE
};

/// API-service apps have DPoP on, and its guides have the token endpoint as audience.
const OKTA: Preset = Preset {
    name: "okta",
    client: Claims { aud: Aud::TokenEndpoint, ..STANDARD },
    dpop: DpopUse::Required,
    scopes: Scopes::Wanted,
    ..NONE
};

/// The key is known by its certificate; the scope names the resource.
const ENTRA: Preset = Preset {
    name: "entra",
    client: Claims {
        aud: Aud::TokenEndpoint,
        algorithm: Some(Algorithm::Ps256),
        algorithms: &[Algorithm::Ps256, Algorithm::Rs256],
        wants_certificate: true,
        ..STANDARD
    },
    audience: Audience::Never,
    resource: false,
    scopes: Scopes::Default,
    ..NONE
};

/// Audiences come from mappers and scopes; RFC 8707 isn't known there.
const KEYCLOAK: Preset = Preset { name: "keycloak", audience: Audience::ExchangeOnly, resource: false, ..NONE };

/// Service accounts: the scopes stand in the JWT. Without scopes, the audience does.
const GOOGLE: Preset = Preset {
    name: "google",
    grant: Some(Kind::JwtBearer),
    token_endpoint: Some(GOOGLE_TOKEN_ENDPOINT),
    grant_jwt: Claims {
        aud: Aud::Literal(GOOGLE_TOKEN_ENDPOINT),
        lifetime: HOUR,
        algorithms: &[Algorithm::Rs256],
        scope_claim: true,
        ..STANDARD
    },
    own_jwt: Claims {
        lifetime: HOUR,
        algorithms: &[Algorithm::Rs256],
        scope_claim: true,
        sub: Some("NAME@PROJECT.iam.gserviceaccount.com"),
        ..STANDARD
    },
    ..NONE
};

const GOOGLE_TOKEN_ENDPOINT: &str = "https://oauth2.googleapis.com/token";

/// Its 401 has no challenge.
const GITHUB_APP: Preset =
    Preset { name: "github_app", grant: Some(Kind::GithubApp), refresh_on: Refusal::Any401, ..NONE };

/// The token's audience follows from its scopes.
const COGNITO: Preset = Preset {
    name: "cognito",
    audience: Audience::Never,
    scopes: Scopes::Qualified,
    methods: Some(&["client_secret_basic", "client_secret_post"]),
    ..NONE
};

/// Answers don't say how long a token lives, but where its API is.
const SALESFORCE: Preset = Preset {
    name: "salesforce",
    grant: Some(Kind::JwtBearer),
    grant_jwt: Claims {
        aud: Aud::Literal("https://login.salesforce.com"),
        lifetime: Duration::from_secs(180),
        algorithms: &[Algorithm::Rs256],
        sub: Some("user@example.com"),
        ..STANDARD
    },
    extra: &[("instance_url", "/instance_url")],
    refresh_on: Refusal::Body("INVALID_SESSION_ID"),
    ..NONE
};

/// By their names in the file.
pub(super) const ALL: [(&str, &Preset); 8] = [
    (AUTH0.name, &AUTH0),
    (OKTA.name, &OKTA),
    (ENTRA.name, &ENTRA),
    (KEYCLOAK.name, &KEYCLOAK),
    (GOOGLE.name, &GOOGLE),
    (GITHUB_APP.name, &GITHUB_APP),
    (COGNITO.name, &COGNITO),
    (SALESFORCE.name, &SALESFORCE),
];

impl Preset {
    /// The grant alone says whose token it is.
    pub(super) fn implied_by(kind: Option<Kind>) -> &'static Self {
        if kind == Some(Kind::GithubApp) { &GITHUB_APP } else { &NONE }
    }

    pub(super) fn dpop(&self, kind: Kind) -> DpopUse {
        if kind == Kind::ClientCredentials { self.dpop } else { DpopUse::Off }
    }

    /// Of the JWT that a grant of this kind makes.
    pub(super) fn jwt(&self, kind: Kind) -> &Claims {
        if kind == Kind::SelfSignedJwt { &self.own_jwt } else { &self.grant_jwt }
    }
}

impl Aud {
    pub(super) fn mode(self) -> AudMode {
        match self {
            Self::Issuer => AudMode::Issuer,
            Self::TokenEndpoint => AudMode::TokenEndpoint,
            Self::Literal(text) => AudMode::Literal(text.to_owned()),
        }
    }
}

impl Refusal {
    pub(super) fn rule(self) -> RefreshOn {
        match self {
            Self::InvalidToken => RefreshOn::InvalidToken,
            Self::Any401 => RefreshOn::Any401,
            Self::Body(text) => RefreshOn::Answer { statuses: vec![401], body: Some(text.to_owned()) },
        }
    }
}
