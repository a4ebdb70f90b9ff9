//! Logins through a browser: the authorization endpoint (RFC 6749 §4.1, RFC 9207) and codes with
//! their verifiers (RFC 7636).

use std::collections::BTreeMap;

use crate::demo::{NoncePolicy, testing::Prover};

use super::*;

const ID: &str = "app";
const REDIRECT: &str = "http://127.0.0.1/callback";
/// RFC 7636 app. B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn app() -> Client {
    Client {
        id: ID.to_owned(),
        auth_methods: vec![AuthMethod::Public],
        grants: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        scopes: ["openid", "read:orders", "write:orders"].map(str::to_owned).to_vec(),
        audiences: vec![AUDIENCE.to_owned()],
        default_audience: Some(AUDIENCE.to_owned()),
        redirect_uris: vec![REDIRECT.to_owned(), "https://app.test/back?a=b".to_owned()],
        ..Client::default()
    }
}

async fn world_with_app() -> (World, HttpClient) {
    let (world, client) = world().await;
    world.authorization_server().register(app());
    (world, client)
}

/// What a good authorization request says; `change` has other values, or `""` for none.
async fn authorize(world: &World, client: &HttpClient, change: &[(&str, &str)]) -> Response {
    let mut params = BTreeMap::from([
        ("response_type", "code"),
        ("client_id", ID),
        ("redirect_uri", REDIRECT),
        ("state", "a state"),
        ("scope", "openid read:orders"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]);
    params.extend(change.iter().copied());
    let pairs: Vec<_> = params.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let url = format!("{}?{}", world.authorization_server().authorization_endpoint(), form::encode(&pairs));
    client.get(url).send().await.unwrap()
}

/// The URL that the user is sent back to, and its parameters.
fn sent_back(answer: &Response) -> (String, BTreeMap<String, String>) {
    assert_eq!(answer.status(), 302);
    let location = answer.headers()[header::LOCATION].to_str().unwrap();
    let (url, query) = location.split_once('?').unwrap();
    (url.to_owned(), form::parse(query).unwrap().into_iter().collect())
}

async fn code(world: &World, client: &HttpClient, change: &[(&str, &str)]) -> String {
    sent_back(&authorize(world, client, change).await).1["code"].clone()
}

async fn redeem(world: &World, client: &HttpClient, code: &str, change: &[(&str, &str)]) -> Response {
    let mut params = BTreeMap::from([
        ("grant_type", "authorization_code"),
        ("client_id", ID),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ]);
    params.extend(change.iter().copied());
    token_post(world, client, &params.into_iter().collect::<Vec<_>>()).send().await.unwrap()
}

#[tokio::test]
async fn a_login_gives_a_code_and_the_code_gives_tokens() {
    let (world, client) = world_with_app().await;
    let server = world.authorization_server();
    let login = [("nonce", "n-1"), ("acr_values", "mfa pwd"), ("resource", AUDIENCE)];
    let (url, params) = sent_back(&authorize(&world, &client, &login).await);
    assert_eq!((url.as_str(), params["state"].as_str(), params["iss"].as_str()), (REDIRECT, "a state", world.issuer()));
    let answer: Value = redeem(&world, &client, &params["code"], &[]).await.json().await.unwrap();
    let claims = claims_of(&answer);
    assert_eq!(
        (claims.sub.as_str(), claims.client_id.as_str(), claims.scope.as_str()),
        (USER, ID, "openid read:orders")
    );
    assert_eq!((claims.acr.as_deref(), claims.aud), (Some("mfa"), vec![AUDIENCE.to_owned()]));
    assert!(claims.iat - claims.auth_time.unwrap() < 60);
    let id_token: Value =
        jsonwebtoken::dangerous::insecure_decode_claims(answer["id_token"].as_str().unwrap()).unwrap();
    assert_eq!((&id_token["aud"], &id_token["sub"], &id_token["nonce"]), (&json!(ID), &json!(USER), &json!("n-1")));
    assert_eq!(server.authorization_requests()[0].iter().find(|(name, _)| name == "nonce").unwrap().1, "n-1");

    let refresh = [
        ("grant_type", "refresh_token"),
        ("refresh_token", answer["refresh_token"].as_str().unwrap()),
        ("client_id", ID),
    ];
    let answer: Value = token_post(&world, &client, &refresh).send().await.unwrap().json().await.unwrap();
    let refreshed = claims_of(&answer);
    assert_eq!((refreshed.sub.as_str(), refreshed.acr.as_deref()), (USER, Some("mfa")));
    assert_eq!(refreshed.auth_time, claims.auth_time, "a refresh is no login");
    let id_token: Value =
        jsonwebtoken::dangerous::insecure_decode_claims(answer["id_token"].as_str().unwrap()).unwrap();
    assert_eq!(id_token.get("nonce"), None);

    server.change_client(ID, |client| client.grants = vec![GrantType::AuthorizationCode]).unwrap();
    let plain = code(&world, &client, &[("scope", "read:orders")]).await;
    let answer: Value = redeem(&world, &client, &plain, &[]).await.json().await.unwrap();
    assert_eq!((answer.get("refresh_token"), answer.get("id_token")), (None, None));
}

#[tokio::test]
async fn nobody_is_sent_to_a_place_that_is_not_registered() {
    let (world, client) = world_with_app().await;
    let good = ["http://127.0.0.1:53219/callback", "https://app.test/back?a=b"];
    for uri in good {
        let answer = authorize(&world, &client, &[("redirect_uri", uri)]).await;
        let location = answer.headers()[header::LOCATION].to_str().unwrap();
        assert!(location.starts_with(uri) && location.contains("code="), "{location}");
    }
    let bad = [
        ("redirect_uri", "http://127.0.0.1/other"),
        ("redirect_uri", "http://localhost/callback"),
        ("redirect_uri", "https://127.0.0.1/callback"),
        ("redirect_uri", "https://app.test:444/back?a=b"),
        ("redirect_uri", "https://evil.test/callback"),
        ("redirect_uri", ""),
        ("client_id", "nobody"),
        ("client_id", ""),
    ];
    for change in bad {
        let answer = authorize(&world, &client, &[change]).await;
        assert_eq!(answer.headers().get(header::LOCATION), None, "{change:?}");
        assert_eq!(error_of(answer).await, (400, "invalid_request".to_owned()), "{change:?}");
    }
}

#[tokio::test]
async fn a_request_without_proper_pkce_comes_back_with_an_error() {
    let (world, client) = world_with_app().await;
    let bad = [
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge", "too-short"), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("code_challenge_method", ""), "invalid_request"),
        (("response_type", "token"), "unsupported_response_type"),
        (("scope", "admin"), "invalid_scope"),
        (("resource", "https://other.test/"), "invalid_target"),
    ];
    for (change, error) in bad {
        let (_, params) = sent_back(&authorize(&world, &client, &[change]).await);
        assert_eq!((params["error"].as_str(), params.get("code")), (error, None), "{change:?}");
        assert_eq!((params["state"].as_str(), params["iss"].as_str()), ("a state", world.issuer()));
    }
    world.authorization_server().change_client(ID, |client| client.grants.clear()).unwrap();
    assert_eq!(sent_back(&authorize(&world, &client, &[]).await).1["error"], "unauthorized_client");
}

#[tokio::test]
async fn a_code_needs_its_verifier_its_client_and_its_redirect_uri() {
    let (world, client) = world_with_app().await;
    world.authorization_server().register(Client { id: "other".to_owned(), ..app() });
    let bad = [
        ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXK"),
        ("code_verifier", ""),
        ("redirect_uri", "http://127.0.0.1:1/callback"),
        ("redirect_uri", ""),
        ("client_id", "other"),
        ("code", "made-up"),
    ];
    for change in bad {
        let code = code(&world, &client, &[]).await;
        let answer = redeem(&world, &client, &code, &[change]).await;
        assert_eq!(error_of(answer).await, (400, "invalid_grant".to_owned()), "{change:?}");
    }
    let missing = redeem(&world, &client, "", &[]).await;
    assert_eq!(error_of(missing).await.1, "invalid_request");
}

#[tokio::test]
async fn a_code_that_is_used_again_ends_the_login() {
    let (world, client) = world_with_app().await;
    let server = world.authorization_server();
    let code = code(&world, &client, &[]).await;
    assert_eq!(redeem(&world, &client, &code, &[]).await.status(), 200);
    assert_eq!(server.revoked_families(), []);
    assert_eq!(error_of(redeem(&world, &client, &code, &[]).await).await.1, "invalid_grant");
    assert_eq!(server.revoked_families(), [RevokedFamily { client_id: ID.to_owned(), cause: Cause::CodeReuse }]);
}

#[tokio::test]
async fn the_way_back_can_be_bent() {
    let (world, client) = world_with_app().await;
    let server = world.authorization_server();
    let bent = async |change: &dyn Fn(&mut AuthorizeKnobs)| {
        server.adjust(|knobs| {
            knobs.authorize = AuthorizeKnobs::default();
            change(&mut knobs.authorize);
        });
        sent_back(&authorize(&world, &client, &[]).await).1
    };
    let params = bent(&|knobs| knobs.deny = true).await;
    assert_eq!((params["error"].as_str(), params.get("code")), ("access_denied", None));
    let params = bent(&|knobs| knobs.iss = Returned::Wrong("https://evil.test".to_owned())).await;
    assert_eq!((params["iss"].as_str(), params["state"].as_str()), ("https://evil.test", "a state"));
    assert_eq!(bent(&|knobs| knobs.iss = Returned::Missing).await.get("iss"), None);
    assert_eq!(bent(&|knobs| knobs.state = Returned::Missing).await.get("state"), None);
    assert_eq!(bent(&|knobs| knobs.state = Returned::Wrong("x".to_owned())).await["state"], "x");
    bent(&|knobs| knobs.promises_iss = false).await;
    assert_eq!(server.metadata()["authorization_response_iss_parameter_supported"], false);
}

/// RFC 9449 §5, §10: what a public client gets is bound to its key from the code on.
#[tokio::test]
async fn a_public_client_s_tokens_are_bound_to_its_dpop_key() {
    let (world, client) = world_with_app().await;
    let server = world.authorization_server();
    server.set_dpop_nonces(NoncePolicy::Off);
    let (prover, thief) = (Prover::new(), Prover::new());
    let send = async |prover: Option<&Prover>, params: &[(&str, &str)]| {
        let mut request = token_post(&world, &client, params);
        if let Some(prover) = prover {
            request = request.header("DPoP", prover.proof("POST", server.token_endpoint(), None));
        }
        request.send().await.unwrap()
    };
    let bound = [("dpop_jkt", prover.thumbprint())];
    let bound: Vec<_> = bound.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (holder, expected) in [(None, 400), (Some(&thief), 400), (Some(&prover), 200)] {
        let code = code(&world, &client, &bound).await;
        let params = [
            ("grant_type", "authorization_code"),
            ("client_id", ID),
            ("code", &code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        let answer = send(holder, &params).await;
        assert_eq!(answer.status(), expected);
        if expected == 200 {
            let answer: Value = answer.json().await.unwrap();
            let token = answer["refresh_token"].as_str().unwrap().to_owned();
            let refresh = [("grant_type", "refresh_token"), ("refresh_token", &token), ("client_id", ID)];
            for thief in [None, Some(&thief)] {
                assert_eq!(error_of(send(thief, &refresh).await).await.1, "invalid_grant");
            }
            let answer: Value = send(Some(&prover), &refresh).await.json().await.unwrap();
            assert_eq!(claims_of(&answer).cnf.jkt, Some(prover.thumbprint()));
        }
    }
}
