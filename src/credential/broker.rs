//! The broker: every credential's slot, by the id that a route holds and by name. Knows
//! permits and slots; how a token is got is `exchange`'s, how it is kept `cache`'s.

mod logins;
mod off_limits;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};

use http::HeaderMap;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    observe::{Event, Recorder},
    policy::Permit,
    primitives::{Clock, CredentialName, Secret},
    route::CredentialBinding,
};

use super::{
    Error, Settings, Spec, Step, TokenState,
    cache::{Shared, Slot, State},
    digest,
    endpoint::Endpoint,
    error::{Failure, Fault, SettingsError},
    exchange::{self, Exchange},
    grant::Grant,
    lease::{Lease, Token},
    pace::Pace,
    store::Store,
    tools::{Neighbours, Peers, TokenFuture, Tools},
    vault::Vault,
};

pub use off_limits::Trespass;

/// Slots for agents' own tokens, a credential: past this the oldest ones make room.
const MAX_SUBJECTS: usize = 10_000;

/// What revoking may take at the end of a `run` (standards 1.D).
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Gives leases. One for the process, shared by all workers; clones are cheap.
#[derive(Clone, Debug)]
pub struct Broker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// In the order of the specs: a `CredentialId` is an index.
    places: Vec<Place>,
    /// Each server once.
    endpoints: Vec<Arc<Endpoint>>,
    shared: Arc<Shared>,
    tools: Arc<Tools>,
}

#[derive(Debug)]
struct Place {
    slot: Arc<Slot>,
    exchange: Arc<Exchange>,
    settings: [u8; 32],
    server: String,
    audience: Option<String>,
    scopes: Option<String>,
    max_scopes: Vec<String>,
    /// Whose login it uses: its own, or another credential's.
    login: Option<CredentialName>,
    /// The credentials whose tokens it feeds on, that of the login apart.
    feeds_on: Vec<CredentialName>,
    /// `Some`: a slot for each agent's own token.
    subjects: Option<Subjects>,
}

/// By the digest of the subject, with when it was last asked for.
type Subjects = RwLock<HashMap<[u8; 32], (Arc<Slot>, Instant)>>;

/// Who asks for a token, besides the permit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asking<'a> {
    /// The agent's own token, where the credential exchanges it.
    pub subject: Option<&'a Secret>,
    /// What time it is, from who has just looked.
    pub now: Option<Instant>,
}

impl Broker {
    /// `runtime` is where flights run: the control runtime, not a worker's. It needs tokio's
    /// I/O and time drivers. `store`: what outlives the process.
    pub fn new(
        specs: Vec<Spec>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        recorder: Recorder,
        runtime: Handle,
        store: Arc<dyn Store>,
    ) -> Result<Self, Error> {
        let vault = Vault::new(store);
        let (swept, now) = (vault.clone(), clock.now());
        runtime.spawn(async move { exchange::sweep(&swept, now).await });
        let tools = Arc::new(Tools::new(clock.clone(), vault));
        let shared = Shared { clock, recorder, runtime, settings, pace: Pace::default() };
        Self::build(specs, shared, tools, &[])
    }

    /// A broker for a new config. A credential whose settings didn't change keeps its token;
    /// none keeps the rest after a failure (A17).
    pub fn reconfigured(&self, specs: Vec<Spec>, settings: Settings) -> Result<Self, Error> {
        let old = &self.0.shared;
        let shared = Shared {
            clock: old.clock.clone(),
            recorder: old.recorder.clone(),
            runtime: old.runtime.clone(),
            // What is reached how wants a restart: upstreams have it from the start, too.
            settings: Settings { parent: old.settings.parent.clone(), ..settings },
            pace: old.pace,
        };
        Self::build(specs, shared, self.0.tools.clone(), &self.0.places)
    }

    /// Whether the token for this request is got with the agent's own.
    pub fn exchanges_the_agents_token(&self, permit: &Permit<'_>) -> bool {
        let place = permit.credential().map(|binding| self.place(binding));
        matches!(place, Some(Ok(Place { subjects: Some(_), .. })))
    }

    /// The token for a permitted request; an empty lease where the route has no credential.
    pub async fn lease(&self, permit: &Permit<'_>, asking: Asking<'_>) -> Result<Lease, Error> {
        match permit.credential() {
            Some(binding) => self.lease_bound(binding, asking).await,
            None => Ok(Lease::none()),
        }
    }

