//! Google: service accounts whose scopes stand in the JWT, tokens that are made here, the
//! metadata server of a machine.

use super::*;

const EMAIL: &str = "robot@project.iam.gserviceaccount.com";
const STORAGE: &str = "https://www.googleapis.com/auth/devstorage.read_only";

/// Google's own address is the audience, whoever answers for it here.
const ACCOUNT: &str = r#"
[authorization_servers.google]
token_endpoint = "PROVIDER/token"
ca = "FILES/ca.pem"

[credentials.storage]
preset = "google"
authorization_server = "google"
assertion = { jwt = { key = { file = "FILES/service-account.json" } } }
scopes = ["https://www.googleapis.com/auth/devstorage.read_only", "https://www.googleapis.com/auth/pubsub"]
hosts = ["storage.googleapis.com"]
"#;

const ROUTE: &str = r#"
[[routes]]
name = "pubsub"
hosts = ["AUTHORITY"]
agents = ["researcher"]
credential = "pubsub"
upstream_ca = "FILES/ca.pem"
danger_allow_private_addresses = ["127.0.0.0/8"]
"#;

async fn google(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Provider {
    let provider = Provider::start(script).await;
    let file = json!({
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "0123456789abcdef",
        "private_key": KEY.serialize_pem(),
        "client_email": EMAIL,
        "client_id": "103456789012345678901",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": "https://oauth2.googleapis.com/token",
        "universe_domain": "googleapis.com",
    });
    provider.write("service-account.json", &serde_json::to_string_pretty(&file).unwrap());
    provider
}

/// The file of the service account is all that is needed; nothing but grant and assertion is
/// sent. A token's dots say nothing about its life.
#[tokio::test]
async fn a_service_account_gets_a_token() {
    let token = format!("ya29.c.b0Aaekm1K{}", ".".repeat(60));
    let provider = google({
        let token = token.clone();
        move |_| Reply::json(200, &json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" }))
    })
    .await;
    holds(&refresh(&provider.broker(ACCOUNT), "storage").await.unwrap(), &token, 3599);
    let asked = &provider.seen("/token")[0];
    let form = asked.form();
    let names: Vec<&str> = form.keys().map(String::as_str).collect();
    assert_eq!(names, ["assertion", "grant_type"]);
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(asked.header("authorization"), "");
    let (header, claims) = verified(&form["assertion"], Algorithm::RS256, "https://oauth2.googleapis.com/token");
    assert_eq!(header, json!({ "alg": "RS256", "typ": "JWT", "kid": "0123456789abcdef" }));
    assert_eq!(claims["iss"], EMAIL);
    assert_eq!(claims["scope"], format!("{STORAGE} https://www.googleapis.com/auth/pubsub"));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    assert!(claims.get("sub").is_none(), "{claims}");
}

/// Domain-wide delegation: `sub` is the user.
#[tokio::test]
async fn a_service_account_speaks_for_a_user() {
    let provider = google(|seen| match seen.nth {
        0 => Reply::token("ya29.user"),
        _ => Reply::error(400, "invalid_grant", "Invalid email or User ID"),
    })
    .await;
    let config = ACCOUNT.replace("json\" } }", "json\" }, sub = \"user@example.com\" }");
    let broker = provider.broker(&config);
    holds(&refresh(&broker, "storage").await.unwrap(), "ya29.user", 3600);
    let (_, claims) = verified(
        &provider.seen("/token")[0].form()["assertion"],
        Algorithm::RS256,
        "https://oauth2.googleapis.com/token",
    );
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!(EMAIL), &json!("user@example.com")));
    let error = refresh(&broker, "storage").await.unwrap_err();
    assert!(error.to_string().contains("Invalid email or User ID"), "{error}");
}

/// No server is asked: the API itself takes the JWT, for an audience or for scopes.
#[tokio::test]
async fn a_self_signed_token_needs_no_server() {
    let provider = google(|_| Reply::json(200, &json!({ "topics": [] }))).await;
    let own = |claims: &str, scopes: &str| {
        format!(
            "[credentials.pubsub]\npreset = \"google\"\ngrant = \"self_signed_jwt\"\n\
             jwt = {{ key = {{ file = \"FILES/service-account.json\" }}, sub = \"{EMAIL}\"{claims} }}\n{scopes}\n\
             hosts = [\"AUTHORITY\"]\n{ROUTE}"
        )
    };
    let by_audience = own(", aud = \"https://pubsub.googleapis.com/\"", "");
    let by_scopes = own("", &format!("scopes = [\"{STORAGE}\"]"));
    for config in [by_audience, by_scopes] {
        let stage = provider.stage(&config).await;
        let answer = stage.agent().get(provider.url("/v1/projects/project/topics")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let seen = provider.all();
    assert_eq!(seen.len(), 2, "somebody else was asked: {seen:?}");
    let (header, claims) = verified(seen[0].bearer(), Algorithm::RS256, "https://pubsub.googleapis.com/");
    assert_eq!(header["kid"], "0123456789abcdef");
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!(EMAIL), &json!(EMAIL)));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    assert!(claims.get("scope").is_none(), "not both: {claims}");
    let (_, claims) = verified_without_audience(seen[1].bearer(), Algorithm::RS256);
    assert_eq!(claims["scope"], STORAGE);
    assert!(claims.get("aud").is_none(), "not both: {claims}");
}

