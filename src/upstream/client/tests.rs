//! Each test plays the upstream by hand over memory, so that it can misbehave at any
//! byte; `tls` has real origins.

use std::{future::Future, time::Duration};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use super::super::{
    Client, Destination, Error, Wall,
    testing::{
        Memory, Names, RESPONSE_TIMEOUT, Rig, TestBody, TestCa, finish, get, is_closed, permit, post, read_head,
        settings, upstream,
    },
};
use crate::route::Scheme;

mod tls;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const URL: &str = "http://origin.test/";

/// Runs `work` beside `send`, which must not end before it.
async fn beside<S: Future, W: Future>(send: S, work: W) -> (S::Output, W::Output) {
    tokio::join!(send, work)
}

macro_rules! exchange {
    ($rig:expr, $request:expr, $answer:expr) => {{
        let Rig { client, dial, accepted, upstream } = &mut $rig;
        let _ = dial;
        let permit = permit("agent", upstream, Scheme::Http, "origin.test:80");
        beside(client.send(Destination::new(&permit), $request), async {
            let mut upstream = accepted.recv().await.unwrap();
            let head = read_head(&mut upstream).await;
            upstream.write_all($answer).await.unwrap();
            (upstream, head)
        })
        .await
    }};
}

#[tokio::test(start_paused = true)]
async fn an_h1_connection_is_used_again() {
    let mut rig = Rig::new();
    let request = get("http://someone.else:81/path?query=1");
    let (sent, (mut upstream, head)) = exchange!(rig, request, OK);
    assert_eq!(head, "GET /path?query=1 HTTP/1.1\r\nhost: origin.test\r\n\r\n");
    assert_eq!(finish(sent).await, "ok");

    let second = async {
        let head = read_head(&mut upstream).await;
        upstream.write_all(OK).await.unwrap();
        head
    };
    let (sent, head) = beside(rig.send(post("http://origin.test", TestBody::full("x"))), second).await;
    assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
    assert_eq!(finish(sent).await, "ok");
    assert_eq!(rig.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_not_the_default_stands_in_host() {
    let mut rig = Rig::new();
    let permit = permit("agent", &rig.upstream, Scheme::Http, "origin.test:8080");
    let sending = rig.client.send(Destination::new(&permit), get(URL));
    let accepted = &mut rig.accepted;
    let (sent, head) = beside(sending, async {
        let mut upstream = accepted.recv().await.unwrap();
        let head = read_head(&mut upstream).await;
        upstream.write_all(OK).await.unwrap();
        head
    })
    .await;
    assert!(head.contains("\r\nhost: origin.test:8080\r\n"), "{head}");
    assert_eq!(sent.unwrap().address.to_string(), "93.184.216.34:8080");
}

/// Threat 53.
#[tokio::test(start_paused = true)]
async fn two_agents_never_share_a_connection() {
    let mut rig = Rig::new();
    let (sent, (_first, _)) = exchange!(rig, get(URL), OK);
    finish(sent).await;
    let permit = permit("other", &rig.upstream, Scheme::Http, "origin.test:80");
    let accepted = &mut rig.accepted;
    let (sent, _second) = beside(rig.client.send(Destination::new(&permit), get(URL)), async {
        let mut upstream = accepted.recv().await.unwrap();
        read_head(&mut upstream).await;
        upstream.write_all(OK).await.unwrap();
        upstream
    })
    .await;
    finish(sent).await;
    assert_eq!(rig.connections(), 2);
}

/// After a reload the same settings may mean other roots: their number isn't their identity.
#[tokio::test(start_paused = true)]
async fn reloaded_settings_dont_get_the_old_connections() {
    let mut rig = Rig::new();
    let (sent, (_first, _)) = exchange!(rig, get(URL), OK);
    finish(sent).await;
    rig.upstream = upstream(rig.upstream.tls.clone(), &[]);
    let (sent, (_second, _)) = exchange!(rig, get(URL), OK);
    finish(sent).await;
    assert_eq!(rig.connections(), 2);
}

/// Threat 83.
#[tokio::test(start_paused = true)]
async fn a_body_nobody_wants_closes_the_connection() {
    let mut rig = Rig::new();
    let (sent, (mut upstream, _)) = exchange!(rig, get(URL), b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
    drop(sent.unwrap());
    assert!(is_closed(&mut upstream).await);
    let (sent, _) = exchange!(rig, get(URL), OK);
    finish(sent).await;
    assert_eq!(rig.connections(), 2);
}

/// Threat 83.
#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_closes_the_connection() {
    let mut rig = Rig::new();
    let permit = permit("agent", &rig.upstream, Scheme::Http, "origin.test:80");
    let mut upstream = {
        let accepted = &mut rig.accepted;
        let arrived = async {
            let mut upstream = accepted.recv().await.unwrap();
            read_head(&mut upstream).await;
            upstream
        };
        tokio::select! {
            sent = rig.client.send(Destination::new(&permit), get(URL)) => panic!("{sent:?}"),
            upstream = arrived => upstream,
        }
    };
    assert!(is_closed(&mut upstream).await);
}

/// Threat 80: what follows an answer unasked is nobody's.
#[tokio::test(start_paused = true)]
async fn surplus_bytes_end_the_connection() {
    let surplus = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let mut rig = Rig::new();
    let (sent, (mut upstream, _)) = exchange!(rig, get(URL), surplus);
    assert_eq!(finish(sent).await, "ok");
    let (sent, _) = exchange!(rig, get(URL), OK);
    assert_eq!(finish(sent).await, "ok");
    assert_eq!(rig.connections(), 2);
    assert!(is_closed(&mut upstream).await);
}

/// Threat 80.
#[tokio::test(start_paused = true)]
async fn contradictory_lengths_are_refused() {
    for fields in [
        "content-length: 2\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 2",
        "content-length: 2\r\ncontent-length: 2",
        "content-length: 2, 2",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ] {
        let mut rig = Rig::new();
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        let (sent, (mut upstream, _)) = exchange!(rig, get(URL), answer.as_bytes());
        let failure = sent.expect_err(fields);
        assert!(matches!(failure.error, Error::Framing), "{fields}: {failure:?}");
        assert!(failure.unsent.is_none(), "{fields}");
        assert!(is_closed(&mut upstream).await, "{fields}");
    }
}

/// Threats 78 and 81.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_http_is_an_error() {
    for (answer, status) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..], "http_protocol_error"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nname : value\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nname: a\r\n folded\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nname: a\rb\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nname: a\0b\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok", "http_protocol_error"),
    ] {
        let mut rig = Rig::new();
        let (sent, (mut upstream, _)) = exchange!(rig, get(URL), answer);
        let failure = sent.expect_err(&String::from_utf8_lossy(answer));
        assert_eq!(failure.error.proxy_status(), status, "{failure:?}");
        assert_eq!(failure.address.map(|address| address.port()), Some(80));
        assert!(is_closed(&mut upstream).await);
    }
}

