//! A token from an HTTP answer that is no token endpoint's: GitHub's installations, the
//! metadata server of a cloud. The URL stands where a token endpoint would.

use serde_json::Value;

use crate::{
    credential::{error::SettingsError, request::TokenRequest, step::Input},
    primitives::Secret,
};

/// What is sent there.
#[derive(Clone, Debug)]
pub struct HttpSource {
    /// The grant's name in the config: `http`, `github_app`, `metadata_server`.
    pub name: &'static str,
    /// The `Authorization: Bearer` of the request.
    pub authorization: Option<Input>,
    /// A JSON body, as it is.
    pub json: Option<Value>,
}

impl HttpSource {
    pub(super) fn fill(&self, request: &mut TokenRequest, given: &[Secret]) -> Result<(), SettingsError> {
        if self.authorization.is_some() {
            request.authorize_bearer(super::only(given)?)?;
        }
        if let Some(json) = &self.json {
            request.whole_body(json.to_string());
        }
        Ok(())
    }
}
