//! What follows a 101: bytes pass both ways. The connection's place at its listener is held,
//! and a shutdown waits for it.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::{observe::ConnectionState, proxy::Switched};

use super::{connection::Session, relay::carry};

/// Relays in a task of its own, as soon as the 101 is written.
pub(super) fn follow(session: Arc<Session>, agent: OnUpgrade, switched: Switched) {
    tokio::spawn(async move {
        let _counted = session.gauge.enter(ConnectionState::Tunnel);
        let (upstream, record) = switched.split().await;
        match (agent.await, upstream) {
            (Ok(agent), Ok(upstream)) => carry(&session, TokioIo::new(agent), upstream, record).await,
            (Err(_), _) => record.end(Some("agent_gone")),
            (Ok(_), Err(_)) => record.end(Some("upstream_broke_off")),
        }
    });
}
