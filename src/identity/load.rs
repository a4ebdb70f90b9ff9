//! How much an agent has under way, over all workers and doors. Numbers only: what they may be
//! is for others to say.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What an agent holds now.
#[derive(Debug, Default)]
pub(super) struct Load {
    requests: AtomicUsize,
    connections: AtomicUsize,
}

/// One request or connection of an agent, counted until it is dropped.
#[derive(Debug)]
pub struct Counted {
    load: Arc<Load>,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Request,
    Connection,
}

impl Load {
    fn count(&self, what: What) -> &AtomicUsize {
        match what {
            What::Request => &self.requests,
            What::Connection => &self.connections,
        }
    }

    /// `None`: there are `most` already.
    pub(super) fn take(self: &Arc<Self>, what: What, most: usize) -> Option<Counted> {
        // Counted first, so that no two of them take the last place.
        let counted = Counted { load: self.clone(), what };
        (self.count(what).fetch_add(1, Ordering::Relaxed) < most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.count(self.what).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_holder_is_gone() {
        let load = Arc::new(Load::default());
        let held: Vec<_> = (0..2).map(|_| load.take(What::Request, 2).unwrap()).collect();
        for _ in 0..3 {
            assert!(load.take(What::Request, 2).is_none(), "and a refused one leaves none behind");
        }
        assert!(load.take(What::Connection, 1).is_some(), "connections are another number");
        drop(held);
        assert!(load.take(What::Request, 1).is_some());
    }
}
