//! What isn't allowed: refused alike through each of the three ways in, with nothing sent
//! anywhere; and who asks is known by a key alone.

use cupbearer::{identity, primitives::digest};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    doors::OwnDoors,
    support::{API, Stage, code},
    wire::{Answer, Trap, WAYS, Way, Wire, basic, connect_head},
};

const UNNAMED: &str = "unnamed.test";

/// Two agents, of which one has no route to the API; `GET`, `HEAD` and `POST` only; a name that no
/// route names but that would lead somewhere; and a way to it by base URL.
async fn strict(trap: &Trap) -> (Stage, String) {
    let (other, hash) = identity::generate_key().unwrap();
    let hash = digest::hex(&hash);
    let port = trap.address.port();
    let stage = Stage::with(Default::default(), move |facts| {
        let config = facts.config();
        let config =
            config.replace("paths = [\"/v1/**\"]", "paths = [\"/v1/**\"]\nmethods = [\"GET\", \"HEAD\", \"POST\"]");
        let upstream = format!("upstream = \"https://{API}:{}\"", facts.api_port);
        let mounts = format!(
            "mounts = {{ \"/\" = \"https://{API}:{}\", \"/unnamed/\" = \"https://{UNNAMED}:{port}\" }}",
            facts.api_port
        );
        let config = config.replace(&upstream, &mounts);
        assert!(config.contains("methods") && config.contains("mounts"));
        format!(
            r#"{config}"{UNNAMED}" = "127.0.0.1"
"other.test" = "127.0.0.1"

[agents.other]
key_sha256 = "{hash}"

[[routes]]
name = "elsewhere"
hosts = ["other.test:{port}"]
agents = ["other"]
"#
        )
    })
    .await;
    (stage, other.expose().to_owned())
}

/// A request's head for the unnamed host.
fn unnamed_head(way: Way, stage: &Stage, port: u16) -> String {
    let key = basic("researcher", &stage.key);
    match way {
        Way::AbsoluteForm => {
            format!("GET http://{UNNAMED}:{port}/v1/x HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n")
        }
        Way::Tunnel => connect_head(stage, &format!("{UNNAMED}:{port}")),
        Way::Reverse => way.head(stage, "GET", "/unnamed/v1/x") + "\r\n",
    }
}

fn assert_problem(answer: &Answer, status: u16, code: &str, route: Option<&str>) -> Value {
    assert_eq!((answer.status, &*answer.code()), (status, code), "{answer:?}");
    assert_eq!(answer.field("content-type"), "application/problem+json");
    assert_eq!(answer.field("cache-control"), "no-store");
    assert!(answer.field("proxy-status").starts_with("cupbearer; error="), "{answer:?}");
    let problem = answer.problem();
    assert_eq!(problem["status"], status);
    assert_eq!(problem["type"], format!("urn:cupbearer:problem:{code}"));
    for text in ["title", "detail", "hint", "request_id"] {
        assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {problem}");
    }
    assert_eq!(problem["route"].as_str(), route, "{problem}");
    problem
}

fn assert_recorded(record: &Value, problem: &Value, agent: Option<&str>, reason: &str) {
    assert_eq!(record["request_id"], problem["request_id"]);
    assert_eq!(record["agent"].as_str(), agent, "{record}");
    assert_eq!(record["status"], problem["status"], "{record}");
    assert_eq!(record["error"], problem["code"], "{record}");
    assert_eq!(record["reason"], reason, "{record}");
    assert!(record["upstream_addr"].is_null() && record["credential"].is_null(), "{record}");
}

