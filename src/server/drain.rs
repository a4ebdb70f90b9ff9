//! A graceful end: connections are told to finish what is under way, and the end waits
//! for them within a limit.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

/// Held by whatever must be waited for; says when to wind up.
#[derive(Clone, Debug)]
pub struct Drain {
    stop: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

/// Says stop, and waits for every [`Drain`] to be gone.
#[derive(Debug)]
pub struct DrainHandle {
    stop: Arc<watch::Sender<bool>>,
    gone: mpsc::Receiver<()>,
}

impl Drain {
    pub fn new() -> (DrainHandle, Self) {
        let (stop, stopped) = watch::channel(false);
        let (alive, gone) = mpsc::channel(1);
        (DrainHandle { stop: Arc::new(stop), gone }, Self { stop: stopped, _alive: alive })
    }

    /// Returns when it is time to wind up.
    pub async fn stopped(&mut self) {
        // An error means that the handle is gone: as good a reason to stop.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    /// Whether it is time to wind up.
    pub fn has_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Tells whether the end has begun, without holding it up.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }
}

impl DrainHandle {
    /// Says stop; `true` if all was done within `limit`.
    pub async fn drain(mut self, limit: Duration) -> bool {
        self.stop.send_replace(true);
        // Nothing is ever sent: `None` comes when the last sender is dropped.
        tokio::time::timeout(limit, self.gone.recv()).await.is_ok()
    }
}
