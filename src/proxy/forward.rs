//! The way out of the corridor: strip, inject last, send; once more where the
//! standards allow it (standards 3.6).

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Version,
    header::{CONTENT_TYPE, EXPECT},
    request::Parts,
};
use tokio::time::Instant;

use crate::{
    credential::{self, Asking, Broker, Lease, Recipient},
    http1::{Fault, used},
    observe::{Noted, Record},
    policy::Permit,
    primitives::{Fingerprint, RequestId, Secret, boxed},
    upstream::{self, Destination, Sent},
};

use super::{
    Error, Proxy, RequestBody, Rules,
    body::{self, Rewinder},
    error::BadRequest,
    headers,
    inbound::{self, Inbound},
    interim::InterimSink,
    marks::Mark,
    recover::{self, Remedy, Tries},
    scrub::{self, Screening},
    spare::Original,
    turn::Turn,
    upgrade::Upgrade,
};

impl Proxy {
    pub(super) async fn forward(
        &self,
        broker: &Broker,
        (outbound, request): (&mut Outbound<'_>, Leaving),
        permit: &Permit<'_>,
        (lease, mut now): (Lease, Instant),
        record: &mut Record,
    ) -> Result<Answered, Error> {
        let turn = Turn::of(&lease);
        if lease.is_bound_to_key() {
            turn.begin(&lease, &outbound.recipient(permit)).await;
            now = Instant::now();
        }
        let mut sent = self.send(permit, outbound, (&lease, &turn), (request, now), record).await?;
        if recover::may_call_for_a_remedy(permit, &sent) {
            // Boxed like all that few requests need: the others would carry room for it.
            return boxed(|| self.recover(broker, outbound, permit, (lease, turn), sent, record)).await;
        }
        if let Some(head) = sent.head.take() {
            used::give_head(head);
        }
        Ok(outbound.answered(sent, Screening::new(lease, permit, broker, record.id)))
    }

    /// What an answer calls for, as often as that helps.
    async fn recover(
        &self,
        broker: &Broker,
        outbound: &mut Outbound<'_>,
        permit: &Permit<'_>,
        (mut lease, turn): (Lease, Turn),
        mut sent: Sent,
        record: &mut Record,
    ) -> Result<Answered, Error> {
        let (mut tries, mut refused) = (Tries::default(), Vec::new());
        while recover::may_call_for_a_remedy(permit, &sent) {
            let (asking, large) = (outbound.asking(), &self.large_codings);
            let remedy = tries.remedy(broker, permit, asking, &lease, &mut sent, large).await?;
            let Some(remedy) = remedy else { break };
            // A refusal says that the request has not been applied (RFC 9110 §15.5.2): the one
            // licence to send a POST twice. The answer is kept until a better one is sure.
            let Some(again) = outbound.again(sent.head.take(), &lease) else { break };
            drop(sent);
            match remedy {
                Remedy::Other(other) => {
                    refused.push(std::mem::replace(&mut lease, other));
                    lease.note(record);
                }
                Remedy::SameToken { contested } => {
                    let to = outbound.recipient(permit);
                    if contested {
                        lease.take_turns(&to);
                    }
                    turn.begin(&lease, &to).await;
                }
            }
            record.outcome.retried = true;
            sent = self.send(permit, outbound, (&lease, &turn), (again, Instant::now()), record).await?;
        }
        let screening = Screening::new(lease, permit, broker, record.id);
        Ok(outbound.answered(sent, screening.map(|screening| screening.and_of(&refused))))
    }

    /// Makes of the agent's request what may leave. Nothing is injected yet: it comes before
    /// the lease, since no token is asked for a request that is refused (threat 102).
    pub(super) fn prepare<'a>(
        &self,
        rules: &'a Rules,
        inbound: Inbound<'a>,
        permit: &Permit<'_>,
        record: &Record,
    ) -> Result<Prepared<'a>, Error> {
        let via = &self.shared.via;
        let reverse = inbound.is_reverse();
        let upgrade = Upgrade::asked(&inbound, rules, permit.route())?;
        let Inbound { arrival, mut parts, body, marks, .. } = inbound;
        // Before it is stripped: the credential may exchange it (RFC 8693), by explicit opt-in.
        let subject = own_token(rules, permit, &parts.headers);
        // HTTP/1.0 knows no interim answers.
        let interim = arrival.interim.filter(|_| parts.version != Version::HTTP_10);
        if permit.credential().is_some() && inbound::has_token_in_query(&parts.uri) {
            return Err(BadRequest::TokenInQuery.into());
        }
        headers::rewrite_request((&mut parts.headers, marks), permit, via, parts.version, reverse)?;
        if let Some(upgrade) = &upgrade {
            upgrade.write(&mut parts.headers);
        }
        let settings = &self.shared.settings;
        let held = marks.has(Mark::EXPECT).then_some(settings.continue_timeout);
        let times = body::Times { idle: settings.request_idle_timeout, end: record.started + settings.total_timeout };
        let limits = body::Limits { replay: settings.replay_limit, times };
        let body = RequestBody::new(body, &record.traffic, limits, held);
        let rewinder = body.rewinder();
        parts.extensions.clear();
        let original = Original::of(&parts, marks, permit.credential().is_some());
        let length = http_body::Body::size_hint(&body).exact();
        let is_grpc =
            || parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let is_large = length.is_none_or(|length| length > settings.replay_limit as u64) && !is_grpc();
        let continue_timeout = settings.continue_timeout;
        let leak = Leak { broker: &rules.broker, request: record.id, told: Mutex::new(None) };
        let outbound = Outbound { original, rewinder, interim, leak, is_large, continue_timeout, upgrade, subject };
        Ok(Prepared { outbound, request: Leaving { head: parts, body } })
    }

    /// Sends one attempt; once more where nothing can have been applied, or where
    /// applying it twice is as good as once (RFC 9110 §9.2.2).
    async fn send(
        &self,
        permit: &Permit<'_>,
        outbound: &Outbound<'_>,
        (lease, turn): (&Lease, &Turn),
        (request, started): (Leaving, Instant),
        record: &mut Record,
    ) -> Result<Sent, Error> {
        let to = Destination {
            permit,
            now: started,
            before_h2: &|head| {
                outbound.rewinder.continued();
                outbound.original.keep(head, lease);
            },
            on_interim: &|status, fields| outbound.on_interim((lease, permit, turn), status, fields),
            identity: lease.identity(),
            h1_only: outbound.upgrade.is_some() || outbound.waits_for_a_nonce(lease),
        };
        let ready = outbound.ready(request, permit, lease)?;
        let mut sent = turn.during(pin!(self.upstream.send(to, ready))).await;
        if let Err(failure) = &mut sent
            && broke_off(&failure.error)
            && (failure.nothing_sent || outbound.is_idempotent())
            && let Some(again) = outbound.again(failure.take_head(), lease)
        {
            record.outcome.retried = true;
            let ready = outbound.ready(again, permit, lease)?;
            let to = Destination { now: Instant::now(), ..to };
            sent = boxed(|| self.upstream.send(to, ready)).await;
        }
        let arrived = sent.as_ref().map_or_else(|_| Instant::now(), |sent| sent.arrived);
        record.outcome.upstream_time = Some(arrived - started);
        let sent = sent.map_err(|failure| {
            failure.note(record);
            match outbound.rewinder.broken() {
                Some(fault) => fault.into(),
                None => Error::Upstream(failure.error),
            }
        })?;
        if lease.is_bound_to_key() {
            lease.learn(&outbound.recipient(permit), sent.response.headers());
        }
        outbound.check_switch(&sent, permit)?;
        Ok(sent)
    }
}