/// Issue 2, show 6. Threats 8, 35, 71, 72 and 102: host, path, method and agent.
#[tokio::test]
async fn what_no_route_allows_is_refused_alike_through_each_way_in() {
    for way in WAYS {
        let trap = Trap::new();
        let (stage, _) = strict(&trap).await;
        let mut expected = Vec::new();

        let mut wire = match way {
            Way::Tunnel | Way::AbsoluteForm => Wire::connect(stage.forward()).await,
            Way::Reverse => way.open(&stage).await,
        };
        wire.send(unnamed_head(way, &stage, trap.address.port())).await;
        let problem = assert_problem(&wire.answer().await, 403, "host_not_allowed", None);
        expected.push((problem, "host_not_allowed"));

        let mut wire = way.open(&stage).await;
        for (method, path, code) in [
            ("GET", "/v2/orders", "path_not_allowed"),
            ("GET", "/", "path_not_allowed"),
            ("GET", "/v1evil/orders", "path_not_allowed"),
            ("DELETE", "/v1/orders", "method_not_allowed"),
            ("get", "/v1/orders", "method_not_allowed"),
            ("PROPFIND", "/v1/orders", "method_not_allowed"),
        ] {
            wire.send(way.head(&stage, method, path) + "\r\n").await;
            let problem = assert_problem(&wire.answer().await, 403, code, Some("orders"));
            expected.push((problem, code));
        }
        drop(wire);

        stage.assert_nothing_left();
        trap.assert_untouched();
        let records = stage.final_records().await;
        assert_eq!(records.len(), expected.len(), "{way:?}: {records:#?}");
        for (record, (problem, reason)) in records.iter().zip(&expected) {
            assert_recorded(record, problem, Some("researcher"), reason);
            assert_eq!(record["decision"], "deny");
        }
    }
}

/// Threats 8 and 102: an agent that is known, but not to this route.
#[tokio::test]
async fn another_agents_route_is_refused_through_each_way_in() {
    let trap = Trap::new();
    let (mut stage, other) = strict(&trap).await;
    let researcher = std::mem::replace(&mut stage.key, other);
    let forward = format!(
        "GET http://{0}/v1/orders HTTP/1.1\r\nHost: {0}\r\nProxy-Authorization: {1}\r\n\r\n",
        stage.authority(),
        basic("other", &stage.key)
    );
    let tunnel = format!(
        "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\nProxy-Authorization: {1}\r\n\r\n",
        stage.authority(),
        basic("other", &stage.key)
    );
    let reverse = Way::Reverse.head(&stage, "GET", "/v1/orders") + "\r\n";
    let mut problems = Vec::new();
    for (address, text) in [(stage.forward(), forward), (stage.forward(), tunnel), (stage.reverse(), reverse)] {
        let mut wire = Wire::connect(address).await;
        wire.send(text).await;
        // No route's name: it would be another agent's.
        problems.push(assert_problem(&wire.answer().await, 403, "agent_not_allowed", None));
    }
    // The other way round, and with one agent's name and the other's key.
    for (name, key, status) in
        [("researcher", &researcher, 403), ("researcher", &stage.key, 407), ("other", &researcher, 407)]
    {
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!(
            "GET http://other.test:{}/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {}\r\n\r\n",
            trap.address.port(),
            basic(name, key)
        ))
        .await;
        assert_eq!(wire.answer().await.status, status);
    }
    stage.assert_nothing_left();
    trap.assert_untouched();
    let records = stage.final_records().await;
    assert_eq!(records.len(), 6);
    for (record, problem) in records.iter().zip(&problems) {
        assert_recorded(record, problem, Some("other"), "agent_not_allowed");
    }
}

/// What an ordinary client reads, over h2 inside its tunnel.
#[tokio::test]
async fn an_ordinary_client_can_read_a_refusal() {
    let stage = Stage::start().await;
    let answer = stage.agent().get(stage.url("/v2/orders")).send().await.unwrap();
    assert_eq!((answer.status(), answer.version()), (http::StatusCode::FORBIDDEN, http::Version::HTTP_2));
    assert_eq!(code(answer).await, "path_not_allowed");
    let failed = stage.agent().get("https://unnamed.test/").send().await.unwrap_err();
    assert!(failed.is_connect(), "{failed:?}");
    stage.assert_nothing_left();
    let records = stage.final_records().await;
    assert_eq!(
        records.iter().map(|record| &record["error"]).collect::<Vec<_>>(),
        ["path_not_allowed", "host_not_allowed"]
    );
}

