//! Clients' certificates (RFC 8705), at the token endpoint and at the API.

use reqwest::Identity;

use crate::demo::{ClientCertificate, testing::builder};

use super::*;

const ID: &str = "certified";

async fn asking_world() -> World {
    World::start(WorldSettings { ask_client_certificates: true, ..WorldSettings::default() }).await.unwrap()
}

fn certified(method: AuthMethod, rules: Vec<CertificateRule>) -> Client {
    Client {
        id: ID.to_owned(),
        certificates: rules,
        auth_methods: vec![method],
        grants: vec![GrantType::ClientCredentials],
        audiences: vec![AUDIENCE.to_owned()],
        default_audience: Some(AUDIENCE.to_owned()),
        ..Client::default()
    }
}

fn showing(world: &World, certificate: &ClientCertificate) -> HttpClient {
    let pem = format!("{}{}", certificate.certificate_pem, certificate.key_pem.expose());
    builder(world).identity(Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap()
}

async fn ask(world: &World, client: &HttpClient) -> Response {
    token_post(world, client, &[GRANT, ("client_id", ID)]).send().await.unwrap()
}

async fn token(world: &World, client: &HttpClient) -> (String, Claims) {
    let answer: Value = ask(world, client).await.json().await.unwrap();
    assert_eq!(answer["token_type"], "Bearer");
    (answer["access_token"].as_str().unwrap().to_owned(), claims_of(&answer))
}

#[tokio::test]
async fn a_subject_of_the_root_proves_the_client() {
    let world = asking_world().await;
    let server = world.authorization_server();
    server.register(certified(AuthMethod::TlsClientAuth, vec![CertificateRule::Subject("CN=agent".to_owned())]));
    let good = world.client_certificate("agent").unwrap();
    let (_, claims) = token(&world, &showing(&world, &good)).await;
    assert_eq!((claims.cnf.x5t, claims.cnf.jkt), (Some(good.thumbprint.clone()), None));
    let seen = server.token_requests().pop().unwrap();
    assert_eq!((seen.auth_method, seen.certificate), (Some(AuthMethod::TlsClientAuth), Some(good.thumbprint)));

    let renewed = world.client_certificate("agent").unwrap();
    assert_eq!(ask(&world, &showing(&world, &renewed)).await.status(), 200, "any certificate of that subject");
    let bad = [world.client_certificate("other").unwrap(), world.self_signed_certificate("agent").unwrap()];
    for certificate in &bad {
        assert_eq!(
            error_of(ask(&world, &showing(&world, certificate)).await).await,
            (401, "invalid_client".to_owned())
        );
    }
    assert_eq!(error_of(ask(&world, &client(&world)).await).await.1, "invalid_client", "none is shown");
}

#[tokio::test]
async fn a_registered_certificate_proves_the_client_until_it_is_replaced() {
    let world = asking_world().await;
    let server = world.authorization_server();
    let [old, new] = ["old", "new"].map(|name| world.self_signed_certificate(name).unwrap());
    let [with_old, with_new] = [&old, &new].map(|certificate| showing(&world, certificate));
    let rule = |certificate: &ClientCertificate| CertificateRule::Thumbprint(certificate.thumbprint.clone());
    server.register(certified(AuthMethod::SelfSignedTlsClientAuth, vec![rule(&old)]));
    let status = async |client: &HttpClient| ask(&world, client).await.status().as_u16();
    assert_eq!((status(&with_old).await, status(&with_new).await), (200, 401));
    server.change_client(ID, |client| client.certificates.push(rule(&new))).unwrap();
    assert_eq!((status(&with_old).await, status(&with_new).await), (200, 200));
    server.rotate_certificate(ID, rule(&new)).unwrap();
    assert_eq!((status(&with_old).await, status(&with_new).await), (401, 200));
    assert_eq!(server.token_requests().pop().unwrap().auth_method, Some(AuthMethod::SelfSignedTlsClientAuth));
    server.change_client(ID, |client| client.auth_methods = vec![AuthMethod::TlsClientAuth]).unwrap();
    assert_eq!(status(&with_new).await, 401, "another method");
}

#[tokio::test]
async fn a_bound_token_is_good_on_connections_with_its_certificate_only() {
    let world = asking_world().await;
    let server = world.authorization_server();
    server.register(certified(AuthMethod::TlsClientAuth, vec![CertificateRule::Subject("CN=agent".to_owned())]));
    let (holder, other) = (world.client_certificate("agent").unwrap(), world.client_certificate("agent").unwrap());
    let with_holder = showing(&world, &holder);
    let (token, _) = token(&world, &with_holder).await;
    let show = async |client: &HttpClient| {
        let answer = client.get(world.api_url("/v1/whoami")).bearer_auth(&token).send().await.unwrap();
        let challenge = answer.headers().get(header::WWW_AUTHENTICATE).map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), challenge.unwrap_or_default())
    };
    assert_eq!(show(&with_holder).await.0, 200);
    assert_eq!(world.api().seen().pop().unwrap().certificate, Some(holder.thumbprint));
    let (status, challenge) = show(&showing(&world, &other)).await;
    assert!(status == 401 && challenge.contains("another certificate"), "{challenge}");
    let (status, challenge) = show(&client(&world)).await;
    assert!(status == 401 && challenge.contains("none is shown"), "{challenge}");
}

