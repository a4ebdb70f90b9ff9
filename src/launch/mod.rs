//! What an unmodified program needs to go through a proxy of ours and to trust it:
//! files of certificates, an environment, and a process that runs in it. Knows no
//! configuration file, no listener and no policy; prints nothing.
//!
//! ```text
//! Settings + inherited environment
//!   -> trust::TemporaryTrust   files in a 0700 directory, removed on drop
//!   -> environment::Plan       which variables to set and unset (`cupbearer env` prints it)
//!   -> child::run              the command; signals forwarded; its own exit status
//! Inherited environment
//!   -> browser::open           a page for a human, in the browser that there is
//! ```

pub mod browser;
pub mod child;
pub mod environment;
mod no_proxy;
pub mod shell;
pub mod trust;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use crate::primitives::{AgentName, Authority, Secret};

pub use environment::{Change, Plan};
pub use shell::Shell;
pub use trust::{TemporaryTrust, TrustFiles};

/// Everything that a launch needs to know.
#[derive(Debug)]
pub struct Settings {
    /// Where the proxy listens, as the command reaches it.
    pub proxy: Authority,
    /// Whether the proxy itself speaks TLS (`https://` proxy URLs fail in several clients).
    pub proxy_tls: bool,
    /// Who the command is; nothing for the anonymous agent.
    pub agent: Option<AgentKey>,
    /// Variables for tools that refuse to start without a key, with worthless values.
    pub placeholders: BTreeMap<String, String>,
    /// Variables that hold a secret of ours: the command never gets them.
    pub secret_variables: Vec<String>,
    /// A secret of ours is in the keyring: the command isn't led to it.
    pub keyring: bool,
    /// Host patterns of all routes (`api.example.com`, `*.example.com:8443`): nothing in
    /// `NO_PROXY` may lead past the proxy to one of them.
    pub routed_hosts: Vec<String>,
    /// Whether to set `JAVA_TOOL_OPTIONS`, at the price of a line on stderr from each JVM.
    pub java: bool,
}

/// An agent's name and key, as `Proxy-Authorization` will carry them.
#[derive(Clone, Debug)]
pub struct AgentKey {
    pub name: AgentName,
    pub key: Secret,
}

/// The environment that a command would have got without us.
#[derive(Clone, Default)]
pub struct Inherited(BTreeMap<OsString, OsString>);

impl Inherited {
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// A variable's value; an empty one counts as unset, as it does for the programs
    /// that read these.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(OsStr::new(name))
    }

    pub(crate) fn into_variables(self) -> BTreeMap<OsString, OsString> {
        self.0
    }
}

/// Names only: the values may be secrets.
impl std::fmt::Debug for Inherited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why a command could not be launched. The operator's to mend, but for `Random`,
/// `Signals` and `Wait`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't write {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the path {path:?} is not plain text, and no variable could name it")]
    Path { path: PathBuf },
    #[error("the root certificate can't be read")]
    Root,
    #[error("there are too many root certificates for a Java trust store")]
    TrustStore,
    #[error("`{name}` is no name for an environment variable")]
    VariableName { name: String },
    #[error("the system gave no random numbers")]
    Random,
    #[error("{command:?} was not found")]
    NotFound { command: OsString, source: std::io::Error },
    #[error("{command:?} can't be executed")]
    NotExecutable { command: OsString, source: std::io::Error },
    #[error("can't listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("can't wait for the command")]
    Wait(#[source] std::io::Error),
}

impl Error {
    /// The exit status that a shell would give: 127 for a command that isn't there, 126
    /// for one that can't be executed, else 2: nothing was started.
    pub fn status(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Write { .. }
            | Self::Path { .. }
            | Self::Root
            | Self::TrustStore
            | Self::VariableName { .. }
            | Self::Random
            | Self::Signals(_) => 2,
            Self::Wait(_) => 1,
        }
    }
}
