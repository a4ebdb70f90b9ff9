//! Grants: one RFC a file. A credential is a list of steps.

pub mod client_credentials;

pub use client_credentials::ClientCredentials;

/// One exchange with an authorization server.
#[derive(Clone, Debug)]
pub enum Step {
    /// RFC 6749 §4.4.
    ClientCredentials(ClientCredentials),
}
