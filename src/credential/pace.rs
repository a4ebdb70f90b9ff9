//! How often a token may be asked for after failures, and the chance behind every jitter.

use std::time::Duration;

use super::error::Retry;

/// The waits between attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Attempts within one flight.
    pub(crate) attempts: u32,
    /// Full jitter below this between the first two of them, then twice as much.
    pub(crate) between_attempts: Duration,
    /// A server that wants a longer pause than this ends the flight.
    pub(crate) longest_pause: Duration,
    /// After a flight that failed for a reason that passes: from, to; doubling.
    pub(crate) outage: (Duration, Duration),
    /// After one that failed for good (A17): from, to; doubling.
    pub(crate) refusal: (Duration, Duration),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            attempts: 3,
            between_attempts: Duration::from_millis(200),
            longest_pause: Duration::from_secs(1),
            outage: (Duration::from_secs(1), Duration::from_secs(60)),
            refusal: (Duration::from_secs(5), Duration::from_secs(300)),
        }
    }
}

impl Pace {
    /// The pause before attempt `made` + 1 of a flight; `None`: the flight is over.
    pub(crate) fn pause(&self, made: u32, retry: Retry, elapsed: Duration, budget: Duration) -> Option<Duration> {
        let Retry::After(wish) = retry else { return None };
        if made >= self.attempts {
            return None;
        }
        let full = doubled(self.between_attempts, made.saturating_sub(1), budget);
        let pause = wish.unwrap_or_else(|| full.mul_f64(chance()));
        (pause <= self.longest_pause && elapsed + pause < budget).then_some(pause)
    }

    /// How long a slot rests after its `failures`th flight in a row that failed (from 1).
    pub(crate) fn rest(&self, failures: u32, retry: Retry) -> Duration {
        let doublings = failures.saturating_sub(1);
        match retry {
            Retry::No => doubled(self.refusal.0, doublings, self.refusal.1),
            Retry::After(None) => doubled(self.outage.0, doublings, self.outage.1).mul_f64(0.5 + chance() / 2.0),
            // Never sooner than the server wants, and spread: we may be one of many.
            Retry::After(Some(wish)) => wish.max(self.outage.0).mul_f64(1.0 + chance() / 10.0),
        }
    }
}

fn doubled(from: Duration, doublings: u32, to: Duration) -> Duration {
    from.saturating_mul(2_u32.saturating_pow(doublings)).min(to)
}

/// A random number from 0 to 1. Without randomness it is the middle: jitter is no secret.
pub(crate) fn chance() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_a_limit() {
        let pace = Pace::default();
        let refusals: Vec<u64> = (1..=9).map(|failures| pace.rest(failures, Retry::No).as_secs()).collect();
        assert_eq!(refusals, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        for (failures, full) in [(1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (u32::MAX, 60.0)] {
            let rest = pace.rest(failures, Retry::After(None)).as_secs_f64();
            assert!((full / 2.0..=full).contains(&rest), "{failures}: {rest}");
        }
        let wish = |seconds| pace.rest(1, Retry::After(Some(Duration::from_secs(seconds)))).as_secs_f64();
        assert!((120.0..=132.0).contains(&wish(120)) && (1.0..=1.1).contains(&wish(0)));
    }

    #[test]
    fn a_flight_tries_again_only_within_its_limits() {
        let pace = Pace::default();
        let budget = Duration::from_secs(10);
        let pause = |made, retry, elapsed| pace.pause(made, retry, Duration::from_secs(elapsed), budget);
        assert_eq!(pause(1, Retry::No, 0), None);
        assert!(pause(1, Retry::After(None), 0).is_some_and(|pause| pause <= Duration::from_millis(200)));
        assert!(pause(2, Retry::After(None), 0).is_some_and(|pause| pause <= Duration::from_millis(400)));
        assert_eq!(pause(3, Retry::After(None), 0), None);
        assert_eq!(pause(1, Retry::After(None), 10), None);
        assert_eq!(pause(1, Retry::After(Some(Duration::from_secs(1))), 0), Some(Duration::from_secs(1)));
        assert_eq!(pause(1, Retry::After(Some(Duration::from_secs(2))), 0), None);
    }
}
