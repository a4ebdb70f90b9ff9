//! Sending a request twice: when it may be done (standards 3.6), and when it must not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use cupbearer::demo::{Protocols, WorldSettings};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{Notify, mpsc};

use crate::{
    agents::{Agent, Way, empty, fed, full, records, text},
    scripted::{Body, Scripted, Wire, field, soon},
    support::{Facts, Stage},
};

const REFUSED: &str =
    "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer error=\"invalid_token\"\r\ncontent-length: 0\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// So that one stage can see many refusals.
const NO_GUARD: &str = "token_storm_guard = \"0s\"";

const UPSTREAMS: [Protocols; 2] = [Protocols::Http1, Protocols::Http2];

/// The stage with an API that speaks one protocol. `limits`: lines of `[limits]`.
async fn stage(api_protocols: Protocols, limits: &str) -> Stage {
    let world = WorldSettings { api_protocols, ..WorldSettings::default() };
    Stage::with(world, |facts: &Facts| format!("{}\n[limits]\n{limits}\n", facts.config())).await
}

// === After a 401 ===

#[tokio::test]
async fn a_post_refused_once_is_applied_once() {
    for upstream in UPSTREAMS {
        let stage = stage(upstream, NO_GUARD).await;
        let (server, api) = (stage.world.authorization_server(), stage.world.api());
        let order = "an order ".repeat(4000);
        for (index, way) in Way::ALL.into_iter().enumerate() {
            let mut agent = Agent::of(&stage, way).await;
            let seen = api.seen_count();
            api.reject_next(1);
            let answer = agent.post("/v1/orders", full(order.clone())).await;
            assert_eq!(answer.status(), StatusCode::CREATED, "{upstream:?}, {way:?}");
            assert!(text(answer).await.contains(&format!("\"body_length\":{}", order.len())));
            assert_eq!(api.applied(), index + 1, "{upstream:?}, {way:?}");
            assert_eq!(server.token_request_count(), index + 2, "the first token, and one for each refusal");

            let attempts = &api.seen()[seen..];
            assert_eq!(attempts.len(), 2, "{upstream:?}, {way:?}");
            assert_eq!((attempts[0].refusal, attempts[1].refusal), (Some("invalid_token"), None));
            assert_ne!(attempts[0].headers[header::AUTHORIZATION], attempts[1].headers[header::AUTHORIZATION]);
            let record = records(&stage, index + 1).await.pop().unwrap();
            assert_eq!(record["retried"], true);
            assert_eq!(record["status"], 201);
            assert_eq!(record["bytes_in"], order.len(), "the agent sent it once");
            assert_eq!(record["token_generation"], index + 2);
        }
    }
}

#[tokio::test]
async fn the_replay_limit_is_exact() {
    const LIMIT: usize = 1024;
    for upstream in UPSTREAMS {
        let stage = stage(upstream, &format!("{NO_GUARD}\nreplay = \"1KiB\"")).await;
        let api = stage.world.api();
        for way in Way::ALL {
            for announced in [true, false] {
                for length in [LIMIT, LIMIT + 1] {
                    let mut agent = Agent::of(&stage, way).await;
                    let (seen, applied) = (api.seen_count(), api.applied());
                    api.reject_next(1);
                    let body = if announced { full("x".repeat(length)) } else { in_two_frames(length) };
                    let answer = agent.post("/v1/orders", body).await;
                    let (case, status) = ((upstream, way, announced, length), answer.status());
                    let challenge = answer.headers().get(header::WWW_AUTHENTICATE).cloned();
                    assert!(!answer.headers().contains_key("x-cupbearer-error"), "{case:?}");
                    text(answer).await;
                    if length == LIMIT {
                        assert_eq!(status, StatusCode::CREATED, "{case:?}");
                        assert_eq!((api.seen_count(), api.applied()), (seen + 2, applied + 1), "{case:?}");
                    } else {
                        assert_eq!(status, StatusCode::UNAUTHORIZED, "{case:?}");
                        assert!(challenge.unwrap().to_str().unwrap().contains("invalid_token"), "{case:?}");
                        assert_eq!((api.seen_count(), api.applied()), (seen + 1, applied), "{case:?}");
                    }
                    // Whatever became of the request, the refused token is not sent again.
                    assert_eq!(agent.get("/v1/orders").await.status(), StatusCode::OK, "{case:?}");
                    assert_eq!(api.seen().last().unwrap().refusal, None, "{case:?}");
                }
            }
        }
    }
}

