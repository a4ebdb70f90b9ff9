//! A proxy without sockets: whoever has a stream has it served, and what goes out goes
//! through a [`Dial`] of the caller's. For tests in paused time and for benchmarks, which
//! run the very wiring that `serve` runs.

use std::{future::Future, sync::Arc};

use crate::{
    config,
    proxy::Shared,
    server::{
        Door, Drain, DrainHandle,
        connection::{Connections, Io},
    },
    tls::CertificateAuthority,
    upstream::{Dial, Wall},
};

use super::{Error, Surroundings, doors, worker};

/// One worker that waits for streams.
#[derive(Debug)]
pub struct Unbound {
    connections: Arc<Connections>,
    /// In the config's order, `[proxy]` before `[[reverse]]` before `[socks]`.
    doors: Vec<Arc<Door>>,
    shared: Arc<Shared>,
    authority: Arc<CertificateAuthority>,
    drain: Drain,
    _never_stopped: DrainHandle,
}

/// Wires the rooms as [`start`](super::start) does, and binds nothing. Token flights run on
/// the current runtime, which must outlive the value; connections where they are awaited.
///
/// # Errors
/// As `start`, but for addresses.
pub fn unbound(
    settings: &config::Settings,
    surroundings: &Surroundings,
    dial: Arc<dyn Dial>,
) -> Result<Unbound, Error> {
    let worker = worker(settings, surroundings, Wall::default())?;
    let shared = Arc::clone(&worker.shared);
    let doors = doors(&settings.server, shared.recorder.metrics())?.into_iter().map(Arc::new).collect();
    let (never_stopped, drain) = Drain::new();
    Ok(Unbound {
        connections: worker.connections(dial),
        doors,
        shared,
        authority: Arc::clone(&surroundings.authority),
        drain,
        _never_stopped: never_stopped,
    })
}

impl Unbound {
    /// Serves a stream as if a listener had accepted it, until its end. `door`: a listener's
    /// place in the config, `[proxy]` before `[[reverse]]` before `[socks]`; `None` where there is no such.
    pub fn serve<S: Io>(&self, door: usize, stream: S) -> Option<impl Future<Output = ()> + Send + use<S>> {
        let door = Arc::clone(self.doors.get(door)?);
        Some(Arc::clone(&self.connections).serve(stream, door, self.drain.clone()))
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }
}
