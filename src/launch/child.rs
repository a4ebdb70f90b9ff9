//! One command, run to its end: its environment, its signals, its exit status. Knows
//! nothing of the proxy.
//!
//! The command stays in our process group, so that a shell's job control treats the two
//! as one job, and what a terminal sends to the job reaches both.

use std::{ffi::OsString, future::poll_fn, io, os::unix::process::ExitStatusExt, process::ExitStatus, task::Poll};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal as Stream, SignalKind, signal},
};

use super::Error;

const FORWARDED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Runs `command` with exactly the variables in `environment` and our stdin, stdout and
/// stderr, and gives its exit status: its own, or 128 + n where signal n ended it.
///
/// Until then the signals in `FORWARDED` don't end this process: each goes on to the
/// command. A signal that the terminal has sent to the whole job (Ctrl-C) is not sent twice.
///
/// # Errors
/// `NotFound` and `NotExecutable`, whose `status()` is what a shell would give.
pub async fn run(
    command: OsString,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<u8, Error> {
    // Before the command starts: a signal that comes in between waits here for it.
    let mut signals = Signals::listen().map_err(Error::Signals)?;
    let mut child =
        Command::new(&command).args(arguments).env_clear().envs(environment).kill_on_drop(false).spawn().map_err(
            |source| match source.kind() {
                io::ErrorKind::NotFound => Error::NotFound { command, source },
                _ => Error::NotExecutable { command, source },
            },
        )?;
    loop {
        tokio::select! {
            ended = child.wait() => return ended.map(status).map_err(Error::Wait),
            signal = signals.next() => forward(&child, signal),
        }
    }
}

/// As shells count.
fn status(ended: ExitStatus) -> u8 {
    let number = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX)
}

fn forward(child: &Child, signal: Signal) {
    if is_from_terminal(signal) {
        return;
    }
    // No id: it has ended, and its number may already be another process's.
    let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) else { return };
    if let Err(error) = kill(Pid::from_raw(id), signal) {
        tracing::debug!(%error, %signal, "can't forward the signal");
    }
}

/// Whether the command got `signal` by itself. The kernel doesn't tell us who sent it, so
/// we go by this: these three come from the terminal while the job is in its foreground.
/// (Somebody who then sends one with `kill` to us alone has to send it to the command.)
fn is_from_terminal(signal: Signal) -> bool {
    match signal {
        Signal::SIGINT | Signal::SIGQUIT | Signal::SIGWINCH => in_foreground(),
        _ => false,
    }
}

/// By the controlling terminal, not by stdin, which may be a pipe.
fn in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp())
}

// === impl Signals ===

/// The signals to forward, as they come.
struct Signals(Vec<(Signal, Stream)>);

