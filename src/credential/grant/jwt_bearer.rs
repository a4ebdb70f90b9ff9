//! A JWT is the grant (RFC 7523 §2.1): Google's and Salesforce's service accounts, the second
//! step of cross-app access (an ID-JAG is its assertion), Entra's on-behalf-of.

use crate::{
    credential::{error::SettingsError, request::TokenRequest, step::Input},
    primitives::Secret,
};

/// The grant type of the RFC.
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Where the assertion comes from.
#[derive(Clone, Debug)]
pub struct JwtBearer {
    pub grant_type: String,
    pub assertion: Input,
}

/// `given`: the assertion.
pub(super) fn fill(request: &mut TokenRequest, given: &[Secret]) -> Result<(), SettingsError> {
    request.set_secret("assertion", super::only(given)?)
}
