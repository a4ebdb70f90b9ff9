//! The way out when it isn't to be trusted or isn't there; and the end of the process.

use std::time::Duration;

use tokio::{net::TcpStream, time::timeout};

use crate::{
    support::Stage,
    wire::{Fault, Origin, Trap, WAYS, Way, Wire, basic, connect_head},
};

/// Threat 47 and 48: without a certificate that holds, not a byte of HTTP leaves.
#[tokio::test]
async fn an_upstream_without_a_good_certificate_gets_nothing() {
    for (fault, error) in [
        (Fault::SelfSigned, "tls_certificate_error"),
        (Fault::OtherName, "tls_certificate_error"),
        (Fault::Expired, "tls_certificate_error"),
        (Fault::NotYetValid, "tls_certificate_error"),
        (Fault::ClearText, "tls_protocol_error"),
    ] {
        let mut origin = Origin::start(fault).await;
        let stage = Stage::with(Default::default(), |facts| origin.config(facts)).await;
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(origin.head(&stage, "GET", "/v1/x") + "\r\n").await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, &*answer.code()), (502, "upstream_tls"), "{fault:?}");
        assert_eq!(answer.field("proxy-status"), format!("cupbearer; error={error}"), "{fault:?}");
        let log = origin.all_ended().await;
        if fault == Fault::ClearText {
            assert_eq!(log.bytes.first(), Some(&0x16), "not a handshake");
            let text = String::from_utf8_lossy(&log.bytes).into_owned();
            assert!(!text.contains("HTTP") && !text.contains("Bearer"), "{text}");
        } else {
            assert_eq!((log.failed_handshakes, &*log.bytes), (log.connections, &b""[..]), "{fault:?}");
        }
        drop(wire);
        let records = stage.final_records().await;
        assert_eq!(records.len(), 1);
        assert_eq!((&records[0]["status"], &records[0]["error"]), (&502.into(), &"upstream_tls".into()));
        assert_eq!(records[0]["decision"], "allow");
    }
}

/// The same origin with a good certificate, so that the above means something.
#[tokio::test]
async fn an_upstream_with_a_good_certificate_is_served() {
    let origin = Origin::start(Fault::None).await;
    let stage = Stage::with(Default::default(), |facts| origin.config(facts)).await;
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(origin.head(&stage, "GET", "/v1/x?a=b") + "\r\n").await;
    assert_eq!(wire.answer().await.body, b"ok");
    let text = origin.text();
    assert!(text.starts_with("GET /v1/x?a=b HTTP/1.1\r\n"), "{text}");
    assert_eq!(text.matches("authorization: Bearer ").count(), 1, "{text}");
}

#[tokio::test]
async fn an_upstream_that_isnt_there_is_502() {
    for way in WAYS {
        let stage = Stage::with(Default::default(), |facts| {
            // Bound and gone again: nobody listens there.
            let gone = Trap::new().address.port();
            facts.config().replace(&format!("orders.test:{}", facts.api_port), &format!("orders.test:{gone}"))
        })
        .await;
        let gone = stage.proxy.shared().rules.load().routes.routes()[0].hosts[0].to_string();
        let key = basic("researcher", &stage.key);
        let mut wire = Wire::connect(if way == Way::Reverse { stage.reverse() } else { stage.forward() }).await;
        match way {
            Way::AbsoluteForm => {
                wire.send(format!("GET http://{gone}/v1/x HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n"))
                    .await;
            }
            Way::Tunnel => {
                wire.send(connect_head(&stage, &gone)).await;
                assert_eq!(wire.answer().await.status, 200);
                wire.send(format!("GET /v1/x HTTP/1.1\r\nHost: {gone}\r\n\r\n")).await;
            }
            Way::Reverse => wire.send(way.head(&stage, "GET", "/v1/x") + "\r\n").await,
        }
        let answer = wire.answer().await;
        assert_eq!((answer.status, &*answer.code()), (502, "upstream_unreachable"), "{way:?}");
        assert_eq!(answer.field("proxy-status"), "cupbearer; error=connection_refused");
        drop(wire);
        assert_eq!(stage.final_records().await.len(), 1);
    }
}

