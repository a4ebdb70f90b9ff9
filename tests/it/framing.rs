//! HTTP/1 framing: what could be read in two ways is refused or made plain, and nothing that
//! wasn't a request to us becomes one upstream.

use crate::{
    support::Stage,
    wire::{Answer, Fault, Origin, WAYS, Way, Wire, whole_requests},
};

/// What a front end and a back end might read differently: the second request here.
const HIDDEN: &str = "GET /v1/smuggled HTTP/1.1\r\nHost: orders.test\r\n\r\n";

/// The proxy before an h1 origin that shows its bytes.
async fn stage_with_origin() -> (Stage, Origin) {
    let origin = Origin::start(Fault::None).await;
    let stage = Stage::with(Default::default(), |facts| origin.config(facts)).await;
    (stage, origin)
}

/// Sends it all and takes the first answer, and what comes behind it until the proxy closes.
async fn exchange(stage: &Stage, text: impl AsRef<[u8]>) -> (Option<Answer>, Vec<u8>) {
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(text).await;
    let answer = wire.try_answer().await;
    if answer.as_ref().is_some_and(|answer| answer.status == 200 && answer.field("connection") != "close") {
        return (answer, Vec::new());
    }
    let rest = wire.closed().await;
    (answer, rest)
}

fn assert_nothing_forged(origin: &Origin, whole: usize) {
    let text = origin.text();
    assert_eq!(whole_requests(text.as_bytes()), whole, "{text}");
    assert_eq!(text.matches(" HTTP/1.1\r\n").count(), whole, "{text}");
    assert!(!text.contains("smuggled"), "{text}");
}

/// Threats 55 and 56.
#[tokio::test]
async fn lengths_that_could_be_read_in_two_ways_are_refused() {
    let (stage, origin) = stage_with_origin().await;
    let refused = [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 6\r\ncontent-length: 5",
        "Content-Length: 5, 5",
        "Content-Length: 5,6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5_0",
        "Content-Length: 5 5",
        "Content-Length: 5a",
        "Content-Length: \"5\"",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: 18446744073709551615",
        "Content-Length : 5",
        " Content-Length: 5",
    ];
    for fields in refused {
        let head = origin.head(&stage, "POST", "/v1/x");
        let (answer, rest) = exchange(&stage, format!("{head}{fields}\r\n\r\nhello{HIDDEN}")).await;
        assert_eq!(answer.map(|answer| answer.status), Some(400), "{fields}");
        assert_eq!(rest, b"", "{fields}");
    }
    assert_nothing_forged(&origin, 0);
    assert_eq!(stage.world.api().seen_count(), 0);
}

/// Threat 55: where both are there, chunked counts, the length goes, and the connection with it.
#[tokio::test]
async fn with_both_a_length_and_chunks_the_connection_ends() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 99999",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
    ] {
        let (stage, origin) = stage_with_origin().await;
        let head = origin.head(&stage, "POST", "/v1/x");
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!("{head}{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n{HIDDEN}")).await;
        let answer = wire.answer().await;
        assert!(matches!(answer.status, 200 | 400), "{answer:?}");
        assert_eq!(wire.closed().await, b"", "{fields}");
        let whole = usize::from(answer.status == 200);
        assert_nothing_forged(&origin, whole);
        let text = origin.text().to_ascii_lowercase();
        assert!(
            text.matches("content-length:").count() + text.matches("transfer-encoding:").count() == whole,
            "{text}"
        );
    }
}

/// Threat 56: the same length twice comes out once.
#[tokio::test]
async fn one_clean_length_at_most_goes_out() {
    let (stage, origin) = stage_with_origin().await;
    let head = origin.head(&stage, "POST", "/v1/x");
    let (answer, _) = exchange(
        &stage,
        format!("{head}Content-Length: 5\r\nContent-Length: 5\r\nContent_Length: 7\r\nTransfer_Encoding: chunked\r\n\r\nhello"),
    )
    .await;
    let whole = usize::from(answer.unwrap().status == 200);
    assert_nothing_forged(&origin, whole);
    let text = origin.text().to_ascii_lowercase();
    assert_eq!(text.matches("\r\ncontent-length: 5\r\n").count(), whole, "{text}");
    assert!(!text.contains("_length") && !text.contains("_encoding"), "{text}");
}

