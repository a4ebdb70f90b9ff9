//! DPoP at the token endpoint (RFC 9449 §4.3, §5, §8).

use crate::{
    demo::{NoncePolicy, Repeated, testing::Prover},
    primitives::{Clock, SystemClock},
};

use super::*;

async fn ask(world: &World, client: &HttpClient, proof: &str, params: &[(&str, &str)]) -> Response {
    let secret = world.client_secret().expose();
    let all = [params, &[("client_id", CLIENT_ID), ("client_secret", secret)]].concat();
    token_post(world, client, &all).header("DPoP", proof).send().await.unwrap()
}

#[tokio::test]
async fn a_proof_binds_the_token_to_its_key() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let all = [
        SigningAlgorithm::Es256,
        SigningAlgorithm::Es384,
        SigningAlgorithm::Ed25519,
        SigningAlgorithm::Rs256,
        SigningAlgorithm::Ps256,
    ];
    for algorithm in all {
        let prover = Prover { key: crate::demo::jwt::SigningKey::generate(algorithm).unwrap() };
        let proof = prover.proof("POST", server.token_endpoint(), None);
        let answer: Value = ask(&world, &client, &proof, &[GRANT, AUD]).await.json().await.unwrap();
        assert_eq!(answer["token_type"], "DPoP", "{algorithm:?}");
        assert_eq!(claims_of(&answer).cnf.jkt, Some(prover.thumbprint()));
        let granted = server.token_requests().pop().unwrap().granted().unwrap().clone();
        assert_eq!((granted.token_type, granted.bound_to.jkt), ("DPoP", Some(prover.thumbprint())));
    }
    let answer: Value = post(&world, &client, &[GRANT, AUD]).await.json().await.unwrap();
    assert_eq!((&answer["token_type"], claims_of(&answer).cnf.jkt), (&json!("Bearer"), None));
    assert_eq!(server.repeated_proofs(), []);
}

#[tokio::test]
async fn every_flaw_of_a_proof_is_found() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let (prover, other) = (Prover::new(), Prover::new());
    let endpoint = server.token_endpoint();
    let now = SystemClock.unix_seconds();
    let good = || Prover::claims("POST", endpoint, None);
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        prover.sign(&claims)
    };
    let without = |name: &str| {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        prover.sign(&claims)
    };
    let headed = |change: &dyn Fn(&mut jsonwebtoken::Header)| {
        let mut header = prover.header();
        change(&mut header);
        prover.key.sign(&header, &good()).unwrap().expose().to_owned()
    };
    let plain = prover.sign(&good());
    let private = {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let mut header = serde_json::to_value(prover.header()).unwrap();
        header["jwk"]["d"] = "c2VjcmV0".into();
        let (_, rest) = plain.split_once('.').unwrap();
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
    };
    let bad = [
        ("type", headed(&|header| header.typ = Some("JWT".to_owned()))),
        ("no type", headed(&|header| header.typ = None)),
        ("no key", headed(&|header| header.jwk = None)),
        ("another key", headed(&|header| header.jwk = other.header().jwk)),
        ("a private key", private),
        ("method", with("htm", json!("GET"))),
        ("no method", without("htm")),
        ("another host", with("htu", json!("https://other.test/oauth/token"))),
        ("another path", with("htu", json!(format!("{endpoint}/")))),
        ("a query", with("htu", json!(format!("{endpoint}?a=b")))),
        ("no URI", without("htu")),
        ("too old", with("iat", json!(now - 120))),
        ("from the future", with("iat", json!(now + 120))),
        ("no time", without("iat")),
        ("no jti", without("jti")),
        ("an empty jti", with("jti", json!(""))),
        ("no signature", plain.rsplit_once('.').unwrap().0.to_owned() + "."),
        ("garbage", "garbage".to_owned()),
    ];
    for (what, proof) in &bad {
        let answer = ask(&world, &client, proof, &[GRANT, AUD]).await;
        assert_eq!(error_of(answer).await, (400, "invalid_dpop_proof".to_owned()), "{what}");
    }
    let secret = world.client_secret().expose();
    let all = [GRANT, AUD, ("client_id", CLIENT_ID), ("client_secret", secret)];
    let two = token_post(&world, &client, &all).header("DPoP", &plain).header("DPoP", prover.sign(&good()));
    assert_eq!(error_of(two.send().await.unwrap()).await.1, "invalid_dpop_proof");
    assert_eq!(server.issued(), [""; 0]);
    let shouted = with("htu", json!(endpoint.replace("https", "HTTPS")));
    assert_eq!(ask(&world, &client, &shouted, &[GRANT, AUD]).await.status(), 200, "compared in normal form");
}

