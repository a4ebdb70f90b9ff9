//! Logins in a browser: the authorization request, the answer and whose it is, the code and
//! what is kept of it (RFC 6749 §4.1, 7636, 8252, 9207, 9449).

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;
use crate::{
    credential::{
        Asking,
        error::{Failure, Misbehaviour, SettingsError},
        login::hint,
        testing::{SECRET, binding, field},
        vault::Vault,
    },
    observe::{self, Recorder},
};

fn wrong(error: &Error) -> String {
    let Failure::Protocol(wrong) = &*error.failure else { panic!("{error:?}") };
    wrong.to_string()
}

/// RFC 6749 §4.1, RFC 7636, RFC 8252 §7.3, RFC 8707 §2.
#[tokio::test]
async fn a_login_from_the_page_to_the_kept_session() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, mut spec) = login_spec(&server, by_browser());
    step(&mut spec).ask.resource = vec!["https://orders.example.com/v1".to_owned()];
    let store = memory();
    let broker = broker(&[spec], &store, settings());
    assert_eq!(login_state(&broker).await, "needed");
    let mut attempt = Attempt::start(&broker, Options::default());
    let page = attempt.page().await;
    assert_eq!((page.url.host_str(), page.url.path()), (Some("as.example"), "/authorize"));
    let wanted = [
        ("tenant", "1"),
        ("response_type", "code"),
        ("client_id", "client-1"),
        ("scope", "read:orders list offline_access"),
        ("code_challenge_method", "S256"),
        ("resource", "https://orders.example.com/v1"),
        ("audience", "https://orders.example.com"),
        ("prompt", "consent"),
    ];
    for (name, value) in wanted {
        assert_eq!(page.params.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!page.params.contains_key("dpop_jkt") && page.params["state"].len() >= 43, "{:?}", page.params);
    let port = page.redirect_uri.strip_prefix("http://127.0.0.1:").unwrap().strip_suffix("/cb/orders").unwrap();
    assert!(port.parse::<u16>().unwrap() > 0);

    let (status, shown) = page.answer(&[("code", "canary-code+/=")]).await;
    assert_eq!(status, 200);
    assert!(!shown.contains("canary") && !shown.contains(&page.params["state"]), "{shown}");
    attempt.ended().await.unwrap();
    let form = server.seen().iter().find(|seen| seen.path == "/token").unwrap().form();
    let verifier = form["code_verifier"].clone();
    assert!((43..=128).contains(&verifier.len()), "{verifier}");
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    assert_eq!(page.params["code_challenge"], challenge);
    let wanted = [
        ("grant_type", "authorization_code"),
        ("code", "canary-code+/="),
        ("redirect_uri", page.redirect_uri.as_str()),
        ("resource", "https://orders.example.com/v1"),
        ("client_id", "client-1"),
        ("client_secret", SECRET),
    ];
    for (name, value) in wanted {
        assert_eq!(form.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!form.contains_key("scope") && !form.contains_key("prompt"), "{form:?}");

    let told = broker.login_state(&name("orders")).await.unwrap().unwrap();
    assert_eq!((told.state, told.generation, told.logged_in_at), ("valid", 1, Some(1_800_000_000)));
    let lease = within(LIMIT, broker.lease_bound(&binding("orders", 0), Asking::default())).await.unwrap();
    assert_eq!(field(&lease), "Bearer at-2", "by the refresh token");
    let form = server.seen().last().unwrap().form();
    assert_eq!((form["grant_type"].as_str(), form["refresh_token"].as_str()), ("refresh_token", "rt-1"));
}

/// Two logins have nothing in common.
#[tokio::test]
async fn state_verifier_and_port_are_good_once() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let broker = broker(&[spec], &memory(), settings());
    let (mut first, mut second) =
        (Attempt::start(&broker, Options::default()), Attempt::start(&broker, Options::default()));
    let (one, two) = (first.page().await, second.page().await);
    for name in ["state", "code_challenge", "redirect_uri"] {
        assert_ne!(one.params[name], two.params[name], "{name}");
    }
    // The one's answer is nothing to the other.
    let foreign = [("state", one.params["state"].as_str()), ("code", "c-1")];
    assert_eq!(two.bring(&foreign).await.0, 400);
    assert!(!second.done.is_finished() && server.token_requests() == 0);
    first.done.abort();
}

