//! A client's certificate in place of a secret, and tokens bound to it (RFC 8705).

use crate::demo::{
    authorization_server::{AuthMethod, CertificateRule, Client, Shared, error::OAuthError},
    client_certificates::PeerCertificates,
    journal::lock,
};

use super::Caller;

impl Shared {
    /// The client of that id, if it is one that what was shown proves.
    pub(super) fn certified(&self, client_id: &str, shown: &PeerCertificates) -> Option<Caller> {
        let client = lock(&self.clients).get(client_id).cloned()?;
        let method = if client.has_registered(shown) && client.may_use(AuthMethod::SelfSignedTlsClientAuth) {
            AuthMethod::SelfSignedTlsClientAuth
        } else if client.goes_by_subject_of(shown)
            && client.may_use(AuthMethod::TlsClientAuth)
            && self.client_roots.vouch_for(shown, self.clock.now())
        {
            AuthMethod::TlsClientAuth
        } else {
            return None;
        };
        Some(Caller::new(client, method))
    }
}

// === impl Caller ===

impl Caller {
    /// The thumbprint that this client's tokens are bound to, if they are bound to one.
    pub(in crate::demo::authorization_server) fn certificate(
        &self,
        shown: Option<&PeerCertificates>,
    ) -> Result<Option<String>, OAuthError> {
        let authenticated = matches!(self.method, AuthMethod::TlsClientAuth | AuthMethod::SelfSignedTlsClientAuth);
        if !authenticated && !self.client.certificate_bound_tokens {
            return Ok(None);
        }
        let missing = || OAuthError::invalid_request("tokens are bound to a certificate, and none was shown");
        shown.map(PeerCertificates::thumbprint).ok_or_else(missing).map(Some)
    }
}

// === impl Client ===

impl Client {
    fn has_registered(&self, shown: &PeerCertificates) -> bool {
        self.certificates.contains(&CertificateRule::Thumbprint(shown.thumbprint()))
    }

    fn goes_by_subject_of(&self, shown: &PeerCertificates) -> bool {
        shown.subject().is_some_and(|subject| self.certificates.contains(&CertificateRule::Subject(subject)))
    }
}
