//! What is tried again, with what, and how often: another secret, another nonce, more scopes, a
//! human who takes their time (standards 1.A, 1.I, 1.N, 1.R.5).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::grants::{LIMIT, broker, file, jwt, lease, misbehaviour, one, scripted};
use crate::credential::{
    Asking, Broker, Lease,
    client_auth::{BasicEncoding, ClientAuth},
    error::{Failure, Misbehaviour},
    grant::{Ciba, Grant, ciba},
    step::DpopUse,
    testing::{Act, answer, binding, field, name, settings, shared, step, token, within},
};

// === two secrets ===

/// A secret that was rotated at the server costs no failed request: the other one is tried
/// once, and remembered.
#[tokio::test]
async fn the_other_secret_is_tried_once_and_remembered() {
    for (status, body) in
        [(401, r#"{"error":"invalid_client"}"#), (401, r#"{"error":"access_denied"}"#), (403, ""), (401, "")]
    {
        let (directory, server, mut spec) = scripted(move |seen, number| match seen.form()["client_secret"].as_str() {
            "old" => answer(status, body),
            _ => token(&format!("t{number}"), 3600),
        })
        .await;
        let secrets = vec![file(&directory, "old", "old"), file(&directory, "new", "new")];
        step(&mut spec).client.auth = ClientAuth::SecretPost { secrets };
        let broker = broker(&[&spec]);
        lease(&broker, "orders", 0).await.unwrap();
        within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
        let tried: Vec<String> = server.seen().iter().map(|seen| seen.form()["client_secret"].clone()).collect();
        assert_eq!(tried, ["old", "new", "new"], "{status} {body}");
    }
}

/// Both are wrong: two requests, not a storm; and a refusal that is about something else is no
/// reason to try the other one.
#[tokio::test]
async fn two_wrong_secrets_are_two_requests() {
    for (body, requests) in [(r#"{"error":"invalid_client"}"#, 2), (r#"{"error":"invalid_scope"}"#, 1)] {
        let (directory, server, mut spec) = scripted(move |_, _| answer(400, body)).await;
        let secrets = vec![file(&directory, "a", "a"), file(&directory, "b", "b")];
        step(&mut spec).client.auth = ClientAuth::SecretBasic { secrets, encoding: BasicEncoding::Raw };
        let error = one(&spec).await.unwrap_err();
        assert!(matches!(&*error.failure, Failure::Refused { .. }), "{error:?}");
        assert_eq!(server.token_requests(), requests, "{body}");
    }
}

// === proofs ===

/// 1.N at the authorization server: the nonce of a refusal is used at once, each attempt has a
/// proof of its own, and a downgrade is refused where it is said so.
#[tokio::test]
async fn a_proof_for_every_attempt() {
    let (_directory, server, mut spec) = scripted(|_, number| {
        let nonce = vec![("dpop-nonce", format!("n{number}"))];
        let body = match number {
            0 => return Act::Answer(400, nonce, r#"{"error":"use_dpop_nonce"}"#.to_owned()),
            2 => r#"{"access_token":"b","token_type":"Bearer","expires_in":3600}"#.to_owned(),
            number => format!(r#"{{"access_token":"t{number}","token_type":"DPoP","expires_in":3600}}"#),
        };
        Act::Answer(200, nonce, body)
    })
    .await;
    step(&mut spec).dpop = DpopUse::Required;
    let broker = broker(&[&spec]);
    let got = lease(&broker, "orders", 0).await.unwrap();
    assert_eq!((field(&got), got.is_bound_to_key()), ("DPoP t1", true));
    let error = within(LIMIT, broker.refresh(&name("orders"))).await.unwrap_err();
    assert!(matches!(misbehaviour(&error), Misbehaviour::Downgrade));
    let proofs: Vec<(Value, Value)> = server.seen().iter().map(|seen| jwt(seen.header("dpop"))).collect();
    let nonces: Vec<&Value> = proofs.iter().map(|(_, claims)| &claims["nonce"]).collect();
    assert_eq!(nonces, [&Value::Null, &json!("n0"), &json!("n1")]);
    let mut ids: Vec<String> = proofs.iter().map(|(_, claims)| claims["jti"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert!(proofs.iter().all(|(header, _)| header["jwk"] == proofs[0].0["jwk"]), "one key");
    assert_eq!(proofs[0].1["htu"], server.url("/token"));
}

/// The server says `use_dpop_nonce` without end: it is asked a few times, not for ever.
#[tokio::test]
async fn nonces_without_end_come_to_one() {
    let (_directory, server, mut spec) = scripted(|_, number| {
        Act::Answer(400, vec![("dpop-nonce", format!("n{number}"))], r#"{"error":"use_dpop_nonce"}"#.to_owned())
    })
    .await;
    step(&mut spec).dpop = DpopUse::Required;
    one(&spec).await.unwrap_err();
    assert!((2..=8).contains(&server.token_requests()), "{}", server.token_requests());
}

/// Where no proof was asked for, none is sent, and a token that wants one is refused.
#[tokio::test]
async fn a_key_that_nobody_asked_for() {
    let (_directory, server, spec) = scripted(|_, _| answer(200, r#"{"access_token":"t","token_type":"DPoP"}"#)).await;
    assert!(matches!(misbehaviour(&one(&spec).await.unwrap_err()), Misbehaviour::UnaskedDpop));
    assert!(!server.seen()[0].headers.contains_key("dpop"));
}

/// A token that is bound to a key comes back after a restart with the key.
#[tokio::test]
async fn a_kept_token_keeps_its_key() {
    let (_directory, server, mut spec) =
        scripted(|_, _| answer(200, r#"{"access_token":"t","token_type":"DPoP","expires_in":3600}"#)).await;
    step(&mut spec).dpop = DpopUse::Preferred;
    let store: Arc<dyn crate::credential::store::Store> = Arc::new(crate::credential::store::Memory::default());
    let key = async || {
        let broker = Broker::with_store(vec![spec.clone()], shared(settings()), store.clone()).unwrap();
        let lease = lease(&broker, "orders", 0).await.unwrap();
        let mut fields = http::HeaderMap::new();
        let authority = crate::primitives::Authority::parse("api.example:443", None).unwrap();
        let to = crate::credential::Recipient {
            method: &http::Method::GET,
            scheme: crate::route::Scheme::Https,
            authority: &authority,
            path: "/",
            htu_base: None,
        };
        lease.authorize(&mut fields, &to).unwrap();
        let (header, claims) = jwt(fields["dpop"].to_str().unwrap());
        assert_eq!(fields["authorization"], "DPoP t");
        assert_eq!(claims["ath"], URL_SAFE_NO_PAD.encode(crate::primitives::sha256(b"t")));
        header["jwk"].clone()
    };
    assert_eq!(key().await, key().await);
    assert_eq!(server.token_requests(), 1);
}

// === scopes ===

/// One credential, two routes, two tokens; and more scopes where the route allows them.
#[tokio::test]
async fn each_route_has_its_scopes() {
    let (_directory, server, spec) = scripted(|seen, _| token(&seen.form()["scope"].replace(' ', "+"), 3600)).await;
    let mut narrow = spec.clone();
    narrow.scopes = Some(vec!["list".to_owned()]);
    narrow.max_scopes = vec!["list".to_owned(), "write:orders".to_owned()];
    let broker = broker(&[&spec, &narrow]);
    assert_eq!(field(&lease(&broker, "orders", 0).await.unwrap()), "Bearer read:orders+list");
    let first = lease(&broker, "orders", 1).await.unwrap();
    assert_eq!(field(&first), "Bearer list");
    let step_up = async |lease: &Lease, scopes: &[&str]| {
        let scopes: Vec<String> = scopes.iter().map(|&scope| scope.to_owned()).collect();
        within(LIMIT, broker.step_up_bound(&binding("orders", 1), Asking::default(), lease, &scopes)).await.unwrap()
    };
    assert!(step_up(&first, &["admin"]).await.is_none(), "not within max_scopes");
    assert!(step_up(&first, &[]).await.is_none());
    let second = step_up(&first, &["write:orders"]).await.unwrap();
    assert_eq!(field(&second), "Bearer list+write:orders");
    assert!(step_up(&second, &["write:orders"]).await.is_none(), "it has them");
    // The union stays, and the other route's token is what it was.
    assert_eq!(field(&lease(&broker, "orders", 1).await.unwrap()), "Bearer list+write:orders");
    assert_eq!(field(&lease(&broker, "orders", 0).await.unwrap()), "Bearer read:orders+list");
    assert_eq!(server.token_requests(), 3);
}

// === approvals ===

/// 1.I: one hint, the message made harmless, then polls until the human has decided.
#[tokio::test]
async fn a_human_approves() {
    let polls = Arc::new(AtomicUsize::new(0));
    let (_directory, server, mut spec) = scripted({
        let polls = polls.clone();
        move |seen, _| match seen.path.as_str() {
            "/bc-authorize" => answer(200, r#"{"auth_req_id":"req-1","expires_in":300,"interval":0}"#),
            _ => match polls.fetch_add(1, Ordering::SeqCst) {
                0 => answer(400, r#"{"error":"authorization_pending"}"#),
                _ => token("approved", 3600),
            },
        }
    })
    .await;
    let mut at = (**step(&mut spec).server.as_ref().unwrap()).clone();
    at.endpoints = vec![(crate::credential::EndpointKind::BackchannelAuthentication, server.url("/bc-authorize"))];
    step(&mut spec).server = Some(Arc::new(at));
    step(&mut spec).grant = Grant::Ciba(Box::new(Ciba {
        hint: ciba::Hint::LoginHint(r#"{"format":"iss_sub"}"#.to_owned()),
        binding_message: Some("orders: <write>".to_owned()),
        requested_expiry: Some(120),
    }));
    step(&mut spec).ask.scopes = vec!["openid".to_owned()];
    assert_eq!(field(&one(&spec).await.unwrap()), "Bearer approved");
    let begun = server.seen()[0].form();
    assert_eq!((begun["binding_message"].as_str(), begun["scope"].as_str()), ("orders: -write-", "openid"));
    assert_eq!((begun["login_hint"].as_str(), begun["requested_expiry"].as_str()), (r#"{"format":"iss_sub"}"#, "120"));
    let poll = server.seen()[2].form();
    assert_eq!(
        (poll["grant_type"].as_str(), poll["auth_req_id"].as_str()),
        ("urn:openid:params:grant-type:ciba", "req-1")
    );
    assert_eq!(poll["client_secret"], crate::credential::testing::SECRET);
}

#[tokio::test]
async fn a_human_denies() {
    let (_directory, server, mut spec) = scripted(|seen, _| match seen.path.as_str() {
        "/bc-authorize" => answer(200, r#"{"auth_req_id":"req-1","expires_in":300,"interval":0}"#),
        _ => answer(403, r#"{"error":"access_denied"}"#),
    })
    .await;
    let mut at = (**step(&mut spec).server.as_ref().unwrap()).clone();
    at.endpoints = vec![(crate::credential::EndpointKind::BackchannelAuthentication, server.url("/bc-authorize"))];
    step(&mut spec).server = Some(Arc::new(at));
    let hint = ciba::Hint::LoginHint("user".to_owned());
    step(&mut spec).grant = Grant::Ciba(Box::new(Ciba { hint, binding_message: None, requested_expiry: None }));
    step(&mut spec).ask.scopes = vec!["openid".to_owned()];
    let error = one(&spec).await.unwrap_err();
    assert_eq!((error.code(), error.wants_a_human()), ("approval_denied", true));
    assert_eq!(server.token_requests(), 1, "nobody is asked twice");
}