    /// After an upstream refused `lease`'s token: drops that generation only and gets a
    /// different one. `Ok(None)`: there is none to be had now (storm guard, or the server
    /// hands out the same one again), pass the answer on.
    pub async fn renew(&self, permit: &Permit<'_>, asking: Asking<'_>, lease: &Lease) -> Result<Option<Lease>, Error> {
        match permit.credential() {
            Some(binding) => self.renew_bound(binding, asking, lease).await,
            None => Ok(None),
        }
    }

    /// After an upstream said that `lease`'s token lacks scopes: one with `wanted` besides, as
    /// far as the route allows all of them. `Ok(None)`: pass the answer on.
    pub async fn step_up(
        &self,
        permit: &Permit<'_>,
        asking: Asking<'_>,
        lease: &Lease,
        wanted: &[String],
    ) -> Result<Option<Lease>, Error> {
        match permit.credential() {
            Some(binding) => self.step_up_bound(binding, asking, lease, wanted).await,
            None => Ok(None),
        }
    }

    pub(super) async fn step_up_bound(
        &self,
        binding: &CredentialBinding,
        asking: Asking<'_>,
        lease: &Lease,
        wanted: &[String],
    ) -> Result<Option<Lease>, Error> {
        let Some(refused) = lease.token() else { return Ok(None) };
        let place = self.place(binding)?;
        if wanted.is_empty() || !wanted.iter().all(|scope| place.max_scopes.contains(scope)) {
            return Ok(None);
        }
        place.slot(asking)?.step_up(refused, wanted).await
    }

    /// An answer gave `lease`'s token away, as `what` says: operators are told, and another
    /// token is got.
    pub fn quarantine(&self, lease: &Lease, what: fmt::Arguments<'_>) {
        let Some(leaked) = lease.token() else { return };
        let detail = format!("{what}; credential {}, token {}", leaked.credential, leaked.fingerprint);
        tracing::warn!("{detail}");
        self.0.shared.recorder.event(Event::Alert { kind: "token_in_response", detail });
        let places = self.0.places.iter().filter(|place| *place.slot.name() == leaked.credential);
        let slots = places.flat_map(|place| std::iter::once(place.slot.clone()).chain(place.subject_slots()));
        slots.filter(|slot| slot.uses(leaked)).for_each(|slot| slot.quarantine(leaked));
    }

    pub fn knows(&self, name: &CredentialName) -> bool {
        self.named(name).is_ok()
    }

    /// For `token list|show` and the metrics, in the order of the config.
    /// Without the logins: see [`Broker::told`].
    pub fn states(&self) -> Vec<TokenState> {
        self.0.places.iter().map(Place::state).collect()
    }

    /// `token refresh NAME` and `check --online`: one token request now, whatever is cached
    /// and however the last one failed. A token that is still valid stays if it fails.
    pub async fn refresh(&self, name: &CredentialName) -> Result<TokenState, Error> {
        let place = self.named(name)?;
        place.slot.refresh().await?;
        Ok(place.state())
    }

    /// Returns when no refresh token is at its server and all that came is on the disk: an end
    /// before that may lose a login.
    pub async fn settled(&self) {
        self.0.tools.exchanged().await;
    }

