//! How the client proves itself at the token endpoint (RFC 6749 §2.3). Adds to a request
//! that a grant has filled in; knows neither the grant nor the network.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::primitives::Secret;

use super::{
    Source,
    error::{Failure, Fault, Misbehaviour},
    request::{TokenRequest, form_encoded},
    source::Secrets,
};

/// A client as the authorization server knows it.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    pub auth: ClientAuth,
}

/// One method a request (A4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    SecretBasic { secret: Source, encoding: BasicEncoding },
    SecretPost { secret: Source },
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

impl Client {
    /// Signs `request`. Called anew for every attempt: later methods use one-time proofs (E3).
    pub(crate) async fn sign(&self, request: &mut TokenRequest, secrets: &Secrets) -> Result<(), Fault> {
        let read = async |source| secrets.read(source).await.map_err(|error| Fault::terminal(Failure::Source(error)));
        let settings = |error| Fault::terminal(Failure::Settings(error));
        match &self.auth {
            ClientAuth::SecretPost { secret } => {
                let secret = read(secret).await?;
                request.set("client_id", &self.id).map_err(settings)?;
                request.set_secret("client_secret", &secret).map_err(settings)
            }
            ClientAuth::SecretBasic { secret, encoding } => {
                let secret = read(secret).await?;
                let pair = basic_pair(&self.id, &secret, *encoding);
                request.authorize(basic_header(&pair)?);
                request.hide(pair);
                request.hide(secret);
                Ok(())
            }
        }
    }

    /// The server answered `invalid_client`: what was kept of the secret is not used again.
    pub(crate) fn refused(&self, secrets: &Secrets) {
        match &self.auth {
            ClientAuth::SecretBasic { secret, .. } | ClientAuth::SecretPost { secret } => secrets.forget(secret),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::grant::client_credentials::BodyFormat;

    async fn signed(auth: impl FnOnce(Source) -> ClientAuth) -> TokenRequest {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "p%+ ä\n").unwrap();
        let client = Client { id: "a:b".to_owned(), auth: auth(Source::File(path)) };
        let mut request = TokenRequest::new("client_credentials", BodyFormat::Form);
        client.sign(&mut request, &Secrets::default()).await.unwrap();
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
        let request = signed(|secret| ClientAuth::SecretBasic { secret, encoding: BasicEncoding::Rfc6749 }).await;
        assert_eq!(decoded(&request), "a%3Ab:p%25%2B+%C3%A4");
        assert_eq!(request.body(), "grant_type=client_credentials");
        let raw = signed(|secret| ClientAuth::SecretBasic { secret, encoding: BasicEncoding::Raw }).await;
        assert_eq!(decoded(&raw), "a:b:p%+ ä");
    }

    #[tokio::test]
    async fn post_sends_no_header() {
        let request = signed(|secret| ClientAuth::SecretPost { secret }).await;
        assert!(request.authorization().is_none());
        assert_eq!(request.body(), "grant_type=client_credentials&client_id=a%3Ab&client_secret=p%25%2B+%C3%A4");
    }

    /// The base64 pair is a secret too.
    #[tokio::test]
    async fn an_echoed_basic_header_is_cut_out() {
        let request = signed(|secret| ClientAuth::SecretBasic { secret, encoding: BasicEncoding::Raw }).await;
        let echo = request.authorization().unwrap().to_str().unwrap().to_owned();
        assert_eq!(request.clean(&echo, 200), "Basic [secret]");
    }
}
