//! Two processes on one token store: of both one refreshes, the other takes what it left
//! (standards A16 and B4, threat 100). The server rotates and forgives nothing, so a second
//! request with the same refresh token would end the login.

use std::{collections::BTreeMap, time::Duration};

use cupbearer::demo::{AuthorizationServerHandle, WorldSettings};
use http::StatusCode;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    binary::{Home, LIMIT, Serve, Town, direct},
    support::Facts,
};

const ROUNDS: usize = 200;

/// Who of the two passed a request on.
const WHO: &str = "x-process";

async fn town(world: WorldSettings) -> Town {
    let town = Town::at(Home::in_memory(), world, Facts::config_with_login).await;
    town.log_in();
    town
}

async fn ask(http: &reqwest::Client, town: &Town, serve: &Serve, who: &str) -> StatusCode {
    let request = http.get(format!("http://{}/v1/orders", serve.reverse)).bearer_auth(&town.key).header(WHO, who);
    request.send().await.unwrap().status()
}

/// Neither has a token any more, nor has the store.
async fn forget(http: &reqwest::Client, town: &Town, serve: &Serve) {
    let url = format!("http://{}/api/v1/tokens/orders/forget", serve.admin);
    http.post(url).bearer_auth(town.admin_key()).send().await.unwrap().error_for_status().unwrap();
}

/// The `jti` of the tokens that the API saw, each with those who sent it, oldest first.
fn tokens_seen(town: &Town) -> Vec<(String, Vec<String>)> {
    let mut tokens: Vec<(String, Vec<String>)> = Vec::new();
    for seen in town.world.api().seen() {
        let jti = seen.claims.expect("a token that is no good").jti;
        let who = seen.headers[WHO].to_str().unwrap().to_owned();
        let at = tokens.iter().position(|(known, _)| *known == jti).unwrap_or_else(|| {
            tokens.push((jti, Vec::new()));
            tokens.len() - 1
        });
        if !tokens[at].1.contains(&who) {
            tokens[at].1.push(who);
        }
    }
    tokens
}

fn granted(server: &AuthorizationServerHandle) -> usize {
    server.token_requests().iter().filter(|request| request.granted().is_some()).count()
}

#[tokio::test]
async fn two_that_need_a_token_at_once_ask_once() {
    let town = town(WorldSettings::default()).await;
    let (one, two) = tokio::join!(town.serve(), town.serve());
    let (http, server) = (direct(), town.world.authorization_server());
    let started = Instant::now();
    for round in 1..=ROUNDS {
        if round > 1 {
            forget(&http, &town, &one).await;
            forget(&http, &town, &two).await;
        }
        let both = async { tokio::join!(ask(&http, &town, &one, "one"), ask(&http, &town, &two, "two")) };
        let statuses = timeout(LIMIT, both).await.unwrap();
        assert_eq!(statuses, (StatusCode::OK, StatusCode::OK), "round {round}");
        assert_eq!(server.token_request_count(), round, "round {round}");
    }
    let tokens = tokens_seen(&town);
    assert_eq!(tokens.len(), ROUNDS);
    assert!(tokens.iter().all(|(_, who)| who.len() == 2), "{tokens:?}");
    assert_eq!((granted(server), server.revoked_families()), (ROUNDS, Vec::new()));
    let took = started.elapsed();
    eprintln!("two processes, one store: {ROUNDS} rounds in {took:.0?}, {ROUNDS} token requests, no login ended");
    one.terminate().await.expect(0);
    two.terminate().await.expect(0);
}

/// As time has it: both renew a token behind their traffic, each at its own moment of the
/// window, and whoever comes second finds it done.
#[tokio::test]
async fn a_token_that_runs_out_for_both_is_renewed_once() {
    const RENEWALS: usize = 3;
    let life = Duration::from_secs(6);
    let town = town(WorldSettings { token_lifetime: life, ..WorldSettings::default() }).await;
    let (one, two) = tokio::join!(town.serve(), town.serve());
    let server = town.world.authorization_server();
    let (stop, stopped) = watch::channel(false);
    let mut agents = JoinSet::new();
    for (serve, who) in [(&one, "one"), (&two, "two")] {
        let request = direct().get(format!("http://{}/v1/orders", serve.reverse)).bearer_auth(&town.key);
        let (request, mut stopped) = (request.header(WHO, who), stopped.clone());
        agents.spawn(async move {
            let mut statuses = BTreeMap::<StatusCode, usize>::new();
            let mut pace = tokio::time::interval(Duration::from_millis(25));
            while !*stopped.borrow_and_update() {
                pace.tick().await;
                let answer = request.try_clone().unwrap().send().await.unwrap();
                *statuses.entry(answer.status()).or_default() += 1;
            }
            statuses
        });
    }
    timeout(LIMIT, server.wait_for_token_requests(1 + RENEWALS)).await.unwrap();
    // Each has the last one by the time it has asked for it.
    let last = || town.world.api().seen().last().and_then(|seen| seen.claims.clone()).map(|claims| claims.jti);
    let issued = server.issued();
    while last().as_ref() != issued.last() {
        let seen = town.world.api().seen_count();
        timeout(LIMIT, town.world.api().wait_for_requests(seen + 1)).await.unwrap();
    }
    stop.send_replace(true);
    let mut served = 0;
    while let Some(statuses) = agents.join_next().await {
        let statuses = statuses.unwrap();
        assert_eq!(statuses.keys().collect::<Vec<_>>(), [&StatusCode::OK], "{statuses:?}");
        served += statuses[&StatusCode::OK];
    }
    let tokens = tokens_seen(&town);
    let (_last, others) = tokens.split_last().unwrap();
    assert!(others.iter().all(|(_, who)| who.len() == 2), "a token of one alone: {tokens:?}");
    assert_eq!(tokens.len(), granted(server), "a token that nobody used: {tokens:?}");
    assert_eq!(server.revoked_families(), Vec::new());
    eprintln!(
        "two processes, tokens of {life:?}: {RENEWALS} renewals by {} requests, {served} served",
        tokens.len() - 1
    );
    one.terminate().await.expect(0);
    two.terminate().await.expect(0);
}
