//! Logins on another device (RFC 8628). How polling keeps time is tested where it is written.

use super::*;
use crate::credential::{
    error::{Failure, Misbehaviour},
    testing::SECRET,
};

/// RFC 8628 §3.1 to §3.5.
#[tokio::test]
async fn a_login_on_another_device() {
    let server = server(json!({}), |seen, number| match (seen.path.as_str(), number) {
        ("/token", 2) => Some(answer(403, r#"{"error":"authorization_pending"}"#)),
        ("/device", _) => Some(answer(
            200,
            &begun(json!({ "verification_uri_complete": "https://as.example/activate?user_code=WDJB-MJHT" }))
                .to_string(),
        )),
        _ => None,
    })
    .await;
    let (_directory, mut spec) = login_spec(&server, LoginKind::DeviceCode);
    step(&mut spec).ask.resource = vec!["https://orders.example.com/v1".to_owned()];
    let broker = broker(&[spec], &memory(), settings());
    let params = vec![("acr_values".to_owned(), "phr".to_owned())];
    let mut attempt = Attempt::start(&broker, Options { params, ..Options::default() });
    let code = attempt.code().await;
    assert_eq!((code.url.as_str(), code.code.as_str()), ("https://as.example/activate", "WDJB-MJHT"));
    assert_eq!(code.complete_url.as_deref(), Some("https://as.example/activate?user_code=WDJB-MJHT"));
    assert!((595..=600).contains(&code.expires_in.as_secs()), "{code:?}");
    attempt.ended().await.unwrap();
    let seen = server.seen();
    let asked = seen[1].form();
    let wanted = [
        ("client_id", "client-1"),
        ("client_secret", SECRET),
        ("scope", "read:orders list offline_access"),
        ("audience", "https://orders.example.com"),
        ("resource", "https://orders.example.com/v1"),
        ("acr_values", "phr"),
    ];
    assert_eq!((seen[1].path.as_str(), asked.len()), ("/device", wanted.len()), "{asked:?}");
    for (name, value) in wanted {
        assert_eq!(asked[name], value, "{name}");
    }
    assert_eq!(server.token_requests(), 2);
    for poll in &seen[2..] {
        let form = poll.form();
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:device_code");
        assert_eq!((form["device_code"].as_str(), form["client_id"].as_str()), ("canary-device-code", "client-1"));
        assert!(!form.contains_key("scope") && !form.contains_key("acr_values"), "{form:?}");
    }
    assert_eq!(login_state(&broker).await, "valid");
}

/// A credential that is for a browser, on a machine without one.
#[tokio::test]
async fn a_device_instead_of_a_browser() {
    let server = server(json!({ "code_challenge_methods_supported": ["plain"] }), |_, _| None).await;
    let (_directory, spec) = login_spec(&server, by_browser());
    let broker = broker(&[bound(spec)], &memory(), settings());
    let mut attempt = Attempt::start(&broker, Options { device: true, ..Options::default() });
    attempt.code().await;
    attempt.ended().await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[1].form()["prompt"], "consent", "what the config wants of the human");
    assert!(!seen[1].headers.contains_key("dpop") && seen[2].headers.contains_key("dpop"));
    assert_eq!(login_state(&broker).await, "valid");
}

#[tokio::test]
async fn what_a_human_cant_be_shown() {
    let bad: [(Value, &str); 6] = [
        (json!({ "user_code": "" }), "device_code"),
        (json!({ "device_code": "" }), "device_code"),
        (json!({ "device_code": null }), "device_code"),
        (json!({ "verification_uri": "javascript:alert(1)" }), "verification_uri"),
        (json!({ "verification_uri": "file:///etc/passwd" }), "verification_uri"),
        (json!({ "verification_uri": "not a page" }), "verification_uri"),
    ];
    for (more, lacks) in bad {
        let shown = begun(more.clone()).to_string();
        let server = server(json!({}), move |seen, _| (seen.path == "/device").then(|| answer(200, &shown))).await;
        let (_directory, spec) = login_spec(&server, LoginKind::DeviceCode);
        let broker = broker(&[spec], &memory(), settings());
        let error = Attempt::start(&broker, Options::default()).ended().await.unwrap_err();
        let fits = matches!(&*error.failure, Failure::Protocol(Misbehaviour::Lacks(what)) if *what == lacks);
        assert!(fits, "{more}: {error:?}");
    }
    // What can be made harmless is.
    let odd = json!({
        "user_code": "WDJB\u{1b}[2J\u{202e}",
        "verification_uri": "https://as.example/a\nb\u{1b}[2J",
        "verification_uri_complete": "data:text/html,x",
    });
    let server = server(json!({}), move |seen, _| {
        (seen.path == "/device").then(|| answer(200, &begun(odd.clone()).to_string()))
    })
    .await;
    let (_directory, spec) = login_spec(&server, LoginKind::DeviceCode);
    let broker = broker(&[spec], &memory(), settings());
    let mut attempt = Attempt::start(&broker, Options::default());
    let code = attempt.code().await;
    assert_eq!((code.url.as_str(), code.code.as_str()), ("https://as.example/ab%1B[2J", "WDJB [2J "));
    assert_eq!(code.complete_url, None);
    attempt.done.abort();
}

#[tokio::test]
async fn a_server_that_refuses_the_device() {
    let server = server(json!({}), |seen, _| {
        (seen.path == "/device").then(|| answer(401, r#"{"error":"unauthorized_client","error_description":"no"}"#))
    })
    .await;
    let (_directory, spec) = login_spec(&server, LoginKind::DeviceCode);
    let broker = broker(&[spec], &memory(), settings());
    let error = Attempt::start(&broker, Options::default()).ended().await.unwrap_err();
    assert!(matches!(&*error.failure, Failure::Refused { code, .. } if code == "unauthorized_client"), "{error:?}");
}
