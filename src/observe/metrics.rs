//! Prometheus metrics, named in the surface contract. Fed by the collector thread from
//! tallies and events, off the request path; only the connection gauges are moved by
//! their owners, since a connection leaves no record.
//!
//! Label values are configured names and enums, never what an agent sent: their number
//! is bounded by the configuration. A label that doesn't apply (a request without a
//! route) is the empty string, which no configured name can be.

use std::{borrow::Cow, time::SystemTime};

use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use super::{
    Decision, Event, Outcome, Record, Summary,
    connections::{ConnectionGauge, ConnectionLabels, ConnectionState},
    counter::Counter,
    histogram::Histogram,
    labels::{AlertLabels, DenialLabels, ExpiryLabels, FailureLabels, RequestLabels, TokenLabels},
    record::TokenEvent,
};

/// What Prometheus' own servers and clients expect of the text below (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a cached answer on loopback to a model that thinks for minutes, in seconds.
const REQUEST_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Most requests don't wait for a token at all; the first bucket is theirs.
const WAIT_BUCKETS: [f64; 13] = [0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The registry and every family in it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// A lane adds to it what it has no place for.
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) request_duration: Histogram,
    pub(super) upstream_duration: Histogram,
    token_requests: Family<TokenLabels, Counter>,
    token_request_duration: Histogram,
    pub(super) token_wait: Histogram,
    token_expiry: Family<ExpiryLabels, Gauge>,
    token_refresh_failures: Family<FailureLabels, Counter>,
    connections: Family<ConnectionLabels, Gauge>,
    denials: Family<DenialLabels, Counter>,
    /// Whoever loses a line moves it.
    audit_dropped: Counter,
    alerts: Family<AlertLabels, Counter>,
    summary: Summary,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("cupbearer"),
            requests: Family::default(),
            request_duration: Histogram::new(&REQUEST_BUCKETS),
            upstream_duration: Histogram::new(&REQUEST_BUCKETS),
            token_requests: Family::default(),
            token_request_duration: Histogram::new(&REQUEST_BUCKETS),
            token_wait: Histogram::new(&WAIT_BUCKETS),
            token_expiry: Family::default(),
            token_refresh_failures: Family::default(),
            connections: Family::default(),
            denials: Family::default(),
            audit_dropped: Counter::default(),
            alerts: Family::default(),
            summary: Summary::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// The OpenMetrics text of every family. Locks briefly; call it off the request path.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(8 * 1024);
        if encode(&mut text, &self.registry).is_err() {
            // A String can always be written to; what came out so far is still the truth.
            tracing::error!("the metrics couldn't be encoded whole");
        }
        text
    }

    /// The gauges of one listener's connections. Get them once, then keep them.
    pub fn connections(&self, listener: &crate::primitives::ListenerName) -> ConnectionGauge {
        ConnectionGauge::new(
            ConnectionState::ALL.map(|state| {
                self.connections.get_or_create_owned(&ConnectionLabels { listener: listener.clone(), state })
            }),
        )
    }

    /// How many records and events are missing from the audit log.
    pub fn audit_dropped(&self) -> u64 {
        self.audit_dropped.get()
    }

    /// The totals of this process's life.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub(super) fn drop_audit(&self, lines: u64) {
        self.audit_dropped.inc_by(lines);
    }

    pub(super) fn deny(&self, reason: &'static str, count: u64) {
        self.denials.get_or_create(&DenialLabels { reason }).inc_by(count);
    }

    pub(super) fn event(&self, event: &Event) {
        self.summary.event(event);
        match event {
            Event::TokenIssued(token) => self.token_got(token, TokenOutcome::Issued),
            Event::TokenRefreshed(token) => self.token_got(token, TokenOutcome::Refreshed),
            Event::TokenFailed { credential, grant, error, duration, .. } => {
                let labels = TokenLabels { credential: credential.clone(), grant, outcome: TokenOutcome::Failed };
                self.token_requests.get_or_create(&labels).inc();
                self.token_request_duration.observe(*duration);
                self.token_refresh_failures
                    .get_or_create(&FailureLabels { credential: credential.clone(), error })
                    .inc();
            }
            Event::Alert { kind, .. } => {
                self.alerts.get_or_create(&AlertLabels { kind }).inc();
            }
            // Nobody was asked, but it has an end.
            Event::TokenLoaded(token) => self.token_ends(token),
            Event::TokenRevoked { .. } | Event::Login { .. } | Event::Logout { .. } | Event::ConfigReloaded { .. } => {}
        }
    }

    fn token_ends(&self, token: &TokenEvent) {
        let expires = token.expires_at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.token_expiry
            .get_or_create(&ExpiryLabels { credential: token.credential.clone() })
            .set(i64::try_from(expires).unwrap_or(i64::MAX));
    }

    fn token_got(&self, token: &TokenEvent, outcome: TokenOutcome) {
        self.token_ends(token);
        let credential = token.credential.clone();
        self.token_requests.get_or_create(&TokenLabels { credential, grant: token.grant, outcome }).inc();
        self.token_request_duration.observe(token.duration);
    }

    /// The encoder adds the prefix, the unit and `_total`, `_info`.
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests by how they ended", self.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "From a request's first byte to its answer's last",
            Unit::Seconds,
            self.request_duration.clone(),
        );
        registry.register_with_unit(
            "upstream_duration",
            "From sending a request upstream to the head of the answer",
            Unit::Seconds,
            self.upstream_duration.clone(),
        );
        registry.register("token_requests", "Requests to authorization servers", self.token_requests.clone());
        registry.register_with_unit(
            "token_request_duration",
            "How long authorization servers took",
            Unit::Seconds,
            self.token_request_duration.clone(),
        );
        registry.register_with_unit(
            "token_wait",
            "How long requests with a token waited for it",
            Unit::Seconds,
            self.token_wait.clone(),
        );
        registry.register_with_unit(
            "token_expiry_timestamp",
            "When the newest token of a credential expires, in Unix time",
            Unit::Seconds,
            self.token_expiry.clone(),
        );
        registry.register(
            "token_refresh_failures",
            "Token requests that brought no token, by the class of the error",
            self.token_refresh_failures.clone(),
        );
        registry.register("connections", "Open connections of agents", self.connections.clone());
        registry.register("denials", "Requests refused, by reason", self.denials.clone());
        registry.register("audit_dropped", "Lines missing from the audit log", self.audit_dropped.clone());
        registry.register("alerts", "Alerts in the audit log, by kind", self.alerts.clone());
        registry.register("build", "Which cupbearer this is", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    }
}

