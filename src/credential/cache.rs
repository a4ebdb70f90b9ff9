//! One slot a credential: the current token, the flight that brings the next one, the rest
//! after failures. Knows tokens and time, nothing of OAuth: [`Obtain`] gets the token.
//!
//! ```text
//! lease ---> token --fresh------------> Lease      (one atomic load, no lock)
//!              |----in the window----> Lease, and a flight behind it
//!              '----gone----> join ---> flight (its own task) ---> land: publish, wake all
//!                                |
//!                                '--- resting after a failure: that failure, at once
//! ```

mod flight;

use std::{
    fmt::Debug,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{runtime::Handle, sync::watch, time::Instant};

use crate::{
    observe::{Event, Recorder},
    primitives::{Clock, CredentialName, Fingerprint, Secret},
};

use super::{
    Error, Settings,
    error::{Failure, Fault},
    inject::Injection,
    lease::{Lease, Material, Token},
    pace::Pace,
};
use flight::Flight;

/// How often upstreams may make a slot ask for more scopes (standards 1.R.5).
const MAX_STEP_UPS: u32 = 3;

/// Gets a token, once. Called within a flight, as often as the flight retries.
pub(crate) trait Obtain: Debug + Send + Sync {
    fn obtain<'a>(&'a self, want: &'a Want) -> Pin<Box<dyn Future<Output = Result<Obtained, Fault>> + Send + 'a>>;

    /// What the server said of its limits, last.
    fn quota(&self) -> Option<String>;

    /// Takes the token back at its server. `Ok(false)`: the server can't.
    fn revoke<'a>(&'a self, token: &'a Secret) -> Pin<Box<dyn Future<Output = Result<bool, Fault>> + Send + 'a>>;

    /// A human's login is behind its tokens: a server may end it with one of them
    /// (RFC 7009 §2.1).
    fn has_login(&self) -> bool;
}

/// Which token is wanted.
#[derive(Debug, Default)]
pub(crate) struct Want {
    /// Besides those of the credential: what upstreams asked for (standards 1.R.5).
    pub(crate) more_scopes: Vec<String>,
    /// The agent's own token that it is got for.
    pub(crate) subject: Option<Secret>,
    /// One that an upstream refused.
    pub(crate) refused: Option<Fingerprint>,
    /// The one at hand: another process may have a newer one.
    pub(crate) have: Option<Fingerprint>,
    /// An operator wants a request, whatever there is.
    pub(crate) fresh: bool,
}

/// A token as it came, and its times.
pub(crate) struct Obtained {
    pub(crate) material: Material,
    pub(crate) refresh_at: Instant,
    pub(crate) expires_at: Instant,
}

/// What all slots of a broker have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) recorder: Recorder,
    /// Where flights run.
    pub(crate) runtime: Handle,
    pub(crate) settings: Settings,
    pub(crate) pace: Pace,
}

/// A credential's place.
#[derive(Debug)]
pub(crate) struct Slot {
    name: CredentialName,
    grant: &'static str,
    shared: Arc<Shared>,
    obtain: Arc<dyn Obtain>,
    injection: Injection,
    /// The agent's token that this slot's are got for, where they are.
    subject: Option<Secret>,
    state: Arc<State>,
}

/// What outlives a reload that leaves the credential as it is.
#[derive(Debug, Default)]
pub(crate) struct State {
    token: ArcSwapOption<Token>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The flight in the air; its result comes here.
    flight: Option<watch::Receiver<Landing>>,
    generation: u64,
    trouble: Option<Trouble>,
    /// A token that an upstream refused, while the flight for another one is in the air.
    refused: Option<Arc<Token>>,
    /// … that an answer gave away.
    leaked: Option<Fingerprint>,
    /// The flight in the air was forced by a refusal.
    forced: bool,
    /// An operator asked for it.
    fresh: bool,
    /// Asked for by upstreams, within what the route allows; how often that came.
    more_scopes: Vec<String>,
    step_ups: u32,
    /// How often all was forgotten: what a flight brings that started before is too late.
    forgotten: u64,
    /// When a forced flight last landed (C7).
    forced_at: Option<Instant>,
}

/// The last flight failed, and until when its failure stands for further attempts.
#[derive(Debug)]
struct Trouble {
    error: Error,
    until: Instant,
    failures: u32,
}

/// `None` while in the air.
type Landing = Option<Result<Arc<Token>, Error>>;

/// What a caller gets.
enum Boarded {
    Token(Arc<Token>),
    Flight(watch::Receiver<Landing>),
}