/// A body of unknown length.
fn in_two_frames(length: usize) -> Body {
    let (feeder, body) = fed();
    tokio::spawn(async move {
        feeder.data("x".repeat(length / 2)).await;
        feeder.data("x".repeat(length - length / 2)).await;
    });
    body
}

#[tokio::test]
async fn a_body_still_under_way_when_refused_goes_on_after_the_renewal() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage(NO_GUARD).await;
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let (feeder, body) = fed();
        let request = agent.request(Method::POST, "/v1/orders").body(body).unwrap();
        let answer = tokio::spawn(agent.send(request));
        assert!(feeder.data("first ").await);

        let mut refusing = upstream.accept().await;
        let head = refusing.head().await;
        let refused = field(&head, "authorization").unwrap();
        assert_eq!(refusing.chunks(6).await, b"first ");
        refusing.write(REFUSED).await;

        let mut taking = upstream.accept().await;
        let head = taking.head().await;
        assert_ne!(field(&head, "authorization").unwrap(), refused);
        assert_eq!(taking.chunks(6).await, b"first ", "{way:?}");
        assert!(feeder.data("second ").await);
        assert_eq!(taking.chunks(7).await, b"second ", "{way:?}");
        assert!(feeder.data("last").await);
        drop(feeder);
        assert_eq!(taking.chunked_rest().await, (b"last".to_vec(), String::new()));
        taking.write("HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(soon(answer).await.unwrap().unwrap().status(), StatusCode::CREATED, "{way:?}");

        assert_eq!(refusing.rest().await, "", "{way:?}: the refusing upstream gets no more of it");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["retried"], &record["bytes_in"]), (&true.into(), &17.into()), "{record}");
    }
}

#[tokio::test]
async fn an_h2_upstream_may_refuse_early_too() {
    let mut upstream = Scripted::start("h2").await;
    let stage = upstream.stage(NO_GUARD).await;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    upstream.answer_h2(move |request: Request<Incoming>| {
        let arrived = arrived.clone();
        async move {
            let token = request.headers()[header::AUTHORIZATION].clone();
            let (done, answered) = tokio::sync::oneshot::channel();
            arrived.send((token, request.into_body(), done)).unwrap();
            answered.await.unwrap()
        }
    });
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let (feeder, body) = fed();
        let request = agent.request(Method::POST, "/v1/orders").body(body).unwrap();
        let answer = tokio::spawn(agent.send(request));
        assert!(feeder.data("first ").await);

        let (refused, mut body, done) = soon(arrivals.recv()).await.unwrap();
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "first ");
        let refusal = Response::builder().status(401).header("www-authenticate", "Bearer error=invalid_token");
        done.send(refusal.body(empty()).unwrap()).unwrap();
        drop(body);

        let (token, body, done) = soon(arrivals.recv()).await.unwrap();
        assert_ne!(token, refused);
        assert!(feeder.data("second").await);
        drop(feeder);
        let all = soon(body.collect()).await.unwrap().to_bytes();
        assert_eq!(all, "first second", "{way:?}");
        done.send(Response::new(full("taken"))).unwrap();
        let answer = soon(answer).await.unwrap().unwrap();
        assert_eq!((answer.status(), text(answer).await.as_str()), (StatusCode::OK, "taken"), "{way:?}");
    }
}

/// The upstream's word for "another token, please" is `invalid_token` and nothing else.
#[tokio::test]
async fn other_challenges_are_handed_on() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage(NO_GUARD).await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH1).await;
    let mut asked = tokio::spawn(async move {
        let mut answers = Vec::new();
        for _ in 0..4 {
            let answer = agent.post("/v1/orders", full("one order")).await;
            answers.push((answer.status().as_u16(), answer.headers().get(header::WWW_AUTHENTICATE).cloned()));
            text(answer).await;
        }
        answers
    });
    let mut wire = upstream.accept().await;
    let refusals = [
        (401, "www-authenticate: Basic realm=\"a, Bearer error=invalid_token\"\r\n"),
        (401, "www-authenticate: Bearer realm=\"orders\"\r\n"),
        (401, ""),
        (403, "www-authenticate: Bearer error=\"invalid_token\"\r\n"),
    ];
    for (status, challenge) in refusals {
        let head = wire.head().await;
        assert_eq!(field(&head, "content-length"), Some("9"));
        wire.exactly(9).await;
        wire.write(format!("HTTP/1.1 {status} No\r\n{challenge}content-length: 0\r\n\r\n")).await;
    }
    let answers = soon(&mut asked).await.unwrap();
    for ((status, challenge), (found, fields)) in refusals.into_iter().zip(answers) {
        assert_eq!(found, status);
        let fields = fields.map(|value| format!("www-authenticate: {}\r\n", value.to_str().unwrap()));
        assert_eq!(fields.as_deref().unwrap_or(""), challenge);
    }
    upstream.nobody().await;
    assert_eq!(stage.world.authorization_server().token_request_count(), 1);
}

