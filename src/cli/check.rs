//! `cupbearer check`: every problem of the config, with its line; `--online` also fetches
//! one token for each credential.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use tokio::runtime::Handle;

use crate::{
    config::Settings,
    credential::{Broker, store::Memory},
    observe::Recorder,
};

use super::{
    FAILED, Result, args,
    context::{self, count},
    control_runtime, output,
};

pub(super) fn check(global: &args::Global, check: &args::Check) -> Result {
    let settings = context::load(global)?;
    output::line(format_args!(
        "{}: {}, {}, {}",
        settings.file.display(),
        count(settings.routes.len(), "route"),
        count(settings.agents.len(), "agent"),
        count(settings.credential_names().len(), "credential"),
    ));
    for danger in &settings.dangers {
        output::line(format_args!("danger: {danger} is on"));
    }
    if check.online { online(&settings) } else { Ok(ExitCode::SUCCESS) }
}

/// One token request a credential, all at once; says what came of each.
fn online(settings: &Settings) -> Result {
    let runtime = control_runtime().context("can't start a runtime")?;
    let recorder = Recorder::start(&crate::observe::Settings::default()).context("can't start the recorder")?;
    runtime.block_on(async {
        let (specs, tokens) = (settings.credentials.clone(), settings.tokens.clone());
        let broker =
            Broker::new(specs, tokens, context::clock(), recorder, Handle::current(), Arc::new(Memory::default()))?;
        let mut failed = false;
        for name in settings.credential_names() {
            match broker.refresh(name).await {
                Ok(state) => {
                    let life = state.expires_in_seconds.unwrap_or(0);
                    output::line(format_args!("{name}: got a token for {life} s"));
                }
                Err(error) => {
                    failed = true;
                    output::line(format_args!("{name}: {}", error.failure.describe()));
                    output::line(format_args!("  hint: {}", error.hint()));
                }
            }
        }
        Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    })
}