/// Threat 57: only exactly `chunked`.
#[tokio::test]
async fn other_transfer_codings_are_refused() {
    let (stage, origin) = stage_with_origin().await;
    let refused = [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\0",
        "Transfer Encoding: chunked",
    ];
    for fields in refused {
        let head = origin.head(&stage, "POST", "/v1/x");
        let (answer, rest) = exchange(&stage, format!("{head}{fields}\r\n\r\n0\r\n\r\n{HIDDEN}")).await;
        assert_eq!(answer.map(|answer| answer.status), Some(400), "{fields}");
        assert_eq!(rest, b"", "{fields}");
    }
    // HTTP/1.0 has no transfer codings.
    let head = origin.head(&stage, "POST", "/v1/x").replace("HTTP/1.1", "HTTP/1.0");
    let (answer, _) = exchange(&stage, format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")).await;
    assert_eq!(answer.unwrap().status, 400);
    assert_nothing_forged(&origin, 0);
}

/// Threats 58 and 59: a body that breaks off or breaks its form never becomes a whole one, also
/// where the method would be sent again.
#[tokio::test]
async fn a_broken_body_is_never_made_whole() {
    let broken = [
        "5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n+5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n-5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n5_\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\nFFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\nxyz\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\n5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nbad trailer\r\n\r\n",
    ];
    for method in ["POST", "PUT"] {
        for body in broken {
            let (stage, mut origin) = stage_with_origin().await;
            let head = origin.head(&stage, method, "/v1/x");
            let mut wire = Wire::connect(stage.forward()).await;
            wire.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}{HIDDEN}")).await;
            let answer = wire.try_answer().await;
            assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{method} {body:?}: {answer:?}");
            assert_eq!(wire.closed().await, b"", "{method} {body:?}");
            if origin.log().connections > 0 {
                origin.all_ended().await;
            }
            let text = origin.text();
            assert_eq!(whole_requests(text.as_bytes()), 0, "{method} {body:?}: {text}");
            assert!(!text.contains("smuggled"), "{text}");
            drop(wire);
            let records = stage.final_records().await;
            assert_eq!(records.len(), 1, "{records:#?}");
            assert_eq!(records[0]["retried"], false, "{records:#?}");
        }
    }
}

/// The same where the agent leaves in the middle, with either framing.
#[tokio::test]
async fn a_body_that_breaks_off_is_never_made_whole() {
    for (framing, sent) in [("Content-Length: 10", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n")] {
        for method in ["POST", "PUT"] {
            let (stage, mut origin) = stage_with_origin().await;
            let head = origin.head(&stage, method, "/v1/x");
            let mut wire = Wire::connect(stage.forward()).await;
            wire.send(format!("{head}{framing}\r\n\r\n{sent}")).await;
            origin.saw("hello").await;
            drop(wire);
            let log = origin.all_ended().await;
            assert_eq!(whole_requests(&log.bytes), 0, "{}", String::from_utf8_lossy(&log.bytes));
            let records = stage.final_records().await;
            assert_eq!(records.len(), 1, "{records:#?}");
        }
    }
}

/// Threats 61 and 62: heads that no parser should read alike.
#[tokio::test]
async fn heads_that_are_none_are_refused() {
    let (stage, origin) = stage_with_origin().await;
    let head = origin.head(&stage, "GET", "/v1/x");
    let (line, fields) = head.split_once("\r\n").unwrap();
    let target = line.split(' ').nth(1).unwrap();
    let refused = [
        format!("{head}X-A: b\r\n folded\r\n\r\n"),
        format!("{head}X-A: b\r\n\tfolded\r\n\r\n"),
        format!("{head}X-A: b\rX-B: c\r\n\r\n"),
        format!("{head}X-A: b\0c\r\n\r\n"),
        format!("{head}X-A: b\x1bc\r\n\r\n"),
        format!("{head}X-A: b\x7fc\r\n\r\n"),
        format!("{head}X-A : b\r\n\r\n"),
        format!("{head}X A: b\r\n\r\n"),
        format!("{head}X\tA: b\r\n\r\n"),
        format!("{head}X(A): b\r\n\r\n"),
        format!("{head}: b\r\n\r\n"),
        format!("{head}no colon\r\n\r\n"),
        format!("{line}\r\n X-First: b\r\n{fields}\r\n"),
        format!("GET  {target} HTTP/1.1\r\n{fields}\r\n"),
        format!("GET\t{target} HTTP/1.1\r\n{fields}\r\n"),
        format!("GET {target}  HTTP/1.1\r\n{fields}\r\n"),
        format!("GET {target} HTTP/1.1 \r\n{fields}\r\n"),
        format!("GET {target} x HTTP/1.1\r\n{fields}\r\n"),
        format!("GET {target} HTTP/1.2\r\n{fields}\r\n"),
        format!("GET {target} HTTP/0.9\r\n{fields}\r\n"),
        format!("GET {target} http/1.1\r\n{fields}\r\n"),
        format!("GET {target} HTTP/1.10\r\n{fields}\r\n"),
        format!("GET {target}\r\n{fields}\r\n"),
        format!("GET {target}\r\n\r\n"),
        format!(" GET {target} HTTP/1.1\r\n{fields}\r\n"),
        format!("G@T {target} HTTP/1.1\r\n{fields}\r\n"),
        format!("G\0T {target} HTTP/1.1\r\n{fields}\r\n"),
        format!("GET {target}\0 HTTP/1.1\r\n{fields}\r\n"),
        format!("GET {target}\x7f HTTP/1.1\r\n{fields}\r\n"),
        format!("GET {target}/\\..\\ HTTP/1.1\r\n{fields}\r\n").replace("/v1/x/", "/v1/x/\x01"),
    ];
    for text in refused {
        let (answer, rest) = exchange(&stage, format!("{text}{HIDDEN}")).await;
        assert_eq!(answer.map(|answer| answer.status), Some(400), "{text:?}");
        assert_eq!(rest, b"", "{text:?}");
    }
    // Another protocol altogether.
    for text in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
        "SSH-2.0-x\r\n",
    ] {
        let (answer, _) = exchange(&stage, text).await;
        assert!(answer.is_none_or(|answer| answer.status == 400), "{text:?}");
    }
    assert_nothing_forged(&origin, 0);
    // A bare LF may end a line (RFC 9112 §2.2); what goes out has CR LF.
    let (answer, _) = exchange(&stage, format!("{head}X-A: b\nX-B: c\n\r\n")).await;
    if answer.unwrap().status == 200 {
        let text = origin.text();
        assert!(text.contains("x-a: b\r\n") && text.contains("x-b: c\r\n"), "{text}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text}");
    }
    assert_eq!(stage.world.api().seen_count(), 0);
}

