//! Wall time, injected. Deadlines use tokio's `Instant`; certificates, records
//! and JWT dates use this (house rule 9).

use std::{
    cell::Cell,
    fmt::Debug,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// For so long a look at the machine's clock tells the time of what comes behind it: a step of
/// that clock is noticed a moment later.
const A_LOOK: Duration = Duration::from_millis(5);

thread_local! {
    /// The last look.
    static SEEN: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
}

/// A source of wall time.
pub trait Clock: Debug + Send + Sync {
    fn now(&self) -> SystemTime;

    /// The wall time of `moment`, which has just been.
    fn at(&self, _moment: Instant) -> SystemTime {
        self.now()
    }

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

    /// Under load most moments are close behind another one.
    fn at(&self, moment: Instant) -> SystemTime {
        if let Some((instant, time)) = SEEN.get()
            && let Some(since) = moment.checked_duration_since(instant)
            && since < A_LOOK
        {
            return time + since;
        }
        let now = self.now();
        SEEN.set(Some((moment, now)));
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_told_by_the_look_before_it_or_a_new_one() {
        let began = Instant::now();
        let first = SystemClock.at(began);
        for (later, is_derived) in
            [(0, true), (4, true), (5, false), (7, true), (3, false), (2, false), (60_000, false)]
        {
            let moment = began + Duration::from_millis(later);
            let told = SystemClock.at(moment);
            let seen = SEEN.get().unwrap();
            assert_eq!(told, seen.1 + (moment - seen.0), "{later}");
            assert_eq!(seen.0 != moment || later == 0, is_derived, "{later}");
            assert!(told.duration_since(first).unwrap_or_default() < Duration::from_secs(50));
        }
    }
}
