//! One answer that may repeat the token: what has to be looked at, in which coding it is, and
//! who is told.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RANGE, SEC_WEBSOCKET_EXTENSIONS},
    response,
};
use http_body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

use crate::{
    credential::{Broker, Lease},
    policy::Permit,
    primitives::{RequestId, Trace},
};

use super::{
    super::{Error, body::BodyError},
    Scrubber, Search,
    decode::{Coding, Decoder, Undecodable},
    scrub_fields,
};

/// What is looked for in an answer, and where its finding is reported.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Screening {
    lease: Lease,
    broker: Broker,
    request: RequestId,
    /// Where other tokens went with earlier attempts: all of them.
    traces: Option<Arc<[Trace]>>,
}

/// A body that is looked through on its way. `None` only while it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Screen(Option<Box<Work>>);

/// As many as a worker has under way at once, most of the time.
const MOST_SPARE: usize = 64;

thread_local! {
    /// Those of former answers, empty: half a kilobyte each, which is slow to get.
    #[expect(clippy::vec_box, reason = "the box is what is used again")]
    static SPARE: RefCell<Vec<Box<Work>>> = const { RefCell::new(Vec::new()) };
}

/// The state of a [`Screen`].
#[derive(Debug, Default)]
struct Work {
    /// `None`: nobody's.
    screening: Option<Screening>,
    /// Else only what comes behind it is.
    is_text: bool,
    decoder: Option<Decoder>,
    scrubber: Scrubber,
    /// What came and wasn't looked at yet.
    input: Bytes,
    trailers: Option<HeaderMap>,
    /// No more data comes.
    all_came: bool,
    /// Nothing more comes at all.
    passed: bool,
    told: bool,
    quiet: Quiet,
    _large: Option<OwnedSemaphorePermit>,
}

/// Bytes of a token that give nothing away: `eyJ` of a JWT. In text they turn up by chance.
pub(super) const SHORT: usize = 3;
/// How long they wait for what follows.
const MOMENT: Duration = Duration::from_millis(50);

/// Fields that are about the bytes in their coding (RFC 9530, RFC 1864).
static OF_THE_CODED: [HeaderName; 6] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// What the agent gets is in no coding, and no digest of other bytes would hold for it.
fn remove_of_the_coded(fields: &mut HeaderMap) {
    for name in &OF_THE_CODED {
        fields.remove(name);
    }
}

impl Screening {
    /// `None`: no token went out, or the route doesn't mind its coming back.
    pub(in crate::proxy) fn new(
        lease: Lease,
        permit: &Permit<'_>,
        broker: &Broker,
        request: RequestId,
    ) -> Option<Self> {
        is_wanted(&lease, permit).then(|| Self { lease, broker: broker.clone(), request, traces: None })
    }

    /// Looks for the tokens of earlier attempts, too.
    #[must_use]
    pub(in crate::proxy) fn and_of(mut self, earlier: &[Lease]) -> Self {
        if !earlier.is_empty() {
            let leases = earlier.iter().chain([&self.lease]);
            self.traces = Some(leases.flat_map(Lease::traces).cloned().collect());
        }
        self
    }

    /// Cleans the fields of an answer.
    pub(in crate::proxy) fn clean(&self, fields: &mut HeaderMap) {
        let found = scrub_fields(self.traces(), fields);
        self.tell_of_fields(found);
    }

    /// `found`: the token was in them.
    fn tell_of_fields(&self, found: bool) {
        if found {
            self.tell("a field");
        }
    }

    /// Cleans an answer's head, and makes it ready for a body that is looked through. `None`:
    /// the body is nothing of ours. `large`: how many codings may be undone at once that take
    /// megabytes.
    ///
    /// # Errors
    /// The body would have to be looked through and can't.
    pub(in crate::proxy) fn begin(
        self,
        head: &mut response::Parts,
        has_body: bool,
        large: &Arc<Semaphore>,
    ) -> Result<Option<Screen>, Error> {
        let look = Look::at(&head.headers, self.traces());
        if look.finds {
            scrub_fields(self.traces(), &mut head.headers);
        }
        let told = look.finds;
        self.tell_of_fields(told);
        if head.status == StatusCode::NOT_MODIFIED && !has_body {
            // The agent has it as it was sent: without its coding.
            head.headers.remove(CONTENT_ENCODING);
            return Ok(None);
        }
        if !look.is_text {
            // Trailers are text whatever the body is: gRPC's error messages, for one.
            return Ok(has_body.then(|| Screen::new(self, (false, None), told, None)));
        }
        let coding = match if look.is_coded { Coding::of(&head.headers) } else { Ok(None) } {
            Ok(coding) => coding,
            Err(_) if !has_body => return Ok(None),
            Err(_) => return Err(Error::UnaskedCoding),
        };
        let mut permit = None;
        if let Some(coding) = coding {
            if has_body {
                // A part of something coded can't be read.
                let is_part = head.status == StatusCode::PARTIAL_CONTENT;
                permit = if coding.is_large() { large.clone().try_acquire_owned().ok() } else { None };
                if is_part || (coding.is_large() && permit.is_none()) {
                    return Err(Error::UnaskedCoding);
                }
            }
            remove_of_the_coded(&mut head.headers);
        }
        Ok(has_body.then(|| Screen::new(self, (true, coding.map(Decoder::new)), told, permit)))
    }

