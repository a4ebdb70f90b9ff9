//! Discovery (standards 1.G, threat 104) against a scripted server.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use crate::credential::{
    Asking, Broker, Error, Lease, Location,
    error::{Failure, Misbehaviour, Outage},
    testing::{Act, AuthServer, HOST, answer, binding, name, settings, shared, token, within},
};

const LIMIT: Duration = Duration::from_secs(60);

/// A server whose metadata is made by `metadata(path, base)`; `None`: 404.
async fn start(metadata: impl Fn(&str, &str) -> Option<Act> + Send + Sync + 'static) -> AuthServer {
    AuthServer::start(move |seen, number| {
        let base = format!("https://{}", seen.header("host"));
        match seen.path.as_str() {
            "/token" => token(&format!("t{number}"), 3600),
            path => metadata(path, &base).unwrap_or_else(|| answer(404, "no")),
        }
    })
    .await
}

fn document(issuer: &str, base: &str) -> Act {
    answer(200, &format!(r#"{{"issuer":"{issuer}","token_endpoint":"{base}/token","x":[1]}}"#))
}

fn broker(server: &AuthServer, issuer: &str) -> (tempfile::TempDir, Broker) {
    let (directory, spec) = server.spec("orders", Location::Issuer(server.url(issuer)));
    (directory, Broker::with_shared(vec![spec], shared(settings())).unwrap())
}

async fn lease(broker: &Broker) -> Result<Lease, Error> {
    within(LIMIT, broker.lease_bound(&binding("orders", 0), Asking::default())).await
}

fn paths(server: &AuthServer) -> Vec<String> {
    server.seen().into_iter().map(|seen| seen.path).collect()
}

#[tokio::test]
async fn each_place_is_tried_in_order() {
    let places = [
        "/.well-known/oauth-authorization-server/t1",
        "/.well-known/openid-configuration/t1",
        "/t1/.well-known/openid-configuration",
    ];
    for (at, place) in places.into_iter().enumerate() {
        let server = start(move |path, base| (path == place).then(|| document(&format!("{base}/t1"), base))).await;
        let (_directory, broker) = broker(&server, "/t1");
        lease(&broker).await.unwrap();
        let mut wanted = places[..=at].to_vec();
        wanted.push("/token");
        assert_eq!(paths(&server), wanted);
    }
}

/// Metadata is fetched once, for all credentials of the server.
#[tokio::test]
async fn metadata_is_kept() {
    let server = start(|_, base| Some(document(&format!("{base}/"), base))).await;
    let (_directory, spec) = server.spec("orders", Location::Issuer(server.url("/")));
    let mut other = spec.clone();
    other.name = name("other");
    let broker = Broker::with_shared(vec![spec, other], shared(settings())).unwrap();
    let second = binding("other", 1);
    let (one, two) = tokio::join!(lease(&broker), broker.lease_bound(&second, Asking::default()));
    assert!(one.is_ok() && two.is_ok());
    within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
    assert_eq!(paths(&server).iter().filter(|path| path.as_str() != "/token").count(), 1);
    assert_eq!(server.token_requests(), 3);
}

/// Threat 104: to the character, the slash at the end included; the error shows both.
#[tokio::test]
async fn another_issuer_is_refused() {
    for found in ["", "/t1/", "/T1", "/t1?x", "/%741"] {
        let server = start(move |_, base| Some(document(&format!("{base}{found}"), base))).await;
        let (_directory, broker) = broker(&server, "/t1");
        let error = lease(&broker).await.unwrap_err();
        let base = server.url("");
        assert!(matches!(&*error.failure, Failure::Protocol(Misbehaviour::Issuer { .. })), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("`{base}/t1`")) && text.contains(&format!("`{base}{found}`")), "{text}");
        assert!(error.hint().as_str().contains("issuer"));
        assert_eq!(server.seen().len(), 1, "it ends there, and no secret is sent");
    }
}

#[tokio::test]
async fn a_4xx_is_elsewhere_and_a_5xx_is_the_end() {
    let server = start(|_, _| None).await;
    let (_directory, client) = broker(&server, "/t1");
    let error = lease(&client).await.unwrap_err();
    assert!(matches!(&*error.failure, Failure::Protocol(Misbehaviour::NoMetadata { .. })), "{error:?}");
    assert_eq!((server.seen().len(), error.is_temporary()), (3, false));

    for status in [500, 503, 429] {
        let server = start(move |_, _| Some(answer(status, ""))).await;
        let (_directory, client) = broker(&server, "/t1");
        let error = lease(&client).await.unwrap_err();
        assert!(matches!(*error.failure, Failure::Unavailable(Outage::Status(_))), "{error:?}");
        let first = "/.well-known/oauth-authorization-server/t1";
        assert!(paths(&server).iter().all(|path| path == first) && error.is_temporary());
    }
}

/// A page or a redirect where the first document would be, as some servers answer for
/// unknown paths: the next place counts; the redirect is not followed.
#[tokio::test]
async fn pages_and_redirects_are_not_metadata() {
    let attacker = AuthServer::start(|_, _| Act::Hang).await;
    let to = attacker.url("/");
    let server = start(move |path, base| {
        Some(match path {
            "/.well-known/oauth-authorization-server/t1" => {
                Act::Answer(302, vec![("location", to.clone())], String::new())
            }
            "/.well-known/openid-configuration/t1" => answer(200, "<html>"),
            _ => document(&format!("{base}/t1"), base),
        })
    })
    .await;
    let (_directory, broker) = broker(&server, "/t1");
    lease(&broker).await.unwrap();
    assert!(attacker.seen().is_empty());
}

#[tokio::test]
async fn endpoints_that_are_not_https_are_refused() {
    let table = [
        (r#","token_endpoint":"http://as.example/token""#, true),
        (r#","token_endpoint":"file:///etc/passwd""#, true),
        (r#","token_endpoint":"https://user:pass@as.example/token""#, true),
        (r#","token_endpoint":null"#, false),
        ("", false),
    ];
    for (member, named) in table {
        let server = start(move |_, base| Some(answer(200, &format!(r#"{{"issuer":"{base}/t1"{member}}}"#)))).await;
        let (_directory, broker) = broker(&server, "/t1");
        let error = lease(&broker).await.unwrap_err();
        let Failure::Protocol(fault) = &*error.failure else { panic!("{error:?}") };
        assert_eq!(matches!(fault, Misbehaviour::Endpoint(_)), named, "{error:?}");
        assert_eq!(matches!(fault, Misbehaviour::NoEndpoint(_)), !named, "{error:?}");
        assert_eq!(server.token_requests(), 0);
    }
}

/// After a day the document is asked for again by its ETag; while that fails the old one
/// serves.
#[tokio::test]
async fn old_metadata_is_checked_and_serves_meanwhile() {
    let status = Arc::new(AtomicU16::new(200));
    let server = AuthServer::start({
        let status = status.clone();
        move |seen, number| {
            let base = format!("https://{}", seen.header("host"));
            match (seen.path.as_str(), status.load(Ordering::SeqCst)) {
                ("/token", _) => token(&format!("t{number}"), 600),
                (_, 200) => {
                    let Act::Answer(status, _, body) = document(&base, &base) else { panic!("document") };
                    Act::Answer(status, vec![("etag", "\"v1\"".to_owned())], body)
                }
                (_, other) => answer(other, ""),
            }
        }
    })
    .await;
    let (_directory, broker) = broker(&server, "");
    lease(&broker).await.unwrap();
    for now in [304, 503, 404] {
        status.store(now, Ordering::SeqCst);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(25 * 3600)).await;
        tokio::time::resume();
        let before = server.seen().len();
        lease(&broker).await.unwrap();
        let asked = &server.seen()[before..];
        assert_eq!(asked[0].header("if-none-match"), "\"v1\"", "{now}");
        assert_eq!(asked.last().unwrap().path, "/token", "{now}");
    }
    assert!(server.seen().iter().all(|seen| seen.header("host").starts_with(HOST)));
}