/// A refusal of `HEAD` has the fields, no body, and a record.
#[tokio::test]
async fn a_refused_head_has_no_body_but_a_record() {
    for way in WAYS {
        let stage = Stage::start().await;
        let mut wire = way.open(&stage).await;
        for _ in 0..2 {
            wire.send(way.head(&stage, "HEAD", "/v2/orders") + "\r\n").await;
            let answer = wire.answer_to_head().await;
            assert_eq!((answer.status, answer.field("x-cupbearer-error")), (403, "path_not_allowed"));
            assert_eq!(answer.field("content-type"), "application/problem+json");
        }
        // Nothing was left between the answers.
        wire.send(way.head(&stage, "GET", "/v2/orders") + "\r\n").await;
        assert_problem(&wire.answer().await, 403, "path_not_allowed", Some("orders"));
        drop(wire);
        stage.assert_nothing_left();
        let records = stage.final_records().await;
        assert_eq!(records.len(), 3, "{way:?}: {records:#?}");
        assert!(records.iter().all(|record| record["status"] == 403 && record["bytes_in"] == 0));
    }
}

/// A route that denies beats one that allows (threat 71), also where it would be the less specific.
#[tokio::test]
async fn a_denying_route_beats_an_allowing_one() {
    let stage = Stage::with(Default::default(), |facts| {
        let port = facts.api_port;
        format!(
            "{}\n[[routes]]\nname = \"no-admin\"\nhosts = [\"*.test:{port}\"]\npaths = [\"/v1/orders/**\"]\neffect = \"deny\"\n",
            facts.config()
        )
    })
    .await;
    for way in WAYS {
        let mut wire = way.open(&stage).await;
        wire.send(way.head(&stage, "GET", "/v1/orders/1001") + "\r\n").await;
        assert_problem(&wire.answer().await, 403, "denied_by_route", Some("no-admin"));
    }
    stage.assert_nothing_left();
}

// === No DNS before the decision ===

/// Issue 2, show 6. Threat 35: a look-up of a name leaks it, so that it comes after the decision.
#[tokio::test]
async fn a_refused_request_asks_no_dns() {
    let trap = Trap::new();
    let (stage, other) = strict(&trap).await;
    let doors = OwnDoors::open(&stage, None).await;
    for way in WAYS {
        let address = if way == Way::Reverse { doors.reverse } else { doors.forward };
        let (other, authority) = (basic("other", &other), stage.authority());
        let tunnel = |name: &str| connect_head(&stage, name);
        let texts = match way {
            Way::Tunnel => vec![
                unnamed_head(way, &stage, 443),
                tunnel("secret-data.evil.test:443"),
                tunnel("orders.test:443"),
                tunnel("sub.orders.test:443"),
                format!("CONNECT {authority} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {other}\r\n\r\n"),
                format!("CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n"),
            ],
            _ => vec![
                unnamed_head(way, &stage, 443),
                way.head(&stage, "GET", "/v2/orders") + "\r\n",
                way.head(&stage, "PUT", "/v1/orders") + "\r\n",
                way.head(&stage, "TRACE", "/v1/orders") + "\r\n",
                way.head(&stage, "GET", "/v1/orders?access_token=x") + "\r\n",
                way.head(&stage, "GET", "/v1/orders") + "Connection: authorization\r\n\r\n",
                way.head(&stage, "GET", "/v1/orders").replace("uthorization: ", "uthorization: Basic x") + "\r\n",
            ],
        };
        for text in texts {
            let mut wire = Wire::connect(address).await;
            wire.send(&text).await;
            let answer = wire.answer().await;
            assert!((400..=407).contains(&answer.status), "{text}: {answer:?}");
        }
    }
    assert_eq!(doors.asked(), [""; 0]);
    stage.assert_nothing_left();

    // And what is allowed does ask, so that the above means something.
    let mut wire = Wire::connect(doors.forward).await;
    wire.send(Way::AbsoluteForm.head(&stage, "GET", "/v1/orders") + "\r\n").await;
    assert_eq!(wire.answer().await.code(), "upstream_unreachable");
    assert_eq!(doors.asked(), [API]);
}

/// Threat 102: what is refused only when the request is made ready to leave asks for no token, either.
#[tokio::test]
async fn no_token_is_asked_for_a_request_that_may_not_leave() {
    for way in WAYS {
        let stage = Stage::start().await;
        for (path, fields) in [
            ("/v1/orders", "Connection: authorization\r\n"),
            ("/v1/orders", "Connection: keep-alive, Host\r\n"),
            ("/v1/orders?access_token=mine", ""),
        ] {
            let mut wire = way.open(&stage).await;
            wire.send(format!("{}{fields}\r\n", way.head(&stage, "GET", path))).await;
            assert_problem(&wire.answer().await, 400, "bad_request", Some("orders"));
        }
        stage.assert_nothing_left();
    }
}

