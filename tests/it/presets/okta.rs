//! Okta: API-service apps have DPoP on, and the server wants its nonce before anything else.

use super::*;

const TOKEN: &str = "/oauth2/v1/token";

const CONFIG: &str = r#"
[authorization_servers.okta]
issuer = "PROVIDER"
ca = "FILES/ca.pem"

[credentials.users]
preset = "okta"
grant = "client_credentials"
authorization_server = "okta"
client_id = "0oa1example"
client_auth = { method = "private_key_jwt", key = { file = "FILES/okta.key" }, key_id = "k1" }
scopes = ["okta.users.read"]
hosts = ["AUTHORITY"]
"#;

async fn okta(token: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Provider {
    let provider = Provider::start(move |seen| match seen.path.as_str() {
        "/.well-known/oauth-authorization-server" => metadata(seen, "", &[("token_endpoint", TOKEN)]),
        "/oauth2/default/.well-known/openid-configuration" => {
            metadata(seen, "/oauth2/default", &[("token_endpoint", "/oauth2/default/v1/token")])
        }
        TOKEN | "/oauth2/default/v1/token" => token(seen),
        _ => Reply::json(
            404,
            &json!({ "errorCode": "E0000022", "errorSummary": "The endpoint does not support the provided HTTP method" }),
        ),
    })
    .await;
    provider.write("okta.key", &KEY.serialize_pem());
    provider
}

/// The proof's claims; its key is in it, and only the public half.
#[track_caller]
fn proof(asked: &Seen) -> Value {
    let proof = asked.header("dpop");
    let header = part(proof, 0);
    assert_eq!((&header["typ"], &header["alg"]), (&json!("dpop+jwt"), &json!("ES256")));
    assert!(header["jwk"]["x"].is_string() && header["jwk"].get("d").is_none(), "{header}");
    let jwk = serde_json::from_value(header["jwk"].clone()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    jsonwebtoken::decode::<Value>(proof, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap().claims
}

fn with_nonce(token_type: &'static str) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    move |seen| {
        if proof(seen).get("nonce").is_none() {
            return Reply::error(400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.")
                .with("dpop-nonce", "bDz7gsKjzVYKgjTRsLdAmQ");
        }
        let body = json!({
            "token_type": token_type, "expires_in": 3600, "access_token": "eyJraWQiOiJT.okta.token",
            "scope": "okta.users.read",
        });
        Reply::json(200, &body)
    }
}

#[tokio::test]
async fn a_service_proves_itself_twice() {
    let provider = okta(with_nonce("DPoP")).await;
    let broker = provider.broker(CONFIG);
    holds(&refresh(&broker, "users").await.unwrap(), "eyJraWQiOiJT.okta.token", 3600);
    let asked = provider.seen(TOKEN);
    assert_eq!(asked.len(), 2);
    let proofs: Vec<Value> = asked.iter().map(proof).collect();
    for proof in &proofs {
        assert_eq!((&proof["htm"], &proof["htu"]), (&json!("POST"), &json!(provider.url(TOKEN))));
    }
    assert_eq!(proofs[1]["nonce"], "bDz7gsKjzVYKgjTRsLdAmQ");
    assert_ne!(proofs[0]["jti"], proofs[1]["jti"]);
    let assertions: Vec<Value> = asked
        .iter()
        .map(|asked| {
            let form = asked.form();
            assert_eq!(
                (form["scope"].as_str(), form["grant_type"].as_str()),
                ("okta.users.read", "client_credentials")
            );
            let (header, claims) = verified(&form["client_assertion"], Algorithm::RS256, &provider.url(TOKEN));
            assert_eq!(header["kid"], "k1");
            assert_eq!((&claims["iss"], &claims["sub"]), (&json!("0oa1example"), &json!("0oa1example")));
            claims
        })
        .collect();
    assert_ne!(assertions[0]["jti"], assertions[1]["jti"], "an assertion is good once");

    // The nonce is known now: no second request.
    refresh(&broker, "users").await.unwrap();
    assert_eq!(provider.seen(TOKEN).len(), 3);
}

/// A proof was sent, and a token came that isn't bound to it.
#[tokio::test]
async fn a_downgrade_is_refused() {
    let provider = okta(with_nonce("Bearer")).await;
    let broker = provider.broker(CONFIG);
    let error = refresh(&broker, "users").await.unwrap_err();
    assert_eq!((error.code(), error.failure.class(), error.retry_after), ("credential_failed", "dpop", None));
    assert_eq!(state(&broker, "users").fingerprint, None);
    // An app with DPoP switched off, by the operator's own word.
    let off = CONFIG.replace("scopes =", "dpop = \"off\"\nscopes =");
    let provider = okta(|_| Reply::token("eyJraWQ")).await;
    holds(&refresh(&provider.broker(&off), "users").await.unwrap(), "eyJraWQ", 3600);
    assert_eq!(provider.seen(TOKEN)[0].header("dpop"), "");
}

/// A custom authorization server: an issuer with a path, its metadata after it.
#[tokio::test]
async fn a_custom_server_is_found() {
    let provider = okta(with_nonce("DPoP")).await;
    let custom = CONFIG.replace("issuer = \"PROVIDER\"", "issuer = \"PROVIDER/oauth2/default\"");
    refresh(&provider.broker(&custom), "users").await.unwrap();
    let place = "/oauth2/default/v1/token";
    let asked = provider.seen(place);
    verified(&asked[1].form()["client_assertion"], Algorithm::RS256, &provider.url(place));
}

/// A wrong key, in Okta's own words: no OAuth error at all.
#[tokio::test]
async fn a_refusal_without_an_oauth_error_tries_the_other_key() {
    let provider = okta(|seen| match part(&seen.form()["client_assertion"], 0)["kid"].as_str() {
        Some("k2") => with_nonce("DPoP")(seen),
        _ => Reply::json(
            401,
            &json!({
                "errorCode": "invalid_client", "errorSummary": "The client secret supplied for a confidential client is invalid.",
                "errorLink": "invalid_client", "errorId": "oaeZm9ypzgqQOq0n4PYgiFlZQ", "errorCauses": [],
            }),
        ),
    })
    .await;
    let two = CONFIG
        .replace("key_id = \"k1\"", "key_id = \"k1\", next_key = { file = \"FILES/okta.key\" }, next_key_id = \"k2\"");
    refresh(&provider.broker(&two), "users").await.unwrap();
    let error = refresh(&provider.broker(CONFIG), "users").await.unwrap_err();
    assert_eq!(error.code(), "credential_failed");
}

#[tokio::test]
async fn scopes_are_wanted() {
    let provider = okta(|_| Reply::nothing_here()).await;
    let said = provider.problems(&CONFIG.replace("scopes = [\"okta.users.read\"]\n", ""));
    assert!(said.contains("has no `scopes`"), "{said}");
}
