//! A response's body on its way to the agent. It ends the request's record, once, when its
//! last byte has passed or when it is dropped.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::upstream;

use super::{
    super::{headers, open::Open},
    BodyError, IdleTimer,
};

/// A response's body on its way to the agent.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    open: Option<Open>,
}

#[derive(Debug)]
enum Kind {
    /// Made here: a refusal.
    Local(Option<Bytes>),
    Upstream {
        /// What was read of it before it was given to the agent.
        ahead: Bytes,
        incoming: Incoming,
        idle: IdleTimer,
        /// What is still to come, where the answer said how long it is: hyper's server
        /// asks for no more than that, so nobody else would learn of the end.
        left: Option<u64>,
        _connection: upstream::ConnectionGuard,
    },
}

impl Body {
    pub(in crate::proxy) fn local(text: Bytes, open: Open) -> Self {
        Self { kind: Kind::Local(Some(text).filter(|text| !text.is_empty())), open: Some(open) }
    }

    pub(in crate::proxy) fn upstream(
        (ahead, incoming): (Bytes, Incoming),
        connection: upstream::ConnectionGuard,
        idle: Duration,
        open: Open,
    ) -> Self {
        let left = incoming.size_hint().exact();
        let ended = ahead.is_empty() && (incoming.is_end_stream() || left == Some(0));
        let mut body = Self {
            kind: Kind::Upstream { ahead, incoming, idle: IdleTimer::new(idle), left, _connection: connection },
            open: Some(open),
        };
        if ended {
            body.finish(None);
        }
        body
    }

    /// An answer without a body or a record, such as the 200 of a `CONNECT`.
    pub fn empty() -> Self {
        Self { kind: Kind::Local(None), open: None }
    }

    /// The last byte passed, or `error` broke the body off.
    fn finish(&mut self, error: Option<&'static str>) {
        if let Some(open) = self.open.take() {
            open.end(error);
        }
    }

    /// A piece that needn't be waited for.
    fn at_hand(&mut self, piece: Option<Bytes>) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.count(piece.as_ref().map_or(0, Bytes::len));
        if self.is_end_stream() {
            self.finish(None);
        }
        piece.map(|piece| Ok(Frame::data(piece)))
    }

    fn count(&self, bytes: usize) {
        if let Some(open) = &self.open {
            open.traffic.add_to_agent(bytes);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let (incoming, idle, left) = match &mut this.kind {
            Kind::Local(text) => {
                let text = text.take();
                return Poll::Ready(this.at_hand(text));
            }
            Kind::Upstream { ahead, .. } if !ahead.is_empty() => {
                let ahead = std::mem::take(ahead);
                return Poll::Ready(this.at_hand(Some(ahead)));
            }
            Kind::Upstream { incoming, idle, left, .. } => (incoming, idle, left),
        };
        let frame = match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(idle.poll(cx));
                let limit = idle.limit;
                this.finish(Some("upstream_timeout"));
                return Poll::Ready(Some(Err(BodyError::Idle(limit))));
            }
        };
        idle.progress();
        let data = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => 0,
        };
        *left = left.map(|left| left.saturating_sub(data as u64));
        let last = incoming.is_end_stream() || *left == Some(0);
        Poll::Ready(match frame {
            None => {
                this.finish(None);
                None
            }
            Some(Err(error)) => {
                this.finish(Some("upstream_broke_off"));
                Some(Err(error.into()))
            }
            Some(Ok(frame)) => {
                this.count(data);
                if last {
                    this.finish(None);
                }
                Some(Ok(clean_trailers(frame)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Local(text) => text.is_none(),
            Kind::Upstream { ahead, incoming, .. } => ahead.is_empty() && incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Local(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Upstream { ahead, incoming, .. } => match (ahead.len(), incoming.size_hint()) {
                (0, rest) => rest,
                (ahead, rest) => {
                    rest.exact().map_or(SizeHint::default(), |rest| SizeHint::with_exact(rest + ahead as u64))
                }
            },
        }
    }
}

fn clean_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::strip_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
