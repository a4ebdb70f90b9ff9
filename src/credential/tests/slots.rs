//! Slots and flights: who waits, who asks, how often, and what is served meanwhile.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, advance, sleep},
};

use crate::{
    credential::{
        Error, Injection, Lease, Settings,
        cache::{Obtain, Obtained, Shared, Slot, State, Want},
        error::{Failure, Fault, Misbehaviour, Outage},
        expiry,
        lease::{Material, Token},
        response::TokenKind,
        testing::{field as header, name, settings, shared},
    },
    primitives::Secret,
};

const LIFE: Duration = Duration::from_secs(1000);

/// What the source does when asked; without a script it grants `token-N` for [`LIFE`].
enum Act {
    Grant(&'static str, Duration),
    Fail(Fault),
    Panic,
}

#[derive(Default)]
struct Source {
    asked: AtomicUsize,
    script: Mutex<VecDeque<Act>>,
    revoked: Mutex<Vec<String>>,
    /// Each answer needs a permit of the gate, where there is one.
    gate: Option<Semaphore>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl Obtain for Arc<Source> {
    fn obtain<'a>(&'a self, _: &'a Want) -> Pin<Box<dyn Future<Output = Result<Obtained, Fault>> + Send + 'a>> {
        Box::pin(async {
            let started = Instant::now();
            let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            let act = self.script.lock().unwrap().pop_front();
            let (token, life) = match act {
                Some(Act::Grant(token, life)) => (token.to_owned(), life),
                None => (format!("token-{number}"), LIFE),
                Some(Act::Fail(fault)) => return Err(fault),
                Some(Act::Panic) => panic!("scripted"),
            };
            let window = expiry::window(life, 0.5);
            let material = Material {
                secret: Secret::new(token),
                kind: TokenKind::Bearer,
                prover: None,
                identity: None,
                scope: None,
                extra: Vec::new(),
                minted: true,
            };
            Ok(Obtained { material, refresh_at: started + window.refresh, expires_at: started + window.usable })
        })
    }

    fn quota(&self) -> Option<String> {
        None
    }

    fn revoke<'a>(&'a self, token: &'a Secret) -> Pin<Box<dyn Future<Output = Result<bool, Fault>> + Send + 'a>> {
        self.revoked.lock().unwrap().push(token.expose().to_owned());
        Box::pin(std::future::ready(Ok(true)))
    }

    fn has_login(&self) -> bool {
        false
    }
}

impl Source {
    fn gated() -> Arc<Self> {
        Arc::new(Self { gate: Some(Semaphore::new(0)), ..Self::default() })
    }

    fn scripted(acts: impl IntoIterator<Item = Act>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(acts.into_iter().collect()), ..Self::default() })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn release(&self, answers: usize) {
        self.gate.as_ref().unwrap().add_permits(answers);
    }

    fn then(&self, act: Act) {
        self.script.lock().unwrap().push_back(act);
    }
}

fn slot_with(source: &Arc<Source>, shared: Shared) -> Arc<Slot> {
    let state = Arc::new(State::default());
    let (name, source) = (name("orders"), Arc::new(source.clone()));
    Arc::new(Slot::new(name, "client_credentials", Arc::new(shared), source, Injection::default(), state))
}

fn slot(source: &Arc<Source>) -> Arc<Slot> {
    slot_with(source, shared(settings()))
}

fn outage() -> Fault {
    Fault::outage(Outage::Status(503), None)
}

fn refusal() -> Fault {
    Fault::terminal(Failure::Refused { code: "invalid_client".to_owned(), detail: String::new() })
}

fn token(lease: &Lease) -> &Token {
    lease.token().unwrap()
}

/// Lets spawned flights run as far as they can without time passing.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Threat 96, Show 3: a herd on a cold slot.
#[tokio::test(start_paused = true)]
async fn a_thousand_cold_callers_ask_once() {
    let source = Source::gated();
    let slot = slot(&source);
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let slot = slot.clone();
        callers.spawn(async move { slot.lease().await.map(|lease| header(&lease).to_owned()) });
    }
    settle().await;
    assert_eq!((source.asked(), slot.snapshot().state), (1, "refreshing"));
    source.release(1);
    let headers = callers.join_all().await;
    assert!(headers.iter().all(|header| header.as_deref().is_ok_and(|header| header == "Bearer token-1")));
    assert_eq!((source.asked(), slot.snapshot().state), (1, "valid"));
    assert!(slot.lease().await.unwrap().field().unwrap().1.is_sensitive());
}

