//! What most commands need: the config, the certificate authority, the credentials.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::runtime::Handle;

use crate::{
    app::{self, Surroundings, hardening},
    config::{self, Settings, StoreKind},
    credential::{
        Broker, Source,
        store::{Embedded, Memory, Store, StoreKey},
    },
    observe::Recorder,
    primitives::{AgentName, Clock, CredentialName, Secret, SystemClock},
    tls::CertificateAuthority,
};

use super::{Failure, Result, args::Global, output};

/// The token store's directory in the state directory.
const STORE: &str = "tokens";

/// How long the audit log may hold up the end of a command.
pub(super) const FLUSH: Duration = Duration::from_secs(2);

/// Reads the config and prints its warnings, or prints every problem and gives up.
pub(super) fn load(global: &Global) -> Result<Settings> {
    let settings = load_silently(global)?;
    if !global.quiet && !settings.warnings.is_empty() {
        output::note(settings.warnings.render_as_warnings(output::colour()));
    }
    Ok(settings)
}

/// The same without the warnings: for commands that start no proxy. In an operator's shell
/// the proxy's secrets are rarely set, and needn't be.
pub(super) fn load_silently(global: &Global) -> Result<Settings> {
    let path = find(global)?;
    match config::load(&path) {
        Ok(settings) => Ok(settings),
        Err(problems) => {
            output::note(problems.render(output::colour()));
            Err(Failure::NotStarted(anyhow!("{} in {}", count(problems.len(), "problem"), path.display())))
        }
    }
}

/// `1 problem`, `2 problems`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

pub(super) fn find(global: &Global) -> Result<PathBuf> {
    config::env::locate(global.config.as_deref(), &|name| std::env::var_os(name))
        .map_err(|error| Failure::NotStarted(error.into()))
}

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// The authority that lives in the state directory.
pub(super) fn authority(settings: &Settings) -> Result<Arc<CertificateAuthority>> {
    let authority = CertificateAuthority::load_or_create(&settings.state, &clock())
        .context("can't use the certificate authority")?;
    Ok(Arc::new(authority))
}

/// Before a key or a secret is read, where the config wants it.
pub(super) fn lock_memory(settings: &Settings) -> Result<()> {
    if settings.lock_memory {
        hardening::lock_memory().map_err(|error| Failure::NotStarted(error.into()))?;
    }
    Ok(())
}

pub(super) fn surroundings(authority: Arc<CertificateAuthority>, store: Arc<dyn Store>) -> Result<Surroundings> {
    let instance = app::random_instance().context("no random numbers")?;
    Ok(Surroundings { authority, clock: clock(), instance, store })
}

/// What outlives the process. A store that can't be used is the end: an empty one in its
/// place would ask everybody to log in again.
pub(super) fn store(settings: &Settings) -> Result<Arc<dyn Store>> {
    let key = match (settings.store.kind, &settings.store.key) {
        (StoreKind::Memory, _) => return Ok(Arc::new(Memory::default())),
        (StoreKind::Embedded, None) => StoreKey::File,
        (StoreKind::Embedded, Some(source)) => StoreKey::Given(secret(source)?),
    };
    let opened = Embedded::open(&settings.state.join(STORE), &key);
    let store =
        opened.map_err(|error| Failure::NotStarted(anyhow::Error::new(error).context("can't use the token store")))?;
    Ok(Arc::new(store))
}

/// A secret that is needed before anything else is there; also where a runtime runs already.
fn secret(source: &Source) -> Result<Secret> {
    let read = || -> anyhow::Result<Secret> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(source.read())?)
    };
    let read = std::thread::scope(|scope| scope.spawn(read).join());
    let read = read.unwrap_or_else(|_| Err(anyhow!("the thread that read it ended early")));
    read.context("can't read the key of the token store").map_err(Failure::NotStarted)
}

/// The credentials without a proxy: for commands that get or give back tokens themselves. Runs
/// on the current runtime.
pub(super) fn broker(settings: &Settings, recorder: Recorder) -> Result<Broker> {
    let (specs, tokens) = (settings.credentials.clone(), settings.tokens.clone());
    Ok(Broker::new(specs, tokens, clock(), recorder, Handle::current(), store(settings)?)?)
}

/// A credential of the config, named on the command line.
pub(super) fn credential(settings: &Settings, asked: &str) -> Result<CredentialName> {
    let known = settings.credentials.iter().find(|known| known.name.as_str() == asked);
    known.map(|known| known.name.clone()).ok_or_else(|| {
        let mut names: Vec<&str> = settings.credentials.iter().map(|known| known.name.as_str()).collect();
        // A route with scopes of its own is a variant of the credential.
        names.sort_unstable();
        names.dedup();
        Failure::NotStarted(anyhow!("the config has no credential `{asked}`; it has: {}", names.join(", ")))
    })
}

/// The agent named on the command line, or the only one there is.
pub(super) fn agent(settings: &Settings, asked: Option<&str>) -> Result<AgentName> {
    let known = &settings.launch.agents;
    let names = || known.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", ");
    let failure = match asked {
        Some(name) => match known.iter().find(|known| known.as_str() == name) {
            Some(agent) => return Ok(agent.clone()),
            None => anyhow!("the config has no agent `{name}`; it has: {}", names()),
        },
        None => match known.as_slice() {
            [only] => return Ok(only.clone()),
            [] => anyhow!("the config has no agent; `cupbearer agent new NAME` makes one"),
            _ => anyhow!("the config has several agents; choose one with --agent: {}", names()),
        },
    };
    Err(Failure::NotStarted(failure))
}