    pub(super) fn tell(&self, place: &'static str) {
        let Self { lease, broker, request, .. } = self;
        tell(broker, lease, *request, place);
    }

    pub(super) fn traces(&self) -> &[Trace] {
        self.traces.as_deref().unwrap_or_else(|| self.lease.traces())
    }
}

impl Screen {
    /// Not `is_text`: the body itself passes as it comes, and its trailers don't.
    fn new(
        screening: Screening,
        (is_text, decoder): (bool, Option<Decoder>),
        told: bool,
        large: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let mut work = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        work.screening = Some(screening);
        (work.is_text, work.decoder, work.told, work._large) = (is_text, decoder, told, large);
        Self(Some(work))
    }

    /// The next frame for the agent. `source` gives the upstream's.
    pub(in crate::proxy) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Came, BodyError>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Some(work) => work.poll(cx, source),
            None => Poll::Ready(None),
        }
    }

    /// Whether nothing is left here that the agent doesn't have.
    pub(in crate::proxy) fn is_drained(&self) -> bool {
        self.0.as_ref().is_none_or(|work| work.is_drained())
    }

    /// Bytes that are held back; `None`: how many come of it can't be known.
    pub(in crate::proxy) fn held(&self) -> Option<u64> {
        self.0.as_ref().map_or(Some(0), |work| work.held())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let Some(mut work) = self.0.take() else { return };
        // Of this answer nothing stays behind.
        *work = Work::default();
        // A thread that ends has no list any more.
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < MOST_SPARE
            {
                spare.push(work);
            }
        });
    }
}

impl Work {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut source: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Came, BodyError>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let piece = self.piece()?;
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if let Some(mut trailers) = self.trailers.take() {
                if self.decoder.is_some() {
                    remove_of_the_coded(&mut trailers);
                }
                if scrub_fields(self.traces(), &mut trailers) {
                    self.tell("a trailer");
                }
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if self.passed {
                return Poll::Ready(None);
            }
            let Poll::Ready(came) = source(cx) else { return self.poll_quiet(cx) };
            self.quiet.stop();
            match came.transpose()? {
                Some(Came { frame, is_last }) => {
                    self.all_came |= is_last || frame.is_trailers();
                    match frame.into_data() {
                        Ok(data) if !self.is_text => return Poll::Ready(Some(Ok(Frame::data(data)))),
                        Ok(data) => self.input = data,
                        Err(frame) => self.trailers = frame.into_trailers().ok(),
                    }
                }
                None => (self.all_came, self.passed) = (true, true),
            }
        }
    }

    fn is_drained(&self) -> bool {
        let is_decoded = self.decoder.is_none() || self.passed;
        is_decoded && self.trailers.is_none() && self.input.is_empty() && self.scrubber.holds() == 0
    }

    fn held(&self) -> Option<u64> {
        self.decoder.is_none().then(|| (self.scrubber.holds() + self.input.len()) as u64)
    }

    /// The upstream has nothing more at hand. A few bytes that may be the beginning of the token
    /// pass after a moment: most likely they are none, and it may be the agent's turn to speak.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.scrubber.may_release(SHORT) {
            return Poll::Pending;
        }
        ready!(self.quiet.poll(cx));
        Poll::Ready(Some(Ok(Frame::data(self.scrubber.release(SHORT)))))
    }

    /// What can go on of what came; empty: nothing until more comes.
    fn piece(&mut self) -> Result<Bytes, Undecodable> {
        loop {
            let text = match &mut self.decoder {
                None => std::mem::take(&mut self.input),
                Some(decoder) => decoder.next(&mut self.input)?,
            };
            if text.is_empty() {
                break;
            }
            let traces = self.screening.as_ref().map_or(&[][..], Screening::traces);
            let is_last = self.all_came && self.decoder.is_none();
            let clean = if is_last { self.scrubber.push_last(traces, text) } else { self.scrubber.push(traces, text) };
            if self.scrubber.found() {
                self.tell("the body");
            }
            if !clean.is_empty() {
                return Ok(clean);
            }
        }
        if !self.all_came {
            return Ok(Bytes::new());
        }
        match &self.decoder {
            Some(decoder) if !decoder.is_complete() => Err(Undecodable),
            Some(_) | None => Ok(self.scrubber.finish()),
        }
    }

    /// Once an answer.
    fn tell(&mut self, place: &'static str) {
        if !std::mem::replace(&mut self.told, true) {
            self.screening.iter().for_each(|screening| screening.tell(place));
        }
    }

    fn traces(&self) -> &[Trace] {
        self.screening.as_ref().map_or(&[], Screening::traces)
    }
}

/// How long nothing has come, while something is held back.
#[derive(Debug, Default)]
struct Quiet {
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Quiet {
    fn stop(&mut self) {
        self.running = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(MOMENT)));
        if !std::mem::replace(&mut self.running, true) {
            timer.as_mut().reset(Instant::now() + MOMENT);
        }
        ready!(timer.as_mut().poll(cx));
        self.running = false;
        Poll::Ready(())
    }
}

