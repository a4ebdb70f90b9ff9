//! The grants by their names in the file, and which keys of a step go with which of them.

use super::super::super::{document::Section, problem::listed};

/// `grant = …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Kind {
    ClientCredentials,
    RefreshToken,
    AuthorizationCode,
    DeviceCode,
    TokenExchange,
    JwtBearer,
    Saml2Bearer,
    SelfSignedJwt,
    Ciba,
    Http,
    GithubApp,
    MetadataServer,
    Static,
    Basic,
}

use Kind::*;

/// A key, and which grants know it.
type KeyOf = (&'static str, fn(Kind) -> bool);

/// Every key of a step but `grant`, and the grants that know it.
const KEYS: &[KeyOf] = &[
    ("authorization_server", Kind::is_served),
    ("client_id", |kind| kind.is_served() || kind == GithubApp),
    ("client_auth", Kind::is_served),
    ("audience", Kind::is_served),
    ("scopes", Kind::is_scoped),
    ("resource", Kind::is_served),
    ("params", |kind| kind.is_served() || kind == Http),
    ("headers", |kind| kind.is_served() || kind.is_http()),
    ("body", |kind| kind.is_served() || kind == Http),
    ("method", |kind| kind.is_served() || kind == Http),
    ("dpop", Kind::is_served),
    ("answer", |kind| kind.is_served() || kind.is_http()),
    ("grant_type", |kind| matches!(kind, TokenExchange | JwtBearer)),
    ("refresh_token", Kind::is_login),
    ("redirect", |kind| kind == AuthorizationCode),
    ("authorize_params", |kind| kind == AuthorizationCode),
    ("subject", |kind| kind == TokenExchange),
    ("actor", |kind| kind == TokenExchange),
    ("requested_token_type", |kind| kind == TokenExchange),
    ("assertion", |kind| matches!(kind, JwtBearer | Saml2Bearer)),
    ("jwt", |kind| kind == SelfSignedJwt),
    ("login_hint", |kind| kind == Ciba),
    ("login_hint_token", |kind| kind == Ciba),
    ("id_token_hint", |kind| kind == Ciba),
    ("binding_message", |kind| kind == Ciba),
    ("requested_expiry", |kind| kind == Ciba),
    ("url", |kind| matches!(kind, Http | MetadataServer)),
    ("ca", Kind::is_http),
    ("authorization", |kind| kind == Http),
    ("json", |kind| kind == Http),
    ("app_id", |kind| kind == GithubApp),
    ("installation_id", |kind| kind == GithubApp),
    ("key", |kind| kind == GithubApp),
    ("repositories", |kind| kind == GithubApp),
    ("permissions", |kind| kind == GithubApp),
    ("api_url", |kind| kind == GithubApp),
    ("token", |kind| kind == Static),
    ("username", |kind| kind == Basic),
    ("password", |kind| kind == Basic),
];

impl Kind {
    pub(in crate::config) const ALL: [(&'static str, Self); 14] = [
        ("client_credentials", ClientCredentials),
        ("refresh_token", RefreshToken),
        ("authorization_code", AuthorizationCode),
        ("device_code", DeviceCode),
        ("token_exchange", TokenExchange),
        ("jwt_bearer", JwtBearer),
        ("saml2_bearer", Saml2Bearer),
        ("self_signed_jwt", SelfSignedJwt),
        ("ciba", Ciba),
        ("http", Http),
        ("github_app", GithubApp),
        ("metadata_server", MetadataServer),
        ("static", Static),
        ("basic", Basic),
    ];

    pub(in crate::config) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Whether it asks the token endpoint of an authorization server.
    pub(in crate::config) fn is_served(self) -> bool {
        match self {
            ClientCredentials | RefreshToken | AuthorizationCode | DeviceCode => true,
            TokenExchange | JwtBearer | Saml2Bearer | Ciba => true,
            SelfSignedJwt | Http | GithubApp | MetadataServer | Static | Basic => false,
        }
    }

    /// Whether it asks something that is no token endpoint.
    pub(in crate::config) fn is_http(self) -> bool {
        matches!(self, Http | GithubApp | MetadataServer)
    }

    /// Whether a refresh token is kept for it.
    pub(in crate::config) fn is_login(self) -> bool {
        matches!(self, RefreshToken | AuthorizationCode | DeviceCode)
    }

    /// Whether its token depends on scopes.
    pub(in crate::config) fn is_scoped(self) -> bool {
        self.is_served() || self == SelfSignedJwt
    }

    /// Whether the client has to prove itself: without, anybody could have the token.
    pub(in crate::config) fn wants_proof(self) -> bool {
        matches!(self, ClientCredentials | Ciba)
    }
}

/// The step's keys that belong to another grant.
pub(super) fn refuse_foreign(section: &mut Section<'_>, kind: Kind) {
    for (key, goes_with) in KEYS {
        if !goes_with(kind) && section.has(key) {
            let message = format!("`{key}` doesn't go with the grant \"{}\"", kind.as_str());
            let others = Kind::ALL.iter().filter(|(_, other)| goes_with(*other)).map(|(name, _)| *name);
            section.refuse(key, &message, &format!("take it out; it goes with {}", listed(others)));
        }
    }
}

/// The keys of one step, in a credential that has a list of them.
pub(super) fn refuse_direct(section: &mut Section<'_>) {
    let title = section.title().trim_matches(['[', ']']).to_owned();
    for key in std::iter::once("grant").chain(KEYS.iter().map(|(key, _)| *key)) {
        if section.has(key) {
            let message = format!("`{key}` stands beside `steps`");
            section.refuse(key, &message, &format!("move it into one of the steps: [[{title}.steps]]"));
        }
    }
}