/// The upstream's answer.
pub(super) struct Answered {
    pub(super) sent: Sent,
    /// Where the token must not come back in it.
    pub(super) screening: Option<Screening>,
    /// It agrees to this.
    pub(super) switched: Option<Box<Upgrade>>,
}

/// A request on its way out.
pub(super) struct Leaving {
    head: Box<Parts>,
    body: RequestBody,
}

/// A request that may leave as soon as it has its token.
pub(super) struct Prepared<'a> {
    pub(super) outbound: Outbound<'a>,
    pub(super) request: Leaving,
}

/// What stays behind of a request that was stripped of all that was the agent's
/// connection's, for the case that it has to be sent again.
pub(super) struct Outbound<'a> {
    original: Original,
    rewinder: Rewinder,
    /// Where the upstream's interim answers go.
    interim: Option<&'a InterimSink>,
    leak: Leak<'a>,
    /// The body is more than is kept to be sent again, or may be.
    is_large: bool,
    continue_timeout: Duration,
    upgrade: Option<Box<Upgrade>>,
    /// The agent's own token, for a credential that exchanges it.
    subject: Option<Secret>,
}

/// Whom an interim answer that repeats the token is told to, once a token. The answer itself may
/// never come, or have another one.
struct Leak<'a> {
    broker: &'a Broker,
    request: RequestId,
    told: Mutex<Option<Fingerprint>>,
}

impl Leak<'_> {
    fn tell(&self, lease: &Lease) {
        let token = lease.token().map(|token| token.fingerprint);
        // Nothing panics while it is held.
        let told = std::mem::replace(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner), token);
        if told != token {
            scrub::tell(self.broker, lease, self.request, "an interim answer");
        }
    }
}

