//! What happened: one [`Record`] a request, ended exactly once, and the events
//! that are no request. The sinks behind [`Recorder`] (audit log, metrics) run on
//! a thread of their own, so that the request path pays for one line of text in memory.
//!
//! ```text
//! proxy --Record--> Recorder: a lane a worker ==lines, tallies==> collector thread --> audit log
//! credential --Event--^                                                           \-> metrics
//! ```

mod audit;
pub mod connections;
mod counter;
mod histogram;
pub mod kept;
mod labels;
mod lane;
mod line;
pub mod logging;
pub mod metrics;
mod object;
pub mod record;
pub mod recorder;
mod summary;
mod tally;

pub use connections::{ConnectionGauge, ConnectionState, OpenConnection};
pub use kept::Kept;
pub use metrics::Metrics;
pub use record::{Asked, Decision, Event, Noted, Opening, Outcome, Record, TokenUse, Traffic};
pub use recorder::{Recorder, Settings};
pub use summary::Summary;

/// Examples of records, for the tests of rooms above.
#[cfg(test)]
pub(crate) use line::tests as line_tests;
