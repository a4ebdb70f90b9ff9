//! What a lane's requests came to since the collector last looked: plain numbers, which cost no
//! cache line that other workers count in. Counters are found by where the names of their labels
//! lie in memory: nearly every request has the very names of one before it, and hashing four
//! texts is what costs most about counting one.

use std::{ptr, time::Duration};

use super::{
    Record,
    counter::Counter,
    histogram::Histogram,
    labels::RequestLabels,
    metrics::{Metrics, RequestOutcome, denial_reason},
    summary::Totals,
};

/// How many counters are kept; a power of two. What has no place is looked up the long way.
const KEPT: usize = 128;

#[derive(Debug)]
pub(super) struct Tally {
    recent: Vec<Option<Recent>>,
    /// The places of those that have counted something.
    counted: Vec<usize>,
    request_duration: Observed,
    upstream_duration: Observed,
    token_wait: Observed,
    denials: Vec<(&'static str, u64)>,
    totals: Totals,
}

/// Of the requests that have these labels.
#[derive(Debug)]
struct Recent {
    labels: RequestLabels,
    counter: Counter,
    /// Not yet in the counter.
    count: u64,
}

/// For a histogram.
#[derive(Debug)]
struct Observed {
    of: Histogram,
    counts: Box<[u64]>,
    sum: Duration,
}

impl Tally {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            recent: std::iter::repeat_with(|| None).take(KEPT).collect(),
            counted: Vec::new(),
            request_duration: Observed::new(&metrics.request_duration),
            upstream_duration: Observed::new(&metrics.upstream_duration),
            token_wait: Observed::new(&metrics.token_wait),
            denials: Vec::new(),
            totals: Totals::default(),
        }
    }

    pub(super) fn record(&mut self, record: &Record, duration: Duration, metrics: &Metrics) {
        let outcome = RequestOutcome::of(&record.decision, &record.outcome);
        self.totals.record(record, outcome);
        self.count(record, outcome, metrics);
        self.request_duration.observe(duration);
        if let Some(upstream) = record.outcome.upstream_time {
            self.upstream_duration.observe(upstream);
        }
        if let Some(token) = &record.token {
            self.token_wait.observe(token.wait);
        }
        if outcome == RequestOutcome::Refused {
            let reason = denial_reason(record);
            match self.denials.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => self.denials.push((reason, 1)),
            }
        }
    }

    fn count(&mut self, record: &Record, outcome: RequestOutcome, metrics: &Metrics) {
        let names = Names::of(record);
        let place = names.place(outcome);
        match &mut self.recent[place] {
            Some(recent) if recent.labels.outcome == outcome && names == Names::in_labels(&recent.labels) => {
                if recent.count == 0 {
                    self.counted.push(place);
                }
                recent.count += 1;
            }
            other => {
                let labels = RequestLabels::of(record, outcome);
                let counter = metrics.requests.get_or_create_owned(&labels);
                counter.inc();
                // The labels keep their names alive: nothing else can lie there meanwhile.
                let before = other.replace(Recent { labels, counter, count: 0 });
                if let Some(before) = before.filter(|before| before.count > 0) {
                    before.counter.inc_by(before.count);
                    self.counted.retain(|counted| *counted != place);
                }
            }
        }
    }

    /// Puts all of it into the metrics.
    pub(super) fn settle(&mut self, metrics: &Metrics) {
        for place in self.counted.drain(..) {
            if let Some(recent) = &mut self.recent[place] {
                recent.counter.inc_by(std::mem::take(&mut recent.count));
            }
        }
        for observed in [&mut self.request_duration, &mut self.upstream_duration, &mut self.token_wait] {
            observed.settle();
        }
        for (reason, count) in self.denials.drain(..) {
            metrics.deny(reason, count);
        }
        metrics.summary().add(&std::mem::take(&mut self.totals));
    }
}

impl Observed {
    fn new(of: &Histogram) -> Self {
        Self { of: of.clone(), counts: vec![0; of.buckets()].into(), sum: Duration::ZERO }
    }

    fn observe(&mut self, duration: Duration) {
        self.counts[self.of.bucket(duration)] += 1;
        self.sum += duration;
    }

