//! A client's secret, key or certificate is replaced at the authorization server while
//! traffic passes and tokens run out: no request fails. The config names the next one, which
//! is tried once where the server doesn't take the first, and remembered.

use std::time::Duration;

use cupbearer::{
    demo::{
        AuthorizationServerHandle, WorldSettings,
        authorization_server::{AuthMethod, CertificateRule, Client, GrantType, Outcome},
        jwt::{SigningAlgorithm, SigningKey},
        protected_api::{READ_ORDERS, WRITE_ORDERS},
        world::{AUDIENCE, CLIENT_ID},
    },
    primitives::Secret,
};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::binary::{LIMIT, Serve, Town, direct};

/// Of a token; renewed after half of it.
const LIFE: Duration = Duration::from_secs(5);
const BETWEEN_REQUESTS: Duration = Duration::from_millis(5);
/// Tokens got before the rotation, and after it.
const BEFORE: usize = 3;
const AFTER: usize = 3;

const CLIENT: &str = "rotating";

#[tokio::test]
async fn a_secret_is_replaced_under_load() {
    let auth = "method = \"client_secret_basic\", secret = { file = \"one\" }, next_secret = { file = \"two\" }";
    let town = town(auth).await;
    town.home.write("one", "the-first-secret");
    town.home.write("two", "the-second-secret");
    let secret = |text: &str| Secret::new(text.to_owned());
    let client = Client { secrets: vec![secret("the-first-secret")], ..client(AuthMethod::ClientSecretBasic) };
    town.world.authorization_server().register(client);
    let rotate = |server: &AuthorizationServerHandle| server.rotate_secret(CLIENT, secret("the-second-secret"));
    rotate_under_load(&town, "client_secret_basic", |server| rotate(server).unwrap()).await;
}

#[tokio::test]
async fn a_key_is_replaced_under_load() {
    let auth = "method = \"private_key_jwt\", key = { file = \"one\" }, next_key = { file = \"two\" }";
    let town = town(auth).await;
    let [one, two] = [SigningAlgorithm::Es256, SigningAlgorithm::Es384].map(|kind| SigningKey::generate(kind).unwrap());
    town.home.write("one", one.private_pem().expose());
    town.home.write("two", two.private_pem().expose());
    let client = Client { keys: vec![one.public().clone()], ..client(AuthMethod::PrivateKeyJwt) };
    town.world.authorization_server().register(client);
    let rotate = |server: &AuthorizationServerHandle| server.rotate_key(CLIENT, two.public().clone());
    rotate_under_load(&town, "private_key_jwt", |server| rotate(server).unwrap()).await;
    assert_eq!(town.world.authorization_server().repeated_assertions(), []);
}

/// Tokens are bound to the certificate that they were got with, and each goes with its own.
#[tokio::test]
async fn a_certificate_is_replaced_under_load() {
    let town = town(
        "method = \"tls_client_auth\", certificate = \"one.pem\", key = \"one.key\", \
         next_certificate = \"two.pem\", next_key = \"two.key\"",
    )
    .await;
    let mut thumbprints = Vec::new();
    for name in ["one", "two"] {
        let shown = town.world.client_certificate(name).unwrap();
        town.home.write(&format!("{name}.pem"), &shown.certificate_pem);
        town.home.write(&format!("{name}.key"), shown.key_pem.expose());
        thumbprints.push(shown.thumbprint);
    }
    let subject = |name: &str| CertificateRule::Subject(format!("CN={name}"));
    town.world.authorization_server().register(Client {
        certificates: vec![subject("one")],
        certificate_bound_tokens: true,
        ..client(AuthMethod::TlsClientAuth)
    });
    let rotate = |server: &AuthorizationServerHandle| server.rotate_certificate(CLIENT, subject("two"));
    rotate_under_load(&town, "tls_client_auth", |server| rotate(server).unwrap()).await;

    let seen = town.world.api().seen();
    let mut shown: Vec<String> = seen
        .iter()
        .map(|seen| {
            let bound = seen.claims.as_ref().and_then(|claims| claims.cnf.x5t.clone());
            assert!(bound.is_some() && bound == seen.certificate, "a token with another's certificate: {seen:?}");
            bound.unwrap()
        })
        .collect();
    shown.sort_unstable();
    shown.dedup();
    thumbprints.sort_unstable();
    assert_eq!(shown, thumbprints);
}

