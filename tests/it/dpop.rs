//! DPoP (RFC 9449) with servers that hand out another nonce with every answer and take only
//! the newest: requests with bodies that are far too large to be sent twice succeed all the
//! same, and no proof is ever shown twice.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use cupbearer::demo::{NoncePolicy, Protocols, WorldSettings, protected_api::Seen};
use http::StatusCode;
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::binary::{Serve, Town, direct};

/// Ten times what is kept to be sent again.
const LENGTH: usize = 10 * 1024 * 1024;

/// The first one goes with the requests; the others only spoil its nonces.
const CREDENTIALS: [&str; 4] = ["orders", "second", "third", "fourth"];

const ONE_BY_ONE: usize = 6;
const AT_ONCE: usize = 8;

#[tokio::test]
async fn uploads_pass_over_h1() {
    upload(Protocols::Http1).await;
}

#[tokio::test]
async fn uploads_pass_where_the_upstream_speaks_h2() {
    upload(Protocols::Http2AndHttp1).await;
}

async fn upload(protocols: Protocols) {
    let world = WorldSettings { api_protocols: protocols, ..WorldSettings::default() };
    let town = Town::with(world, |facts| config(&facts.config())).await;
    let (server, api) = (town.world.authorization_server(), town.world.api());
    let newest = NoncePolicy::EveryAnswer { accepted: 1 };
    server.set_dpop_nonces(newest);
    api.set_dpop_nonces(newest);
    api.require_dpop(true);
    let serve = town.serve().await;
    let agent = town.agent(&serve);
    let body = Bytes::from(vec![b'x'; LENGTH]);
    let started = Instant::now();

    for _ in 0..ONE_BY_ONE {
        send(agent.clone(), town.url("/v1/sink"), body.clone()).await;
        let mut refreshes = JoinSet::new();
        for name in CREDENTIALS {
            refreshes.spawn(refresh(&town, &serve, name));
        }
        while let Some(refreshed) = refreshes.join_next().await {
            refreshed.unwrap();
        }
        let orders = agent.get(town.url("/v1/orders")).send().await.unwrap();
        assert_eq!(orders.status(), StatusCode::OK);
    }
    let mut uploads = JoinSet::new();
    for _ in 0..AT_ONCE {
        uploads.spawn(send(agent.clone(), town.url("/v1/sink"), body.clone()));
    }
    while let Some(upload) = uploads.join_next().await {
        upload.unwrap();
    }
    let took = started.elapsed();

    assert_eq!((server.repeated_proofs(), api.repeated_proofs()), (vec![], vec![]));
    let seen = api.seen();
    let jtis: HashSet<String> = seen.iter().map(jti).collect();
    assert_eq!(jtis.len(), seen.len(), "a jti came twice");
    let whole = seen.iter().filter(|seen| seen.body_length == LENGTH as u64 && seen.body_ended).count();
    assert_eq!(whole, ONE_BY_ONE + AT_ONCE, "each upload was applied once");
    let refused: u64 = seen.iter().filter(|seen| seen.refusal.is_some()).map(|seen| seen.body_length).sum();
    assert_eq!(refused, 0, "bytes of a body went to a server that wanted another nonce first");
    let (asked, granted) = (server.token_request_count(), 1 + CREDENTIALS.len() * ONE_BY_ONE);
    assert_eq!(server.issued().len(), granted);
    eprintln!(
        "DPoP, {protocols:?}, another nonce with each answer: {} uploads of 10 MiB in {took:.1?}, {} attempts at the \
         API for {} requests, {asked} at the authorization server for {granted} tokens, no jti twice",
        ONE_BY_ONE + AT_ONCE,
        seen.len(),
        2 * ONE_BY_ONE + AT_ONCE,
    );
    serve.terminate().await.expect(0);
}

/// As many credentials as are named, all alike but for their keys, which each makes for itself.
fn config(ordinary: &str) -> String {
    let start = ordinary.find("[credentials.orders]").unwrap();
    let end = ordinary.find("[agents.").unwrap();
    let block = format!("{}dpop = \"required\"\n\n", ordinary[start..end].trim_end().to_owned() + "\n");
    let blocks: String =
        CREDENTIALS.iter().map(|name| block.replace("credentials.orders", &format!("credentials.{name}"))).collect();
    format!("{}{blocks}{}", &ordinary[..start], &ordinary[end..])
}

async fn send(agent: reqwest::Client, url: String, body: Bytes) {
    let answer = agent.post(url).body(body).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["bytes"], LENGTH);
}

fn refresh(town: &Town, serve: &Serve, name: &str) -> impl Future<Output = ()> + Send + use<> {
    let url = format!("http://{}/api/v1/tokens/{name}/refresh", serve.admin);
    let request = direct().post(url).bearer_auth(town.admin_key());
    async move {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.text().await);
    }
}

fn jti(seen: &Seen) -> String {
    let proof = seen.headers["dpop"].to_str().unwrap();
    let claims = URL_SAFE_NO_PAD.decode(proof.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}