    fn settle(&mut self) {
        self.of.add(&self.counts, std::mem::take(&mut self.sum));
        self.counts.fill(0);
    }
}

/// By their addresses only.
#[derive(Clone, Copy)]
struct Names<'a> {
    listener: &'a str,
    agent: Option<&'a str>,
    route: Option<&'a str>,
}

impl<'a> Names<'a> {
    fn of(record: &'a Record) -> Self {
        Self {
            listener: record.listener.as_str(),
            agent: record.agent.get().map(|name| name.as_str()),
            route: record.decision.route.get().map(|name| name.as_str()),
        }
    }

    fn in_labels(labels: &'a RequestLabels) -> Self {
        Self {
            listener: labels.listener.as_str(),
            agent: labels.agent.as_ref().map(|name| name.as_str()),
            route: labels.route.as_ref().map(|name| name.as_str()),
        }
    }

    /// Addresses differ most in the bits above their alignment.
    fn place(self, outcome: RequestOutcome) -> usize {
        let mix = |sum: usize, name: Option<&str>| {
            (sum.rotate_left(7) ^ name.map_or(0, |name| name.as_ptr().addr())).wrapping_mul(0x9e37_79b1)
        };
        let sum = [Some(self.listener), self.agent, self.route].into_iter().fold(outcome as usize, mix);
        (sum >> 16) & (KEPT - 1)
    }
}

impl PartialEq for Names<'_> {
    fn eq(&self, other: &Self) -> bool {
        let same = |ours: Option<&str>, theirs: Option<&str>| match (ours, theirs) {
            (Some(ours), Some(theirs)) => ptr::eq(ours, theirs),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        ptr::eq(self.listener, other.listener) && same(self.agent, other.agent) && same(self.route, other.route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observe::line::tests::{record, refused},
        primitives::AgentName,
    };

    #[test]
    fn each_request_counts_where_its_names_say() {
        let metrics = Metrics::default();
        let mut tally = Tally::new(&metrics);
        let agents: Vec<_> = (0..500).map(|number| AgentName::parse(&format!("agent-{number}")).unwrap()).collect();
        let mut record = record();
        for round in 0..4 {
            for agent in &agents {
                // The same name from another place, as after a reload.
                let name = if round == 2 { AgentName::parse(agent.as_str()).unwrap() } else { agent.clone() };
                record.agent.set(&name);
                tally.record(&record, Duration::ZERO, &metrics);
                tally.record(&record, Duration::ZERO, &metrics);
            }
            if round % 2 == 1 {
                tally.settle(&metrics);
            }
        }
        let refused = refused();
        tally.record(&refused, Duration::ZERO, &metrics);
        tally.settle(&metrics);
        tally.settle(&metrics);
        let count =
            |record: &Record, outcome| metrics.requests.get_or_create(&RequestLabels::of(record, outcome)).get();
        assert_eq!(count(&refused, RequestOutcome::Refused), 1);
        for agent in agents {
            record.agent.set(&agent);
            assert_eq!(count(&record, RequestOutcome::Ok), 8);
        }
        assert!(metrics.encode().contains("cupbearer_request_duration_seconds_count 4001\n"));
    }

    #[test]
    fn whoever_looks_sees_what_was_settled() {
        let metrics = Metrics::default();
        let mut tally = Tally::new(&metrics);
        let says = |text: &str| metrics.encode().contains(text);
        for round in 1..=3 {
            tally.record(&record(), Duration::from_millis(30), &metrics);
            tally.record(&refused(), Duration::ZERO, &metrics);
            assert!(!says(&format!("duration_seconds_count {}\n", round * 2)));
            tally.settle(&metrics);
            assert!(says(&format!("cupbearer_request_duration_seconds_count {}\n", round * 2)));
            assert!(says(&format!("cupbearer_upstream_duration_seconds_count {round}\n")));
            assert!(says(&format!("cupbearer_token_wait_seconds_count {round}\n")));
            assert!(says(&format!("cupbearer_denials_total{{reason=\"agent_unknown\"}} {round}\n")));
        }
        assert!(says("cupbearer_request_duration_seconds_sum 0.09\n"), "{}", metrics.encode());
    }
}
