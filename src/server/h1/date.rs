//! The `Date` of an answer that has none (RFC 9110 §6.6.1), made once a second.

use std::{cell::RefCell, time::Duration};

use tokio::time::Instant;

use crate::primitives::{Clock, SystemClock};

thread_local! {
    /// A worker's; the text is true for a second, and may be half of one old.
    static MADE: RefCell<Option<(Instant, String)>> = const { RefCell::new(None) };
}

const TRUE_FOR: Duration = Duration::from_millis(500);

pub(super) fn write(out: &mut Vec<u8>) {
    MADE.with_borrow_mut(|made| {
        let now = Instant::now();
        let text = match made {
            Some((at, text)) if now.duration_since(*at) < TRUE_FOR => text,
            _ => &mut made.insert((now, httpdate::fmt_http_date(SystemClock.now()))).1,
        };
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    });
}