    /// The end of a `run`: takes back what it asked for, within a few seconds.
    pub async fn end(&self) {
        let mut revoking = tokio::task::JoinSet::new();
        for place in self.0.places.iter().filter(|place| place.exchange.revokes_after_run()) {
            let slots = std::iter::once(place.slot.clone()).chain(place.subject_slots());
            for slot in slots {
                revoking.spawn_on(async move { (slot.name().clone(), slot.revoke().await) }, &self.0.shared.runtime);
            }
        }
        let all = async {
            while let Some(done) = revoking.join_next().await {
                if let Ok((name, Err(error))) = done {
                    tracing::warn!(credential = %name, "an access token can't be revoked: {}", error.failure.describe());
                }
            }
        };
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            tracing::warn!("not every access token could be revoked in time");
        }
    }

    /// Only for who holds a permit, or a test.
    pub(super) async fn lease_bound(&self, binding: &CredentialBinding, asking: Asking<'_>) -> Result<Lease, Error> {
        let place = self.place(binding)?;
        let now = asking.now.unwrap_or_else(Instant::now);
        match &place.subjects {
            None => place.slot.lease_at(now).await,
            Some(_) => place.slot(asking)?.lease_at(now).await,
        }
    }

    pub(super) async fn renew_bound(
        &self,
        binding: &CredentialBinding,
        asking: Asking<'_>,
        lease: &Lease,
    ) -> Result<Option<Lease>, Error> {
        match lease.token() {
            Some(refused) => self.place(binding)?.slot(asking)?.renew(refused).await,
            None => Ok(None),
        }
    }

    /// By id; a name that differs means that the permit is from another config: then by name.
    fn place(&self, binding: &CredentialBinding) -> Result<&Place, Error> {
        let places = &self.0.places;
        let named = |place: &&Place| *place.slot.name() == binding.name;
        let place = places.get(binding.id.0).filter(named).or_else(|| places.iter().find(named));
        place.ok_or_else(|| unknown(&binding.name))
    }

    fn named(&self, name: &CredentialName) -> Result<&Place, Error> {
        self.0.places.iter().find(|place| place.slot.name() == name).ok_or_else(|| unknown(name))
    }

    fn build(specs: Vec<Spec>, shared: Shared, tools: Arc<Tools>, old: &[Place]) -> Result<Self, Error> {
        let shared = Arc::new(shared);
        let neighbours = Neighbours::default();
        let mut builder = Builder { shared, tools, old, endpoints: Vec::new(), neighbours };
        let mut places = Vec::with_capacity(specs.len());
        for spec in specs {
            let name = spec.name.clone();
            places.push(builder.place(spec).map_err(|error| failed(&name, error))?);
        }
        let Builder { shared, tools, neighbours, endpoints, .. } = builder;
        let inner = Arc::new(Inner { places, endpoints, shared, tools });
        let peers: Weak<dyn Peers> = Arc::downgrade(&(inner.clone() as Arc<dyn Peers>));
        let _ = neighbours.set(peers);
        Ok(Self(inner))
    }

    #[cfg(test)]
    pub(super) fn with_shared(specs: Vec<Spec>, shared: Shared) -> Result<Self, Error> {
        let tools = Arc::new(Tools::new(shared.clock.clone(), Vault::default()));
        Self::build(specs, shared, tools, &[])
    }

    #[cfg(test)]
    pub(super) fn with_store(specs: Vec<Spec>, shared: Shared, store: Arc<dyn Store>) -> Result<Self, Error> {
        let tools = Arc::new(Tools::new(shared.clock.clone(), Vault::new(store)));
        Self::build(specs, shared, tools, &[])
    }
}

impl Peers for Inner {
    fn token<'a>(&'a self, name: &'a CredentialName, refused: Option<&'a Secret>) -> TokenFuture<'a> {
        Box::pin(async move {
            let place = self.places.iter().find(|place| place.slot.name() == name).ok_or_else(|| unknown(name))?;
            let mut lease = place.slot.lease().await?;
            if let (Some(refused), Some(token)) = (refused, lease.token())
                && token.secret.equals(refused)
                && let Some(other) = place.slot.renew(&token.clone()).await?
            {
                lease = other;
            }
            lease.token().map(|token| token.secret.clone()).ok_or_else(|| unknown(name))
        })
    }
}

/// Places of one config, and what they have in common.
struct Builder<'o> {
    shared: Arc<Shared>,
    tools: Arc<Tools>,
    old: &'o [Place],
    endpoints: Vec<Arc<Endpoint>>,
    neighbours: Neighbours,
}

