//! Prometheus metrics, named in the surface contract.

/// The registry and every family in it.
#[derive(Debug)]
pub struct Metrics {}