/// The machine's own identity, in clear text on its own network; who doesn't ask as Google
/// wants it gets nothing.
#[tokio::test]
async fn a_metadata_server_gives_the_machines_token() {
    const PLACE: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
    let provider = Provider::in_clear_text(|seen| {
        if seen.header("metadata-flavor") != "Google" {
            return Reply::text(403, "<title>Error 403 (Forbidden)!!1</title>");
        }
        Reply::json(200, &json!({ "access_token": "ya29.machine", "expires_in": 3256, "token_type": "Bearer" }))
            .with("metadata-flavor", "Google")
    })
    .await;
    let config = format!(
        "[credentials.storage]\ngrant = \"metadata_server\"\nurl = \"PROVIDER{PLACE}\"\n\
         headers = {{ Metadata-Flavor = \"Google\" }}\nhosts = [\"storage.googleapis.com\"]\n"
    );
    holds(&refresh(&provider.broker(&config), "storage").await.unwrap(), "ya29.machine", 3256);
    let asked = &provider.seen(PLACE)[0];
    assert_eq!((&asked.method, asked.body.as_str(), asked.header("authorization")), (&Method::GET, "", ""));
    assert_eq!(asked.header("x-forwarded-for"), "", "it refuses what came through a proxy");

    let without: Vec<&str> = config.lines().filter(|line| !line.starts_with("headers")).collect();
    let error = refresh(&provider.broker(&without.join("\n")), "storage").await.unwrap_err();
    assert_eq!(error.code(), "credential_failed");
    assert!(error.to_string().contains("403"), "{error}");
}

/// A token for another service account, which is given by an API with its own names for things.
#[tokio::test]
async fn one_account_acts_as_another() {
    const GENERATE: &str = "/v1/projects/-/serviceAccounts/robot@project.iam.gserviceaccount.com:generateAccessToken";
    let provider = google(|seen| match seen.path.as_str() {
        "/token" => Reply::token("ya29.base"),
        _ => Reply::json(200, &json!({ "accessToken": "ya29.other", "expireTime": "2099-10-02T15:01:23Z" })),
    })
    .await;
    let config = format!(
        r#"{ACCOUNT}
[credentials.impersonated]
grant = "http"
url = "PROVIDER{GENERATE}"
ca = "FILES/ca.pem"
authorization = {{ credential = "storage" }}
json = {{ scope = ["{STORAGE}"], lifetime = "3600s" }}
answer = {{ token = "/accessToken", expires_at = "/expireTime" }}
hosts = ["storage.googleapis.com"]
"#
    );
    // No token is kept longer than 30 days, whatever its server says.
    holds(&refresh(&provider.broker(&config), "impersonated").await.unwrap(), "ya29.other", 30 * 24 * 3600);
    let asked = &provider.seen(GENERATE)[0];
    assert_eq!(asked.bearer(), "ya29.base");
    assert_eq!(serde_json::from_str::<Value>(&asked.body).unwrap(), json!({ "scope": [STORAGE], "lifetime": "3600s" }));
}

/// No key at all: another cloud's token for one of Google's, and that for a service account's.
#[tokio::test]
async fn another_clouds_token_becomes_googles() {
    const GENERATE: &str = "/v1/projects/-/serviceAccounts/robot@project.iam.gserviceaccount.com:generateAccessToken";
    const POOL: &str =
        "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/kubernetes";
    let provider = google(|seen| match seen.path.as_str() {
        "/v1/token" => {
            let body = json!({
                "access_token": "ya29.d.federated", "expires_in": 3600, "token_type": "Bearer",
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            });
            Reply::json(200, &body)
        }
        GENERATE => {
            let ends = time::OffsetDateTime::from_unix_timestamp(i64::try_from(unix_now() + 3600).unwrap()).unwrap();
            let ends = ends.format(&time::format_description::well_known::Rfc3339).unwrap();
            Reply::json(200, &json!({ "accessToken": "ya29.robot", "expireTime": ends }))
        }
        _ => Reply::nothing_here(),
    })
    .await;
    let projected = unsigned(&json!({ "sub": "system:serviceaccount:a:b" }));
    provider.write("projected", &projected);
    let config = format!(
        r#"
[authorization_servers.sts]
token_endpoint = "PROVIDER/v1/token"
ca = "FILES/ca.pem"

[credentials.storage]
preset = "google"
hosts = ["storage.googleapis.com"]

[[credentials.storage.steps]]
grant = "token_exchange"
authorization_server = "sts"
subject = {{ file = "FILES/projected", type = "urn:ietf:params:oauth:token-type:jwt" }}
requested_token_type = "urn:ietf:params:oauth:token-type:access_token"
audience = "{POOL}"
scopes = ["https://www.googleapis.com/auth/cloud-platform"]

[[credentials.storage.steps]]
grant = "http"
url = "PROVIDER{GENERATE}"
ca = "FILES/ca.pem"
authorization = {{ previous = true }}
json = {{ scope = ["{STORAGE}"] }}
answer = {{ token = "/accessToken", expires_at = "/expireTime", error = "/error/status", error_description = "/error/message" }}
"#
    );
    holds(&refresh(&provider.broker(&config), "storage").await.unwrap(), "ya29.robot", 3600);
    provider.seen("/v1/token")[0].asks([
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", &projected),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", POOL),
        ("scope", "https://www.googleapis.com/auth/cloud-platform"),
    ]);
    let asked = &provider.seen(GENERATE)[0];
    assert_eq!((asked.bearer(), asked.header("content-type")), ("ya29.d.federated", "application/json"));
}