// === Outcomes ===

/// How a request ended: the label `outcome` of `cupbearer_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    /// Upstream answered below 400, and the agent got all of it.
    Ok,
    /// We said no (4xx with one of our codes): bad request, unknown agent, not allowed, rate limit.
    Refused,
    /// We couldn't (5xx with one of our codes), or an answer under way was cut short.
    Failed,
    /// Upstream's own 4xx, passed on.
    Upstream4xx,
    /// Upstream's own 5xx, passed on.
    Upstream5xx,
    /// The agent left before the end.
    AgentGone,
}

impl RequestOutcome {
    pub(super) fn of(decision: &Decision, outcome: &Outcome) -> Self {
        match (outcome.error, outcome.status) {
            (Some("agent_gone"), _) => Self::AgentGone,
            (Some(_), _) if decision.allowed == Some(false) => Self::Refused,
            // With a code of ours and no answer from upstream, the status is ours too.
            (Some(_), Some(400..=499)) if outcome.upstream_time.is_none() => Self::Refused,
            (Some(_), _) | (None, None) => Self::Failed,
            (None, Some(400..=499)) => Self::Upstream4xx,
            (None, Some(500..)) => Self::Upstream5xx,
            (None, Some(_)) => Self::Ok,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Upstream4xx => "upstream_4xx",
            Self::Upstream5xx => "upstream_5xx",
            Self::AgentGone => "agent_gone",
        }
    }
}

/// The label `outcome` of `cupbearer_token_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TokenOutcome {
    Issued,
    Refreshed,
    Failed,
}

impl TokenOutcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Refreshed => "refreshed",
            Self::Failed => "failed",
        }
    }
}

