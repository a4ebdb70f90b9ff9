//! Refresh tokens: rotated, kept, never used twice on purpose, never lost without saying so
//! (standards 1.B, threat 100).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use zeroize::Zeroizing;

use crate::credential::{
    Asking, Broker, Error, Lease, Location, Settings, Source, Spec,
    error::{Failure, LoginReason},
    grant::{Grant, Login, LoginKind},
    store::{Change, Guard, Key, Memory, Store, StoreError},
    testing::{Act, AuthServer, Seen, answer, binding, field, name, settings, shared, step, within},
    vault::Vault,
};

const LIMIT: Duration = Duration::from_secs(60);

/// What an authorization server with rotation and without leeway does.
#[derive(Default)]
struct Rotation {
    /// The refresh token that is good now, by number.
    current: AtomicUsize,
    /// A refresh token that was used up came again.
    reused: AtomicUsize,
}

impl Rotation {
    /// Takes `rt-N` once and answers with `rt-(N+1)`.
    fn take(&self, seen: &Seen) -> Act {
        let sent = seen.form()["refresh_token"].clone();
        let current = self.current.load(Ordering::SeqCst);
        if sent != format!("rt-{current}") {
            self.reused.fetch_add(1, Ordering::SeqCst);
            return answer(400, r#"{"error":"invalid_grant"}"#);
        }
        self.current.store(current + 1, Ordering::SeqCst);
        granted(current + 1, 3600)
    }
}

fn granted(number: usize, expires_in: u64) -> Act {
    let body = format!(
        r#"{{"access_token":"at-{number}","token_type":"Bearer","expires_in":{expires_in},"refresh_token":"rt-{number}"}}"#
    );
    answer(200, &body)
}

/// A credential that begins with `rt-0`, which stands in a file.
fn login_spec(server: &AuthServer) -> (tempfile::TempDir, Spec) {
    let (directory, mut spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let seed = directory.path().join("seed");
    std::fs::write(&seed, "rt-0\n").unwrap();
    step(&mut spec).grant =
        Grant::Login(Login { kind: LoginKind::RefreshToken, seed: Some(Source::File(seed)), of: None });
    step(&mut spec).ask.scopes.clear();
    (directory, spec)
}

fn broker(spec: &Spec, store: &Arc<dyn Store>) -> Broker {
    Broker::with_store(vec![spec.clone()], shared(settings()), store.clone()).unwrap()
}

fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::default())
}

async fn lease(broker: &Broker) -> Result<Lease, Error> {
    within(LIMIT, broker.lease_bound(&binding("orders", 0), Asking::default())).await
}

async fn refresh(broker: &Broker) -> Result<(), Error> {
    within(LIMIT, broker.refresh(&name("orders"))).await.map(drop)
}

fn login_reason(error: &Error) -> LoginReason {
    let Failure::LoginRequired(reason) = &*error.failure else { panic!("{error:?}") };
    assert_eq!((error.code(), error.wants_a_human()), ("login_required", true));
    assert!(error.hint().as_str().contains("cupbearer login orders"), "{}", error.hint());
    *reason
}

async fn kept_refresh_token(store: &Arc<dyn Store>) -> Option<String> {
    let session = Vault::new(store.clone()).session(&name("orders")).await.unwrap()?;
    session.refresh_token.map(|token| token.expose().to_owned())
}

