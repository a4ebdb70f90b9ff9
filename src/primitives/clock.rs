//! Wall time, injected. Deadlines use tokio's `Instant`; certificates, records
//! and JWT dates use this (house rule 9).

use std::{fmt::Debug, time::SystemTime};

/// A source of wall time.
pub trait Clock: Debug + Send + Sync {
    fn now(&self) -> SystemTime;

    /// Whole seconds since 1970, zero before that.
    fn unix_seconds(&self) -> u64 {
        self.now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
