//! `cupbearer serve`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    app::{self, Running},
    config::{self, Problem, Settings},
    primitives::ListenAddress,
};

use super::{Failure, Result, args::Global, context, control_runtime};

/// How long the records of finished requests may hold up an end at once.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Serves until SIGTERM or SIGINT; drains; a second one ends at once. SIGHUP reloads.
pub(super) fn serve(global: &Global) -> Result {
    let settings = context::load_silently(global)?;
    warn(&settings);
    context::lock_memory(&settings)?;
    let authority = context::authority(&settings)?;
    authority.warn_of_end();
    let surroundings = context::surroundings(authority, context::store(&settings)?)?;
    let runtime = control_runtime().context("can't start the control runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::listen().context("can't listen for signals")?;
        let running = app::start(&settings, surroundings)
            .map_err(|error| Failure::NotStarted(anyhow::Error::new(error).context("can't start")))?;
        announce(&settings, &running);
        signals.wait_for_end(&running, &settings).await;
        tracing::info!(limit = ?settings.server.drain, "draining; a second signal ends at once");
        let recorder = running.recorder().clone();
        let drained = tokio::select! {
            drained = running.shutdown(settings.server.drain) => drained,
            () = signals.second() => {
                tracing::warn!("ended at once");
                recorder.flush_within(LAST_WORDS);
                return Ok(ExitCode::FAILURE);
            }
        };
        if !drained {
            tracing::warn!("some requests or refreshes took longer than the drain limit and were cut");
        }
        Ok(ExitCode::SUCCESS)
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn wait_for_end(&mut self, running: &Running, settings: &Settings) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => reload(running, settings),
            }
        }
    }

    async fn second(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn reload(running: &Running, former: &Settings) {
    match config::load(&former.file) {
        Ok(settings) => match running.reload(&settings) {
            Ok(()) => {
                warn(&settings);
                tracing::info!("the config was reloaded; changed listeners and limits want a restart");
            }
            Err(error) => tracing::error!(%error, "the new config can't be used; the former one stays in force"),
        },
        Err(problems) => {
            running.reload_refused(problems.len());
            for problem in &problems {
                let (line, column, help) = (problem.line, problem.column, &problem.help);
                tracing::error!(line, column, help, "config: {}", problem.message);
            }
            tracing::error!(problems = problems.len(), "the new config can't be used; the former one stays in force");
        }
    }
}

/// In the log, as everything that `serve` says: a collector may read it.
fn warn(settings: &Settings) {
    for Problem { message, line, column, help, .. } in &settings.warnings {
        tracing::warn!(line, column, help, "config: {message}");
    }
}

fn announce(settings: &Settings, running: &Running) {
    for (listener, address) in settings.server.forward.iter().zip(&running.forward) {
        tracing::info!(listener = %listener.name, %address, tls = listener.tls.is_some(), "proxy");
    }
    for (listener, address) in settings.server.reverse.iter().zip(&running.reverse) {
        tracing::info!(listener = %listener.name, %address, tls = listener.tls.is_some(), "base URL");
    }
    for (listener, address) in settings.server.socks.iter().zip(&running.socks) {
        tracing::info!(listener = %listener.name, %address, "SOCKS");
    }
    if let Some(admin) = &settings.admin {
        let address = running.admin.map_or(admin.listen.clone(), ListenAddress::Tcp);
        tracing::info!(%address, "admin");
    }
    for danger in &settings.dangers {
        tracing::warn!(switch = danger, "a switch that lowers safety is on");
    }
}
