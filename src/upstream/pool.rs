//! Connections at rest and on loan, by (agent, upstream settings, scheme, authority).
//!
//! An h1 connection goes back only between two messages: the request was written and the
//! answer read, both to their ends. Any other is closed at once. Nothing is shared between two
//! agents, nor because one certificate covers two hosts (threat 53): neither connections nor the
//! TLS sessions that new ones resume (threat 54). Knows neither addresses nor TLS.

mod key;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderValue, uri};
use rustls::ClientConfig;
use tokio::{sync::Notify, time::Instant};

use super::{
    Destination, Error, Settings,
    h1::{self, Home},
    h2::H2,
    transport::Transport,
};
use crate::{
    primitives::Authority,
    route::{Scheme, Upstream},
    tls,
};
use key::{Key, Wanted};

/// Idle connections kept by one worker, over all keys: an agent with a wildcard
/// route can make as many keys as it likes.
const MAX_IDLE_TOTAL: usize = 1024;

/// How long the TLS sessions of a slot are kept after its last connection.
const SESSIONS_KEPT: Duration = Duration::from_secs(10 * 60);
/// Slots of one worker that are kept for them only.
const MAX_RESTING: usize = 256;

/// How long the first requests wait for a peer's `SETTINGS`.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);

/// All connections of one worker.
pub(super) struct Pool {
    limits: Arc<Limits>,
    /// In the order of their keys.
    slots: Mutex<Vec<(Key, Arc<Slot>)>>,
    sweeping: AtomicBool,
}

pub(super) struct Limits {
    settings: Settings,
    /// Connections at rest.
    idle: AtomicUsize,
}

impl Limits {
    /// Counts a connection among those at rest; `false`: there is no room for it.
    pub(super) fn begin_rest(&self) -> bool {
        let has_room = self.idle.load(Ordering::Relaxed) < MAX_IDLE_TOTAL;
        self.idle.fetch_add(usize::from(has_room), Ordering::Relaxed);
        has_room
    }

    pub(super) fn max_streams(&self) -> usize {
        self.settings.max_streams
    }