/// A base URL may be https, where agents speak h2.
#[tokio::test]
async fn a_base_url_of_h2_replays_too() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let directory = crate::support::private_directory();
    let door = rcgen::generate_simple_self_signed(["base.test".to_owned()]).unwrap();
    let (certificate, key) = (directory.path().join("door.pem"), directory.path().join("door.key"));
    fs::write(&certificate, door.cert.pem()).unwrap();
    fs::write(&key, door.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let tls = format!("tls = {{ certificate = \"{}\", key = \"{}\" }}", certificate.display(), key.display());
    let stage = Stage::with(Default::default(), |facts| {
        facts.config().replace("name = \"orders-base-url\"", &format!("name = \"orders-base-url\"\n{tls}"))
    })
    .await;

    let root = reqwest::Certificate::from_pem(door.cert.pem().as_bytes()).unwrap();
    let agent = reqwest::Client::builder().no_proxy().tls_certs_only([root]).resolve("base.test", stage.reverse());
    stage.world.api().reject_next(1);
    let url = format!("https://base.test:{}/v1/orders", stage.reverse().port());
    let order = agent.build().unwrap().post(url).header("x-api-key", &stage.key).body("one order");
    let answer = soon(order.send()).await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::CREATED, http::Version::HTTP_2));
    assert_eq!(stage.world.api().applied(), 1);
    assert!(stage.world.api().seen().iter().all(|seen| !seen.headers.contains_key("x-api-key")));
    let record = records(&stage, 1).await.pop().unwrap();
    assert_eq!((&record["listener"], &record["protocol"]), (&"orders-base-url".into(), &"h2".into()), "{record}");
    assert_eq!((&record["retried"], &record["token_generation"]), (&true.into(), &2.into()), "{record}");
}

// === After a broken connection ===

/// An upstream that answers one request on a connection, which is then kept.
async fn pooled(upstream: &Scripted, agent: &mut Agent) -> Wire {
    let request = agent.request(Method::GET, "/v1/orders").body(empty()).unwrap();
    let answer = tokio::spawn(agent.send(request));
    let mut wire = upstream.accept().await;
    wire.head().await;
    wire.write(OK).await;
    text(soon(answer).await.unwrap().unwrap()).await;
    wire
}

#[tokio::test]
async fn a_get_whose_connection_broke_is_sent_once_more() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let mut wire = pooled(&upstream, &mut agent).await;
        // It reads the second request and goes away.
        let request = agent.request(Method::GET, "/v1/orders/2").body(empty()).unwrap();
        let answer = tokio::spawn(agent.send(request));
        assert!(wire.head().await.starts_with("GET /v1/orders/2 "));
        drop(wire);
        let mut again = upstream.accept().await;
        assert!(again.head().await.starts_with("GET /v1/orders/2 "));
        again.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        let answer = soon(answer).await.unwrap().unwrap();
        assert_eq!((answer.status(), text(answer).await.as_str()), (StatusCode::OK, "ok"), "{way:?}");
        let record = records(&stage, 2 * index + 2).await.pop().unwrap();
        assert_eq!((&record["retried"], &record["path"]), (&true.into(), &"/v1/orders/2".into()), "{record}");
    }
    assert_eq!(stage.world.authorization_server().token_request_count(), 1);
}

#[tokio::test]
async fn a_get_is_sent_twice_and_no_more() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    let request = agent.request(Method::GET, "/v1/orders").body(empty()).unwrap();
    let answer = tokio::spawn(agent.send(request));
    for _ in 0..2 {
        upstream.accept().await.head().await;
    }
    expect_broken(soon(answer).await.unwrap().unwrap()).await;
    upstream.nobody().await;
}

/// 502, and nothing internal in it.
async fn expect_broken(answer: Response<Incoming>) {
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(answer.headers()["x-cupbearer-error"], "upstream_protocol");
    assert_eq!(answer.headers()["proxy-status"], "cupbearer; error=connection_terminated");
    assert!(!text(answer).await.contains("127.0.0.1"));
}