// === Who asks ===

/// What is no key of ours, in every shape (threats 1 to 3).
fn bad_keys(key: &str) -> Vec<String> {
    let truncated = &key[..key.len() - 1];
    vec![
        String::new(),
        "Proxy-Authorization:\r\n".to_owned(),
        "Proxy-Authorization: Basic\r\n".to_owned(),
        "Proxy-Authorization: Basic !!!!\r\n".to_owned(),
        "Proxy-Authorization: Basic cmVzZWFyY2hlcg==\r\n".to_owned(),
        "Proxy-Authorization: Digest username=\"researcher\"\r\n".to_owned(),
        format!("Proxy-Authorization: {key}\r\n"),
        format!("Proxy-Authorization: {}\r\n", basic("researcher", truncated)),
        format!("Proxy-Authorization: {}\r\n", basic("researcher", &format!("{key}x"))),
        format!("Proxy-Authorization: {}\r\n", basic("researcher", &format!("{key}\0"))),
        format!("Proxy-Authorization: {}\r\n", basic("researcher\0", key)),
        format!("Proxy-Authorization: {}\r\n", basic("Researcher", key)),
        format!("Proxy-Authorization: {}\r\n", basic("nobody", key)),
        format!("Proxy-Authorization: {}\r\n", basic("researcher", "")),
        format!("Proxy-Authorization: {}x\r\n", basic("researcher", key)),
        format!("Proxy-Authorization: Bearer {truncated}\r\n"),
        format!("Proxy-Authorization: Bearer {key} {key}\r\n"),
        format!("Proxy-Authorization: {0}\r\nProxy-Authorization: {0}\r\n", basic("researcher", key)),
        format!("Proxy-Authorization: {}\r\nproxy-authorization: Basic eDp5\r\n", basic("researcher", key)),
        format!("Proxy-Authorization: {}, Basic eDp5\r\n", basic("researcher", key)),
        format!("Proxy_Authorization: {}\r\n", basic("researcher", key)),
        format!("Authorization: {}\r\n", basic("researcher", key)),
        "X-Agent: researcher\r\nX-Forwarded-User: researcher\r\n".to_owned(),
    ]
}

/// Threats 1 to 3, and git, which waits for a 407 and then goes on over the same connection.
#[tokio::test]
async fn without_a_good_key_there_is_407_and_the_connection_stays() {
    let stage = Stage::start().await;
    let target = format!("http://{}/v1/orders", stage.authority());
    let bad = bad_keys(&stage.key);
    let mut answers = Vec::new();
    let mut wire = Wire::connect(stage.forward()).await;
    for fields in &bad {
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).await;
        let answer = wire.answer().await;
        assert_problem(&answer, 407, "agent_unknown", None);
        assert_eq!(answer.field("proxy-authenticate"), "Basic realm=\"cupbearer\"");
        answers.push(answer);
    }
    stage.assert_nothing_left();
    // The same connection, now with the key.
    wire.send(Way::AbsoluteForm.head(&stage, "GET", "/v1/orders") + "\r\n").await;
    assert_eq!(wire.answer().await.status, 200);
    // It doesn't stick to the connection (threat 5).
    wire.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert_eq!(wire.answer().await.code(), "agent_unknown");
    assert_eq!(stage.world.api().seen_count(), 1);
    drop(wire);
    // An unknown name reads like a wrong key (threat 3).
    let text = |answer: &Answer| (answer.problem()["detail"].clone(), answer.problem()["hint"].clone());
    assert_eq!(text(&answers[7]), text(&answers[12]));
    let count = bad.len() + 2;
    let records = stage.final_records().await;
    assert_eq!(records.len(), count, "{records:#?}");
    assert!(records.iter().filter(|record| record["status"] == 407).all(|record| record["agent"].is_null()));
}

