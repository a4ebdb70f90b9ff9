//! A blank record, for tests of what stages note in it.

use std::{sync::Arc, time::SystemTime};

use http::Method;
use tokio::time::Instant;

use crate::{
    observe::{Asked, Decision, Outcome, Record, record::Protocol},
    primitives::{ListenerName, RequestIds},
};

pub(crate) fn record() -> Record {
    let asked = Asked { method: Some(Method::GET), authority: None, path: None, protocol: Protocol::Http11 };
    Record {
        id: RequestIds::new(1).next(),
        time: SystemTime::UNIX_EPOCH,
        started: Instant::now(),
        listener: ListenerName::parse("proxy").unwrap(),
        asked,
        agent: None,
        decision: Decision::default(),
        token: None,
        outcome: Outcome::default(),
        traffic: Arc::default(),
    }
}
