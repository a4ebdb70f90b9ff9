//! A blank record, for tests of what stages note in it.

use std::{sync::Arc, time::SystemTime};

use http::Method;
use tokio::time::Instant;

use crate::{
    observe::{Asked, Decision, Kept, Outcome, Record, record::Protocol},
    primitives::{ListenerName, RequestIds},
};

pub(crate) fn record() -> Record {
    let (method, protocol) = (Some(Method::GET), Protocol::Http11);
    Record {
        id: RequestIds::new(1).next(),
        time: SystemTime::UNIX_EPOCH,
        started: Instant::now(),
        listener: ListenerName::parse("proxy").unwrap(),
        asked: Asked { method, authority: Kept::default(), path: None, protocol },
        agent: Kept::default(),
        decision: Decision::default(),
        credential: Kept::default(),
        token: None,
        outcome: Outcome::default(),
        traffic: Arc::default(),
    }
}
