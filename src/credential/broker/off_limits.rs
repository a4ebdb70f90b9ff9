//! What agents may not reach of authorization servers, as far as only the servers themselves
//! tell (threat 37).

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    policy::Permit,
    primitives::{Authority, CanonicalPath, Host},
};

use super::Broker;
use crate::credential::{endpoint::Endpoint, premises::Ground};

/// A permitted request would reach an authorization server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trespass {
    /// One of its endpoints.
    #[error("an authorization server's endpoint is there")]
    Endpoint,
    /// Its own host, while nobody knows where on it the endpoints are.
    #[error("an authorization server is there, and its metadata can't be had now")]
    Unknown,
}

impl Broker {
    /// Refuses what would lead to an endpoint. Costs an atomic load a server, once its
    /// metadata is known; only a request to the issuer's own host waits for that. `now` is moved
    /// on, where it takes time.
    pub async fn off_limits(
        &self,
        permit: &Permit<'_>,
        path: &CanonicalPath,
        now: &mut Instant,
    ) -> Result<(), Trespass> {
        let at = permit.authority();
        if self.is_located(at.host()) && self.is_open(at, path) {
            return Ok(());
        }
        // Boxed: hardly a request comes here, and all would carry the room for it.
        Box::pin(self.survey(at, path)).await?;
        *now = Instant::now();
        Ok(())
    }

    fn is_open(&self, at: &Authority, path: &CanonicalPath) -> bool {
        self.0.endpoints.iter().all(|endpoint| {
            let is_open = endpoint.premises().ground(at, path) == Ground::Open;
            if is_open {
                endpoint.find_behind(&self.0.shared.runtime);
            }
            is_open
        })
    }

    async fn survey(&self, at: &Authority, path: &CanonicalPath) -> Result<(), Trespass> {
        self.locate(at.host()).await;
        for endpoint in &self.0.endpoints {
            match endpoint.premises().ground(at, path) {
                Ground::Open => endpoint.find_behind(&self.0.shared.runtime),
                Ground::Endpoint => return Err(Trespass::Endpoint),
                Ground::Unknown => self.find_out(endpoint, at, path).await?,
            }
        }
        Ok(())
    }

    /// Whether a blind tunnel to this host would lead to a server.
    pub fn is_authorization_server(&self, host: &Host) -> bool {
        let endpoints = &self.0.endpoints;
        endpoints.iter().for_each(|endpoint| endpoint.find_behind(&self.0.shared.runtime));
        endpoints.iter().any(|endpoint| endpoint.premises().is_at(host))
    }

    /// As [`is_authorization_server`](Self::is_authorization_server), for a tunnel that isn't open yet.
    pub async fn leads_to_authorization_server(&self, host: &Host) -> bool {
        self.locate(host).await;
        self.is_authorization_server(host)
    }

    /// A bare address says nothing of whose it is.
    fn is_located(&self, host: &Host) -> bool {
        matches!(host, Host::Name(_)) || self.0.endpoints.iter().all(|endpoint| endpoint.is_located())
    }

    async fn locate(&self, host: &Host) {
        if let Host::Name(_) = host {
            return;
        }
        // All at once, so that many servers take no longer than one.
        let runtime = &self.0.shared.runtime;
        let sought: Vec<_> = self.0.endpoints.iter().filter(|endpoint| endpoint.locate_behind(runtime)).collect();
        for endpoint in sought {
            Box::pin(endpoint.located()).await;
        }
    }

    async fn find_out(&self, endpoint: &Arc<Endpoint>, at: &Authority, path: &CanonicalPath) -> Result<(), Trespass> {
        let asked = Arc::clone(endpoint);
        // On the control runtime, like all that is asked of servers.
        let _ = self.0.shared.runtime.spawn(async move { asked.find().await }).await;
        match endpoint.premises().ground(at, path) {
            Ground::Open => Ok(()),
            Ground::Endpoint => Err(Trespass::Endpoint),
            Ground::Unknown => Err(Trespass::Unknown),
        }
    }
}