async fn town(client_auth: &str) -> Town {
    let world = WorldSettings { token_lifetime: LIFE, ask_client_certificates: true, ..WorldSettings::default() };
    Town::with(world, |facts| {
        let config = facts.config();
        let former = config.lines().find(|line| line.starts_with("client_auth")).unwrap();
        config.replace(former, &format!("client_auth = {{ {client_auth} }}")).replace(CLIENT_ID, CLIENT)
    })
    .await
}

fn client(method: AuthMethod) -> Client {
    Client {
        id: CLIENT.to_owned(),
        auth_methods: vec![method],
        grants: vec![GrantType::ClientCredentials],
        scopes: vec![READ_ORDERS.to_owned(), WRITE_ORDERS.to_owned()],
        audiences: vec![AUDIENCE.to_owned()],
        ..Client::default()
    }
}

async fn rotate_under_load(town: &Town, method: &str, rotate: impl FnOnce(&AuthorizationServerHandle)) {
    let server = town.world.authorization_server();
    let serve = town.serve().await;
    let (stop, stopped) = watch::channel(false);
    let mut load = tokio::spawn(load(town, &serve, stopped));
    let started = Instant::now();
    let rotated = async {
        timeout(LIMIT, wait_for_tokens(server, BEFORE)).await.expect("no tokens before the rotation");
        rotate(server);
        timeout(LIMIT, wait_for_tokens(server, BEFORE + AFTER)).await.expect("no tokens after the rotation");
    };
    tokio::select! {
        () = rotated => {}
        ended = &mut load => panic!("the load ended: {ended:?}"),
    }
    let took = started.elapsed();
    stop.send_replace(true);
    let served = timeout(LIMIT, load).await.unwrap().unwrap();
    serve.terminate().await.expect(0);

    // One question with what the server doesn't take any more; from then on the next one first.
    let refused = |request: &_| match request {
        Outcome::Granted(_) => false,
        Outcome::Refused { error: "invalid_client", .. } => true,
        other => panic!("{other:?}"),
    };
    let refusals: Vec<bool> = server.token_requests().iter().map(|request| refused(&request.outcome)).collect();
    let mut expected = vec![false; BEFORE];
    expected.push(true);
    expected.resize(refusals.len(), false);
    assert_eq!(refusals, expected, "{method}");
    assert!(refusals.len() > BEFORE + AFTER, "{method}");
    let records: Vec<_> = town.audit().into_iter().filter(|line| line.get("event").is_none()).collect();
    assert_eq!(records.len(), served, "{method}");
    let count = |name: &str, none: Value| records.iter().filter(|record| record[name] != none).count();
    let (waited, again) = (count("token_wait_us", 0.into()), count("retried", false.into()));
    let pace = served as f64 / took.as_secs_f64();
    eprintln!(
        "{method} replaced under {pace:.0} requests/s, {} tokens: {served} served, 0 failed, {waited} waited for a \
         token, {again} sent twice",
        refusals.len() - 1
    );
}

async fn wait_for_tokens(server: &AuthorizationServerHandle, count: usize) {
    let mut seen = 0;
    while server.token_requests().iter().filter(|request| request.granted().is_some()).count() < count {
        seen += 1;
        server.wait_for_token_requests(seen).await;
        tokio::task::yield_now().await;
    }
}

/// Sends 200 requests a second, whether or not those before were answered (up to a limit);
/// all of them are served. Gives their number.
fn load(town: &Town, serve: &Serve, stopped: watch::Receiver<bool>) -> impl Future<Output = usize> + use<> {
    let request = direct().get(format!("http://{}/v1/orders", serve.reverse)).bearer_auth(&town.key);
    async move {
        let places = std::sync::Arc::new(Semaphore::new(64));
        let mut pace = interval(BETWEEN_REQUESTS);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut answers = JoinSet::new();
        let mut served = 0;
        while !*stopped.borrow() {
            pace.tick().await;
            let place = places.clone().acquire_owned().await.unwrap();
            let request = request.try_clone().unwrap();
            answers.spawn(async move {
                let answer = request.send().await.expect("a request broke off");
                let status = answer.status();
                assert!(status.is_success(), "{status}: {:?}", answer.text().await);
                drop(place);
            });
            while let Some(answer) = answers.try_join_next() {
                answer.unwrap();
                served += 1;
            }
        }
        while let Some(answer) = answers.join_next().await {
            answer.unwrap();
            served += 1;
        }
        served
    }
}
