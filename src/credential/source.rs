//! Where a secret is: an environment variable, a file, a command's output, a metadata
//! server's answer. Reads it when a token is requested, never before, so that a change counts
//! without a restart. Knows not what the secret is for.

mod web;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};
use zeroize::Zeroizing;

use crate::primitives::Secret;

pub use web::Web;

/// A secret longer than this, in bytes, is a mistake (a wrong path, a chatty command).
const MAX_SECRET: usize = 64 * 1024;

/// For one run of a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// `{ env = "NAME" }`, `{ file = "PATH" }`, `{ command = ["…"], ttl = "5m" }`, `{ http = "URL" }`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Env(String),
    /// Re-read when it changes; one trailing line break is removed.
    File(PathBuf),
    Command {
        argv: Vec<String>,
        ttl: Duration,
    },
    Web(Box<Web>),
}

/// Why a secret can't be read. Never shows what was read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the environment variable {name} isn't set")]
    EnvUnset { name: String },
    #[error("{path} can't be read")]
    File { path: PathBuf, source: std::io::Error },
    #[error("no command is given")]
    NoCommand,
    #[error("the command `{program}` can't be run")]
    Spawn { program: String, source: std::io::Error },
    #[error("the command `{program}` ended with {status}")]
    Command { program: String, status: String },
    #[error("the command `{program}` took longer than {limit:?}")]
    CommandTimeout { program: String, limit: Duration },
    #[error("{url} can't be asked")]
    Web { url: String, source: reqwest::Error },
    #[error("{url} answers with {status}")]
    WebStatus { url: String, status: u16 },
    #[error("{url} took longer than {limit:?}")]
    WebTimeout { url: String, limit: Duration },
    #[error("the answer of {url} has no text at `{pointer}`")]
    WebPointer { url: String, pointer: String },
    #[error("this machine has no root certificates")]
    NoRoots,
    #[error("the secret is empty")]
    Empty,
    #[error("the secret is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("the secret isn't UTF-8 text")]
    NotText,
}

impl Source {
    /// Reads the secret now. The broker keeps a command's output, and an answer, for its `ttl`.
    pub async fn read(&self) -> Result<Secret, SourceError> {
        match self {
            Self::Env(name) => match std::env::var(name) {
                Ok(value) => nonempty(Secret::new(value)),
                Err(std::env::VarError::NotPresent) => Err(SourceError::EnvUnset { name: name.clone() }),
                Err(std::env::VarError::NotUnicode(_)) => Err(SourceError::NotText),
            },
            Self::File(path) => read_file(path).await,
            Self::Command { argv, .. } => run(argv, COMMAND_LIMIT).await,
            Self::Web(web) => web.read().await,
        }
    }
}

async fn read_file(path: &Path) -> Result<Secret, SourceError> {
    let failed = |source| SourceError::File { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    text(&read_capped(file).await.map_err(failed)?)
}

async fn run(argv: &[String], limit: Duration) -> Result<Secret, SourceError> {
    let (program, arguments) = argv.split_first().ok_or(SourceError::NoCommand)?;
    let failed = |source| SourceError::Spawn { program: program.clone(), source };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let Some(stdout) = child.stdout.take() else { return Err(SourceError::NoCommand) };
    let work = async {
        let output = read_capped(stdout).await.map_err(failed)?;
        if output.len() > MAX_SECRET {
            return Err(SourceError::TooLong { limit: MAX_SECRET });
        }
        let status = child.wait().await.map_err(failed)?;
        if !status.success() {
            return Err(SourceError::Command { program: program.clone(), status: status.to_string() });
        }
        text(&output)
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(SourceError::CommandTimeout { program: program.clone(), limit }),
    }
}

/// At most one byte more than a secret may have. The buffer never grows, so no copy
/// that isn't zeroed stays behind.
async fn read_capped(from: impl AsyncRead + Unpin) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; MAX_SECRET + 1]);
    let mut from = from;
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]).await? {
            0 => break,
            read => filled += read,
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn text(bytes: &[u8]) -> Result<Secret, SourceError> {
    if bytes.len() > MAX_SECRET {
        return Err(SourceError::TooLong { limit: MAX_SECRET });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| SourceError::NotText)?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    nonempty(Secret::new(text.to_owned()))
}

fn nonempty(secret: Secret) -> Result<Secret, SourceError> {
    if secret.is_empty() { Err(SourceError::Empty) } else { Ok(secret) }
}

// === impl Secrets ===

/// Reads secrets, and keeps the output of commands and answers of servers for their `ttl`. One a broker, so that
/// two credentials with one command run it once.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    outputs: Mutex<HashMap<Source, (Secret, Instant)>>,
}

