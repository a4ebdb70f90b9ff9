//! A request's body as the agent sends it, by whichever protocol.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{
    http1::{Fault, Received},
    http2,
};

/// What an agent sends.
#[derive(Debug)]
pub enum AgentBody {
    H1(Received),
    H2(http2::Received),
}

/// Why it broke off.
#[derive(Debug, thiserror::Error)]
pub enum AgentBodyError {
    #[error(transparent)]
    H1(#[from] Fault),
    #[error("the stream broke off")]
    H2(#[from] h2::Error),
}

impl AgentBodyError {
    /// Whether the agent's connection ended, other than by what it said.
    pub(super) fn is_departure(&self) -> bool {
        match self {
            Self::H1(Fault::Closed) => true,
            Self::H1(Fault::Io(error)) => left(error.kind()),
            Self::H1(_) => false,
            Self::H2(error) => has_left(error),
        }
    }
}

fn left(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as E;
    matches!(kind, E::UnexpectedEof | E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe)
}

fn has_left(error: &h2::Error) -> bool {
    // Over h2 an agent that leaves may say so: it cancels the stream (RFC 9113 §7).
    let cancelled = error.is_remote() && error.reason() == Some(h2::Reason::CANCEL);
    cancelled || error.get_io().is_some_and(|cause| left(cause.kind()))
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = AgentBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AgentBodyError>>> {
        match self.get_mut() {
            Self::H1(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            Self::H2(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::H1(body) => body.is_end_stream(),
            Self::H2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(body) => body.size_hint(),
            Self::H2(body) => body.size_hint(),
        }
    }
}
