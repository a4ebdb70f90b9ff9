//! Sends a permitted request: over a pooled connection or a new one, on h1 or h2 as
//! the upstream chose. Knows nothing of what is in a request or an answer but its form.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::h2::client::SendRequest;
use bytes::Bytes;
use http::{Response, request::Parts};
use http_body::Body;
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::time::Instant;

use super::{
    Destination, Dial, Error, Parent, Resolve, Settings, Stream, Wall,
    body::{Patience, Tracked},
    connect::Connector,
    h1::{self, Incoming},
    h2,
    lookups::Lookups,
    pool::{Acquired, Loan, Opening, Pool, Slot},
    transport::Transport,
};
use crate::{
    observe::{Noted, Record},
    policy::Permit,
    primitives::{AgentName, Authority, boxed},
    route::Scheme,
};

/// One worker's pool.
#[derive(Debug)]
pub struct Client {
    connect_timeout: Duration,
    connector: Connector,
    pool: Arc<Pool>,
}

/// The head of an answer, its body to be streamed.
#[derive(Debug)]
pub struct Sent {
    pub response: Response<Incoming>,
    /// What was read of the body already: it goes before the rest.
    pub ahead: Bytes,
    pub address: SocketAddr,
    /// When the head did.
    pub arrived: Instant,
    /// The request's, as it was sent; `None`: it went over h2.
    pub head: Option<Box<Parts>>,
}

/// A request that got no answer.
#[derive(Debug)]
pub struct SendFailure<B> {
    pub error: Error,
    /// Where the request went, as far as it got a connection.
    pub address: Option<SocketAddr>,
    /// The request, where not a byte of it was sent nor taken of its body: safe to send again
    /// whatever its method.
    pub unsent: Option<(Box<Parts>, B)>,
    /// Not a byte of it was sent, whatever was taken of its body.
    pub nothing_sent: bool,
    /// As that of [`Sent`], where it isn't with what is unsent.
    pub head: Option<Box<Parts>>,
}

impl Client {
    pub fn new(settings: Settings, wall: Wall, resolve: Arc<dyn Resolve>, dial: Arc<dyn Dial>) -> Self {
        Self {
            connect_timeout: settings.connect_timeout,
            connector: Connector { wall, lookups: Lookups::new(resolve), dial, parent: None },
            pool: Arc::new(Pool::new(settings)),
        }
    }

    /// The same, by way of a parent proxy.
    #[must_use]
    pub fn through(mut self, parent: Option<Arc<Parent>>) -> Self {
        self.connector.parent = parent;
        self
    }

    /// Sends over a pooled connection or a new one. The request is complete but for its
    /// target: of its URI only path and query count, scheme and authority are the permit's,
    /// and so is `Host` on h1; on h2 it is absent.
    ///
    /// Over h1 the length or coding of its body is written anew, too.
    ///
    /// A pooled connection that turns out closed before a byte was sent is replaced
    /// without the caller's knowing. Nothing else is retried here. The wait for the
    /// answer's head is limited by the route's `response_timeout`, from the last byte
    /// of the request's body on. A caller that leaves ends the exchange at once.
    pub async fn send<B>(&self, to: Destination<'_>, (mut head, body): (Box<Parts>, B)) -> Result<Sent, SendFailure<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let slot = self.pool.slot(&to);
        let limit = to.permit.route().upstream.response_timeout;
        let mut body = Tracked::new(body, to.now);
        let (mut now, mut again) = (to.now, false);
        loop {
            let loan = match self.acquire(&slot, &to, (again, &mut now)).await {
                Ok(loan) => loan,
                Err(error) => return Err(SendFailure::unsent(error, None, head, body).map(Tracked::into_inner)),
            };
            let patience = Patience::new(limit, now, &body);
            let failure = match loan {
                Loan::H1(connection) => {
                    let address = connection.address();
                    let exchange = h1::exchange(connection, (&head, body), &slot.target.host, patience, to.on_interim);
                    match exchange.await {
                        Ok(mut response) => {
                            let arrived = Instant::now();
                            response.body_mut().lead_home(slot, arrived);
                            return Ok(Sent { response, ahead: Bytes::new(), address, arrived, head: Some(head) });
                        }
                        Err(failed) => SendFailure::of_h1(failed, address, head),
                    }
                }
                Loan::H2(connection, guard) => {
                    (to.before_h2)(&head);
                    let (to_h2, request) = ((connection, guard), (head, body));
                    match boxed(|| h2::exchange(to_h2, &slot.target, request, patience, to.on_interim)).await {
                        Ok(sent) => return Ok(sent),
                        Err(failure) => failure,
                    }
                }
            };
            match failure {
                SendFailure { unsent: Some(unsent), .. } if !again => (head, body) = unsent,
                failure => return Err(failure.map(Tracked::into_inner)),
            }
            (again, now) = (true, Instant::now());
        }
    }