/// The same for `CONNECT`: 407 with the connection kept, then 200 on it.
#[tokio::test]
async fn connect_without_a_good_key_gets_407_and_the_connection_stays() {
    let stage = Stage::start().await;
    let authority = stage.authority();
    let bad = bad_keys(&stage.key);
    let mut wire = Wire::connect(stage.forward()).await;
    for fields in &bad {
        wire.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n")).await;
        let answer = wire.answer().await;
        assert_problem(&answer, 407, "agent_unknown", None);
        assert_eq!(answer.field("proxy-authenticate"), "Basic realm=\"cupbearer\"");
    }
    stage.assert_nothing_left();
    wire.send(connect_head(&stage, &authority)).await;
    assert_eq!(wire.answer().await.status, 200);
    let mut wire = wire.secure(&stage, API, &["http/1.1"]).await.unwrap();
    wire.send(Way::Tunnel.head(&stage, "GET", "/v1/orders") + "\r\n").await;
    assert_eq!(wire.answer().await.status, 200);
    drop(wire);
    let records = stage.final_records().await;
    assert_eq!(records.len(), bad.len() + 1);
}

/// Threats 1 and 2 in reverse mode, where the key stands where SDKs have theirs.
#[tokio::test]
async fn a_base_url_wants_a_key_too() {
    let stage = Stage::start().await;
    let key = stage.key.clone();
    let bad = [
        String::new(),
        "Authorization: Bearer sk-placeholder\r\n".to_owned(),
        format!("Authorization: Bearer {}\r\n", &key[1..]),
        format!("Authorization: {key}\r\n"),
        format!("Authorization: Bearer {key}\r\nAuthorization: Bearer {key}\r\n"),
        format!("X-Api-Key: {key}\r\nX-Api-Key: {key}\r\n"),
        "X-Api-Key: sk-placeholder\r\n".to_owned(),
        format!("X_Api_Key: {key}\r\n"),
        format!("Cookie: {key}\r\n"),
    ];
    for fields in &bad {
        let mut wire = Wire::connect(stage.reverse()).await;
        wire.send(format!("GET /v1/orders HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).await;
        assert_problem(&wire.answer().await, 407, "agent_unknown", None);
    }
    stage.assert_nothing_left();
    assert_eq!(stage.final_records().await.len(), bad.len());
}

/// Threat 7: inside a tunnel nobody becomes another agent.
#[tokio::test]
async fn inside_a_tunnel_another_key_changes_nothing() {
    let trap = Trap::new();
    let (stage, other) = strict(&trap).await;
    let mut wire = Way::Tunnel.open(&stage).await;
    for key in [basic("other", &other), basic("nobody", "wrong"), "garbage".to_owned()] {
        wire.send(format!("{}Proxy-Authorization: {key}\r\n\r\n", Way::Tunnel.head(&stage, "GET", "/v1/orders"))).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    drop(wire);
    let seen = stage.world.api().seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("proxy-authorization")));
    let records = stage.final_records().await;
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|record| record["agent"] == "researcher"), "{records:#?}");
}

// === Names ===

/// Threats 24 to 30: what isn't plainly a host is none, and what is nearly an allowed one isn't allowed.
#[tokio::test]
async fn odd_hosts_lead_nowhere() {
    let odd = [
        "evilorders.test",
        "orders.test.evil.test",
        "sub.orders.test",
        "orders-test",
        "orders.tes",
        "ordersXtest",
        "ord%65rs.test",
        "orders.test%00.evil.test",
        "orders.test\\@evil.test",
        "orders.test\0.evil.test",
        "user@orders.test",
        "user:password@orders.test",
        "a@b@orders.test",
        "orders..test",
        ".orders.test",
        "orders.test..",
        "-orders.test",
        "orders_test",
        "xn--example-.test",
        "xn--.test",
        "ｏrders.test",
        "orders。test",
        "or\u{ad}ders.test",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "127.1",
        "0",
        "127.0.0.0x1",
        "127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[::1%25lo]",
        "[::1%lo]",
        "[::1",
        "",
    ];
    let stage = Stage::start().await;
    let (port, key) = (stage.facts.api_port, basic("researcher", &stage.key));
    for host in odd {
        for line in [format!("GET http://{host}:{port}/v1/orders"), format!("CONNECT {host}:{port}")] {
            let mut wire = Wire::connect(stage.forward()).await;
            wire.send(format!("{line} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n")).await;
            let answer = wire.answer().await;
            assert!(matches!(answer.status, 400 | 403), "{line}: {answer:?}");
        }
    }
    for port in ["", ":", ":0", ":65536", ":+443", ":-1", ":443:443", ":4 43", ":０"] {
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!("CONNECT {API}{port} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n")).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 400, "{port}: {answer:?}");
    }
    stage.assert_nothing_left();
}

