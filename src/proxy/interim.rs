//! Interim answers (1xx other than 101) on their way back to the agent: a proxy has to pass
//! those that it didn't ask for itself (RFC 9110 §15.2).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Bytes of interim answers that may be on their way to a slow agent; what is over is dropped,
/// as an interim answer may be.
const MOST_WAITING: usize = 64 * 1024;

/// About what a field takes besides its name and value.
const OVERHEAD: usize = 32;

/// Where interim answers wait for whoever writes to the agent to be between messages.
#[derive(Clone, Debug, Default)]
pub struct InterimSink(Arc<Sink>);

#[derive(Debug, Default)]
struct Sink {
    waiting: Mutex<Waiting>,
    /// Whether anything waits, which is seldom: told without a lock.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: Vec<(StatusCode, HeaderMap)>,
    bytes: usize,
    reader: Option<Waker>,
}

impl InterimSink {
    /// Queues an interim answer and wakes the connection.
    pub fn push(&self, status: StatusCode, fields: &HeaderMap) {
        let text = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + OVERHEAD;
        let size = OVERHEAD + fields.iter().map(text).sum::<usize>();
        let waker = {
            let mut waiting = self.lock();
            if waiting.bytes + size > MOST_WAITING {
                return;
            }
            waiting.bytes += size;
            waiting.answers.push((status, fields.clone()));
            self.0.any.store(true, Ordering::Release);
            waiting.reader.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub fn has_any(&self) -> bool {
        self.0.any.load(Ordering::Acquire)
    }

    /// What was taken has left: there is room for as much again.
    pub fn make_room(&self) {
        self.lock().bytes = 0;
    }

    /// What waits; it has to be written before anything else.
    pub fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        if !self.has_any() {
            return Vec::new();
        }
        let mut waiting = self.lock();
        self.0.any.store(false, Ordering::Release);
        std::mem::take(&mut waiting.answers)
    }

    /// Who is to be woken when something waits.
    pub fn watch(&self, waker: &Waker) {
        let reader = &mut self.lock().reader;
        if !reader.as_ref().is_some_and(|reader| reader.will_wake(waker)) {
            *reader = Some(waker.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
