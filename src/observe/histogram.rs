//! A histogram that the collector alone fills, with many observations at once, and without the
//! library's lock. Its text is that of the library's.

use std::{
    fmt::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

use super::counter::add;

/// Filled by one thread at a time, read by any: a reader may miss what is being observed, or see
/// it in a bucket and not yet in the sum.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: Box<[Duration]>,
    /// One for each bound, and one for what is above them all.
    counts: Box<[AtomicU64]>,
    /// In seconds; the bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    /// `bounds` are in seconds and ascend.
    pub(super) fn new(bounds: &[f64]) -> Self {
        let bounds: Box<_> = bounds.iter().map(|bound| Duration::from_secs_f64(*bound)).collect();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: AtomicU64::new(0.0_f64.to_bits()) }))
    }

    /// How many there are, with the one above all bounds.
    pub(super) fn buckets(&self) -> usize {
        self.0.counts.len()
    }

    /// Which one is `duration`'s.
    pub(super) fn bucket(&self, duration: Duration) -> usize {
        let bounds = &self.0.bounds;
        // From below: nearly all are in one of the first.
        bounds.iter().position(|bound| duration <= *bound).unwrap_or(bounds.len())
    }

    /// Adds observations: how many there are in each bucket, and all of them together.
    pub(super) fn add(&self, observed: &[u64], sum: Duration) {
        for (count, more) in self.0.counts.iter().zip(observed).filter(|(_, more)| **more > 0) {
            add(count, *more);
        }
        if sum > Duration::ZERO {
            let seconds = f64::from_bits(self.0.sum.load(Ordering::Relaxed)) + sum.as_secs_f64();
            self.0.sum.store(seconds.to_bits(), Ordering::Relaxed);
        }
    }

    pub(super) fn observe(&self, duration: Duration) {
        add(&self.0.counts[self.bucket(duration)], 1);
        self.add(&[], duration);
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        let Buckets { bounds, counts, sum } = &*self.0;
        let bounds = bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = f64::from_bits(sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, metrics::histogram, registry::Registry};

    use super::*;

    fn text(metric: impl prometheus_client::registry::Metric) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register("it", "A histogram", metric);
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn it_says_what_the_librarys_would() {
        const BOUNDS: [f64; 7] = [0.0001, 0.001, 0.0025, 0.25, 0.7, 2.5, 300.0];
        let ours = Histogram::new(&BOUNDS);
        let theirs = histogram::Histogram::new(BOUNDS);
        assert_eq!(text(ours.clone()), text(theirs.clone()));
        let nano = Duration::from_nanos(1);
        let bounds = BOUNDS.into_iter().map(Duration::from_secs_f64);
        let edges = bounds.flat_map(|bound| [bound - nano, bound, bound + nano, bound * 3 / 7]);
        for duration in edges.chain([Duration::ZERO, Duration::from_hours(1)]) {
            ours.observe(duration);
            theirs.observe(duration.as_secs_f64());
            assert_eq!(text(ours.clone()), text(theirs.clone()), "{duration:?}");
        }
        assert!(text(ours).contains("it_count 30\n"));
    }
}