impl Outbound<'_> {
    pub(super) fn asking(&self) -> Asking<'_> {
        Asking { subject: self.subject.as_ref(), ..Asking::default() }
    }

    fn is_idempotent(&self) -> bool {
        self.original.method().is_idempotent()
    }

    /// The request from its start, unless more of its body has passed than was kept. `head`: as
    /// it was sent with `lease`, where it came back.
    fn again(&self, head: Option<Box<Parts>>, lease: &Lease) -> Option<Leaving> {
        Some(Leaving { head: self.original.again(head, lease)?, body: self.rewinder.rewind()? })
    }

    fn answered(&mut self, sent: Sent, screening: Option<Screening>) -> Answered {
        self.rewinder.answered();
        let is_switch = sent.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        Answered { sent, screening, switched: self.upgrade.take().filter(|_| is_switch) }
    }

    /// A 101 has to be one that was asked for, and nothing may pass for one (threat 65).
    fn check_switch(&self, sent: &Sent, permit: &Permit<'_>) -> Result<(), Error> {
        let (status, fields) = (sent.response.status(), sent.response.headers());
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let plainly = permit.credential().is_some_and(|credential| credential.scrub);
            let agreed = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.agrees(fields, plainly));
            return if agreed { Ok(()) } else { Err(Error::UnaskedUpgrade) };
        }
        match &self.upgrade {
            Some(upgrade) if upgrade.is_mistaken(status) => Err(Error::NotUpgraded),
            Some(_) | None => Ok(()),
        }
    }

    fn method(&self) -> &Method {
        self.original.method()
    }

    fn path(&self) -> &str {
        self.original.path()
    }

    fn recipient<'a>(&'a self, permit: &'a Permit<'_>) -> Recipient<'a> {
        recipient(permit, self.method(), self.path())
    }

    /// A server that wants another nonce says so before it has seen a body that can't be sent
    /// twice, if it is asked to: by `Expect`, which h2 servers hardly answer.
    fn waits_for_a_nonce(&self, lease: &Lease) -> bool {
        lease.is_bound_to_key() && self.is_large && !self.rewinder.is_empty()
    }

    /// An interim answer of the upstream's (RFC 9110 §15.2).
    fn on_interim(&self, (lease, permit, turn): (&Lease, &Permit<'_>, &Turn), status: StatusCode, fields: &HeaderMap) {
        if status == StatusCode::CONTINUE {
            // A server that wants the body has taken the proof.
            turn.end();
            return self.rewinder.continued();
        }
        // An agent would take a 101 for the answer itself (threat 65).
        let Some(sink) = self.interim.filter(|_| status != StatusCode::SWITCHING_PROTOCOLS) else { return };
        let mut fields = fields.clone();
        headers::strip_response(&mut fields);
        // An interim answer has no body; an agent that believes it had one would take the
        // answer itself for it.
        fields.remove(http::header::CONTENT_LENGTH);
        if scrub::clean_interim(lease, permit, &mut fields) {
            self.leak.tell(lease);
        }
        sink.push(status, &fields);
    }

    /// Puts in what an attempt needs; the token last of all.
    fn ready(
        &self,
        Leaving { mut head, body }: Leaving,
        permit: &Permit<'_>,
        lease: &Lease,
    ) -> Result<(Box<Parts>, RequestBody), Error> {
        if self.waits_for_a_nonce(lease) {
            head.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
            self.rewinder.hold(self.continue_timeout);
        }
        if lease.is_some() {
            headers::inject(&mut head.headers, lease, &self.recipient(permit))?;
        }
        Ok((head, body))
    }
}

/// The agent's own token, where the credential exchanges it. An agent's key for us, which may
/// stand in the same field, goes to no authorization server.
fn own_token(rules: &Rules, permit: &Permit<'_>, fields: &HeaderMap) -> Option<Secret> {
    if !rules.broker.exchanges_the_agents_token(permit) {
        return None;
    }
    credential::subject_of(fields).filter(|token| !rules.registry.knows(token))
}

/// Whom a request goes to, for its proof.
fn recipient<'a>(permit: &'a Permit<'_>, method: &'a Method, path: &'a str) -> Recipient<'a> {
    let htu_base = permit.credential().and_then(|binding| binding.htu_base.as_deref());
    Recipient { method, scheme: permit.scheme(), authority: permit.authority(), path, htu_base }
}

/// The connection ended before an answer began; whether the request arrived is unknown.
fn broke_off(error: &upstream::Error) -> bool {
    match error {
        upstream::Error::Http2(broken) => broken.is_broken_off(),
        upstream::Error::Http1(Fault::Closed | Fault::Io(_)) => true,
        upstream::Error::Dns { .. }
        | upstream::Error::NoAddress { .. }
        | upstream::Error::AddressNotAllowed { .. }
        | upstream::Error::Connect { .. }
        | upstream::Error::Parent(_)
        | upstream::Error::ConnectTimeout { .. }
        | upstream::Error::Tls { .. }
        | upstream::Error::ResponseTimeout { .. }
        | upstream::Error::Http1(
            Fault::Malformed | Fault::TooLarge | Fault::TargetTooLong | Fault::Length | Fault::Body(_),
        )
        | upstream::Error::Framing => false,
    }
}

impl Noted for Prepared<'_> {
    fn note(&self, _: &mut Record) {}
}

impl Noted for Answered {
    fn note(&self, record: &mut Record) {
        record.outcome.upstream_addr = Some(self.sent.address);
        record.outcome.status = Some(self.sent.response.status().as_u16());
    }
}