/// What `states` tells of a slot.
pub(crate) struct Snapshot {
    pub(crate) state: &'static str,
    pub(crate) token: Option<Arc<Token>>,
    pub(crate) generation: u64,
    pub(crate) last_error: Option<String>,
    pub(crate) next_attempt: Option<Duration>,
}

impl Slot {
    pub(crate) fn new(
        name: CredentialName,
        grant: &'static str,
        shared: Arc<Shared>,
        obtain: Arc<dyn Obtain>,
        injection: Injection,
        state: Arc<State>,
    ) -> Self {
        Self { name, grant, shared, obtain, injection, subject: None, state }
    }

    /// The same for tokens that are got with the agent's own.
    pub(crate) fn for_subject(&self, subject: Secret) -> Self {
        Self {
            name: self.name.clone(),
            grant: self.grant,
            shared: self.shared.clone(),
            obtain: self.obtain.clone(),
            injection: self.injection.clone(),
            subject: Some(subject),
            state: Arc::default(),
        }
    }

    pub(crate) fn name(&self) -> &CredentialName {
        &self.name
    }

    pub(crate) fn grant(&self) -> &'static str {
        self.grant
    }

    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// A token to send now; see the picture above.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, Error> {
        self.lease_at(Instant::now()).await
    }

    /// As [`lease`](Self::lease), asked for at this moment.
    pub(crate) async fn lease_at(self: &Arc<Self>, asked: Instant) -> Result<Lease, Error> {
        if let Some(token) = self.state.token.load_full() {
            if asked < token.refresh_at {
                return Ok(Lease::new(token, Duration::ZERO));
            }
            if asked < token.expires_at {
                self.refresh_behind(asked);
                return Ok(Lease::new(token, Duration::ZERO));
            }
        }
        let token = match self.board(false)? {
            Boarded::Token(token) => token,
            Boarded::Flight(flight) => match Box::pin(self.wait(flight)).await {
                Ok(token) => token,
                // A refused token came back into use because no other could be got.
                Err(error) => self.state.usable(Instant::now()).ok_or(error)?,
            },
        };
        Ok(Lease::new(token, asked.elapsed()))
    }

    /// A token other than `refused`, which an upstream didn't take; `None`: there is none.
    pub(crate) async fn renew(self: &Arc<Self>, refused: &Token) -> Result<Option<Lease>, Error> {
        let asked = Instant::now();
        let boarded = match self.disown(refused, asked, None) {
            Disowned::Other(token) => Boarded::Token(token),
            Disowned::NoOther => return Ok(None),
            Disowned::Done(None) => self.board(false)?,
            Disowned::Done(Some((flight, boarding))) => {
                self.launch(flight);
                Boarded::Flight(boarding)
            }
        };
        let token = match boarded {
            Boarded::Token(token) => token,
            Boarded::Flight(flight) => self.wait(flight).await?,
        };
        // A server that hands out the same token again has no other (3.6 rule 1).
        Ok((!token.is_same_as(refused)).then(|| Lease::new(token, asked.elapsed())))
    }

    /// A token with `more` scopes than `refused` had (RFC 6750 §3.1 `insufficient_scope`);
    /// `None`: it has them, or they were asked for too often.
    pub(crate) async fn step_up(self: &Arc<Self>, refused: &Token, more: &[String]) -> Result<Option<Lease>, Error> {
        let asked = Instant::now();
        let has_all = |token: &Token| more.iter().all(|scope| token.more_scopes.contains(scope));
        if has_all(refused) || !self.want_more(more, asked) {
            return Ok(None);
        }
        // The flight in the air may have left without them: then there is one more.
        for _ in 0..2 {
            if let Some(token) = self.state.usable(Instant::now()).filter(|token| has_all(token)) {
                return Ok(Some(Lease::new(token, asked.elapsed())));
            }
            let token = match self.board(true)? {
                Boarded::Token(token) => token,
                Boarded::Flight(flight) => self.wait(flight).await?,
            };
            if has_all(&token) {
                return Ok(Some(Lease::new(token, asked.elapsed())));
            }
        }
        Ok(None)
    }

    /// From now on these scopes are asked for, too. `false`: that was said too often.
    fn want_more(&self, more: &[String], now: Instant) -> bool {
        let mut inner = self.state.lock();
        let missing: Vec<String> = more.iter().filter(|scope| !inner.more_scopes.contains(scope)).cloned().collect();
        if missing.is_empty() {
            return inner.resting(now).is_none();
        }
        if inner.step_ups >= MAX_STEP_UPS || inner.resting(now).is_some() {
            return false;
        }
        inner.step_ups += 1;
        inner.more_scopes.extend(missing);
        inner.more_scopes.sort_unstable();
        true
    }

    /// The token stood in an answer: it is out of use until another one is there, and then
    /// taken back at its server. As after a refusal, an API that does so each time makes no
    /// storm of token requests; and where there is no other, it goes on: the agent didn't see it.
    pub(crate) fn quarantine(self: &Arc<Self>, leaked: &Token) {
        let disowned = self.disown(leaked, Instant::now(), Some(leaked.fingerprint));
        if let Disowned::Done(Some((flight, _))) = disowned {
            self.launch(flight);
        }
    }

    /// Whether it is this slot's token now.
    pub(crate) fn uses(&self, token: &Token) -> bool {
        let current = self.state.token.load();
        current.as_ref().is_some_and(|it| it.generation == token.generation && it.fingerprint == token.fingerprint)
    }

    /// Takes the token back at its server (RFC 7009) and out of use here. `Ok(false)`: there
    /// is none of ours, or the server can't.
    pub(crate) async fn revoke(&self) -> Result<bool, Error> {
        let Some(token) = self.state.token.swap(None) else { return Ok(false) };
        if !token.minted {
            return Ok(false);
        }
        let revoked = self.obtain.revoke(&token.secret).await.map_err(|fault| self.error(fault.failure, None))?;
        if revoked {
            let event = Event::TokenRevoked { credential: self.name.clone(), fingerprint: token.fingerprint };
            self.shared.recorder.event(event);
        }
        Ok(revoked)
    }

    /// Another one is in its place. Not where that could end a human's login.
    fn take_back(self: &Arc<Self>, token: Arc<Token>) {
        if token.minted && !self.obtain.has_login() {
            let slot = self.clone();
            self.shared.runtime.spawn(async move { drop(slot.obtain.revoke(&token.secret).await) });
        }
    }

    /// Nothing of it is used any more: somebody logged out.
    pub(crate) fn forget(&self) {
        let mut inner = self.state.lock();
        self.state.token.store(None);
        inner.trouble = None;
        inner.refused = None;
        inner.leaked = None;
        inner.flight = None;
        inner.forced = false;
        inner.forgotten += 1;
    }

    pub(crate) fn quota(&self) -> Option<String> {
        self.obtain.quota()
    }

    /// One token request now, though the slot rests; joins the one in the air.
    pub(crate) async fn refresh(self: &Arc<Self>) -> Result<(), Error> {
        match self.board(true)? {
            Boarded::Token(_) => Ok(()),
            Boarded::Flight(mut flight) => self.landed(flight.wait_for(Option::is_some).await).map(drop),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let inner = self.state.lock();
        let token = self.state.token.load_full();
        let state = match (&token, &inner.trouble) {
            _ if inner.flight.is_some() => "refreshing",
            (_, Some(_)) => "failing",
            (Some(token), None) if now < token.expires_at => "valid",
            (Some(_), None) => "expired",
            (None, None) => "none",
        };
        Snapshot {
            state,
            token,
            generation: inner.generation,
            last_error: inner.trouble.as_ref().map(|trouble| trouble.error.failure.describe()),
            next_attempt: inner.trouble.as_ref().map(|trouble| trouble.until.saturating_duration_since(now)),
        }
    }

    /// Starts a flight unless one is in the air, the slot rests, or another caller is at it.
    fn refresh_behind(self: &Arc<Self>, now: Instant) {
        let mut inner = match self.state.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let due = self.state.token.load().as_ref().is_none_or(|token| token.refresh_at <= now);
        if !due || inner.flight.is_some() || inner.resting(now).is_some() {
            return;
        }
        let (flight, _) = self.prepare(&mut inner);
        drop(inner);
        self.launch(flight);
    }

    /// The token that came meanwhile, the flight in the air, or a new flight. `asked`: an
    /// operator wants a request, whatever is at hand.
    fn board(self: &Arc<Self>, asked: bool) -> Result<Boarded, Error> {
        let now = Instant::now();
        let mut inner = self.state.lock();
        if !asked && let Some(token) = self.state.usable(now) {
            return Ok(Boarded::Token(token));
        }
        if let Some(flight) = &inner.flight {
            return Ok(Boarded::Flight(flight.clone()));
        }
        inner.fresh = asked;
        if !asked && let Some(error) = inner.resting(now) {
            return Err(error);
        }
        let (flight, boarding) = self.prepare(&mut inner);
        drop(inner);
        self.launch(flight);
        Ok(Boarded::Flight(boarding))
    }

    /// Takes the refused token out of use, that generation only; `leaked` if it was given away.
    fn disown(self: &Arc<Self>, refused: &Token, now: Instant, leaked: Option<Fingerprint>) -> Disowned {
        let mut inner = self.state.lock();
        match self.state.token.load_full() {
            Some(current) if current.generation == refused.generation => {
                let guard = self.shared.settings.storm_guard;
                let stormy = inner.forced_at.is_some_and(|at| now.saturating_duration_since(at) < guard);
                if stormy || inner.resting(now).is_some() {
                    return Disowned::NoOther;
                }
                self.state.token.store(None);
                inner.refused = Some(current);
                inner.leaked = leaked;
                inner.forced = true;
                let started = inner.flight.is_none().then(|| self.prepare(&mut inner));
                Disowned::Done(started)
            }
            Some(current) if now < current.expires_at => Disowned::Other(current),
            Some(_) | None => Disowned::Done(None),
        }
    }

    fn prepare(self: &Arc<Self>, inner: &mut Inner) -> (Flight, watch::Receiver<Landing>) {
        let (result, boarding) = watch::channel(None);
        inner.flight = Some(boarding.clone());
        let want = Want {
            more_scopes: inner.more_scopes.clone(),
            subject: self.subject.clone(),
            refused: inner.refused.as_ref().map(|refused| refused.fingerprint),
            have: self.state.token.load().as_ref().map(|token| token.fingerprint),
            fresh: std::mem::take(&mut inner.fresh),
        };
        (Flight::new(self.clone(), want, result, inner.forgotten), boarding)
    }

    /// Not while the lock is held: a runtime that is ending drops the flight here, and that
    /// takes the lock.
    fn launch(&self, flight: Flight) {
        self.shared.runtime.spawn(flight.run());
    }

    async fn wait(&self, mut flight: watch::Receiver<Landing>) -> Result<Arc<Token>, Error> {
        let limit = self.shared.settings.lease_timeout;
        match tokio::time::timeout(limit, flight.wait_for(Option::is_some)).await {
            Ok(landing) => self.landed(landing),
            Err(_) => Err(self.error(Failure::Timeout, Some(self.shared.pace.outage.0))),
        }
    }

    fn landed(&self, landing: Result<watch::Ref<'_, Landing>, watch::error::RecvError>) -> Result<Arc<Token>, Error> {
        let abandoned = || self.error(Failure::Abandoned, Some(self.shared.pace.outage.0));
        landing.map_err(|_| abandoned())?.clone().unwrap_or_else(|| Err(abandoned()))
    }

    fn error(&self, failure: Failure, retry_after: Option<Duration>) -> Error {
        Error { credential: self.name.clone(), failure: Arc::new(failure), retry_after }
    }
}

