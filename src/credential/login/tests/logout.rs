//! Logins that are given back (RFC 7009), whatever the server does about it, and all that
//! goes with them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::credential::{
    Asking, EndpointKind,
    error::{Failure, LoginReason},
    login::LoggedOut,
    store::Kind,
    testing::{SECRET, binding, field},
};

async fn log_out(broker: &Broker) -> LoggedOut {
    within(LIMIT, broker.log_out(&name("orders"))).await.unwrap()
}

/// Logged out is logged out: no token is left, here or for the next start.
async fn assert_forgotten(broker: &Broker, store: &Arc<dyn Store>) {
    assert_eq!(login_state(broker).await, "needed");
    assert_eq!(store.keys().unwrap(), []);
    let error = within(LIMIT, broker.lease_bound(&binding("orders", 0), Asking::default())).await.unwrap_err();
    assert!(matches!(*error.failure, Failure::LoginRequired(LoginReason::Never)), "{error:?}");
}

/// RFC 7009 §2.1.
#[tokio::test]
async fn a_login_is_given_back() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let store = memory();
    let broker = broker(&[spec], &store, settings());
    log_in(&broker).await;
    within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
    assert!(matches!(log_out(&broker).await, LoggedOut::Revoked));
    let revoked: Vec<_> = server.seen().into_iter().filter(|seen| seen.path == "/revoke").collect();
    let form = revoked.last().unwrap().form();
    assert_eq!((form["token"].as_str(), form["token_type_hint"].as_str()), ("rt-2", "refresh_token"));
    assert_eq!((form["client_id"].as_str(), form["client_secret"].as_str()), ("client-1", SECRET));
    assert_forgotten(&broker, &store).await;
    // Once more: there is nothing, and nobody is asked.
    let asked = server.seen().len();
    assert!(matches!(log_out(&broker).await, LoggedOut::NothingToRevoke));
    assert_eq!(server.seen().len(), asked);
}

