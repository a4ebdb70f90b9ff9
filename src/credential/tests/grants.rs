//! Every other way to a token: what each grant and each client authentication sends (standards
//! 1.E, 1.J, 1.S).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    credential::{
        Asking, Broker, Error, Injection, Lease, Location, Source, Spec,
        client_auth::{Client, ClientAuth},
        error::{Failure, Misbehaviour},
        grant::{Grant, HttpSource, JwtBearer, Saml2Bearer, Subject, TokenExchange, jwt_bearer, token_exchange},
        inject::Template,
        sign::Algorithm,
        step::{AnswerFormat, Assertion, AudMode, Input, KeySource, Which},
        testing::{Act, AuthServer, Seen, answer, binding, field, name, settings, shared, step, token, within},
    },
    primitives::Secret,
};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn broker(specs: &[&Spec]) -> Broker {
    Broker::with_shared(specs.iter().map(|&spec| spec.clone()).collect(), shared(settings())).unwrap()
}

pub(super) async fn lease(broker: &Broker, credential: &str, id: usize) -> Result<Lease, Error> {
    within(LIMIT, broker.lease_bound(&binding(credential, id), Asking::default())).await
}

pub(super) async fn one(spec: &Spec) -> Result<Lease, Error> {
    lease(&broker(&[spec]), "orders", 0).await
}