#[tokio::test]
async fn a_post_whose_connection_broke_is_not_sent_twice() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let mut wire = pooled(&upstream, &mut agent).await;
        let request = agent.request(Method::POST, "/v1/orders").body(full("one order")).unwrap();
        let answer = tokio::spawn(agent.send(request));
        assert!(wire.head().await.starts_with("POST "));
        assert_eq!(wire.exactly(9).await, b"one order");
        drop(wire);
        expect_broken(soon(answer).await.unwrap().unwrap()).await;
        upstream.nobody().await;
        let record = records(&stage, 2 * index + 2).await.pop().unwrap();
        assert_eq!((&record["retried"], &record["status"]), (&false.into(), &502.into()), "{way:?}: {record}");
    }
}

#[tokio::test]
async fn methods_that_may_be_repeated_are_and_others_are_not() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("replay = \"1KiB\"").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH1).await;
    for (method, length, repeated) in [
        (Method::PUT, 1024, true),
        (Method::DELETE, 10, true),
        (Method::OPTIONS, 1, true),
        // Too long to be kept.
        (Method::PUT, 1025, false),
        (Method::PATCH, 10, false),
        (Method::POST, 1, false),
    ] {
        let request = agent.request(method.clone(), "/v1/orders").body(full("x".repeat(length))).unwrap();
        let answer = tokio::spawn(agent.send(request));
        let mut first = upstream.accept().await;
        first.head().await;
        first.exactly(length).await;
        drop(first);
        if repeated {
            let mut second = upstream.accept().await;
            assert!(second.head().await.starts_with(method.as_str()));
            assert_eq!(second.exactly(length).await, vec![b'x'; length]);
            second.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
            let answer = soon(answer).await.unwrap().unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{method} of {length}");
            text(answer).await;
        } else {
            expect_broken(soon(answer).await.unwrap().unwrap()).await;
            upstream.nobody().await;
        }
    }
}

/// A connection that ended while nobody used it takes no request with it.
#[tokio::test]
async fn a_post_is_not_lost_on_a_connection_that_ended_at_rest() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        drop(pooled(&upstream, &mut agent).await);
        // The worker that answers this has seen the end of that.
        assert_eq!(agent.get("/elsewhere").await.status(), StatusCode::FORBIDDEN);
        let request = agent.request(Method::POST, "/v1/orders").body(full("one order")).unwrap();
        let answer = tokio::spawn(agent.send(request));
        let mut wire = upstream.accept().await;
        assert!(wire.head().await.starts_with("POST "));
        assert_eq!(wire.exactly(9).await, b"one order");
        wire.write("HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(soon(answer).await.unwrap().unwrap().status(), StatusCode::CREATED, "{way:?}");
        upstream.nobody().await;
    }
}

#[tokio::test]
async fn the_same_holds_for_h2_upstreams() {
    for (method, repeated) in [(Method::GET, true), (Method::PUT, true), (Method::POST, false)] {
        let mut upstream = Scripted::start("h2").await;
        let stage = upstream.stage("").await;
        let (came, arrived) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let silent = {
            let (came, arrived) = (Arc::clone(&came), Arc::clone(&arrived));
            move |request: Request<Incoming>| {
                let (came, arrived) = (Arc::clone(&came), Arc::clone(&arrived));
                async move {
                    request.into_body().collect().await.unwrap();
                    arrived.fetch_add(1, Ordering::SeqCst);
                    came.notify_one();
                    std::future::pending().await
                }
            }
        };
        upstream.answer_h2(silent);
        let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
        let request = agent.request(method.clone(), "/v1/orders").body(full("one order")).unwrap();
        let answer = tokio::spawn(agent.send(request));
        soon(came.notified()).await;
        upstream.cut().await;
        if repeated {
            upstream.answer_h2(async |request: Request<Incoming>| {
                Response::new(full(request.into_body().collect().await.unwrap().to_bytes()))
            });
            let answer = soon(answer).await.unwrap().unwrap();
            assert_eq!((answer.status(), text(answer).await.as_str()), (StatusCode::OK, "one order"), "{method}");
        } else {
            expect_broken(soon(answer).await.unwrap().unwrap()).await;
            upstream.nobody().await;
        }
        assert_eq!(arrived.load(Ordering::SeqCst), 1, "{method}");
    }
}