impl Secrets {
    pub(crate) async fn read(&self, source: &Source) -> Result<Secret, SourceError> {
        let ttl = match source {
            Source::Command { ttl, .. } => ttl,
            Source::Web(web) => &web.ttl,
            Source::Env(_) | Source::File(_) => return source.read().await,
        };
        if let Some(secret) = self.kept(source) {
            return Ok(secret);
        }
        let secret = source.read().await?;
        let until = Instant::now() + *ttl;
        self.outputs().insert(source.clone(), (secret.clone(), until));
        Ok(secret)
    }

    /// The secret was refused: the next read runs the command again.
    pub(crate) fn forget(&self, source: &Source) {
        self.outputs().remove(source);
    }

    fn kept(&self, source: &Source) -> Option<Secret> {
        let now = Instant::now();
        let mut outputs = self.outputs();
        outputs.retain(|_, (_, until)| now < *until);
        outputs.get(source).map(|(secret, _)| secret.clone())
    }

    fn outputs(&self) -> std::sync::MutexGuard<'_, HashMap<Source, (Secret, Instant)>> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    fn file(content: &[u8]) -> (tempfile::TempDir, Source) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, content).unwrap();
        (directory, Source::File(path))
    }

    #[tokio::test]
    async fn one_line_break_goes_and_nothing_else() {
        for (content, wanted) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            (" s \n\n", " s \n"),
            ("a\r", "a\r"),
        ] {
            let (_directory, source) = file(content.as_bytes());
            assert_eq!(source.read().await.unwrap().expose(), wanted, "{content:?}");
        }
    }

    #[tokio::test]
    async fn a_changed_file_counts_at_once() {
        let (_directory, source) = file(b"old");
        let secrets = Secrets::default();
        assert_eq!(secrets.read(&source).await.unwrap().expose(), "old");
        let Source::File(path) = &source else { panic!("file") };
        std::fs::write(path, "new").unwrap();
        assert_eq!(secrets.read(&source).await.unwrap().expose(), "new");
    }

    #[tokio::test]
    async fn what_is_no_secret_is_refused() {
        let (_directory, source) = file(b"\n");
        assert!(matches!(source.read().await, Err(SourceError::Empty)));
        let (_directory, source) = file(b"\xff\xfe");
        assert!(matches!(source.read().await, Err(SourceError::NotText)));
        let (_directory, source) = file(&vec![b'a'; MAX_SECRET + 1]);
        assert!(matches!(source.read().await, Err(SourceError::TooLong { .. })));
        let missing = Source::File(PathBuf::from("/nonexistent/secret"));
        assert!(matches!(missing.read().await, Err(SourceError::File { .. })));
        let unset = Source::Env("CUPBEARER_TEST_SURELY_UNSET".to_owned());
        assert!(matches!(unset.read().await, Err(SourceError::EnvUnset { .. })));
        assert!(!Source::Env("PATH".to_owned()).read().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_command_gives_its_output_and_its_failures() {
        assert_eq!(run(&sh("echo hunter2"), COMMAND_LIMIT).await.unwrap().expose(), "hunter2");
        let failed = run(&sh("echo hunter2; exit 3"), COMMAND_LIMIT).await.unwrap_err();
        assert!(matches!(&failed, SourceError::Command { status, .. } if status.contains('3')), "{failed}");
        assert!(!format!("{failed} {failed:?}").contains("hunter2"));
        let gone = run(&["/nonexistent/vault".to_owned()], COMMAND_LIMIT).await;
        assert!(matches!(gone, Err(SourceError::Spawn { .. })));
        assert!(matches!(run(&[], COMMAND_LIMIT).await, Err(SourceError::NoCommand)));
        let endless = run(&sh("yes"), COMMAND_LIMIT).await;
        assert!(matches!(endless, Err(SourceError::TooLong { .. })));
        let slow = run(&sh("exec sleep 600"), Duration::from_millis(50)).await;
        assert!(matches!(slow, Err(SourceError::CommandTimeout { .. })));
    }

    #[tokio::test]
    async fn a_commands_output_is_kept_for_its_ttl() {
        let directory = tempfile::tempdir().unwrap();
        let count = directory.path().join("count");
        let script = format!("echo x >> {0}; wc -l < {0}", count.display());
        let command = |ttl| Source::Command { argv: sh(&script), ttl };
        let secrets = Secrets::default();
        let kept = command(Duration::from_secs(3600));
        assert_eq!(secrets.read(&kept).await.unwrap().expose().trim(), "1");
        assert_eq!(secrets.read(&kept).await.unwrap().expose().trim(), "1");
        secrets.forget(&kept);
        assert_eq!(secrets.read(&kept).await.unwrap().expose().trim(), "2");
        let unkept = command(Duration::ZERO);
        assert_eq!(secrets.read(&unkept).await.unwrap().expose().trim(), "3");
        assert_eq!(secrets.read(&unkept).await.unwrap().expose().trim(), "4");
    }
}