/// Policy's reason, else the code of the refusal. A reason that was put together at run
/// time may hold what an agent sent, and prose is no label: both count as their code.
pub(super) fn denial_reason(record: &Record) -> &'static str {
    let is_code = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    match (&record.decision.reason, record.decision.allowed) {
        (Cow::Borrowed(reason), Some(false)) if is_code(reason) => reason,
        (Cow::Borrowed(_) | Cow::Owned(_), _) => record.outcome.error.unwrap_or("other"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        observe::{
            line::tests::{failed, moment, record, refused, token_event},
            tally::Tally,
        },
        primitives::{CredentialName, ListenerName},
    };

    fn count(metrics: &Metrics, records: &[(Record, Duration)]) {
        let mut tally = Tally::new(metrics);
        records.iter().for_each(|(record, duration)| tally.record(record, *duration, metrics));
        tally.settle(metrics);
    }

    fn samples(metrics: &Metrics) -> Vec<String> {
        metrics.encode().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    /// Every family of the surface contract, under exactly its name.
    #[test]
    fn the_names_are_the_contracts() {
        let metrics = Metrics::default();
        count(&metrics, &[(record(), Duration::from_millis(30)), (refused(), Duration::ZERO)]);
        metrics.event(&Event::TokenIssued(token_event()));
        metrics.event(&failed("no"));
        let _open = metrics.connections(&ListenerName::parse("proxy").unwrap()).enter(ConnectionState::Serving);
        metrics.drop_audit(2);

        let text = metrics.encode();
        assert!(text.ends_with("# EOF\n"));
        let expected = [
            r#"cupbearer_requests_total{listener="proxy",agent="researcher",route="orders-read",outcome="ok"} 1"#,
            r#"cupbearer_requests_total{listener="proxy",agent="",route="",outcome="refused"} 1"#,
            "cupbearer_request_duration_seconds_count 2",
            r#"cupbearer_request_duration_seconds_bucket{le="0.05"} 2"#,
            "cupbearer_upstream_duration_seconds_sum 0.02",
            r#"cupbearer_token_requests_total{credential="orders",grant="client_credentials",outcome="issued"} 1"#,
            r#"cupbearer_token_requests_total{credential="orders",grant="client_credentials",outcome="failed"} 1"#,
            "cupbearer_token_request_duration_seconds_count 2",
            "cupbearer_token_wait_seconds_sum 0.0015",
            r#"cupbearer_token_expiry_timestamp_seconds{credential="orders"} 1795476245"#,
            r#"cupbearer_token_refresh_failures_total{credential="orders",error="invalid_client"} 1"#,
            r#"cupbearer_connections{listener="proxy",state="serving"} 1"#,
            r#"cupbearer_denials_total{reason="agent_unknown"} 1"#,
            "cupbearer_audit_dropped_total 2",
            concat!(r#"cupbearer_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ];
        let samples = samples(&metrics);
        for line in expected {
            assert!(samples.iter().any(|sample| sample == line), "{line} is missing in\n{text}");
        }
        let families = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(families, 12, "{text}");
    }

    #[test]
    fn an_outcome_says_who_ended_the_request() {
        let allowed = |status, error| {
            let outcome = Outcome { status, error, ..record().outcome };
            RequestOutcome::of(&record().decision, &outcome)
        };
        assert_eq!(allowed(Some(204), None), RequestOutcome::Ok);
        assert_eq!(allowed(Some(101), None), RequestOutcome::Ok);
        assert_eq!(allowed(Some(302), None), RequestOutcome::Ok);
        assert_eq!(allowed(Some(404), None), RequestOutcome::Upstream4xx);
        assert_eq!(allowed(Some(503), None), RequestOutcome::Upstream5xx);
        assert_eq!(allowed(Some(200), Some("agent_gone")), RequestOutcome::AgentGone);
        assert_eq!(allowed(Some(404), Some("upstream_timeout")), RequestOutcome::Failed);
        assert_eq!(allowed(None, None), RequestOutcome::Failed);

        let ours = |allowed, status, error| {
            let decision = Decision { allowed, ..Decision::default() };
            let outcome = Outcome { status: Some(status), error: Some(error), ..Outcome::default() };
            RequestOutcome::of(&decision, &outcome)
        };
        assert_eq!(ours(Some(false), 403, "host_not_allowed"), RequestOutcome::Refused);
        assert_eq!(ours(None, 400, "bad_request"), RequestOutcome::Refused);
        assert_eq!(ours(Some(true), 429, "rate_limited"), RequestOutcome::Refused);
        assert_eq!(ours(Some(true), 503, "credential_unavailable"), RequestOutcome::Failed);
        assert_eq!(ours(Some(true), 502, "upstream_tls"), RequestOutcome::Failed);
    }

    /// Threat 19 and the contract: labels are names and enums.
    #[test]
    fn what_an_agent_sent_is_no_label() {
        let metrics = Metrics::default();
        let denied = |reason: Cow<'static, str>| {
            let decision = Decision { allowed: Some(false), reason, ..Decision::default() };
            let outcome = Outcome { status: Some(403), error: Some("host_not_allowed"), ..Outcome::default() };
            Record { decision, outcome, ..record() }
        };
        let reasons = ["denied_by_route".into(), "evil\"} 1\n".to_owned().into(), "no route names the host".into()];
        count(&metrics, &reasons.map(|reason| (denied(reason), Duration::ZERO)));
        let denials: Vec<_> =
            samples(&metrics).into_iter().filter(|line| line.starts_with("cupbearer_denials")).collect();
        assert_eq!(denials.len(), 2, "{denials:?}");
        assert!(denials.contains(&r#"cupbearer_denials_total{reason="denied_by_route"} 1"#.to_owned()));
        assert!(denials.contains(&r#"cupbearer_denials_total{reason="host_not_allowed"} 2"#.to_owned()));
        assert!(!metrics.encode().contains("evil"));
    }

    /// An enum's text could one day hold a quote; the line must stay one line.
    #[test]
    fn label_values_are_escaped() {
        let metrics = Metrics::default();
        let event = Event::TokenFailed {
            credential: CredentialName::parse("orders").unwrap(),
            grant: "a\"b\\c\nd",
            error: "x",
            detail: String::new(),
            duration: Duration::ZERO,
            retry_in: None,
        };
        metrics.event(&event);
        assert!(samples(&metrics).iter().any(|line| line.contains(r#"grant="a\"b\\c\nd""#)), "{}", metrics.encode());
    }

    #[test]
    fn a_refreshed_token_moves_the_expiry() {
        let metrics = Metrics::default();
        metrics.event(&Event::TokenIssued(token_event()));
        let later = TokenEvent { expires_at: moment() + Duration::from_secs(7200), ..token_event() };
        metrics.event(&Event::TokenRefreshed(later));
        metrics.event(&failed("down"));
        let expected = r#"cupbearer_token_expiry_timestamp_seconds{credential="orders"} 1795479845"#;
        assert!(samples(&metrics).iter().any(|line| line == expected), "{}", metrics.encode());
    }
}
