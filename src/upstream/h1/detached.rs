//! An exchange whose answer begins before its request has ended: a task drives both
//! directions, so that neither waits for the other. An agent that reads nothing before it has
//! sent everything is still heard.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::incoming::Reading;
use crate::http1::{Fault, Outgoing};

/// `None`: the end.
type Piece = Option<Result<Frame<Bytes>, Fault>>;

/// The agent's end of it. Dropped, it ends the task and closes the connection.
#[derive(Debug)]
pub(super) struct Detached {
    pipe: Arc<Mutex<Pipe>>,
    left: Option<u64>,
}

/// Room for one piece on its way to the agent.
#[derive(Debug, Default)]
struct Pipe {
    piece: Option<Piece>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    abandoned: bool,
}

/// The task's side.
struct Driver<B> {
    reading: Reading,
    upload: Option<Outgoing<B>>,
    /// What the request's side did wrong.
    broken: Option<Fault>,
    pipe: Arc<Mutex<Pipe>>,
}

pub(super) fn spawn<B>(reading: Reading, upload: Outgoing<B>) -> Detached
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (left, pipe) = (reading.left(), Arc::default());
    let mut driver = Driver { reading, upload: Some(upload), broken: None, pipe: Arc::clone(&pipe) };
    tokio::spawn(async move {
        // The connection ends with it.
        poll_fn(|cx| driver.poll(cx)).await;
    });
    Detached { pipe, left }
}

impl<B> Driver<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Ready: the answer has ended, or nobody wants it any more, or its request has no end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(upload) = &mut self.upload
                && let Poll::Ready(sent) = upload.poll(cx, &mut self.reading.connection().wire)
            {
                self.upload = None;
                // A server that has answered may not want the rest. One that does is not to believe
                // that it has all, nor its answer's reader.
                self.broken = sent.err().filter(|fault| matches!(fault, Fault::Body(_) | Fault::Length));
            }
            if ready!(lock(&self.pipe).poll_room(cx)) {
                return Poll::Ready(());
            }
            if let Some(fault) = self.broken.take() {
                lock(&self.pipe).put(Some(Err(fault)));
                return Poll::Ready(());
            }
            let piece = ready!(self.reading.poll_frame(cx));
            let ended = !matches!(piece, Some(Ok(_)));
            lock(&self.pipe).put(piece);
            if ended {
                return Poll::Ready(());
            }
        }
    }
}

impl Detached {
    pub(super) fn left(&self) -> Option<u64> {
        self.left
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        let piece = ready!(lock(&self.pipe).poll_take(cx));
        if let (Some(left), Some(Ok(frame))) = (&mut self.left, &piece) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
        }
        Poll::Ready(piece)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let mut pipe = lock(&self.pipe);
        pipe.abandoned = true;
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
    }
}

impl Pipe {
    /// Ready: there is room, or, if true, nobody reads any more. Also asked while there is room,
    /// so that the task is woken when its agent leaves.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.abandoned {
            return Poll::Ready(true);
        }
        self.writer = Some(cx.waker().clone());
        if self.piece.is_some() { Poll::Pending } else { Poll::Ready(false) }
    }

    fn put(&mut self, piece: Piece) {
        self.piece = Some(piece);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        // The end stays, for whoever asks again.
        let piece = if matches!(self.piece, Some(None)) { Some(None) } else { self.piece.take() };
        match piece {
            Some(piece) => {
                if let Some(writer) = self.writer.take() {
                    writer.wake();
                }
                Poll::Ready(piece)
            }
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Nothing panics while it is held.
fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}
