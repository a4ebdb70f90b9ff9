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
        self.stop.mark_changed();
    }

    /// Whether it is time to wind up. Asked with every request, and so without a lock: nothing
    /// is ever said but that.
    pub fn has_stopped(&self) -> bool {
        !matches!(self.stop.has_changed(), Ok(false))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_holds_it_is_told_to_stop_and_goes_on_being_told() {
        let (handle, drain) = Drain::new();
        let mut later = drain.clone();
        assert!(!drain.has_stopped() && !later.has_stopped());
        let drained = tokio::spawn(handle.drain(Duration::from_secs(60)));
        later.stopped().await;
        assert!(drain.has_stopped() && later.has_stopped() && later.clone().has_stopped());
        drop((drain, later));
        assert!(drained.await.unwrap());
    }
}
