//! One grant a file: each turns what it was shown into a [`Consent`](super::consent::Consent).

mod authorization_code;
mod ciba;
mod client_credentials;
mod device_code;
mod jwt_bearer;
mod refresh_token;
mod saml2_bearer;
mod token_exchange;

pub(super) use authorization_code::{Code, Codes, is_challenge};
pub(super) use device_code::routes;
pub(super) use refresh_token::RefreshTokens;
pub use refresh_token::{Cause, RevokedFamily, Rotation};

use super::{GrantType, Shared, client_auth::Caller, error::OAuthError, post::Reply, request::Params};

impl Shared {
    pub(super) fn redeem(&self, grant: GrantType, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        match grant {
            GrantType::ClientCredentials => self.client_credentials(caller, params),
            GrantType::RefreshToken => self.refresh(caller, params),
            GrantType::AuthorizationCode => self.authorization_code(caller, params),
            GrantType::DeviceCode => self.device_code(caller, params),
            GrantType::TokenExchange => self.exchange(caller, params),
            GrantType::JwtBearer => self.jwt_bearer(caller, params),
            GrantType::Saml2Bearer => self.saml2_bearer(caller, params),
            GrantType::Ciba => self.ciba(caller, params),
        }
    }
}
