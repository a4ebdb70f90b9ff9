//! Auth0: refusals by statuses that no RFC names, quotas, one refresh token for many APIs,
//! the Token Vault.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use cupbearer::credential::login::{Options, Page, Prompt, UserCode};

use super::*;

const TOKEN: &str = "/oauth/token";

const SERVER: &str = "[authorization_servers.auth0]\nissuer = \"PROVIDER/\"\nca = \"FILES/ca.pem\"\n";

const ORDERS: &str = r#"
[credentials.orders]
preset = "auth0"
grant = "client_credentials"
authorization_server = "auth0"
client_id = "vJ0GPDLVgvV4qqg9wRHVEnHdnnH8n6UV"
client_auth = { method = "client_secret_basic", secret = { file = "FILES/secret" } }
audience = "https://orders.example.com"
scopes = ["read:orders"]
hosts = ["orders.example.com"]
"#;

/// A refresh token that somebody handed us, and an API that it serves too.
const USER: &str = r#"
[credentials.user]
preset = "auth0"
grant = "refresh_token"
authorization_server = "auth0"
client_id = "my-app"
refresh_token = { file = "FILES/refresh-token" }
audience = "https://orders.example.com"
hosts = ["orders.example.com"]
"#;

const HOURLY: &str = "b=per_hour;q=10;r=7;t=3540,b=per_day;q=50;r=47;t=43200";

