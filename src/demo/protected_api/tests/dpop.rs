//! DPoP at the API (RFC 9449 §7, §9).

use crate::demo::{
    Repeated,
    testing::{Prover, token_post},
};

use super::*;

/// A token of the demo's client, bound to the prover's key.
async fn bound_token(world: &World, client: &Client, prover: &Prover) -> String {
    let proof = prover.proof("POST", world.authorization_server().token_endpoint(), None);
    let params = [
        ("grant_type", "client_credentials"),
        ("audience", AUDIENCE),
        ("client_id", CLIENT_ID),
        ("client_secret", world.client_secret().expose()),
    ];
    let answer: Value =
        token_post(world, client, &params).header("DPoP", proof).send().await.unwrap().json().await.unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

async fn show(world: &World, client: &Client, token: &str, proof: &str) -> Response {
    let request = client.get(world.api_url("/v1/whoami?a=b")).header(header::AUTHORIZATION, format!("DPoP {token}"));
    request.header("DPoP", proof).send().await.unwrap()
}

#[tokio::test]
async fn a_bound_token_needs_its_proof_and_the_scheme() {
    let (world, h2) = world().await;
    let h1 = builder(&world).http1_only().build().unwrap();
    let prover = Prover::new();
    let token = bound_token(&world, &h2, &prover).await;
    let uri = world.api_url("/v1/whoami");
    for client in [&h2, &h1] {
        let answer = show(&world, client, &token, &prover.proof("GET", &uri, Some(&token))).await;
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["cnf"]["jkt"], prover.thumbprint());
    }

    let as_bearer = whoami(&world, &h2, &token).await;
    assert_eq!(as_bearer.status(), 401);
    assert!(challenge(&as_bearer).starts_with(r#"DPoP realm="orders", error="invalid_token""#));
    let bare = h2.get(&uri).header(header::AUTHORIZATION, format!("DPoP {token}")).send().await.unwrap();
    assert!(challenge(&bare).contains(r#"error="invalid_dpop_proof""#));
    assert!(challenge(&bare).contains(r#"algs="ES256 "#));

    let thief = Prover::new();
    let answer = show(&world, &h2, &token, &thief.proof("GET", &uri, Some(&token))).await;
    assert_eq!(answer.status(), 401);
    assert!(challenge(&answer).contains("another DPoP key"));
    let unbound = fetch_token(&world, &h2, None).await;
    let answer = show(&world, &h2, &unbound, &prover.proof("GET", &uri, Some(&unbound))).await;
    assert!(challenge(&answer).contains("isn't bound"));
    let seen = world.api().seen();
    assert_eq!(seen.iter().filter(|seen| seen.claims.is_some()).count(), 2);
}

#[tokio::test]
async fn a_proof_is_for_this_token_this_method_and_once() {
    let (world, client) = world().await;
    let prover = Prover::new();
    let token = bound_token(&world, &client, &prover).await;
    let uri = world.api_url("/v1/whoami");
    let used = prover.proof("GET", &uri, Some(&token));
    assert_eq!(show(&world, &client, &token, &used).await.status(), 200);
    assert_eq!(world.api().repeated_proofs(), []);
    let bad = [
        ("used", used),
        ("no ath", prover.proof("GET", &uri, None)),
        ("another token's ath", prover.proof("GET", &uri, Some("another"))),
        ("method", prover.proof("POST", &uri, Some(&token))),
        ("path", prover.proof("GET", &world.api_url("/v1/orders"), Some(&token))),
        ("the token endpoint's", prover.proof("GET", world.authorization_server().token_endpoint(), Some(&token))),
    ];
    for (what, proof) in bad {
        let answer = show(&world, &client, &token, &proof).await;
        assert_eq!(answer.status(), 401, "{what}");
        assert!(challenge(&answer).contains(r#"error="invalid_dpop_proof""#), "{what}");
    }
    let [Repeated { owner, .. }] = world.api().repeated_proofs().try_into().unwrap();
    assert_eq!(owner, prover.thumbprint());
}

#[tokio::test]
async fn the_api_has_nonces_of_its_own() {
    let (world, client) = world().await;
    let prover = Prover::new();
    let token = bound_token(&world, &client, &prover).await;
    let uri = world.api_url("/v1/whoami");
    let proof = |nonce: &str| {
        let mut claims = Prover::claims("GET", &uri, Some(&token));
        claims["nonce"] = nonce.into();
        prover.sign(&claims)
    };
    let given = |answer: &Response| answer.headers()["dpop-nonce"].to_str().unwrap().to_owned();
    world.api().set_dpop_nonces(NoncePolicy::EveryAnswer { accepted: 2 });
    let answer = show(&world, &client, &token, &prover.proof("GET", &uri, Some(&token))).await;
    assert_eq!(answer.status(), 401);
    assert!(challenge(&answer).contains(r#"DPoP realm="orders", error="use_dpop_nonce""#));
    let first = given(&answer);
    let answer = show(&world, &client, &token, &proof(&first)).await;
    assert_eq!(answer.status(), 200);
    let second = given(&answer);
    assert_eq!(show(&world, &client, &token, &proof(&first)).await.status(), 200, "of the newest two");
    assert_eq!(show(&world, &client, &token, &proof(&first)).await.status(), 401, "no longer");
    assert_eq!(show(&world, &client, &token, &proof(&second)).await.status(), 401, "nor this one");
}

#[tokio::test]
async fn an_api_may_refuse_bearer_tokens_altogether() {
    let (world, client) = world().await;
    world.api().require_dpop(true);
    let token = fetch_token(&world, &client, None).await;
    let answer = whoami(&world, &client, &token).await;
    assert!(challenge(&answer).starts_with(r#"DPoP realm="orders", error="invalid_token""#));
    let answer = client.get(world.api_url("/v1/whoami")).send().await.unwrap();
    assert!(challenge(&answer).starts_with(r#"DPoP realm="orders", algs="#));
    let prover = Prover::new();
    let token = bound_token(&world, &client, &prover).await;
    let proof = prover.proof("GET", &world.api_url("/v1/whoami"), Some(&token));
    assert_eq!(show(&world, &client, &token, &proof).await.status(), 200);
}