/// Threat 25: one host, one verdict.
#[tokio::test]
async fn other_spellings_of_a_host_are_that_host() {
    let stage = Stage::start().await;
    let (port, key) = (stage.facts.api_port, basic("researcher", &stage.key));
    for host in ["ORDERS.test", "orders.test.", "Orders.Test."] {
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!(
            "GET http://{host}:{port}/v1/orders HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n"
        ))
        .await;
        assert_eq!(wire.answer().await.status, 200, "{host}");
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(connect_head(&stage, &format!("{host}:{port}"))).await;
        assert_eq!(wire.answer().await.status, 200, "{host}");
    }
    assert!(stage.world.api().seen().iter().all(|seen| seen.authority == Some(stage.authority())));
}

/// Threats 31 and 33: only `http` and `https`, only in absolute-form; `https` as strictly as `http`.
#[tokio::test]
async fn a_forward_proxy_takes_http_and_https_urls_only() {
    let stage = Stage::start().await;
    let (authority, key) = (stage.authority(), basic("researcher", &stage.key));
    let targets = [
        format!("ftp://{authority}/v1/orders"),
        format!("ws://{authority}/v1/orders"),
        format!("gopher://{authority}/v1/orders"),
        "file:///v1/orders".to_owned(),
        format!("//{authority}/v1/orders"),
        format!("http:/{authority}/v1/orders"),
        format!("http:///{authority}/v1/orders"),
        format!("http:{authority}/v1/orders"),
        "/v1/orders".to_owned(),
        authority.clone(),
        "*".to_owned(),
    ];
    for target in targets {
        for method in ["GET", "OPTIONS"] {
            let mut wire = Wire::connect(stage.forward()).await;
            wire.send(format!("{method} {target} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: {key}\r\n\r\n"))
                .await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, 400, "{target}: {answer:?}");
        }
    }
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(format!("GET https://{authority}/v2/x HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n")).await;
    assert_eq!(wire.answer().await.code(), "path_not_allowed");
    stage.assert_nothing_left();
    wire.send(format!("GET https://{authority}/v1/orders HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n"))
        .await;
    assert_eq!(wire.answer().await.status, 200);
}

/// Threat 32: in absolute-form the target decides and `Host` is made of it.
#[tokio::test]
async fn host_is_made_of_the_target() {
    let stage = Stage::start().await;
    let (authority, key) = (stage.authority(), basic("researcher", &stage.key));
    let head = format!("GET http://{authority}/v1/orders HTTP/1.1\r\nProxy-Authorization: {key}\r\n");
    for host in ["Host: evil.test\r\n", "Host:\r\n", "Host: a, b\r\n", ""] {
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!("{head}{host}\r\n")).await;
        let answer = wire.answer().await;
        assert!(matches!(answer.status, 200 | 400), "{answer:?}");
    }
    assert!(stage.world.api().seen().iter().all(|seen| seen.authority == Some(authority.clone())));
    let before = stage.world.api().seen_count();
    assert!(before > 0);
    for way in WAYS {
        let mut wire = way.open(&stage).await;
        wire.send(format!("{}Host: evil.test\r\n\r\n", way.head(&stage, "GET", "/v1/orders"))).await;
        assert_eq!(wire.answer().await.code(), "bad_request");
    }
    assert_eq!(stage.world.api().seen_count(), before);
}

