//! Threat 37: what only an authorization server itself tells of where it is, agents are kept
//! from all the same.

use cupbearer::demo::authorization_server::Fault;
use serde_json::json;

use crate::{
    doors::OwnDoors,
    support::{API, Facts, Stage},
    wire::{Answer, Way, Wire, basic, connect_head},
};

/// A route without a credential, of which the test's own reading is that it should do no harm.
fn with_route(facts: &Facts, hosts: &str, paths: &str) -> String {
    let route = format!(
        "\n[[routes]]\nname = \"more\"\nhosts = [\"{hosts}\"]\npaths = [{paths}]\nagents = [\"researcher\"]\n\
         upgrade_http = true\nupstream_ca = \"peers-ca.pem\"\ndanger_allow_private_addresses = [\"127.0.0.0/8\"]\n"
    );
    facts.config().replace("\n[[reverse]]", &format!("{route}\n[[reverse]]"))
}

fn issuer(facts: &Facts) -> &str {
    facts.issuer.trim_start_matches("https://").trim_end_matches('/')
}

async fn get(stage: &Stage, authority: &str, path: &str) -> Answer {
    let mut wire = Wire::connect(stage.forward()).await;
    let key = basic("researcher", &stage.key);
    let head = format!("GET http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: {key}\r\n");
    wire.send(head + "Connection: close\r\n\r\n").await;
    wire.answer().await
}

#[track_caller]
fn is_kept_off(answer: &Answer) {
    assert_eq!((answer.status, &*answer.code()), (403, "host_not_allowed"), "{answer:?}");
    assert!(answer.problem()["detail"].as_str().unwrap().contains("endpoint"), "{answer:?}");
}

/// The metadata names a token endpoint at another host, which a route names as well.
#[tokio::test]
async fn a_discovered_endpoint_on_another_host() {
    let with = |facts: &Facts| with_route(facts, &format!("{API}:{}", facts.api_port), "\"/v2/**\"");
    let stage = Stage::with(Default::default(), with).await;
    let elsewhere = json!({ "token_endpoint": stage.url("/v2/token") });
    let serde_json::Value::Object(members) = elsewhere else { unreachable!() };
    stage.world.authorization_server().set_discovery_fault(Some(Fault::Override(members)));
    // Where the token is got tells it; the API is no authorization server, so there is none.
    let mut wire = Way::AbsoluteForm.open(&stage).await;
    wire.send(Way::AbsoluteForm.head(&stage, "GET", "/v1/orders") + "\r\n").await;
    assert_ne!(wire.answer().await.status, 200);
    let seen = stage.world.api().seen_count();
    for path in ["/v2/token", "/v2/token/", "/v2/TOKEN", "/v2/%74oken", "/v2/token?x=y"] {
        is_kept_off(&get(&stage, &stage.authority(), path).await);
    }
    assert_eq!(stage.world.api().seen_count(), seen, "one got through");
    let other = get(&stage, &stage.authority(), "/v2/tokens").await;
    assert_eq!(other.field("x-cupbearer-error"), "", "{other:?}");
    assert_eq!(stage.world.api().seen_count(), seen + 1);
}

/// With `issuer` and `paths`, which path is the endpoint is asked for before the first request
/// goes there; and while nobody knows, none does.
#[tokio::test]
async fn the_path_of_a_discovered_endpoint() {
    let with = |facts: &Facts| with_route(facts, issuer(facts), "\"/*\", \"/*/*\"");
    let stage = Stage::with(Default::default(), with).await;
    let server = stage.world.authorization_server();
    let endpoint = server.token_endpoint().trim_start_matches(stage.facts.issuer.trim_end_matches('/')).to_owned();
    is_kept_off(&get(&stage, issuer(&stage.facts), &endpoint).await);
    assert_eq!(get(&stage, issuer(&stage.facts), "/.well-known/jwks.json").await.status, 200);
    assert_eq!(server.token_request_count(), 0, "threat 102");

    stage.reload(&with(&stage.facts));
    server.set_discovery_fault(Some(Fault::Garbage));
    for path in [&*endpoint, "/.well-known/jwks.json"] {
        let answer = get(&stage, issuer(&stage.facts), path).await;
        assert_eq!((answer.status, &*answer.code()), (503, "credential_unavailable"), "{answer:?}");
    }
}

/// The config names the server, and a route its address.
#[tokio::test]
async fn the_server_by_its_bare_address() {
    let with = |facts: &Facts| {
        let named = format!("https://{API}:{}", issuer(facts).rsplit_once(':').unwrap().1);
        let endpoint = format!("token_endpoint = \"{named}/token\"");
        let config = with_route(facts, issuer(facts), "").replace("paths = []\n", "");
        config.replace(&format!("issuer = \"{}\"", facts.issuer), &endpoint)
    };
    let stage = Stage::with(Default::default(), with).await;
    is_kept_off(&get(&stage, issuer(&stage.facts), "/token").await);
    assert_eq!(get(&stage, issuer(&stage.facts), "/.well-known/jwks.json").await.status, 200);
    assert_eq!(stage.world.authorization_server().token_request_count(), 0);
}

/// A blind tunnel isn't looked into: it leads to none of a server's hosts or addresses.
#[tokio::test]
async fn blind_tunnels() {
    let with = |facts: &Facts| {
        let config = facts.config().replace("workers = 1", "workers = 1\nunmatched = \"tunnel\"");
        let named = format!("https://login.test:{}/", issuer(facts).rsplit_once(':').unwrap().1);
        let config =
            config.replace(&format!("\"{API}\" = "), &format!("\"login.test\" = \"93.184.216.34\"\n\"{API}\" = "));
        config.replace(&facts.issuer, &named)
    };
    let stage = Stage::with(Default::default(), with).await;
    let doors = OwnDoors::open(&stage, None).await;
    for authority in ["login.test:443", "93.184.216.34:443", "[::ffff:93.184.216.34]:443"] {
        let mut wire = Wire::connect(doors.forward).await;
        wire.send(connect_head(&stage, authority)).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, &*answer.code()), (403, "host_not_allowed"), "{authority}: {answer:?}");
    }
    // The port is judged before anybody looks for a server.
    let mut wire = Wire::connect(doors.forward).await;
    wire.send(connect_head(&stage, "93.184.216.34:22")).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, &*answer.code()), (403, "host_not_allowed"), "{answer:?}");
    assert!(!answer.problem()["detail"].as_str().unwrap().contains("endpoint"), "{answer:?}");
    let mut wire = Wire::connect(doors.forward).await;
    // Many names may share one address of a content network.
    wire.send(connect_head(&stage, "anything.example:443")).await;
    assert_eq!(wire.answer().await.code(), "upstream_unreachable");
}
