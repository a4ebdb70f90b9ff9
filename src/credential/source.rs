//! Where a secret is: an environment variable, a file, a command's output, the keyring, a
//! metadata server's answer. Reads it when a token is requested, never before, so that a
//! change counts without a restart. Knows not what the secret is for.

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

/// For the keyring's own tool: it may ask its user to unlock it.
const KEYRING_LIMIT: Duration = Duration::from_secs(60);

/// `{ env = "NAME" }`, `{ file = "PATH" }`, `{ command = ["…"], ttl = "5m" }`,
/// `{ keyring = "service/user", ttl = "5m" }`, `{ http = "URL" }`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Env(String),
    /// Re-read when it changes; one trailing line break is removed.
    File(PathBuf),
    Command {
        argv: Vec<String>,
        ttl: Duration,
    },
    /// Of the user who runs cupbearer: the Secret Service on Linux, the keychain on macOS.
    Keyring {
        service: String,
        user: String,
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
    #[error("the keyring is read by `{program}`, which isn't installed: {install}")]
    NoKeyringTool { program: &'static str, install: &'static str },
    #[error(
        "`{program}` has no secret for service `{service}`, user `{user}` ({status}): put it into the keyring, \
         and unlock that"
    )]
    Keyring { program: &'static str, service: String, user: String, status: String },
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
    /// The environment variable that holds the secret, if one does.
    pub fn variable(&self) -> Option<&str> {
        match self {
            Self::Env(name) => Some(name),
            Self::File(_) | Self::Command { .. } | Self::Keyring { .. } | Self::Web(_) => None,
        }
    }

    /// Reads the secret now. The broker keeps what a command, the keyring or a server gave for
    /// its `ttl`.
    pub async fn read(&self) -> Result<Secret, SourceError> {
        match self {
            Self::Env(name) => match std::env::var(name) {
                Ok(value) => nonempty(Secret::new(value)),
                Err(std::env::VarError::NotPresent) => Err(SourceError::EnvUnset { name: name.clone() }),
                Err(std::env::VarError::NotUnicode(_)) => Err(SourceError::NotText),
            },
            Self::File(path) => read_file(path).await,
            Self::Command { argv, .. } => run(argv, COMMAND_LIMIT).await,
            Self::Keyring { service, user, .. } => KeyringTool::here().read(service, user).await,
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

// === impl KeyringTool ===

/// The program that comes with the platform's keyring. A library would bring D-Bus, or the
/// whole of a second crypto stack, for one call.
struct KeyringTool {
    program: &'static str,
    install: &'static str,
    arguments: fn(&str, &str) -> Vec<String>,
}

impl KeyringTool {
    /// libsecret's; the attributes are those that most programs use.
    const SECRET_TOOL: Self = Self {
        program: "secret-tool",
        install: "the package is `libsecret-tools` (Debian, Ubuntu) or `libsecret` (others)",
        arguments: |service, user| ["lookup", "service", service, "username", user].map(str::to_owned).to_vec(),
    };

    const SECURITY: Self = Self {
        program: "security",
        install: "it is part of macOS, in /usr/bin",
        arguments: |service, user| {
            ["find-generic-password", "-s", service, "-a", user, "-w"].map(str::to_owned).to_vec()
        },
    };

    fn here() -> Self {
        if cfg!(target_os = "macos") { Self::SECURITY } else { Self::SECRET_TOOL }
    }

    async fn read(&self, service: &str, user: &str) -> Result<Secret, SourceError> {
        let mut argv = vec![self.program.to_owned()];
        argv.extend((self.arguments)(service, user));
        let missing = |status| SourceError::Keyring {
            program: self.program,
            service: service.to_owned(),
            user: user.to_owned(),
            status,
        };
        match run(&argv, KEYRING_LIMIT).await {
            Err(SourceError::Spawn { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(SourceError::NoKeyringTool { program: self.program, install: self.install })
            }
            Err(SourceError::Command { status, .. }) => Err(missing(status)),
            Err(SourceError::Empty) => Err(missing("it gave nothing".to_owned())),
            read => read,
        }
    }
}

// === helpers ===

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

/// Reads secrets, and keeps what commands, the keyring and servers gave for their `ttl`. One a
/// broker, so that two credentials with one command run it once.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    outputs: Mutex<HashMap<Source, (Secret, Instant)>>,
}

impl Secrets {
    pub(crate) async fn read(&self, source: &Source) -> Result<Secret, SourceError> {
        let ttl = match source {
            Source::Command { ttl, .. } | Source::Keyring { ttl, .. } => ttl,
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

    /// The secret was refused: the next read runs the command, or asks the keyring, again.
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

    // === the keyring ===

    /// This test again, in a process whose programs are those in `programs`.
    fn again(test: &str, programs: &Path) -> std::process::ExitStatus {
        let name = format!("credential::source::tests::{test}");
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args([name.as_str(), "--exact"]).env("PATH", programs).env(STARTED, programs);
        command.stdout(Stdio::null()).status().unwrap()
    }

    const STARTED: &str = "CUPBEARER_TEST_KEYRING";

    fn keyring(service: &str) -> Source {
        Source::Keyring { service: service.to_owned(), user: "orders".to_owned(), ttl: Duration::from_secs(3600) }
    }

    #[tokio::test]
    async fn the_keyring_is_asked_by_its_own_tool() {
        let Some(programs) = std::env::var_os(STARTED) else {
            let programs = tempfile::tempdir().unwrap();
            let tool = programs.path().join(KeyringTool::here().program);
            let script = "#!/bin/sh\necho \"$*\" >>\"$0.asked\"\ncase \"$*\" in *\" good \"*) printf hunter2;; *\" mute \"*) ;; *) echo hunter3; exit 1;; esac\n";
            std::fs::write(&tool, script).unwrap();
            std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            assert!(again("the_keyring_is_asked_by_its_own_tool", programs.path()).success());
            let asked = std::fs::read_to_string(tool.with_extension("asked")).unwrap();
            let good = (KeyringTool::here().arguments)("good", "orders").join(" ");
            assert_eq!(asked.lines().take(2).collect::<Vec<_>>(), [good.as_str(), good.as_str()]);
            assert_eq!(asked.lines().count(), 4, "{asked}");
            return;
        };
        assert_eq!(std::env::var_os("PATH"), Some(programs));
        let secrets = Secrets::default();
        // Twice, but it is asked once; then once more.
        assert_eq!(secrets.read(&keyring("good")).await.unwrap().expose(), "hunter2");
        assert_eq!(secrets.read(&keyring("good")).await.unwrap().expose(), "hunter2");
        secrets.forget(&keyring("good"));
        assert_eq!(secrets.read(&keyring("good")).await.unwrap().expose(), "hunter2");
        for service in ["mute", "missing"] {
            let error = secrets.read(&keyring(service)).await.unwrap_err();
            assert!(matches!(&error, SourceError::Keyring { service: named, .. } if named == service), "{error}");
            let text = format!("{error} {error:?}");
            assert!(text.contains("user `orders`") && !text.contains("hunter"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_missing_keyring_tool_is_named() {
        if std::env::var_os(STARTED).is_none() {
            let programs = tempfile::tempdir().unwrap();
            assert!(again("a_missing_keyring_tool_is_named", programs.path()).success());
            return;
        }
        let error = keyring("good").read().await.unwrap_err();
        assert!(matches!(error, SourceError::NoKeyringTool { .. }), "{error}");
        assert!(error.to_string().contains(KeyringTool::here().program), "{error}");
        assert!(KeyringTool::SECRET_TOOL.install.contains("libsecret-tools"));
    }

    #[test]
    fn each_platform_has_its_tool() {
        let asked = |tool: &KeyringTool| (tool.program, (tool.arguments)("cupbearer", "orders").join(" "));
        assert_eq!(
            asked(&KeyringTool::SECRET_TOOL),
            ("secret-tool", "lookup service cupbearer username orders".to_owned())
        );
        assert_eq!(
            asked(&KeyringTool::SECURITY),
            ("security", "find-generic-password -s cupbearer -a orders -w".to_owned())
        );
    }
}
