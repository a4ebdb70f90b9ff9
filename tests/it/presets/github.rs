//! A GitHub App: a JWT of the app's for an installation's token, 201, an end by the calendar,
//! refusals without a challenge, git that wants Basic.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::*;

const TOKENS: &str = "/app/installations/51234567/access_tokens";

const APP: &str = r#"
[credentials.github]
preset = "github_app"
client_id = "Iv23liABCDEF"
installation_id = 51234567
key = { file = "FILES/github-app.key" }
api_url = "PROVIDER"
ca = "FILES/ca.pem"
repositories = ["cupbearer"]
permissions = { contents = "write", pull_requests = "write" }
hosts = ["AUTHORITY"]
"#;

const ROUTE: &str = r#"
[[routes]]
name = "github"
hosts = ["AUTHORITY"]
agents = ["researcher"]
credential = "github"
upstream_ca = "FILES/ca.pem"
danger_allow_private_addresses = ["127.0.0.0/8"]
"#;

/// In `seconds`, as GitHub writes it.
fn moment(seconds: u64) -> String {
    let at = i64::try_from(unix_now() + seconds).unwrap();
    OffsetDateTime::from_unix_timestamp(at).unwrap().format(&Rfc3339).unwrap()
}

/// What is documented of `POST …/access_tokens`.
fn installed(token: &str) -> Reply {
    let body = json!({
        "token": token,
        "expires_at": moment(3600),
        "permissions": { "contents": "write", "metadata": "read", "pull_requests": "write" },
        "repository_selection": "selected",
        "repositories": [{ "id": 1, "name": "cupbearer", "private": true }],
    });
    Reply::json(201, &body)
}

fn refused(status: u16, message: &str) -> Reply {
    let body = json!({
        "message": message, "documentation_url": "https://docs.github.com/rest", "status": status.to_string(),
    });
    Reply::json(status, &body)
}

async fn github(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Provider {
    let provider = Provider::start(script).await;
    provider.write("github-app.key", &pkcs1_pem());
    provider
}

/// The app's JWT, as GitHub judges it.
#[track_caller]
fn check_app(asked: &Seen, issuer: &str) {
    let (header, claims) = verified_without_audience(asked.bearer(), Algorithm::RS256);
    assert_eq!(header["alg"], "RS256");
    assert_eq!(claims["iss"], issuer);
    let (issued, ends, now) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap(), unix_now());
    assert!((50..=70).contains(&(now - issued)), "{} s back", now - issued);
    assert!(ends <= now + 600 && ends <= issued + 600, "too far in the future: {claims}");
}

#[tokio::test]
async fn an_installation_gets_a_token() {
    let provider = github(|_| installed("ghs_16C7e42F292c6912E7710c838347Ae178B4a")).await;
    let broker = provider.broker(APP);
    holds(&refresh(&broker, "github").await.unwrap(), "ghs_16C7e42F292c6912E7710c838347Ae178B4a", 3600);
    let asked = &provider.seen(TOKENS)[0];
    check_app(asked, "Iv23liABCDEF");
    assert_eq!(asked.method, Method::POST);
    assert_eq!(asked.header("accept"), "application/vnd.github+json");
    assert_eq!(asked.header("x-github-api-version"), "2022-11-28");
    assert!(asked.header("user-agent").starts_with("cupbearer/"), "GitHub refuses requests without");
    assert_eq!(asked.header("content-type"), "application/json");
    let wanted =
        json!({ "repositories": ["cupbearer"], "permissions": { "contents": "write", "pull_requests": "write" } });
    assert_eq!(serde_json::from_str::<Value>(&asked.body).unwrap(), wanted);
}

/// All that the app is installed in: no body, and its length says so.
#[tokio::test]
async fn an_installation_that_is_not_narrowed() {
    let provider = github(|seen| {
        if seen.header("content-length").is_empty() { Reply::text(411, "Length Required") } else { installed("ghs_1") }
    })
    .await;
    let app = APP.replace("client_id = \"Iv23liABCDEF\"", "app_id = 12345");
    let app: Vec<&str> =
        app.lines().filter(|line| !line.starts_with("repositories") && !line.starts_with("permissions")).collect();
    holds(&refresh(&provider.broker(&app.join("\n")), "github").await.unwrap(), "ghs_1", 3600);
    let asked = &provider.seen(TOKENS)[0];
    check_app(asked, "12345");
    assert_eq!((asked.header("content-length"), asked.body.as_str()), ("0", ""));
}

/// The new kind of token has a JWT in it, with dates of its own: they aren't ours to read.
#[tokio::test]
async fn a_stateless_token_is_no_jwt_of_ours() {
    let now = unix_now();
    let token = format!("ghs_12345_{}", unsigned(&json!({ "iat": now - 600, "exp": now - 1 })));
    let provider = github({
        let token = token.clone();
        move |_| installed(&token)
    })
    .await;
    holds(&refresh(&provider.broker(APP), "github").await.unwrap(), &token, 3600);
}

/// What GitHub says is told: it is the one who knows which permission is missing.
#[tokio::test]
async fn a_refusal_says_why() {
    for (status, message) in [
        (401, "A JSON web token could not be decoded"),
        (404, "Not Found"),
        (422, "The permissions requested are not granted to this installation."),
    ] {
        let provider = github(move |_| refused(status, message)).await;
        let error = refresh(&provider.broker(APP), "github").await.unwrap_err();
        assert_eq!((error.code(), error.retry_after), ("credential_failed", None));
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(provider.seen(TOKENS).len(), 1, "{status}");
    }
}

/// The API is where the tokens are: a 401 without a challenge gets another token, once.
#[tokio::test]
async fn a_revoked_token_is_replaced() {
    let provider = github(|seen| match (seen.path.as_str(), seen.header("authorization")) {
        (TOKENS, _) => installed(&format!("ghs_{}", seen.nth)),
        ("/gone", _) | (_, "Bearer ghs_0") => refused(401, "Bad credentials"),
        (_, "Bearer ghs_1") => Reply::json(200, &json!({ "full_name": "acme/cupbearer" })),
        _ => refused(404, "Not Found"),
    })
    .await;
    let stage = provider.stage(&format!("{APP}{ROUTE}")).await;
    let agent = stage.agent();
    let answer = agent.get(provider.url("/repos/acme/cupbearer")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().contains("acme/cupbearer"));
    assert_eq!((provider.seen(TOKENS).len(), provider.seen("/repos/acme/cupbearer").len()), (2, 2));
    // What is refused for another reason is the agent's to see, and buys no token.
    let answer = agent.get(provider.url("/gone")).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert!(answer.text().await.unwrap().contains("Bad credentials"));
    assert!(provider.seen(TOKENS).len() <= 3, "a token for each refusal");
}

/// git's own server takes no Bearer token.
#[tokio::test]
async fn git_gets_basic() {
    let provider = github(|seen| match seen.path.as_str() {
        TOKENS => installed("ghs_1"),
        _ if seen.basic() == "x-access-token:ghs_1" => Reply::text(200, "001e# service=git-upload-pack\n0000"),
        _ => Reply::text(401, ""),
    })
    .await;
    let git = APP.replace("hosts", "inject = { template = \"Basic b64(x-access-token:{token})\" }\nhosts");
    let stage = provider.stage(&format!("{git}{ROUTE}")).await;
    let url = provider.url("/acme/cupbearer.git/info/refs?service=git-upload-pack");
    assert_eq!(stage.agent().get(url).send().await.unwrap().status(), 200);
}
