//! Brokers against an authorization server over TLS: what is sent, and what becomes of
//! every kind of answer (threats 90-99, Shows 3 and 4).

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use rustls::RootCertStore;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    credential::{
        Asking, Broker, ClearText, Error, Lease, Location, Settings, Source,
        client_auth::{BasicEncoding, ClientAuth},
        error::{Failure, Misbehaviour, Outage, SettingsError},
        step::BodyFormat,
        testing::{
            Act, AuthServer, HOST, SECRET, WallClock, answer, binding, field as header, name, server, server_with,
            settings, shared, spec, step, token, within,
        },
    },
    observe::Noted,
};

const LIMIT: Duration = Duration::from_secs(60);

async fn lease(broker: &Broker) -> Result<Lease, Error> {
    within(LIMIT, broker.lease_bound(&binding("orders", 0), Asking::default())).await
}

/// A server that always does `act`, and the error that this makes.
async fn error_of(act: Act) -> (Error, AuthServer) {
    error_within(settings().exchange_timeout, act).await
}

async fn error_within(exchange_timeout: Duration, act: Act) -> (Error, AuthServer) {
    let server = AuthServer::start(move |_, _| act.clone()).await;
    let (_directory, broker) = server.broker(Settings { exchange_timeout, ..settings() });
    let error = lease(&broker).await.expect_err("a token");
    let texts = format!("{error} {error:?} {} {:?}", error.hint(), broker.states());
    assert!(!texts.contains(SECRET) && !texts.contains("canary"), "{texts}");
    (error, server)
}

/// A1, A3, A4: the bytes of a request.
#[tokio::test]
async fn the_request_is_as_the_rfc_says() {
    let server = AuthServer::start(|_, number| token(&format!("t{number}"), 3600)).await;
    let (_directory, mut spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token?tenant=1")));
    step(&mut spec).ask.params = vec![("organization".to_owned(), "org 1&ü".to_owned())];
    let broker = Broker::with_shared(vec![spec], shared(settings())).unwrap();
    assert_eq!(header(&lease(&broker).await.unwrap()), "Bearer t0");
    let seen = &server.seen()[0];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/token"));
    assert_eq!(seen.header("accept"), "application/json");
    assert_eq!(seen.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(seen.header("host"), format!("{HOST}:{}", server.address.port()));
    for absent in ["authorization", "referer", "cookie"] {
        assert!(!seen.headers.contains_key(absent));
    }
    let form = seen.form();
    let wanted = [
        ("grant_type", "client_credentials"),
        ("client_id", "client-1"),
        ("client_secret", SECRET),
        ("audience", "https://orders.example.com"),
        ("scope", "read:orders list"),
        ("organization", "org 1&ü"),
    ];
    assert_eq!(form.len(), wanted.len());
    for (name, value) in wanted {
        assert_eq!(form[name], value);
    }
}

#[tokio::test]
async fn json_and_basic_are_as_the_server_wants() {
    let server = AuthServer::start(|_, _| token("t", 3600)).await;
    let (_directory, mut spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let settings_of = step(&mut spec);
    let ClientAuth::SecretPost { secrets } = settings_of.client.auth.clone() else { panic!("post") };
    settings_of.client.auth = ClientAuth::SecretBasic { secrets, encoding: BasicEncoding::Rfc6749 };
    settings_of.ask.body = BodyFormat::Json;
    settings_of.ask.resource = vec!["https://a/".to_owned(), "https://b/".to_owned()];
    let broker = Broker::with_shared(vec![spec], shared(settings())).unwrap();
    lease(&broker).await.unwrap();
    let seen = &server.seen()[0];
    assert_eq!(seen.header("content-type"), "application/json");
    // base64 of `client-1:canary-s3cret%25%2B%C3%A4`
    assert_eq!(seen.header("authorization"), "Basic Y2xpZW50LTE6Y2FuYXJ5LXMzY3JldCUyNSUyQiVDMyVBNA==");
    let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    let wanted = serde_json::json!({
        "grant_type": "client_credentials", "audience": "https://orders.example.com",
        "scope": "read:orders list", "resource": ["https://a/", "https://b/"],
    });
    assert_eq!(body, wanted);
}

/// Show 3, over sockets and TLS, callers and flight on several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_cold_callers_make_one_request() {
    let server = AuthServer::start(|_, _| Act::Held(Box::new(token("t", 3600)))).await;
    let (_directory, broker) = server.broker(settings());
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let broker = broker.clone();
        callers.spawn(async move { lease(&broker).await.map(|lease| lease.generation()) });
    }
    server.release(1);
    let generations = callers.join_all().await;
    assert!(generations.iter().all(|generation| generation.as_ref().is_ok_and(|found| *found == Some(1))));
    assert_eq!(server.token_requests(), 1);
}

// === Show 4 ===

#[tokio::test]
async fn a_server_that_is_down() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("https://{HOST}:{}/token", listener.local_addr().unwrap().port());
    let running = AuthServer::start(|_, _| Act::Hang).await;
    let (_directory, spec) = running.spec("orders", Location::TokenEndpoint(url));
    drop(listener);
    let broker = Broker::with_shared(vec![spec], shared(settings())).unwrap();
    let error = lease(&broker).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Unavailable(Outage::Connect(_))), "{error:?}");
    assert_eq!(error.code(), "credential_unavailable");
    let told = broker.states()[0].last_error.clone().unwrap();
    assert!(told.contains("can't be reached") && told.contains("refused"), "{told}");
    assert!(error.retry_after.is_some() && running.seen().is_empty());
}

