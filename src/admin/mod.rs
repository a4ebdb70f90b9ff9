//! The operator's door: health, metrics and the API, on a socket of its own. Reads
//! `observe`; what it shows of tokens and readiness, and what it sets going, goes through
//! handles that `app` gives it. It never sees a token.
//!
//! ```text
//! accept -> Host ours? -> /healthz /readyz /metrics
//!                     \-> Origin ours? -> Bearer KEY? -> /api/v1/…
//! ```

mod api;
mod guard;
pub mod key;
mod problem;
mod serve;

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use crate::{
    observe::Recorder,
    primitives::{ListenAddress, Secret},
};

pub use key::{KeyError, load_or_create_key};
pub use serve::{Listener, serve};

/// `[admin]`.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: ListenAddress,
}

/// What the admin listener works with. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    pub recorder: Recorder,
    /// From [`load_or_create_key`].
    pub key: Arc<Secret>,
    pub health: Arc<dyn Health>,
    pub tokens: Arc<dyn Tokens>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Whether requests should be sent here. Asked for each `/readyz`; must not block.
pub trait Health: Send + Sync {
    fn readiness(&self) -> Readiness;
}

impl<F: Fn() -> Readiness + Send + Sync> Health for F {
    fn readiness(&self) -> Readiness {
        self()
    }
}

/// The answer of `/readyz`, which anyone on this listener may read: short reasons, no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Why no request should come here: `draining`, an accept loop that ended. Any makes it 503.
    pub unready: Vec<String>,
    /// What is wrong but concerns some requests only: a credential that fails.
    pub degraded: Vec<String>,
}

/// The broker, as far as the operator's API needs it.
pub trait Tokens: Send + Sync {
    /// One JSON object a credential, its name under `credential`; never a token.
    fn states(&self) -> StatesFuture<'_>;

    /// One token request now, whatever is cached; the new state.
    fn refresh<'a>(&'a self, name: &'a str) -> RefreshFuture<'a>;

    /// Nothing that the proxy has of the credential is used any more: another process logged
    /// in or out. The new state; `None`: there is no credential of this name.
    fn forget<'a>(&'a self, name: &'a str) -> ForgetFuture<'a>;
}

/// What [`Tokens::states`] returns.
pub type StatesFuture<'a> = Pin<Box<dyn Future<Output = Vec<serde_json::Value>> + Send + 'a>>;

/// What [`Tokens::refresh`] returns.
pub type RefreshFuture<'a> = Pin<Box<dyn Future<Output = Result<serde_json::Value, RefreshError>> + Send + 'a>>;

/// What [`Tokens::forget`] returns.
pub type ForgetFuture<'a> = Pin<Box<dyn Future<Output = Option<serde_json::Value>> + Send + 'a>>;

/// Why there is no new token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// The caller's mistake.
    #[error("there is no credential of this name")]
    Unknown,
    /// The authorization server refused, or the settings are wrong: waiting doesn't help.
    #[error("{detail}")]
    Failed { detail: String },
    /// The authorization server is away or over its limits: it will pass.
    #[error("{detail}")]
    Unavailable { detail: String, retry_after: Option<Duration> },
}
