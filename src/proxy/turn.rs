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

/// A request's turn; it ends with the value, at the latest. `None`: not begun, or over.
#[derive(Debug, Default)]
pub(super) struct Turn(Mutex<Option<OwnedSemaphorePermit>>);

impl Turn {
    /// Waits for it, where this upstream has turns and it isn't had already.
    pub(super) async fn begin(&self, lease: &Lease, to: &Recipient<'_>) {
        // Only proofs have nonces.
        if lease.is_bound_to_key() && !self.is_held() {
            let permit = lease.turn(to).await;
            *self.lock() = permit;
        }
    }

    /// The proof was judged, or takes too long to be.
    pub(super) fn end(&self) {
        self.lock().take();
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
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
