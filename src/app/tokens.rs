//! The admin room's handles: what it may ask of the running proxy.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::{
    admin::{Admin, ForgetFuture, Readiness, RefreshError, RefreshFuture, StatesFuture, Tokens},
    credential,
    primitives::{CredentialName, Secret},
    proxy::Shared,
};

pub(super) fn admin(shared: &Arc<Shared>, key: Secret, draining: watch::Receiver<bool>) -> Admin {
    let health = Arc::clone(shared);
    Admin {
        recorder: shared.recorder.clone(),
        key: Arc::new(key),
        health: Arc::new(move || readiness(&health, *draining.borrow())),
        tokens: Arc::new(BrokerTokens(Arc::clone(shared))),
    }
}

fn readiness(shared: &Shared, draining: bool) -> Readiness {
    let states = shared.rules.load().broker.states();
    let failing = states.iter().filter(|state| state.state == "failing");
    let mut readiness = Readiness {
        unready: draining.then(|| "draining".to_owned()).into_iter().collect(),
        degraded: failing.map(|state| format!("credential {} fails", state.credential)).collect(),
    };
    if !shared.recorder.is_written() {
        // Who is sent here is refused, or isn't recorded.
        let reasons = if shared.recorder.refuses() { &mut readiness.unready } else { &mut readiness.degraded };
        reasons.push("the audit log can't be written".to_owned());
    }
    readiness
}

/// The broker of the rules in force.
struct BrokerTokens(Arc<Shared>);

impl Tokens for BrokerTokens {
    fn states(&self) -> StatesFuture<'_> {
        Box::pin(async move {
            let broker = self.0.rules.load().broker.clone();
            broker.told().await.iter().filter_map(|state| serde_json::to_value(state).ok()).collect()
        })
    }

    fn refresh<'a>(&'a self, name: &'a str) -> RefreshFuture<'a> {
        Box::pin(async move {
            let name = CredentialName::parse(name).map_err(|_| RefreshError::Unknown)?;
            let broker = self.0.rules.load().broker.clone();
            if !broker.knows(&name) {
                return Err(RefreshError::Unknown);
            }
            broker.refresh(&name).await.map_err(refused)?;
            self.state(&name).await.ok_or(RefreshError::Unknown)
        })
    }

    fn forget<'a>(&'a self, name: &'a str) -> ForgetFuture<'a> {
        Box::pin(async move {
            let name = CredentialName::parse(name).ok()?;
            let broker = self.0.rules.load().broker.clone();
            if let Err(error) = broker.forget(&name).await {
                tracing::warn!(credential = %name, "not all is forgotten: {}", error.failure.describe());
            }
            self.state(&name).await
        })
    }
}

impl BrokerTokens {
    async fn state(&self, name: &CredentialName) -> Option<Value> {
        let broker = self.0.rules.load().broker.clone();
        let state = broker.told().await.into_iter().find(|state| state.credential == name.as_str())?;
        serde_json::to_value(state).ok()
    }
}

fn refused(error: credential::Error) -> RefreshError {
    let detail = format!("{} ({})", error.failure, error.hint());
    if error.is_temporary() {
        RefreshError::Unavailable { detail, retry_after: error.retry_after }
    } else {
        RefreshError::Failed { detail }
    }
}
