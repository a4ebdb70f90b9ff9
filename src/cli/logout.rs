//! `cupbearer logout`: gives the refresh token back to its server, and forgets it in any case.

use std::process::ExitCode;

use anyhow::{Context, anyhow};

use crate::{
    config::Settings,
    credential::{Broker, login::LoggedOut},
    observe::Recorder,
    primitives::CredentialName,
};

use super::{Failure, Result, args, context, control_runtime, output, serving};

pub(super) fn logout(global: &args::Global, logout: &args::Logout) -> Result {
    let settings = context::load_silently(global)?;
    let name = context::credential(&settings, &logout.credential)?;
    let runtime = control_runtime().context("can't start a runtime")?;
    let recorder = Recorder::start(&settings.observe).context("can't open the audit log")?;
    let done = runtime.block_on(async {
        let broker = context::broker(&settings, recorder.clone())?;
        end(&settings, &broker, &name).await
    });
    recorder.flush_within(context::FLUSH);
    done
}

async fn end(settings: &Settings, broker: &Broker, name: &CredentialName) -> Result {
    let owner = broker.login_owner(name).map_err(|error| Failure::NotStarted(anyhow!("{name}: {}", error.failure)))?;
    if owner != *name {
        return Err(Failure::NotStarted(anyhow!(
            "credential `{name}` uses the login of `{owner}`: `cupbearer logout {owner}` ends it for both"
        )));
    }
    match broker.log_out(name).await? {
        LoggedOut::Revoked => output::line(format_args!("{name}: revoked and forgotten")),
        LoggedOut::NothingToRevoke => output::line(format_args!("{name}: forgotten; there was nothing to revoke")),
        LoggedOut::Unsupported => output::line(format_args!(
            "{name}: forgotten here, but not revoked: the server takes no refresh tokens back, and a copy of it would \
             still be good"
        )),
        LoggedOut::NotRevoked(error) => output::line(format_args!(
            "{name}: forgotten here, but not revoked, and a copy of the refresh token may still be good: {}",
            error.failure.describe()
        )),
    }
    serving::tell(settings, name, false).await?;
    Ok(ExitCode::SUCCESS)
}
