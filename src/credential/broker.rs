//! The broker: every credential's slot, by the id that a route holds and by name. Knows
//! permits and slots; how a token is got is `exchange`'s, how it is kept `cache`'s.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::{
    observe::Recorder,
    policy::Permit,
    primitives::{Clock, CredentialName},
    route::CredentialBinding,
};

use super::{
    Error, Lease, Settings, Spec, TokenState,
    cache::{Shared, Slot, State},
    digest,
    endpoint::Endpoint,
    error::{Failure, SettingsError},
    exchange::Exchange,
    pace::Pace,
    source::Secrets,
};

/// Gives leases. One for the process, shared by all workers; clones are cheap.
#[derive(Clone, Debug)]
pub struct Broker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// In the order of the specs: a `CredentialId` is an index.
    places: Vec<Place>,
    shared: Arc<Shared>,
    secrets: Arc<Secrets>,
}

#[derive(Debug)]
struct Place {
    slot: Arc<Slot>,
    settings: [u8; 32],
    server: String,
    audience: Option<String>,
    scopes: Option<String>,
}

impl Broker {
    /// `runtime` is where flights run: the control runtime, not a worker's. It needs tokio's
    /// I/O and time drivers.
    pub fn new(
        specs: Vec<Spec>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        recorder: Recorder,
        runtime: Handle,
    ) -> Result<Self, Error> {
        let shared = Shared { clock, recorder, runtime, settings, pace: Pace::default() };
        Self::build(specs, shared, Arc::default(), &[])
    }

    /// A broker for a new config. A credential whose settings didn't change keeps its token;
    /// none keeps the rest after a failure (A17).
    pub fn reconfigured(&self, specs: Vec<Spec>, settings: Settings) -> Result<Self, Error> {
        let old = &self.0.shared;
        let shared = Shared {
            clock: old.clock.clone(),
            recorder: old.recorder.clone(),
            runtime: old.runtime.clone(),
            settings,
            pace: old.pace,
        };
        Self::build(specs, shared, self.0.secrets.clone(), &self.0.places)
    }

    /// The token for a permitted request; an empty lease where the route has no credential.
    pub async fn lease(&self, permit: &Permit) -> Result<Lease, Error> {
        match permit.credential() {
            Some(binding) => self.lease_bound(binding).await,
            None => Ok(Lease::none()),
        }
    }

    /// After an upstream refused `lease`'s token: drops that generation only and gets a
    /// different one. `Ok(None)`: there is none to be had now (storm guard, or the server
    /// hands out the same one again), pass the answer on.
    pub async fn renew(&self, permit: &Permit, lease: &Lease) -> Result<Option<Lease>, Error> {
        match permit.credential() {
            Some(binding) => self.renew_bound(binding, lease).await,
            None => Ok(None),
        }
    }

    /// For `token list|show` and the metrics, in the order of the config.
    pub fn states(&self) -> Vec<TokenState> {
        self.0.places.iter().map(Place::state).collect()
    }

    /// `token refresh NAME` and `check --online`: one token request now, whatever is cached
    /// and however the last one failed. A token that is still valid stays if it fails.
    pub async fn refresh(&self, name: &CredentialName) -> Result<TokenState, Error> {
        let place = self.0.places.iter().find(|place| place.slot.name() == name).ok_or_else(|| unknown(name))?;
        place.slot.refresh().await?;
        Ok(place.state())
    }

    /// Only for who holds a permit, or a test.
    pub(super) async fn lease_bound(&self, binding: &CredentialBinding) -> Result<Lease, Error> {
        self.slot(binding)?.lease().await
    }

    pub(super) async fn renew_bound(&self, binding: &CredentialBinding, lease: &Lease) -> Result<Option<Lease>, Error> {
        match &lease.token {
            Some(refused) => self.slot(binding)?.renew(refused).await,
            None => Ok(None),
        }
    }

    /// By id; a name that differs means that the permit is from another config: then by name.
    fn slot(&self, binding: &CredentialBinding) -> Result<&Arc<Slot>, Error> {
        let places = &self.0.places;
        let named = |place: &&Place| *place.slot.name() == binding.name;
        let place = places.get(binding.id.0).filter(named).or_else(|| places.iter().find(named));
        place.map(|place| &place.slot).ok_or_else(|| unknown(&binding.name))
    }

    fn build(specs: Vec<Spec>, shared: Shared, secrets: Arc<Secrets>, old: &[Place]) -> Result<Self, Error> {
        let shared = Arc::new(shared);
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        let mut places = Vec::with_capacity(specs.len());
        for spec in specs {
            let name = spec.name.clone();
            let place = Place::build(spec, &shared, &secrets, old, &mut endpoints);
            places.push(place.map_err(|error| failed(&name, error))?);
        }
        Ok(Self(Arc::new(Inner { places, shared, secrets })))
    }

    #[cfg(test)]
    pub(super) fn with_shared(specs: Vec<Spec>, shared: Shared) -> Result<Self, Error> {
        Self::build(specs, shared, Arc::default(), &[])
    }
}

impl Place {
    fn build(
        spec: Spec,
        shared: &Arc<Shared>,
        secrets: &Arc<Secrets>,
        old: &[Self],
        endpoints: &mut Vec<Arc<Endpoint>>,
    ) -> Result<Self, SettingsError> {
        let last = spec.steps.last().ok_or(SettingsError::NoSteps)?;
        let (name, grant) = (spec.name.clone(), last.name());
        let audience = last.audience().map(str::to_owned);
        let scopes = (!last.scopes().is_empty()).then(|| last.scopes().join(" "));
        let server = spec.server.name.to_string();
        let settings = digest::settings(&spec);
        let state = match old.iter().find(|old| *old.slot.name() == name) {
            Some(old) if old.settings == settings => {
                old.slot.state().forgive();
                old.slot.state().clone()
            }
            Some(old) => Arc::new(State::succeeding(old.slot.state())),
            None => Arc::default(),
        };
        let endpoint = match endpoints.iter().find(|endpoint| endpoint.is_for(&spec.server)) {
            Some(endpoint) => endpoint.clone(),
            None => {
                endpoints.push(Arc::new(Endpoint::new(spec.server.clone(), &shared.settings)?));
                endpoints[endpoints.len() - 1].clone()
            }
        };
        let exchange = Exchange::new(spec, endpoint, secrets.clone(), shared.clock.clone())?;
        let slot = Arc::new(Slot::new(name, grant, shared.clone(), Box::new(exchange), state));
        Ok(Self { slot, settings, server, audience, scopes })
    }

    fn state(&self) -> TokenState {
        let snapshot = self.slot.snapshot();
        let now = tokio::time::Instant::now();
        let token = snapshot.token.as_deref();
        TokenState {
            credential: self.slot.name().to_string(),
            grant: self.slot.grant(),
            authorization_server: self.server.clone(),
            state: snapshot.state,
            expires_in_seconds: token.map(|token| token.expires_at.saturating_duration_since(now).as_secs()),
            generation: snapshot.generation,
            fingerprint: token.map(|token| token.fingerprint.to_string()),
            scope: token.and_then(|token| token.scope.clone()).or_else(|| self.scopes.clone()),
            audience: self.audience.clone(),
            last_error: snapshot.last_error,
            next_attempt_in_seconds: snapshot.next_attempt.map(|wait| wait.as_secs()),
        }
    }
}

fn unknown(name: &CredentialName) -> Error {
    failed(name, SettingsError::UnknownCredential)
}

fn failed(name: &CredentialName, error: SettingsError) -> Error {
    Error { credential: name.clone(), failure: Arc::new(Failure::Settings(error)), retry_after: None }
}
