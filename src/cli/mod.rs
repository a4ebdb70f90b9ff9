//! The command line: arguments in, an exit status out. The only room that prints, and
//! the only one that uses `anyhow`.

mod agent;
mod args;
mod ca;
mod check;
mod context;
mod demo;
mod env;
mod explain;
mod login;
mod logout;
mod output;
mod qr;
mod run;
mod serve;
mod serving;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::{app::hardening, observe::logging};

use args::{Arguments, Command};

/// It ran and failed.
const FAILED: u8 = 1;
/// Nothing was started.
const NOT_STARTED: u8 = 2;

/// Why a command ended without its result.
#[derive(Debug)]
enum Failure {
    /// Bad arguments or a bad config: exit status 2. The text was printed already, or is
    /// the error's.
    NotStarted(anyhow::Error),
    /// Exit status 1.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Result<T = ExitCode> = std::result::Result<T, Failure>;

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked_for { 0 } else { NOT_STARTED });
        }
    };
    let global = &arguments.global;
    let format = global.log.map_or(logging::Format::Auto, Into::into);
    let quiet = i8::from(global.quiet) + i8::from(is_quiet(&arguments.command));
    let verbosity = i8::try_from(global.verbose).unwrap_or(i8::MAX).saturating_sub(quiet);
    if let Err(error) = logging::init(format, verbosity) {
        return fail(&error.into(), NOT_STARTED);
    }
    hardening::harden();
    match dispatch(arguments) {
        Ok(code) => code,
        Err(Failure::NotStarted(error)) => fail(&error, NOT_STARTED),
        Err(Failure::Failed(error)) => fail(&error, FAILED),
    }
}

fn dispatch(arguments: Arguments) -> Result {
    let global = &arguments.global;
    match arguments.command {
        Command::Demo(demo) => demo::demo(&demo),
        Command::Serve => serve::serve(global),
        Command::Run(run) => run::run(global, &run),
        Command::Env(env) => env::env(global, &env),
        Command::Check(check) => check::check(global, &check),
        Command::Explain(explain) => explain::explain(global, &explain),
        Command::Login(login) => login::login(global, &login),
        Command::Logout(logout) => logout::logout(global, &logout),
        Command::Ca(command) => ca::ca(global, &command),
        Command::Agent(command) => agent::agent(global, &command),
        Command::Token(command) => token::token(global, &command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "cupbearer", &mut script);
            output::text(String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The command that `run` wraps owns the terminal: we say only what went wrong.
fn is_quiet(command: &Command) -> bool {
    matches!(command, Command::Run(_) | Command::Demo(_))
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    output::note(format_args!("error: {error}"));
    for cause in error.chain().skip(1) {
        output::note(format_args!("  caused by: {cause}"));
    }
    ExitCode::from(code)
}

/// The control runtime: token flights, admin, signals. Requests run on workers of their own.
fn control_runtime() -> std::io::Result<Control> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("control").enable_all().build().map(|runtime| Control(Some(runtime)))
}

/// Its end waits for no thread: resolving a name can't be broken off, and a second signal
/// means now.
#[derive(Debug)]
struct Control(Option<tokio::runtime::Runtime>);

impl Control {
    #[expect(clippy::expect_used, reason = "taken in drop only")]
    fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.0.as_ref().expect("the runtime is there until the drop").block_on(work)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
