//! `cupbearer login`: a human logs in, and the refresh token goes into the store.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};

use crate::{
    config::{Settings, StoreKind},
    credential::{
        Error,
        login::{self, Page, UserCode},
    },
    launch::{Inherited, browser},
    observe::Recorder,
    primitives::CredentialName,
};

use super::{
    FAILED, Failure, Result, args,
    context::{self, count},
    control_runtime, env, output, qr, serving,
};

pub(super) fn login(global: &args::Global, login: &args::Login) -> Result {
    let settings = context::load_silently(global)?;
    let name = context::credential(&settings, &login.credential)?;
    if settings.store.kind == StoreKind::Memory {
        let lost = "a login would be lost with this command: `[state] store = \"memory\"` keeps nothing";
        return Err(Failure::NotStarted(anyhow!(lost)));
    }
    let runtime = control_runtime().context("can't start a runtime")?;
    let recorder = Recorder::start(&settings.observe).context("can't open the audit log")?;
    let done = runtime.block_on(async {
        let broker = context::broker(&settings, recorder.clone())?;
        let owner = match broker.login_owner(&name) {
            Ok(owner) => owner,
            Err(error) => return Ok(explain(&error)),
        };
        let terminal = Terminal { settings: &settings, name: &owner, browser: !login.no_browser };
        let options = login::Options { device: login.device, params: login.params.clone() };
        if let Err(error) = broker.log_in(&name, &options, &terminal).await {
            return Ok(explain(&error));
        }
        report(&owner, &name);
        serving::tell(&settings, &owner, true).await?;
        Ok(ExitCode::SUCCESS)
    });
    recorder.flush_within(context::FLUSH);
    done
}

fn report(owner: &CredentialName, name: &CredentialName) {
    output::line(format_args!("{owner}: logged in"));
    if owner != name {
        output::line(format_args!("{name}: uses the login of {owner}"));
    }
}

fn explain(error: &Error) -> ExitCode {
    output::note(format_args!("error: {}: {}", error.credential, error.failure.describe()));
    output::note(format_args!("  hint: {}", login::hint(error).unwrap_or_else(|| error.hint())));
    ExitCode::from(FAILED)
}

/// Everything about the doing goes to stderr.
struct Terminal<'a> {
    settings: &'a Settings,
    name: &'a CredentialName,
    browser: bool,
}

impl login::Prompt for Terminal<'_> {
    fn browse(&self, page: &Page) {
        output::note(format_args!("Log in for credential `{}` here:\n\n  {}\n", self.name, page.url));
        match self.browser.then(|| self.open(&page.url)).flatten() {
            Some(program) => output::note(format_args!("It was opened with {program}.")),
            None => output::note(format_args!(
                "The browser has to be on this machine; `cupbearer login {} --device` takes any.",
                self.name
            )),
        }
        let (redirect, limit) = (&page.redirect_uri, shown(page.expires_in));
        output::note(format_args!("Waiting for it to come back to {redirect}, for {limit}."));
    }

    fn enter(&self, code: &UserCode) {
        output::note(format_args!("Log in for credential `{}`: on any device, open\n\n  {}\n", self.name, code.url));
        output::note(format_args!("and enter the code\n\n  {}\n", code.code));
        let complete = code.complete_url.as_ref();
        if let Some(url) = complete {
            output::note(format_args!("or open this, which has the code in it:\n\n  {url}\n"));
        }
        if output::is_terminal()
            && let Some(drawn) = qr::draw(complete.unwrap_or(&code.url), output::colour())
        {
            output::note(drawn);
        }
        output::note(format_args!("Waiting for {}.", shown(code.expires_in)));
    }
}

impl Terminal<'_> {
    fn open(&self, url: &str) -> Option<String> {
        let inherited = Inherited::new(std::env::vars_os().filter(|(name, _)| name != env::KEY_VARIABLE));
        let opened = browser::open(url, &inherited, &self.settings.launch.secret_variables);
        opened.map(|program| output::plain(&program.to_string_lossy()))
    }
}

fn shown(length: Duration) -> String {
    // A moment has passed since the server said so.
    match (length + Duration::from_millis(500)).as_secs() {
        seconds if seconds >= 60 && seconds.is_multiple_of(60) => {
            count(usize::try_from(seconds / 60).unwrap_or(usize::MAX), "minute")
        }
        seconds => count(usize::try_from(seconds).unwrap_or(usize::MAX), "second"),
    }
}