/// Threats 59 and 85.
#[tokio::test]
async fn heads_without_end_are_refused() {
    let stage = Stage::start().await;
    let head = Way::AbsoluteForm.head(&stage, "GET", "/v1/orders");
    let long = "x".repeat(70 * 1024);
    let many: String = (0..101).map(|number| format!("X-{number}: y\r\n")).collect();
    for (text, statuses) in [
        (format!("{head}X-Long: {long}\r\n\r\n"), [431, 431]),
        (format!("{head}X-{long}: y\r\n\r\n"), [431, 400]),
        (format!("{head}{many}\r\n"), [431, 431]),
        (Way::AbsoluteForm.head(&stage, "GET", &format!("/v1/{long}")) + "\r\n", [414, 431]),
        (Way::AbsoluteForm.head(&stage, &long, "/v1/orders") + "\r\n", [431, 400]),
    ] {
        let (answer, rest) = exchange(&stage, &text).await;
        let status = answer.unwrap().status;
        assert!(statuses.contains(&status), "{status}: {:?}", &text[..200]);
        assert_eq!(rest, b"");
    }
    // Without an end at all: more than may wait.
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(head.clone()).await;
    for _ in 0..64 {
        wire.send(format!("X-More: {}\r\n", "y".repeat(16 * 1024))).await;
    }
    let answer = wire.try_answer().await;
    assert!(answer.is_none_or(|answer| answer.status == 431));
    stage.assert_nothing_left();
    // What stays under the limits is fine.
    let fields: String = (0..90).map(|number| format!("X-{number}: {}\r\n", "y".repeat(90))).collect();
    let (answer, _) = exchange(&stage, format!("{head}{fields}\r\n")).await;
    assert_eq!(answer.unwrap().status, 200);
}

/// Threat 59: trailers and chunk extensions have a limit, too.
#[tokio::test]
async fn trailers_and_extensions_without_end_are_cut() {
    for flood in [
        format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1024 * 1024)),
        format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "y".repeat(1000)).repeat(1000)),
        format!("5\r\nhello\r\n0\r\n{}\r\n", format!("X-T: {}\r\n", "y".repeat(1000)).repeat(1000)),
    ] {
        let (stage, mut origin) = stage_with_origin().await;
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!("{}Transfer-Encoding: chunked\r\n\r\n{flood}", origin.head(&stage, "POST", "/v1/x"))).await;
        let answer = wire.try_answer().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{answer:?}");
        if origin.log().connections > 0 {
            origin.all_ended().await;
        }
        assert_eq!(whole_requests(&origin.log().bytes), 0);
    }
}