/// In the window the old token goes out at once, while one flight brings the next.
#[tokio::test(start_paused = true)]
async fn in_the_window_nobody_waits() {
    let source = Source::gated();
    let slot = slot(&source);
    source.release(1);
    assert_eq!(header(&slot.lease().await.unwrap()), "Bearer token-1");

    advance(Duration::from_secs(800)).await;
    assert_eq!((slot.lease().await.unwrap().generation(), source.asked()), (Some(1), 1));
    advance(Duration::from_secs(150)).await;
    let before = Instant::now();
    for _ in 0..100 {
        assert_eq!(slot.lease().await.unwrap().generation(), Some(1));
        settle().await;
    }
    assert_eq!((source.asked(), before.elapsed()), (2, Duration::ZERO));
    source.release(1);
    settle().await;
    let lease = slot.lease().await.unwrap();
    assert_eq!((header(&lease), lease.generation(), source.asked()), ("Bearer token-2", Some(2), 2));
}

/// A11: steady traffic over many lives: nobody waits, no expired token goes out.
#[tokio::test(start_paused = true)]
async fn traffic_across_expiries_never_notices() {
    for life in [5, 60, 3600] {
        let life = Duration::from_secs(life);
        let source = Arc::new(Source::default());
        (0..40).for_each(|_| source.then(Act::Grant("t", life)));
        let slot = slot(&source);
        slot.lease().await.unwrap();
        for request in 0..10_000 {
            sleep(life / 400).await;
            let before = Instant::now();
            let lease = slot.lease().await.unwrap();
            assert_eq!(before.elapsed(), Duration::ZERO, "request {request} waited");
            assert!(before < token(&lease).expires_at, "request {request} got an expired token");
        }
        assert!((25..=51).contains(&source.asked()), "{} requests for 25 lives", source.asked());
    }
}

/// A refresh that fails doesn't take a token that is still good (lessons, "Token lifecycle").
#[tokio::test(start_paused = true)]
async fn a_valid_token_outlives_failed_refreshes() {
    let source = Source::scripted([Act::Grant("good", LIFE)]);
    let slot = slot(&source);
    slot.lease().await.unwrap();
    (0..300).for_each(|_| source.then(Act::Fail(outage())));
    advance(Duration::from_secs(900)).await;
    for _ in 0..90 {
        assert_eq!(header(&slot.lease().await.unwrap()), "Bearer good");
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(slot.snapshot().state, "failing");
    assert!((6..=30).contains(&(source.asked() - 1)), "{} attempts in 90 s", source.asked() - 1);
    sleep(Duration::from_secs(10)).await;
    let error = slot.lease().await.unwrap_err();
    assert!(error.is_temporary() && error.retry_after.is_some(), "{error:?}");
    source.script.lock().unwrap().clear();
    sleep(error.retry_after.unwrap()).await;
    assert_eq!(slot.lease().await.unwrap().generation(), Some(2));
    assert!(slot.snapshot().last_error.is_none());
}

/// Threat 99: the first caller leaves; the flight goes on, once.
#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_kills_nobodys_flight() {
    let source = Source::gated();
    let slot = slot(&source);
    let [first, second] = [slot.clone(), slot.clone()].map(|slot| tokio::spawn(async move { slot.lease().await }));
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    source.release(1);
    assert_eq!(header(&second.await.unwrap().unwrap()), "Bearer token-1");
    assert_eq!(source.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_flight_hangs_nobody() {
    let source = Source::scripted([Act::Panic]);
    let slot = slot(&source);
    let callers: Vec<_> = (0..10).map(|_| slot.clone()).map(|s| tokio::spawn(async move { s.lease().await })).collect();
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert!(matches!(*error.failure, Failure::Abandoned), "{error:?}");
    }
    assert_eq!(header(&slot.lease().await.unwrap()), "Bearer token-2");
}

/// A request waits no longer than it may; the flight it waited for still lands.
#[tokio::test(start_paused = true)]
async fn waiting_has_a_limit() {
    let source = Source::gated();
    let slot = slot(&source);
    let before = Instant::now();
    let error = slot.lease().await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Timeout), "{error:?}");
    assert_eq!(before.elapsed(), settings().lease_timeout);
    source.release(1);
    settle().await;
    assert_eq!((slot.lease().await.unwrap().generation(), source.asked()), (Some(1), 1));
}