/// Threats 69 and 70, through each way in.
#[tokio::test]
async fn odd_paths_are_refused() {
    let odd = [
        "/v1/../v2/x",
        "/v1/..",
        "/v2/../v1/orders",
        "/v1/%2e%2e/x",
        "/v1/%2E%2e/x",
        "/v1%2f..%2fx",
        "/v1%2forders",
        "/v1/a%5c..%5cb",
        "/v1/a\\..\\b",
        "//v1/orders",
        "/v1//orders",
        "/v1/./orders",
        "/v1/orders;x=1",
        "/v1;/orders",
        "/v1/%252e%252e/x",
        "/v1/orders%00",
        "/v1/orders%0d%0aX-Evil:%20y",
        "/v1/%c0%ae%c0%ae/x",
        "/v1/%zz",
        "/v1/%",
        "/V1/orders",
        "/v1evil/orders",
        "/v2?/v1/orders",
        "/?x=/v1/orders",
        "/v2#/v1/orders",
        "/v1/orders#/../../x",
    ];
    for way in WAYS {
        let stage = Stage::start().await;
        for path in odd {
            let mut wire = way.open(&stage).await;
            wire.send(way.head(&stage, "GET", path) + "\r\n").await;
            let answer = wire.answer().await;
            assert!(matches!(answer.status, 400 | 403), "{way:?} {path}: {answer:?}");
        }
        stage.assert_nothing_left();
        // What was decided on is what is forwarded; the query passes as it is.
        for (path, forwarded) in [
            ("/v1/%6frders?next=/../x;%2f", "/v1/orders?next=/../x;%2f"),
            ("/v1/%7eorders", "/v1/~orders"),
            ("/v1/caf%c3%a9", "/v1/caf%C3%A9"),
        ] {
            let mut wire = way.open(&stage).await;
            wire.send(way.head(&stage, "GET", path) + "\r\n").await;
            wire.answer().await;
            assert_eq!(stage.world.api().seen().pop().unwrap().path, forwarded, "{way:?} {path}");
        }
    }
}

/// A field as HPACK's literal without indexing (RFC 7541 §6.2.2): no library would write what
/// is in it.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match u8::try_from(text.len()).unwrap() {
            length @ 0..127 => bytes.push(length),
            length => bytes.extend([127, length - 127]),
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// Sends `GET` over h2 through the forward door. The first byte of the answer's fields, which
/// is their status where it is an ordinary one; `None`: the stream or the connection was ended.
async fn get_over_h2(stage: &Stage, authority: &str, path: &str) -> Option<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", authority),
        (":path", path),
        ("proxy-authorization", &basic("researcher", &stage.key)),
    ];
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let head = [0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1];
    let mut io = Wire::connect(stage.forward()).await.into_io();
    let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &head[..], &block].concat();
    io.write_all(&bytes).await.unwrap();
    loop {
        let mut frame = [0; 9];
        io.read_exact(&mut frame).await.ok()?;
        let mut payload = vec![0; usize::from(frame[1]) << 8 | usize::from(frame[2])];
        io.read_exact(&mut payload).await.ok()?;
        match frame[3] {
            1 => return Some(payload[0]),
            3 | 7 => return None,
            _settings_and_the_like => {}
        }
    }
}

/// Threats 29 and 70 over h2. `http` cuts a fragment off before anyone can see it, so that it
/// isn't refused; but nothing is decided on it and it goes nowhere.
#[tokio::test]
async fn no_fragment_passes_over_h2() {
    /// RFC 7541, appendix A.
    const OK: u8 = 0x88;
    let stage = Stage::start().await;
    let authority = stage.authority();
    for path in ["/v2#/v1/orders", "/#/v1/orders", "/v1/../x#/v1/orders", "/v1evil#/orders"] {
        assert_ne!(get_over_h2(&stage, &authority, path).await, Some(OK), "{path}");
    }
    for wrong in ["user@", "user:word@", "@", "a@b@"] {
        assert_ne!(get_over_h2(&stage, &format!("{wrong}{authority}"), "/v1/orders").await, Some(OK), "{wrong}");
    }
    for wrong in ["#", "#x", "?", "?x", "/", "#@evil.test", "@evil.test:443"] {
        assert_ne!(get_over_h2(&stage, &format!("{authority}{wrong}"), "/v1/orders").await, Some(OK), "{wrong}");
    }
    stage.assert_nothing_left();
    for (path, forwarded) in [
        ("/v1/orders#/../../v2/x", "/v1/orders"),
        ("/v1/orders?x=1#y", "/v1/orders?x=1"),
        ("/v1/orders#?x=1", "/v1/orders"),
        ("/v1/orders%23x", "/v1/orders%23x"),
    ] {
        let answered = get_over_h2(&stage, &authority, path).await;
        assert_eq!(answered == Some(OK), forwarded.starts_with("/v1/orders") && !forwarded.contains('%'), "{path}");
        assert_eq!(stage.world.api().seen().pop().unwrap().path, forwarded, "{path}");
    }
    let records = stage.final_records().await;
    assert!(records.iter().all(|record| !record["path"].as_str().unwrap_or_default().contains('#')), "{records:#?}");
    assert_eq!(records.last().unwrap()["protocol"], "h2");
}