/// Threat 63: pipelined requests are judged one by one and answered in order.
#[tokio::test]
async fn pipelined_requests_are_judged_one_by_one() {
    for way in WAYS {
        let stage = Stage::start().await;
        let mut wire = way.open(&stage).await;
        let get = |path: &str| way.head(&stage, "GET", path) + "\r\n";
        let post = way.head(&stage, "POST", "/v1/echo") + "Content-Length: 5\r\n\r\nhello";
        let without_key = format!("GET http://{0}/v1/orders HTTP/1.1\r\nHost: {0}\r\n\r\n", stage.authority());
        let all = [get("/v1/orders/1001"), get("/v2/x"), post, get("/v1/../x"), get("/v1/orders/1002"), without_key];
        wire.send(all.concat()).await;
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(wire.answer().await);
        }
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        // Inside a tunnel an `http` URL is another target; elsewhere there is no key.
        let last = if way == Way::Tunnel { 400 } else { 407 };
        assert_eq!(statuses, [200, 403, 200, 403, 200, last], "{way:?}");
        assert!(String::from_utf8_lossy(&answers[0].body).contains("1001"));
        assert_eq!(answers[2].body, b"hello");
        assert!(String::from_utf8_lossy(&answers[4].body).contains("1002"));
        drop(wire);
        let paths: Vec<_> = stage.world.api().seen().into_iter().map(|seen| seen.path).collect();
        assert_eq!(paths, ["/v1/orders/1001", "/v1/echo", "/v1/orders/1002"]);
        let records = stage.final_records().await;
        assert_eq!(records.len(), 6, "{records:#?}");
    }
}

/// Threats 46, 63 and 68: the body of a refused request is no request.
#[tokio::test]
async fn the_body_of_a_refused_request_is_never_a_request() {
    for way in WAYS {
        let stage = Stage::start().await;
        let hidden = way.head(&stage, "GET", "/v1/smuggled") + "\r\n";
        let length = hidden.len();
        let mut refused = 0;
        for (framing, body) in [
            (format!("Content-Length: {length}"), hidden.clone()),
            (format!("Content-Length: {}", 3 * length), hidden.repeat(3)),
            // The rest never comes.
            (format!("Content-Length: {}", 10 * length), hidden.clone()),
            ("Transfer-Encoding: chunked".to_owned(), format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n")),
            ("Transfer-Encoding: chunked".to_owned(), format!("{:x}\r\n{hidden}", 10 * length)),
            (format!("Content-Length: {}\r\nExpect: 100-continue", length), hidden.clone()),
            (format!("Content-Length: {}", 4000 * length), hidden.repeat(4000)),
        ] {
            for (method, path) in [("POST", "/v2/x"), ("TRACE", "/v1/x"), ("POST", "/v1/x?access_token=x")] {
                let mut wire = way.open(&stage).await;
                wire.send(format!("{}{framing}\r\n\r\n{body}", way.head(&stage, method, path))).await;
                let answer = wire.answer().await;
                assert!(matches!(answer.status, 400 | 403 | 405), "{answer:?}");
                refused += 1;
                if answer.field("connection") != "close" && !body.ends_with("3") {
                    // Where the connection is kept, the next request is the next one.
                    wire.send(way.head(&stage, "GET", "/v2/next") + "\r\n").await;
                    if let Some(answer) = wire.try_answer().await {
                        assert_eq!(answer.status, 403, "{framing}");
                        refused += 1;
                    }
                }
            }
        }
        stage.assert_nothing_left();
        let records = stage.final_records().await;
        let smuggled = records.iter().filter(|record| record["path"] == "/v1/smuggled").count();
        assert_eq!(smuggled, 0, "{way:?}");
        assert!(records.len() >= refused, "{way:?}: {} {refused}", records.len());
        assert!(records.len() <= refused + 21, "{way:?}: {} {refused}", records.len());
    }
}

/// Threat 64: the only expectation is `100-continue`, once.
#[tokio::test]
async fn other_expectations_are_refused() {
    let stage = Stage::start().await;
    for fields in
        ["Expect: 200-ok", "Expect: 100-continue, x", "Expect: 100-continue\r\nExpect: 100-continue", "Expect:"]
    {
        let head = Way::AbsoluteForm.head(&stage, "POST", "/v1/echo");
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!("{head}{fields}\r\nContent-Length: 2\r\n\r\nok")).await;
        assert_eq!(wire.answer().await.status, 417, "{fields}");
    }
    stage.assert_nothing_left();
    let mut wire = Wire::connect(stage.forward()).await;
    wire.send(
        Way::AbsoluteForm.head(&stage, "POST", "/v1/echo") + "Expect: 100-Continue\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    assert_eq!(wire.answer().await.body, b"ok");
}

/// Threats 65 and 66: an upgrade that wasn't agreed on switches nothing.
#[tokio::test]
async fn upgrades_are_not_forwarded() {
    let (stage, origin) = stage_with_origin().await;
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: upgrade\r\nUpgrade: TLS/1.0",
    ] {
        let head = origin.head(&stage, "GET", "/v1/x");
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!("{head}{fields}\r\n\r\n{}\r\n", origin.head(&stage, "GET", "/v1/behind"))).await;
        assert_eq!(wire.answer().await.status, 200);
        assert_eq!(wire.answer().await.status, 200);
    }
    let text = origin.text().to_ascii_lowercase();
    assert!(!text.contains("upgrade") && !text.contains("http2-settings"), "{text}");
    assert_eq!(whole_requests(text.as_bytes()), 4);
}
