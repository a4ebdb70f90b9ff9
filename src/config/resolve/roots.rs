//! Which certificates are trusted on the way out. The machine's are read once, and only
//! when something needs them.

use std::{cell::OnceCell, path::PathBuf};

use rustls::RootCertStore;

use crate::tls;

use super::super::{
    document::{At, Document},
    problem::{Span, chain},
};

#[derive(Default)]
pub(super) struct Roots {
    platform: OnceCell<Option<RootCertStore>>,
}

impl Roots {
    /// The roots in `ca` and no others, or the machine's where none is named. `span` is who asks.
    /// `None`: a problem was reported.
    pub(super) fn store(&self, doc: &Document<'_>, ca: Option<&At<PathBuf>>, span: &Span) -> Option<RootCertStore> {
        if let Some(ca) = ca {
            return match tls::client::roots_from_file(&ca.value, None) {
                Ok(roots) => Some(roots),
                Err(error) => {
                    let help = "name a PEM file with the certificate of the authority to trust";
                    doc.problem(&ca.span, chain(&error), help);
                    None
                }
            };
        }
        if doc.has_problems() {
            // Nobody will use the settings: don't read a hundred certificates for them.
            return Some(RootCertStore::empty());
        }
        let platform = self.platform.get_or_init(|| match tls::client::platform_roots() {
            Ok(roots) => Some(roots),
            Err(error) => {
                let help =
                    "install the ca-certificates package, set SSL_CERT_FILE, or name a file with `ca` or `upstream_ca`";
                doc.problem(span, format!("can't read this machine's root certificates: {}", chain(&error)), help);
                None
            }
        });
        platform.clone()
    }
}
