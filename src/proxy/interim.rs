//! Interim answers (1xx other than 100 and 101) on their way back to the agent. A proxy
//! has to pass those that it didn't ask for itself (RFC 9110 §15.2), and hyper's server
//! can't send them, so they are put into the agent's stream beneath it.

use std::{
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use http::{HeaderMap, StatusCode};

/// Bytes of interim answers that may wait for a slow agent; what is over is dropped, as
/// an interim answer may be.
const MOST_WAITING: usize = 64 * 1024;

/// Where interim answers of one h1 connection wait for the stream to be between messages.
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
    bytes: Vec<u8>,
    reader: Option<Waker>,
}

impl InterimSink {
    /// Queues an interim answer and wakes the connection.
    pub fn push(&self, status: StatusCode, fields: &HeaderMap) {
        let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or(""));
        for (name, value) in fields {
            // What isn't text doesn't belong into a hint.
            if let Ok(value) = value.to_str() {
                let _ = write!(head, "{name}: {value}\r\n");
            }
        }
        head.push_str("\r\n");
        let waker = {
            let mut waiting = self.lock();
            if waiting.bytes.len() + head.len() > MOST_WAITING {
                return;
            }
            waiting.bytes.extend_from_slice(head.as_bytes());
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

    /// What waits; it has to be written before anything else.
    pub fn take(&self) -> Vec<u8> {
        if !self.has_any() {
            return Vec::new();
        }
        let mut waiting = self.lock();
        self.0.any.store(false, Ordering::Release);
        std::mem::take(&mut waiting.bytes)
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
