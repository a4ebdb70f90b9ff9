//! Where a secret is: an environment variable, a file, a command's output.

use std::{path::PathBuf, time::Duration};

use crate::primitives::Secret;

/// `{ env = "NAME" }`, `{ file = "PATH" }`, `{ command = ["…"], ttl = "5m" }`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Env(String),
    /// Re-read when it changes; one trailing line break is removed.
    File(PathBuf),
    Command {
        argv: Vec<String>,
        ttl: Duration,
    },
}

/// Why a secret can't be read. Never shows what was read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the environment variable {name} isn't set")]
    EnvUnset { name: String },
    #[error("{path} can't be read")]
    File { path: PathBuf, source: std::io::Error },
    #[error("the command `{program}` can't be run")]
    Spawn { program: String, source: std::io::Error },
    #[error("the command `{program}` ended with {status}")]
    Command { program: String, status: String },
    #[error("the command `{program}` took longer than {limit:?}")]
    CommandTimeout { program: String, limit: Duration },
    #[error("the secret is empty")]
    Empty,
    #[error("the secret isn't UTF-8 text")]
    NotText,
}

impl Source {
    /// Reads the secret now; a command's output is kept for its `ttl`.
    pub async fn read(&self) -> Result<Secret, SourceError> {
        todo!()
    }
}