/// Threat 90: slow, dripping, endless.
#[tokio::test]
async fn a_server_that_is_slow_or_endless() {
    for act in [Act::Hang, Act::Drip] {
        let (error, server) = error_within(Duration::from_secs(1), act).await;
        assert!(matches!(*error.failure, Failure::Unavailable(Outage::Slow(_))), "{error:?}");
        assert_eq!(server.token_requests(), 1, "no attempt starts after the limit");
    }
    for act in [Act::Flood, Act::Long, answer(200, &" ".repeat(64 * 1024 + 1))] {
        let (error, server) = error_of(act).await;
        assert!(matches!(*error.failure, Failure::Protocol(Misbehaviour::TooLarge(_))), "{error:?}");
        assert_eq!((error.code(), server.token_requests()), ("credential_failed", 1));
    }
}

#[tokio::test]
async fn a_server_that_fails() {
    let (error, server) = error_of(answer(500, "oops")).await;
    assert!(matches!(*error.failure, Failure::Unavailable(Outage::Status(500))), "{error:?}");
    assert_eq!(server.token_requests(), 3);
    let (error, _server) = error_of(Act::Close).await;
    assert!(matches!(*error.failure, Failure::Unavailable(Outage::Broken(_))), "{error:?}");

    let quota = r#"{"error":"too_many_requests","error_description":"Client quota exceeded"}"#;
    let (error, server) = error_of(Act::Answer(429, vec![("retry-after", "30".to_owned())], quota.to_owned())).await;
    assert_eq!(error.failure.class(), "too_many_requests");
    assert!(error.is_temporary() && error.retry_after.is_some_and(|wait| wait.as_secs() >= 30), "{error:?}");
    assert_eq!(server.token_requests(), 1, "no attempt before the server wants one");
}

/// A12, threat 92: the secret goes nowhere else.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let attacker = AuthServer::start(|_, _| token("evil", 3600)).await;
    for status in [301, 302, 303, 307, 308] {
        let to = vec![("location", attacker.url("/token"))];
        let (error, server) = error_of(Act::Answer(status, to, String::new())).await;
        assert!(matches!(*error.failure, Failure::Protocol(Misbehaviour::Redirect(_))), "{error:?}");
        assert_eq!(server.token_requests(), 1);
    }
    assert!(attacker.seen().is_empty());
}

