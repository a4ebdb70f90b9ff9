//! The local certificate authority: a self-signed root that clients trust and an
//! issuing intermediate that signs leaves (standards 5.2).

use std::{path::Path, sync::Arc};

use crate::primitives::{Clock, Host};

use super::Error;

/// Root and intermediate; mints leaves.
#[derive(Debug)]
pub struct CertificateAuthority {}

impl CertificateAuthority {
    /// A CA that lives in memory only and dies with the process (`run`, `demo`).
    pub fn ephemeral(_clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        todo!()
    }

    /// Loads `directory/ca/`, or makes it (0700, keys 0600). Refuses loose modes.
    pub fn load_or_create(_directory: &Path, _clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        todo!()
    }

    /// Makes a new CA in `directory/ca/` beside the old one, which is kept as `*.previous`.
    pub fn rotate(_directory: &Path, _clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        todo!()
    }

    /// The root, PEM: what clients must trust.
    pub fn root_pem(&self) -> &str {
        todo!()
    }

    pub(crate) fn issue(&self, _host: &Host) -> Result<rustls::sign::CertifiedKey, Error> {
        todo!()
    }
}
