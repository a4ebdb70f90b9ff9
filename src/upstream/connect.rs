//! A name to a connection: resolve once, judge every address, dial those that may be
//! dialled, and speak TLS to what answered. Knows no HTTP and keeps nothing.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use ipnet::IpNet;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Dial, Error, Resolve, Stream, Wall};
use crate::primitives::{Authority, Host};

/// How long an address has to answer before the next one is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(300);

/// Addresses tried of one answer: a zone with thousands of them is no reason to try all.
const MAX_ADDRESSES: usize = 16;

#[derive(Debug)]
pub(super) struct Connector {
    pub(super) wall: Wall,
    pub(super) resolve: Arc<dyn Resolve>,
    pub(super) dial: Arc<dyn Dial>,
}

impl Connector {
    /// A connection to one of the authority's addresses. The caller sets the limit in time.
    pub(super) async fn open(&self, to: &Authority, allowed: &[IpNet]) -> Result<(Stream, SocketAddr), Error> {
        let addresses = self.addresses(to, allowed).await?;
        race(&*self.dial, &addresses).await
    }

    /// A verified TLS connection over `stream`. The SNI is the permitted host, which is
    /// the name that the certificate has to hold.
    pub(super) async fn secure(
        &self,
        stream: Stream,
        host: &Host,
        config: &Arc<ClientConfig>,
    ) -> Result<TlsStream<Stream>, Error> {
        let failed = |source| Error::Tls { host: host.to_string(), source };
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.to_string())
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?,
            Host::Ip(address) => ServerName::from(*address),
        };
        TlsConnector::from(config.clone()).connect(name, stream).await.map_err(failed)
    }

    /// What of the authority's addresses may be dialled: at least one.
    async fn addresses(&self, to: &Authority, allowed: &[IpNet]) -> Result<Vec<SocketAddr>, Error> {
        let answer = match to.host() {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => {
                self.resolve.resolve(name).await.map_err(|source| Error::Dns { host: name.to_string(), source })?
            }
        };
        let mut refused = None;
        let mut addresses = Vec::with_capacity(answer.len().min(MAX_ADDRESSES));
        for ip in answer {
            let address = SocketAddr::new(ip, to.port());
            match self.wall.check(address, allowed) {
                Ok(()) if addresses.len() < MAX_ADDRESSES => addresses.push(address),
                Ok(()) => break,
                Err(kind) => {
                    refused.get_or_insert(Error::AddressNotAllowed { address: ip, kind });
                }
            }
        }
        match (addresses.is_empty(), refused) {
            (false, _) => Ok(addresses),
            (true, Some(error)) => Err(error),
            (true, None) => Err(Error::NoAddress { host: to.host().to_string() }),
        }
    }
}

type Attempt<'a> = (SocketAddr, Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>>);

/// The first of `addresses` to answer. They are tried in their order: the next one
/// starts when one fails, or beside those that haven't answered in time.
async fn race(dial: &dyn Dial, addresses: &[SocketAddr]) -> Result<(Stream, SocketAddr), Error> {
    let mut rest = addresses.iter();
    let mut attempts: Vec<Attempt<'_>> = Vec::with_capacity(1);
    let mut failed = None;
    loop {
        if let Some(address) = rest.next() {
            attempts.push((*address, dial.dial(*address)));
        }
        let finished = if rest.len() == 0 {
            first(&mut attempts).await
        } else {
            match tokio::time::timeout(ATTEMPT_DELAY, first(&mut attempts)).await {
                Ok(finished) => finished,
                Err(_) => continue,
            }
        };
        match finished {
            (address, Ok(stream)) => return Ok((stream, address)),
            (address, Err(source)) => {
                let error = failed.take().unwrap_or(Error::Connect { address, source });
                if attempts.is_empty() && rest.len() == 0 {
                    return Err(error);
                }
                failed = Some(error);
            }
        }
    }
}

async fn first(attempts: &mut Vec<Attempt<'_>>) -> (SocketAddr, io::Result<Stream>) {
    poll_fn(|cx| {
        for index in 0..attempts.len() {
            if let Poll::Ready(result) = attempts[index].1.as_mut().poll(cx) {
                let (address, _) = attempts.swap_remove(index);
                return Poll::Ready((address, result));
            }
        }
        Poll::Pending
    })
    .await
}
