//! Events that hardly ever come, beside others that come with every request: asked once, and
//! again only when they have called. Each look at a channel costs a lock, and a connection would
//! take several a request.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// A future that is polled when it asks to be, not whenever its task is. Once it is ready, or
/// was changed, it is polled whenever it is asked.
pub(super) struct Rare<F> {
    future: Pin<Box<F>>,
    call: Arc<Call>,
    waker: Waker,
    /// Whom a call was last passed on to.
    task: Option<Waker>,
}

struct Call {
    called: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl<F: Future> Rare<F> {
    pub(super) fn new(future: F) -> Self {
        let call = Arc::new(Call { called: AtomicBool::new(true), task: Mutex::new(None) });
        Self { future: Box::pin(future), waker: Arc::clone(&call).into(), call, task: None }
    }

    pub(super) fn future(&self) -> &F {
        &self.future
    }

    /// To change it.
    pub(super) fn future_mut(&mut self) -> Pin<&mut F> {
        self.call.called.store(true, Ordering::Release);
        self.future.as_mut()
    }
}

impl<F: Future> Future for Rare<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            this.task = Some(cx.waker().clone());
            *this.call.task.lock().unwrap_or_else(PoisonError::into_inner) = this.task.clone();
        }
        // Looked at behind the task, which a call before that wouldn't have reached.
        if !this.call.called.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        this.call.called.store(false, Ordering::Release);
        let polled = this.future.as_mut().poll(&mut Context::from_waker(&this.waker));
        if polled.is_ready() {
            this.call.called.store(true, Ordering::Release);
        }
        polled
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.called.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use super::*;

    #[tokio::test]
    async fn an_event_is_asked_once_until_it_calls() {
        let (polls, (tell, told)) = (AtomicUsize::new(0), tokio::sync::oneshot::channel());
        let mut told = Box::pin(told);
        let mut rare = Rare::new(poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            told.as_mut().poll(cx)
        }));
        for _ in 0..5 {
            assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut rare).poll(cx).is_pending())).await);
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        // From another task now, which is the one to be woken.
        tokio::spawn(async move { tell.send(7).unwrap() });
        assert_eq!(poll_fn(|cx| Pin::new(&mut rare).poll(cx)).await, Ok(7));
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_changed_or_is_over_is_asked_again() {
        let second = std::time::Duration::from_secs(1);
        let mut rare = Rare::new(tokio::time::sleep(60 * second));
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut rare).poll(cx).is_pending())).await);
        let sooner = tokio::time::Instant::now() + second;
        rare.future_mut().reset(sooner);
        for _ in 0..2 {
            poll_fn(|cx| Pin::new(&mut rare).poll(cx)).await;
            assert_eq!(tokio::time::Instant::now(), sooner);
        }
    }
}
