//! Bytes both ways between an agent and an upstream, as they are: a blind tunnel, or a
//! connection that changed its protocol. Counted, with back-pressure, half-closes passed on,
//! until both sides are done, nothing moves for a while, or its time is up.
//!
//! A shutdown can't tell where an exchange inside ends, so whoever relays holds its
//! [`Drain`](super::Drain) to the end.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, sleep_until},
};

use crate::{
    observe::Traffic,
    proxy::{REVOKED, TunnelRecord},
};

use super::{
    Limits,
    connection::{Io, Session},
};

/// The code of a tunnel that one side ended before it was through.
const BROKE_OFF: &str = "tunnel_broke_off";

/// Bytes read at once.
const CHUNK: usize = 32 * 1024;

/// How long it may last.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Without a byte in either direction.
    idle: Duration,
    /// Whatever moves.
    total: Duration,
}

impl Times {
    fn of(limits: &Limits) -> Self {
        Self { idle: limits.tunnel_idle_timeout, total: limits.tunnel_timeout }
    }
}

/// Relays to the end, and ends the record.
pub(super) async fn carry<A: Io, B: Io>(session: &Session, agent: A, upstream: B, record: TunnelRecord) {
    let times = Times::of(&session.connections.limits);
    let revoked = session.connections.proxy.revoked(record.standing());
    let error = relay((agent, upstream), record.traffic(), times, revoked).await;
    record.end(error);
}