    /// A raw connection for a blind tunnel, through the same wall. `allowed`: what of the
    /// special-purpose addresses it may reach; nothing, as a rule.
    pub async fn connect_raw(
        &self,
        agent: &AgentName,
        to: &Authority,
        allowed: &[IpNet],
    ) -> Result<(Stream, SocketAddr), Error> {
        let limit = self.connect_timeout;
        let opened = tokio::time::timeout(limit, self.connector.open(agent, to, allowed, false)).await;
        opened.unwrap_or(Err(Error::ConnectTimeout { limit }))
    }

    /// `now` is moved on, where it takes time.
    async fn acquire(
        &self,
        slot: &Arc<Slot>,
        to: &Destination<'_>,
        (again, now): (bool, &mut Instant),
    ) -> Result<Loan, Error> {
        if let Some(loan) = slot.take(again, *now) {
            return Ok(loan);
        }
        let mut wanted = Wanted { pool: &self.pool, to, slot, in_vain: true };
        let loan = boxed(|| self.wait(slot, to.permit, to.h1_only, again)).await?;
        wanted.in_vain = false;
        *now = Instant::now();
        Ok(loan)
    }

    async fn wait(&self, slot: &Arc<Slot>, permit: &Permit<'_>, h1_only: bool, again: bool) -> Result<Loan, Error> {
        let limit = self.connect_timeout;
        let acquired = tokio::time::timeout(limit, async {
            match slot.acquire(again).await? {
                Acquired::Pooled(loan) => Ok(loan),
                Acquired::Open(opening) => self.open(opening, permit, &slot.tls, h1_only).await,
            }
        });
        acquired.await.unwrap_or(Err(Error::ConnectTimeout { limit }))
    }

    async fn open(
        &self,
        opening: Opening,
        permit: &Permit<'_>,
        tls: &Arc<ClientConfig>,
        h1_only: bool,
    ) -> Result<Loan, Error> {
        match self.connect(permit, tls, h1_only).await {
            Ok(Opened::H1(transport, address)) => Ok(opening.h1(transport, address)),
            Ok(Opened::H2(sender, address)) => Ok(opening.h2(sender, address)),
            Err(error) => Err(opening.failed(error)),
        }
    }

    async fn connect(&self, permit: &Permit<'_>, tls: &Arc<ClientConfig>, h1_only: bool) -> Result<Opened, Error> {
        let (authority, upstream) = (permit.authority(), &permit.route().upstream);
        let (agent, allowed) = (permit.agent().name(), &upstream.private_addresses);
        let (stream, address) = self.connector.open(agent, authority, allowed, upstream.direct).await?;
        match permit.scheme() {
            Scheme::Http => Ok(Opened::H1(Transport::Clear(stream), address)),
            Scheme::Https => {
                let stream = self.connector.secure(stream, authority.host(), tls, h1_only).await?;
                if stream.is_h2() {
                    Ok(Opened::H2(h2::start(stream).await?, address))
                } else {
                    Ok(Opened::H1(Transport::Tls(stream), address))
                }
            }
        }
    }
}

/// A connection that is waited for: it may fail, and whoever waits may leave.
struct Wanted<'a> {
    pool: &'a Pool,
    to: &'a Destination<'a>,
    slot: &'a Arc<Slot>,
    in_vain: bool,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        if self.in_vain {
            self.pool.give_up(self.to, self.slot);
        }
    }
}

enum Opened {
    H1(Transport, SocketAddr),
    H2(SendRequest<Bytes>, SocketAddr),
}

impl<B> SendFailure<B> {
    pub(super) fn unsent(error: Error, address: Option<SocketAddr>, head: Box<Parts>, body: B) -> Self {
        Self { error, address, unsent: Some((head, body)), nothing_sent: true, head: None }
    }

    /// The request's head as it was sent, if it isn't gone.
    pub fn take_head(&mut self) -> Option<Box<Parts>> {
        self.head.take().or_else(|| self.unsent.take().map(|(head, _)| head))
    }

    fn map<C>(self, f: impl FnOnce(B) -> C) -> SendFailure<C> {
        let Self { error, address, unsent, nothing_sent, head } = self;
        SendFailure { error, address, unsent: unsent.map(|(head, body)| (head, f(body))), nothing_sent, head }
    }
}

impl<B> SendFailure<Tracked<B>> {
    fn of_h1(failed: h1::Failed<B>, address: SocketAddr, head: Box<Parts>) -> Self {
        let h1::Failed { error, unsent, nothing_sent } = failed;
        let (unsent, head) = match unsent {
            Some(body) => (Some((head, body)), None),
            None => (None, Some(head)),
        };
        Self { error, address: Some(address), unsent, nothing_sent, head }
    }
}

impl<B> Noted for SendFailure<B> {
    fn note(&self, record: &mut Record) {
        self.error.note(record);
        if self.address.is_some() {
            record.outcome.upstream_addr = self.address;
        }
    }
}

#[cfg(test)]
mod tests;
