//! The real `cupbearer`, started as a user would, in a home of its own. What a test must
//! not wait for in vain has a limit.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use cupbearer::{
    demo::{World, WorldSettings, world::CLIENT_ID},
    identity,
    primitives::digest,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use crate::support::{API, Facts};

/// Nothing here takes that long.
pub const LIMIT: Duration = Duration::from_secs(60);

pub const CUPBEARER: &str = env!("CARGO_BIN_EXE_cupbearer");

/// A user's directories, and nothing else of the environment but `PATH`.
pub struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    /// In memory where the system has a place for that, for tests with thousands of writes: what
    /// a process leaves when it dies is there as on any disk, and `fsync` costs nothing.
    pub fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        Self::at(if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap())
    }

    fn at(directory: tempfile::TempDir) -> Self {
        let home = Self { directory };
        for name in ["home", "config", "state-home", "run", "tmp", "work"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        home
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// In the directory where commands are run.
    pub fn work(&self, name: &str) -> PathBuf {
        self.path().join("work").join(name)
    }

    /// Writes a file there that nobody else can read.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        use std::os::unix::fs::PermissionsExt;
        fs::write(self.work(name), text).unwrap();
        fs::set_permissions(self.work(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.work("")).stdin(Stdio::null()).kill_on_drop(true);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        for (name, directory) in [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_STATE_HOME", "state-home"),
            ("XDG_RUNTIME_DIR", "run"),
            ("TMPDIR", "tmp"),
        ] {
            command.env(name, self.path().join(directory));
        }
        command
    }

    pub fn cupbearer(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(CUPBEARER);
        command.args(arguments);
        command
    }

    /// `cupbearer ARGUMENTS`, to its end.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        finish(self.cupbearer(arguments)).await
    }

    /// A script, in the environment that `cupbearer` has here.
    pub async fn sh(&self, script: &str) -> Finished {
        let mut command = self.command("sh");
        command.args(["-c", script]);
        finish(command).await
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

pub async fn finish(mut command: Command) -> Finished {
    let output = timeout(LIMIT, command.output()).await.expect("the command hangs").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Finished {
        status: output.status.code().expect("the command was killed"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A home with an authorization server and an API around it, and a config that names them.
pub struct Town {
    pub home: Home,
    pub world: World,
    pub facts: Facts,
    pub key: String,
}

impl Town {
    pub async fn new() -> Self {
        Self::with(WorldSettings::default(), Facts::config).await
    }

    pub async fn with(world: WorldSettings, config: impl FnOnce(&Facts) -> String) -> Self {
        Self::at(Home::new(), world, config).await
    }

    pub async fn at(home: Home, world: WorldSettings, config: impl FnOnce(&Facts) -> String) -> Self {
        let world = World::start(WorldSettings { dns_names: vec![API.to_owned()], ..world }).await.unwrap();
        let (key, hash) = identity::generate_key().unwrap();
        let facts = Facts {
            issuer: world.issuer().to_owned(),
            api_port: world.api_address().port(),
            key_sha256: digest::hex(&hash),
        };
        home.write("peers-ca.pem", world.ca_pem());
        home.write("client-secret", world.client_secret().expose());
        home.write("proxy.toml", config(&facts));
        Self { home, world, facts, key: key.expose().to_owned() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{API}:{}{path}", self.facts.api_port)
    }

    /// What the operator's requests to the admin listener want.
    pub fn admin_key(&self) -> String {
        fs::read_to_string(self.home.work("state/admin.key")).unwrap().trim().to_owned()
    }

    pub fn config(&self) -> String {
        fs::read_to_string(self.home.work("proxy.toml")).unwrap()
    }

    /// Somebody has logged in: what came of it stands in the file that [`Facts::config_with_login`]
    /// names.
    pub fn log_in(&self) {
        let server = self.world.authorization_server();
        let token = server.issue_refresh_token(CLIENT_ID, "read:orders write:orders").unwrap();
        self.home.write("refresh-token", token.expose());
    }

    pub async fn serve(&self) -> Serve {
        Serve::start(self.home.cupbearer(&["serve", "--log", "json"])).await
    }

    /// A `serve` whose ports stand in the config, so that other commands find it.
    pub async fn serve_at_known_ports(&self) -> Serve {
        let serve = self.serve().await;
        let mut text = self.config();
        for address in [serve.forward, serve.admin, serve.reverse] {
            text = text.replacen("\"127.0.0.1:0\"", &format!("\"{address}\""), 1);
        }
        self.home.write("proxy.toml", text);
        serve
    }

    /// The audit log so far, by lines.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.home.work("state/audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// An ordinary client that knows the proxy and trusts the CA of the state directory.
    pub fn agent(&self, serve: &Serve) -> reqwest::Client {
        self.agent_with_key(serve, &self.key)
    }

    pub fn agent_with_key(&self, serve: &Serve, key: &str) -> reqwest::Client {
        let root = fs::read(self.home.work("state/ca/root.pem")).unwrap();
        let proxy = format!("http://researcher:{key}@{}", serve.forward);
        reqwest::Client::builder()
            .proxy(reqwest::Proxy::all(proxy).unwrap())
            .tls_certs_only([reqwest::Certificate::from_pem(&root).unwrap()])
            .timeout(LIMIT)
            .build()
            .unwrap()
    }
}

/// A client that knows no proxy.
pub fn direct() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap()
}

/// A running `cupbearer serve`, killed on drop.
pub struct Serve {
    child: Child,
    /// Where it is piped. Kept out of the child, whose `wait` would close it.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    log: UnboundedReceiver<String>,
    /// Everything it has logged so far.
    pub lines: Vec<String>,
    pub forward: SocketAddr,
    pub reverse: SocketAddr,
    pub admin: SocketAddr,
}

impl Serve {
    /// Waits until it has named its listeners, as JSON or as text.
    pub async fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = drained(child.stderr.take().unwrap());
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut serve =
            Self { child, stdin, stdout, log, lines: Vec::new(), forward: nowhere, reverse: nowhere, admin: nowhere };
        serve.forward = address_in(&serve.wait_for_any(&["\"message\":\"proxy\"", " proxy listener="]).await);
        serve.reverse = address_in(&serve.wait_for_any(&["\"message\":\"base URL\"", " base URL listener="]).await);
        serve.admin = address_in(&serve.wait_for_any(&["\"message\":\"admin\"", " admin address="]).await);
        serve
    }

    /// The next line of the log that has one of these in it.
    async fn wait_for_any(&mut self, needles: &[&str]) -> String {
        loop {
            let line = timeout(LIMIT, self.log.recv()).await;
            let line = line.unwrap_or_else(|_| panic!("no {needles:?} in:\n{}", self.lines.join("\n")));
            let line = line.unwrap_or_else(|| panic!("it ended without {needles:?}:\n{}", self.lines.join("\n")));
            self.lines.push(line.clone());
            if needles.iter().any(|needle| line.contains(needle)) {
                return line;
            }
        }
    }

    pub async fn wait_for(&mut self, needle: &str) -> String {
        self.wait_for_any(&[needle]).await
    }

    pub fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap().try_into().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.id(), signal).unwrap();
    }

    /// Waits for its end: its exit status, stdout, and all it has logged.
    pub async fn ended(mut self) -> Finished {
        let mut rest = Vec::new();
        let (status, stdout, ()) = timeout(LIMIT, async {
            let log = async {
                while let Some(line) = self.log.recv().await {
                    rest.push(line);
                }
            };
            tokio::join!(self.child.wait(), read(self.stdout), log)
        })
        .await
        .expect("it doesn't end");
        self.lines.extend(rest);
        let status = status.unwrap().code().expect("it was killed");
        Finished { status, stdout, stderr: self.lines.join("\n") }
    }

    /// SIGKILL; returns when it is dead.
    pub async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.died().await;
    }

    /// Waits for a death by SIGKILL.
    pub async fn died(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let status = timeout(LIMIT, self.child.wait()).await.expect("it lives on").unwrap();
        let log = self.lines.join("\n");
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}\n{log}");
    }

    /// Whether it ends by itself so soon.
    pub async fn ends_within(&mut self, time: Duration) -> bool {
        timeout(time, self.child.wait()).await.is_ok()
    }

    /// A line to its stdin.
    pub async fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its stdin isn't piped");
        stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    pub async fn terminate(self) -> Finished {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }
}

/// Reads on while nobody asks: a full pipe would hold up whoever logs.
fn drained(log: ChildStderr) -> UnboundedReceiver<String> {
    let (lines, receiver) = unbounded_channel();
    tokio::spawn(async move {
        let mut log = BufReader::new(log).lines();
        while let Some(line) = log.next_line().await.unwrap() {
            // Nobody is left to read it.
            let _ = lines.send(line);
        }
    });
    receiver
}

async fn read(mut from: impl AsyncRead + Unpin) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).await.unwrap();
    text
}

/// The first `127.0.0.1:PORT` of a line.
fn address_in(line: &str) -> SocketAddr {
    let at = line.find("127.0.0.1:").unwrap_or_else(|| panic!("no address in {line}"));
    let end = line[at..].find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(line.len() - at);
    line[at..at + end].parse().unwrap()
}