/// RFC 9207 §2.4, the table of standards 1.F.
#[tokio::test]
async fn the_issuer_of_an_answer() {
    let supported = json!({ "authorization_response_iss_parameter_supported": true });
    let isnt_ours = Some("its `iss` isn't the issuer that was asked");
    let (ours, normal, case) = ("{}", "{}/", "{upper}");
    let table = [
        (&supported, Some(ours), None),
        (&supported, Some("https://attacker.example"), isnt_ours),
        (&supported, Some(normal), isnt_ours),
        (&supported, Some(case), isnt_ours),
        (&supported, Some(""), isnt_ours),
        (&supported, None, Some("it has no `iss`")),
        (&json!({}), Some(ours), None),
        (&json!({}), Some("https://attacker.example"), isnt_ours),
        (&json!({}), Some(normal), isnt_ours),
        (&json!({}), None, None),
    ];
    for (more, iss, refused) in table {
        let server = server(more.clone(), |_, _| None).await;
        let (_directory, spec) = login_spec(&server, by_browser());
        let broker = broker(&[spec], &memory(), settings());
        let issuer = server.url("");
        let iss = iss.map(|iss| iss.replace("{}", &issuer).replace("{upper}", &issuer.replace("as.", "AS.")));
        for answer in [&[("code", "c-1")][..], &[("error", "canary_error"), ("error_description", "canary words")]] {
            let mut attempt = Attempt::start(&broker, Options::default());
            let with_iss: Vec<_> = iss.iter().map(|iss| ("iss", iss.as_str())).chain(answer.iter().copied()).collect();
            attempt.page().await.answer(&with_iss).await;
            let ended = attempt.ended().await;
            let is_error = answer[0].0 == "error";
            match (refused, ended) {
                (None, Ok(())) => assert!(!is_error),
                (None, Err(error)) => assert!(is_error && error.to_string().contains("`canary_error`: canary words")),
                (Some(why), Err(error)) => {
                    assert!(wrong(&error).contains(why), "{iss:?}: {error}");
                    let all = format!("{error} {error:?} {:?} {:?}", hint(&error), broker.told().await);
                    assert!(!all.contains("canary"), "a forged error is shown: {all}");
                }
                (Some(_), Ok(())) => panic!("{iss:?} was taken"),
            }
        }
        let requests = usize::from(refused.is_none());
        assert_eq!(server.token_requests(), requests, "{iss:?}");
    }
}

/// Without an issuer there is nothing to compare with.
#[tokio::test]
async fn endpoints_that_the_operator_names_need_no_metadata() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, mut spec) = login_spec(&server, by_browser());
    let mut named = (**step(&mut spec).server.as_ref().unwrap()).clone();
    named.location = Location::TokenEndpoint(server.url("/token"));
    named.endpoints = vec![(crate::credential::EndpointKind::Authorization, server.url("/elsewhere"))];
    step(&mut spec).server = Some(Arc::new(named));
    let broker = broker(&[spec], &memory(), settings());
    let mut attempt = Attempt::start(&broker, Options::default());
    let page = attempt.page().await;
    assert_eq!(page.url.path(), "/elsewhere");
    page.answer(&[("code", "c-1"), ("iss", "https://as.example")]).await;
    attempt.ended().await.unwrap();
    assert_eq!(server.seen().len(), 1, "only the token endpoint was asked");
}

/// 1.F: an answer without our state is nobody's, whatever else is in it.
#[tokio::test]
async fn a_wrong_state_changes_nothing() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let broker = broker(&[spec], &memory(), settings());
    let mut attempt = Attempt::start(&broker, Options::default());
    let page = attempt.page().await;
    let state = page.params["state"].as_str();
    let upper = state.to_uppercase();
    let forged: [&[(&str, &str)]; 6] = [
        &[("code", "stolen")],
        &[("code", "stolen"), ("state", "")],
        &[("code", "stolen"), ("state", &state[..42])],
        &[("code", "stolen"), ("state", &upper)],
        &[("code", "stolen"), ("state", state), ("state", state)],
        &[("error", "access_denied"), ("state", "x"), ("iss", "https://attacker.example")],
    ];
    for params in forged {
        let (status, shown) = page.bring(params).await;
        assert_eq!(status, 400, "{params:?}");
        assert!(!shown.contains("stolen") && !shown.contains("access_denied"), "{shown}");
    }
    assert!(!attempt.done.is_finished() && server.token_requests() == 0);
    assert_eq!(page.answer(&[("code", "c-1")]).await.0, 200);
    attempt.ended().await.unwrap();
    assert_eq!(server.token_requests(), 1);
}