#[tokio::test]
async fn a_proof_counts_once() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let prover = Prover::new();
    let claims = Prover::claims("POST", server.token_endpoint(), None);
    assert_eq!(ask(&world, &client, &prover.sign(&claims), &[GRANT, AUD]).await.status(), 200);
    let answer = ask(&world, &client, &prover.sign(&claims), &[GRANT, AUD]).await;
    assert_eq!(error_of(answer).await.1, "invalid_dpop_proof");
    let jti = claims["jti"].as_str().unwrap().to_owned();
    assert_eq!(server.repeated_proofs(), [Repeated { owner: prover.thumbprint(), jti }]);
}

#[tokio::test]
async fn a_nonce_is_asked_for_and_taken() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let prover = Prover::new();
    let proof = |nonce: Option<&str>| {
        let mut claims = Prover::claims("POST", server.token_endpoint(), None);
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        prover.sign(&claims)
    };
    let given = |answer: &Response| answer.headers().get("dpop-nonce").map(|nonce| nonce.to_str().unwrap().to_owned());

    server.set_dpop_nonces(NoncePolicy::Required);
    let answer = ask(&world, &client, &proof(None), &[GRANT, AUD]).await;
    let nonce = given(&answer).expect("those who lack it are told");
    assert_eq!(error_of(answer).await, (400, "use_dpop_nonce".to_owned()));
    for _ in 0..2 {
        let answer = ask(&world, &client, &proof(Some(&nonce)), &[GRANT, AUD]).await;
        assert_eq!((answer.status().as_u16(), given(&answer)), (200, None));
    }
    server.set_dpop_nonces(NoncePolicy::Required);
    let answer = ask(&world, &client, &proof(Some(&nonce)), &[GRANT, AUD]).await;
    assert_ne!(given(&answer).unwrap(), nonce, "renewed");

    server.set_dpop_nonces(NoncePolicy::EveryAnswer { accepted: 1 });
    let answer = post(&world, &client, &[GRANT]).await;
    let first = given(&answer).expect("an error's answer has one, too");
    let answer = ask(&world, &client, &proof(Some(&first)), &[GRANT, AUD]).await;
    let second = given(&answer).unwrap();
    assert_eq!(answer.status(), 200);
    let stale = ask(&world, &client, &proof(Some(&first)), &[GRANT, AUD]).await;
    let third = given(&stale).unwrap();
    assert_eq!(error_of(stale).await.1, "use_dpop_nonce");
    assert_eq!(ask(&world, &client, &proof(Some(&second)), &[GRANT, AUD]).await.status(), 400, "not the newest");
    assert_ne!(second, third);
}

#[tokio::test]
async fn a_downgrade_answers_bearer_to_a_good_proof() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.adjust(|knobs| knobs.dpop_downgrade = true);
    let proof = Prover::new().proof("POST", server.token_endpoint(), None);
    let answer: Value = ask(&world, &client, &proof, &[GRANT, AUD]).await.json().await.unwrap();
    assert_eq!((&answer["token_type"], claims_of(&answer).cnf.jkt), (&json!("Bearer"), None));
    assert_eq!(ask(&world, &client, "garbage", &[GRANT, AUD]).await.status(), 400);
}
