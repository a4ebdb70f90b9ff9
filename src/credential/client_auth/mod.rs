//! How the client proves itself at an endpoint of the authorization server (RFC 6749 §2.3).
//! Adds to a request that a grant has filled in; knows neither the grant nor the network.
//!
//! Where two secrets, keys or certificates are named, one is used until the server says
//! `invalid_client`; then the other is tried once, and the winner is remembered
//! (`Tools::prefer`).

pub mod assertion;

use std::path::PathBuf;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::primitives::Secret;

use super::{
    Source,
    error::{Failure, Fault, Misbehaviour, SettingsError},
    request::{TokenRequest, form_encoded},
    sign::{Algorithm, SigningKey},
    step::{Assertion, AudMode},
    tools::Tools,
};
use assertion::Occasion;

/// The `client_assertion_type` of a JWT (RFC 7523 §2.2).
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A client as the authorization server knows it.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Empty where there is none: a token exchange by federation, a metadata server.
    pub id: String,
    pub auth: ClientAuth,
}

/// One method a request (A4).
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// A public client (RFC 6749 §2.1).
    #[default]
    None,
    SecretBasic {
        secrets: Vec<Source>,
        encoding: BasicEncoding,
    },
    SecretPost {
        secrets: Vec<Source>,
    },
    /// `client_secret_jwt`: a JWT with an HMAC under the secret.
    SecretJwt {
        secrets: Vec<Source>,
        algorithm: Algorithm,
        /// Its keys are empty: the secrets take their place.
        claims: Box<Assertion>,
    },
    PrivateKeyJwt(Box<Assertion>),
    /// RFC 8705.
    Tls {
        identities: Vec<IdentityFiles>,
        /// `self_signed_tls_client_auth`: the same on the wire.
        self_signed: bool,
        /// The tokens are bound to the certificate, which the upstream is shown too (§3).
        bound: bool,
    },
    /// A JWT that somebody else made: Kubernetes, SPIFFE, another cloud (E9).
    Assertion {
        source: Source,
        assertion_type: String,
    },
}

/// A certificate with its chain, and its key: PEM files, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdentityFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
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

impl ClientAuth {
    /// The name in the config.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SecretBasic { .. } => "client_secret_basic",
            Self::SecretPost { .. } => "client_secret_post",
            Self::SecretJwt { .. } => "client_secret_jwt",
            Self::PrivateKeyJwt(_) => "private_key_jwt",
            Self::Tls { self_signed: false, .. } => "tls_client_auth",
            Self::Tls { self_signed: true, .. } => "self_signed_tls_client_auth",
            Self::Assertion { .. } => "assertion",
        }
    }

    /// How many secrets, keys or certificates there are to choose from.
    pub(crate) fn choices(&self) -> usize {
        match self {
            Self::None | Self::Assertion { .. } => 1,
            Self::SecretBasic { secrets, .. } | Self::SecretPost { secrets } | Self::SecretJwt { secrets, .. } => {
                secrets.len()
            }
            Self::PrivateKeyJwt(assertion) => assertion.keys.len(),
            Self::Tls { identities, .. } => identities.len(),
        }
    }

    /// The files of the certificate that the connection shows.
    pub(crate) fn identity(&self, choice: usize) -> Option<&IdentityFiles> {
        match self {
            Self::Tls { identities, .. } => identities.get(choice).or(identities.first()),
            _no_certificate => None,
        }
    }

    /// The tokens hold only on connections that show the client's certificate.
    pub fn binds_tokens(&self) -> bool {
        matches!(self, Self::Tls { bound: true, .. })
    }
}

impl Client {
    /// Signs `request` with the `choice`th secret or key. Called anew for every attempt: an
    /// assertion is good once (E3).
    pub(crate) async fn sign(
        &self,
        request: &mut TokenRequest,
        choice: usize,
        occasion: &Occasion<'_>,
        tools: &Tools,
    ) -> Result<(), Fault> {
        let settings = |error| Fault::terminal(Failure::Settings(error));
        let pick = |secrets: &[Source]| secrets.get(choice).or(secrets.first()).cloned();
        let no_input = || settings(SettingsError::NoInput);
        match &self.auth {
            ClientAuth::None | ClientAuth::Tls { .. } => self.name(request).map_err(settings),
            ClientAuth::SecretPost { secrets } => {
                let secret = tools.read(&pick(secrets).ok_or_else(no_input)?).await?;
                self.name(request).map_err(settings)?;
                request.set_secret("client_secret", &secret).map_err(settings)
            }
            ClientAuth::SecretBasic { secrets, encoding } => {
                let secret = tools.read(&pick(secrets).ok_or_else(no_input)?).await?;
                let pair = basic_pair(&self.id, &secret, *encoding);
                request.authorize(basic_header(&pair)?);
                request.hide(pair);
                request.hide(secret);
                Ok(())
            }
            ClientAuth::SecretJwt { secrets, algorithm, claims } => {
                let secret = tools.read(&pick(secrets).ok_or_else(no_input)?).await?;
                let key = SigningKey::hmac(&secret, *algorithm).map_err(Fault::key)?;
                request.hide(secret);
                let jwt = assertion::signed(claims, &key, None, &self.claims(occasion))?;
                self.assert(request, &jwt, JWT_BEARER).map_err(settings)
            }
            ClientAuth::PrivateKeyJwt(made) => {
                let jwt = assertion::made(made, choice, &self.claims(occasion), tools).await?;
                self.assert(request, &jwt, JWT_BEARER).map_err(settings)
            }
            ClientAuth::Assertion { source, assertion_type } => {
                let jwt = tools.read(source).await?;
                self.assert(request, &jwt, assertion_type).map_err(settings)
            }
        }
    }