#[tokio::test]
async fn a_second_answer_finds_nobody() {
    let server =
        server(json!({}), |seen, _| (seen.path == "/token").then(|| Act::Held(Box::new(granted(1, "Bearer"))))).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let broker = broker(&[spec], &memory(), settings());
    let mut attempt = Attempt::start(&broker, Options::default());
    let page = attempt.page().await;
    assert_eq!(page.answer(&[("code", "c-1")]).await.0, 200);
    // The code is being redeemed now, and nobody listens any more.
    while server.token_requests() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(get(&format!("{}?code=c-2&state={}", page.redirect_uri, page.params["state"])).await.is_err());
    server.release(1);
    attempt.ended().await.unwrap();
    assert_eq!(server.token_requests(), 1);
}

#[tokio::test]
async fn what_the_server_says_at_the_redirect() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let broker = broker(&[spec], &memory(), settings());
    let mut attempt = Attempt::start(&broker, Options::default());
    let words = "no\r\n\u{1b}[31m such \u{202e}audience";
    attempt.page().await.answer(&[("error", "access_denied\n"), ("error_description", words), ("code", "c")]).await;
    let error = attempt.ended().await.unwrap_err();
    let text = error.failure.describe();
    assert!(text.contains("`access_denied `: no   [31m such  audience"), "{text}");
    assert!(hint(&error).unwrap().as_str().contains("cupbearer login orders"));

    for (answer, why) in [
        (&[("x", "y")][..], "it has no `code`"),
        (&[("code", "a"), ("code", "b")], "twice"),
        (&[("code", "a"), ("iss", "a"), ("iss", "b")], "twice"),
    ] {
        let mut attempt = Attempt::start(&broker, Options::default());
        attempt.page().await.answer(answer).await;
        assert!(wrong(&attempt.ended().await.unwrap_err()).contains(why), "{answer:?}");
    }
    assert_eq!(server.token_requests(), 0);
}

/// RFC 7636 §4.2; metadata that says nothing of PKCE isn't one that refuses it.
#[tokio::test]
async fn no_s256_no_login() {
    for (methods, goes) in [
        (json!(["plain"]), false),
        (json!([]), false),
        (json!(["s256"]), false),
        (json!(null), true),
        (json!(["S256"]), true),
    ] {
        let server = server(json!({ "code_challenge_methods_supported": methods }), |_, _| None).await;
        let (_directory, spec) = login_spec(&server, by_browser());
        let broker = broker(&[spec], &memory(), settings());
        let mut attempt = Attempt::start(&broker, Options::default());
        if goes {
            attempt.page().await;
            attempt.done.abort();
            continue;
        }
        assert!(within(LIMIT, attempt.shown.recv()).await.is_none(), "{methods}: a page was shown");
        let error = attempt.ended().await.unwrap_err();
        assert!(matches!(&*error.failure, Failure::Settings(SettingsError::NoPkce)), "{methods}: {error:?}");
    }
}

#[tokio::test]
async fn parameters_are_replaced_and_never_ours() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let broker = broker(&[spec], &memory(), settings());
    let given = |params: &[(&str, &str)]| Options {
        params: params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Options::default()
    };
    let wanted = [("prompt", "login"), ("max_age", "0"), ("acr_values", "phr phrh"), ("audience", "https://other")];
    let mut attempt = Attempt::start(&broker, given(&wanted));
    let page = attempt.page().await;
    for (name, value) in wanted {
        assert_eq!(page.params[name], value);
    }
    attempt.done.abort();
    for name in
        ["state", "redirect_uri", "code_challenge", "code_challenge_method", "response_mode", "request", "scope"]
    {
        let error = Attempt::start(&broker, given(&[(name, "x")])).ended().await.unwrap_err();
        assert!(matches!(&*error.failure, Failure::Settings(SettingsError::ReservedParameter(_))), "{name}: {error}");
    }
    let error = Attempt::start(&broker, given(&[("a", "1"), ("a", "2")])).ended().await.unwrap_err();
    assert!(matches!(&*error.failure, Failure::Settings(SettingsError::RepeatedParameter(_))), "{error}");
    assert_eq!(server.seen().len(), 1, "the metadata only");
}