    pub(super) fn end_rest(&self) {
        self.idle.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections of one key.
pub(super) struct Slot {
    _upstream: Arc<Upstream>,
    /// The upstream's, with the identity that its connections show and the sessions they resume.
    pub(super) tls: Arc<ClientConfig>,
    limits: Arc<Limits>,
    pub(super) target: Target,
    state: Mutex<State>,
    /// Told whenever a connection that others wait for was opened, or wasn't.
    opened: Notify,
    /// New connections resume the sessions of former ones.
    resumes: bool,
}

/// How requests on these connections name their host. Built once a slot.
pub(super) struct Target {
    pub(super) scheme: uri::Scheme,
    pub(super) authority: uri::Authority,
    /// The authority without the scheme's default port, as origins compare and sign it.
    pub(super) host: HeaderValue,
}

struct State {
    /// What ALPN chose last; `None` before the first connection.
    protocol: Option<Protocol>,
    /// The most recently used is the last.
    idle: Vec<(Box<h1::Connection>, Instant)>,
    h2: Vec<Arc<H2>>,
    opening: bool,
    failures: usize,
    failure: Option<Error>,
    /// When it was last seen to have connections, if they can be resumed.
    connected: Option<Instant>,
}

/// What a sweep leaves of a slot.
enum Left {
    Connections,
    /// To be resumed.
    Sessions,
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    H1,
    H2,
}

/// The use of a connection: an h1 one goes home by itself, when its exchange has ended well.
pub(super) enum Loan {
    H1(Box<h1::Connection>),
    H2(Arc<H2>, ConnectionGuard),
}

impl Loan {
    fn h2(connection: Arc<H2>) -> Self {
        let guard = connection.enter();
        Self::H2(connection, guard)
    }
}

/// What a request that needs a connection has to do.
pub(super) enum Acquired {
    Pooled(Loan),
    Open(Opening),
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(settings: Settings) -> Self {
        let limits = Arc::new(Limits { settings, idle: AtomicUsize::new(0) });
        Self { limits, slots: Mutex::default(), sweeping: AtomicBool::new(false) }
    }

    /// The slot of a permit, made where there is none.
    pub(super) fn slot(self: &Arc<Self>, to: &Destination<'_>) -> Arc<Slot> {
        let upstream = &to.permit.route().upstream;
        let wanted = Wanted::by(to);
        let mut slots = lock(&self.slots);
        let place = match slots.binary_search_by(|(key, _)| key.wanted().cmp(&wanted)) {
            Ok(at) => return slots[at].1.clone(),
            Err(place) => place,
        };
        let key = Key::of(wanted);
        let tls = match to.identity {
            Some(identity) => Arc::new(identity.shown_by(&upstream.tls)),
            None if key.scheme == Scheme::Https => tls::client::with_own_sessions(&upstream.tls),
            None => upstream.tls.clone(),
        };
        let slot = Arc::new(Slot::new(upstream.clone(), tls, self.limits.clone(), &key));
        slots.insert(place, (key, slot.clone()));
        drop(slots);
        self.sweep_while_used();
        slot
    }

    /// After a connection failed, or wasn't waited for: what nobody else waits for goes with its request. Agents choose
    /// authorities, and each would take its memory until the next sweep, and the time of those
    /// who look for others.
    pub(super) fn give_up(&self, to: &Destination<'_>, slot: &Arc<Slot>) {
        let wanted = Wanted::by(to);
        let mut slots = lock(&self.slots);
        if let Ok(at) = slots.binary_search_by(|(key, _)| key.wanted().cmp(&wanted))
            && Arc::ptr_eq(&slots[at].1, slot)
            && Arc::strong_count(slot) == 2
            && matches!(slot.sweep(), Left::Nothing)
        {
            slots.remove(at);
        }
    }

    /// One task looks after idle connections for as long as there are any slots.
    fn sweep_while_used(self: &Arc<Self>) {
        if self.sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let period = (self.limits.settings.idle_timeout / 4).max(Duration::from_millis(10));
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                match pool.upgrade() {
                    Some(pool) if pool.sweep() => {}
                    Some(_) | None => return,
                }
            }
        });
    }

    /// As if others had taken all places at rest, or given them back.
    #[cfg(test)]
    pub(super) fn crowd(&self, taken: bool) {
        let idle = &self.limits.idle;
        if taken {
            idle.fetch_add(MAX_IDLE_TOTAL, Ordering::Relaxed)
        } else {
            idle.fetch_sub(MAX_IDLE_TOTAL, Ordering::Relaxed)
        };
    }

    /// As if those who wait on h2 connections had asked so long ago.
    #[cfg(test)]
    pub(super) fn age(&self, ago: Duration) {
        let slots = lock(&self.slots);
        slots.iter().for_each(|(_, slot)| lock(&slot.state).h2.iter().for_each(|h2| h2.age(ago)));
    }

    /// Closes what was idle for too long. False: nothing is left to look after.
    fn sweep(&self) -> bool {
        let mut slots = lock(&self.slots);
        let mut resting = 0;
        slots.retain(|(_, slot)| match slot.sweep() {
            Left::Connections => true,
            Left::Sessions if resting < MAX_RESTING => {
                resting += 1;
                true
            }
            Left::Sessions | Left::Nothing => Arc::strong_count(slot) > 1,
        });
        if slots.is_empty() {
            self.sweeping.store(false, Ordering::Relaxed);
        }
        !slots.is_empty()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("slots", &lock(&self.slots).len()).finish_non_exhaustive()
    }
}

// === impl Slot ===

