//! One token for another (RFC 8693): what counts as evidence, and what is issued.

use crate::{
    demo::jwt::{ACCESS_TOKEN_TYPE, SigningKey},
    primitives::{Clock, SystemClock},
};

use super::*;

const EXCHANGE: (&str, &str) = ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const REFRESH_TOKEN: &str = "urn:ietf:params:oauth:token-type:refresh_token";
const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";
const ELSEWHERE: &str = "https://resource-server.test";

struct Stage {
    world: World,
    client: HttpClient,
    idp: SigningKey,
    own: SigningKey,
}

impl Stage {
    async fn set() -> Self {
        let (world, client) = world().await;
        let [idp, own] = [(); 2].map(|()| SigningKey::generate(SigningAlgorithm::Es256).unwrap());
        let server = world.authorization_server();
        server.trust("https://idp.test", vec![idp.public().clone()]);
        server
            .change_client(CLIENT_ID, |client| {
                client.grants.push(GrantType::TokenExchange);
                client.audiences.push(ELSEWHERE.to_owned());
                client.keys = vec![own.public().clone()];
                client.id_elsewhere = Some("demo-elsewhere".to_owned());
            })
            .unwrap();
        Self { world, client, idp, own }
    }

    /// A token about somebody, of the issuer that is trusted.
    fn about(&self, subject: &str) -> Value {
        let now = SystemClock.unix_seconds();
        json!({ "iss": "https://idp.test", "sub": subject, "aud": CLIENT_ID, "exp": now + 60 })
    }

    fn signed(&self, typ: &str, claims: &Value) -> String {
        self.idp.sign(&self.idp.header(typ), claims).unwrap().expose().to_owned()
    }

    /// One of this server's.
    fn access_token_of(&self, subject: &str) -> String {
        let now = SystemClock.unix_seconds();
        let claims =
            Claims { iss: self.world.issuer().to_owned(), sub: subject.to_owned(), exp: now + 60, ..Claims::default() };
        self.world.authorization_server().sign(&claims).unwrap().expose().to_owned()
    }

    async fn ask(&self, subject: (&str, &str), more: &[(&str, &str)]) -> Response {
        let params = [EXCHANGE, ("subject_token", subject.0), ("subject_token_type", subject.1)];
        post(&self.world, &self.client, &[&params, more].concat()).await
    }

    async fn get(&self, subject: (&str, &str), more: &[(&str, &str)]) -> Value {
        let answer = self.ask(subject, more).await;
        assert_eq!(answer.status(), 200, "{subject:?}");
        answer.json().await.unwrap()
    }

    async fn refused(&self, subject: (&str, &str), more: &[(&str, &str)]) -> String {
        let (status, error) = error_of(self.ask(subject, more).await).await;
        assert_eq!(status, 400);
        error
    }
}

#[tokio::test]
async fn evidence_of_each_type_gives_an_access_token_for_its_subject() {
    let stage = Stage::set().await;
    let server = stage.world.authorization_server();
    let own = json!({ "iss": CLIENT_ID, "sub": "alice", "exp": SystemClock.unix_seconds() + 60 });
    let own = stage.own.sign(&stage.own.header("token-vault-req+jwt"), &own).unwrap();
    let refresh = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let evidence = [
        (stage.access_token_of("alice"), ACCESS_TOKEN, "alice"),
        (stage.signed(ACCESS_TOKEN_TYPE, &stage.about("alice")), ACCESS_TOKEN, "alice"),
        (stage.signed("JWT", &stage.about("alice")), ID_TOKEN, "alice"),
        (stage.signed("anything", &stage.about("alice")), JWT, "alice"),
        (stage.signed("anything", &stage.about("alice")), "https://app.test/token-type", "alice"),
        (own.expose().to_owned(), JWT, "alice"),
        (refresh.expose().to_owned(), REFRESH_TOKEN, CLIENT_ID),
    ];
    for (token, token_type, subject) in evidence {
        let answer = stage.get((&token, token_type), &[AUD, ("scope", "read:orders")]).await;
        assert_eq!(answer["issued_token_type"], ACCESS_TOKEN, "{token_type}");
        assert_eq!((&answer["token_type"], answer.get("refresh_token")), (&json!("Bearer"), None));
        let claims = claims_of(&answer);
        assert_eq!(
            (claims.sub.as_str(), claims.client_id.as_str(), claims.scope.as_str()),
            (subject, CLIENT_ID, "read:orders")
        );
        assert_eq!((claims.aud, claims.act), (vec![AUDIENCE.to_owned()], None));
        assert!(!format!("{:?}", server.token_requests()).contains(&token));
    }
    let again = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose())];
    assert_eq!(post(&stage.world, &stage.client, &again).await.status(), 200, "an exchange doesn't spend it");
}