/// B1, B2: each refresh uses the newest token, which is on the disk by then; a process that
/// starts anew goes on where the last one was.
#[tokio::test]
async fn a_rotated_token_replaces_the_old_one() {
    let rotation = Arc::new(Rotation::default());
    let server = AuthServer::start({
        let rotation = rotation.clone();
        move |seen, _| rotation.take(seen)
    })
    .await;
    let (_directory, spec) = login_spec(&server);
    let store = memory();
    let first = broker(&spec, &store);
    assert_eq!(field(&lease(&first).await.unwrap()), "Bearer at-1");
    assert_eq!(kept_refresh_token(&store).await.as_deref(), Some("rt-1"));
    refresh(&first).await.unwrap();
    drop(first);
    let second = broker(&spec, &store);
    assert_eq!(field(&lease(&second).await.unwrap()), "Bearer at-2", "still good: it was kept");
    refresh(&second).await.unwrap();
    assert_eq!((kept_refresh_token(&store).await.as_deref(), server.token_requests()), (Some("rt-3"), 3));
    assert_eq!(rotation.reused.load(Ordering::SeqCst), 0);
    let form = server.seen()[2].form();
    assert_eq!((form["grant_type"].as_str(), form["client_id"].as_str()), ("refresh_token", "client-1"));
    assert!(!form.contains_key("scope"), "{form:?}");
}

