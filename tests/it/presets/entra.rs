//! Microsoft Entra ID: keys known by their certificate, one resource a request, refusals with
//! numbers, and tokens of other clouds as client assertions.

use aws_lc_rs::digest;

use super::*;

const TOKEN: &str = "/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token";
const CLIENT: &str = "66666666-7777-8888-9999-000000000000";

const CONFIG: &str = r#"
[authorization_servers.entra]
token_endpoint = "PROVIDER/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token"
ca = "FILES/ca.pem"

[credentials.graph]
preset = "entra"
grant = "client_credentials"
authorization_server = "entra"
client_id = "66666666-7777-8888-9999-000000000000"
client_auth = { method = "private_key_jwt", key = { file = "FILES/entra.key" }, certificate = "FILES/entra.pem" }
scopes = ["https://graph.microsoft.com/.default"]
hosts = ["graph.microsoft.com"]
"#;

/// `graph`, but that the client shows a token that somebody else made.
fn federated() -> String {
    let auth = CONFIG.lines().find(|line| line.starts_with("client_auth")).unwrap();
    CONFIG.replace(auth, "client_auth = { method = \"assertion\", assertion = { file = \"FILES/projected\" } }")
}

/// The tenant, and the certificate that was uploaded to it.
async fn tenant(token: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> (Provider, Vec<u8>) {
    let provider = Provider::start(token).await;
    let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&*KEY).unwrap();
    provider.write("entra.key", &KEY.serialize_pem());
    provider.write("entra.pem", &certificate.pem());
    (provider, certificate.der().to_vec())
}

fn granted(_: &Seen) -> Reply {
    let body =
        json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": "eyJ0eXAi" });
    Reply::json(200, &body)
}

#[tokio::test]
async fn an_application_signs_with_its_certificate() {
    let (provider, certificate) = tenant(granted).await;
    holds(&refresh(&provider.broker(CONFIG), "graph").await.unwrap(), "eyJ0eXAi", 3599);
    let asked = &provider.seen(TOKEN)[0];
    let form = asked.form();
    let names: Vec<&str> = form.keys().map(String::as_str).collect();
    assert_eq!(names, ["client_assertion", "client_assertion_type", "client_id", "grant_type", "scope"]);
    assert_eq!((form["scope"].as_str(), form["client_id"].as_str()), ("https://graph.microsoft.com/.default", CLIENT));
    let (header, claims) = verified(&form["client_assertion"], Algorithm::PS256, &provider.url(TOKEN));
    let thumbprint = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &certificate));
    assert_eq!((&header["alg"], &header["typ"]), (&json!("PS256"), &json!("JWT")));
    assert_eq!(header["x5t#S256"], thumbprint(&digest::SHA256));
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!(CLIENT), &json!(CLIENT)));
    assert!(claims["jti"].is_string() && claims["nbf"].is_null(), "{claims}");
    assert!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap() <= 600, "{claims}");
}

/// The older way is `alg` in the file: RS256 with the older thumbprint.
#[tokio::test]
async fn an_application_signs_the_older_way() {
    let (provider, certificate) = tenant(granted).await;
    let older = CONFIG.replace("entra.pem\" }", "entra.pem\", alg = \"RS256\" }");
    refresh(&provider.broker(&older), "graph").await.unwrap();
    let (header, _) =
        verified(&provider.seen(TOKEN)[0].form()["client_assertion"], Algorithm::RS256, &provider.url(TOKEN));
    let thumbprint = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &certificate);
    assert_eq!(header["x5t"], URL_SAFE_NO_PAD.encode(thumbprint));
}

/// Its number is in the description, and that is told, on one line.
#[tokio::test]
async fn a_refusal_with_its_number() {
    let (provider, _) = tenant(|_| {
        let body = json!({
            "error": "invalid_client",
            "error_description": "AADSTS700027: The certificate with identifier used to sign the client assertion is \
                                  not registered on application.\r\nTrace ID: 0000aaaa\r\nCorrelation ID: aaaa0000\r\n\
                                  Timestamp: 2026-11-20 12:00:00Z",
            "error_codes": [700027],
            "timestamp": "2026-11-20 12:00:00Z",
            "trace_id": "0000aaaa",
            "correlation_id": "aaaa0000",
            "error_uri": "https://login.microsoftonline.com/error?code=700027",
        });
        Reply::json(401, &body)
    })
    .await;
    let broker = provider.broker(CONFIG);
    let error = refresh(&broker, "graph").await.unwrap_err();
    assert_eq!((error.code(), error.failure.class(), error.retry_after), ("credential_failed", "invalid_client", None));
    let text = error.to_string();
    assert!(text.contains("AADSTS700027: The certificate") && !text.contains(['\r', '\n']), "{text}");
    assert!(error.hint().as_str().contains("client_id"), "{}", error.hint());
    assert_eq!(provider.seen(TOKEN).len(), 1);
}

/// A refusal that passes says so in a 400.
#[tokio::test]
async fn a_refusal_that_passes() {
    let (provider, _) = tenant(|seen| match seen.nth {
        0 => Reply::error(400, "temporarily_unavailable", "AADSTS90033: A transient error has occurred."),
        _ => granted(seen),
    })
    .await;
    refresh(&provider.broker(CONFIG), "graph").await.unwrap();
    assert_eq!(provider.seen(TOKEN).len(), 2);
}

