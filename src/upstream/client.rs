//! The pool: `hyper::client::conn` connections by (agent, upstream settings, scheme, authority).

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;

use super::{Destination, Dial, Error, Resolve, Settings, Stream, Wall};

/// One worker's pool. `B` is the body of the requests it sends.
#[derive(Debug)]
pub struct Client<B> {
    #[expect(dead_code, reason = "skeleton")]
    body: std::marker::PhantomData<fn(B)>,
}

/// The head of an answer, its body to be streamed.
#[derive(Debug)]
pub struct Sent {
    pub response: Response<Incoming>,
    pub address: SocketAddr,
}

/// A request that got no answer.
#[derive(Debug)]
pub struct SendFailure<B> {
    pub error: Error,
    /// The request, where not a byte of it was sent: safe to send again whatever its method.
    pub unsent: Option<Request<B>>,
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub fn new(_settings: Settings, _wall: Wall, _resolve: Arc<dyn Resolve>, _dial: Arc<dyn Dial>) -> Self {
        todo!()
    }

    /// Sends over a pooled connection or a new one. `request` is complete but for the
    /// form of its target: its URI is absolute (`https://host:port/path?query`) and becomes
    /// origin-form on h1; `Host` is set from the permit's authority on h1 and absent on h2.
    ///
    /// A pooled connection that turns out closed before a byte was sent is replaced
    /// without the caller's knowing. Nothing else is retried here.
    pub async fn send(&self, _to: Destination<'_>, _request: Request<B>) -> Result<Sent, SendFailure<B>> {
        todo!()
    }

    /// A raw connection for a blind tunnel, through the same wall.
    pub async fn connect_raw(&self, _to: &crate::primitives::Authority) -> Result<(Stream, SocketAddr), Error> {
        todo!()
    }
}
