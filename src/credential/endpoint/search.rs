//! The search for an authorization server's addresses: one looks for all, and rests when it was in
//! vain. Knows when to look, not how.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::Endpoint;

/// Rests at least so long after it was in vain, and three times as long as it took: whoever asks
/// waits for a quarter of the time at most.
const SHORTEST_REST: Duration = Duration::from_secs(2);

/// For a server's addresses, which one does for all.
#[derive(Debug, Default)]
pub(super) struct Search {
    state: Mutex<State>,
    is_over: Notify,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Since(Instant),
    RestsUntil(Instant),
}

/// Ends when it is dropped.
pub(super) struct Searching(Arc<Endpoint>);

impl Search {
    pub(super) fn rests(&self) -> bool {
        matches!(*self.lock(), State::RestsUntil(end) if Instant::now() < end)
    }

    pub(super) async fn over(&self) {
        loop {
            let mut told = pin!(self.is_over.notified());
            told.as_mut().enable();
            if !matches!(*self.lock(), State::Since(_)) {
                return;
            }
            told.await;
        }
    }

    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Searching {
    /// `None`: somebody else is at it.
    pub(super) fn begin(endpoint: &Arc<Endpoint>) -> Option<Self> {
        let mut state = endpoint.search.lock();
        if let State::Since(_) = *state {
            return None;
        }
        *state = State::Since(Instant::now());
        drop(state);
        Some(Self(Arc::clone(endpoint)))
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for Searching {
    fn drop(&mut self) {
        let Self(endpoint) = self;
        let is_located = endpoint.is_located();
        let mut state = endpoint.search.lock();
        *state = match *state {
            State::Since(begun) if !is_located => {
                State::RestsUntil(Instant::now() + SHORTEST_REST.max(3 * begun.elapsed()))
            }
            _ => State::Idle,
        };
        drop(state);
        endpoint.search.is_over.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::{runtime::Handle, time::timeout};

    use super::*;
    use crate::credential::{
        Location, Settings,
        testing::{server, settings},
    };

    const LOST: &str = "lost.example";

    /// A server at a name that can't be looked up in time.
    fn lost() -> Arc<Endpoint> {
        let settings = Settings { exchange_timeout: Duration::ZERO, ..settings() };
        let location = Location::TokenEndpoint(format!("https://{LOST}/token"));
        Arc::new(Endpoint::new(server(location), &settings).unwrap())
    }

    /// Has it resolve from now on.
    fn is_found(endpoint: &mut Arc<Endpoint>) {
        let plan = &mut Arc::get_mut(endpoint).unwrap().http.plan;
        plan.resolve.push((LOST.to_owned(), IpAddr::from([192, 0, 2, 1])));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_looked_for_in_vain_rests() {
        let mut endpoint = lost();
        assert!(endpoint.locate_behind(&Handle::current()));
        endpoint.located().await;
        assert!(!endpoint.is_located());
        is_found(&mut endpoint);
        assert!(!endpoint.locate_behind(&Handle::current()), "nothing to wait for");
        endpoint.located().await;
        assert!(!endpoint.is_located(), "nobody looked");
        tokio::time::advance(SHORTEST_REST).await;
        assert!(endpoint.locate_behind(&Handle::current()));
        endpoint.located().await;
        assert!(endpoint.is_located());
        assert!(!endpoint.locate_behind(&Handle::current()), "it is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn what_took_long_rests_long() {
        let endpoint = lost();
        let search = Searching::begin(&endpoint).unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(search);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!endpoint.locate_behind(&Handle::current()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(endpoint.locate_behind(&Handle::current()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_looks_for_all() {
        let mut endpoint = lost();
        is_found(&mut endpoint);
        let somebody = Searching::begin(&endpoint).unwrap();
        assert!(endpoint.locate_behind(&Handle::current()));
        assert!(timeout(Duration::from_secs(60), endpoint.located()).await.is_err(), "it is looked for");
        assert!(!endpoint.is_located(), "by two");
        drop(somebody);
        endpoint.located().await;
        // Nobody is there who waits, and nobody else begins.
        let endpoint = lost();
        assert!(endpoint.locate_behind(&Handle::current()));
        assert!(endpoint.locate_behind(&Handle::current()));
        assert_eq!(Arc::strong_count(&endpoint), 2, "one task has it");
        endpoint.located().await;
        assert_eq!(Arc::strong_count(&endpoint), 1);
    }
}