/// Threat 78: bounded in memory.
#[tokio::test(start_paused = true)]
async fn endless_headers_are_cut_short() {
    let mut rig = Rig::new();
    let accepted = &mut rig.accepted;
    let permit = permit("agent", &rig.upstream, Scheme::Http, "origin.test:80");
    let (sent, written) = beside(rig.client.send(Destination::new(&permit), get(URL)), async {
        let mut upstream = accepted.recv().await.unwrap();
        read_head(&mut upstream).await;
        upstream.write_all(b"HTTP/1.1 200 OK\r\nendless: ").await.unwrap();
        let mut written = 0;
        while upstream.write_all(&[b'x'; 1024]).await.is_ok() {
            written += 1024;
        }
        written
    })
    .await;
    let failure = sent.expect_err("endless headers");
    assert_eq!(failure.error.proxy_status(), "http_response_header_section_size", "{failure:?}");
    assert!(written < 512 * 1024, "{written} bytes were taken");
}

/// Threat 78: bounded in time.
#[tokio::test(start_paused = true)]
async fn endless_interim_answers_end_in_time() {
    let mut rig = Rig::new();
    let accepted = &mut rig.accepted;
    let permit = permit("agent", &rig.upstream, Scheme::Http, "origin.test:80");
    let started = Instant::now();
    let (sent, ()) = beside(rig.client.send(Destination::new(&permit), get(URL)), async {
        let mut upstream = accepted.recv().await.unwrap();
        while upstream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    assert!(matches!(sent.expect_err("no answer").error, Error::ResponseTimeout { .. }));
    assert!(started.elapsed() < RESPONSE_TIMEOUT + Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn interim_answers_reach_their_callback() {
    let mut rig = Rig::new();
    let seen = std::sync::Mutex::new(Vec::new());
    let on_interim = |status: http::StatusCode, fields: &http::HeaderMap| {
        seen.lock().unwrap().push((status.as_u16(), fields["link"].clone()));
    };
    let permit = permit("agent", &rig.upstream, Scheme::Http, "origin.test:80");
    let to = Destination { on_interim: &on_interim, ..Destination::new(&permit) };
    let accepted = &mut rig.accepted;
    let (sent, _upstream) = beside(rig.client.send(to, get(URL)), async {
        let mut upstream = accepted.recv().await.unwrap();
        read_head(&mut upstream).await;
        upstream.write_all(&[b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", OK].concat()).await.unwrap();
        upstream
    })
    .await;
    assert_eq!(finish(sent).await, "ok");
    assert_eq!(*seen.lock().unwrap(), [(103, "</a>".parse().unwrap())]);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_response_timeout() {
    let mut rig = Rig::new();
    let started = Instant::now();
    let (sent, (mut upstream, _)) = exchange!(rig, get(URL), b"");
    let failure = sent.expect_err("no answer");
    assert!(matches!(failure.error, Error::ResponseTimeout { limit: RESPONSE_TIMEOUT }));
    assert!(failure.unsent.is_none());
    assert!(started.elapsed() < RESPONSE_TIMEOUT + Duration::from_millis(10), "{:?}", started.elapsed());
    assert!(is_closed(&mut upstream).await);
}

/// An upload may take as long as it does; the wait is counted from its last byte.
#[tokio::test(start_paused = true)]
async fn a_long_upload_is_no_slow_answer() {
    let mut rig = Rig::new();
    let (chunks, body) = TestBody::channel();
    let uploading = tokio::spawn(async move {
        for _ in 0..10 {
            chunks.send("part".into()).unwrap();
            tokio::time::sleep(RESPONSE_TIMEOUT / 2).await;
        }
        Instant::now()
    });
    let (sent, _) = exchange!(rig, post(URL, body), b"");
    let uploaded = uploading.await.unwrap();
    assert!(matches!(sent.expect_err("no answer").error, Error::ResponseTimeout { .. }));
    let waited = uploaded.elapsed();
    assert!(waited.abs_diff(RESPONSE_TIMEOUT) < Duration::from_millis(10), "{waited:?}");
}

/// An agent that pauses for hours is its own limits' business (bidirectional streams).
#[tokio::test(start_paused = true)]
async fn while_the_agent_owes_a_byte_no_time_is_counted() {
    let mut rig = Rig::new();
    let (chunks, body) = TestBody::channel();
    let accepted = &mut rig.accepted;
    let permit = permit("agent", &rig.upstream, Scheme::Http, "origin.test:80");
    let (sent, _upstream) = beside(rig.client.send(Destination::new(&permit), post(URL, body)), async {
        let mut upstream = accepted.recv().await.unwrap();
        read_head(&mut upstream).await;
        tokio::time::sleep(RESPONSE_TIMEOUT * 60).await;
        drop(chunks);
        upstream.write_all(OK).await.unwrap();
        upstream
    })
    .await;
    assert_eq!(finish(sent).await, "ok");
}

/// Threat 78: an upstream that stops reading.
#[tokio::test(start_paused = true)]
async fn a_stalled_upload_ends_in_time() {
    let mut rig = Rig::new();
    let body = TestBody::full(vec![b'x'; 4 << 20]);
    let (sent, _) = exchange!(rig, post(URL, body), b"");
    assert!(matches!(sent.expect_err("stalled").error, Error::ResponseTimeout { .. }));
}

/// Threat 64: a final answer before the request's end; the rest of it isn't sent on a
/// connection that others will use.
#[tokio::test(start_paused = true)]
async fn an_early_answer_costs_the_connection() {
    let mut rig = Rig::new();
    let (chunks, body) = TestBody::channel();
    chunks.send("part".into()).unwrap();
    let (sent, (mut upstream, _)) = exchange!(rig, post(URL, body), OK);
    assert_eq!(finish(sent).await, "ok");
    assert!(is_closed(&mut upstream).await);
    drop(chunks);
}

#[tokio::test(start_paused = true)]
async fn a_stale_pooled_connection_is_replaced() {
    let mut rig = Rig::new();
    let (sent, (upstream, _)) = exchange!(rig, get(URL), OK);
    finish(sent).await;
    // Closed at this very moment: only the write finds it out.
    drop(upstream);
    let (sent, (_upstream, head)) = exchange!(rig, post(URL, TestBody::full("once")), OK);
    assert!(head.starts_with("POST / "), "{head}");
    assert_eq!(finish(sent).await, "ok");
    assert_eq!(rig.connections(), 2);
}

/// What may have arrived isn't sent twice.
#[tokio::test(start_paused = true)]
async fn a_post_that_was_sent_is_not_sent_again() {
    let mut rig = Rig::new();
    let (sent, (mut upstream, _)) = exchange!(rig, get(URL), OK);
    finish(sent).await;
    let (sent, head) =
        beside(rig.send(post(URL, TestBody::full("once"))), async move { read_head(&mut upstream).await }).await;
    assert!(head.starts_with("POST / "), "{head}");
    let failure = sent.expect_err("closed");
    assert!(failure.unsent.is_none());
    assert_eq!(failure.error.proxy_status(), "http_response_incomplete", "{failure:?}");
    assert_eq!(rig.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_in_time() {
    let mut rig = Rig::new();
    let (sent, (mut upstream, _)) = exchange!(rig, get(URL), OK);
    finish(sent).await;
    let idle_timeout = settings().idle_timeout;
    let started = Instant::now();
    let mut rest = Vec::new();
    timeout(idle_timeout * 2, upstream.read_to_end(&mut rest)).await.expect("closed").unwrap();
    assert!(started.elapsed() >= idle_timeout, "{:?}", started.elapsed());
    assert!(started.elapsed() <= idle_timeout * 5 / 4, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_more_than_max_idle_are_kept() {
    let mut rig = Rig::new();
    let mut exchanges = Vec::new();
    for _ in 0..3 {
        exchanges.push(exchange!(rig, get(URL), OK));
    }
    let mut upstreams = Vec::new();
    for (sent, (upstream, _)) in exchanges {
        finish(sent).await;
        upstreams.push(upstream);
    }
    let mut closed = Vec::new();
    for upstream in &mut upstreams {
        closed.push(is_closed(upstream).await);
    }
    assert_eq!(closed, [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_handed_over() {
    let mut rig = Rig::new();
    let mut request = get(URL);
    request.0.headers.insert("connection", "upgrade".parse().unwrap());
    request.0.headers.insert("upgrade", "websocket".parse().unwrap());
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
    let (sent, (mut upstream, _)) = exchange!(rig, request, switching);
    let sent = sent.unwrap();
    let mut upgraded = sent.response.into_body().into_upgraded().unwrap();
    let mut bytes = [0; 5];
    upgraded.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello");
    upgraded.write_all(b"there").await.unwrap();
    upstream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"there");
}

/// Threat 79: an agent can see that a body isn't whole.
#[tokio::test(start_paused = true)]
async fn a_truncated_body_is_an_error() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
    ] {
        let mut rig = Rig::new();
        let (sent, (upstream, _)) = exchange!(rig, get(URL), answer);
        drop(upstream);
        let sent = sent.unwrap();
        assert!(sent.response.into_body().collect().await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_has_a_limit() {
    let (dial, _accepted) = Memory::new(&[], &["93.184.216.34"]);
    let client: Client = Client::new(settings(), Wall::default(), Names::new(&[&["93.184.216.34"]]), dial.clone());
    let upstream = upstream(TestCa::new().client(&[]), &[]);
    let permit = permit("agent", &upstream, Scheme::Https, "origin.test:443");
    let to = Destination::new(&permit);
    let started = Instant::now();
    let (first, second) = tokio::join!(client.send(to, get(URL)), client.send(to, get(URL)));
    for sent in [first, second] {
        let failure = sent.expect_err("silent");
        assert!(matches!(failure.error, Error::ConnectTimeout { .. }), "{failure:?}");
        assert!(failure.unsent.is_some());
    }
    assert_eq!(started.elapsed().as_secs(), 10);
    let raw = client.connect_raw(permit.agent().name(), permit.authority(), &[]).await;
    assert!(matches!(raw, Err(Error::ConnectTimeout { .. })));
}

/// An agent that asks for thousands of hosts and leaves takes no memory with them.
#[tokio::test(start_paused = true)]
async fn who_leaves_before_there_is_a_connection_leaves_nothing() {
    let (dial, _accepted) = Memory::new(&[], &["93.184.216.34"]);
    let client: Client = Client::new(settings(), Wall::default(), Names::new(&[&["93.184.216.34"]]), dial.clone());
    let upstream = upstream(TestCa::new().client(&[]), &[]);
    let permit = permit("agent", &upstream, Scheme::Https, "origin.test:443");
    let asked = client.send(Destination::new(&permit), get(URL));
    assert!(timeout(Duration::from_secs(1), asked).await.is_err());
    assert_eq!(dial.dialled(), ["93.184.216.34:443"]);
    assert!(format!("{client:?}").contains("Pool { slots: 0,"), "{client:?}");
}

/// Those who wait for one connection share its failure: a dead upstream isn't asked a
/// hundred times at once, nor one after the other.
#[tokio::test(start_paused = true)]
async fn a_failed_connection_fails_all_that_waited_for_it() {
    let (dial, _accepted) = Memory::new(&["93.184.216.34"], &[]);
    let client: Client = Client::new(settings(), Wall::default(), Names::new(&[&["93.184.216.34"]]), dial.clone());
    let upstream = upstream(TestCa::new().client(&[]), &[]);
    let permit = permit("agent", &upstream, Scheme::Https, "origin.test:443");
    let to = Destination::new(&permit);
    let (a, b, c) = tokio::join!(client.send(to, get(URL)), client.send(to, get(URL)), client.send(to, get(URL)));
    for sent in [a, b, c] {
        let failure = sent.expect_err("refused");
        assert_eq!(failure.error.proxy_status(), "connection_refused", "{failure:?}");
        assert!(failure.unsent.is_some());
    }
    assert_eq!(dial.dialled(), ["93.184.216.34:443"]);
    // An agent that asks for thousands of hosts that aren't there takes no memory with them.
    assert!(format!("{client:?}").contains("Pool { slots: 0,"), "{client:?}");
}

#[tokio::test(start_paused = true)]
async fn a_blind_tunnel_meets_the_same_wall() {
    let (dial, mut accepted) = Memory::new(&[], &[]);
    let client: Client = Client::new(settings(), Wall::default(), Names::new(&[&["10.0.0.1"]]), dial.clone());
    let upstream = upstream(TestCa::new().client(&[]), &[]);
    let permit = permit("agent", &upstream, Scheme::Https, "origin.test:443");
    let refused = client.connect_raw(permit.agent().name(), permit.authority(), &[]).await;
    assert!(matches!(refused, Err(Error::AddressNotAllowed { kind: "a private address", .. })), "{refused:?}");
    assert!(dial.dialled().is_empty());

    let allowed = ["10.0.0.0/8".parse().unwrap()];
    let (mut stream, address) = client.connect_raw(permit.agent().name(), permit.authority(), &allowed).await.unwrap();
    assert_eq!(address.to_string(), "10.0.0.1:443");
    stream.write_all(b"raw").await.unwrap();
    drop(stream);
    let mut text = String::new();
    accepted.recv().await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "raw");
}
