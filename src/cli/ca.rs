//! `cupbearer ca show|export|rotate`.

use std::{process::ExitCode, time::SystemTime};

use anyhow::Context;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::tls::{CertificateAuthority, CertificateInfo};

use super::{Result, args, context, output};

pub(super) fn ca(global: &args::Global, command: &args::Ca) -> Result {
    let settings = context::load_silently(global)?;
    match command {
        args::Ca::Show => {
            let (root, _) = stored(&settings.state)?;
            show(&root);
        }
        args::Ca::Export => output::text(stored(&settings.state)?.1),
        args::Ca::Rotate => {
            let authority = CertificateAuthority::rotate(&settings.state, &context::clock())
                .context("can't make a new certificate authority")?;
            show(authority.root());
            output::note("restart `cupbearer serve`, and give its clients the new root (`cupbearer ca export`)");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The root as it is on disk; where there is none yet, it is made.
fn stored(state: &std::path::Path) -> Result<(CertificateInfo, String)> {
    if !state.join("ca").exists() {
        CertificateAuthority::load_or_create(state, &context::clock()).context("can't make a certificate authority")?;
    }
    Ok(CertificateAuthority::stored_root(state).context("can't read the certificate authority")?)
}

fn show(root: &CertificateInfo) {
    output::line(format_args!("subject      {}", root.subject()));
    output::line(format_args!("serial       {}", root.serial()));
    output::line(format_args!("key          {}", root.key_algorithm()));
    output::line(format_args!("valid from   {}", date(root.not_before())));
    output::line(format_args!("valid until  {}", date(root.not_after())));
    output::line(format_args!("sha-256      {}", root.fingerprint()));
}

fn date(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_| "unknown".to_owned())
}
