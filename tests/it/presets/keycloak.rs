//! Keycloak: audiences by mappers, the issuer alone as an assertion's audience, sessions that
//! end in 0 seconds and don't.

use super::*;

const TOKEN: &str = "/realms/work/protocol/openid-connect/token";

const SERVER: &str = "[authorization_servers.keycloak]\nissuer = \"PROVIDER/realms/work\"\nca = \"FILES/ca.pem\"\n";

const ORDERS: &str = r#"
[credentials.orders]
preset = "keycloak"
grant = "client_credentials"
authorization_server = "keycloak"
client_id = "orders-agent"
client_auth = { method = "client_secret_basic", secret = { file = "FILES/secret" } }
scopes = ["orders"]
hosts = ["orders.example.com"]
"#;

async fn realm(token: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Provider {
    let provider = Provider::start(move |seen| match seen.path.as_str() {
        "/realms/work/.well-known/openid-configuration" => metadata(seen, "/realms/work", &[("token_endpoint", TOKEN)]),
        TOKEN => token(seen),
        _ => Reply::json(404, &json!({ "error": "Unable to find matching target resource method" })),
    })
    .await;
    provider.write("secret", "s+c:r%t");
    provider.write("client.key", &KEY.serialize_pem());
    provider
}

fn granted(token: &str) -> Value {
    json!({
        "access_token": token, "expires_in": 300, "refresh_expires_in": 0, "token_type": "bearer",
        "not-before-policy": 0, "scope": "profile email orders",
    })
}

/// `token_type` in lower case, and more scopes than were asked for: the client's own.
#[tokio::test]
async fn a_service_account_gets_a_token() {
    let provider = realm(|_| Reply::json(200, &granted("at-1"))).await;
    let state = refresh(&provider.broker(&format!("{SERVER}{ORDERS}")), "orders").await.unwrap();
    holds(&state, "at-1", 300);
    assert_eq!(state.scope.as_deref(), Some("profile email orders"));
    let asked = &provider.seen(TOKEN)[0];
    asked.asks([("grant_type", "client_credentials"), ("scope", "orders")]);
    // It decodes what stands in Basic, as the RFC has it.
    assert_eq!(asked.basic(), "orders-agent:s%2Bc%3Ar%25t");
}

/// Newer releases take the issuer, and nothing else.
#[tokio::test]
async fn an_assertion_names_the_issuer_only() {
    let provider = realm(|_| Reply::json(200, &granted("at-1"))).await;
    let auth = ORDERS.lines().find(|line| line.starts_with("client_auth")).unwrap();
    let signed = "client_auth = { method = \"private_key_jwt\", key = { file = \"FILES/client.key\" } }";
    refresh(&provider.broker(&format!("{SERVER}{}", ORDERS.replace(auth, signed))), "orders").await.unwrap();
    let form = provider.seen(TOKEN)[0].form();
    let (_, claims) = verified(&form["client_assertion"], Algorithm::RS256, &provider.url("/realms/work"));
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!("orders-agent"), &json!("orders-agent")));
}

/// A wrong secret is `unauthorized_client` with a 401: the other one is tried.
#[tokio::test]
async fn a_secret_is_rotated() {
    let provider = realm(|seen| match seen.basic().as_str() {
        "orders-agent:new" => Reply::json(200, &granted("at-1")),
        _ => Reply::error(401, "unauthorized_client", "Invalid client or Invalid client credentials"),
    })
    .await;
    provider.write("next", "new");
    let both = ORDERS.replace("FILES/secret\" }", "FILES/secret\" }, next_secret = { file = \"FILES/next\" }");
    holds(&refresh(&provider.broker(&format!("{SERVER}{both}")), "orders").await.unwrap(), "at-1", 300);
    assert_eq!(provider.seen(TOKEN).len(), 2);
}

/// Standard token exchange: `audience` is a client's id.
#[tokio::test]
async fn an_exchange_names_a_client() {
    const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
    let provider = realm(|seen| {
        if seen.form()["grant_type"] != EXCHANGE {
            return Reply::json(200, &granted("at-orders"));
        }
        let mut body = granted("at-stock");
        body["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token".into();
        body["token_type"] = "Bearer".into();
        Reply::json(200, &body)
    })
    .await;
    let stock = r#"
[credentials.stock]
preset = "keycloak"
grant = "token_exchange"
authorization_server = "keycloak"
client_id = "orders-agent"
client_auth = { method = "client_secret_basic", secret = { file = "FILES/secret" } }
subject = { credential = "orders" }
audience = "stock"
hosts = ["stock.example.com"]
"#;
    let broker = provider.broker(&format!("{SERVER}{ORDERS}{stock}"));
    holds(&refresh(&broker, "stock").await.unwrap(), "at-stock", 300);
    provider.seen(TOKEN)[1].asks([
        ("grant_type", EXCHANGE),
        ("subject_token", "at-orders"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", "stock"),
    ]);
    let elsewhere = ORDERS.replace("scopes =", "audience = \"stock\"\nscopes =");
    let said = provider.problems(&format!("{SERVER}{elsewhere}"));
    assert!(said.contains("keycloak takes `audience` in a token exchange only"), "{said}");
}

const USER: &str = r#"
[credentials.user]
preset = "keycloak"
grant = "refresh_token"
authorization_server = "keycloak"
client_id = "my-app"
refresh_token = { file = "FILES/refresh-token" }
hosts = ["orders.example.com"]
"#;

/// With a refresh token that is good for so many seconds.
fn session(seconds: u64) -> Reply {
    let mut body = granted("at-1");
    body["refresh_token"] = "rt-1".into();
    body["refresh_expires_in"] = seconds.into();
    Reply::json(200, &body)
}

/// An offline session has no end; Keycloak writes that as 0 seconds.
#[tokio::test]
async fn an_offline_session_does_not_end() {
    let provider = realm(|seen| session(if seen.nth == 0 { 1800 } else { 0 })).await;
    provider.write("refresh-token", "rt-0");
    let broker = provider.broker(&format!("{SERVER}{USER}"));
    for ends in [true, false] {
        holds(&refresh(&broker, "user").await.unwrap(), "at-1", 300);
        let login = broker.login_state(&name("user")).await.unwrap().unwrap();
        assert_eq!((login.state, login.ends_at.is_some()), ("valid", ends));
    }
}

/// When a session ends is known wherever else the answer is looked at.
#[tokio::test]
async fn a_sessions_end_is_shown() {
    let provider = realm(|_| session(1800)).await;
    provider.write("refresh-token", "rt-0");
    let user = USER.replace("hosts", "answer = { extra = { policy = \"/not-before-policy\" } }\nhosts");
    let broker = provider.broker(&format!("{SERVER}{user}"));
    assert_eq!(refresh(&broker, "user").await.unwrap().extra["policy"], "0");
    let login = broker.login_state(&name("user")).await.unwrap().unwrap();
    let left = login.ends_at.unwrap() - unix_now();
    assert!((1700..=1800).contains(&left), "{left}");
}