/// A17: an agent that hammers.
#[tokio::test(start_paused = true)]
async fn a_hammering_agent_costs_few_requests() {
    for (fault, limit) in [(refusal as fn() -> Fault, 1), (outage, 3)] {
        let source = Source::scripted((0..1000).map(|_| Act::Fail(fault())));
        let slot = slot(&source);
        for _ in 0..1000 {
            slot.lease().await.unwrap_err();
        }
        assert_eq!(source.asked(), limit);
    }
}

/// Rests double; a refusal is not told to come back, an outage is.
#[tokio::test(start_paused = true)]
async fn refusals_rest_longer_each_time() {
    let source = Source::scripted((0..10).map(|_| Act::Fail(refusal())));
    let slot = slot(&source);
    let mut at = Vec::new();
    let start = Instant::now();
    while at.len() < 8 {
        let before = source.asked();
        let error = slot.lease().await.unwrap_err();
        assert!(!error.is_temporary() && error.retry_after.is_none());
        if source.asked() > before {
            at.push(start.elapsed().as_secs());
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(at, [0, 5, 15, 35, 75, 155, 315, 615]);
    assert_eq!(slot.snapshot().state, "failing");
    assert!(slot.snapshot().last_error.unwrap().contains("invalid_client"));
}

/// Threat 97: the server's wish is obeyed, and told to whoever asks meanwhile.
#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed() {
    let wish = Duration::from_secs(40);
    let source = Source::scripted([Act::Fail(Fault::outage(Outage::Status(429), Some(wish)))]);
    let slot = slot(&source);
    assert!(slot.lease().await.unwrap_err().retry_after.unwrap() >= wish);
    advance(Duration::from_secs(30)).await;
    let left = slot.lease().await.unwrap_err().retry_after.unwrap();
    assert!((10..=14).contains(&left.as_secs()), "{left:?}");
    assert_eq!(source.asked(), 1);
    advance(left).await;
    assert_eq!(slot.lease().await.unwrap().generation(), Some(1));
}

/// An outage that passes at once is bridged within one flight.
#[tokio::test(start_paused = true)]
async fn a_flight_tries_again() {
    let source = Source::scripted([Act::Fail(outage()), Act::Fail(outage())]);
    let slot = slot(&source);
    assert_eq!(header(&slot.lease().await.unwrap()), "Bearer token-3");
}

#[tokio::test(start_paused = true)]
async fn an_operators_refresh_waits_for_no_rest() {
    let source = Source::scripted([Act::Fail(refusal()), Act::Fail(refusal())]);
    let slot = slot(&source);
    slot.lease().await.unwrap_err();
    slot.refresh().await.unwrap_err();
    slot.refresh().await.unwrap();
    slot.refresh().await.unwrap();
    assert_eq!((source.asked(), slot.lease().await.unwrap().generation()), (4, Some(2)));
    source.then(Act::Fail(refusal()));
    slot.refresh().await.unwrap_err();
    assert_eq!(slot.lease().await.unwrap().generation(), Some(2), "the valid token stays");
}

/// A token that is said to live no time is used, and not asked for again without pause.
#[tokio::test(start_paused = true)]
async fn a_short_life_makes_no_hot_loop() {
    let source = Arc::new(Source::default());
    (0..20).for_each(|_| source.then(Act::Grant("t", Duration::from_secs(1))));
    let slot = slot(&source);
    for _ in 0..1000 {
        slot.lease().await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    assert!((2..=3).contains(&source.asked()), "{}", source.asked());
}

// === renewal after an upstream's refusal ===

#[tokio::test(start_paused = true)]
async fn a_renewal_gets_another_token_for_all() {
    let source = Source::gated();
    source.release(1);
    let slot = slot(&source);
    let old = slot.lease().await.unwrap();
    let renewals: Vec<_> = (0..100)
        .map(|_| (slot.clone(), old.clone()))
        .map(|(slot, old)| tokio::spawn(async move { slot.renew(token(&old)).await }))
        .collect();
    settle().await;
    source.release(1);
    for renewal in renewals {
        assert_eq!(header(&renewal.await.unwrap().unwrap().unwrap()), "Bearer token-2");
    }
    let late = slot.renew(token(&old)).await.unwrap().unwrap();
    assert_eq!((late.generation(), source.asked()), (Some(2), 2));
}

/// C7: an agent that makes upstreams answer 401 costs one token request a storm guard.
#[tokio::test(start_paused = true)]
async fn a_storm_of_refusals_is_guarded() {
    let source = Arc::new(Source::default());
    (0..100).for_each(|_| source.then(Act::Grant("t", Duration::from_secs(20))));
    (0..50).for_each(|at| source.script.lock().unwrap()[at * 2] = Act::Grant("u", Duration::from_secs(20)));
    let slot = slot(&source);
    let mut renewed = 0;
    for _ in 0..6000 {
        let lease = slot.lease().await.unwrap();
        renewed += usize::from(slot.renew(token(&lease)).await.unwrap().is_some());
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(renewed, 2, "60 s, storm guard 30 s");
}

/// A server that hands out the token it handed out before has no other: no replay (3.6).
#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_no_renewal() {
    let source = Source::scripted([Act::Grant("same", LIFE), Act::Grant("same", LIFE)]);
    let slot = slot(&source);
    let old = slot.lease().await.unwrap();
    assert!(slot.renew(token(&old)).await.unwrap().is_none());
    let current = slot.lease().await.unwrap();
    assert_eq!((current.generation(), source.asked()), (Some(1), 2), "the same token, the same generation");
    assert!(slot.renew(token(&current)).await.unwrap().is_none());
    assert!(slot.renew(token(&old)).await.unwrap().is_none());
    assert_eq!(source.asked(), 2);
}

/// Threat 15: a token that an answer gave away is out of use at once, and taken back when
/// there is another; whoever asks meanwhile waits for that.
#[tokio::test(start_paused = true)]
async fn a_token_that_leaked_is_replaced() {
    let source = Source::gated();
    source.release(1);
    let slot = slot(&source);
    let old = slot.lease().await.unwrap();
    assert!(slot.uses(token(&old)));
    slot.quarantine(token(&old));
    slot.quarantine(token(&old));
    assert!(!slot.uses(token(&old)));
    let waiting = tokio::spawn({
        let slot = slot.clone();
        async move { slot.lease().await }
    });
    settle().await;
    assert!(source.revoked.lock().unwrap().is_empty(), "not before there is another");
    source.release(1);
    assert_eq!(header(&waiting.await.unwrap().unwrap()), "Bearer token-2");
    settle().await;
    assert_eq!((source.asked(), source.revoked.lock().unwrap().clone()), (2, vec!["token-1".to_owned()]));
    slot.quarantine(token(&old));
    assert_eq!(header(&slot.lease().await.unwrap()), "Bearer token-2", "it is the other one that leaked");
}

/// … and an API that repeats each request drives no storm, and takes the only token from nobody.
#[tokio::test(start_paused = true)]
async fn a_token_that_leaks_each_time_goes_on_where_there_is_no_other() {
    let source = Source::scripted([Act::Grant("static", LIFE), Act::Grant("static", LIFE), Act::Fail(refusal())]);
    let slot = slot(&source);
    let lease = slot.lease().await.unwrap();
    for asked in [2, 2, 2] {
        slot.quarantine(token(&lease));
        settle().await;
        let same = slot.lease().await.unwrap();
        assert_eq!((header(&same), same.generation(), source.asked()), ("Bearer static", Some(1), asked));
    }
    sleep(settings().storm_guard).await;
    slot.quarantine(token(&lease));
    settle().await;
    assert_eq!(header(&slot.lease().await.unwrap()), "Bearer static");
    assert_eq!((source.asked(), source.revoked.lock().unwrap().len()), (3, 0));
}

/// One upstream that refuses without cause doesn't take the token from the others while
/// the authorization server is away.
#[tokio::test(start_paused = true)]
async fn a_failed_renewal_gives_the_token_back() {
    let source = Source::scripted([Act::Grant("good", LIFE), Act::Fail(refusal())]);
    let slot = slot(&source);
    let old = slot.lease().await.unwrap();
    slot.renew(token(&old)).await.unwrap_err();
    assert_eq!(slot.lease().await.unwrap().generation(), Some(1));
    assert!(slot.renew(token(&old)).await.unwrap().is_none(), "the slot rests");
    assert_eq!(source.asked(), 2);
}

/// While the refused token is out of use, who comes waits for the new one.
#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_handed_out() {
    let source = Source::gated();
    source.release(1);
    let slot = slot(&source);
    let old = slot.lease().await.unwrap();
    let renewal = tokio::spawn({
        let slot = slot.clone();
        async move { slot.renew(token(&old)).await }
    });
    settle().await;
    let other = tokio::spawn({
        let slot = slot.clone();
        async move { slot.lease().await }
    });
    settle().await;
    assert!(!other.is_finished());
    source.release(1);
    assert_eq!(other.await.unwrap().unwrap().generation(), Some(2));
    assert_eq!(renewal.await.unwrap().unwrap().unwrap().generation(), Some(2));
}

// === runtimes ===

/// A caller on one thread's runtime, the flight on another's.
#[test]
fn a_caller_on_another_runtime_wakes() {
    let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let source = Source::gated();
    let slot = control.block_on(async { slot(&source) });
    let workers: Vec<_> = (0..4)
        .map(|_| slot.clone())
        .map(|slot| {
            std::thread::spawn(move || {
                let worker = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                worker.block_on(slot.lease()).map(|lease| lease.generation())
            })
        })
        .collect();
    source.release(1);
    for worker in workers {
        assert_eq!(worker.join().unwrap().unwrap(), Some(1));
    }
    assert_eq!(source.asked(), 1);
}

/// The control runtime is gone: an error, not a wait without end.
#[test]
fn a_runtime_that_ended_hangs_nobody() {
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let source = Source::gated();
    let slot = control.block_on(async { slot(&source) });
    drop(control);
    let worker = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error: Error = worker.block_on(slot.lease()).unwrap_err();
    assert!(matches!(*error.failure, Failure::Abandoned), "{error:?}");
}

/// A zero storm guard and a bad token: every path that fails leaves the slot free.
#[tokio::test(start_paused = true)]
async fn a_token_that_no_header_takes_is_a_failure() {
    let source = Source::scripted([Act::Grant("a\r\nb", LIFE)]);
    let slot = slot_with(&source, shared(Settings { storm_guard: Duration::ZERO, ..settings() }));
    let error = slot.lease().await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Protocol(Misbehaviour::TokenCharacter)), "{error:?}");
    slot.refresh().await.unwrap();
    assert_eq!(slot.lease().await.unwrap().generation(), Some(1));
}