/// No secret of ours: Kubernetes' token, as it is, and the next one once it is there.
#[tokio::test]
async fn another_clouds_token_stands_for_the_application() {
    let (provider, _) = tenant(granted).await;
    let foreign = |number: u32| {
        let claims =
            json!({ "aud": ["api://AzureADTokenExchange"], "sub": "system:serviceaccount:a:b", "jti": number });
        unsigned(&claims)
    };
    provider.write("projected", &foreign(1));
    let broker = provider.broker(&federated());
    holds(&refresh(&broker, "graph").await.unwrap(), "eyJ0eXAi", 3599);
    provider.write("projected", &foreign(2));
    refresh(&broker, "graph").await.unwrap();
    for (asked, number) in provider.seen(TOKEN).iter().zip([1, 2]) {
        asked.asks([
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &foreign(number)),
            ("scope", "https://graph.microsoft.com/.default"),
        ]);
    }
}

/// The identity of a machine: its own field, and numbers that are strings.
#[tokio::test]
async fn a_managed_identity_gets_a_token() {
    const PLACE: &str = "/metadata/identity/oauth2/token";
    let provider = Provider::in_clear_text(|seen| {
        if seen.header("metadata") != "true" {
            return Reply::error(400, "invalid_request", "Required metadata header not specified");
        }
        let ends = unix_now() + 86399;
        let body = json!({
            "access_token": "eyJ0eXAi", "client_id": CLIENT, "expires_in": "86399", "expires_on": ends.to_string(),
            "ext_expires_in": "86399", "not_before": "1800000000", "resource": "https://vault.azure.net",
            "token_type": "Bearer",
        });
        Reply::json(200, &body)
    })
    .await;
    let config = format!(
        "[credentials.vault]\ngrant = \"metadata_server\"\n\
         url = \"PROVIDER{PLACE}?api-version=2018-02-01&resource=https://vault.azure.net\"\n\
         headers = {{ Metadata = \"true\" }}\nhosts = [\"*.vault.azure.net\"]\n"
    );
    holds(&refresh(&provider.broker(&config), "vault").await.unwrap(), "eyJ0eXAi", 86399);
    assert_eq!(provider.seen(PLACE)[0].method, Method::GET);
}

/// What Entra doesn't know is said before it is asked.
#[tokio::test]
async fn what_entra_does_not_take() {
    let (provider, _) = tenant(granted).await;
    for (from, to, said) in [
        ("scopes =", "audience = \"https://graph.microsoft.com\"\nscopes =", "entra knows no `audience`"),
        ("/.default", "/User.Read", "entra wants scopes that end in `/.default`"),
        (", certificate = \"FILES/entra.pem\"", "", "`client_auth` has no `certificate`"),
    ] {
        let problems = provider.problems(&CONFIG.replace(from, to));
        assert!(problems.contains(said), "{problems}");
    }
}

/// On behalf of a user: the token that the agent sent is the assertion, and the API sees
/// another one.
#[tokio::test]
async fn an_agents_token_becomes_one_for_the_next_api() {
    let (provider, _) = tenant(|seen| match seen.path.as_str() {
        TOKEN => {
            let mut body: Value = serde_json::from_str(&granted(seen).body).unwrap();
            body["scope"] = "https://graph.microsoft.com/Mail.Read".into();
            Reply::json(200, &body)
        }
        _ if seen.bearer() == "eyJ0eXAi" => Reply::json(200, &json!({ "value": [] })),
        _ => Reply::text(401, ""),
    })
    .await;
    provider.write("secret", "qWgdYAmab0YSkuL1qKv5bPX");
    let mail = r#"
[authorization_servers.entra]
token_endpoint = "PROVIDER/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token"
ca = "FILES/ca.pem"

[credentials.mail]
preset = "entra"
grant = "jwt_bearer"
authorization_server = "entra"
client_id = "66666666-7777-8888-9999-000000000000"
client_auth = { method = "client_secret_post", secret = { file = "FILES/secret" } }
assertion = { agent = true }
params = { requested_token_use = "on_behalf_of" }
scopes = ["https://graph.microsoft.com/Mail.Read"]
hosts = ["AUTHORITY"]

[[routes]]
name = "mail"
hosts = ["AUTHORITY"]
paths = ["/v1.0/**"]
agents = ["researcher"]
credential = "mail"
upstream_ca = "FILES/ca.pem"
danger_allow_private_addresses = ["127.0.0.0/8"]
"#;
    let stage = provider.stage(mail).await;
    let mine = unsigned(&json!({ "aud": CLIENT, "upn": "user@example.com" }));
    let answer = stage.agent().get(provider.url("/v1.0/me/messages")).bearer_auth(&mine).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    provider.seen(TOKEN)[0].asks([
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("client_id", CLIENT),
        ("client_secret", "qWgdYAmab0YSkuL1qKv5bPX"),
        ("assertion", &mine),
        ("requested_token_use", "on_behalf_of"),
        ("scope", "https://graph.microsoft.com/Mail.Read"),
    ]);
}