/// Standards 1.D: whatever the server does, it is forgotten here, and what it did is said.
#[tokio::test]
async fn a_server_that_doesnt_take_it_back() {
    type Fits = fn(&LoggedOut) -> bool;
    let failed: Fits = |outcome| matches!(outcome, LoggedOut::NotRevoked(_));
    let unsupported: Fits = |outcome| matches!(outcome, LoggedOut::Unsupported);
    let busy = |wait: &str| Act::Answer(503, vec![("retry-after", wait.to_owned())], String::new());
    let table = [
        (answer(500, "oops"), failed, 1),
        (answer(400, r#"{"error":"unsupported_token_type"}"#), unsupported, 1),
        (answer(400, r#"{"error":"invalid_request"}"#), failed, 1),
        (answer(401, r#"{"error":"invalid_client"}"#), failed, 1),
        (Act::Answer(307, vec![("location", "https://attacker.example/".to_owned())], String::new()), failed, 1),
        (Act::Hang, failed, 1),
        (Act::Close, failed, 1),
        // §2.2.1: asked once more where that doesn't take long.
        (busy("0"), failed, 2),
        (busy("60"), failed, 1),
    ];
    for (act, fits, times) in table {
        let scripted = act.clone();
        let server = server(json!({}), move |seen, _| (seen.path == "/revoke").then(|| scripted.clone())).await;
        let (_directory, spec) = login_spec(&server, by_browser());
        let store = memory();
        let impatient = Settings { exchange_timeout: Duration::from_secs(1), ..settings() };
        let broker = broker(&[spec], &store, impatient);
        log_in(&broker).await;
        let outcome = log_out(&broker).await;
        assert!(fits(&outcome), "{act:?}: {outcome:?}");
        let asked = server.seen().iter().filter(|seen| seen.path == "/revoke").count();
        assert_eq!(asked, times, "{act:?}");
        assert_forgotten(&broker, &store).await;
    }
}

#[tokio::test]
async fn a_server_that_was_only_busy() {
    let server = server(json!({}), |seen, _| {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let first = seen.path == "/revoke" && ASKED.fetch_add(1, Ordering::SeqCst) == 0;
        first.then(|| Act::Answer(503, vec![("retry-after", "0".to_owned())], String::new()))
    })
    .await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let broker = broker(&[spec], &memory(), settings());
    log_in(&broker).await;
    assert!(matches!(log_out(&broker).await, LoggedOut::Revoked));
}

#[tokio::test]
async fn a_server_without_revocation() {
    let server = server(json!({ "revocation_endpoint": null }), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let store = memory();
    let first = broker(std::slice::from_ref(&spec), &store, settings());
    log_in(&first).await;
    assert!(matches!(log_out(&first).await, LoggedOut::Unsupported));
    assert_forgotten(&first, &store).await;

    // The operator knows better.
    let mut spec = spec;
    let mut named = (**step(&mut spec).server.as_ref().unwrap()).clone();
    named.endpoints = vec![(EndpointKind::Revocation, server.url("/revoke"))];
    step(&mut spec).server = Some(Arc::new(named));
    let second = broker(&[spec], &store, settings());
    log_in(&second).await;
    assert!(matches!(log_out(&second).await, LoggedOut::Revoked));
}

#[tokio::test]
async fn a_session_that_cant_be_read_is_forgotten() {
    use crate::credential::{store::Change, vault::session_key};
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let store = memory();
    store.write(&[Change::Put(&session_key(&name("orders")), b"no session")]).unwrap();
    let broker = broker(&[spec], &store, settings());
    assert!(matches!(log_out(&broker).await, LoggedOut::NothingToRevoke));
    assert_forgotten(&broker, &store).await;
}

/// All that hangs on a login goes with it, at any distance; the rest stays.
#[tokio::test]
async fn what_came_of_a_login_goes_with_it() {
    use crate::credential::{
        grant::{Subject, TokenExchange},
        step::{Input, Which},
    };
    let server = server(json!({}), |seen, _| {
        let exchange = seen.path == "/token" && seen.form().contains_key("subject_token");
        let issued = r#"{"access_token":"exchanged","token_type":"Bearer","expires_in":3600,
            "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}"#;
        exchange.then(|| answer(200, issued))
    })
    .await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let feeding = |credential: &str, on: &str| {
        let mut spec = spec.clone();
        spec.name = name(credential);
        step(&mut spec).ask.scopes.clear();
        step(&mut spec).grant = Grant::TokenExchange(Box::new(TokenExchange {
            grant_type: "urn:ietf:params:oauth:grant-type:token-exchange".to_owned(),
            subject: Subject {
                input: Input::Credential { name: name(on), which: Which::AccessToken },
                token_type: "urn:ietf:params:oauth:token-type:access_token".to_owned(),
            },
            actor: None,
            requested_token_type: None,
        }));
        spec
    };
    let (near, far) = (feeding("near", "orders"), feeding("far", "near"));
    let mut apart = spec.clone();
    apart.name = name("apart");
    step(&mut apart).grant = Grant::ClientCredentials;
    let store = memory();
    let broker = broker(&[spec, near, far, apart], &store, settings());
    log_in(&broker).await;
    for credential in ["near", "far", "apart"] {
        within(LIMIT, broker.refresh(&name(credential))).await.unwrap();
    }
    let kept = |store: &Arc<dyn Store>| store.keys().unwrap().iter().filter(|key| key.kind() == Kind::Token).count();
    assert_eq!(kept(&store), 4);
    log_out(&broker).await;
    assert_eq!(kept(&store), 1);
    let told = broker.told().await;
    let has_token =
        |credential: &str| told.iter().find(|told| told.credential == credential).unwrap().fingerprint.is_some();
    assert_eq!(["orders", "near", "far", "apart"].map(has_token), [false, false, false, true]);
    let error = within(LIMIT, broker.lease_bound(&binding("far", 2), Asking::default())).await.unwrap_err();
    assert!(error.wants_a_human(), "{error:?}");
}

/// A flight that was in the air when all was forgotten brings nothing that is used or kept.
#[tokio::test]
async fn what_was_under_way_is_too_late() {
    let held = |seen: &Seen, _: usize| {
        let refresh = seen.path == "/token" && seen.form()["grant_type"] == "refresh_token";
        refresh.then(|| Act::Held(Box::new(granted(9, "Bearer"))))
    };
    let server = server(json!({}), held).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let store = memory();
    let broker = broker(&[spec], &store, settings());
    log_in(&broker).await;
    let waiting = tokio::spawn({
        let broker = broker.clone();
        async move { broker.lease_bound(&binding("orders", 0), Asking::default()).await }
    });
    while server.token_requests() < 2 {
        tokio::task::yield_now().await;
    }
    within(LIMIT, broker.forget(&name("orders"))).await.unwrap();
    server.release(1);
    let error = within(LIMIT, waiting).await.unwrap().unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
    assert!(broker.told().await[0].fingerprint.is_none(), "it came into use");
    assert!(store.keys().unwrap().iter().all(|key| key.kind() == Kind::Session), "it was kept");
    // The refresh token that came with it counts all the same, and the next flight uses it.
    server.release(1);
    let lease = within(LIMIT, broker.lease_bound(&binding("orders", 0), Asking::default())).await.unwrap();
    assert_eq!(field(&lease), "Bearer at-9");
    assert_eq!(server.seen().last().unwrap().form()["refresh_token"], "rt-9");
}
