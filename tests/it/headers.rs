//! Fields at the border: the agent's key and its claims stay here, the token is ours alone and
//! goes nowhere else.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    doors::OwnDoors,
    support::{Facts, Stage},
    wire::{Fault, Origin, WAYS, Way, Wire, basic, connect_head},
};

/// Threats 6 and 9: what an agent says of itself isn't forwarded, and neither is its key.
#[tokio::test]
async fn keys_and_claims_stay_here() {
    const CLAIMS: [&str; 24] = [
        "Forwarded: for=10.0.0.1;by=researcher",
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Host: admin.test",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "X-Forwarded-User: admin",
        "X-Forwarded-Email: admin@example.com",
        "X-Forwarded-Groups: admins",
        "X-Forwarded-Prefix: /admin",
        "X-Forwarded-Server: admin.test",
        "X-Forwarded-Client-Cert: Subject=admin",
        "X-Forwarded-Access-Token: x",
        "X-Real-IP: 10.0.0.1",
        "X-Agent: admin",
        "x_forwarded_for: 10.0.0.1",
        "X-Forwarded_For: 10.0.0.1",
        "X_Forwarded_User: admin",
        "X_Real_IP: 10.0.0.1",
        "Proxy_Authorization: Basic eDp5",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "X-HTTP-Method-Override: DELETE",
        "X-Original-URL: /v2/admin",
    ];
    for way in WAYS {
        let stage = Stage::start().await;
        let key = basic("researcher", &stage.key);
        let proxy_key = if way == Way::Tunnel { format!("Proxy-Authorization: {key}\r\n") } else { String::new() };
        let mut wire = way.open(&stage).await;
        wire.send(format!(
            "{}{}\r\n{proxy_key}X-Kept: yes\r\n\r\n",
            way.head(&stage, "GET", "/v1/orders"),
            CLAIMS.join("\r\n")
        ))
        .await;
        assert_eq!(wire.answer().await.status, 200, "{way:?}");
        let seen = stage.world.api().seen().pop().unwrap();
        assert_eq!(seen.headers["x-kept"], "yes");
        assert!(seen.claims.is_some());
        for claim in CLAIMS {
            let name = claim.split(':').next().unwrap().to_ascii_lowercase();
            assert!(!seen.headers.contains_key(&name), "{way:?}: {name} was forwarded");
        }
        let encoded = key.trim_start_matches("Basic ");
        for (name, value) in &seen.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            assert!(!value.contains(&stage.key) && !value.contains(encoded), "{way:?}: the key stands in {name}");
        }
    }
}

/// Threats 9 and 14 in reverse mode: the key in whichever field SDKs have it.
#[tokio::test]
async fn a_base_url_key_stays_here() {
    let stage = Stage::start().await;
    for field in ["Authorization: Bearer ", "authorization: bearer ", "X-Api-Key: ", "Api-Key: ", "X-Goog-Api-Key: "] {
        let mut wire = Wire::connect(stage.reverse()).await;
        wire.send(format!("GET /v1/orders HTTP/1.1\r\nHost: x\r\n{field}{}\r\n\r\n", stage.key)).await;
        assert_eq!(wire.answer().await.status, 200, "{field}");
        let seen = stage.world.api().seen().pop().unwrap();
        assert!(seen.claims.is_some());
        assert!(seen.headers.values().all(|value| !String::from_utf8_lossy(value.as_bytes()).contains(&stage.key)));
        assert!(["x-api-key", "api-key", "x-goog-api-key"].iter().all(|name| !seen.headers.contains_key(*name)));
    }
}

/// Threats 11, 44 and 71.
#[tokio::test]
async fn trace_track_and_connect_are_never_forwarded() {
    for way in WAYS {
        let stage = Stage::start().await;
        for method in ["TRACE", "TRACK", "CONNECT", "trace", "Track", "connect"] {
            if way == Way::AbsoluteForm && method == "CONNECT" {
                continue;
            }
            let mut wire = way.open(&stage).await;
            wire.send(way.head(&stage, method, "/v1/orders") + "Max-Forwards: 1\r\n\r\n").await;
            let answer = wire.answer().await;
            assert_eq!((answer.status, &*answer.code()), (405, "method_not_allowed"), "{way:?} {method}");
            assert!(!answer.field("allow").is_empty());
        }
        if way != Way::AbsoluteForm {
            let mut wire = way.open(&stage).await;
            wire.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", stage.authority())).await;
            assert_eq!(wire.answer().await.status, 405, "{way:?}");
        }
        stage.assert_nothing_left();
    }
}

