//! The way out of the corridor: strip, inject last, send; once more where the
//! standards allow it (standards 3.6).

use std::sync::Arc;

use http::{Request, StatusCode, Version};
use tokio::time::Instant;

use crate::{
    credential::{Broker, Lease},
    observe::{Noted, Record, Traffic},
    policy::Permit,
    upstream::{self, Destination, Sent},
};

use super::{
    Error, Proxy, RequestBody,
    body::{self, Rewinder},
    challenge,
    error::BadRequest,
    headers,
    inbound::{self, Inbound},
    interim::InterimSink,
    spare::Spare,
};

impl Proxy {
    pub(super) async fn forward(
        &self,
        broker: &Broker,
        Prepared { outbound, request }: Prepared,
        permit: &Permit,
        lease: Lease,
        record: &mut Record,
    ) -> Result<Sent, Error> {
        let sent = self.send(permit, &outbound, &lease, request, record).await?;
        if !is_refused_token(&sent, &lease) {
            return Ok(sent);
        }
        // A 401 says that the request has not been applied (RFC 9110 §15.5.2): the one
        // licence to send a POST twice. The old answer is kept until a better one is sure.
        let Some(renewed) = renewed_lease(broker, permit, &lease).await else { return Ok(sent) };
        let Some(again) = outbound.again() else { return Ok(sent) };
        drop(sent);
        renewed.note(record);
        record.outcome.retried = true;
        self.send(permit, &outbound, &renewed, again, record).await
    }

    /// Makes of the agent's request what may leave. Nothing is injected yet: it comes before
    /// the lease, since no token is asked for a request that is refused (threat 102).
    pub(super) fn prepare(
        &self,
        inbound: Inbound<'_>,
        permit: &Permit,
        traffic: &Arc<Traffic>,
    ) -> Result<Prepared, Error> {
        let via = &self.shared.via;
        let reverse = inbound.is_reverse();
        let Inbound { arrival, mut parts, body, .. } = inbound;
        // HTTP/1.0 knows no interim answers.
        let interim = arrival.interim.filter(|_| parts.version == Version::HTTP_11).cloned();
        if permit.credential().is_some() && inbound::has_token_in_query(&parts.uri) {
            return Err(BadRequest::TokenInQuery.into());
        }
        headers::rewrite_request(&mut parts.headers, permit, via, parts.version, reverse)?;
        let settings = &self.shared.settings;
        let held = inbound::expects_continue(&parts.headers).then_some(settings.continue_timeout);
        let limits = body::Limits { replay: settings.replay_limit, idle: settings.request_idle_timeout };
        let body = RequestBody::new(body, traffic, limits, held);
        let rewinder = body.rewinder();
        parts.extensions.clear();
        let may_repeat = permit.credential().is_some() || parts.method.is_idempotent();
        let spare = may_repeat.then(|| Spare::of(&parts));
        let outbound = Outbound { spare, rewinder, interim };
        Ok(Prepared { outbound, request: Request::from_parts(parts, body) })
    }

    /// Sends one attempt; once more where nothing can have been applied, or where
    /// applying it twice is as good as once (RFC 9110 §9.2.2).
    async fn send(
        &self,
        permit: &Permit,
        outbound: &Outbound,
        lease: &Lease,
        request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<Sent, Error> {
        let started = Instant::now();
        let to = Destination { permit, without_interim: &|| outbound.rewinder.continued() };
        let mut sent = self.upstream.send(to, outbound.ready(request, lease)).await;
        if let Err(failure) = &sent
            && broke_off(&failure.error)
            && outbound.is_idempotent()
            && let Some(again) = outbound.again()
        {
            record.outcome.retried = true;
            sent = self.upstream.send(to, outbound.ready(again, lease)).await;
        }
        record.outcome.upstream_time = Some(started.elapsed());
        let sent = sent.map_err(|failure| {
            failure.note(record);
            match outbound.rewinder.broken() {
                Some(fault) => fault.into(),
                None => Error::Upstream(failure.error),
            }
        })?;
        if sent.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::UnaskedUpgrade);
        }
        Ok(sent)
    }
}

/// A request that may leave as soon as it has its token.
pub(super) struct Prepared {
    outbound: Outbound,
    request: Request<RequestBody>,
}

/// What stays behind of a request that was stripped of all that was the agent's
/// connection's, for the case that it has to be sent again.
struct Outbound {
    /// `None` where nothing allows a second attempt: no token that could be refused, and a
    /// method that may count twice.
    spare: Option<Spare>,
    rewinder: Rewinder,
    /// Where the upstream's interim answers go.
    interim: Option<InterimSink>,
}

impl Outbound {
    fn is_idempotent(&self) -> bool {
        self.spare.as_ref().is_some_and(|spare| spare.method().is_idempotent())
    }

    /// The request from its start, unless more of its body has passed than was kept.
    fn again(&self) -> Option<Request<RequestBody>> {
        let spare = self.spare.as_ref()?;
        Some(Request::from_parts(spare.head(), self.rewinder.rewind()?))
    }

    /// Puts in what an attempt needs.
    fn ready(&self, mut request: Request<RequestBody>, lease: &Lease) -> Request<RequestBody> {
        headers::inject(request.headers_mut(), lease.header());
        let body = request.body().rewinder();
        if !body.is_empty() || self.interim.is_some() {
            let interim = self.interim.clone();
            hyper::ext::on_informational(&mut request, move |answer| match (answer.status(), &interim) {
                (StatusCode::CONTINUE, _) => body.continued(),
                (_, None) => {}
                (status, Some(sink)) => {
                    let mut fields = answer.headers().clone();
                    headers::strip_response(&mut fields);
                    // An interim answer has no body; an agent that believes it had one would
                    // take the answer itself for it.
                    fields.remove(http::header::CONTENT_LENGTH);
                    sink.push(status, &fields);
                }
            });
        }
        request
    }
}

fn is_refused_token(sent: &Sent, lease: &Lease) -> bool {
    sent.response.status() == StatusCode::UNAUTHORIZED
        && lease.header().is_some()
        && challenge::refuses_token(sent.response.headers())
}

/// Another token than the refused one. Where there is none to be had, the upstream's
/// own 401 says more to the agent than our failure would.
async fn renewed_lease(broker: &Broker, permit: &Permit, refused: &Lease) -> Option<Lease> {
    match broker.renew(permit, refused).await {
        Ok(renewed) => renewed,
        Err(error) => {
            tracing::warn!(%error, "the upstream refused a token and no other could be got");
            None
        }
    }
}

/// The connection ended before an answer began; whether the request arrived is unknown.
fn broke_off(error: &upstream::Error) -> bool {
    match error {
        upstream::Error::Http(_) => true,
        upstream::Error::Dns { .. }
        | upstream::Error::NoAddress { .. }
        | upstream::Error::AddressNotAllowed { .. }
        | upstream::Error::Connect { .. }
        | upstream::Error::ConnectTimeout { .. }
        | upstream::Error::Tls { .. }
        | upstream::Error::ResponseTimeout { .. }
        | upstream::Error::Framing => false,
    }
}

impl Noted for Prepared {
    fn note(&self, _: &mut Record) {}
}

impl Noted for Sent {
    fn note(&self, record: &mut Record) {
        record.outcome.upstream_addr = Some(self.address);
        record.outcome.status = Some(self.response.status().as_u16());
    }
}