pub(super) async fn scripted(
    script: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static,
) -> (tempfile::TempDir, AuthServer, Spec) {
    let server = AuthServer::start(script).await;
    let (directory, spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    (directory, server, spec)
}

pub(super) fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> Source {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    Source::File(path)
}

/// A private key in a file, and the key itself.
fn private_key(directory: &tempfile::TempDir, name: &str) -> KeySource {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    KeySource { source: file(directory, name, &pem), algorithm: None, key_id: Some(name.to_owned()), certificate: None }
}

/// Header and claims of a JWT, unverified.
pub(super) fn jwt(text: &str) -> (Value, Value) {
    let part = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let parts: Vec<&str> = text.split('.').collect();
    assert_eq!(parts.len(), 3, "{text}");
    (part(parts[0]), part(parts[1]))
}

pub(super) fn misbehaviour(error: &Error) -> &Misbehaviour {
    let Failure::Protocol(fault) = &*error.failure else { panic!("{error:?}") };
    fault
}

fn exchange(subject: Input) -> TokenExchange {
    TokenExchange {
        grant_type: token_exchange::GRANT_TYPE.to_owned(),
        subject: Subject { input: subject, token_type: "urn:ietf:params:oauth:token-type:jwt".to_owned() },
        actor: None,
        requested_token_type: None,
    }
}

const ISSUED: &str =
    r#"{"access_token":"exchanged","token_type":"Bearer","expires_in":3600,"issued_token_type":"urn:at"}"#;

// === token exchange ===

/// 1.J: subject and actor with their types, `audience` and `resource` that repeat.
#[tokio::test]
async fn an_exchange_sends_what_the_rfc_says() {
    let (directory, server, mut spec) = scripted(|_, _| answer(200, ISSUED)).await;
    let subject = Input::Source(file(&directory, "subject", "subject.token\n"));
    let actor = Input::Source(file(&directory, "actor", "actor.token"));
    let actor = Subject { input: actor, token_type: "urn:actor".to_owned() };
    step(&mut spec).grant = Grant::TokenExchange(Box::new(TokenExchange {
        actor: Some(actor),
        requested_token_type: Some("urn:at".to_owned()),
        ..exchange(subject)
    }));
    step(&mut spec).ask.audience = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(field(&one(&spec).await.unwrap()), "Bearer exchanged");
    let body = &server.seen()[0].body;
    for pair in [
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange",
        "subject_token=subject.token&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt",
        "actor_token=actor.token&actor_token_type=urn%3Aactor",
        "requested_token_type=urn%3Aat",
        "audience=a&audience=b",
    ] {
        assert!(body.contains(pair), "{pair} in {body}");
    }
}

#[tokio::test]
async fn an_exchange_says_what_it_issued() {
    let without = r#"{"access_token":"t","token_type":"Bearer"}"#;
    for (body, wanted, refused) in [
        (without, None, true),
        (ISSUED, Some("urn:other"), true),
        (ISSUED, Some("urn:at"), false),
        (ISSUED, None, false),
    ] {
        let (directory, _server, mut spec) = scripted(move |_, _| answer(200, body)).await;
        let subject = Input::Source(file(&directory, "subject", "s"));
        let exchange = TokenExchange { requested_token_type: wanted.map(str::to_owned), ..exchange(subject) };
        step(&mut spec).grant = Grant::TokenExchange(Box::new(exchange));
        assert_eq!(one(&spec).await.is_err(), refused, "{body} {wanted:?}");
    }
    // A server's own grant type is held to less (Auth0's Token Vault).
    let (directory, _server, mut spec) = scripted(move |_, _| answer(200, without)).await;
    let own =
        TokenExchange { grant_type: "urn:auth0:own".to_owned(), ..exchange(Input::Source(file(&directory, "s", "s"))) };
    step(&mut spec).grant = Grant::TokenExchange(Box::new(own));
    assert!(one(&spec).await.is_ok());
}

/// Another credential's token is the subject; when that one is renewed, so is this one.
#[tokio::test]
async fn another_credential_feeds_an_exchange() {
    let (_directory, server, first) = scripted(|seen, number| match seen.form()["grant_type"].as_str() {
        "client_credentials" => token(&format!("first-{number}"), 3600),
        _ => answer(200, ISSUED),
    })
    .await;
    let mut second = first.clone();
    second.name = name("second");
    let subject = Input::Credential { name: name("orders"), which: Which::AccessToken };
    step(&mut second).grant = Grant::TokenExchange(Box::new(exchange(subject)));
    let broker = broker(&[&first, &second]);
    assert_eq!(field(&lease(&broker, "second", 1).await.unwrap()), "Bearer exchanged");
    assert_eq!(server.seen()[1].form()["subject_token"], "first-0");
    assert_eq!(field(&lease(&broker, "orders", 0).await.unwrap()), "Bearer first-0");
    assert_eq!(server.token_requests(), 2);
}

/// … and when its token isn't taken any more, it is renewed once.
#[tokio::test]
async fn a_subject_that_is_refused_is_replaced_once() {
    let (_directory, server, first) =
        scripted(|seen, number| match seen.form().get("subject_token").map(String::as_str) {
            None => token(&format!("first-{number}"), 3600),
            Some("first-0") => answer(400, r#"{"error":"invalid_grant"}"#),
            Some(_) => answer(200, ISSUED),
        })
        .await;
    let mut second = first.clone();
    second.name = name("second");
    let subject = Input::Credential { name: name("orders"), which: Which::AccessToken };
    step(&mut second).grant = Grant::TokenExchange(Box::new(exchange(subject)));
    assert_eq!(field(&lease(&broker(&[&first, &second]), "second", 1).await.unwrap()), "Bearer exchanged");
    let subjects: Vec<Option<String>> =
        server.seen().iter().map(|seen| seen.form().get("subject_token").cloned()).collect();
    assert_eq!(subjects, [None, Some("first-0".to_owned()), None, Some("first-2".to_owned())]);
}

/// The agent's own token, by explicit opt-in: each subject has a token of its own, and who
/// sends none gets none.
#[tokio::test]
async fn an_agents_token_is_exchanged_for_that_agent_only() {
    let (_directory, server, mut spec) = scripted(|seen, _| {
        let subject = &seen.form()["subject_token"];
        answer(200, &ISSUED.replace("exchanged", &format!("for-{subject}")))
    })
    .await;
    step(&mut spec).grant = Grant::TokenExchange(Box::new(exchange(Input::Agent)));
    let broker = broker(&[&spec]);
    let (alice, bob) = (Secret::new("alice".to_owned()), Secret::new("bob".to_owned()));
    for _ in 0..2 {
        for (subject, wanted) in [(&alice, "Bearer for-alice"), (&bob, "Bearer for-bob")] {
            let asking = Asking { subject: Some(subject), ..Asking::default() };
            let got = within(LIMIT, broker.lease_bound(&binding("orders", 0), asking)).await.unwrap();
            assert_eq!(field(&got), wanted);
        }
    }
    assert_eq!(server.token_requests(), 2);
    let nobody = lease(&broker, "orders", 0).await.unwrap_err();
    assert!(nobody.to_string().contains("sent no token"), "{nobody}");
    assert_eq!(server.token_requests(), 2);
}

// === steps ===

/// 1.S: an ID-JAG from the identity provider is the assertion at the resource's server. While
/// it is good it is used again; a server that doesn't take it any more gets a fresh one, once.
#[tokio::test]
async fn a_step_feeds_the_next_one() {
    let refuse = Arc::new(AtomicUsize::new(0));
    let (directory, server, mut spec) = scripted({
        let refuse = refuse.clone();
        move |seen, number| match seen.form()["grant_type"].as_str() {
            token_exchange::GRANT_TYPE => answer(
                200,
                &format!(
                    r#"{{"access_token":"jag-{number}","token_type":"N_A","expires_in":300,
                        "issued_token_type":"urn:ietf:params:oauth:token-type:id-jag"}}"#
                ),
            ),
            _ if refuse.load(Ordering::SeqCst) > 0 => {
                refuse.fetch_sub(1, Ordering::SeqCst);
                answer(400, r#"{"error":"invalid_grant"}"#)
            }
            _ => token(&format!("final-{number}"), 3600),
        }
    })
    .await;
    let first = step(&mut spec);
    first.grant = Grant::TokenExchange(Box::new(TokenExchange {
        requested_token_type: Some("urn:ietf:params:oauth:token-type:id-jag".to_owned()),
        ..exchange(Input::Source(file(&directory, "id", "id.token.x")))
    }));
    first.ask.audience = vec!["https://resource-as.example/".to_owned()];
    first.ask.scopes.clear();
    let mut second = first.clone();
    second.grant =
        Grant::JwtBearer(JwtBearer { grant_type: jwt_bearer::GRANT_TYPE.to_owned(), assertion: Input::Previous });
    second.client.id = "client-at-the-resource".to_owned();
    second.ask.audience.clear();
    spec.steps.push(second);
    let broker = broker(&[&spec]);
    assert_eq!(field(&lease(&broker, "orders", 0).await.unwrap()), "Bearer final-1");
    let form = server.seen()[1].form();
    assert_eq!((form["assertion"].as_str(), form["client_id"].as_str()), ("jag-0", "client-at-the-resource"));
    let kinds = || -> Vec<bool> {
        server.seen().iter().map(|seen| seen.form()["grant_type"] == token_exchange::GRANT_TYPE).collect()
    };
    // An operator's refresh begins at the beginning.
    within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
    assert_eq!(kinds(), [true, false, true, false]);
    // A token that the upstream refused is replaced with the ID-JAG at hand …
    let renew =
        async |lease: &Lease| within(LIMIT, broker.renew_bound(&binding("orders", 0), Asking::default(), lease)).await;
    let current = lease(&broker, "orders", 0).await.unwrap();
    refuse.store(1, Ordering::SeqCst);
    let renewed = renew(&current).await.unwrap().unwrap();
    // … which the server doesn't take any more: another one, and then it works.
    assert_eq!(kinds(), [true, false, true, false, false, true, false]);
    assert_eq!(field(&renewed), "Bearer final-6");
}

/// What is an input for another step goes into no request (A6).
#[tokio::test]
async fn an_input_is_no_token() {
    let (directory, _server, mut spec) = scripted(|_, _| answer(200, &ISSUED.replace("Bearer", "N_A"))).await;
    step(&mut spec).grant = Grant::TokenExchange(Box::new(exchange(Input::Source(file(&directory, "s", "s")))));
    assert!(matches!(misbehaviour(&one(&spec).await.unwrap_err()), Misbehaviour::NotForRequests));
}

// === assertions ===

/// E1, E3, E6: a client that signs, and a grant that is signed; a new one each time.
#[tokio::test]
async fn assertions_are_signed_anew_for_each_request() {
    let (directory, server, mut spec) = scripted(|_, number| token(&format!("t{number}"), 3600)).await;
    let aud = AudMode::Literal("https://as.example/".to_owned());
    let client = Assertion { keys: vec![private_key(&directory, "client")], aud, ..Assertion::default() };
    let made = Assertion {
        keys: vec![private_key(&directory, "grant")],
        iss: Some("service@example".to_owned()),
        sub: Some("user@example".to_owned()),
        aud: AudMode::TokenEndpoint,
        scope_claim: true,
        claims: vec![("tenant".to_owned(), json!("t1"))],
        ..Assertion::default()
    };
    step(&mut spec).client.auth = ClientAuth::PrivateKeyJwt(Box::new(client));
    step(&mut spec).grant = Grant::JwtBearer(JwtBearer {
        grant_type: jwt_bearer::GRANT_TYPE.to_owned(),
        assertion: Input::Jwt(Box::new(made)),
    });
    let broker = broker(&[&spec]);
    lease(&broker, "orders", 0).await.unwrap();
    within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
    let forms: Vec<_> = server.seen().iter().map(Seen::form).collect();
    let (header, claims) = jwt(&forms[0]["client_assertion"]);
    assert_eq!((&header["alg"], &header["kid"], &header["typ"]), (&json!("ES256"), &json!("client"), &json!("JWT")));
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["aud"]),
        (&json!("client-1"), &json!("client-1"), &json!("https://as.example/"))
    );
    assert_eq!(forms[0]["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    assert!(!forms[0].contains_key("client_secret"));
    let (_, grant) = jwt(&forms[0]["assertion"]);
    assert_eq!(
        (&grant["iss"], &grant["sub"], &grant["tenant"]),
        (&json!("service@example"), &json!("user@example"), &json!("t1"))
    );
    assert_eq!(
        (grant["aud"].as_str().unwrap(), grant["scope"].as_str()),
        (server.url("/token").as_str(), Some("read:orders list"))
    );
    let mut ids: Vec<String> = Vec::new();
    for form in &forms {
        ids.extend([&form["client_assertion"], &form["assertion"]].map(|text| jwt(text).1["jti"].to_string()));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

/// E5.
#[tokio::test]
async fn a_secret_signs_too() {
    let (directory, server, mut spec) = scripted(|_, _| token("t", 3600)).await;
    let secret = "a secret of thirty-two bytes, or more".to_owned();
    let secrets = vec![file(&directory, "s", &secret)];
    let claims = Box::new(Assertion { aud: AudMode::TokenEndpoint, ..Assertion::default() });
    step(&mut spec).client.auth = ClientAuth::SecretJwt { secrets, algorithm: Algorithm::Hs256, claims };
    one(&spec).await.unwrap();
    let text = server.seen()[0].form()["client_assertion"].clone();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.set_audience(&[server.url("/token")]);
    validation.validate_exp = false;
    let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
    let claims = jsonwebtoken::decode::<Value>(&text, &key, &validation).unwrap().claims;
    assert_eq!(claims["sub"], "client-1");
}

/// The server's clock is ahead: its `Date` is believed once, and the next assertion is timed
/// by it (standards 1.A's table).
#[tokio::test]
async fn an_assertion_is_signed_again_by_the_servers_clock() {
    let (directory, server, mut spec) = scripted(|_, number| match number {
        0 => {
            let date = httpdate::fmt_http_date(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_100));
            Act::Answer(401, vec![("date", date)], r#"{"error":"invalid_client"}"#.to_owned())
        }
        _ => token("t", 3600),
    })
    .await;
    let aud = AudMode::TokenEndpoint;
    let client = Assertion { keys: vec![private_key(&directory, "client")], aud, ..Assertion::default() };
    step(&mut spec).client.auth = ClientAuth::PrivateKeyJwt(Box::new(client));
    one(&spec).await.unwrap();
    let issued: Vec<u64> =
        server.seen().iter().map(|seen| jwt(&seen.form()["client_assertion"]).1["iat"].as_u64().unwrap()).collect();
    assert_eq!(issued, [1_800_000_000, 1_800_000_100]);
}

/// E7: the assertion as RFC 7522 wants it; one that has ended is asked for again.
#[tokio::test]
async fn a_saml_assertion_that_ended_is_not_sent() {
    let (directory, server, mut spec) = scripted(|_, _| token("t", 3600)).await;
    let ended = r#"<a NotOnOrAfter="2020-01-01T00:00:00Z"/>"#;
    let good = r#"<a NotOnOrAfter="2099-01-01T00:00:00Z"/>"#;
    // Gives the ended one first, the good one then.
    let marker = directory.path().join("asked");
    let script = format!("if [ -e {0} ]; then echo '{good}'; else touch {0}; echo '{ended}'; fi", marker.display());
    let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let assertion = Source::Command { argv, ttl: Duration::from_secs(3600) };
    step(&mut spec).grant = Grant::Saml2Bearer(Saml2Bearer { assertion });
    one(&spec).await.unwrap();
    let form = server.seen()[0].form();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:saml2-bearer");
    assert_eq!(form["assertion"], URL_SAFE_NO_PAD.encode(good));
    let mut never = spec;
    step(&mut never).grant = Grant::Saml2Bearer(Saml2Bearer { assertion: file(&directory, "ended", ended) });
    let error = one(&never).await.unwrap_err();
    assert!(error.to_string().contains("has ended"), "{error}");
    assert_eq!(server.token_requests(), 1);
}

// === no server, and other servers ===

#[tokio::test]
async fn tokens_that_need_no_server() {
    let (directory, server, mut spec) = scripted(|_, _| Act::Hang).await;
    let secret = file(&directory, "static", "one");
    step(&mut spec).server = None;
    step(&mut spec).grant = Grant::Static { token: secret, name: "static" };
    spec.injection =
        Injection { field: http::HeaderName::from_static("x-api-key"), template: Template::parse("{token}").unwrap() };
    spec.default_ttl = Duration::from_secs(1);
    let broker = broker(&[&spec]);
    let got = lease(&broker, "orders", 0).await.unwrap();
    assert_eq!((got.field().unwrap().0.as_str(), field(&got)), ("x-api-key", "one"));
    // Read anew: a secret that was replaced is taken without a restart.
    std::fs::write(directory.path().join("static"), "two").unwrap();
    within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
    assert_eq!(field(&lease(&broker, "orders", 0).await.unwrap()), "two");

    let made = Assertion {
        keys: vec![private_key(&directory, "google")],
        iss: Some("sa@example".to_owned()),
        aud: AudMode::Literal("https://api.example/".to_owned()),
        lifetime: Duration::from_secs(3600),
        ..Assertion::default()
    };
    step(&mut spec).grant = Grant::SelfSignedJwt(Box::new(made));
    spec.injection = Injection::default();
    let got = one(&spec).await.unwrap();
    let (_, claims) = jwt(field(&got).strip_prefix("Bearer ").unwrap());
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("sa@example"), &json!("https://api.example/")));
    assert!(server.seen().is_empty());
}

/// GitHub's installations: a JWT in `Authorization`, JSON in and out, 201, a moment as the end.
#[tokio::test]
async fn an_http_answer_that_is_no_token_endpoints() {
    let (directory, server, mut spec) = scripted(|_, _| {
        answer(201, r#"{"token":"ghs_1_a.b.c","expires_at":"2027-01-15T09:00:00Z","permissions":{"contents":"read"}}"#)
    })
    .await;
    let made = Assertion {
        keys: vec![private_key(&directory, "app")],
        iss: Some("Iv1.app".to_owned()),
        aud: AudMode::Absent,
        backdate: Duration::from_secs(60),
        lifetime: Duration::from_secs(540),
        jti: false,
        ..Assertion::default()
    };
    let step = step(&mut spec);
    step.grant = Grant::Http(Box::new(HttpSource {
        name: "github_app",
        authorization: Some(Input::Jwt(Box::new(made))),
        json: Some(json!({"repositories": ["cup"]})),
    }));
    step.client = Client::default();
    step.ask = crate::credential::step::Ask {
        headers: vec![(http::header::ACCEPT, http::HeaderValue::from_static("application/vnd.github+json"))],
        ..Default::default()
    };
    step.answer = AnswerFormat {
        token: Some("/token".to_owned()),
        expires_at: Some("/expires_at".to_owned()),
        bearer: true,
        ..AnswerFormat::default()
    };
    let broker = broker(&[&spec]);
    assert_eq!(field(&lease(&broker, "orders", 0).await.unwrap()), "Bearer ghs_1_a.b.c");
    // The wall clock of the tests says 2027-01-15T08:00:00Z.
    let expires = broker.states()[0].expires_in_seconds.unwrap();
    assert!((3590..=3600).contains(&expires), "{expires}");
    let seen = &server.seen()[0];
    assert_eq!(
        (seen.header("accept"), seen.header("content-type")),
        ("application/vnd.github+json", "application/json")
    );
    assert_eq!(seen.body, r#"{"repositories":["cup"]}"#);
    let (_, claims) = jwt(seen.header("authorization").strip_prefix("Bearer ").unwrap());
    assert_eq!(claims, json!({"iss": "Iv1.app", "iat": 1_799_999_940, "exp": 1_800_000_540}));
}
