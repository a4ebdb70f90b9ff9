//! Salesforce: a JWT for three minutes, an answer that doesn't say how long its token lives
//! but where its API is, and refusals of its own making.

use super::*;

const TOKEN: &str = "/services/oauth2/token";
const ACCOUNTS: &str = "/services/data/v62.0/sobjects/Account";
/// With the `!` that theirs have.
const SESSION: &str =
    "00Dx0000000BV7z!AR8AQP0jITN80ESEsj5EbaZTFG0RNBaT1cyWk7TrqoDjoNIWQ2ME_sTZzBjfmOE6zMHq6y8PIW4eWze9JksNEkWUl.Cju7m4";

const CONFIG: &str = r#"
[authorization_servers.salesforce]
token_endpoint = "PROVIDER/services/oauth2/token"
ca = "FILES/ca.pem"

[credentials.crm]
preset = "salesforce"
authorization_server = "salesforce"
client_id = "3MVG9example"
assertion = { jwt = { key = { file = "FILES/client.key" }, sub = "robot@example.com" } }
hosts = ["AUTHORITY"]
"#;

const ROUTE: &str = r#"
[[routes]]
name = "crm"
hosts = ["AUTHORITY"]
paths = ["/services/data/**"]
agents = ["researcher"]
credential = "crm"
upstream_ca = "FILES/ca.pem"
danger_allow_private_addresses = ["127.0.0.0/8"]
"#;

async fn org(api: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Provider {
    let provider = Provider::start(move |seen| match seen.path.as_str() {
        TOKEN => Reply::json(
            200,
            &json!({
                "access_token": format!("{SESSION}{}", seen.nth),
                "signature": "CMJ4l+CCaPQiKjoOEwEig9H4wqhpuLSk4J2urAe+fVg=",
                "scope": "api",
                "instance_url": "https://acme.my.salesforce.com",
                "id": "https://login.salesforce.com/id/00Dx0000000BV7z/005x00000012Q9P",
                "token_type": "Bearer",
                "issued_at": "1800000000123",
            }),
        ),
        _ => api(seen),
    })
    .await;
    provider.write("client.key", &KEY.serialize_pem());
    provider
}

fn refused(code: &str, message: &str) -> Reply {
    Reply::json(401, &json!([{ "message": message, "errorCode": code }])).with("www-authenticate", "Token")
}

#[tokio::test]
async fn a_server_gets_a_session() {
    let provider = org(|_| Reply::nothing_here()).await;
    let state = refresh(&provider.broker(CONFIG), "crm").await.unwrap();
    holds(&state, &format!("{SESSION}0"), 300);
    assert_eq!(state.extra["instance_url"], "https://acme.my.salesforce.com");
    assert_eq!(state.scope.as_deref(), Some("api"));
    let form = provider.seen(TOKEN)[0].form();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let (header, claims) = verified(&form["assertion"], Algorithm::RS256, "https://login.salesforce.com");
    assert_eq!(header["alg"], "RS256");
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!("3MVG9example"), &json!("robot@example.com")));
    let life = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert!((120..=180).contains(&life), "{life}");
}

/// `default_ttl` says how long, `aud` which login server, `answer` what else is shown.
#[tokio::test]
async fn a_sandbox_with_a_longer_session() {
    let provider = org(|_| Reply::nothing_here()).await;
    let config = CONFIG
        .replace("hosts", "default_ttl = \"2h\"\nanswer = { extra = { issued = \"/issued_at\" } }\nhosts")
        .replace("sub =", "aud = \"https://test.salesforce.com\", sub =");
    let state = refresh(&provider.broker(&config), "crm").await.unwrap();
    holds(&state, &format!("{SESSION}0"), 7200);
    let extra: Vec<(&str, &str)> = state.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(extra, [("instance_url", "https://acme.my.salesforce.com"), ("issued", "1800000000123")]);
    verified(&provider.seen(TOKEN)[0].form()["assertion"], Algorithm::RS256, "https://test.salesforce.com");
}

#[tokio::test]
async fn a_user_who_did_not_approve_is_said() {
    let provider = Provider::start(|_| Reply::error(400, "invalid_grant", "user hasn't approved this consumer")).await;
    provider.write("client.key", &KEY.serialize_pem());
    let error = refresh(&provider.broker(CONFIG), "crm").await.unwrap_err();
    assert_eq!((error.code(), error.retry_after), ("credential_failed", None));
    assert!(error.to_string().contains("user hasn't approved this consumer"), "{error}");
}

/// A session that has ended is said in the body; it is replaced once, and the agent's request
/// is applied once.
#[tokio::test]
async fn an_ended_session_is_replaced() {
    let provider = org(|seen| {
        if seen.bearer().ends_with('0') {
            return refused("INVALID_SESSION_ID", "Session expired or invalid");
        }
        Reply::json(201, &json!({ "id": "001D000000IqhSLIAZ", "success": true, "errors": [] }))
    })
    .await;
    let stage = provider.stage(&format!("{CONFIG}{ROUTE}")).await;
    let answer = stage.agent().post(provider.url(ACCOUNTS)).body("{\"Name\":\"Acme\"}").send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(provider.seen(TOKEN).len(), 2);
    let sent = provider.seen(ACCOUNTS);
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|sent| sent.body == "{\"Name\":\"Acme\"}"), "{sent:?}");
    assert!(sent[1].bearer().ends_with('1'));
}

/// Other 401s are the agent's to see, whole.
#[tokio::test]
async fn another_refusal_is_the_agents() {
    let provider = org(|_| refused("INVALID_AUTH_HEADER", "INVALID_HEADER_TYPE")).await;
    let stage = provider.stage(&format!("{CONFIG}{ROUTE}")).await;
    let answer = stage.agent().get(provider.url(ACCOUNTS)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["www-authenticate"].to_str().unwrap()), (401, "Token"));
    let told: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(told, json!([{ "message": "INVALID_HEADER_TYPE", "errorCode": "INVALID_AUTH_HEADER" }]));
    assert_eq!((provider.seen(TOKEN).len(), provider.seen(ACCOUNTS).len()), (1, 1));
}
