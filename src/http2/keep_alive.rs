//! Whether the peer of a connection is still there (RFC 9113 §6.7).

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// Asks every so often, and waits as long for the answer.
#[derive(Debug)]
pub struct KeepAlive {
    period: Duration,
    ping: PingPong,
    timer: Pin<Box<Sleep>>,
    is_asked: bool,
}

impl KeepAlive {
    pub fn new(ping: PingPong, period: Duration) -> Self {
        Self { period, ping, timer: Box::pin(sleep(period)), is_asked: false }
    }

    /// Ready: it doesn't answer.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.is_asked && matches!(self.ping.poll_pong(cx), Poll::Ready(Ok(_))) {
                self.is_asked = false;
                self.restart();
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.is_asked {
                return Poll::Ready(());
            }
            self.is_asked = self.ping.send_ping(Ping::opaque()).is_ok();
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.period);
    }
}