impl Slot {
    fn new(upstream: Arc<Upstream>, tls: Arc<ClientConfig>, limits: Arc<Limits>, key: &Key) -> Self {
        let h1_only = key.h1_only || key.scheme == Scheme::Http;
        let protocol = h1_only.then_some(Protocol::H1);
        let state = State {
            protocol,
            idle: Vec::new(),
            h2: Vec::new(),
            opening: false,
            failures: 0,
            failure: None,
            connected: None,
        };
        let target = Target::new(key.scheme, &key.authority);
        let resumes = key.scheme == Scheme::Https && !tls.client_auth_cert_resolver.has_certs();
        Self { _upstream: upstream, tls, limits, target, state: Mutex::new(state), opened: Notify::new(), resumes }
    }

    /// A connection with room, if there is one. `fresh`: an idle h1 connection won't do,
    /// since one has just proved to be closed.
    pub(super) fn take(&self, fresh: bool, now: Instant) -> Option<Loan> {
        self.take_from(&mut lock(&self.state), fresh, now)
    }

    fn take_from(&self, state: &mut State, fresh: bool, now: Instant) -> Option<Loan> {
        if !state.h2.is_empty() {
            state.h2.retain(|connection| connection.is_usable());
            let max_streams = self.limits.settings.max_streams;
            let takes_more = |h2: &&Arc<H2>| h2.has_room(max_streams) && !h2.is_silent(now);
            if let Some(connection) = state.h2.iter().find(takes_more) {
                return Some(Loan::h2(connection.clone()));
            }
        }
        if fresh {
            return None;
        }
        while let Some((mut connection, since)) = state.idle.pop() {
            self.limits.end_rest();
            if now.duration_since(since) < self.limits.settings.idle_timeout && connection.is_quiet() {
                return Some(Loan::H1(connection));
            }
        }
        None
    }

    /// A connection with room, or the turn to open one. While one is being opened that
    /// may turn out to have room for many (h2, or not known yet), the others wait for
    /// it, and share its failure.
    pub(super) async fn acquire(self: &Arc<Self>, fresh: bool) -> Result<Acquired, Error> {
        let mut seen = None;
        loop {
            let opened = {
                let mut state = lock(&self.state);
                if let Some(loan) = self.take_from(&mut state, fresh, Instant::now()) {
                    return Ok(Acquired::Pooled(loan));
                }
                if seen.is_some_and(|seen| seen != state.failures)
                    && let Some(error) = state.failure.as_ref().and_then(Error::share)
                {
                    return Err(error);
                }
                let alone = state.protocol == Some(Protocol::H1);
                if alone || !state.opening {
                    state.opening |= !alone;
                    return Ok(Acquired::Open(Opening { slot: self.clone(), alone }));
                }
                seen = Some(state.failures);
                self.opened.notified()
            };
            opened.await;
        }
    }

    /// Closes a connection for which there is no room at rest.
    pub(super) fn forget(&self, connection: &H2) {
        lock(&self.state).h2.retain(|other| !std::ptr::eq(&**other, connection));
    }

    /// Closes what was idle for too long.
    fn sweep(&self) -> Left {
        let now = Instant::now();
        let idle_timeout = self.limits.settings.idle_timeout;
        let mut state = lock(&self.state);
        let before = state.idle.len();
        state.idle.retain_mut(|(connection, since)| now.duration_since(*since) < idle_timeout && connection.is_quiet());
        state.idle.iter_mut().for_each(|(connection, _)| connection.rest());
        self.limits.idle.fetch_sub(before - state.idle.len(), Ordering::Relaxed);
        state.h2.retain(|connection| connection.is_usable() && !connection.idle_for(idle_timeout));
        if !state.idle.is_empty() || !state.h2.is_empty() {
            state.connected = self.resumes.then_some(now);
            return Left::Connections;
        }
        let kept = state.connected.is_some_and(|at| now.duration_since(at) < SESSIONS_KEPT);
        if kept { Left::Sessions } else { Left::Nothing }
    }
}

