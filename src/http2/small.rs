//! Small pieces on their way: a stream's window counts bytes only, and a connection that isn't read
//! would keep a frame for each of them (threat 75).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

/// A piece smaller than that takes more memory on its way than it has bytes.
const SMALL: usize = 1024;

/// So many small pieces of a stream may be on their way: its window counts bytes only.
const MOST_SMALL: usize = 64;

/// The first small pieces of a stream aren't counted: most have no more.
const UNCOUNTED: usize = 16;

/// The small pieces that the connection still has.
#[derive(Debug, Default)]
pub(super) struct Small {
    sent: usize,
    counted: Option<Arc<Counted>>,
}

#[derive(Debug, Default)]
struct Counted {
    count: AtomicUsize,
    waiting: Mutex<Option<Waker>>,
}

/// Counted until the connection has written it, or given it up.
struct Counting {
    data: Bytes,
    counted: Arc<Counted>,
}

impl Small {
    /// Ready: another piece may go, whatever its size.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(counted) = &self.counted else { return Poll::Ready(()) };
        if counted.count.load(Ordering::Acquire) < MOST_SMALL {
            return Poll::Ready(());
        }
        *counted.lock() = Some(cx.waker().clone());
        // Some may have gone in between.
        if counted.count.load(Ordering::Acquire) < MOST_SMALL { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(super) fn count(&mut self, data: Bytes) -> Bytes {
        if data.len() >= SMALL || data.is_empty() {
            return data;
        }
        self.sent += 1;
        if self.sent <= UNCOUNTED {
            return data;
        }
        let counted = Arc::clone(self.counted.get_or_insert_default());
        counted.count.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Counting { data, counted })
    }
}

impl Counted {
    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Counting {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if self.counted.count.fetch_sub(1, Ordering::AcqRel) <= MOST_SMALL
            && let Some(waiting) = self.counted.lock().take()
        {
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending, pin::Pin, time::Duration};

    use h2::{RecvStream, SendStream};
    use http::{Request, Response};
    use http_body::{Body, Frame};
    use tokio::{io::AsyncWriteExt, time::timeout};

    use super::{
        super::{Duplex, Sending},
        *,
    };

    /// Pieces of a byte without end.
    struct Endless(Arc<AtomicUsize>);

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    /// A peer that opens its windows and reads nothing makes nobody keep frames without number; one
    /// that reads on gets all of them.
    async fn stall<F: Future<Output = ()> + Send + 'static>(
        send: impl FnOnce(SendStream<Bytes>, RecvStream, Arc<AtomicUsize>) -> F,
    ) {
        const ROOM: usize = 4096;
        let moment = Duration::from_secs(1);
        let (near, far) = tokio::io::duplex(ROOM);
        let reading = tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            let builder = builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
            let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let answer = respond.send_response(Response::new(()), false).unwrap();
            // It leaves.
            assert!(timeout(moment, connection.accept()).await.is_err());
            (connection, request.into_body(), answer)
        });
        let (sender, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::post("https://a.test/").body(()).unwrap();
        let (answer, stream) = sender.ready().await.unwrap().send_request(request, false).unwrap();
        let receiving = answer.await.unwrap().into_body();
        let (mut connection, mut body, _answer) = reading.await.unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let sending = tokio::spawn(send(stream, receiving, Arc::clone(&taken)));
        assert!(timeout(moment, pending::<()>()).await.is_err());
        // Ten bytes each in the pipe and in what h2 writes from, and what may be on its way.
        let most = (ROOM + 16 * 1024) / 10 + UNCOUNTED + MOST_SMALL + 10;
        let stalled = taken.load(Ordering::Relaxed);
        assert!((MOST_SMALL..most).contains(&stalled), "{stalled}");
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        for _ in 0..10 * most {
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        sending.abort();
    }

    /// Threats 75 and 78.
    #[tokio::test(start_paused = true)]
    async fn small_pieces_of_a_body_wait_for_those_before_them() {
        stall(|stream, receiving, taken| async move {
            let _receiving = receiving;
            drop(Sending::new(Endless(taken), stream).await);
        })
        .await;
    }

    /// Threat 75.
    #[tokio::test(start_paused = true)]
    async fn small_pieces_in_a_tunnel_do_too() {
        let send = |stream, receiving, taken: Arc<AtomicUsize>| async move {
            let mut tunnel = Duplex::new(stream, receiving);
            while tunnel.write_all(b"x").await.is_ok() {
                taken.fetch_add(1, Ordering::Relaxed);
            }
        };
        stall(send).await;
    }
}
