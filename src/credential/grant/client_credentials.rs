//! `client_credentials` (RFC 6749 §4.4): nothing but what every grant may ask for.

pub(super) const GRANT_TYPE: &str = "client_credentials";