/// A frame of the upstream's.
pub(in crate::proxy) struct Came {
    pub(in crate::proxy) frame: Frame<Bytes>,
    /// There is no more data behind it.
    pub(in crate::proxy) is_last: bool,
}

fn is_wanted(lease: &Lease, permit: &Permit<'_>) -> bool {
    !lease.traces().is_empty() && permit.credential().is_some_and(|credential| credential.scrub)
}

/// Cleans the fields of interim answers, which have no body. `true`: the token of `lease` was in one.
pub(in crate::proxy) fn clean_interim(lease: &Lease, permit: &Permit<'_>, fields: &mut HeaderMap) -> bool {
    is_wanted(lease, permit) && scrub_fields(lease.traces(), fields)
}

/// The token of `lease` came back. The record of the request says the rest.
pub(in crate::proxy) fn tell(broker: &Broker, lease: &Lease, request: RequestId, place: &str) {
    broker.quarantine(lease, format_args!("request {request}: the upstream sent the token back in {place}"));
}

/// What one look at an answer's fields tells.
struct Look {
    /// The token is in one of them.
    finds: bool,
    /// The body is looked through: what a human could read, and what doesn't say what it is.
    is_text: bool,
    is_coded: bool,
}

impl Look {
    fn at(fields: &HeaderMap, traces: &[Trace]) -> Self {
        let search = Search::new(traces);
        let (mut finds, mut is_coded, mut kinds) = (false, false, 0);
        let mut is_text = true;
        for (name, value) in fields {
            finds |= search.finds(name, value);
            if *name == CONTENT_TYPE {
                kinds += 1;
                is_text = kinds > 1 || is_text_type(value.as_bytes());
            }
            is_coded |= *name == CONTENT_ENCODING;
        }
        Self { finds, is_text, is_coded }
    }
}

fn is_text_type(value: &[u8]) -> bool {
    if matches!(value, b"application/json" | b"application/json; charset=utf-8" | b"text/event-stream") {
        // What APIs send, nearly always.
        return true;
    }
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let Some(slash) = essence.iter().position(|byte| *byte == b'/') else { return true };
    let (family, kind) = (&essence[..slash], &essence[slash + 1..]);
    let is_one_of = |names: &[&str], part: &[u8]| names.iter().any(|name| part.eq_ignore_ascii_case(name.as_bytes()));
    is_one_of(&["text", "multipart", "message"], family)
        || kind.iter().rposition(|byte| *byte == b'+').is_some_and(|plus| is_one_of(&TEXT_SUFFIXES, &kind[plus + 1..]))
        || (family.eq_ignore_ascii_case(b"application") && is_one_of(&TEXT, without_x(kind)))
}

/// Many a type was sent with an `x-` before it was registered, and is still (RFC 6648).
fn without_x(kind: &[u8]) -> &[u8] {
    match kind {
        [b'x' | b'X', b'-', rest @ ..] => rest,
        _ => kind,
    }
}

/// Behind a `+` (RFC 6839).
const TEXT_SUFFIXES: [&str; 3] = ["json", "xml", "yaml"];

/// Behind `application/`, or `application/x-`.
const TEXT: [&str; 20] = [
    "csp-report",
    "ecmascript",
    "graphql",
    "http",
    "httpd-php-source",
    "javascript",
    "json",
    "json-seq",
    "json5",
    "jsonl",
    "jsonlines",
    "jwt",
    "ndjson",
    "sh",
    "sql",
    "toml",
    "www-form-urlencoded",
    "xml",
    "yaml",
    "yml",
];

/// Asks the upstream for nothing that couldn't be looked through, or only at a price: gzip, if
/// the agent takes it. Parts (`Range`) are of the body as it is.
pub(in crate::proxy) fn prefer_readable(fields: &mut HeaderMap) {
    const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
    const GZIP: HeaderValue = HeaderValue::from_static("gzip");
    // All that there are compress.
    fields.remove(SEC_WEBSOCKET_EXTENSIONS);
    if fields.contains_key(RANGE) {
        fields.insert(ACCEPT_ENCODING, IDENTITY);
        return;
    }
    if !fields.contains_key(ACCEPT_ENCODING) {
        return;
    }
    let items = fields.get_all(ACCEPT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let takes_gzip = items.map(accepted).any(|name| name.is_some_and(|name| name.eq_ignore_ascii_case(b"gzip")));
    fields.insert(ACCEPT_ENCODING, if takes_gzip { GZIP } else { IDENTITY });
}

/// The coding that an item of `Accept-Encoding` names, unless it is `q=0` (RFC 9110 §12.4.2).
fn accepted(item: &[u8]) -> Option<&[u8]> {
    let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next()?;
    let is_zero = |part: &[u8]| {
        let [b'q' | b'Q', b'=', weight @ ..] = part else { return false };
        !weight.iter().any(|digit| (b'1'..=b'9').contains(digit))
    };
    (!parts.any(is_zero)).then_some(name)
}

#[cfg(test)]
mod tests;
