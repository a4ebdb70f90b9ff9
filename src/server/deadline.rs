//! Until when an answer may be on its way: an agent that takes nothing of it would hold it, its
//! record and the upstream's connection for as long as it likes.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Costs nothing where the answer leaves at once.
#[derive(Debug)]
pub(super) struct Deadline {
    end: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(super) fn new(end: Option<Instant>) -> Self {
        Self { end, timer: None }
    }

    /// Ready: it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(end) = self.end else { return Poll::Pending };
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(end))).as_mut().poll(cx)
    }
}