/// B1: an answer without a refresh token keeps the one that was sent.
#[tokio::test]
async fn no_new_token_keeps_the_old_one() {
    let server = AuthServer::start(|_, _| {
        answer(200, r#"{"access_token":"at","token_type":"Bearer","expires_in":3600,"id_token":"x.y.z"}"#)
    })
    .await;
    let (_directory, spec) = login_spec(&server);
    let store = memory();
    let broker = broker(&spec, &store);
    lease(&broker).await.unwrap();
    refresh(&broker).await.unwrap();
    assert_eq!(kept_refresh_token(&store).await.as_deref(), Some("rt-0"));
    assert!(server.seen().iter().all(|seen| seen.form()["refresh_token"] == "rt-0"));
}

/// The server refused it: nobody sends it again, not even after another start, until there is
/// a new one.
#[tokio::test]
async fn a_refused_token_wants_a_login_and_is_never_sent_again() {
    let server = AuthServer::start(|_, _| answer(403, r#"{"error":"invalid_grant"}"#)).await;
    let (directory, spec) = login_spec(&server);
    let store = memory();
    let first = broker(&spec, &store);
    assert_eq!(login_reason(&lease(&first).await.unwrap_err()), LoginReason::Refused);
    let _ = refresh(&first).await.unwrap_err();
    let second = broker(&spec, &store);
    assert_eq!(login_reason(&lease(&second).await.unwrap_err()), LoginReason::Refused);
    assert_eq!(server.token_requests(), 1);
    std::fs::write(directory.path().join("seed"), "rt-new").unwrap();
    let _ = refresh(&second).await.unwrap_err();
    assert_eq!((server.token_requests(), server.seen()[1].form()["refresh_token"].as_str()), (2, "rt-new"));
}

/// B3: no answer to a request that arrived. The same token once more, at once: with a leeway
/// at the server all is well.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let server = AuthServer::start(|_, number| if number == 0 { Act::Close } else { granted(1, 3600) }).await;
    let (_directory, spec) = login_spec(&server);
    let store = memory();
    assert_eq!(field(&lease(&broker(&spec, &store)).await.unwrap()), "Bearer at-1");
    let sent: Vec<String> = server.seen().iter().map(|seen| seen.form()["refresh_token"].clone()).collect();
    assert_eq!(sent, ["rt-0", "rt-0"]);
}

/// … and without one it is a login, with the reason and the setting that would have helped.
#[tokio::test]
async fn a_lost_answer_without_leeway_is_said() {
    let rotation = Arc::new(Rotation::default());
    let server = AuthServer::start({
        let rotation = rotation.clone();
        move |seen, number| {
            let act = rotation.take(seen);
            if number == 0 { Act::Close } else { act }
        }
    })
    .await;
    let (_directory, spec) = login_spec(&server);
    let store = memory();
    let error = lease(&broker(&spec, &store)).await.unwrap_err();
    assert_eq!(login_reason(&error), LoginReason::Ambiguous);
    assert!(error.to_string().contains("leeway"), "{error}");
    assert_eq!(server.token_requests(), 2);
    assert_eq!(login_reason(&lease(&broker(&spec, &store)).await.unwrap_err()), LoginReason::Ambiguous);
    assert_eq!(server.token_requests(), 2, "known by the next process, too");
}

/// A process that died in the middle left a mark: the same token is tried once, and what comes
/// of it is said.
#[tokio::test]
async fn a_mark_of_a_broken_exchange_is_understood() {
    for (answered, reason) in
        [(granted(1, 3600), None), (answer(400, r#"{"error":"invalid_grant"}"#), Some(LoginReason::Ambiguous))]
    {
        let server = AuthServer::start(move |_, _| answered.clone()).await;
        let (_directory, spec) = login_spec(&server);
        let store = memory();
        let vault = Vault::new(store.clone());
        let broker = broker(&spec, &store);
        leave_a_mark(&vault, &spec).await;
        match (lease(&broker).await, reason) {
            (Ok(lease), None) => assert_eq!(field(&lease), "Bearer at-1"),
            (Err(error), Some(reason)) => assert_eq!(login_reason(&error), reason),
            (outcome, reason) => panic!("{outcome:?} {reason:?}"),
        }
        assert_eq!(server.token_requests(), 1);
    }
}

/// Leaves the store as a process does that died after it sent its request.
async fn leave_a_mark(vault: &Vault, spec: &Spec) {
    let owner = crate::credential::digest::owner(&spec.steps[0]);
    let seed = crate::primitives::Secret::new("rt-0".to_owned());
    let mut session = crate::credential::vault::Session::seeded(seed.clone(), owner, 0, 1);
    session.under_way = Some(seed.fingerprint().to_string());
    vault.keep_session(&name("orders"), &session).await.unwrap();
}

/// Nothing was sent: the mark is taken back, and a later `invalid_grant` is no broken exchange.
#[tokio::test]
async fn a_server_that_cant_be_reached_leaves_no_mark() {
    let server = AuthServer::start(|_, _| granted(1, 3600)).await;
    let (_directory, spec) = login_spec(&server);
    drop(server);
    let store = memory();
    let error = lease(&broker(&spec, &store)).await.unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
    let session = Vault::new(store).session(&name("orders")).await.unwrap().unwrap();
    assert_eq!((session.under_way, session.refresh_token.unwrap().expose()), (None, "rt-0"));
}

/// B6: what was issued for another client or by another server goes nowhere else.
#[tokio::test]
async fn a_refresh_token_is_for_one_client_at_one_server() {
    let rotation = Arc::new(Rotation::default());
    let server = AuthServer::start(move |seen, _| rotation.take(seen)).await;
    let (_directory, mut spec) = login_spec(&server);
    let store = memory();
    lease(&broker(&spec, &store)).await.unwrap();
    let Grant::Login(login) = &mut step(&mut spec).grant else { panic!() };
    login.seed = None;
    step(&mut spec).client.id = "client-2".to_owned();
    assert_eq!(login_reason(&lease(&broker(&spec, &store)).await.unwrap_err()), LoginReason::Never);
    assert_eq!(server.token_requests(), 1);
}

/// Two brokers are two processes: one of them asks, the other one takes what it left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_one_asks() {
    let rotation = Arc::new(Rotation::default());
    let server = AuthServer::start({
        let rotation = rotation.clone();
        move |seen, _| rotation.take(seen)
    })
    .await;
    let (_directory, spec) = login_spec(&server);
    let store = memory();
    for _ in 0..20 {
        let before = server.token_requests();
        let (one, two) = (broker(&spec, &store), broker(&spec, &store));
        let (one, two) = tokio::join!(lease(&one), lease(&two));
        assert_eq!(field(&one.unwrap()), field(&two.unwrap()));
        assert_eq!(server.token_requests() - before, 1);
        let vault = Vault::new(store.clone());
        for key in store.keys().unwrap().into_iter().filter(|key| key.kind() == crate::credential::store::Kind::Token) {
            vault.forget(key).await.unwrap();
        }
    }
    assert_eq!(rotation.reused.load(Ordering::SeqCst), 0);
}

/// Another credential's login serves this one for another audience (Auth0's multi-resource
/// refresh tokens): one refresh token, rotated by both.
#[tokio::test]
async fn a_login_may_serve_two_audiences() {
    let rotation = Arc::new(Rotation::default());
    let server = AuthServer::start({
        let rotation = rotation.clone();
        move |seen, _| rotation.take(seen)
    })
    .await;
    let (_directory, spec) = login_spec(&server);
    let mut second = spec.clone();
    second.name = name("other");
    step(&mut second).ask.audience = vec!["https://other.example.com".to_owned()];
    step(&mut second).grant =
        Grant::Login(Login { kind: LoginKind::RefreshToken, seed: None, of: Some(name("orders")) });
    let broker = Broker::with_store(vec![spec, second], shared(settings()), memory()).unwrap();
    for _ in 0..2 {
        for credential in ["orders", "other"] {
            within(LIMIT, broker.refresh(&name(credential))).await.unwrap();
        }
    }
    assert_eq!((server.token_requests(), rotation.reused.load(Ordering::SeqCst)), (4, 0));
    assert_eq!(server.seen()[1].form()["audience"], "https://other.example.com");
}

/// A store on a disk that is full from the `from`th write on, until it is mended.
#[derive(Debug)]
struct FullDisk {
    inner: Memory,
    written: AtomicUsize,
    from: AtomicUsize,
    refused: Mutex<usize>,
}

impl Store for FullDisk {
    fn blocks(&self) -> bool {
        false
    }

    fn get(&self, key: &Key) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.inner.get(key)
    }

    fn write(&self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        if self.written.fetch_add(1, Ordering::SeqCst) >= self.from.load(Ordering::SeqCst) {
            *self.refused.lock().unwrap() += 1;
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(StoreError::Io { path: "/state/store.redb".into(), source });
        }
        self.inner.write(changes)
    }

    fn keys(&self) -> Result<Vec<Key>, StoreError> {
        self.inner.keys()
    }

    fn try_lock(&self, key: &Key) -> Result<Option<Guard>, StoreError> {
        self.inner.try_lock(key)
    }
}

/// B2: the access token is seen by nobody before its refresh token is written; and the
/// refresh token that couldn't be written isn't lost.
#[tokio::test]
async fn what_cant_be_written_is_neither_used_nor_lost() {
    let rotation = Arc::new(Rotation::default());
    let server = AuthServer::start({
        let rotation = rotation.clone();
        move |seen, _| rotation.take(seen)
    })
    .await;
    let (_directory, spec) = login_spec(&server);
    // The mark can be written, the rotated token can't.
    let disk = Arc::new(FullDisk {
        inner: Memory::default(),
        written: AtomicUsize::new(0),
        from: AtomicUsize::new(1),
        refused: Mutex::new(0),
    });
    let store: Arc<dyn Store> = disk.clone();
    let broker = broker(&spec, &store);
    let error = lease(&broker).await.unwrap_err();
    assert!(matches!(&*error.failure, Failure::Store(_)), "{error:?}");
    assert_eq!(error.code(), "credential_failed");
    assert_eq!((server.token_requests(), kept_refresh_token(&store).await.as_deref()), (1, Some("rt-0")));
    assert!(*disk.refused.lock().unwrap() >= 3, "it was tried more than once");
    disk.from.store(usize::MAX, Ordering::SeqCst);
    refresh(&broker).await.unwrap();
    assert_eq!((server.token_requests(), rotation.reused.load(Ordering::SeqCst)), (2, 0));
    assert_eq!(kept_refresh_token(&store).await.as_deref(), Some("rt-2"));
}

/// A disk that is full from the start: nothing is sent that can't be kept.
#[tokio::test]
async fn nothing_is_asked_for_that_cant_be_kept() {
    let server = AuthServer::start(|_, _| granted(1, 3600)).await;
    let (_directory, spec) = login_spec(&server);
    let disk = FullDisk {
        inner: Memory::default(),
        written: AtomicUsize::new(0),
        from: AtomicUsize::new(0),
        refused: Mutex::new(0),
    };
    let store: Arc<dyn Store> = Arc::new(disk);
    let error = lease(&broker(&spec, &store)).await.unwrap_err();
    assert!(matches!(&*error.failure, Failure::Store(_)), "{error:?}");
    assert_eq!(server.token_requests(), 0);
}

/// Show 6: a start with a token in the store buys no other one; what an upstream refused, or
/// an operator wants anew, isn't taken from there.
#[tokio::test]
async fn a_restart_buys_no_token() {
    let server = AuthServer::start(|_, number| crate::credential::testing::token(&format!("t{number}"), 3600)).await;
    let (_directory, spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let store = memory();
    assert_eq!(field(&lease(&broker(&spec, &store)).await.unwrap()), "Bearer t0");
    let again = broker(&spec, &store);
    let kept = lease(&again).await.unwrap();
    assert_eq!((field(&kept), server.token_requests()), ("Bearer t0", 1));
    let bound = binding("orders", 0);
    let renewed = within(LIMIT, again.renew_bound(&bound, Asking::default(), &kept)).await.unwrap();
    assert_eq!(field(&renewed.unwrap()), "Bearer t1");
    refresh(&again).await.unwrap();
    assert_eq!(server.token_requests(), 3);
    assert_eq!(field(&lease(&broker(&spec, &store)).await.unwrap()), "Bearer t2", "the newest is kept");
}

/// A start in the refresh window while the authorization server is away: the token that was kept
/// is good until it ends.
#[tokio::test]
async fn a_start_without_a_server_goes_on_with_what_was_kept() {
    // A life of which everything but the first half is refresh window.
    let server = AuthServer::start(|_, _| crate::credential::testing::token("kept", 40)).await;
    let (_directory, spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let store = memory();
    lease(&broker(&spec, &store)).await.unwrap();
    drop(server);
    let shared = shared(settings());
    let clock = Arc::new(crate::credential::testing::WallClock::default());
    clock.set(1_800_000_035);
    let late = crate::credential::cache::Shared { clock: clock.clone(), ..shared };
    let broker = Broker::with_store(vec![spec.clone()], late, store.clone()).unwrap();
    assert_eq!(field(&lease(&broker).await.unwrap()), "Bearer kept");
    clock.set(1_800_000_041);
    let over = crate::credential::cache::Shared { clock, ..crate::credential::testing::shared(settings()) };
    let over = Broker::with_store(vec![spec], over, store).unwrap();
    assert!(lease(&over).await.unwrap_err().is_temporary(), "but no longer");
}

/// What a `run` asks for ends with it: it is taken back at a server that can, and shared with
/// nobody.
#[tokio::test]
async fn the_end_of_a_run_takes_back_what_it_asked_for() {
    let server = AuthServer::start(|seen, _| match seen.path.as_str() {
        "/revoke" => answer(200, ""),
        _ => crate::credential::testing::token("t", 3600),
    })
    .await;
    let (_directory, mut spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let mut at = (**step(&mut spec).server.as_ref().unwrap()).clone();
    at.endpoints = vec![(crate::credential::EndpointKind::Revocation, server.url("/revoke"))];
    step(&mut spec).server = Some(Arc::new(at));
    let store = memory();
    let run = |store: &Arc<dyn Store>| {
        let shared = shared(Settings { transient: true, ..settings() });
        Broker::with_store(vec![spec.clone()], shared, store.clone()).unwrap()
    };
    let broker = run(&store);
    lease(&broker).await.unwrap();
    assert!(store.keys().unwrap().is_empty(), "what will be revoked is kept for nobody");
    within(LIMIT, broker.end()).await;
    let seen = server.seen();
    let form = seen[1].form();
    assert_eq!((seen[1].path.as_str(), form["token"].as_str()), ("/revoke", "t"));
    assert_eq!((form["token_type_hint"].as_str(), form["client_id"].as_str()), ("access_token", "client-1"));
    assert_eq!(broker.states()[0].state, "none");
}