/// Relays to the end. `None`: both sides ended well; else a stable code.
async fn relay<A: Io, B: Io>(
    (mut agent, mut upstream): (A, B),
    traffic: &Traffic,
    times: Times,
    revoked: impl Future<Output = ()>,
) -> Option<&'static str> {
    let (mut up, mut down) = (Way::default(), Way::default());
    let end = Instant::now() + times.total;
    let mut stalled_at = Instant::now() + times.idle;
    let mut timer = pin!(sleep_until(end.min(stalled_at)));
    let mut revoked = pin!(revoked);
    poll_fn(|cx| {
        // First of all: what it cuts may end for other reasons at the same moment.
        if revoked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(REVOKED));
        }
        let sent = up.poll(cx, &mut agent, &mut upstream, |bytes| traffic.add_from_agent(bytes));
        let received = down.poll(cx, &mut upstream, &mut agent, |bytes| traffic.add_to_agent(bytes));
        match (sent, received) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(Some(BROKE_OFF)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                return Poll::Ready((up.is_refused || down.is_refused).then_some(BROKE_OFF));
            }
            (Poll::Pending, _) | (_, Poll::Pending) => {}
        }
        if up.take_moved() | down.take_moved() {
            stalled_at = Instant::now() + times.idle;
        }
        // Not moved with every byte: it looks again when it fires.
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if end <= now {
                return Poll::Ready(Some("tunnel_timeout"));
            }
            if stalled_at <= now {
                return Poll::Ready(Some("tunnel_idle"));
            }
            timer.as_mut().reset(end.min(stalled_at));
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Read and not yet written; holds memory only while there is something in it.
    buffer: BytesMut,
    moved: bool,
    /// The reading side has ended …
    read_all: bool,
    /// … and the writing side was told, or takes nothing any more.
    done: bool,
    /// The latter. What it said before is still the other's to hear (RFC 9110 §9.3.6).
    is_refused: bool,
    /// The reading side broke off, and the writing side is owed what came before that.
    is_cut: bool,
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        count: impl Fn(usize),
    ) -> Poll<io::Result<()>> {
        while !self.done {
            let is_through = ready!(self.poll_write(cx, to, &count));
            if is_through.is_err() {
                (self.done, self.is_refused, self.buffer) = (true, true, BytesMut::new());
                break;
            }
            if self.read_all {
                self.done = true;
                break;
            }
            if self.is_cut {
                // No end is told: it isn't a clean one.
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            match self.poll_fill(cx, from) {
                Poll::Ready(Ok(0)) => self.read_all = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => self.is_cut = true,
                Poll::Pending => {
                    // A tunnel may say nothing for hours.
                    self.buffer = BytesMut::new();
                    // Whoever takes these bytes may have left meanwhile, and say so here only.
                    if ready!(Pin::new(&mut *to).poll_flush(cx)).is_err() {
                        (self.done, self.is_refused) = (true, true);
                        break;
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what was read, and behind the last of it the end.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        count: impl Fn(usize),
    ) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
            count(written);
            self.moved = true;
        }
        if self.read_all { Pin::new(to).poll_shutdown(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<usize>> {
        self.buffer.reserve(CHUNK);
        // Made anew for each attempt: between two of them it holds nothing.
        pin!(from.read_buf(&mut self.buffer)).poll(cx)
    }

    fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream, ReadBuf, duplex},
        task::JoinHandle,
        time::{sleep, timeout},
    };

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const TOTAL: Duration = Duration::from_secs(3600);

    /// How it ended, and the bytes that passed from the agent and to it.
    type Outcome = (Option<&'static str>, u64, u64);

    /// The agent's far end, the upstream's, and what becomes of the relay between.
    fn start(size: usize) -> (DuplexStream, DuplexStream, JoinHandle<Outcome>) {
        let ((agent, near), (upstream, far)) = (duplex(size), duplex(size));
        let relayed = tokio::spawn(async move {
            let traffic = Traffic::default();
            let error = relay((near, far), &traffic, Times { idle: IDLE, total: TOTAL }, pending()).await;
            (error, traffic.from_agent(), traffic.to_agent())
        });
        (agent, upstream, relayed)
    }

    #[tokio::test(start_paused = true)]
    async fn either_side_may_end_first_and_hear_the_rest() {
        let (mut agent, mut upstream, relayed) = start(64);
        agent.write_all(b"ask").await.unwrap();
        agent.shutdown().await.unwrap();
        let mut asked = String::new();
        upstream.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "ask");
        upstream.write_all(b"answer").await.unwrap();
        drop(upstream);
        let mut answer = String::new();
        agent.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        assert_eq!(relayed.await.unwrap(), (None, 3, 6));
    }

    /// Threat 88: who doesn't read holds the other one up, and little is kept meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stalls_stops_the_writer() {
        const LENGTH: usize = 1 << 20;
        let (mut agent, mut upstream, relayed) = start(64);
        let mut sent = 0;
        while let Ok(written) = timeout(IDLE / 2, agent.write(&[7; 1024])).await {
            sent += written.unwrap();
        }
        assert!(sent <= CHUNK + 2 * 64, "{sent} bytes");
        let writer = async {
            agent.write_all(&vec![7; LENGTH - sent]).await.unwrap();
            agent.shutdown().await.unwrap();
        };
        let mut all = Vec::new();
        let (_, read) = tokio::join!(writer, upstream.read_to_end(&mut all));
        read.unwrap();
        assert!(all.len() == LENGTH && all.iter().all(|byte| *byte == 7));
        drop((agent, upstream));
        assert_eq!(relayed.await.unwrap(), (None, LENGTH as u64, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_a_byte_in_either_direction_is_none() {
        let (mut agent, mut upstream, relayed) = start(64);
        let started = Instant::now();
        for _ in 0..3 {
            sleep(IDLE - Duration::from_secs(1)).await;
            agent.write_all(b"x").await.unwrap();
            sleep(IDLE - Duration::from_secs(1)).await;
            upstream.write_all(b"x").await.unwrap();
        }
        assert_eq!(relayed.await.unwrap(), (Some("tunnel_idle"), 3, 3));
        assert_eq!(started.elapsed().as_secs(), 6 * 59 + 60);
    }

    #[tokio::test(start_paused = true)]
    async fn its_time_is_up_whatever_moves() {
        let (mut agent, mut upstream, relayed) = start(64);
        let started = Instant::now();
        let mut byte = [0];
        while agent.write_all(b"x").await.is_ok() && upstream.read_exact(&mut byte).await.is_ok() {
            sleep(Duration::from_secs(7)).await;
        }
        assert_eq!(relayed.await.unwrap().0, Some("tunnel_timeout"));
        assert!((TOTAL..TOTAL + Duration::from_secs(8)).contains(&started.elapsed()));
    }

    /// RFC 9110 §9.3.6: what a side said before it closed is on its way, whatever is still said to it.
    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_any_more_is_heard_to_the_end() {
        let (mut agent, mut upstream, relayed) = start(64);
        // In the agent's pipe, with the relay, and in the upstream's pipe.
        for _ in 0..3 {
            upstream.write_all(&[7; 64]).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        drop(upstream);
        agent.write_all(b"x").await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let mut all = Vec::new();
        agent.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [7; 192]);
        assert_eq!(relayed.await.unwrap(), (Some("tunnel_broke_off"), 0, 192));
    }

    /// A side whose end is never a clean one (TLS without `close_notify`).
    struct Cut(DuplexStream);

    impl AsyncRead for Cut {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
            let is_end = buf.filled().len() == before;
            Poll::Ready(if is_end { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
        }
    }

    impl AsyncWrite for Cut {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, data)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_before_a_cut_is_flushed() {
        let ((mut agent, near), (mut upstream, far)) = (duplex(4), duplex(64));
        let relayed = tokio::spawn(async move {
            // What is written to it lies there until it is flushed, as in a stream of TLS.
            let agent = BufStream::new(near);
            relay((agent, Cut(far)), &Traffic::default(), Times { idle: IDLE, total: TOTAL }, pending()).await
        });
        upstream.write_all(b"the last of it").await.unwrap();
        drop(upstream);
        let mut all = String::new();
        agent.read_to_string(&mut all).await.unwrap();
        assert_eq!((all.as_str(), relayed.await.unwrap()), ("the last of it", Some("tunnel_broke_off")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_breaks_off_ends_both() {
        let (mut agent, upstream, relayed) = start(64);
        drop(upstream);
        agent.write_all(b"x").await.unwrap();
        assert_eq!(relayed.await.unwrap().0, Some("tunnel_broke_off"));
        assert_eq!(agent.read(&mut [0]).await.unwrap(), 0);
    }
}
