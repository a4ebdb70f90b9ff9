//! No preset: what servers do that users have, each otherwise than the RFCs say.

use super::*;

const CONFIG: &str = r#"
[authorization_servers.auth]
token_endpoint = "PROVIDER/token"
ca = "FILES/ca.pem"

[credentials.orders]
grant = "client_credentials"
authorization_server = "auth"
client_id = "orders-agent"
client_auth = { method = "client_secret_post", secret = { file = "FILES/secret" }, next_secret = { file = "FILES/next" } }
scopes = ["read", "write"]
hosts = ["orders.example.com"]
"#;

async fn server(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Provider {
    let provider = Provider::start(answer).await;
    provider.write("secret", "old");
    provider.write("next", "new");
    provider
}

/// Whatever the server says to a secret that it doesn't take, the other one is tried once.
#[tokio::test]
async fn a_wrong_secret_in_every_guise() {
    let refusals = [
        Reply::text(403, ""),
        Reply::text(401, ""),
        Reply::json(400, &json!({ "error": "invalid_client" })),
        Reply::json(401, &json!({ "error": "access_denied" })),
        Reply::text(401, "<html>Unauthorized</html>"),
    ];
    for refusal in refusals {
        let said = format!("{refusal:?}");
        let provider = server(move |seen| match seen.form()["client_secret"].as_str() {
            "new" => Reply::token("at"),
            _ => refusal.clone(),
        })
        .await;
        let broker = provider.broker(CONFIG);
        for _ in 0..2 {
            let state = refresh(&broker, "orders").await.unwrap_or_else(|error| panic!("{said}: {error}"));
            holds(&state, "at", 3600);
        }
        assert_eq!(provider.seen("/token").len(), 3, "{said}");
        // Neither is good: each was tried once, and nobody waits for it to pass.
        provider.write("next", "newer");
        let error = refresh(&broker, "orders").await.unwrap_err();
        assert_eq!((error.code(), error.retry_after), ("credential_failed", None), "{said}");
        assert_eq!(provider.seen("/token").len(), 5, "{said}");
    }
}

/// Answers that say the same in other ways.
#[tokio::test]
async fn a_token_in_every_guise() {
    let jwt = unsigned(&json!({ "iat": unix_now(), "exp": unix_now() + 1200, "aud": ["read", "write"] }));
    let answers = [
        (200, json!({ "access_token": "at", "token_type": "bearer", "expires_in": "1800" }), 1800),
        (201, json!({ "access_token": "at", "token_type": "Bearer", "expires_in": 1800 }), 1800),
        (200, json!({ "access_token": "at", "token_type": "BEARER", "expires_in": 1800.5 }), 1800),
        (
            200,
            json!({ "access_token": "at", "token_type": "Bearer", "expires_in": 1800, "scope": ["read", "write"] }),
            1800,
        ),
        (200, json!({ "access_token": "at", "token_type": "Bearer", "expires_in": 1800, "scope": "read,write" }), 1800),
        (
            200,
            json!({ "access_token": "at", "token_type": "Bearer", "expires_in": 1800, "scope": null, "error": null }),
            1800,
        ),
        (200, json!({ "access_token": "at", "token_type": "Bearer" }), 300),
        (200, json!({ "access_token": jwt, "token_type": "Bearer" }), 1200),
        (200, json!({ "access_token": jwt, "token_type": "Bearer", "expires_in": null }), 1200),
    ];
    for (status, body, seconds) in answers {
        let token = body["access_token"].as_str().unwrap().to_owned();
        let provider = server({
            let body = body.clone();
            move |_| Reply::json(status, &body)
        })
        .await;
        let state = refresh(&provider.broker(CONFIG), "orders").await.unwrap_or_else(|error| panic!("{body}: {error}"));
        holds(&state, &token, seconds);
    }
}

/// What an operator reads where the server says next to nothing.
#[tokio::test]
async fn a_refusal_that_says_little() {
    for (reply, wanted) in [
        (Reply::json(400, &json!({ "error": "invalid_scope" })), "`invalid_scope`"),
        (Reply::json(400, &json!({ "error": "invalid_scope", "error_description": null })), "`invalid_scope`"),
        (Reply::json(400, &json!({ "error": "invalid_scope", "error_description": ["a"] })), "`invalid_scope`"),
        (Reply::json(200, &json!({ "error": "invalid_scope" })), "`invalid_scope`"),
        (Reply::text(400, ""), "HTTP 400"),
        (Reply::text(404, "nothing here"), "HTTP 404"),
        (Reply::json(200, &json!({ "scope": "read write" })), "`access_token`"),
        (Reply::json(200, &json!({ "access_token": "at", "token_type": "Bearer", "scope": "read" })), "write"),
    ] {
        let said = format!("{reply:?}");
        let provider = server(move |_| reply.clone()).await;
        let error = refresh(&provider.broker(CONFIG), "orders").await.expect_err(&said);
        assert_eq!((error.code(), error.retry_after), ("credential_failed", None), "{said}");
        assert!(error.to_string().contains(wanted), "{said}: {error}");
        assert_eq!(provider.seen("/token").len(), 1, "{said}");
    }
}