/// What became of a refused token.
enum Disowned {
    /// Another one is current already.
    Other(Arc<Token>),
    /// None can be had now: storm guard, or the slot rests.
    NoOther,
    /// It is out of use; where no flight was in the air, here is one.
    Done(Option<(Flight, watch::Receiver<Landing>)>),
}

// === impl State ===

impl State {
    /// A place whose token changed its settings: empty, but generations go on counting.
    pub(crate) fn succeeding(old: &Self) -> Self {
        let inner = Inner { generation: old.lock().generation, ..Inner::default() };
        Self { token: ArcSwapOption::empty(), inner: Mutex::new(inner) }
    }

    /// A reload may have mended what failed (A17).
    pub(crate) fn forgive(&self) {
        self.lock().trouble = None;
    }

    fn usable(&self, now: Instant) -> Option<Arc<Token>> {
        self.token.load_full().filter(|token| now < token.expires_at)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No other token came: the refused one is better than none, for an upstream that
    /// refuses without cause must not take the token from the others.
    fn restore(&self, inner: &mut Inner) {
        inner.leaked = None;
        if let Some(refused) = inner.refused.take()
            && self.token.load().is_none()
        {
            self.token.store(Some(refused));
        }
    }
}

impl Inner {
    /// The failure that stands for an attempt at this time.
    fn resting(&self, now: Instant) -> Option<Error> {
        let trouble = self.trouble.as_ref().filter(|trouble| now < trouble.until)?;
        let mut error = trouble.error.clone();
        error.retry_after = error.is_temporary().then(|| trouble.until.saturating_duration_since(now));
        Some(error)
    }
}
