//! The counters of the requests seen last. Nearly every request has the very names of one
//! before it, and hashing four texts is what costs most about counting one: so the counters
//! are found by where the names of their labels lie in memory.

use std::ptr;

use prometheus_client::metrics::family::Family;

use super::{Record, counter::Counter, labels::RequestLabels, metrics::RequestOutcome};

/// How many are kept; a power of two. What has no place is looked up the long way.
const KEPT: usize = 128;

/// The collector's own.
#[derive(Debug)]
pub(super) struct RecentCounters(Vec<Option<(RequestLabels, Counter)>>);

impl Default for RecentCounters {
    fn default() -> Self {
        Self(vec![None; KEPT])
    }
}

impl RecentCounters {
    pub(super) fn count(&mut self, record: &Record, outcome: RequestOutcome, all: &Family<RequestLabels, Counter>) {
        let names = Names::of(record);
        let slot = &mut self.0[names.slot(outcome)];
        if let Some((labels, counter)) = slot
            && labels.outcome == outcome
            && names == Names::in_labels(labels)
        {
            counter.inc();
            return;
        }
        let labels = RequestLabels::of(record, outcome);
        let counter = all.get_or_create_owned(&labels);
        counter.inc();
        // The labels keep their names alive: nothing else can lie there meanwhile.
        *slot = Some((labels, counter));
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
    fn slot(self, outcome: RequestOutcome) -> usize {
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
    use crate::{observe::line::tests::record, primitives::AgentName};

    #[test]
    fn each_request_counts_where_its_names_say() {
        let (all, mut recent) = (Family::default(), RecentCounters::default());
        let agents: Vec<_> = (0..500).map(|number| AgentName::parse(&format!("agent-{number}")).unwrap()).collect();
        let mut record = record();
        for round in 0..3 {
            for agent in &agents {
                // The same name from another place, as after a reload.
                let name = if round == 2 { AgentName::parse(agent.as_str()).unwrap() } else { agent.clone() };
                record.agent.set(&name);
                recent.count(&record, RequestOutcome::Ok, &all);
            }
        }
        record.agent.clear();
        recent.count(&record, RequestOutcome::Ok, &all);
        recent.count(&record, RequestOutcome::Refused, &all);
        let count = |record: &Record, outcome| all.get_or_create(&RequestLabels::of(record, outcome)).get();
        assert_eq!((count(&record, RequestOutcome::Ok), count(&record, RequestOutcome::Refused)), (1, 1));
        for agent in agents {
            record.agent.set(&agent);
            assert_eq!(count(&record, RequestOutcome::Ok), 3);
        }
    }
}
