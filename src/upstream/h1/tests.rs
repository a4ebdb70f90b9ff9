//! What can't be seen from outside: which requests may be sent again.

use std::{sync::Weak, time::Duration};

use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;

use super::{super::Stream, *};

struct Nowhere;

impl Home for Nowhere {
    fn take_in(&self, _: Box<Connection>, _: Option<tokio::time::Instant>) {}
}

/// To a peer that is gone already: the first write fails.
fn dead() -> Box<Connection> {
    let (io, _) = tokio::io::duplex(64);
    let home: Weak<Nowhere> = Weak::new();
    Connection::new(Transport::Clear(Stream::Memory(io)), ([127, 0, 0, 1], 80).into(), home)
}

async fn exchange_over(
    connection: Box<Connection>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failed<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = Tracked::new(body, Instant::now());
    let patience = Patience::new(Duration::from_secs(9), Instant::now(), &body);
    exchange(connection, (&head, body), &HeaderValue::from_static("x"), patience, &|_, _| ()).await
}

async fn send(request: Request<Full<Bytes>>) -> Failed<Full<Bytes>> {
    exchange_over(dead(), request).await.unwrap_err()
}

/// A body that was taken, if only in part, doesn't come back: sent again without it the request
/// would be another one.
#[tokio::test]
async fn a_request_without_its_body_is_not_sent_again() {
    let get = send(Request::get("/").body(Full::default()).unwrap()).await;
    assert!(get.nothing_sent && get.unsent.is_some(), "{get:?}");
    let post = send(Request::post("/").body(Full::from("body")).unwrap()).await;
    assert!(post.nothing_sent && post.unsent.is_none(), "{post:?}");
}

#[tokio::test]
async fn trailers_that_were_put_back_come_again() {
    let (io, mut peer) = tokio::io::duplex(1024);
    let home: Weak<Nowhere> = Weak::new();
    let connection = Connection::new(Transport::Clear(Stream::Memory(io)), ([127, 0, 0, 1], 80).into(), home);
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\nx-sum: 1\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut peer, answer).await.unwrap();
    let request = Request::get("/").body(Full::<Bytes>::default()).unwrap();
    let mut body = exchange_over(connection, request).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data");
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-sum"], "1");
    assert!(body.is_end_stream());
    body.put_back(trailers.clone());
    assert!(!body.is_end_stream() && body.size_hint().exact().is_none());
    assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
    assert!(body.is_end_stream() && body.frame().await.is_none());
}

/// Threat 79.
#[tokio::test]
async fn a_body_that_broke_off_stays_broken() {
    let (io, mut peer) = tokio::io::duplex(1024);
    let home: Weak<Nowhere> = Weak::new();
    let connection = Connection::new(Transport::Clear(Stream::Memory(io)), ([127, 0, 0, 1], 80).into(), home);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    tokio::io::AsyncWriteExt::write_all(&mut peer, answer).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut peer).await.unwrap();
    let request = Request::get("/").body(Full::<Bytes>::default()).unwrap();
    let mut body = exchange_over(connection, request).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    for _ in 0..2 {
        assert!(body.frame().await.unwrap().is_err());
        assert!(!body.is_end_stream() && body.size_hint().exact().is_none());
    }
}