#[tokio::test]
async fn what_is_no_evidence_is_an_invalid_request() {
    let stage = Stage::set().await;
    let server = stage.world.authorization_server();
    let now = SystemClock.unix_seconds();
    let with = |name: &str, value: Value| {
        let mut claims = stage.about("alice");
        claims[name] = value;
        stage.signed("JWT", &claims)
    };
    let forged = SigningKey::generate(SigningAlgorithm::Es256).unwrap();
    let forged = forged.sign(&forged.header("JWT"), &stage.about("alice")).unwrap();
    let withdrawn = server.issue_refresh_token(CLIENT_ID, "").unwrap();
    server.revoke_refresh_tokens(CLIENT_ID);
    let foreign = server.issue_refresh_token("odd client", "").unwrap();
    let bad = [
        ("issuer", with("iss", json!("https://evil.test")), JWT),
        ("expired", with("exp", json!(now - 60)), JWT),
        ("no subject", with("sub", Value::Null), JWT),
        ("forged", forged.expose().to_owned(), JWT),
        ("garbage", "garbage".to_owned(), JWT),
        ("an ID token as access token", with("a", json!(1)), ACCESS_TOKEN),
        ("an access token as ID token", stage.access_token_of("alice"), ID_TOKEN),
        ("an unknown type", with("a", json!(1)), "urn:ietf:params:oauth:token-type:saml1"),
        ("a withdrawn refresh token", withdrawn.expose().to_owned(), REFRESH_TOKEN),
        ("another client's refresh token", foreign.expose().to_owned(), REFRESH_TOKEN),
    ];
    for (what, token, token_type) in bad {
        assert_eq!(stage.refused((&token, token_type), &[AUD]).await, "invalid_request", "{what}");
    }
    let good = with("a", json!(1));
    assert_eq!(stage.refused((&good, ""), &[AUD]).await, "invalid_request", "no type");
    assert_eq!(stage.refused(("", JWT), &[AUD]).await, "invalid_request", "no token");
    assert_eq!(stage.refused(("", ""), &[AUD]).await, "invalid_request", "neither");
    let actor_alone = [AUD, ("actor_token", good.as_str())];
    assert_eq!(stage.refused((&good, JWT), &actor_alone).await, "invalid_request", "an actor without its type");
    let bad_actor = [AUD, ("actor_token", "garbage"), ("actor_token_type", JWT)];
    assert_eq!(stage.refused((&good, JWT), &bad_actor).await, "invalid_request");
    let odd_wish = [AUD, ("requested_token_type", "urn:ietf:params:oauth:token-type:saml2")];
    assert_eq!(stage.refused((&good, JWT), &odd_wish).await, "invalid_request");
    for target in ["audience", "resource"] {
        assert_eq!(stage.refused((&good, JWT), &[(target, "https://other.test/")]).await, "invalid_target");
    }
    assert_eq!(stage.refused((&good, JWT), &[AUD, ("scope", "admin")]).await, "invalid_scope");
}

