//! A proxy whose token store ends the whole process, as `kill -9` does, before, within or after
//! the very operation that a test names. It is this test binary again: a test starts it with
//! [`again`], and its first line is [`live`] in a process that [`is_started`].

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use cupbearer::{
    app::{self, Surroundings},
    credential::store::{Change, Embedded, Guard, Key, Kind, Store, StoreError, StoreKey},
    primitives::{Clock, SystemClock},
    tls::CertificateAuthority,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{process::Command, sync::mpsc};
use zeroize::Zeroizing;

use crate::{
    binary::{Serve, Town},
    support::load,
};

const VARIABLE: &str = "CUPBEARER_TEST_PROXY";

/// Where a town's proxy keeps its tokens, from where it runs.
pub const STORE: &str = "state/tokens";

/// When a process dies: at the `number`th (from 1) of its operations named `operation` (`lock
/// session`, `get token`, `put session` …) from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    pub operation: &'static str,
    pub number: usize,
    pub moment: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before,
    /// This long after its begin, and at its end at the latest.
    Within(Duration),
    After,
}

/// This binary again, to run a town's proxy in the test `name`.
pub fn again(town: &Town, name: &str) -> Command {
    let mut command = town.home.command(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(VARIABLE, "").stdin(Stdio::piped());
    command
}

/// Whether this process is such a proxy.
pub fn is_started() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The proxy's life, as `serve` would live it; ends with whoever has started it.
pub async fn live() {
    let settings = load(Path::new("proxy.toml"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
    let store = Arc::new(Mortal::open(Path::new(STORE)));
    let instance = app::random_instance().unwrap();
    let surroundings = Surroundings { authority, clock, instance, store: store.clone() };
    let running = app::start(&settings, surroundings).unwrap();
    for (kind, address) in [("proxy", &running.forward), ("base URL", &running.reverse)] {
        eprintln!(" {kind} listener=x address={}", address[0]);
    }
    eprintln!(" admin address={}", running.admin.unwrap());
    let mut told = lines_of_stdin();
    while let Some(line) = told.recv().await {
        *store.fate.lock().unwrap() = Some(Awaited::read(&line));
        eprintln!("it knows its fate");
    }
}

fn lines_of_stdin() -> mpsc::UnboundedReceiver<String> {
    let (sender, told) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            sender.send(line.unwrap()).unwrap();
        }
    });
    told
}

/// Tells such a proxy; returns when it knows.
pub async fn foretell(proxy: &mut Serve, fate: Fate) {
    let moment = match fate.moment {
        Moment::Before => "before".to_owned(),
        Moment::Within(delay) => delay.as_micros().to_string(),
        Moment::After => "after".to_owned(),
    };
    proxy.tell(&format!("{}/{}/{moment}", fate.operation, fate.number)).await;
    proxy.wait_for("it knows its fate").await;
}

/// An entry's kind, as operations are named by it.
pub fn kind(key: &Key) -> &'static str {
    match key.kind() {
        Kind::Session => "session",
        Kind::Token => "token",
    }
}

/// A [`Fate`] in the process that it is for.
#[derive(Debug)]
struct Awaited {
    operation: String,
    /// Until then.
    left: usize,
    moment: Moment,
}

impl Awaited {
    fn read(line: &str) -> Self {
        let parts: Vec<&str> = line.split('/').collect();
        let moment = match parts[2] {
            "before" => Moment::Before,
            "after" => Moment::After,
            micros => Moment::Within(Duration::from_micros(micros.parse().unwrap())),
        };
        Self { operation: parts[0].to_owned(), left: parts[1].parse().unwrap(), moment }
    }
}

/// The store of `serve`, and what ends its process.
#[derive(Debug)]
struct Mortal {
    inner: Embedded,
    fate: Mutex<Option<Awaited>>,
}

impl Mortal {
    fn open(directory: &Path) -> Self {
        Self { inner: Embedded::open(directory, &StoreKey::File).unwrap(), fate: Mutex::default() }
    }

    fn meet<T>(&self, verb: &str, key: &Key, work: impl FnOnce() -> T) -> T {
        match self.moment(&format!("{verb} {}", kind(key))) {
            None => work(),
            Some(Moment::Before) => die(),
            Some(Moment::Within(delay)) => {
                std::thread::spawn(move || {
                    std::thread::park_timeout(delay);
                    die::<()>();
                });
                work();
                die()
            }
            Some(Moment::After) => {
                work();
                die()
            }
        }
    }

    fn moment(&self, operation: &str) -> Option<Moment> {
        let mut fate = self.fate.lock().unwrap();
        let awaited = fate.as_mut().filter(|awaited| awaited.operation == operation)?;
        awaited.left -= 1;
        if awaited.left > 0 {
            return None;
        }
        fate.take().map(|met| met.moment)
    }
}

/// As from outside: nothing is tidied up.
fn die<T>() -> T {
    kill(Pid::this(), Signal::SIGKILL).unwrap();
    loop {
        std::thread::park();
    }
}

impl Store for Mortal {
    fn get(&self, key: &Key) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.meet("get", key, || self.inner.get(key))
    }

    fn write(&self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        match changes {
            [Change::Put(key, _)] => self.meet("put", key, || self.inner.write(changes)),
            _several => self.inner.write(changes),
        }
    }

    fn keys(&self) -> Result<Vec<Key>, StoreError> {
        self.inner.keys()
    }

    fn try_lock(&self, key: &Key) -> Result<Option<Guard>, StoreError> {
        self.meet("lock", key, || self.inner.try_lock(key))
    }
}
