//! A body as it comes over a stream.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};

/// Who is told, once, that the body is waited for.
type OnWanted = Box<dyn FnOnce() + Send>;

/// A body. What is taken of it makes room for more (RFC 9113 §5.2).
pub struct Received {
    /// `None`: there is none.
    stream: Option<RecvStream>,
    /// Still to come, where its head said how long it is; that it is true is h2's to see.
    left: Option<u64>,
    /// Trailers may follow, and nothing else.
    has_all: bool,
    on_wanted: Option<OnWanted>,
}

impl Received {
    pub fn new(stream: RecvStream, fields: &HeaderMap) -> Self {
        let left = if stream.is_end_stream() { Some(0) } else { length(fields) };
        Self { stream: Some(stream), left, has_all: false, on_wanted: None }
    }

    pub fn none() -> Self {
        Self { stream: None, left: Some(0), has_all: true, on_wanted: None }
    }

    /// `told`: when the body is waited for and nothing of it has come yet, as behind
    /// `Expect: 100-continue` (RFC 9110 §10.1.1).
    #[must_use]
    pub fn on_wanted(mut self, told: impl FnOnce() + Send + 'static) -> Self {
        self.on_wanted = Some(Box::new(told));
        self
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        if !this.has_all {
            let Poll::Ready(data) = stream.poll_data(cx) else {
                if let Some(told) = this.on_wanted.take() {
                    told();
                }
                return Poll::Pending;
            };
            this.on_wanted = None;
            match data {
                Some(Ok(data)) => {
                    stream.flow_control().release_capacity(data.len())?;
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Whatever its reason: what came isn't the whole.
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.has_all = true,
            }
        }
        let trailers = ready!(stream.poll_trailers(cx));
        this.stream = None;
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let left = if self.is_end_stream() { Some(0) } else { self.left };
        left.map_or(SizeHint::default(), SizeHint::with_exact)
    }
}

/// What one field of digits says.
fn length(fields: &HeaderMap) -> Option<u64> {
    let mut said = fields.get_all(CONTENT_LENGTH).iter();
    let length = said.next().filter(|_| said.next().is_none())?.to_str().ok()?;
    length.bytes().all(|byte| byte.is_ascii_digit()).then(|| length.parse().ok()).flatten()
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("left", &self.left).finish_non_exhaustive()
    }
}