impl Builder<'_> {
    fn place(&mut self, spec: Spec) -> Result<Place, SettingsError> {
        let last = spec.steps.last().ok_or(SettingsError::NoSteps)?;
        let (name, grant, injection) = (spec.name.clone(), spec.grant(), spec.injection.clone());
        let audience = (!last.ask.audience.is_empty()).then(|| last.ask.audience.join(" "));
        let asked = spec.scopes.as_ref().unwrap_or(&last.ask.scopes);
        let scopes = (!asked.is_empty()).then(|| asked.join(" "));
        let server = last.server.as_ref().map(|server| server.name.to_string()).unwrap_or_default();
        let (settings, max_scopes) = (digest::settings(&spec), spec.max_scopes.clone());
        let subjects = spec.takes_the_agents_token().then(Subjects::default);
        let login = spec.steps.iter().find_map(|step| match &step.grant {
            Grant::Login(login) => Some(login.of.clone().unwrap_or_else(|| name.clone())),
            _no_login => None,
        });
        let feeds_on = spec.steps.iter().flat_map(Step::feeds_on).cloned().collect();
        let endpoints =
            spec.steps.iter().map(|step| step.server.as_ref().map(|server| self.endpoint(server)).transpose());
        let endpoints = endpoints.collect::<Result<_, _>>()?;
        let exchange =
            Exchange::new(spec, endpoints, &self.shared.settings, self.tools.clone(), self.neighbours.clone())?;
        let exchange = Arc::new(exchange);
        let state = self.state(&name, settings);
        let slot = Slot::new(name, grant, self.shared.clone(), exchange.clone(), injection, state);
        let slot = Arc::new(slot);
        Ok(Place { slot, exchange, settings, server, audience, scopes, max_scopes, login, feeds_on, subjects })
    }

    /// What is kept over a reload. Settings tell the variants of a credential apart.
    fn state(&self, name: &CredentialName, settings: [u8; 32]) -> Arc<State> {
        let named = |old: &&Place| old.slot.name() == name;
        if let Some(same) = self.old.iter().filter(named).find(|old| old.settings == settings) {
            same.slot.state().forgive();
            return same.slot.state().clone();
        }
        match self.old.iter().find(named) {
            Some(old) => Arc::new(State::succeeding(old.slot.state())),
            None => Arc::default(),
        }
    }

    fn endpoint(&mut self, server: &Arc<super::AuthorizationServer>) -> Result<Arc<Endpoint>, SettingsError> {
        if let Some(known) = self.endpoints.iter().find(|endpoint| endpoint.is_for(server)) {
            return Ok(known.clone());
        }
        let endpoint = Arc::new(Endpoint::new(server.clone(), &self.shared.settings)?);
        self.endpoints.push(endpoint.clone());
        Ok(endpoint)
    }
}

impl Place {
    /// The slot for who asks.
    fn slot(&self, asking: Asking<'_>) -> Result<Arc<Slot>, Error> {
        let Some(subjects) = &self.subjects else { return Ok(self.slot.clone()) };
        let Some(subject) = asking.subject else { return Err(failed(self.slot.name(), SettingsError::NoSubject)) };
        let key = digest::subject(subject);
        let now = Instant::now();
        if let Some((slot, _)) = subjects.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(slot.clone());
        }
        let mut subjects = subjects.write().unwrap_or_else(PoisonError::into_inner);
        if subjects.len() >= MAX_SUBJECTS {
            let mut ages: Vec<Instant> = subjects.values().map(|(_, since)| *since).collect();
            let (_, middle, _) = ages.select_nth_unstable(MAX_SUBJECTS / 2);
            let middle = *middle;
            subjects.retain(|_, (_, since)| *since > middle);
        }
        let slot = || (Arc::new(self.slot.for_subject(subject.clone())), now);
        Ok(subjects.entry(key).or_insert_with(slot).0.clone())
    }

    fn subject_slots(&self) -> Vec<Arc<Slot>> {
        let Some(subjects) = &self.subjects else { return Vec::new() };
        let subjects = subjects.read().unwrap_or_else(PoisonError::into_inner);
        subjects.values().map(|(slot, _)| slot.clone()).collect()
    }

    fn state(&self) -> TokenState {
        let snapshot = self.slot.snapshot();
        let now = Instant::now();
        let token: Option<&Token> = snapshot.token.as_deref();
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
            extra: token.map(|token| token.extra.iter().cloned().collect()).unwrap_or_default(),
            quota: self.slot.quota(),
            login: None,
            last_error: snapshot.last_error,
            next_attempt_in_seconds: snapshot.next_attempt.map(|wait| wait.as_secs()),
        }
    }
}

/// The field that an agent's own token stands in.
pub fn subject_of(fields: &HeaderMap) -> Option<Secret> {
    let text = fields.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim();
    let good =
        scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| Secret::new(token.to_owned()))
}

fn fault(name: &CredentialName, fault: Fault) -> Error {
    Error { credential: name.clone(), failure: Arc::new(fault.failure), retry_after: None }
}

fn unknown(name: &CredentialName) -> Error {
    failed(name, SettingsError::UnknownCredential)
}

fn failed(name: &CredentialName, error: SettingsError) -> Error {
    Error { credential: name.clone(), failure: Arc::new(Failure::Settings(error)), retry_after: None }
}
