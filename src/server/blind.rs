//! A blind tunnel: bytes both ways, counted, until both sides are done or nothing moves
//! for a while. Half-closes pass through. We can't tell where an exchange inside ends, so
//! a shutdown waits for the tunnel as long as it waits for anything.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::proxy::tunnel::BlindRecord;

use super::{connection::Io, drain::Drain};

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

pub(super) async fn copy<A: Io, B: Io>(agent: A, upstream: B, record: BlindRecord, idle: Duration, drain: Drain) {
    let (agent_read, agent_write) = tokio::io::split(agent);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let (moved, last_move) = watch::channel(Instant::now());
    let both = async {
        tokio::try_join!(
            one_way(agent_read, upstream_write, &moved, |bytes| record.from_agent(bytes)),
            one_way(upstream_read, agent_write, &moved, |bytes| record.to_agent(bytes)),
        )
    };
    let error = tokio::select! {
        ended = both => ended.err().map(|_| "tunnel_broke_off"),
        () = stalled(last_move, idle) => Some("tunnel_idle"),
    };
    drop(drain);
    record.end(error);
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &watch::Sender<Instant>,
    count: impl Fn(usize),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        count(read);
        moved.send_replace(Instant::now());
    }
}

/// Returns once nothing has moved in either direction for `idle`.
async fn stalled(last_move: watch::Receiver<Instant>, idle: Duration) {
    loop {
        let deadline = *last_move.borrow() + idle;
        if deadline <= Instant::now() {
            return;
        }
        sleep_until(deadline).await;
    }
}