/// Threats 12 and 13.
#[tokio::test]
async fn connection_may_not_name_what_must_reach_the_upstream() {
    const LINES: [&str; 16] = [
        "Connection: authorization",
        "Connection: Authorization",
        "CONNECTION: AUTHORIZATION",
        "Connection: keep-alive, authorization",
        "Connection: keep-alive\r\nConnection: close, aUthoriZation",
        "Connection: authorization ,close",
        "Connection: ,,authorization",
        "Connection: host",
        "Connection: content-length",
        "Connection: cookie",
        "Connection: expect",
        "Connection: dpop",
        "Connection: mcp-session-id",
        "Connection: x-forwarded-for",
        "Connection: proxy-foo",
        "Connection: a b",
    ];
    for way in WAYS {
        let stage = Stage::start().await;
        for line in LINES {
            let mut wire = way.open(&stage).await;
            wire.send(format!("{}Cookie: a=b\r\n{line}\r\n\r\n", way.head(&stage, "GET", "/v1/orders"))).await;
            let answer = wire.answer().await;
            assert_eq!((answer.status, &*answer.code()), (400, "bad_request"), "{way:?} {line}");
            assert_eq!(answer.field("connection"), "close");
            wire.closed().await;
        }
        stage.assert_nothing_left();
        assert_eq!(stage.final_records().await.len(), LINES.len());
    }
}

/// Threat 13: framing is ours; an option for it takes nothing away. Other options name fields
/// of this connection alone.
#[tokio::test]
async fn other_connection_options_are_obeyed() {
    let stage = Stage::start().await;
    let mut wire = Way::AbsoluteForm.open(&stage).await;
    wire.send(format!(
        "{}Connection: transfer-encoding, X-Hop, te\r\nX-Hop: 1\r\nX-End: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Way::AbsoluteForm.head(&stage, "POST", "/v1/echo")
    ))
    .await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, &b"hello"[..]));
    let seen = stage.world.api().seen().pop().unwrap();
    assert!(!seen.headers.contains_key("x-hop") && !seen.headers.contains_key("connection"));
    assert!(seen.headers.contains_key("x-end") && seen.claims.is_some());
}

/// Threat 14, over h2 and, byte for byte, over h1; and threat 60: none comes in a trailer.
#[tokio::test]
async fn exactly_one_authorization_goes_out_and_it_is_ours() {
    const OWN: &str = "AUTHORIZATION: Bearer mine\r\nauthorization: Basic eDp5\r\nAuthorization:\r\nX-Api-Key: mine\r\n\
                       authorization_: mine\r\nAuthorization_: mine\r\n";
    for way in [Way::AbsoluteForm, Way::Tunnel] {
        let stage = Stage::start().await;
        let mut wire = way.open(&stage).await;
        wire.send(format!("{}{OWN}\r\n", way.head(&stage, "GET", "/v1/orders"))).await;
        assert_eq!(wire.answer().await.status, 200);
        let seen = stage.world.api().seen().pop().unwrap();
        assert_eq!(seen.headers.get_all("authorization").iter().count(), 1);
        assert!(seen.claims.is_some());
        assert!(!seen.headers.contains_key("x-api-key"));
    }

    let origin = Origin::start(Fault::None).await;
    let stage = Stage::with(Default::default(), |facts| origin.config(facts)).await;
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(format!(
        "{}{OWN}TE: trailers\r\nTrailer: authorization, x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\
         Authorization: Bearer trailing\r\nHost: trailing.test\r\nContent-Length: 7\r\nX-Forwarded-For: trailing\r\n\
         Proxy-Authorization: trailing\r\nTransfer-Encoding: trailing\r\n\r\n",
        origin.head(&stage, "POST", "/v1/x")
    ))
    .await;
    assert_eq!(wire.answer().await.status, 200);
    let text = origin.text().to_ascii_lowercase();
    assert_eq!(text.matches("\r\nauthorization: bearer ").count(), 1, "{text}");
    assert_eq!(text.matches("\r\nauthorization:").count(), 1, "{text}");
    assert_eq!(text.matches("\r\nhost: ").count(), 1, "{text}");
    assert!(!text.contains("trailing") && !text.contains("x-api-key"), "{text}");
    assert!(!text.contains(&stage.key.to_ascii_lowercase()));
}