/// OpenID Connect Core §3.1.3.7: an ID token is for the client that it was given to.
#[tokio::test]
async fn another_client_s_id_token_is_no_evidence() {
    let stage = Stage::set().await;
    let server = stage.world.authorization_server();
    server
        .change_client(CLIENT_ID, |client| {
            client.grants.push(GrantType::DeviceCode);
            client.scopes.push("openid".to_owned());
        })
        .unwrap();
    let begun = [AUD, ("client_id", CLIENT_ID), ("client_secret", stage.world.client_secret().expose())];
    let begun = stage.client.post(server.url(Endpoint::Device)).form(&begun).send().await.unwrap();
    let begun: Value = begun.json().await.unwrap();
    let poll = [("grant_type", GrantType::DeviceCode.name()), ("device_code", begun["device_code"].as_str().unwrap())];
    let login: Value = post(&stage.world, &stage.client, &poll).await.json().await.unwrap();
    let id_token = login["id_token"].as_str().unwrap();
    assert_eq!(claims_of(&stage.get((id_token, ID_TOKEN), &[AUD]).await).sub, USER);

    server.change_client("odd client", |client| client.grants.push(GrantType::TokenExchange)).unwrap();
    let params = [EXCHANGE, ("subject_token", id_token), ("subject_token_type", ID_TOKEN)];
    let odd = token_post(&stage.world, &stage.client, &params).basic_auth("odd client", Some(ODD_SECRET));
    assert_eq!(error_of(odd.send().await.unwrap()).await.1, "invalid_request");
}

#[tokio::test]
async fn actors_stand_around_each_other() {
    let stage = Stage::set().await;
    let subject = stage.access_token_of("alice");
    let first = stage.signed("JWT", &stage.about("agent-1"));
    let once = stage.get((&subject, ACCESS_TOKEN), &[AUD, ("actor_token", &first), ("actor_token_type", JWT)]).await;
    assert_eq!(claims_of(&once).act, Some(json!({ "sub": "agent-1" })));

    let between = once["access_token"].as_str().unwrap();
    let second = stage.signed("JWT", &stage.about("agent-2"));
    let twice = stage.get((between, ACCESS_TOKEN), &[AUD, ("actor_token", &second), ("actor_token_type", JWT)]).await;
    let claims = claims_of(&twice);
    assert_eq!(
        (claims.sub.as_str(), claims.act),
        ("alice", Some(json!({ "sub": "agent-2", "act": { "sub": "agent-1" } })))
    );
    let kept = stage.get((between, ACCESS_TOKEN), &[AUD]).await;
    assert_eq!(claims_of(&kept).act, Some(json!({ "sub": "agent-1" })));
}

#[tokio::test]
async fn what_is_for_the_next_step_only_is_not_applicable() {
    let stage = Stage::set().await;
    let subject = stage.signed("JWT", &stage.about("alice"));
    let wish = [AUD, ("requested_token_type", REFRESH_TOKEN)];
    let answer = stage.get((&subject, ID_TOKEN), &wish).await;
    assert_eq!((&answer["token_type"], &answer["issued_token_type"]), (&json!("N_A"), &json!(REFRESH_TOKEN)));
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", answer["access_token"].as_str().unwrap())];
    let refreshed: Value = post(&stage.world, &stage.client, &refresh).await.json().await.unwrap();
    assert_eq!(claims_of(&refreshed).sub, "alice");

    let wish = [
        ("audience", ELSEWHERE),
        ("resource", "https://api.resource-server.test/"),
        ("scope", "read:orders"),
        ("requested_token_type", ID_JAG),
    ];
    let answer = stage.get((&subject, ID_TOKEN), &wish).await;
    assert_eq!((&answer["token_type"], &answer["issued_token_type"]), (&json!("N_A"), &json!(ID_JAG)));
    assert_eq!(answer["expires_in"], 300);
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(jsonwebtoken::decode_header(token).unwrap().typ.as_deref(), Some("oauth-id-jag+jwt"));
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap();
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!(stage.world.issuer()), &json!("alice")));
    assert_eq!((&claims["aud"], &claims["client_id"]), (&json!(ELSEWHERE), &json!("demo-elsewhere")));
    assert_eq!((&claims["resource"], &claims["scope"]), (&json!(wish[1].1), &json!("read:orders")));
    let granted = stage.world.authorization_server().token_requests().pop().unwrap().granted().unwrap().clone();
    assert_eq!((granted.token_type, granted.audiences), ("N_A", vec![ELSEWHERE.to_owned()]));

    for audience in ["https://other.test", ""] {
        let wish = [("audience", audience), ("requested_token_type", ID_JAG)];
        assert_eq!(stage.refused((&subject, ID_TOKEN), &wish).await, "invalid_target");
    }
    let api = stage.client.get(stage.world.api_url("/v1/whoami")).bearer_auth(token).send().await.unwrap();
    assert_eq!(api.status(), 401, "it is no access token");
}
