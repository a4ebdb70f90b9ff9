//! The one timer of a connection. It isn't moved with every request: it looks again when it
//! fires, which spares two operations on the runtime's wheel a request, and it isn't looked at
//! before.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::server::rare::Rare;

/// Runs while a connection waits for a request.
#[derive(Default)]
pub(super) struct Timer {
    sleep: Option<Rare<Sleep>>,
    end: Option<Instant>,
    rest: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fired {
    /// It has waited for a while already: once a wait.
    Rest,
    /// It has waited long enough.
    End,
}

impl Timer {
    /// A wait begins, or did just now.
    pub(super) fn start(&mut self, now: Instant, end: Duration, rest: Duration) {
        (self.end, self.rest) = (now.checked_add(end), now.checked_add(rest));
        // After a long rest it is set to the former wait's end.
        if let (Some(sleep), Some(rest)) = (&mut self.sleep, self.rest)
            && sleep.future().deadline() > rest
        {
            sleep.future_mut().reset(rest);
        }
    }

    /// To be asked again after [`Fired::Rest`].
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Fired> {
        let Some(next) = self.rest.into_iter().chain(self.end).min() else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Rare::new(sleep_until(next)));
        loop {
            ready!(Pin::new(&mut *sleep).poll(cx));
            let now = Instant::now();
            if self.end.is_some_and(|end| end <= now) {
                return Poll::Ready(Fired::End);
            }
            let rests = self.rest.take_if(|rest| *rest <= now).is_some();
            if let Some(next) = self.rest.into_iter().chain(self.end).min() {
                sleep.future_mut().reset(next);
            }
            if rests {
                return Poll::Ready(Fired::Rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_rests_once_and_then_ends() {
        let mut timer = Timer::default();
        for _ in 0..3 {
            let began = Instant::now();
            timer.start(began, Duration::from_secs(9), Duration::from_secs(1));
            assert_eq!(poll_fn(|cx| timer.poll(cx)).await, Fired::Rest);
            assert_eq!(began.elapsed().as_secs(), 1);
            assert_eq!(poll_fn(|cx| timer.poll(cx)).await, Fired::End);
            assert_eq!(began.elapsed().as_secs(), 9);
        }
        // A wait that was over sooner moves nothing, and costs the next one nothing.
        timer.start(Instant::now(), Duration::from_secs(9), Duration::from_secs(1));
        let _ = poll_fn(|cx| Poll::Ready(timer.poll(cx))).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        let began = Instant::now();
        timer.start(began, Duration::from_millis(500), Duration::from_secs(1));
        assert_eq!(poll_fn(|cx| timer.poll(cx)).await, Fired::End);
        assert_eq!(began.elapsed().as_millis() / 100, 5);
    }
}
