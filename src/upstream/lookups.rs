//! Names that are being looked up, by whom. `getaddrinfo` can't be called off: it holds a thread until it
//! has ended, whoever still waits for it. So each agent has a share of them, and who asks for
//! names that no server answers for waits behind its own (threats P3).

use std::{
    collections::HashMap,
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Resolve;
use crate::primitives::AgentName;

/// Of one agent at once, on one worker: its runtime has 512 threads for them.
const MOST: usize = 32;

/// One worker's.
pub(super) struct Lookups {
    resolve: Arc<dyn Resolve>,
    agents: Mutex<HashMap<AgentName, Arc<Semaphore>>>,
}

/// The right to look one name up.
pub(super) struct Place {
    resolve: Arc<dyn Resolve>,
    permit: OwnedSemaphorePermit,
}

impl Lookups {
    pub(super) fn new(resolve: Arc<dyn Resolve>) -> Self {
        Self { resolve, agents: Mutex::default() }
    }

    /// Waits for one of the agent's.
    pub(super) async fn place(&self, agent: &AgentName) -> io::Result<Place> {
        let permit = self.of(agent).acquire_owned().await.map_err(io::Error::other)?;
        Ok(Place { resolve: Arc::clone(&self.resolve), permit })
    }

    fn of(&self, agent: &AgentName) -> Arc<Semaphore> {
        // Nothing panics while it is held.
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = agents.get(agent) {
            return Arc::clone(places);
        }
        // Those that nobody uses now; a place that is taken holds them.
        agents.retain(|_, places| Arc::strong_count(places) > 1);
        Arc::clone(agents.entry(agent.clone()).or_insert_with(|| Arc::new(Semaphore::new(MOST))))
    }
}

impl Place {
    /// The addresses of a canonical host name. The place is taken until they are found, though nobody
    /// wait for them any more.
    pub(super) async fn resolve(self, host: &str) -> io::Result<Vec<IpAddr>> {
        let Self { resolve, permit } = self;
        let host = host.to_owned();
        let found = tokio::spawn(async move {
            let found = resolve.resolve(&host).await;
            drop(permit);
            found
        });
        found.await.map_err(io::Error::other)?
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("resolve", &self.resolve).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin, time::Duration};

    use tokio::{sync::Notify, time::timeout};

    use super::*;

    /// Finds nothing until it is told to.
    #[derive(Debug, Default)]
    struct Slow(Notify);

    impl Resolve for Slow {
        fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
            Box::pin(async move {
                if host == "slow.test" {
                    self.0.notified().await;
                }
                Ok(vec![[192, 0, 2, 1].into()])
            })
        }
    }

    async fn look(lookups: &Lookups, agent: &AgentName, host: &str) -> Option<Vec<IpAddr>> {
        let looking = async { lookups.place(agent).await.unwrap().resolve(host).await.unwrap() };
        timeout(Duration::from_secs(10), looking).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_names_that_nobody_knows_waits_for_itself() {
        let slow = Arc::new(Slow::default());
        let lookups = Lookups::new(slow.clone());
        let [one, other] = ["one", "other"].map(|name| AgentName::parse(name).unwrap());
        for _ in 0..MOST {
            assert_eq!(look(&lookups, &one, "slow.test").await, None, "its agent has left");
        }
        assert_eq!(look(&lookups, &one, "fast.test").await, None);
        assert!(look(&lookups, &other, "fast.test").await.is_some());
        slow.0.notify_one();
        assert!(look(&lookups, &one, "fast.test").await.is_some());
        assert_eq!(lookups.agents.lock().unwrap().len(), 2);
        slow.0.notify_waiters();
        tokio::task::yield_now().await;
        assert!(look(&lookups, &AgentName::parse("third").unwrap(), "fast.test").await.is_some());
        assert_eq!(lookups.agents.lock().unwrap().len(), 1, "nobody's are forgotten");
    }
}