    /// The server answered `invalid_client`: what was kept of the secret is not used again.
    pub(crate) fn refused(&self, tools: &Tools) {
        self.auth.sources().into_iter().for_each(|source| tools.forget(source));
    }

    /// The client is issuer and subject of its own assertions (RFC 7523 §3).
    fn claims<'o>(&'o self, occasion: &Occasion<'o>) -> Occasion<'o> {
        Occasion { client: Some(&self.id), ..*occasion }
    }

    fn name(&self, request: &mut TokenRequest) -> Result<(), SettingsError> {
        if self.id.is_empty() { Ok(()) } else { request.set("client_id", &self.id) }
    }

    fn assert(&self, request: &mut TokenRequest, jwt: &Secret, assertion_type: &str) -> Result<(), SettingsError> {
        self.name(request)?;
        request.set("client_assertion_type", assertion_type)?;
        request.set_secret("client_assertion", jwt)
    }
}

/// base64 of `id:secret`.
fn basic_pair(id: &str, secret: &Secret, encoding: BasicEncoding) -> Secret {
    let pair = Zeroizing::new(match encoding {
        BasicEncoding::Rfc6749 => format!("{}:{}", *form_encoded(id), *form_encoded(secret.expose())),
        BasicEncoding::Raw => format!("{id}:{}", secret.expose()),
    });
    Secret::new(STANDARD.encode(pair.as_bytes()))
}

fn basic_header(pair: &Secret) -> Result<HeaderValue, Fault> {
    let text = Zeroizing::new(format!("Basic {}", pair.expose()));
    let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(text))
        .map_err(|_| Fault::protocol(Misbehaviour::TokenCharacter))?;
    header.set_sensitive(true);
    Ok(header)
}

impl AudMode {
    /// The audience of an assertion for this occasion; `None`: it has none.
    pub(crate) fn audience(&self, occasion: &Occasion<'_>) -> Result<Option<String>, SettingsError> {
        match self {
            Self::Issuer => occasion.issuer.map(str::to_owned).ok_or(SettingsError::NoIssuer).map(Some),
            Self::TokenEndpoint => Ok(Some(occasion.token_endpoint.to_owned())),
            Self::Endpoint => Ok(Some(occasion.endpoint.to_owned())),
            Self::Literal(text) => Ok(Some(text.clone())),
            Self::Absent => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::{step::BodyFormat, testing};

    async fn signed(auth: impl FnOnce(Vec<Source>) -> ClientAuth) -> TokenRequest {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "p%+ ä\n").unwrap();
        let client = Client { id: "a:b".to_owned(), auth: auth(vec![Source::File(path)]) };
        let mut request = TokenRequest::new("client_credentials", BodyFormat::Form, http::Method::POST);
        client.sign(&mut request, 0, &testing::occasion(), &testing::tools()).await.unwrap();
        request
    }

    fn decoded(request: &TokenRequest) -> String {
        let header = request.authorization().unwrap();
        assert!(header.is_sensitive());
        let pair = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        String::from_utf8(STANDARD.decode(pair).unwrap()).unwrap()
    }

    /// A3's vector, and A4: one method a request.
    #[tokio::test]
    async fn basic_encodes_each_part_first() {
        let request = signed(|secrets| ClientAuth::SecretBasic { secrets, encoding: BasicEncoding::Rfc6749 }).await;
        assert_eq!(decoded(&request), "a%3Ab:p%25%2B+%C3%A4");
        assert_eq!(request.body(), "grant_type=client_credentials");
        let raw = signed(|secrets| ClientAuth::SecretBasic { secrets, encoding: BasicEncoding::Raw }).await;
        assert_eq!(decoded(&raw), "a:b:p%+ ä");
    }

    #[tokio::test]
    async fn post_sends_no_header() {
        let request = signed(|secrets| ClientAuth::SecretPost { secrets }).await;
        assert!(request.authorization().is_none());
        assert_eq!(request.body(), "grant_type=client_credentials&client_id=a%3Ab&client_secret=p%25%2B+%C3%A4");
    }

    #[tokio::test]
    async fn a_public_client_only_says_its_name() {
        let request = signed(|_| ClientAuth::None).await;
        assert!(request.authorization().is_none());
        assert_eq!(request.body(), "grant_type=client_credentials&client_id=a%3Ab");
    }

    #[tokio::test]
    async fn a_foreign_assertion_is_sent_as_it_is() {
        let assertion_type = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe".to_owned();
        let request = signed(|mut secrets| ClientAuth::Assertion { source: secrets.remove(0), assertion_type }).await;
        assert_eq!(
            request.body(),
            "grant_type=client_credentials&client_id=a%3Ab&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth\
             %3Aclient-assertion-type%3Ajwt-spiffe&client_assertion=p%25%2B+%C3%A4"
        );
    }

    /// The base64 pair is a secret too.
    #[tokio::test]
    async fn an_echoed_basic_header_is_cut_out() {
        let request = signed(|secrets| ClientAuth::SecretBasic { secrets, encoding: BasicEncoding::Raw }).await;
        let echo = request.authorization().unwrap().to_str().unwrap().to_owned();
        assert_eq!(request.clean(&echo, 200), "Basic [secret]");
    }
}