/// Threat 14 and RFC 6750 §2.3: a token of the agent's own in the query of a route that has one.
#[tokio::test]
async fn a_token_in_the_query_is_refused() {
    for way in WAYS {
        let stage = Stage::start().await;
        for query in [
            "access_token=mine",
            "access_token",
            "Access_Token=mine",
            "limit=2&access_token=mine",
            "%61ccess_token=mine",
            "access%5Ftoken=mine",
            "access%5ftoken=mine",
            "limit=2;access_token=mine",
        ] {
            let mut wire = way.open(&stage).await;
            wire.send(way.head(&stage, "GET", &format!("/v1/orders?{query}")) + "\r\n").await;
            let answer = wire.answer().await;
            assert_eq!((answer.status, &*answer.code()), (400, "bad_request"), "{way:?} {query}");
        }
        stage.assert_nothing_left();
        let mut wire = way.open(&stage).await;
        wire.send(way.head(&stage, "GET", "/v1/orders?not_access_token=x&q=access_token") + "\r\n").await;
        assert_eq!(wire.answer().await.status, 200);
    }
}

/// Threat 22: no token goes out in clear text.
#[tokio::test]
async fn http_without_upgrade_is_refused() {
    let stage = Stage::with(Default::default(), |facts| facts.config().replace("upgrade_http = true\n", "")).await;
    let mut wire = Way::AbsoluteForm.open(&stage).await;
    wire.send(Way::AbsoluteForm.head(&stage, "GET", "/v1/orders") + "\r\n").await;
    assert_eq!(wire.answer().await.code(), "plaintext_not_allowed");
    let mut wire = Wire::tunnel(&stage).await;
    wire.send(Way::Tunnel.head(&stage, "GET", "/v1/orders") + "\r\n").await;
    assert_eq!(wire.answer().await.code(), "plaintext_not_allowed");
    drop(wire);
    stage.assert_nothing_left();
    let records = stage.final_records().await;
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["decision"] == "deny" && record["status"] == 403));
}

// === What lies behind the proxy ===

