//! Every other way to a token: what each grant and each client authentication sends, and the
//! single retries that the standards allow (standards 1.A, 1.E, 1.I, 1.J, 1.N, 1.S).

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
        client_auth::{BasicEncoding, Client, ClientAuth},
        error::{Failure, Misbehaviour},
        grant::{
            Ciba, Grant, HttpSource, JwtBearer, Saml2Bearer, Subject, TokenExchange, ciba, jwt_bearer, token_exchange,
        },
        inject::Template,
        sign::Algorithm,
        step::{AnswerFormat, Assertion, AudMode, DpopUse, Input, KeySource, Which},
        testing::{Act, AuthServer, Seen, answer, binding, field, name, settings, shared, step, token, within},
    },
    primitives::Secret,
};

const LIMIT: Duration = Duration::from_secs(60);

fn broker(specs: &[&Spec]) -> Broker {
    Broker::with_shared(specs.iter().map(|&spec| spec.clone()).collect(), shared(settings())).unwrap()
}

async fn lease(broker: &Broker, credential: &str, id: usize) -> Result<Lease, Error> {
    within(LIMIT, broker.lease_bound(&binding(credential, id), Asking::default())).await
}

async fn one(spec: &Spec) -> Result<Lease, Error> {
    lease(&broker(&[spec]), "orders", 0).await
}