/// Threats 24, 34 and 36: the address decides, after DNS, through each way in.
#[tokio::test]
async fn a_private_address_wants_to_be_named() {
    for way in WAYS {
        let stage = Stage::with(Default::default(), |facts| {
            facts.config().replace(
                "danger_allow_private_addresses = [\"127.0.0.0/8\"]",
                "danger_allow_private_addresses = [\"10.0.0.0/8\"]",
            )
        })
        .await;
        let mut wire = way.open(&stage).await;
        wire.send(way.head(&stage, "GET", "/v1/orders") + "\r\n").await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, &*answer.code()), (403, "address_not_allowed"), "{way:?}");
        assert_eq!(answer.field("proxy-status"), "cupbearer; error=destination_ip_prohibited");
        assert_eq!(stage.world.api().seen_count(), 0);
        drop(wire);
        let records = stage.final_records().await;
        assert_eq!((records.len(), &records[0]["status"]), (1, &403.into()));
    }
}

// === The end (threat 107) ===

/// Waits until the proxy no longer takes connections.
async fn refused(address: std::net::SocketAddr) {
    let closing = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), closing).await.expect("the listener closes");
}

#[tokio::test]
async fn a_shutdown_lets_requests_finish_and_takes_no_more() {
    let stage = Stage::start().await;
    let (forward, reverse) = (stage.forward(), stage.reverse());
    // Connections with nothing under way don't hold it up.
    let silent = Wire::connect(forward).await;
    let idle = Way::Tunnel.open(&stage).await;
    let mut streams = Vec::new();
    for way in WAYS {
        let mut wire = way.open(&stage).await;
        wire.send(way.head(&stage, "GET", "/v1/stream?count=6&every_ms=50") + "\r\n").await;
        streams.push(wire);
    }
    stage.world.api().wait_for_requests(3).await;
    let Stage { proxy, directory, world, .. } = stage;
    let ending = tokio::spawn(proxy.shutdown(Duration::from_secs(20)));
    refused(forward).await;
    refused(reverse).await;
    for wire in &mut streams {
        let answer = wire.answer().await;
        assert_eq!(answer.status, 200);
        assert_eq!(String::from_utf8(answer.body).unwrap().matches("event: tick").count(), 6);
        assert_eq!(wire.closed().await, b"");
    }
    assert!(ending.await.unwrap(), "all was done in time");
    drop((silent, idle, world));
    let text = std::fs::read_to_string(directory.path().join("state/audit.jsonl")).unwrap();
    let finished = text.lines().filter(|line| line.contains("\"status\":200") && line.contains("\"error\":null"));
    assert_eq!(finished.count(), 3, "{text}");
}

#[tokio::test]
async fn a_shutdown_cuts_what_takes_too_long() {
    let stage = Stage::start().await;
    let mut wire = Way::AbsoluteForm.open(&stage).await;
    wire.send(Way::AbsoluteForm.head(&stage, "GET", "/v1/stream?every_ms=20") + "\r\n").await;
    stage.world.api().wait_for_requests(1).await;
    let Stage { proxy, directory, world, .. } = stage;
    assert!(!proxy.shutdown(Duration::from_millis(200)).await, "something was cut");
    let rest = wire.closed().await;
    assert!(!rest.ends_with(b"\r\n0\r\n\r\n"), "a cut answer must not look whole");
    drop(world);
    let text = std::fs::read_to_string(directory.path().join("state/audit.jsonl")).unwrap();
    let records: Vec<_> = text.lines().filter(|line| line.contains("\"method\":\"GET\"")).collect();
    assert_eq!(records.len(), 1, "{text}");
    assert!(!records[0].contains("\"error\":null"), "{}", records[0]);
}

/// Threat 87: over the limit connections wait, and are served when there is room.
#[tokio::test]
async fn over_the_connection_limit_connections_wait() {
    let stage = Stage::with(Default::default(), |facts| facts.config() + "\n[limits]\nconnections = 1\n").await;
    let get = Way::AbsoluteForm.head(&stage, "GET", "/v1/orders") + "\r\n";
    let mut first = Wire::connect(stage.forward()).await;
    first.send(&get).await;
    assert_eq!(first.answer().await.status, 200);
    let mut second = Wire::connect(stage.forward()).await;
    second.send(&get).await;
    let early = timeout(Duration::from_millis(200), second.answer()).await;
    assert!(early.is_err(), "it was served beside the first: {early:?}");
    // The first one is none the worse for it, and another listener has places of its own.
    first.send(&get).await;
    assert_eq!(first.answer().await.status, 200);
    let mut reverse = Wire::connect(stage.reverse()).await;
    reverse.send(Way::Reverse.head(&stage, "GET", "/v1/orders") + "\r\n").await;
    assert_eq!(reverse.answer().await.status, 200);
    drop(first);
    assert_eq!(second.answer().await.status, 200);
    drop((second, reverse));
    assert_eq!(stage.final_records().await.len(), 4);
}