impl Home for Slot {
    /// One that there is no room for is closed by being dropped.
    fn take_in(&self, connection: Box<h1::Connection>, since: Option<Instant>) {
        let mut state = lock(&self.state);
        if state.idle.len() < self.limits.settings.max_idle && self.limits.begin_rest() {
            state.idle.push((connection, since.unwrap_or_else(Instant::now)));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let idle = lock(&self.state).idle.len();
        self.limits.idle.fetch_sub(idle, Ordering::Relaxed);
    }
}

impl Target {
    fn new(scheme: Scheme, authority: &Authority) -> Self {
        let text = if authority.port() == scheme.default_port() {
            authority.host().to_string()
        } else {
            authority.as_str().to_owned()
        };
        #[expect(clippy::expect_used, reason = "a canonical host and a port are a URI's authority")]
        let authority: uri::Authority = text.parse().expect("canonical authority");
        #[expect(clippy::expect_used, reason = "an authority has visible ASCII characters only")]
        let host = HeaderValue::try_from(text).expect("canonical authority");
        let scheme = match scheme {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        };
        Self { scheme, authority, host }
    }
}

// === impl Opening ===

/// The turn to open a connection. Dropped without one (the agent left, or time is up),
/// it passes to the next that waits.
pub(super) struct Opening {
    slot: Arc<Slot>,
    /// Nobody waits for this one.
    alone: bool,
}

impl Opening {
    pub(super) fn h1(self, transport: Transport, address: SocketAddr) -> Loan {
        let mut state = lock(&self.slot.state);
        state.protocol = Some(Protocol::H1);
        state.connected = self.slot.resumes.then(Instant::now);
        drop(state);
        let home = Arc::downgrade(&self.slot);
        Loan::H1(h1::Connection::new(transport, address, home))
    }

    pub(super) fn h2(self, sender: SendRequest<Bytes>, address: SocketAddr) -> Loan {
        let (limits, home) = (Arc::clone(&self.slot.limits), Arc::downgrade(&self.slot));
        let connection = Arc::new(H2::new(sender, address, limits, home));
        let mut state = lock(&self.slot.state);
        state.protocol = Some(Protocol::H2);
        state.connected = self.slot.resumes.then(Instant::now);
        state.h2.push(connection.clone());
        drop(state);
        let loan = Loan::h2(connection.clone());
        tokio::spawn(self.settle(connection));
        loan
    }

    /// Lets the others wait a little longer than the first: until the peer has said how
    /// many streams it allows, which follows its handshake at once. Else a burst would
    /// queue up behind the few streams of one connection.
    async fn settle(self, connection: Arc<H2>) {
        let mut delay = Duration::from_millis(1);
        let deadline = Instant::now() + SETTINGS_TIMEOUT;
        while !connection.is_settled() && connection.is_usable() && Instant::now() < deadline {
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_millis(16));
        }
        connection.settle();
    }

    /// Hands the error to those who waited for this connection, and back.
    pub(super) fn failed(self, error: Error) -> Error {
        if !self.alone
            && let Some(shared) = error.share()
        {
            let mut state = lock(&self.slot.state);
            state.failures = state.failures.wrapping_add(1);
            state.failure = Some(shared);
        }
        error
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.alone {
            lock(&self.slot.state).opening = false;
            self.slot.opened.notify_waiters();
        }
    }
}

// === impl ConnectionGuard ===

pub(super) trait Leased: Send + Sync {
    fn release(self: Arc<Self>);
}

/// The use of one stream of a connection; to be dropped after the answer's body.
pub(super) struct ConnectionGuard(Option<Arc<dyn Leased>>);

impl ConnectionGuard {
    pub(super) fn new(leased: Arc<dyn Leased>) -> Self {
        Self(Some(leased))
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(leased) = self.0.take() {
            leased.release();
        }
    }
}

impl fmt::Debug for ConnectionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionGuard")
    }
}

/// No code between lock and unlock can panic half-way, so that a poisoned lock is a good one.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
