//! What the API does for those who may. Bodies are streamed both ways and never held.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    body::{Body, HttpBody},
    extract::{Path, Query, Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Interval, interval};

use crate::demo::jwt::Claims;

use super::{Shared, guard::Progress};

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/orders", get(list_orders).post(create_order))
        .route("/v1/orders/{id}", get(show_order))
        .route("/v1/whoami", get(whoami))
        .route("/v1/stream", get(stream))
        .route("/v1/echo", post(echo))
        .route("/v1/bytes/{count}", get(bytes))
        .route("/v1/sink", post(sink))
        .with_state(Arc::clone(shared))
}

const ORDERS: [(u64, &str, u32); 3] = [(1001, "coffee beans", 2), (1002, "filter paper", 100), (1003, "kettle", 1)];

fn order_json((id, item, quantity): (u64, &str, u32)) -> Value {
    json!({ "id": id, "item": item, "quantity": quantity })
}

async fn list_orders() -> Json<Value> {
    Json(ORDERS.into_iter().map(order_json).collect())
}

async fn show_order(Path(id): Path<u64>) -> Response {
    match ORDERS.into_iter().find(|order| order.0 == id) {
        Some(order) => Json(order_json(order)).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({ "error": "not_found" }))).into_response(),
    }
}

/// Takes any body; what counts is that it came whole.
async fn create_order(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    let Some(length) = read_to_end(body).await else { return StatusCode::BAD_REQUEST.into_response() };
    let number = shared.applied.fetch_add(1, Ordering::SeqCst) + 1;
    let location = [(header::LOCATION, format!("/v1/orders/{number}"))];
    (StatusCode::CREATED, location, Json(json!({ "id": number, "body_length": length }))).into_response()
}

async fn whoami(Extension(claims): Extension<Claims>) -> Json<Claims> {
    Json(claims)
}

async fn echo(request: Request) -> Response {
    let mut headers = HeaderMap::new();
    for name in [header::CONTENT_TYPE, header::TRAILER] {
        if let Some(value) = request.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    (headers, request.into_body()).into_response()
}

async fn sink(body: Body) -> Response {
    match read_to_end(body).await {
        Some(length) => Json(json!({ "bytes": length })).into_response(),
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn bytes(Path(count): Path<u64>) -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
    (kind, Body::new(Zeros { left: count })).into_response()
}

#[derive(Deserialize)]
struct Rhythm {
    count: Option<u64>,
    every_ms: Option<u64>,
}

async fn stream(Query(rhythm): Query<Rhythm>) -> Response {
    let every = Duration::from_millis(rhythm.every_ms.unwrap_or(200).max(1));
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    let uncached = (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let ticks = Ticks { interval: interval(every), next: 1, last: rhythm.count.unwrap_or(u64::MAX) };
    ([kind, uncached], Body::new(ticks)).into_response()
}

/// How long the body was; `None` where it broke off.
async fn read_to_end(mut body: Body) -> Option<u64> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.ok()?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Some(length)
}

// === impl Counted ===

/// A request's body that notes how far it has been read.
pub(super) struct Counted {
    body: Body,
    progress: Arc<Progress>,
}

impl Counted {
    pub(super) fn new(body: Body, progress: Arc<Progress>) -> Self {
        progress.ended.store(body.is_end_stream(), Ordering::SeqCst);
        Self { body, progress }
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.progress.bytes.fetch_add(length, Ordering::SeqCst);
            }
            Some(Err(_)) => {}
            None => self.progress.ended.store(true, Ordering::SeqCst),
        }
        // A reader needn't ask again after the last frame of a body whose length is known.
        if self.body.is_end_stream() {
            self.progress.ended.store(true, Ordering::SeqCst);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Zeros ===

/// That many zero bytes, out of one static block.
struct Zeros {
    left: u64,
}

static BLOCK: [u8; 64 * 1024] = [0; 64 * 1024];

impl HttpBody for Zeros {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(self.left).unwrap_or(BLOCK.len()).min(BLOCK.len());
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&BLOCK[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

// === impl Ticks ===

/// Server-sent events: `event: tick`, numbered from 1.
struct Ticks {
    interval: Interval,
    next: u64,
    last: u64,
}

impl HttpBody for Ticks {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.next > self.last {
            return Poll::Ready(None);
        }
        ready!(self.interval.poll_tick(context));
        let event = format!("event: tick\nid: {0}\ndata: {0}\n\n", self.next);
        self.next += 1;
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}
