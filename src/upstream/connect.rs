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

use super::{Dial, Error, Parent, Stream, Wall, lookups::Lookups};
use crate::{
    primitives::{AgentName, Authority, Host},
    tls::{self, TlsStream},
};

/// How long an address has to answer before the next one is tried beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(300);

/// Addresses tried of one answer: a zone with thousands of them is no reason to try all.
const MAX_ADDRESSES: usize = 16;

#[derive(Debug)]
pub(super) struct Connector {
    pub(super) wall: Wall,
    pub(super) lookups: Lookups,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) parent: Option<Arc<Parent>>,
}

impl Connector {
    /// A connection that leads to the authority, and the address that was dialled for it: one
    /// of its own, or the parent proxy's. The caller sets the limit in time. `agent`: for whom.
    /// `direct`: past the parent.
    pub(super) async fn open(
        &self,
        agent: &AgentName,
        to: &Authority,
        allowed: &[IpNet],
        direct: bool,
    ) -> Result<(Stream, SocketAddr), Error> {
        match &self.parent {
            Some(parent) if !direct && parent.way.covers(to) => self.through(parent, agent, to, allowed).await,
            Some(_) | None => self.reach(agent, to, allowed).await,
        }
    }

    /// A connection to one of the authority's addresses.
    pub(super) async fn reach(
        &self,
        agent: &AgentName,
        to: &Authority,
        allowed: &[IpNet],
    ) -> Result<(Stream, SocketAddr), Error> {
        let addresses = self.addresses(agent, to, allowed).await?;
        race(&*self.dial, &addresses).await
    }

    /// A verified TLS connection over `stream`. The SNI is the permitted host, which is
    /// the name that the certificate has to hold. `h1_only`: whatever ALPN the config offers.
    pub(super) async fn secure(
        &self,
        stream: Stream,
        host: &Host,
        config: &Arc<ClientConfig>,
        h1_only: bool,
    ) -> Result<TlsStream<Stream>, Error> {
        let failed = |source| Error::Tls { host: host.to_string(), source };
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.to_string())
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?,
            Host::Ip(address) => ServerName::from(*address),
        };
        let alpn = h1_only.then(|| vec![b"http/1.1".to_vec()]);
        tls::connect(config.clone(), name, alpn, stream).await.map_err(failed)
    }

    /// What of the authority's addresses may be dialled: at least one.
    async fn addresses(&self, agent: &AgentName, to: &Authority, allowed: &[IpNet]) -> Result<Vec<SocketAddr>, Error> {
        let answer = match to.host() {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => {
                let found = async { self.lookups.place(agent).await?.resolve(name).await };
                found.await.map_err(|source| Error::Dns { host: name.to_string(), source })?
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::time::Instant;

    use super::{
        super::testing::{Memory, Names},
        *,
    };

    struct Case {
        connector: Connector,
        names: Arc<Names>,
        dial: Arc<Memory>,
        _accepted: tokio::sync::mpsc::UnboundedReceiver<tokio::io::DuplexStream>,
    }

    /// `answers`: of the resolver, in turn. `refused` and `silent`: what dialling these comes to.
    fn case(answers: &[&[&str]], refused: &[&str], silent: &[&str]) -> Case {
        let names = Names::new(answers);
        let (dial, _accepted) = Memory::new(refused, silent);
        let connector =
            Connector { wall: Wall::default(), lookups: Lookups::new(names.clone()), dial: dial.clone(), parent: None };
        Case { connector, names, dial, _accepted }
    }

    async fn open(case: &Case, authority: &str) -> Result<String, Error> {
        let authority = Authority::parse(authority, None).unwrap();
        let agent = AgentName::parse("agent").unwrap();
        case.connector.open(&agent, &authority, &[], false).await.map(|(_, address)| address.to_string())
    }

    /// Threats 34 and 36: with every address refused, nothing is dialled.
    #[tokio::test(start_paused = true)]
    async fn a_private_address_is_not_dialled() {
        for address in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"] {
            let case = case(&[&[address]], &[], &[]);
            let error = open(&case, "origin.test:443").await.expect_err(address);
            assert!(matches!(error, Error::AddressNotAllowed { .. }), "{error}");
            assert_eq!(error.proxy_status(), "destination_ip_prohibited");
            assert!(case.dial.dialled().is_empty(), "{address}");
        }
    }

    /// Threat 24: literals skip DNS and not the wall.
    #[tokio::test(start_paused = true)]
    async fn a_literal_is_judged_without_dns() {
        let case = case(&[&["93.184.216.34"]], &[], &[]);
        for authority in ["127.0.0.1:443", "[::1]:443", "0.0.0.0:443", "[::ffff:10.0.0.1]:443"] {
            assert!(matches!(open(&case, authority).await, Err(Error::AddressNotAllowed { .. })), "{authority}");
        }
        assert_eq!(open(&case, "1.1.1.1:443").await.unwrap(), "1.1.1.1:443");
        assert_eq!(case.names.asked.load(Ordering::Relaxed), 0);
        assert_eq!(case.dial.dialled(), ["1.1.1.1:443"]);
    }

    /// Threat 34: of a mixed answer only the public part is dialled.
    #[tokio::test(start_paused = true)]
    async fn a_mixed_answer_loses_its_private_part() {
        let case = case(&[&["10.0.0.1", "93.184.216.34", "127.0.0.1"]], &["93.184.216.34"], &[]);
        assert!(matches!(open(&case, "origin.test:443").await, Err(Error::Connect { .. })));
        assert_eq!(case.dial.dialled(), ["93.184.216.34:443"]);
    }

    /// Threat 34: the address that was judged is the one dialled; nobody asks again.
    #[tokio::test(start_paused = true)]
    async fn rebinding_changes_nothing() {
        let case = case(&[&["93.184.216.34"], &["127.0.0.1"]], &[], &[]);
        assert_eq!(open(&case, "origin.test:443").await.unwrap(), "93.184.216.34:443");
        assert_eq!(case.names.asked.load(Ordering::Relaxed), 1);
        assert!(matches!(open(&case, "origin.test:443").await, Err(Error::AddressNotAllowed { .. })));
        assert_eq!(case.dial.dialled(), ["93.184.216.34:443"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusing_address_gives_way_at_once() {
        let case = case(&[&["2606:4700::1", "93.184.216.34"]], &["2606:4700::1"], &[]);
        let started = Instant::now();
        assert_eq!(open(&case, "origin.test:443").await.unwrap(), "93.184.216.34:443");
        assert!(started.elapsed() < Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_is_raced() {
        let case = case(&[&["2606:4700::1", "2606:4700::2", "93.184.216.34"]], &[], &["2606:4700::1", "2606:4700::2"]);
        let started = Instant::now();
        assert_eq!(open(&case, "origin.test:443").await.unwrap(), "93.184.216.34:443");
        assert_eq!(started.elapsed(), 2 * ATTEMPT_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_addresses_is_an_error() {
        let case = case(&[&[]], &[], &[]);
        assert!(matches!(open(&case, "origin.test:443").await, Err(Error::NoAddress { .. })));
    }
}