#[tokio::test]
async fn answers_that_are_no_token() {
    let table = [
        ("<html>", "invalid_answer"),
        (r#"{"access_token":"t","token_type":"mac","expires_in":60}"#, "invalid_answer"),
        (r#"{"access_token":"t\r\nX-Evil: 1","token_type":"Bearer"}"#, "invalid_answer"),
        (r#"{"error":"access_denied","error_description":"canary-s3cret%+ä isn't right"}"#, "access_denied"),
        (r#"{"access_token":"t","token_type":"Bearer","scope":"list"}"#, "scope_mismatch"),
    ];
    for (body, class) in table {
        let (error, server) = error_of(answer(200, body)).await;
        assert_eq!((error.failure.class(), error.code()), (class, "credential_failed"), "{body}");
        assert_eq!((error.retry_after, server.token_requests()), (None, 1), "{body}");
    }
}

/// Threat 93: nothing is sent to a server that can't prove who it is.
#[tokio::test]
async fn an_untrusted_certificate_ends_it() {
    let auth = AuthServer::start(|_, _| token("t", 3600)).await;
    let other = AuthServer::start(|_, _| Act::Hang).await;
    let right = Location::TokenEndpoint(auth.url("/token"));
    let (_directory, good) = auth.spec("orders", right.clone());
    let wrong_name = Location::TokenEndpoint(auth.url("/token").replace(HOST, "localhost"));
    for (location, roots) in
        [(right.clone(), other.roots.clone()), (right, RootCertStore::empty()), (wrong_name, auth.roots.clone())]
    {
        let mut spec = good.clone();
        step(&mut spec).server = Some(server_with(location, roots));
        let broker = Broker::with_shared(vec![spec], shared(settings())).unwrap();
        let error = lease(&broker).await.unwrap_err();
        assert!(matches!(*error.failure, Failure::Protocol(Misbehaviour::Tls(_))), "{error:?}");
    }
    assert!(auth.seen().is_empty());
}

/// A2 and A1, before anything is sent.
#[tokio::test]
async fn settings_that_cant_work_are_refused() {
    let refused = |spec| match Broker::with_shared(vec![spec], shared(settings())) {
        Ok(_) => panic!("accepted"),
        Err(error) => error,
    };
    let urls = [
        "http://as.example/token",
        "http://127.0.0.1/token",
        "ftp://as/",
        "nonsense",
        "https://u:p@as/t",
        "https://as/t#f",
    ];
    for url in urls {
        let error = refused(spec("orders", server(Location::TokenEndpoint(url.to_owned()))));
        assert!(matches!(*error.failure, Failure::Settings(SettingsError::Url(_))), "{url}: {error:?}");
    }
    for param in ["scope", "audience", "client_id", "client_secret", "grant_type"] {
        let mut spec = spec("orders", server(Location::TokenEndpoint("https://as/t".to_owned())));
        step(&mut spec).ask.params = vec![(param.to_owned(), "x".to_owned())];
        assert!(matches!(*refused(spec).failure, Failure::Settings(_)), "{param}");
    }
    let mut empty = spec("orders", server(Location::TokenEndpoint("https://as/t".to_owned())));
    empty.steps.clear();
    assert!(matches!(*refused(empty).failure, Failure::Settings(SettingsError::NoSteps)));
}

/// `danger_allow_http` opens loopback addresses, nothing else.
#[tokio::test]
async fn clear_text_is_for_loopback_only() {
    for (url, allowed) in [
        ("http://127.0.0.1:1/token", true),
        ("http://[::1]:1/token", true),
        ("http://localhost:1/token", true),
        ("http://10.0.0.1/token", false),
        ("http://localhost.evil.example/token", false),
        ("http://as.example/token", false),
    ] {
        let mut server = (*server(Location::TokenEndpoint(url.to_owned()))).clone();
        server.clear_text = ClearText::Loopback;
        let broker = Broker::with_shared(vec![spec("orders", Arc::new(server))], shared(settings()));
        assert_eq!(broker.is_ok(), allowed, "{url}");
    }
}

// === A8: scopes ===

#[tokio::test]
async fn wider_scopes_pass_unless_strict() {
    let server = AuthServer::start(|_, _| {
        answer(200, r#"{"access_token":"t","token_type":"Bearer","scope":"admin list read:orders"}"#)
    })
    .await;
    let (_directory, mut spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let broker = Broker::with_shared(vec![spec.clone()], shared(settings())).unwrap();
    lease(&broker).await.unwrap();
    assert_eq!(broker.states()[0].scope.as_deref(), Some("admin list read:orders"));
    spec.strict_scopes = true;
    let strict = Broker::with_shared(vec![spec], shared(settings())).unwrap();
    let error = lease(&strict).await.unwrap_err();
    assert!(matches!(&*error.failure, Failure::Protocol(Misbehaviour::ScopeWider { extra }) if extra == "admin"));
    assert!(error.hint().as_str().contains("scopes"));
}

// === secrets, time, reload ===

/// A secret that was rotated in its file counts with the next flight.
#[tokio::test]
async fn a_rotated_secret_counts_at_once() {
    let server = AuthServer::start(|seen, number| match seen.form()["client_secret"].as_str() {
        "new" => token(&format!("t{number}"), 3600),
        _ => answer(401, r#"{"error":"invalid_client"}"#),
    })
    .await;
    let (directory, broker) = server.broker(settings());
    assert_eq!(lease(&broker).await.unwrap_err().failure.class(), "invalid_client");
    std::fs::write(directory.path().join("secret"), "new\n").unwrap();
    assert_eq!(lease(&broker).await.unwrap_err().failure.class(), "invalid_client", "the slot rests");
    let state = within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
    assert_eq!((state.state, state.generation, server.token_requests()), ("valid", 1, 2));
    lease(&broker).await.unwrap();
}

#[tokio::test]
async fn a_secret_that_cant_be_read_sends_nothing() {
    let server = AuthServer::start(|_, _| token("t", 3600)).await;
    let (directory, broker) = server.broker(settings());
    drop(directory);
    let error = lease(&broker).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::Source(_)), "{error:?}");
    assert_eq!(error.code(), "credential_failed");
    assert!(server.seen().is_empty());
}

/// Threat 103: the wall clock jumps, the token's life doesn't.
#[tokio::test]
async fn a_clock_that_jumps_changes_nothing() {
    let server = AuthServer::start(|_, _| token("t", 3600)).await;
    let (_directory, spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let clock = Arc::new(WallClock::default());
    let mut shared = shared(settings());
    shared.clock = clock.clone();
    let broker = Broker::with_shared(vec![spec], shared).unwrap();
    lease(&broker).await.unwrap();
    for unix in [0, 1_000, 4_000_000_000] {
        clock.set(unix);
        lease(&broker).await.unwrap();
        let left = broker.states()[0].expires_in_seconds.unwrap();
        assert!((3500..=3600).contains(&left), "{left}");
    }
    assert_eq!(server.token_requests(), 1);
}

/// Threat 98: one server that hangs holds up its own credential only.
#[tokio::test]
async fn a_slow_server_holds_up_no_other() {
    let slow = AuthServer::start(|_, _| Act::Hang).await;
    let quick = AuthServer::start(|_, _| token("t", 3600)).await;
    let (_one, first) = slow.spec("slow", Location::TokenEndpoint(slow.url("/token")));
    let (_two, second) = quick.spec("quick", Location::TokenEndpoint(quick.url("/token")));
    let broker = Broker::with_shared(vec![first, second], shared(settings())).unwrap();
    let waiting = tokio::spawn({
        let broker = broker.clone();
        async move { broker.lease_bound(&binding("slow", 0), Asking::default()).await }
    });
    within(LIMIT, broker.lease_bound(&binding("quick", 1), Asking::default())).await.unwrap();
    assert!(!waiting.is_finished());
    waiting.abort();
}

#[tokio::test]
async fn a_reload_keeps_what_didnt_change() {
    let server = AuthServer::start(|_, number| token(&format!("t{number}"), 3600)).await;
    let (_directory, spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let other = {
        let mut other = spec.clone();
        other.name = name("other");
        other
    };
    let broker = Broker::with_shared(vec![spec.clone()], shared(settings())).unwrap();
    let old = lease(&broker).await.unwrap();

    // The id changes, the settings don't.
    let same = broker.reconfigured(vec![other.clone(), spec.clone()], settings()).unwrap();
    let kept = within(LIMIT, same.lease_bound(&binding("orders", 1), Asking::default())).await.unwrap();
    assert_eq!((header(&kept), server.token_requests()), (header(&old), 1));
    // A permit of the old config still gets its own credential, by name.
    let by_name = within(LIMIT, same.lease_bound(&binding("orders", 0), Asking::default())).await.unwrap();
    assert_eq!(header(&by_name), header(&old));

    let mut changed = spec;
    step(&mut changed).ask.audience = vec!["https://other.example.com".to_owned()];
    let next = same.reconfigured(vec![changed], settings()).unwrap();
    let fresh = lease(&next).await.unwrap();
    assert_eq!((fresh.generation(), server.token_requests()), (Some(2), 2), "generations go on counting");
    let gone = within(LIMIT, next.lease_bound(&binding("other", 0), Asking::default())).await.unwrap_err();
    assert!(matches!(*gone.failure, Failure::Settings(SettingsError::UnknownCredential)));
}

/// A17: a reload forgives.
#[tokio::test]
async fn a_reload_ends_the_rest() {
    let server = AuthServer::start(|_, number| match number {
        0 => answer(401, r#"{"error":"invalid_client"}"#),
        _ => token("t", 3600),
    })
    .await;
    let (_directory, spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let broker = Broker::with_shared(vec![spec.clone()], shared(settings())).unwrap();
    lease(&broker).await.unwrap_err();
    lease(&broker).await.unwrap_err();
    assert_eq!(server.token_requests(), 1);
    lease(&broker.reconfigured(vec![spec], settings()).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_renewal_replaces_the_refused_token() {
    let server = AuthServer::start(|_, number| token(&format!("t{number}"), 3600)).await;
    let (_directory, broker) = server.broker(settings());
    let old = lease(&broker).await.unwrap();
    let new = within(LIMIT, broker.renew_bound(&binding("orders", 0), Asking::default(), &old)).await.unwrap().unwrap();
    assert_eq!((header(&old), header(&new)), ("Bearer t0", "Bearer t1"));
    assert!(within(LIMIT, broker.renew_bound(&binding("orders", 0), Asking::default(), &new)).await.unwrap().is_none());
    assert_eq!(server.token_requests(), 2);
}

/// What a lease and an error write into a record, and what the states tell.
#[tokio::test]
async fn states_tell_everything_but_the_token() {
    let server = AuthServer::start(|_, _| token("canary-token", 3600)).await;
    let (_directory, broker) = server.broker(settings());
    let before = &broker.states()[0];
    assert_eq!((before.state, before.generation, before.fingerprint.as_deref()), ("none", 0, None));
    let lease = lease(&broker).await.unwrap();
    let after = &broker.states()[0];
    let fingerprint = crate::primitives::Secret::new("canary-token".to_owned()).fingerprint();
    assert_eq!((after.state, after.generation), ("valid", 1));
    assert_eq!(after.fingerprint, Some(fingerprint.to_string()));
    assert_eq!(after.audience.as_deref(), Some("https://orders.example.com"));
    let texts = format!("{lease:?} {after:?} {broker:?}");
    assert!(!texts.contains("canary"), "{texts}");
    let _: &dyn Noted = &lease;
}

/// A command's secret is read within the flight; a source is not run at load.
#[tokio::test]
async fn a_commands_secret_is_sent() {
    let server = AuthServer::start(|seen, _| token(&seen.form()["client_secret"], 3600)).await;
    let (_directory, mut spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let argv = ["sh", "-c", "echo from-command"].map(str::to_owned).to_vec();
    let secret = Source::Command { argv, ttl: Duration::from_secs(60) };
    step(&mut spec).client.auth = ClientAuth::SecretPost { secrets: vec![secret] };
    let broker = Broker::with_shared(vec![spec], shared(settings())).unwrap();
    assert_eq!(header(&lease(&broker).await.unwrap()), "Bearer from-command");
}
