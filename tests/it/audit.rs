//! The audit log where it can't be written, and what it says of what can't be read.

use std::{fs, time::Duration};

use serde_json::Value;
use tokio::time::timeout;

use crate::{
    support::{Facts, Stage},
    wire::{WAYS, Way, Wire, connect_head},
};

/// A file where the log's directory was: nothing can be written.
fn break_log(stage: &Stage) {
    let directory = stage.directory.path();
    fs::rename(directory.join("state"), directory.join("away")).unwrap();
    fs::write(directory.join("state"), "").unwrap();
}

fn mend_log(stage: &Stage) {
    let directory = stage.directory.path();
    fs::remove_file(directory.join("state")).unwrap();
    fs::rename(directory.join("away"), directory.join("state")).unwrap();
}

async fn ask(wire: &mut Wire, stage: &Stage, way: Way) -> crate::wire::Answer {
    wire.send(way.head(stage, "GET", "/v1/orders") + "\r\n").await;
    wire.answer().await
}

async fn ready(stage: &Stage) -> (u16, Value) {
    let url = format!("http://{}/readyz", stage.proxy.admin.unwrap());
    let answer = stage.direct().get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Threat 108: whatever way they come, and on connections that are open already. As soon as it
/// can be written again, they are served, and the log says that lines are missing.
#[tokio::test]
async fn while_the_log_cannot_be_written_requests_are_refused() {
    let stage = Stage::start().await;
    let mut open = Vec::new();
    for way in WAYS {
        let mut wire = way.open(&stage).await;
        assert_eq!(ask(&mut wire, &stage, way).await.status, 200, "{way:?}");
        open.push((way, wire));
    }
    assert_eq!(stage.records().len(), 3);
    assert_eq!(ready(&stage).await.0, 200);
    break_log(&stage);
    // The first one that is lost tells.
    assert_eq!(ask(&mut open[0].1, &stage, Way::AbsoluteForm).await.status, 200);
    stage.proxy.recorder().flush();
    let served = stage.world.api().seen_count();
    for (way, wire) in &mut open {
        let answer = ask(wire, &stage, *way).await;
        assert_eq!((answer.status, &*answer.code()), (503, "audit_unavailable"), "{way:?}");
        assert_eq!(answer.field("retry-after"), "1");
        assert_eq!(answer.field("proxy-status"), "cupbearer; error=proxy_internal_error");
    }
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(connect_head(&stage, &stage.authority())).await;
    assert_eq!(wire.answer().await.code(), "audit_unavailable");
    assert_eq!(stage.world.api().seen_count(), served);
    let (status, body) = ready(&stage).await;
    assert_eq!((status, &body["reasons"][0]), (503, &"the audit log can't be written".into()));
    mend_log(&stage);
    let mended = async { while ask(&mut open[0].1, &stage, Way::AbsoluteForm).await.status != 200 {} };
    timeout(Duration::from_secs(30), mended).await.expect("the log is tried again");
    let log = stage.log();
    let gap = log.iter().find(|line| line["event"] == "alert.audit_dropped").unwrap();
    assert!(gap["detail"].as_str().unwrap().ends_with("lines are missing before this one"), "{gap}");
    assert_eq!(ready(&stage).await.0, 200);
}

/// Threat 108, as it can be chosen: they are served, and what is missing is counted.
#[tokio::test]
async fn requests_may_be_served_unrecorded() {
    let config = |facts: &Facts| facts.config() + "\n[audit]\ndanger_serve_unrecorded = true\n";
    let stage = Stage::with(Default::default(), config).await;
    break_log(&stage);
    let mut wire = Way::AbsoluteForm.open(&stage).await;
    for _ in 0..3 {
        assert_eq!(ask(&mut wire, &stage, Way::AbsoluteForm).await.status, 200);
        stage.proxy.recorder().flush();
    }
    let (status, body) = ready(&stage).await;
    assert_eq!((status, &body["degraded"][0]), (200, &"the audit log can't be written".into()));
    // The token's line, too.
    let metrics = stage.proxy.recorder().metrics().encode();
    assert!(metrics.contains("cupbearer_audit_dropped_total 4\n"), "{metrics}");
    mend_log(&stage);
    assert_eq!(ask(&mut wire, &stage, Way::AbsoluteForm).await.status, 200);
    let log = stage.log();
    assert_eq!(log[0]["detail"], "4 lines are missing before this one");
    assert_eq!(stage.records().len(), 1);
}

/// What an agent is told about bytes that are no request is in the log and counted, too. Only a
/// tunnel says whose they are.
#[tokio::test]
async fn what_cannot_be_read_has_a_record() {
    let stage = Stage::start().await;
    let long = "x".repeat(70 * 1024);
    let mut expected = Vec::new();
    for way in WAYS {
        let head = way.head(&stage, "GET", "/v1/orders");
        for (text, status) in [
            ("no HTTP at all\r\n\r\n".to_owned(), 400),
            (format!("{head}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"), 400),
            (format!("{head}X-Long: {long}\r\n\r\n"), 431),
        ] {
            let mut wire = way.open(&stage).await;
            wire.send(text).await;
            let answer = wire.answer().await;
            assert_eq!((answer.status, &*answer.code()), (status, "bad_request"), "{way:?}");
            expected.push((way, status, answer.problem()["request_id"].clone()));
        }
    }
    let records = stage.records();
    assert_eq!(records.len(), expected.len(), "{records:#?}");
    for (record, (way, status, id)) in records.iter().zip(expected) {
        assert_eq!((&record["status"], &record["request_id"]), (&status.into(), &id), "{way:?}");
        assert_eq!(
            (&record["method"], &record["path"], &record["decision"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        assert_eq!(record["error"], "bad_request");
        let (agent, host) = match way {
            Way::Tunnel => ("researcher".into(), crate::support::API.into()),
            Way::AbsoluteForm | Way::Reverse => (Value::Null, Value::Null),
        };
        assert_eq!((&record["agent"], &record["host"]), (&agent, &host), "{way:?}");
    }
    let metrics = stage.proxy.recorder().metrics().encode();
    assert!(metrics.contains("cupbearer_denials_total{reason=\"bad_request\"} 9\n"), "{metrics}");
    stage.assert_nothing_left();
}