async fn scripted(
    script: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static,
) -> (tempfile::TempDir, AuthServer, Spec) {
    let server = AuthServer::start(script).await;
    let (directory, spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    (directory, server, spec)
}

fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> Source {
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
fn jwt(text: &str) -> (Value, Value) {
    let part = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let parts: Vec<&str> = text.split('.').collect();
    assert_eq!(parts.len(), 3, "{text}");
    (part(parts[0]), part(parts[1]))
}

fn misbehaviour(error: &Error) -> &Misbehaviour {
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
            let asking = Asking { subject: Some(subject) };
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

// === two secrets ===

/// A secret that was rotated at the server costs no failed request: the other one is tried
/// once, and remembered.
#[tokio::test]
async fn the_other_secret_is_tried_once_and_remembered() {
    for (status, body) in
        [(401, r#"{"error":"invalid_client"}"#), (401, r#"{"error":"access_denied"}"#), (403, ""), (401, "")]
    {
        let (directory, server, mut spec) = scripted(move |seen, number| match seen.form()["client_secret"].as_str() {
            "old" => answer(status, body),
            _ => token(&format!("t{number}"), 3600),
        })
        .await;
        let secrets = vec![file(&directory, "old", "old"), file(&directory, "new", "new")];
        step(&mut spec).client.auth = ClientAuth::SecretPost { secrets };
        let broker = broker(&[&spec]);
        lease(&broker, "orders", 0).await.unwrap();
        within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
        let tried: Vec<String> = server.seen().iter().map(|seen| seen.form()["client_secret"].clone()).collect();
        assert_eq!(tried, ["old", "new", "new"], "{status} {body}");
    }
}

/// Both are wrong: two requests, not a storm; and a refusal that is about something else is no
/// reason to try the other one.
#[tokio::test]
async fn two_wrong_secrets_are_two_requests() {
    for (body, requests) in [(r#"{"error":"invalid_client"}"#, 2), (r#"{"error":"invalid_scope"}"#, 1)] {
        let (directory, server, mut spec) = scripted(move |_, _| answer(400, body)).await;
        let secrets = vec![file(&directory, "a", "a"), file(&directory, "b", "b")];
        step(&mut spec).client.auth = ClientAuth::SecretBasic { secrets, encoding: BasicEncoding::Raw };
        let error = one(&spec).await.unwrap_err();
        assert!(matches!(&*error.failure, Failure::Refused { .. }), "{error:?}");
        assert_eq!(server.token_requests(), requests, "{body}");
    }
}

// === proofs ===

/// 1.N at the authorization server: the nonce of a refusal is used at once, each attempt has a
/// proof of its own, and a downgrade is refused where it is said so.
#[tokio::test]
async fn a_proof_for_every_attempt() {
    let (_directory, server, mut spec) = scripted(|_, number| {
        let nonce = vec![("dpop-nonce", format!("n{number}"))];
        let body = match number {
            0 => return Act::Answer(400, nonce, r#"{"error":"use_dpop_nonce"}"#.to_owned()),
            2 => r#"{"access_token":"b","token_type":"Bearer","expires_in":3600}"#.to_owned(),
            number => format!(r#"{{"access_token":"t{number}","token_type":"DPoP","expires_in":3600}}"#),
        };
        Act::Answer(200, nonce, body)
    })
    .await;
    step(&mut spec).dpop = DpopUse::Required;
    let broker = broker(&[&spec]);
    let got = lease(&broker, "orders", 0).await.unwrap();
    assert_eq!((field(&got), got.is_bound_to_key()), ("DPoP t1", true));
    let error = within(LIMIT, broker.refresh(&name("orders"))).await.unwrap_err();
    assert!(matches!(misbehaviour(&error), Misbehaviour::Downgrade));
    let proofs: Vec<(Value, Value)> = server.seen().iter().map(|seen| jwt(seen.header("dpop"))).collect();
    let nonces: Vec<&Value> = proofs.iter().map(|(_, claims)| &claims["nonce"]).collect();
    assert_eq!(nonces, [&Value::Null, &json!("n0"), &json!("n1")]);
    let mut ids: Vec<String> = proofs.iter().map(|(_, claims)| claims["jti"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert!(proofs.iter().all(|(header, _)| header["jwk"] == proofs[0].0["jwk"]), "one key");
    assert_eq!(proofs[0].1["htu"], server.url("/token"));
}

/// The server says `use_dpop_nonce` without end: it is asked twice, not for ever.
#[tokio::test]
async fn a_nonce_is_tried_once_a_question() {
    let (_directory, server, mut spec) = scripted(|_, number| {
        Act::Answer(400, vec![("dpop-nonce", format!("n{number}"))], r#"{"error":"use_dpop_nonce"}"#.to_owned())
    })
    .await;
    step(&mut spec).dpop = DpopUse::Required;
    one(&spec).await.unwrap_err();
    assert_eq!(server.token_requests(), 2);
}

/// Where no proof was asked for, none is sent, and a token that wants one is refused.
#[tokio::test]
async fn a_key_that_nobody_asked_for() {
    let (_directory, server, spec) = scripted(|_, _| answer(200, r#"{"access_token":"t","token_type":"DPoP"}"#)).await;
    assert!(matches!(misbehaviour(&one(&spec).await.unwrap_err()), Misbehaviour::UnaskedDpop));
    assert!(!server.seen()[0].headers.contains_key("dpop"));
}

/// A token that is bound to a key comes back after a restart with the key.
#[tokio::test]
async fn a_kept_token_keeps_its_key() {
    let (_directory, server, mut spec) =
        scripted(|_, _| answer(200, r#"{"access_token":"t","token_type":"DPoP","expires_in":3600}"#)).await;
    step(&mut spec).dpop = DpopUse::Preferred;
    let store: Arc<dyn crate::credential::store::Store> = Arc::new(crate::credential::store::Memory::default());
    let key = async || {
        let broker = Broker::with_store(vec![spec.clone()], shared(settings()), store.clone()).unwrap();
        let lease = lease(&broker, "orders", 0).await.unwrap();
        let mut fields = http::HeaderMap::new();
        let authority = crate::primitives::Authority::parse("api.example:443", None).unwrap();
        let to = crate::credential::Recipient {
            method: &http::Method::GET,
            scheme: crate::route::Scheme::Https,
            authority: &authority,
            path: "/",
            htu_base: None,
        };
        lease.authorize(&mut fields, &to).unwrap();
        let (header, claims) = jwt(fields["dpop"].to_str().unwrap());
        assert_eq!(fields["authorization"], "DPoP t");
        assert_eq!(claims["ath"], URL_SAFE_NO_PAD.encode(crate::primitives::sha256(b"t")));
        header["jwk"].clone()
    };
    assert_eq!(key().await, key().await);
    assert_eq!(server.token_requests(), 1);
}

// === scopes ===

/// One credential, two routes, two tokens; and more scopes where the route allows them.
#[tokio::test]
async fn each_route_has_its_scopes() {
    let (_directory, server, spec) = scripted(|seen, _| token(&seen.form()["scope"].replace(' ', "+"), 3600)).await;
    let mut narrow = spec.clone();
    narrow.scopes = Some(vec!["list".to_owned()]);
    narrow.max_scopes = vec!["list".to_owned(), "write:orders".to_owned()];
    let broker = broker(&[&spec, &narrow]);
    assert_eq!(field(&lease(&broker, "orders", 0).await.unwrap()), "Bearer read:orders+list");
    let first = lease(&broker, "orders", 1).await.unwrap();
    assert_eq!(field(&first), "Bearer list");
    let step_up = async |lease: &Lease, scopes: &[&str]| {
        let scopes: Vec<String> = scopes.iter().map(|&scope| scope.to_owned()).collect();
        within(LIMIT, broker.step_up_bound(&binding("orders", 1), Asking::default(), lease, &scopes)).await.unwrap()
    };
    assert!(step_up(&first, &["admin"]).await.is_none(), "not within max_scopes");
    assert!(step_up(&first, &[]).await.is_none());
    let second = step_up(&first, &["write:orders"]).await.unwrap();
    assert_eq!(field(&second), "Bearer list+write:orders");
    assert!(step_up(&second, &["write:orders"]).await.is_none(), "it has them");
    // The union stays, and the other route's token is what it was.
    assert_eq!(field(&lease(&broker, "orders", 1).await.unwrap()), "Bearer list+write:orders");
    assert_eq!(field(&lease(&broker, "orders", 0).await.unwrap()), "Bearer read:orders+list");
    assert_eq!(server.token_requests(), 3);
}

// === approvals ===

/// 1.I: one hint, the message made harmless, then polls until the human has decided.
#[tokio::test]
async fn a_human_approves() {
    let polls = Arc::new(AtomicUsize::new(0));
    let (_directory, server, mut spec) = scripted({
        let polls = polls.clone();
        move |seen, _| match seen.path.as_str() {
            "/bc-authorize" => answer(200, r#"{"auth_req_id":"req-1","expires_in":300,"interval":0}"#),
            _ => match polls.fetch_add(1, Ordering::SeqCst) {
                0 => answer(400, r#"{"error":"authorization_pending"}"#),
                _ => token("approved", 3600),
            },
        }
    })
    .await;
    let mut at = (**step(&mut spec).server.as_ref().unwrap()).clone();
    at.endpoints = vec![(crate::credential::EndpointKind::BackchannelAuthentication, server.url("/bc-authorize"))];
    step(&mut spec).server = Some(Arc::new(at));
    step(&mut spec).grant = Grant::Ciba(Box::new(Ciba {
        hint: ciba::Hint::LoginHint(r#"{"format":"iss_sub"}"#.to_owned()),
        binding_message: Some("orders: <write>".to_owned()),
        requested_expiry: Some(120),
    }));
    step(&mut spec).ask.scopes = vec!["openid".to_owned()];
    assert_eq!(field(&one(&spec).await.unwrap()), "Bearer approved");
    let begun = server.seen()[0].form();
    assert_eq!((begun["binding_message"].as_str(), begun["scope"].as_str()), ("orders: -write-", "openid"));
    assert_eq!((begun["login_hint"].as_str(), begun["requested_expiry"].as_str()), (r#"{"format":"iss_sub"}"#, "120"));
    let poll = server.seen()[2].form();
    assert_eq!(
        (poll["grant_type"].as_str(), poll["auth_req_id"].as_str()),
        ("urn:openid:params:grant-type:ciba", "req-1")
    );
    assert_eq!(poll["client_secret"], crate::credential::testing::SECRET);
}

#[tokio::test]
async fn a_human_denies() {
    let (_directory, server, mut spec) = scripted(|seen, _| match seen.path.as_str() {
        "/bc-authorize" => answer(200, r#"{"auth_req_id":"req-1","expires_in":300,"interval":0}"#),
        _ => answer(403, r#"{"error":"access_denied"}"#),
    })
    .await;
    let mut at = (**step(&mut spec).server.as_ref().unwrap()).clone();
    at.endpoints = vec![(crate::credential::EndpointKind::BackchannelAuthentication, server.url("/bc-authorize"))];
    step(&mut spec).server = Some(Arc::new(at));
    let hint = ciba::Hint::LoginHint("user".to_owned());
    step(&mut spec).grant = Grant::Ciba(Box::new(Ciba { hint, binding_message: None, requested_expiry: None }));
    step(&mut spec).ask.scopes = vec!["openid".to_owned()];
    let error = one(&spec).await.unwrap_err();
    assert_eq!((error.code(), error.wants_a_human()), ("approval_denied", true));
    assert_eq!(server.token_requests(), 1, "nobody is asked twice");
}