/// A tenant whose token endpoint answers so.
async fn tenant(token: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Provider {
    let provider = Provider::start(move |seen| match seen.path.as_str() {
        "/.well-known/openid-configuration" => metadata(
            seen,
            "/",
            &[
                ("token_endpoint", TOKEN),
                ("authorization_endpoint", "/authorize"),
                ("device_authorization_endpoint", "/oauth/device/code"),
                ("backchannel_authentication_endpoint", "/bc-authorize"),
            ],
        ),
        TOKEN | "/oauth/device/code" | "/bc-authorize" => token(seen),
        _ => Reply::nothing_here(),
    })
    .await;
    provider.write("secret", "p%+:/=~ ä\n");
    provider.write("refresh-token", "v1.first\n");
    provider.write("client.key", &KEY.serialize_pem());
    provider
}

fn granted(token: &str) -> Value {
    json!({ "access_token": token, "token_type": "Bearer", "expires_in": 86400 })
}

/// Basic is the two put together as they are; the API is named by `audience`; what is left of
/// the quota is shown.
#[tokio::test]
async fn a_machine_gets_a_token() {
    let provider = tenant(|_| {
        let mut body = granted("at-1");
        body["scope"] = "read:orders".into();
        Reply::json(200, &body)
            .with("auth0-client-quota-limit", HOURLY)
            .with("x-ratelimit-limit", "30")
            .with("x-ratelimit-remaining", "29")
            .with("x-ratelimit-reset", "1800000000")
    })
    .await;
    let config = ORDERS.replace("scopes", "params = { organization = \"org_1\" }\nscopes");
    let broker = provider.broker(&format!("{SERVER}{config}"));
    let state = refresh(&broker, "orders").await.unwrap();
    holds(&state, "at-1", 86400);
    let quota = state.quota.as_deref().unwrap();
    assert!(quota.contains(&format!("auth0-client-quota-limit: {HOURLY}")), "{quota}");
    assert!(quota.contains("x-ratelimit-remaining: 29"), "{quota}");
    let asked = &provider.seen(TOKEN)[0];
    asked.asks([
        ("grant_type", "client_credentials"),
        ("audience", "https://orders.example.com"),
        ("scope", "read:orders"),
        ("organization", "org_1"),
    ]);
    assert_eq!(asked.basic(), "vJ0GPDLVgvV4qqg9wRHVEnHdnnH8n6UV:p%+:/=~ ä");
}

/// JSON is taken too, with the secret in it.
#[tokio::test]
async fn a_machine_may_ask_in_json() {
    let provider = tenant(|_| Reply::json(200, &granted("at-1"))).await;
    let config =
        ORDERS.replace("client_secret_basic", "client_secret_post").replace("scopes", "body = \"json\"\nscopes");
    holds(&refresh(&provider.broker(&format!("{SERVER}{config}")), "orders").await.unwrap(), "at-1", 86400);
    let asked = &provider.seen(TOKEN)[0];
    assert_eq!(asked.header("content-type"), "application/json");
    let wanted = json!({
        "grant_type": "client_credentials",
        "client_id": "vJ0GPDLVgvV4qqg9wRHVEnHdnnH8n6UV",
        "client_secret": "p%+:/=~ ä",
        "audience": "https://orders.example.com",
        "scope": "read:orders",
    });
    assert_eq!(serde_json::from_str::<Value>(&asked.body).unwrap(), wanted);
}

/// Tokens are counted: past the quota nobody asks before the server says so, and a token that
/// is good stays in use.
#[tokio::test]
async fn a_quota_that_is_used_up_is_waited_for() {
    const SPENT: &str = "b=per_hour;q=10;r=0;t=3540";
    let provider = tenant(|seen| match seen.nth {
        0 => Reply::json(200, &granted("at-1")).with("auth0-client-quota-limit", HOURLY),
        _ => Reply::error(429, "too_many_requests", "Client quota exceeded")
            .with("retry-after", "1770")
            .with("auth0-client-quota-limit", SPENT),
    })
    .await;
    let broker = provider.broker(&format!("{SERVER}{ORDERS}"));
    let first = refresh(&broker, "orders").await.unwrap();
    let error = refresh(&broker, "orders").await.unwrap_err();
    assert_eq!(error.code(), "credential_unavailable");
    let wait = error.retry_after.unwrap().as_secs();
    assert!((1770..2000).contains(&wait), "{wait}");
    assert!(error.to_string().contains("Client quota exceeded"), "{error}");
    let state = state(&broker, "orders");
    assert_eq!(state.fingerprint, first.fingerprint, "the token is good, and gone");
    assert!(state.expires_in_seconds.unwrap() > 86000, "{state:?}");
    assert_eq!(state.quota.as_deref(), Some(&*format!("auth0-client-quota-limit: {SPENT}")));
    assert!(state.next_attempt_in_seconds.unwrap() > 1700, "{state:?}");
    assert_eq!(provider.seen(TOKEN).len(), 2, "asked again at once");
}

/// The tenant's own limit is said in text, and its end in unix time.
#[tokio::test]
async fn a_rate_limit_is_waited_for() {
    let provider = tenant(|_| {
        Reply::text(
            429,
            "Too many requests. Check the X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset headers.",
        )
        .with("x-ratelimit-limit", "30")
        .with("x-ratelimit-remaining", "0")
        .with("x-ratelimit-reset", (unix_now() + 90).to_string())
    })
    .await;
    let error = refresh(&provider.broker(&format!("{SERVER}{ORDERS}")), "orders").await.unwrap_err();
    assert_eq!(error.code(), "credential_unavailable");
    let wait = error.retry_after.unwrap().as_secs();
    assert!((60..100).contains(&wait), "{wait}");
    assert_eq!(provider.seen(TOKEN).len(), 1);
}

/// A wrong secret is 401 `access_denied`: the other one is tried, and remembered.
#[tokio::test]
async fn a_secret_is_rotated() {
    let provider = tenant(|seen| match seen.basic().rsplit(':').next() {
        Some("new") => Reply::json(200, &granted("at-1")),
        _ => Reply::error(401, "access_denied", "Unauthorized"),
    })
    .await;
    provider.write("secret", "old");
    provider.write("next", "new");
    let both = ORDERS.replace("FILES/secret\" }", "FILES/secret\" }, next_secret = { file = \"FILES/next\" }");
    let broker = provider.broker(&format!("{SERVER}{both}"));
    holds(&refresh(&broker, "orders").await.unwrap(), "at-1", 86400);
    assert_eq!(provider.seen(TOKEN).len(), 2);
    refresh(&broker, "orders").await.unwrap();
    assert_eq!(provider.seen(TOKEN).len(), 3, "the good one is remembered");

    let broker = provider.broker(&format!("{SERVER}{ORDERS}"));
    let error = refresh(&broker, "orders").await.unwrap_err();
    assert_eq!((error.code(), error.retry_after), ("credential_failed", None));
    assert!(error.to_string().contains("Unauthorized"), "{error}");
    assert_eq!(provider.seen(TOKEN).len(), 4);
}

/// 403s are about what the client may do, not about its secret.
#[tokio::test]
async fn a_client_that_may_not_is_told_why() {
    for (code, description, hint) in [
        ("access_denied", "Client is not authorized to access \"https://orders.example.com\".", "audience"),
        ("unauthorized_client", "Grant type 'client_credentials' not allowed for the client.", "allow this grant"),
    ] {
        let provider = tenant(move |_| Reply::error(403, code, description)).await;
        provider.write("next", "new");
        let both = ORDERS.replace("FILES/secret\" }", "FILES/secret\" }, next_secret = { file = \"FILES/next\" }");
        let error = refresh(&provider.broker(&format!("{SERVER}{both}")), "orders").await.unwrap_err();
        assert_eq!((error.code(), error.retry_after), ("credential_failed", None));
        assert!(error.to_string().contains(description), "{error}");
        assert!(error.hint().as_str().contains(hint), "{}", error.hint());
        assert_eq!(provider.seen(TOKEN).len(), 1, "{code}: asked again");
    }
}

/// The tenant's limits of an assertion: the issuer with its slash, five minutes, 2048 bytes,
/// an id of 64 characters, RS256.
#[tokio::test]
async fn a_machine_signs() {
    let provider = tenant(|_| Reply::json(200, &granted("at-1"))).await;
    let auth = "{ method = \"private_key_jwt\", key = { file = \"FILES/client.key\" }, key_id = \"k1\" }";
    let start = ORDERS.find("{ method").unwrap();
    let config = ORDERS.replace(ORDERS[start..].lines().next().unwrap(), auth);
    let broker = provider.broker(&format!("{SERVER}{config}"));
    for _ in 0..2 {
        refresh(&broker, "orders").await.unwrap();
    }
    let ids: Vec<Value> = provider
        .seen(TOKEN)
        .iter()
        .map(|asked| {
            let form = asked.form();
            assert_eq!(form["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
            assert_eq!(asked.header("authorization"), "");
            let assertion = &form["client_assertion"];
            assert!(assertion.len() <= 2048, "{} bytes", assertion.len());
            let (header, claims) = verified(assertion, Algorithm::RS256, &provider.url("/"));
            assert_eq!(header, json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }));
            assert_eq!((&claims["iss"], &claims["sub"]), (&claims["sub"], &json!("vJ0GPDLVgvV4qqg9wRHVEnHdnnH8n6UV")));
            assert!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap() <= 300, "{claims}");
            assert!(claims["jti"].as_str().unwrap().len() <= 64, "{claims}");
            claims["jti"].clone()
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
}

/// A refresh token that isn't taken any more is 403, and needs a human: nobody sends it again.
#[tokio::test]
async fn a_refused_refresh_token_wants_a_login() {
    let provider = tenant(|_| Reply::error(403, "invalid_grant", "Unknown or invalid refresh token.")).await;
    let broker = provider.broker(&format!("{SERVER}{USER}"));
    for _ in 0..2 {
        let error = refresh(&broker, "user").await.unwrap_err();
        assert_eq!((error.code(), error.wants_a_human()), ("login_required", true), "{error}");
        assert!(error.hint().as_str().contains("cupbearer login user"), "{}", error.hint());
    }
    provider.seen(TOKEN)[0].asks([
        ("grant_type", "refresh_token"),
        ("client_id", "my-app"),
        ("refresh_token", "v1.first"),
        ("audience", "https://orders.example.com"),
    ]);
    assert_eq!(provider.seen(TOKEN).len(), 1);
}

/// Multi-resource refresh tokens: one login, an access token for each API with its own scopes;
/// whoever asks first, what was rotated is used next.
#[tokio::test]
async fn one_refresh_token_serves_many_apis() {
    let expected = Mutex::new("v1.first".to_owned());
    let provider = tenant(move |seen| {
        let (form, mut expected) = (seen.form(), expected.lock().unwrap());
        if form["refresh_token"] != *expected {
            return Reply::error(403, "invalid_grant", "Unknown or invalid refresh token.");
        }
        *expected = format!("v1.{}", seen.nth);
        let api = form["audience"].trim_start_matches("https://");
        let mut body = granted(&format!("for {api}").replace(' ', "-"));
        body["refresh_token"] = expected.as_str().into();
        body["scope"] = form.get("scope").map_or("read:orders offline_access", String::as_str).into();
        Reply::json(200, &body)
    })
    .await;
    let invoices = r#"
[credentials.invoices]
preset = "auth0"
grant = "refresh_token"
authorization_server = "auth0"
client_id = "my-app"
refresh_token = { credential = "user" }
audience = "https://invoices.example.com"
scopes = ["read:invoices"]
hosts = ["invoices.example.com"]
"#;
    let broker = provider.broker(&format!("{SERVER}{USER}{invoices}"));
    for credential in ["invoices", "user", "invoices"] {
        let api = if credential == "user" { "orders" } else { "invoices" };
        holds(&refresh(&broker, credential).await.unwrap(), &format!("for-{api}.example.com"), 86400);
    }
    let asked = provider.seen(TOKEN);
    asked[2].asks([
        ("grant_type", "refresh_token"),
        ("client_id", "my-app"),
        ("refresh_token", "v1.1"),
        ("audience", "https://invoices.example.com"),
        ("scope", "read:invoices"),
    ]);
    assert!(!asked[1].form().contains_key("scope"), "a login's own scopes stay as they are");
}

/// The user's refresh token for a token of a third party; the grant is Auth0's own.
#[tokio::test]
async fn the_token_vault_gives_a_third_partys_token() {
    const VAULT: &str = "urn:auth0:params:oauth:grant-type:token-exchange:federated-connection-access-token";
    const WANTED: &str = "http://auth0.com/oauth/token-type/federated-connection-access-token";
    let provider = tenant(|seen| match seen.form()["grant_type"].as_str() {
        "refresh_token" => Reply::json(200, &granted("at-user")),
        VAULT => Reply::json(
            200,
            &json!({
                "access_token": "ya29.google", "scope": "https://www.googleapis.com/auth/calendar.readonly",
                "expires_in": 1377, "issued_token_type": WANTED, "token_type": "Bearer",
            }),
        ),
        _ => Reply::error(403, "unauthorized_client", "Grant type not allowed for the client."),
    })
    .await;
    let vault = format!(
        r#"
[credentials.calendar]
preset = "auth0"
grant = "token_exchange"
authorization_server = "auth0"
client_id = "vault-client"
client_auth = {{ method = "client_secret_post", secret = {{ file = "FILES/secret" }} }}
grant_type = "{VAULT}"
subject = {{ credential = "user", token = "refresh_token" }}
requested_token_type = "{WANTED}"
params = {{ connection = "google-oauth2", login_hint = "1234" }}
hosts = ["www.googleapis.com"]
"#
    );
    let broker = provider.broker(&format!("{SERVER}{USER}{vault}"));
    let state = refresh(&broker, "calendar").await.unwrap();
    holds(&state, "ya29.google", 1377);
    assert_eq!(state.scope.as_deref(), Some("https://www.googleapis.com/auth/calendar.readonly"));
    provider.seen(TOKEN)[1].asks([
        ("grant_type", VAULT),
        ("client_id", "vault-client"),
        ("client_secret", "p%+:/=~ ä"),
        ("subject_token", "v1.first"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:refresh_token"),
        ("requested_token_type", WANTED),
        ("connection", "google-oauth2"),
        ("login_hint", "1234"),
    ]);
}

/// A JWT that is made here speaks for the user.
#[tokio::test]
async fn a_privileged_worker_signs_for_a_user() {
    const WANTED: &str = "http://auth0.com/oauth/token-type/token-vault-access-token";
    let provider = tenant(|_| {
        let mut body = granted("xoxb-slack");
        body["issued_token_type"] = WANTED.into();
        Reply::json(200, &body)
    })
    .await;
    let worker = format!(
        r#"
[credentials.worker]
preset = "auth0"
grant = "token_exchange"
authorization_server = "auth0"
client_id = "worker-client"
client_auth = {{ method = "private_key_jwt", key = {{ file = "FILES/client.key" }} }}
grant_type = "urn:auth0:params:oauth:grant-type:token-exchange:federated-connection-access-token"
requested_token_type = "{WANTED}"
params = {{ connection = "slack" }}
hosts = ["slack.com"]

[credentials.worker.subject.jwt]
key = {{ file = "FILES/client.key" }}
typ = "token-vault-req+jwt"
sub = "auth0|507f1f77bcf86cd799439020"
claims = {{ audit_context = "nightly report", org_id = "org_1" }}
"#
    );
    holds(&refresh(&provider.broker(&format!("{SERVER}{worker}")), "worker").await.unwrap(), "xoxb-slack", 86400);
    let form = provider.seen(TOKEN)[0].form();
    assert_eq!(form["subject_token_type"], "urn:ietf:params:oauth:token-type:jwt");
    assert_eq!((form["connection"].as_str(), form["requested_token_type"].as_str()), ("slack", WANTED));
    let (header, claims) = verified(&form["subject_token"], Algorithm::RS256, &provider.url("/"));
    assert_eq!(header["typ"], "token-vault-req+jwt");
    for (claim, wanted) in [
        ("iss", "worker-client"),
        ("sub", "auth0|507f1f77bcf86cd799439020"),
        ("audit_context", "nightly report"),
        ("org_id", "org_1"),
    ] {
        assert_eq!(claims[claim], wanted, "{claim}");
    }
    assert!(unix_now() - claims["iat"].as_u64().unwrap() <= 60 && claims["jti"].is_string(), "{claims}");
    let (_, client) = verified(&form["client_assertion"], Algorithm::RS256, &provider.url("/"));
    assert_ne!(client["jti"], claims["jti"], "two assertions");
}

/// A human on another device: not yet is 403, too fast is 429.
#[tokio::test]
async fn a_human_logs_in_on_another_device() {
    struct Shown(AtomicBool);
    impl Prompt for Shown {
        fn browse(&self, _page: &Page) {
            panic!("no browser was asked for");
        }

        fn enter(&self, code: &UserCode) {
            assert_eq!(code.code, "BDJC-MHMP");
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let provider = tenant(|seen| {
        if seen.path == "/oauth/device/code" {
            let page = format!("{}/activate", seen.base);
            let body = json!({
                "device_code": "Ag_EE...ko1p", "user_code": "BDJC-MHMP", "verification_uri": page,
                "verification_uri_complete": format!("{page}?user_code=BDJC-MHMP"), "expires_in": 900, "interval": 1,
            });
            return Reply::json(200, &body);
        }
        match seen.nth {
            0 => Reply::error(403, "authorization_pending", "User has yet to authorize device code."),
            1 => Reply::error(429, "slow_down", "You are polling faster than the specified interval of 5 seconds."),
            _ => {
                let mut body = granted("at-user");
                body["refresh_token"] = "v1.device".into();
                body["id_token"] = unsigned(&json!({ "sub": "auth0|1" })).into();
                body["scope"] = "openid offline_access read:orders".into();
                Reply::json(200, &body)
            }
        }
    })
    .await;
    let user = USER.replace("grant = \"refresh_token\"", "grant = \"device_code\"").replace(
        "refresh_token = { file = \"FILES/refresh-token\" }",
        "scopes = [\"openid\", \"offline_access\", \"read:orders\"]",
    );
    let broker = provider.broker(&format!("{SERVER}{user}"));
    let shown = Shown(AtomicBool::new(false));
    broker.log_in(&name("user"), &Options::default(), &shown).await.unwrap();
    assert!(shown.0.into_inner());
    provider.seen("/oauth/device/code")[0].asks([
        ("client_id", "my-app"),
        ("scope", "openid offline_access read:orders"),
        ("audience", "https://orders.example.com"),
    ]);
    let asked = provider.seen(TOKEN);
    assert_eq!(asked.len(), 3);
    let form = asked[0].form();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:device_code");
    assert_eq!((form["device_code"].as_str(), form["client_id"].as_str()), ("Ag_EE...ko1p", "my-app"));
    holds(&refresh(&broker, "user").await.unwrap(), "at-user", 86400);
    assert_eq!(provider.seen(TOKEN)[3].form()["refresh_token"], "v1.device");
}

/// A human approves on a phone: who it is goes as JSON in a text, what for in words that every
/// phone shows.
#[tokio::test]
async fn a_human_approves_on_a_phone() {
    let provider = tenant(|seen| {
        if seen.path == "/bc-authorize" {
            return Reply::json(200, &json!({ "auth_req_id": "eyJhbGci.1", "expires_in": 300, "interval": 1 }));
        }
        match seen.nth {
            0 => Reply::error(400, "authorization_pending", "The end-user authorization is pending"),
            _ => Reply::json(200, &granted("at-approved")),
        }
    })
    .await;
    let hint = |base: &str| format!(r#"{{"format":"iss_sub","iss":"{base}/","sub":"auth0|507f1f77"}}"#);
    let payments = format!(
        r#"
[credentials.payments]
preset = "auth0"
grant = "ciba"
authorization_server = "auth0"
client_id = "payments-agent"
client_auth = {{ method = "client_secret_post", secret = {{ file = "FILES/secret" }} }}
login_hint = '{}'
binding_message = "Order 17: pay"
requested_expiry = "5m"
scopes = ["openid", "pay"]
audience = "https://payments.example.com"
hosts = ["payments.example.com"]
"#,
        hint("PROVIDER")
    );
    let broker = provider.broker(&format!("{SERVER}{payments}"));
    holds(&refresh(&broker, "payments").await.unwrap(), "at-approved", 86400);
    provider.seen("/bc-authorize")[0].asks([
        ("client_id", "payments-agent"),
        ("client_secret", "p%+:/=~ ä"),
        ("login_hint", &hint(&provider.base)),
        ("binding_message", "Order 17: pay"),
        ("requested_expiry", "300"),
        ("scope", "openid pay"),
        ("audience", "https://payments.example.com"),
    ]);
    let asked = provider.seen(TOKEN);
    assert_eq!(asked.len(), 2);
    let form = asked[1].form();
    assert_eq!(form["grant_type"], "urn:openid:params:grant-type:ciba");
    assert_eq!((form["auth_req_id"].as_str(), form["client_id"].as_str()), ("eyJhbGci.1", "payments-agent"));
}