#[tokio::test]
async fn another_method_binds_tokens_where_the_client_is_registered_for_it() {
    let world = asking_world().await;
    let server = world.authorization_server();
    let certificate = world.self_signed_certificate("anything").unwrap();
    let with_certificate = showing(&world, &certificate);
    let answer: Value = post(&world, &with_certificate, &[GRANT, AUD]).await.json().await.unwrap();
    assert_eq!(claims_of(&answer).cnf.x5t, None);
    server.change_client(CLIENT_ID, |client| client.certificate_bound_tokens = true).unwrap();
    let answer: Value = post(&world, &with_certificate, &[GRANT, AUD]).await.json().await.unwrap();
    assert_eq!(claims_of(&answer).cnf.x5t, Some(certificate.thumbprint));
    let answer = post(&world, &client(&world), &[GRANT, AUD]).await;
    assert_eq!(error_of(answer).await, (400, "invalid_request".to_owned()));
}

#[tokio::test]
async fn with_aliases_a_certificate_is_seen_at_the_alias_only() {
    let world = asking_world().await;
    let server = world.authorization_server();
    assert_eq!(server.metadata().get("mtls_endpoint_aliases"), None);
    server.adjust(|knobs| knobs.mtls_aliases = true);
    server.register(certified(AuthMethod::TlsClientAuth, vec![CertificateRule::Subject("CN=agent".to_owned())]));
    let client = showing(&world, &world.client_certificate("agent").unwrap());
    assert_eq!(ask(&world, &client).await.status(), 401);
    let alias = server.metadata()["mtls_endpoint_aliases"]["token_endpoint"].as_str().unwrap().to_owned();
    assert_ne!(alias, server.token_endpoint());
    let answer = client.post(alias).form(&[GRANT, ("client_id", ID)]).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let at_alias: Vec<_> = server.token_requests().iter().map(|request| request.at_alias).collect();
    assert_eq!(at_alias, [false, true]);
}

/// As `demo` starts them: nobody is asked, so that no browser asks its user.
#[tokio::test]
async fn a_world_asks_for_certificates_only_if_told() {
    let (world, _) = world().await;
    world
        .authorization_server()
        .register(certified(AuthMethod::TlsClientAuth, vec![CertificateRule::Subject("CN=agent".to_owned())]));
    let client = showing(&world, &world.client_certificate("agent").unwrap());
    assert_eq!(ask(&world, &client).await.status(), 401);
    assert_eq!(world.authorization_server().token_requests()[0].certificate, None);
}
