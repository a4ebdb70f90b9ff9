//! How many connections are open, and what they are doing. Moved by the server itself
//! with one atomic step each; knows no socket.

use std::{fmt::Error, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder},
    metrics::gauge::Gauge,
};

use crate::primitives::ListenerName;

/// The gauges of one listener. Cheap to clone; get it once a listener from
/// [`Metrics::connections`](super::metrics::Metrics::connections).
#[derive(Clone, Debug)]
pub struct ConnectionGauge(Arc<[Gauge; ConnectionState::ALL.len()]>);

impl ConnectionGauge {
    pub(super) fn new(gauges: [Gauge; ConnectionState::ALL.len()]) -> Self {
        Self(Arc::new(gauges))
    }

    /// Counts a connection until the guard is dropped.
    pub fn enter(&self, state: ConnectionState) -> OpenConnection {
        self.of(state).inc();
        OpenConnection { gauge: self.clone(), state }
    }

    fn of(&self, state: ConnectionState) -> &Gauge {
        &self.0[state as usize]
    }
}

/// The label `state` of `cupbearer_connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Accepted; a TLS handshake or the first byte is awaited.
    Handshake,
    /// HTTP is spoken, in the clear, under TLS or inside an intercepted `CONNECT`.
    Serving,
    /// Bytes of a blind tunnel or of an upgraded connection pass.
    Tunnel,
}

impl ConnectionState {
    /// In the order of their values.
    pub const ALL: [Self; 3] = [Self::Handshake, Self::Serving, Self::Tunnel];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Serving => "serving",
            Self::Tunnel => "tunnel",
        }
    }
}

/// One connection that is counted; dropping it counts it out.
#[derive(Debug)]
#[must_use = "the connection counts as closed when this is dropped"]
pub struct OpenConnection {
    gauge: ConnectionGauge,
    state: ConnectionState,
}

impl OpenConnection {
    pub fn set(&mut self, state: ConnectionState) {
        if state != self.state {
            self.gauge.of(state).inc();
            self.gauge.of(self.state).dec();
            self.state = state;
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.gauge.of(self.state).dec();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionLabels {
    pub(super) listener: ListenerName,
    pub(super) state: ConnectionState,
}

impl EncodeLabelSet for ConnectionLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), Error> {
        ("listener", self.listener.as_str()).encode(encoder.encode_label())?;
        ("state", self.state.as_str()).encode(encoder.encode_label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    #[test]
    fn a_connection_counts_where_it_is_and_only_while_it_lives() {
        let metrics = Metrics::default();
        let gauge = metrics.connections(&ListenerName::parse("proxy").unwrap());
        let again = metrics.connections(&ListenerName::parse("proxy").unwrap());
        let figures = || ConnectionState::ALL.map(|state| gauge.of(state).get());
        let mut first = gauge.enter(ConnectionState::Handshake);
        let second = again.enter(ConnectionState::Serving);
        assert_eq!(figures(), [1, 1, 0]);
        first.set(ConnectionState::Tunnel);
        first.set(ConnectionState::Tunnel);
        assert_eq!(figures(), [0, 1, 1]);
        drop(first);
        drop(second);
        assert_eq!(figures(), [0, 0, 0]);
        assert!(metrics.encode().contains(r#"cupbearer_connections{listener="proxy",state="tunnel"} 0"#));
    }
}