impl Signals {
    fn listen() -> io::Result<Self> {
        let ignored = ignored();
        FORWARDED
            .into_iter()
            // `nohup` has us and the command ignore SIGHUP; a handler would undo that.
            .filter(|number| ignored & (1 << (*number as u32 - 1)) == 0)
            .map(|number| Ok((number, signal(SignalKind::from_raw(number as i32))?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            let ready = self.0.iter_mut().find_map(|(number, stream)| match stream.poll_recv(context) {
                Poll::Ready(Some(())) => Some(*number),
                Poll::Ready(None) | Poll::Pending => None,
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The signals this process ignores, bit n - 1 for signal n. None where the system has
/// no such file.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::{fs::PermissionsExt, process::CommandExt},
        process::{Command as Process, Stdio},
    };

    use super::*;

    async fn sh(script: &str) -> u8 {
        run("sh".into(), ["-c".into(), script.into()], std::env::vars_os()).await.unwrap()
    }

    #[tokio::test]
    async fn the_status_is_the_commands_own() {
        assert_eq!(sh("exit 0").await, 0);
        assert_eq!(sh("exit 42").await, 42);
        assert_eq!(sh("kill -KILL $$").await, 128 + 9);
        assert_eq!(sh("kill -TERM $$").await, 128 + 15);
    }

    #[tokio::test]
    async fn a_command_that_cant_start_has_the_shells_status() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        std::fs::write(&plain, "echo no").unwrap();
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
        for (command, expected) in [
            (OsString::from("cupbearer-has-no-such-command"), 127),
            (directory.path().join("none").into_os_string(), 127),
            (plain.into_os_string(), 126),
            (directory.path().as_os_str().to_owned(), 126),
        ] {
            let error = run(command.clone(), [], std::env::vars_os()).await.unwrap_err();
            assert_eq!(error.status(), expected, "{command:?}: {error}");
        }
    }

    #[tokio::test]
    async fn the_environment_is_exactly_the_one_given() {
        let path = std::env::var_os("PATH").unwrap();
        let script = "test \"$ONLY\" = this && test -z \"$CARGO_MANIFEST_DIR\"".into();
        let status = run("sh".into(), ["-c".into(), script], [("PATH".into(), path), ("ONLY".into(), "this".into())]);
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "else the test shows nothing");
        assert_eq!(status.await.unwrap(), 0);
    }

    const SCRIPT: &str = "CUPBEARER_TEST_SCRIPT";

    /// Not a test by itself: the process that the tests below send signals to.
    #[tokio::test]
    async fn stand_in_for_the_command_line() {
        if let Some(script) = std::env::var_os(SCRIPT) {
            let status = run("sh".into(), ["-c".into(), script], std::env::vars_os()).await.unwrap();
            std::process::exit(status.into());
        }
    }

    const STAND_IN: [&str; 3] = ["--exact", "launch::child::tests::stand_in_for_the_command_line", "--nocapture"];

    /// Reads until a line holds `word`, and gives what stands behind it.
    fn after_word(output: &mut impl BufRead, word: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "the output ended before `{word}`");
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Runs `script` under `run` in a process of its own, sends that process `signal` once
    /// the script has said `ready`, and gives its status.
    fn status_after(signal: Signal, script: &str) -> i32 {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(STAND_IN)
            .env(SCRIPT, script)
            // Out of the foreground, also where a person runs the tests in a terminal.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        after_word(&mut BufReader::new(child.stdout.take().unwrap()), "ready");
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let status = child.wait().unwrap().code().unwrap();
        drop(stdin);
        status
    }

    /// The script waits for a line that never comes; `wait` returns when a trap has run.
    fn waiting(trap: &str) -> String {
        format!("{trap}; exec 3<&0; (read line <&3) & echo ready; wait $!; exit 9")
    }

    #[test]
    fn signals_reach_the_command() {
        for (signal, name, status) in [
            (Signal::SIGTERM, "TERM", 7),
            (Signal::SIGINT, "INT", 8),
            (Signal::SIGQUIT, "QUIT", 10),
            (Signal::SIGHUP, "HUP", 11),
            (Signal::SIGUSR1, "USR1", 12),
            (Signal::SIGUSR2, "USR2", 13),
        ] {
            let script = waiting(&format!("trap 'exit {status}' {name}"));
            assert_eq!(status_after(signal, &script), status, "{name}");
        }
    }

    #[test]
    fn a_command_that_a_signal_ends_gives_128_and_its_number() {
        assert_eq!(status_after(Signal::SIGTERM, &waiting(":")), 128 + 15);
    }

    /// Ctrl-C in a real terminal. The command counts its SIGINTs until a SIGTERM, which is
    /// sent to us and forwarded behind any SIGINT that we would forward too.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_terminals_interrupt_comes_once() {
        let script = "n=0; trap 'n=$((n+1)); echo got' INT; trap 'exit $((20+n))' TERM; exec 3<&0; \
                      echo ready $PPID.; while :; do (read line <&3) & wait $!; done";
        let exe = std::env::current_exe().unwrap();
        let command = format!("exec '{}' {}", exe.display(), STAND_IN.join(" "));
        let mut terminal = Process::new("script")
            .args(["-qefc", &command, "/dev/null"])
            .env(SCRIPT, script)
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script command is needed for this test");
        let mut keyboard = terminal.stdin.take().unwrap();
        let mut screen = BufReader::new(terminal.stdout.take().unwrap());
        let ours = after_word(&mut screen, "ready ").trim_end_matches('.').parse().unwrap();
        keyboard.write_all(b"\x03").unwrap();
        after_word(&mut screen, "got");
        kill(Pid::from_raw(ours), Signal::SIGTERM).unwrap();
        assert_eq!(terminal.wait().unwrap().code(), Some(21));
    }
}
