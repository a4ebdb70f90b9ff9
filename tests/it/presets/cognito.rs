//! Cognito: a secret, scopes of a resource server, no audience; errors without a word more.

use super::*;

const TOKEN: &str = "/oauth2/token";

const CONFIG: &str = r#"
[authorization_servers.cognito]
token_endpoint = "PROVIDER/oauth2/token"
ca = "FILES/ca.pem"

[credentials.orders]
preset = "cognito"
grant = "client_credentials"
authorization_server = "cognito"
client_id = "1example23456789"
client_auth = { method = "client_secret_basic", secret = { file = "FILES/secret" } }
scopes = ["orders/read", "orders/write"]
params = { aws_client_metadata = '{"environment":"dev"}' }
hosts = ["orders.example.com"]
"#;

#[tokio::test]
async fn a_client_gets_a_token() {
    let provider = Provider::start(|_| {
        Reply::json(200, &json!({ "access_token": "eyJraWQiOi", "expires_in": 3600, "token_type": "Bearer" }))
    })
    .await;
    provider.write("secret", "9example87654321");
    let state = refresh(&provider.broker(CONFIG), "orders").await.unwrap();
    holds(&state, "eyJraWQiOi", 3600);
    assert_eq!(state.scope.as_deref(), Some("orders/read orders/write"), "as asked for");
    let asked = &provider.seen(TOKEN)[0];
    asked.asks([
        ("grant_type", "client_credentials"),
        ("scope", "orders/read orders/write"),
        ("aws_client_metadata", "{\"environment\":\"dev\"}"),
    ]);
    assert_eq!(asked.basic(), "1example23456789:9example87654321");
    let said = provider.problems(&CONFIG.replace("params", "audience = \"orders\"\nparams"));
    assert!(said.contains("cognito knows no `audience`"), "{said}");
}

/// 400 for everything.
#[tokio::test]
async fn a_refusal_is_one_word() {
    let provider = Provider::start(|seen| match seen.basic().rsplit(':').next() {
        Some("new") => Reply::json(400, &json!({ "error": "invalid_scope" })),
        _ => Reply::json(400, &json!({ "error": "invalid_client" })),
    })
    .await;
    provider.write("secret", "old");
    provider.write("next", "new");
    let error = refresh(&provider.broker(CONFIG), "orders").await.unwrap_err();
    assert_eq!((error.code(), error.failure.class()), ("credential_failed", "invalid_client"));
    let both = CONFIG.replace("FILES/secret\" }", "FILES/secret\" }, next_secret = { file = \"FILES/next\" }");
    let error = refresh(&provider.broker(&both), "orders").await.unwrap_err();
    assert_eq!(error.failure.class(), "invalid_scope", "the other secret was tried");
    assert_eq!(provider.seen(TOKEN).len(), 3);
}
