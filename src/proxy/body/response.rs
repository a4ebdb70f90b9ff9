//! A response's body on its way to the agent. It ends the request's record, once: when whoever
//! sends it says that it was delivered, when it breaks off, or when it is dropped.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::upstream::Incoming;

use super::{
    super::{
        headers,
        open::Open,
        scrub::{Came, Screen},
    },
    BodyError, IdleTimer, Times,
};

/// How long a refusal may be on its way: whoever guesses keys doesn't decide when that is known.
const REFUSAL: Duration = Duration::from_secs(5);

/// A response's body on its way to the agent.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    open: Option<Open>,
    /// When its record did.
    ended: Option<Instant>,
}

#[derive(Debug)]
enum Kind {
    /// Made here: a refusal.
    Local { text: Option<Bytes>, end: Instant },
    Upstream {
        upstream: Upstream,
        /// Where the token must not pass.
        screen: Option<Screen>,
    },
}

/// What the upstream sends, as it comes.
#[derive(Debug)]
struct Upstream {
    /// What was read of it before it was given to the agent.
    ahead: Bytes,
    incoming: Incoming,
    idle: IdleTimer,
    /// What is still to come, where the answer said how long it is.
    left: Option<u64>,
}

impl Body {
    pub(in crate::proxy) fn local(text: Bytes, open: Open) -> Self {
        let text = Some(text).filter(|text| !text.is_empty());
        Self { kind: Kind::Local { text, end: Instant::now() + REFUSAL }, open: Some(open), ended: None }
    }

    pub(in crate::proxy) fn upstream(
        (ahead, incoming): (Bytes, Incoming),
        times: Times,
        screen: Option<Screen>,
        open: Open,
    ) -> Self {
        let left = incoming.size_hint().exact();
        let upstream = Upstream { ahead, incoming, idle: IdleTimer::new(times), left };
        Self { kind: Kind::Upstream { upstream, screen }, open: Some(open), ended: None }
    }

    /// An answer without a body or a record, such as the 200 of a `CONNECT`.
    pub fn empty() -> Self {
        Self { kind: Kind::Local { text: None, end: Instant::now() + REFUSAL }, open: None, ended: None }
    }

    /// All of it is on its way, but for a last frame for which there is room.
    pub fn delivered(&mut self) {
        self.finish(None);
    }

    /// Whether all data has come, for all that its length says; an end or trailers may follow.
    pub fn has_all(&self) -> bool {
        match &self.kind {
            Kind::Local { text, .. } => text.is_none(),
            Kind::Upstream { upstream, screen } => {
                upstream.has_all() && screen.as_ref().is_none_or(|screen| screen.is_drained())
            }
        }
    }

    /// When its request may take no longer, whatever moves; looked at by whoever sends it, while
    /// nothing is asked of it.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Local { end, .. } => Some(*end),
            Kind::Upstream { upstream, .. } => Some(upstream.idle.times.end),
        }
    }

    /// It couldn't be delivered by then.
    pub fn late(mut self) {
        self.finish(Some(BodyError::Late.code()));
    }

    /// It was delivered, or `error` broke it off.
    fn finish(&mut self, error: Option<&'static str>) {
        if let Some(open) = self.open.take() {
            self.ended = open.end(error);
        }
    }

    /// When it was [delivered](Self::delivered).
    pub fn ended(&self) -> Option<Instant> {
        self.ended
    }
}

impl Upstream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.ahead)))));
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let error = ready!(self.idle.poll(cx));
                return Poll::Ready(Some(Err(error)));
            }
        };
        self.idle.progress();
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            let data = frame.data_ref().map_or(0, Bytes::len);
            self.left = self.left.map(|left| left.saturating_sub(data as u64));
            Ok(clean_trailers(frame))
        }))
    }

    /// Whether no more data comes; trailers may.
    fn has_all(&self) -> bool {
        self.ahead.is_empty() && (self.incoming.is_end_stream() || self.left == Some(0))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Local { text, .. } => text.take().map(|text| Ok(Frame::data(text))),
            Kind::Upstream { upstream, screen: None } => ready!(upstream.poll(cx)),
            Kind::Upstream { upstream, screen: Some(screen) } => ready!(
                screen.poll(cx, |cx| { upstream.poll(cx).map_ok(|frame| Came { frame, is_last: upstream.has_all() }) })
            ),
        };
        match &frame {
            Some(Err(error)) => this.finish(Some(error.code())),
            Some(Ok(frame)) => {
                if let Some(open) = &this.open {
                    open.traffic.add_to_agent(frame.data_ref().map_or(0, Bytes::len));
                }
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Local { text, .. } => text.is_none(),
            Kind::Upstream { upstream, screen } => {
                upstream.ahead.is_empty()
                    && upstream.incoming.is_end_stream()
                    && screen.as_ref().is_none_or(|screen| screen.is_drained())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Local { text, .. } => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Upstream { upstream: Upstream { ahead, incoming, .. }, screen } => {
                let Some(held) = screen.as_ref().map_or(Some(0), |screen| screen.held()) else {
                    return SizeHint::default();
                };
                match (ahead.len() as u64 + held, incoming.size_hint()) {
                    (0, rest) => rest,
                    (here, rest) => rest.exact().map_or(SizeHint::default(), |rest| SizeHint::with_exact(rest + here)),
                }
            }
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