/// Threats 38 and 39: our own listeners are out of reach, whatever a route says.
#[tokio::test]
async fn the_proxys_own_listeners_are_out_of_reach() {
    let stage = Stage::with(Default::default(), |facts| {
        facts.config()
            + "\"self.test\" = \"127.0.0.1\"\n\"zero.test\" = \"0.0.0.0\"\n\"mapped.test\" = \"::ffff:127.0.0.1\"\n"
    })
    .await;
    let own = [stage.proxy.admin.unwrap(), stage.forward(), stage.reverse()];
    let hosts = ["self.test", "zero.test", "mapped.test", "127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::]"];
    let listed = |hosts: &[&str], ports: &[SocketAddr]| {
        let all = ports.iter().flat_map(|own| hosts.iter().map(move |host| format!("\"{host}:{}\"", own.port())));
        all.collect::<Vec<_>>().join(", ")
    };
    stage.reload(&format!(
        "{}\n[[routes]]\nname = \"self\"\nhosts = [{}]\nagents = [\"researcher\"]\n\
         danger_allow_private_addresses = [\"0.0.0.0/0\", \"::/0\", \"127.0.0.1/32\", \"0.0.0.0/32\"]\n",
        std::fs::read_to_string(stage.config_path()).unwrap(),
        listed(&hosts, &own)
    ));
    let key = basic("researcher", &stage.key);
    let mut asked = 0;
    for address in own {
        for host in hosts {
            let authority = format!("{host}:{}", address.port());
            let mut wire = Wire::connect(stage.forward()).await;
            wire.send(format!(
                "GET http://{authority}/healthz HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n"
            ))
            .await;
            let answer = wire.answer().await;
            assert_eq!((answer.status, &*answer.code()), (403, "address_not_allowed"), "{authority}");
            assert_eq!(answer.field("proxy-status"), "cupbearer; error=destination_ip_prohibited");
            let mut wire = Wire::connect(stage.forward()).await;
            wire.send(connect_head(&stage, &authority)).await;
            assert_eq!(wire.answer().await.status, 200);
            wire.send(format!("GET /healthz HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
            assert_eq!(wire.answer().await.code(), "address_not_allowed", "{authority}");
            asked += 2;
        }
        // Spellings that some resolvers take for 127.0.0.1, and names for it.
        for host in ["127.1", "0x7f.1", "0177.0.0.1", "2130706433", "0", "[::127.0.0.1]", "localhost"] {
            let authority = format!("{host}:{}", address.port());
            for head in [
                format!("GET http://{authority}/healthz HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n"),
                connect_head(&stage, &authority),
            ] {
                let mut wire = Wire::connect(stage.forward()).await;
                wire.send(head).await;
                let answer = wire.answer().await;
                assert!([400, 403].contains(&answer.status), "{authority}: {}", answer.status);
                asked += 1;
            }
        }
    }
    let records = stage.final_records().await;
    assert_eq!(records.len(), asked, "a request got through to the proxy itself");
}

/// Threat 38, the second line: a request that has been here is known by `Via`.
#[tokio::test]
async fn a_request_that_has_been_here_is_refused() {
    for way in WAYS {
        let stage = Stage::start().await;
        let mut wire = way.open(&stage).await;
        wire.send(way.head(&stage, "GET", "/v1/orders") + "Via: 1.1 somebody-else\r\n\r\n").await;
        let answer = wire.answer().await;
        let via = answer.field("via");
        assert!(answer.status == 200 && via.contains("cupbearer-"), "{answer:?}");
        let name = via.split(' ').nth(1).unwrap();
        for line in [
            format!("Via: {via}"),
            format!("Via: 1.0 first, 1.1 {name}, 1.1 last"),
            format!("Via: 1.0 first\r\nVia: 2 {name}"),
            format!("Connection: via\r\nVia: {via}"),
        ] {
            wire.send(format!("{}{line}\r\n\r\n", way.head(&stage, "GET", "/v1/orders"))).await;
            let answer = wire.answer().await;
            assert_eq!((answer.status, &*answer.code()), (502, "loop_detected"), "{way:?} {line}");
            assert_eq!(answer.field("proxy-status"), "cupbearer; error=proxy_loop_detected");
        }
        assert_eq!(stage.world.api().seen_count(), 1);
    }
}

// === unmatched = "tunnel" ===

async fn open_stage() -> Stage {
    Stage::with(Default::default(), |facts: &Facts| {
        let config = facts.config().replace("workers = 1", "workers = 1\nunmatched = \"tunnel\"");
        assert!(config.contains("unmatched"));
        config
    })
    .await
}

/// `unmatched = "tunnel"`: bytes pass untouched, and with no credential.
#[tokio::test]
async fn an_unnamed_host_is_tunnelled_untouched() {
    let stage = open_stage().await;
    let far_end = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let doors = OwnDoors::open(&stage, Some(far_end.local_addr().unwrap())).await;
    let served = tokio::spawn(async move {
        let (mut stream, _) = far_end.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(b"\0anything back\xff").await.unwrap();
        all
    });
    let mut wire = Wire::connect(doors.forward).await;
    // What comes with the head (early data) is part of it.
    wire.send(connect_head(&stage, "anything.example:443") + "SSH-2.0-x\r\n").await;
    assert_eq!(wire.answer().await.status, 200);
    let mut io = wire.into_io();
    io.write_all(b"GET / HTTP/1.1\r\n\xff\0\n").await.unwrap();
    io.shutdown().await.unwrap();
    let mut back = Vec::new();
    io.read_to_end(&mut back).await.unwrap();
    assert_eq!(served.await.unwrap(), b"SSH-2.0-x\r\nGET / HTTP/1.1\r\n\xff\0\n");
    assert_eq!(back, b"\0anything back\xff");
    assert_eq!(doors.asked(), ["anything.example"]);
    stage.assert_nothing_left();
    drop(doors);
    let records = stage.final_records().await;
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["protocol"], "tunnel");
    assert_eq!(records[0]["reason"], "unmatched_tunnelled");
    assert_eq!((&records[0]["bytes_in"], &records[0]["bytes_out"]), (&30.into(), &15.into()));
    assert_eq!(records[0]["upstream_addr"], "93.184.216.34:443");
    assert!(records[0]["credential"].is_null() && records[0]["error"].is_null(), "{}", records[0]);
}

/// Threats 34, 37, 39 and 45: where a blind tunnel may not lead.
#[tokio::test]
async fn blind_tunnels_lead_to_the_public_web_only() {
    let stage = open_stage().await;
    let doors = OwnDoors::open(&stage, None).await;
    let issuer = stage.facts.issuer.trim_start_matches("https://").trim_end_matches('/').to_owned();
    for (authority, code) in [
        ("private.example:443", "address_not_allowed"),
        ("10.0.0.1:443", "address_not_allowed"),
        ("169.254.169.254:80", "address_not_allowed"),
        ("[::1]:443", "address_not_allowed"),
        ("[::ffff:10.0.0.1]:443", "address_not_allowed"),
        // The authorization server's host, at any port.
        (&*issuer, "host_not_allowed"),
        ("127.0.0.1:443", "host_not_allowed"),
        // Not the web.
        ("anything.example:22", "host_not_allowed"),
        ("anything.example:25", "host_not_allowed"),
        ("anything.example:9180", "host_not_allowed"),
    ] {
        let mut wire = Wire::connect(doors.forward).await;
        wire.send(connect_head(&stage, authority)).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, &*answer.code()), (403, code), "{authority}");
        wire.closed().await;
    }
    assert_eq!(doors.asked(), ["private.example"]);
    // Only `CONNECT` is tunnelled; and a host with a route never is, whoever asks.
    let key = basic("researcher", &stage.key);
    for head in [
        "GET http://anything.example/ HTTP/1.1".to_owned(),
        "GET https://anything.example/ HTTP/1.1".to_owned(),
        format!("GET http://{}/v2/x HTTP/1.1", stage.authority()),
    ] {
        let mut wire = Wire::connect(doors.forward).await;
        wire.send(format!("{head}\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n")).await;
        assert_eq!(wire.answer().await.status, 403, "{head}");
    }
    let mut wire = Wire::connect(doors.forward).await;
    wire.send("CONNECT anything.example:443 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 407);
    assert_eq!(doors.asked(), ["private.example"]);
    stage.assert_nothing_left();
    drop(doors);
    let records = stage.final_records().await;
    let reasons: Vec<_> = records.iter().map(|record| record["reason"].as_str().unwrap()).collect();
    let is_word = |reason: &&str| reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    assert!(reasons.iter().all(is_word), "{reasons:?}");
    assert!(reasons.contains(&"authorization_server"), "{reasons:?}");
}

