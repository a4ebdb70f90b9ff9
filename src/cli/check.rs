//! `cupbearer check`: every problem of the config, with its line; `--online` also fetches
//! one token for each credential.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::Context;

use crate::{
    config::Settings,
    credential::{
        Spec,
        error::{Failure, SettingsError},
        grant::Grant,
    },
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

/// One token request a credential, one after the other; says what came of each. A credential
/// that waits for a human or an agent is in order: what it needs is said.
fn online(settings: &Settings) -> Result {
    let runtime = control_runtime().context("can't start a runtime")?;
    let recorder = Recorder::start(&crate::observe::Settings::default()).context("can't start the recorder")?;
    runtime.block_on(async {
        let broker = context::broker(settings, recorder)?;
        let mut failed = false;
        let mut seen = BTreeSet::new();
        // A route with scopes of its own is a variant of the credential.
        for spec in settings.credentials.iter().filter(|spec| seen.insert(&spec.name)) {
            let name = &spec.name;
            if let Some(needed) = needed_at_a_request(spec) {
                output::line(format_args!("{name}: not tried: {needed}"));
                continue;
            }
            match broker.refresh(name).await {
                Ok(state) => {
                    let life = state.expires_in_seconds.unwrap_or(0);
                    output::line(format_args!("{name}: got a token for {life} s"));
                }
                Err(error) => {
                    failed |= !waits_for_somebody(&error.failure);
                    output::line(format_args!("{name}: {}", error.failure.describe()));
                    output::line(format_args!("  hint: {}", error.hint()));
                }
            }
        }
        Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    })
}

/// What a token request would want that isn't here.
fn needed_at_a_request(spec: &Spec) -> Option<&'static str> {
    if spec.takes_the_agents_token() {
        return Some("it exchanges the agent's own token, which comes with a request");
    }
    let asks_a_human = spec.steps.iter().any(|step| matches!(step.grant, Grant::Ciba(_)));
    asks_a_human.then_some("it asks a human to approve each token")
}

/// A login that nobody has made yet, or an agent's token, somewhere on the way.
fn waits_for_somebody(failure: &Failure) -> bool {
    match failure {
        Failure::LoginRequired(_) | Failure::Settings(SettingsError::NoSubject) => true,
        Failure::Feed(error) => waits_for_somebody(&error.failure),
        _another => false,
    }
}
