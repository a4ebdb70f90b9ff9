//! The `Date` of an answer that has none (RFC 9110 §6.6.1), made once a second.

use std::{cell::RefCell, time::Duration};

use http::HeaderValue;
use tokio::time::Instant;

use crate::primitives::{Clock, SystemClock};

thread_local! {
    /// A worker's; the text is true for a second, and may be half of one old.
    static MADE: RefCell<Option<(Instant, HeaderValue)>> = const { RefCell::new(None) };
}

const TRUE_FOR: Duration = Duration::from_millis(500);

pub(super) fn value() -> HeaderValue {
    MADE.with_borrow_mut(|made| current(made).clone())
}

pub(super) fn write(out: &mut Vec<u8>) {
    MADE.with_borrow_mut(|made| {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(current(made).as_bytes());
        out.extend_from_slice(b"\r\n");
    });
}

fn current(made: &mut Option<(Instant, HeaderValue)>) -> &HeaderValue {
    let now = Instant::now();
    made.take_if(|(at, _)| now.duration_since(*at) >= TRUE_FOR);
    let (_, value) = made.get_or_insert_with(|| {
        let text = httpdate::fmt_http_date(SystemClock.now());
        // Letters, digits and colons: always a field's value.
        (now, HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("")))
    });
    value
}