/// RFC 9449 §5, §10; standards 1.N: the key lives with the refresh token.
#[tokio::test]
async fn a_login_has_a_key_of_its_own() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let (spec, store) = (bound(spec), memory());
    let mut keys = Vec::new();
    let first = broker(std::slice::from_ref(&spec), &store, settings());
    for round in 0..2 {
        let mut attempt = Attempt::start(&first, Options::default());
        let page = attempt.page().await;
        keys.push(page.params["dpop_jkt"].clone());
        page.answer(&[("code", "c-1")]).await;
        attempt.ended().await.unwrap();
        assert_eq!(proof_key(&server.seen().pop().unwrap()), keys[round], "at the code exchange");
    }
    assert_ne!(keys[0], keys[1], "the former login's key was used again");
    // After a restart the refresh token is used with the key that it is bound to.
    let broker = broker(&[spec], &store, settings());
    within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
    let refresh = server.seen().pop().unwrap();
    assert_eq!(refresh.form()["grant_type"], "refresh_token");
    assert_eq!(proof_key(&refresh), keys[1]);
}

/// The thumbprint of the key that a request proves (RFC 7638 §3.2).
fn proof_key(seen: &Seen) -> String {
    let proof = seen.header("dpop");
    let head = URL_SAFE_NO_PAD.decode(proof.split('.').next().unwrap()).unwrap();
    let jwk = serde_json::from_slice::<Value>(&head).unwrap()["jwk"].clone();
    let member = |name: &str| jwk[name].as_str().unwrap().to_owned();
    let text = format!(
        r#"{{"crv":"{}","kty":"{}","x":"{}","y":"{}"}}"#,
        member("crv"),
        member("kty"),
        member("x"),
        member("y")
    );
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

#[tokio::test]
async fn what_a_login_has_to_bring() {
    type Case = (&'static str, Value, fn(&Failure) -> bool);
    let cases: [Case; 4] = [
        ("no refresh token", json!({ "refresh_token": null }), |failure| {
            matches!(failure, Failure::Protocol(Misbehaviour::Lacks("refresh_token")))
        }),
        (
            "fewer scopes",
            json!({ "scope": "list" }),
            |failure| matches!(failure, Failure::Protocol(Misbehaviour::ScopeNarrower { missing }) if missing == "read:orders"),
        ),
        ("another kind", json!({ "token_type": "DPoP" }), |failure| {
            matches!(failure, Failure::Protocol(Misbehaviour::UnaskedDpop))
        }),
        (
            "an error",
            json!({ "error": "invalid_grant", "error_description": "bad c-1" }),
            |failure| matches!(failure, Failure::Refused { code, detail } if code == "invalid_grant" && detail == "bad [secret]"),
        ),
    ];
    for (what, more, fits) in cases {
        let token = move |seen: &Seen, _: usize| {
            let mut body = json!({ "access_token": "at", "refresh_token": "rt", "token_type": "Bearer" });
            more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
            (seen.path == "/token").then(|| answer(if body["error"].is_null() { 200 } else { 400 }, &body.to_string()))
        };
        let server = server(json!({}), token).await;
        let (_directory, spec) = login_spec(&server, by_browser());
        let broker = broker(&[spec], &memory(), settings());
        let mut attempt = Attempt::start(&broker, Options::default());
        attempt.page().await.answer(&[("code", "c-1")]).await;
        let error = attempt.ended().await.unwrap_err();
        assert!(fits(&error.failure), "{what}: {error:?}");
        assert_eq!(login_state(&broker).await, "needed", "{what}");
    }
}

/// A downgrade at the code exchange (RFC 9449 §5).
#[tokio::test]
async fn a_bearer_token_where_a_bound_one_is_required() {
    let server = server(json!({}), |seen, _| (seen.path == "/token").then(|| granted(1, "Bearer"))).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let broker = broker(&[bound(spec)], &memory(), settings());
    let mut attempt = Attempt::start(&broker, Options::default());
    attempt.page().await.answer(&[("code", "c-1")]).await;
    assert!(wrong(&attempt.ended().await.unwrap_err()).contains("downgrade"));
    assert_eq!(login_state(&broker).await, "needed");
}

#[tokio::test]
async fn a_new_login_ends_the_former_one_and_what_came_of_it() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let mut other = spec.clone();
    other.name = name("archive");
    step(&mut other).ask.audience = vec!["https://archive.example.com".to_owned()];
    step(&mut other).grant =
        Grant::Login(Login { kind: LoginKind::RefreshToken, seed: None, of: Some(name("orders")) });
    let (specs, store) = ([spec, other], memory());
    let first = broker(&specs, &store, settings());
    log_in(&first).await;
    for credential in ["orders", "archive"] {
        within(LIMIT, first.refresh(&name(credential))).await.unwrap();
    }
    // At the other one's name it is the same login.
    let mut attempt = Attempt::start_for(&first, "archive", Options::default());
    let page = attempt.page().await;
    assert!(page.redirect_uri.ends_with("/cb/orders"));
    page.answer(&[("code", "c-2")]).await;
    attempt.ended().await.unwrap();
    let told = first.login_state(&name("archive")).await.unwrap().unwrap();
    assert_eq!((told.credential.as_str(), told.state), ("orders", "valid"));
    assert!(first.told().await.iter().all(|told| told.fingerprint.is_none()), "{:?}", first.told().await);
    // Nor after a restart: the next token is by the new refresh token.
    let second = broker(&specs, &store, settings());
    let lease = within(LIMIT, second.lease_bound(&binding("archive", 1), Asking::default())).await.unwrap();
    assert_eq!(field(&lease), "Bearer at-5");
    assert_eq!(server.seen().last().unwrap().form()["refresh_token"], "rt-4");
}

#[tokio::test]
async fn a_login_is_an_event_without_its_token() {
    let server = server(json!({}), |_, _| None).await;
    let (directory, spec) = login_spec(&server, by_browser());
    let path = directory.path().join("audit.jsonl");
    let recorder = Recorder::start(&observe::Settings { audit_log: Some(path.clone()), ..Default::default() }).unwrap();
    let mut shared = shared(settings());
    shared.recorder = recorder.clone();
    let broker = Broker::with_store(vec![spec], shared, memory()).unwrap();
    log_in(&broker).await;
    recorder.flush();
    let text = std::fs::read_to_string(path).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let told = broker.login_state(&name("orders")).await.unwrap().unwrap();
    assert_eq!((&line["event"], &line["credential"]), (&json!("login"), &json!("orders")));
    assert_eq!((&line["grant"], &line["token_fingerprint"]), (&json!("authorization_code"), &json!(told.fingerprint)));
    assert!(!text.contains("rt-1") && !text.contains("at-1"), "{text}");
}

/// A session that can't be read is made anew, as its error says.
#[tokio::test]
async fn a_damaged_session_is_replaced() {
    use crate::credential::{store::Change, vault::session_key};
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let store = memory();
    store.write(&[Change::Put(&session_key(&name("orders")), b"{}")]).unwrap();
    let broker = broker(&[spec], &store, settings());
    let error = within(LIMIT, broker.refresh(&name("orders"))).await.unwrap_err();
    assert!(error.failure.describe().contains("`cupbearer logout` and `login`"), "{error}");
    log_in(&broker).await;
    let kept = Vault::new(store).session(&name("orders")).await.unwrap().unwrap();
    assert_eq!(kept.refresh_token.unwrap().expose(), "rt-1");
}

#[tokio::test]
async fn who_needs_no_login_is_told() {
    let server = server(json!({}), |_, _| None).await;
    let (_directory, spec) = server.spec("orders", Location::Issuer(server.url("")));
    let mut seeded = spec.clone();
    seeded.name = name("seeded");
    step(&mut seeded).grant = Grant::Login(Login { kind: LoginKind::RefreshToken, seed: None, of: None });
    let broker = broker(&[spec, seeded], &memory(), settings());
    for credential in ["orders", "seeded"] {
        for device in [false, true] {
            let options = Options { device, ..Options::default() };
            let error = Attempt::start_for(&broker, credential, options).ended().await.unwrap_err();
            assert!(matches!(&*error.failure, Failure::Settings(SettingsError::NoLogin)), "{error:?}");
        }
    }
    assert!(broker.login_state(&name("orders")).await.unwrap().is_none());
    assert!(server.seen().is_empty());
}
