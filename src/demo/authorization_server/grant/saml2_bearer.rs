//! A SAML assertion as a grant (RFC 7522 §2.1). It has to be one that is registered, to the
//! byte, in base64url without padding or line breaks.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    demo::authorization_server::{
        Client, SamlAssertion, Shared, client_auth::Caller, consent::Consent, error::OAuthError, post::Reply,
        request::Params,
    },
    primitives::Secret,
};

impl Shared {
    pub(super) fn saml2_bearer(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let assertion = params.secret("assertion");
        let assertion = assertion.ok_or_else(|| OAuthError::invalid_request("assertion is missing"))?;
        let unknown = || OAuthError::invalid_grant("the assertion isn't known, or not in base64url without padding");
        let known = caller.client.saml_assertion(&assertion).ok_or_else(unknown)?;
        self.grant(caller, Consent::asked_for(&caller.client, &known.subject, params)?, None)
    }
}

// === impl Client ===

impl Client {
    pub(in crate::demo::authorization_server) fn saml_assertion(&self, encoded: &Secret) -> Option<&SamlAssertion> {
        let xml = URL_SAFE_NO_PAD.decode(encoded.expose()).ok()?;
        self.saml_assertions.iter().find(|known| known.xml.as_bytes() == xml)
    }
}
