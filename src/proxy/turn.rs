//! Requests with DPoP proofs to an upstream that takes only the newest of the nonces that it
//! hands out with every answer: one after the other, each until its proof was judged. Without
//! that, answers to the others would spoil every nonce on its way. Knows nobody's turn but one
//! request's.

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use crate::credential::{Lease, Recipient};

/// An upstream that takes longer to judge (a long poll, an upload without `100 Continue`) keeps
/// nobody else waiting any more.
const LONGEST: Duration = Duration::from_secs(2);

/// A request's turn; it ends with the value, at the latest. `None`: there are no proofs, and no
/// turns.
#[derive(Debug)]
pub(super) struct Turn(Option<Held>);

/// `None`: not begun, or over.
type Held = Mutex<Option<OwnedSemaphorePermit>>;

impl Turn {
    pub(super) fn of(lease: &Lease) -> Self {
        Self(lease.is_bound_to_key().then(Held::default))
    }

    /// Waits for it, where this upstream has turns and it isn't had already.
    pub(super) async fn begin(&self, lease: &Lease, to: &Recipient<'_>) {
        let Some(held) = &self.0 else { return };
        if !self.is_held() {
            let permit = lease.turn(to).await;
            *lock(held) = permit;
        }
    }

    /// The proof was judged, or takes too long to be.
    pub(super) fn end(&self) {
        if let Some(held) = &self.0 {
            lock(held).take();
        }
    }

    /// Drives `sending`, for which the turn was taken.
    pub(super) async fn during<F: Future>(&self, mut sending: Pin<&mut F>) -> F::Output {
        if self.is_held() {
            if let Ok(sent) = timeout(LONGEST, sending.as_mut()).await {
                return sent;
            }
            self.end();
        }
        sending.await
    }

    fn is_held(&self) -> bool {
        self.0.as_ref().is_some_and(|held| lock(held).is_some())
    }
}

fn lock(held: &Held) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
