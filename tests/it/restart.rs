//! Restarts under load (threat 107): what was got before is used after, and nothing that is
//! under way is lost.

use cupbearer::demo::{
    Fault, WorldSettings,
    authorization_server::{AuthMethod, CertificateRule, Client, GrantType},
    protected_api::{READ_ORDERS, WRITE_ORDERS},
    world::AUDIENCE,
};
use http::StatusCode;
use nix::sys::signal::Signal;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    binary::{LIMIT, Serve, Town, direct},
    scripted::SILENCE,
    support::Facts,
};

/// Agents that ask as fast as they are answered.
const AGENTS: usize = 4;
/// Requests that the API has to see before and after each restart.
const ENOUGH: usize = 100;

/// Access tokens survive, with the keys that they are bound to: no token request after an
/// orderly end, and none after `kill -9`.
#[tokio::test]
async fn a_token_that_is_good_needs_no_request_after_a_restart() {
    let bearer = Town::new().await;
    let dpop = Town::with(WorldSettings::default(), |facts| {
        facts.config().replace("[agents.", "dpop = \"required\"\n\n[agents.")
    })
    .await;
    dpop.world.api().require_dpop(true);
    for (town, tokens) in [(&bearer, "bearer"), (&dpop, "DPoP"), (&certified().await, "certificate-bound")] {
        restart_under_load(town, tokens).await;
    }
}

/// A client whose tokens are bound to its certificate.
async fn certified() -> Town {
    let world = WorldSettings { ask_client_certificates: true, ..WorldSettings::default() };
    let town = Town::with(world, |facts| {
        let config = facts.config();
        let auth = config.lines().find(|line| line.starts_with("client_auth")).unwrap();
        let tls = r#"client_auth = { method = "tls_client_auth", certificate = "client.pem", key = "client.key" }"#;
        config.replace(auth, tls).replace("cupbearer-demo", "certified")
    })
    .await;
    let shown = town.world.client_certificate("certified").unwrap();
    town.home.write("client.pem", &shown.certificate_pem);
    town.home.write("client.key", shown.key_pem.expose());
    town.world.authorization_server().register(Client {
        id: "certified".to_owned(),
        certificates: vec![CertificateRule::Subject("CN=certified".to_owned())],
        certificate_bound_tokens: true,
        auth_methods: vec![AuthMethod::TlsClientAuth],
        grants: vec![GrantType::ClientCredentials],
        scopes: vec![READ_ORDERS.to_owned(), WRITE_ORDERS.to_owned()],
        audiences: vec![AUDIENCE.to_owned()],
        ..Client::default()
    });
    town
}

async fn restart_under_load(town: &Town, tokens: &str) {
    let serve = town.serve_at_known_ports().await;
    let (stop, stopped) = watch::channel(false);
    let mut agents = JoinSet::new();
    for _ in 0..AGENTS {
        let request = direct().get(format!("http://{}/v1/orders", serve.reverse)).bearer_auth(&town.key);
        agents.spawn(ask_on(request, stopped.clone()));
    }
    let api = town.world.api();
    let enough = async || {
        let seen = api.seen_count();
        timeout(LIMIT, api.wait_for_requests(seen + ENOUGH)).await.expect("nothing is served");
    };
    enough().await;
    serve.terminate().await.expect(0);
    let serve = town.serve().await;
    enough().await;
    serve.kill().await;
    let serve = town.serve().await;
    enough().await;
    stop.send_replace(true);
    let (mut served, mut broken) = (0, 0);
    while let Some(asked) = agents.join_next().await {
        let asked = asked.unwrap();
        served += asked.0;
        broken += asked.1;
    }
    serve.terminate().await.expect(0);

    assert_eq!(town.world.authorization_server().token_request_count(), 1, "{tokens}: a restart cost a token");
    let seen = api.seen();
    let mut used: Vec<_> = seen.iter().filter_map(|seen| seen.claims.as_ref().map(|claims| &claims.jti)).collect();
    used.dedup();
    assert_eq!(used.len(), 1, "{tokens}");
    assert!(seen.iter().all(|seen| seen.refusal.is_none()), "{tokens}");
    eprintln!("2 restarts under load, {tokens} tokens: {served} served, {broken} found nobody there, 1 token request");
}

/// Served, and found nobody there. Whatever is answered is served.
async fn ask_on(request: reqwest::RequestBuilder, stopped: watch::Receiver<bool>) -> (usize, usize) {
    let (mut served, mut broken) = (0, 0);
    while !*stopped.borrow() {
        match request.try_clone().unwrap().send().await {
            Ok(answer) => {
                assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.text().await);
                served += 1;
            }
            Err(_) => {
                broken += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    (served, broken)
}

/// An orderly end waits for a refresh that is under way: cut off, its new refresh token would
/// be lost and the login with it.
#[tokio::test]
async fn an_orderly_end_loses_no_refresh() {
    let town = Town::with(WorldSettings::default(), Facts::config_with_login).await;
    town.log_in();
    let server = town.world.authorization_server();
    let mut serve = town.serve().await;
    assert_eq!(ask(&town, &serve).await, StatusCode::OK);

    // The operator doesn't wait for it; nor does any request.
    server.set_fault(Some(Fault::HoldAnswer));
    let url = format!("http://{}/api/v1/tokens/orders/refresh", serve.admin);
    let refresh = direct().post(url).bearer_auth(town.admin_key()).send();
    let refresh = tokio::spawn(refresh);
    timeout(LIMIT, server.wait_for_token_requests(2)).await.unwrap();
    refresh.abort();
    serve.signal(Signal::SIGTERM);
    serve.wait_for("draining").await;
    // No agent keeps it from its end.
    assert!(!serve.ends_within(SILENCE * 5).await, "it didn't wait:\n{}", serve.lines.join("\n"));
    server.set_fault(None);
    serve.ended().await.expect(0);

    let serve = town.serve().await;
    assert_eq!(ask(&town, &serve).await, StatusCode::OK);
    assert_eq!(server.token_request_count(), 2, "what it brought is kept");
    assert_eq!(server.revoked_families(), Vec::new());
    serve.terminate().await.expect(0);
}

async fn ask(town: &Town, serve: &Serve) -> StatusCode {
    let request = direct().get(format!("http://{}/v1/orders", serve.reverse)).bearer_auth(&town.key);
    request.send().await.unwrap().status()
}
