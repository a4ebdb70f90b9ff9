//! What of a connection is a body's and when, and what its other end gets to see of that.

use std::future::poll_fn;

use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

const LIMITS: Limits = Limits { bytes: 4096, fields: 100, target: 4096 };
const NEXT: &str = "GET /next HTTP/1.1\r\n\r\n";

type Server = Receiver<DuplexStream>;

fn post(length: usize, begun: &str) -> String {
    format!("POST / HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{begun}")
}

async fn next(server: &mut Server) -> Arrived {
    poll_fn(|cx| server.poll_request(cx, LIMITS)).await.unwrap().unwrap()
}

/// A connection on which `sent` has come, with its first request.
async fn begun(sent: &str) -> (DuplexStream, Server, Arrived) {
    let (mut agent, io) = tokio::io::duplex(64 * 1024);
    agent.write_all(sent.as_bytes()).await.unwrap();
    let mut server = Receiver::new(Bytes::new(), io);
    let arrived = next(&mut server).await;
    (agent, server, arrived)
}

async fn has_left(server: &mut Server) -> bool {
    poll_fn(|cx| Poll::Ready(server.poll_departure(cx, &mut false).is_ready())).await
}

fn is_lent(server: &Server) -> bool {
    matches!(server.wire.io(), Line::Lent(_))
}

fn data(frame: Option<Result<Frame<Bytes>, Fault>>) -> Bytes {
    frame.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn nothing_is_lent_to_a_body_that_is_there() {
    let (_agent, mut server, arrived) = begun(&(post(4, "body") + &post(0, "") + NEXT)).await;
    let mut body = arrived.body;
    assert!(!is_lent(&server) && !body.is_end_stream() && body.size_hint().exact() == Some(4));
    assert_eq!(data(body.frame().await), "body");
    assert!(body.is_end_stream() && body.frame().await.is_none());
    assert!(server.finish());
    assert!(next(&mut server).await.body.is_end_stream() && !is_lent(&server));
    assert!(server.finish());
    assert_eq!(next(&mut server).await.head.uri, "/next");
}

#[tokio::test]
async fn an_answer_is_written_while_the_body_comes() {
    let (mut agent, mut server, arrived) = begun(&post(8, "half")).await;
    let mut body = arrived.body;
    assert!(is_lent(&server) && body.size_hint().exact() == Some(8));
    assert_eq!(data(body.frame().await), "half");
    assert!(!has_left(&mut server).await);
    let reading = tokio::spawn(async move { (data(body.frame().await), body.frame().await.is_none()) });
    tokio::task::yield_now().await;
    server.wire.out.extend_from_slice(b"answer");
    poll_fn(|cx| server.wire.poll_write_out(cx)).await.unwrap();
    let mut read = [0; 6];
    agent.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"answer");
    agent.write_all(format!("rest{NEXT}").as_bytes()).await.unwrap();
    assert_eq!(reading.await.unwrap(), ("rest".into(), true));
    // Back with the last byte, and the next request stays what it is.
    assert!(!has_left(&mut server).await && !is_lent(&server));
    assert!(server.finish());
    assert_eq!(next(&mut server).await.head.uri, "/next");
}

#[tokio::test]
async fn a_reader_hears_of_the_end_after_the_stream_is_back() {
    let (_agent, mut server, arrived) = begun(&post(8, "half")).await;
    let (mut agent, mut body) = (_agent, arrived.body);
    assert_eq!(data(body.frame().await), "half");
    agent.write_all(b"rest").await.unwrap();
    assert_eq!(data(body.frame().await), "rest");
    assert!(!has_left(&mut server).await && !is_lent(&server));
    assert!(body.is_end_stream() && body.frame().await.is_none());
}

#[tokio::test]
async fn a_body_that_outlives_its_answer_is_broken_and_told() {
    for is_dropped in [true, false] {
        let (_agent, mut server, arrived) = begun(&post(8, "half")).await;
        let mut body = arrived.body;
        assert_eq!(data(body.frame().await), "half");
        let reading = tokio::spawn(async move { body.frame().await });
        tokio::task::yield_now().await;
        if is_dropped {
            drop(server);
        } else {
            assert!(!server.finish());
        }
        assert!(matches!(reading.await.unwrap(), Some(Err(Fault::Closed))));
    }
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_skipped_and_a_leaving_heard() {
    let (mut agent, mut server, arrived) = begun(&post(8, "half")).await;
    let waiting = tokio::spawn(async move {
        poll_fn(|cx| server.poll_departure(cx, &mut false)).await;
        server
    });
    tokio::task::yield_now().await;
    // Heard of by whoever waits.
    drop(arrived);
    agent.write_all(format!("rest{NEXT}").as_bytes()).await.unwrap();
    drop(agent);
    let mut server = waiting.await.unwrap();
    assert!(server.may_go_on(0) && server.finish());
    assert_eq!(next(&mut server).await.head.uri, "/next");
}

#[tokio::test]
async fn a_continue_is_asked_for_once_and_only_for_a_body_that_is_not_there() {
    let expects = "POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    for (sent, is_asked) in [(expects.to_owned(), true), (format!("{expects}b"), false)] {
        let (_agent, mut server, mut arrived) = begun(&sent).await;
        assert!(!server.may_go_on(1024), "{sent:?}");
        let mut asked = Vec::new();
        for _ in 0..3 {
            let mut wanted = false;
            poll_fn(|cx| {
                let _ = std::pin::Pin::new(&mut arrived.body).poll_frame(cx);
                let _ = server.poll_departure(cx, &mut wanted);
                Poll::Ready(())
            })
            .await;
            asked.push(wanted);
        }
        assert_eq!(asked, [is_asked, false, false], "{sent:?}");
        assert!(server.may_go_on(1024));
    }
}

#[tokio::test]
async fn a_stream_is_not_handed_over_while_a_body_holds_on_to_it() {
    let (_agent, server, arrived) = begun(&post(8, "half")).await;
    assert!(server.into_parts().is_none());
    drop(arrived);
    // What is no request's body is what comes next.
    let (_agent, server, arrived) = begun("CONNECT h:1 HTTP/1.1\r\ncontent-length: 4\r\n\r\nnext").await;
    drop(arrived);
    assert_eq!(server.into_parts().unwrap().1, "next");
}
