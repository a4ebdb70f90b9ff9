//! `cupbearer ca show|export|rotate`.

use std::process::ExitCode;

use anyhow::Context;

use crate::tls::CertificateAuthority;

use super::{Result, args, context, output};

pub(super) fn ca(global: &args::Global, command: &args::Ca) -> Result {
    let settings = context::load(global)?;
    match command {
        args::Ca::Show => show(&*context::authority(&settings)?),
        args::Ca::Export => output::text(context::authority(&settings)?.root_pem()),
        args::Ca::Rotate => {
            let authority = CertificateAuthority::rotate(&settings.state, &context::clock())
                .context("can't make a new certificate authority")?;
            show(&authority);
            output::note("restart `cupbearer serve`, and give its clients the new root (`cupbearer ca export`)");
        }
    }
    Ok(ExitCode::SUCCESS)
}