/// Threat 45: a host with a route is intercepted and never tunnelled blindly.
#[tokio::test]
async fn a_named_host_is_never_tunnelled_blindly() {
    let stage = open_stage().await;
    let mut wire = Wire::tunnel(&stage).await;
    wire.send("SSH-2.0-x\r\n").await;
    assert_eq!(wire.closed().await, b"");
    stage.assert_nothing_left();
    let records = stage.final_records().await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["error"], "tunnel_protocol");
}

/// What an agent can see of the token: nothing (P1). The API's answers hold none here; this is about ours.
#[tokio::test]
async fn no_answer_of_ours_holds_the_token() {
    let stage = Stage::start().await;
    let mut answers = Vec::new();
    for way in WAYS {
        let mut wire = way.open(&stage).await;
        for (method, path) in [("GET", "/v1/orders"), ("GET", "/v2/x"), ("TRACE", "/v1/orders"), ("GET", "/v1/%zz")] {
            wire.send(way.head(&stage, method, path) + "\r\n").await;
            let answer = wire.answer().await;
            answers.push(format!("{:?} {}", answer.fields, String::from_utf8_lossy(&answer.body)));
        }
    }
    let seen = stage.world.api().seen().pop().unwrap();
    let token = seen.headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
    assert!(token.len() > 100 && answers.len() == 12);
    assert!(answers.iter().all(|answer| !answer.contains(&token)));
    assert!(!stage.log().iter().any(|line| line.to_string().contains(&token)));
}
