//! Who may ask for what: the registered clients.

use jsonwebtoken::jwk::Jwk;

use crate::primitives::Secret;

/// A registered client. With `..Client::default()` only what matters has to be named; a
/// client that is given no method, grant or audience gets nothing.
#[derive(Clone, Debug, Default)]
pub struct Client {
    pub id: String,
    /// Any of them is accepted: several during a rotation.
    pub secrets: Vec<Secret>,
    /// Public keys; likewise.
    pub keys: Vec<Jwk>,
    /// Likewise.
    pub certificates: Vec<CertificateRule>,
    /// Tokens are bound to the certificate that was shown, whatever the client authenticates
    /// with (RFC 8705 §3).
    pub certificate_bound_tokens: bool,
    /// Workloads of other issuers that may act as this client.
    pub foreign: Vec<ForeignIdentity>,
    pub auth_methods: Vec<AuthMethod>,
    pub grants: Vec<GrantType>,
    /// What it may ask for, and what it gets where it asks for nothing (RFC 6749 §3.3).
    pub scopes: Vec<String>,
    pub audiences: Vec<String>,
    /// Where a request names no audience. `None`: such a request is refused.
    pub default_audience: Option<String>,
    /// What an identity provider would have signed for it.
    pub saml_assertions: Vec<SamlAssertion>,
    /// What other servers call it, for an ID-JAG. `None`: the same.
    pub id_elsewhere: Option<String>,
    /// Where a login may send its user back to. At an `http` URL of loopback any port will do
    /// (RFC 8252 §7.3).
    pub redirect_uris: Vec<String>,
    /// A refresh may name any of `audiences`, not only those that were granted first
    /// (Auth0's multi-resource refresh tokens).
    pub multi_resource_refresh: bool,
}

/// How a client shows who it is (the names of RFC 7591 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// `none`: a public client that only names itself.
    Public,
    ClientSecretBasic,
    ClientSecretPost,
    ClientSecretJwt,
    PrivateKeyJwt,
    TlsClientAuth,
    SelfSignedTlsClientAuth,
    /// An assertion that another issuer made about a workload. RFC 7591 has no name for it.
    ForeignAssertion,
    /// None but the assertion that is the grant itself (RFC 7521 §4.1).
    AssertionGrant,
}

/// Which certificate is a client's (RFC 8705 §2.1.2, §2.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateRule {
    /// For `tls_client_auth`: this subject, as OpenSSL writes it (`CN=agent`), in a certificate
    /// of the world's root.
    Subject(String),
    /// For `self_signed_tls_client_auth`: the certificate with this `x5t#S256`, whoever signed it.
    Thumbprint(String),
}

/// An assertion that is known by its text: nobody here reads XML.
#[derive(Clone, Debug)]
pub struct SamlAssertion {
    pub xml: String,
    pub subject: String,
}

/// Somebody whom another issuer vouches for: a pod, a CI job, a SPIFFE workload.
#[derive(Clone, Debug)]
pub struct ForeignIdentity {
    pub issuer: String,
    pub subject: String,
    /// The issuer's.
    pub keys: Vec<Jwk>,
    /// What `aud` must name. `None`: as for other assertions.
    pub audience: Option<String>,
}

/// A grant that this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantType {
    ClientCredentials,
    RefreshToken,
    AuthorizationCode,
    DeviceCode,
    TokenExchange,
    JwtBearer,
    Saml2Bearer,
    Ciba,
}

// === impl ForeignIdentity ===

impl ForeignIdentity {
    /// A SPIFFE workload's token needn't say who made it.
    pub(super) fn is(&self, issuer: &str, subject: &str) -> bool {
        self.subject == subject && (self.issuer == issuer || issuer.is_empty())
    }
}

// === impl AuthMethod ===

impl AuthMethod {
    pub(super) const ALL: [Self; 9] = [
        Self::Public,
        Self::ClientSecretBasic,
        Self::ClientSecretPost,
        Self::ClientSecretJwt,
        Self::PrivateKeyJwt,
        Self::TlsClientAuth,
        Self::SelfSignedTlsClientAuth,
        Self::ForeignAssertion,
        Self::AssertionGrant,
    ];

    /// As metadata says it, if there is a word for it.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Public => Some("none"),
            Self::ClientSecretBasic => Some("client_secret_basic"),
            Self::ClientSecretPost => Some("client_secret_post"),
            Self::ClientSecretJwt => Some("client_secret_jwt"),
            Self::PrivateKeyJwt => Some("private_key_jwt"),
            Self::TlsClientAuth => Some("tls_client_auth"),
            Self::SelfSignedTlsClientAuth => Some("self_signed_tls_client_auth"),
            Self::ForeignAssertion | Self::AssertionGrant => None,
        }
    }
}

// === impl GrantType ===

impl GrantType {
    pub(super) const ALL: [Self; 8] = [
        Self::ClientCredentials,
        Self::RefreshToken,
        Self::AuthorizationCode,
        Self::DeviceCode,
        Self::TokenExchange,
        Self::JwtBearer,
        Self::Saml2Bearer,
        Self::Ciba,
    ];

    /// As `grant_type` and metadata say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken => "refresh_token",
            Self::AuthorizationCode => "authorization_code",
            Self::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
            Self::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
            Self::Saml2Bearer => "urn:ietf:params:oauth:grant-type:saml2-bearer",
            Self::Ciba => "urn:openid:params:grant-type:ciba",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.name() == name)
    }
}
