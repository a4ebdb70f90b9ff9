//! The one function that every request passes through (house, law 1).

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{Method, StatusCode, Version, request::Parts};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use crate::{
    credential::{Asking, Broker},
    identity::{Agent, Evidence, Registry},
    observe::{Noted, Opening, Recorder, record::Protocol},
    policy::{self, Permit},
    primitives::{Authority, Clock, RequestId, RequestIds},
    route::{NoRoute, Table, Target},
    upstream::Client,
};

use super::{
    AgentRequest, Answer, Error, Guesses, Settings, Unmatched, Via,
    error::BadRequest,
    forward::{Answered, Prepared},
    inbound::{Arrival, Inbound, Ingress},
    open::{Open, Way},
    respond,
};

/// What decides: immutable, swapped whole on reload, loaded once a request.
#[derive(Debug)]
pub struct Rules {
    pub registry: Registry,
    pub routes: Table,
    pub broker: Broker,
    pub unmatched: Unmatched,
    /// Never reached by an agent through a blind tunnel (threat 37).
    pub authorization_servers: Vec<Authority>,
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    pub rules: ArcSwap<Rules>,
    /// Told after the rules were swapped, for what outlives its request.
    pub changed: watch::Sender<()>,
    pub recorder: Recorder,
    pub clock: Arc<dyn Clock>,
    pub ids: RequestIds,
    pub via: Via,
    pub settings: Settings,
    pub guesses: Guesses,
}

/// One worker's corridor, with its own way out.
#[derive(Debug)]
pub struct Proxy {
    pub(super) shared: Arc<Shared>,
    /// The shared one behind a count of its own: every request takes part in it, and workers
    /// that write to the same count wait for each other.
    pub(super) recorder: Arc<Recorder>,
    pub(super) upstream: Client,
    /// Answers in codings that take megabytes to undo: how many at once.
    pub(super) large_codings: Arc<Semaphore>,
}

/// What a stage came to: noted, and handed on where it is good. A macro, since a function would
/// have each stage's value moved into it and out of it again.
macro_rules! noted {
    ($record:ident, $stage:expr) => {
        match $stage {
            Ok(value) => {
                Noted::note(&value, $record);
                value
            }
            Err(error) => {
                let error = Error::from(error);
                Noted::note(&error, $record);
                return Err(error);
            }
        }
    };
}

/// Nobody asks for such a coding, so that it is the exception; at 16 MiB each.
const MOST_LARGE_CODINGS: usize = 16;

fn no_route(_: NoRoute, agent: &Agent, target: &Target) -> Error {
    policy::Refusal::no_route(agent, &target.authority).into()
}

impl Shared {
    /// From now on every request is judged by these, and every open tunnel once more.
    pub fn replace(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
        self.changed.send_replace(());
    }
}

impl Proxy {
    pub fn new(shared: Arc<Shared>, upstream: Client) -> Self {
        let recorder = Arc::new(shared.recorder.for_worker());
        Self { shared, recorder, upstream, large_codings: Arc::new(Semaphore::new(MOST_LARGE_CODINGS)) }
    }

    /// Answers a request of any door.
    pub async fn serve(&self, arrival: Arrival<'_>, request: AgentRequest) -> Answer {
        let rules = self.shared.rules.load_full();
        let answer = respond::Answering::to(&request.head);
        let mut open = self.open_record(arrival.ingress, &request.head);
        match self.run(&rules, arrival, request, &mut open).await {
            Ok(mut answered) => match answered.switched.take() {
                Some(upgrade) => answer.switch(*upgrade, answered, &self.shared, open),
                None => answer.pass_on(answered, self, open).into(),
            },
            Err(error) => answer.refuse(&error, open).into(),
        }
    }

    async fn run(
        &self,
        rules: &Rules,
        arrival: Arrival<'_>,
        request: AgentRequest,
        record: &mut Open,
    ) -> Result<Answered, Error> {
        let (inbound, permit) = self.permit(rules, arrival, request, record)?;
        // One look at the clock for all that takes no time.
        let mut now = record.started;
        noted!(record, rules.broker.off_limits(&permit, &inbound.target().path, &mut now).await);
        let Prepared { mut outbound, request } = noted!(record, self.prepare(rules, inbound, &permit, record));
        let asking = Asking { now: Some(now), ..outbound.asking() };
        let lease = noted!(record, rules.broker.lease(&permit, asking).await);
        now += lease.waited();
        let sent = self.forward(&rules.broker, (&mut outbound, request), &permit, (lease, now), record).await;
        record.note(sent)
    }

    /// Who asks, for what, and whether that is allowed. Waits for nothing, so that nothing of it
    /// lies in the request's future.
    fn permit<'a, 'r>(
        &self,
        rules: &'r Rules,
        arrival: Arrival<'a>,
        request: AgentRequest,
        record: &mut Open,
    ) -> Result<(Inbound<'a>, Permit<'r>), Error> {
        let settings = &self.shared.settings;
        let inbound = noted!(record, Inbound::normalise(arrival, &rules.routes, settings, request));
        let stranger = |unknown| self.shared.stranger(arrival.seat, inbound.evidence(), unknown);
        let agent = noted!(record, rules.registry.identify(inbound.evidence()).map_err(stranger));
        noted!(record, arrival.seat.take(agent, settings, record));
        let nowhere = |none| no_route(none, agent, inbound.target());
        let candidates = noted!(record, rules.routes.find(inbound.target()).map_err(nowhere));
        let permit = noted!(record, policy::decide(agent, &candidates, inbound.target()));
        Ok((inbound, permit))
    }

    /// Records what came as HTTP/1.1 and was refused with `status` before it was a request: of
    /// whom it is, only the tunnel that it came through can tell.
    pub fn record_unreadable(&self, ingress: &Ingress, status: StatusCode) -> RequestId {
        let mut open = self.open_record_of(ingress, None, Protocol::Http11);
        if let Ingress::Tunnel(tunnel) = ingress {
            let evidence = Evidence::Tunnel(&tunnel.identity);
            // A tunnel whose agent is gone from the rules is being cut.
            let rules = self.shared.rules.load();
            let _ = open.note(rules.registry.identify(evidence));
        }
        let (id, code) = (open.id, BadRequest::CODE);
        open.outcome.status = Some(status.as_u16());
        open.end(Some(code));
        id
    }

    pub(super) fn open_record(&self, ingress: &Ingress, head: &Parts) -> Open {
        let protocol = match head.version {
            Version::HTTP_2 => Protocol::Http2,
            Version::HTTP_10 => Protocol::Http10,
            _ => Protocol::Http11,
        };
        self.open_record_of(ingress, Some(head.method.clone()), protocol)
    }

    pub(super) fn open_record_of(&self, ingress: &Ingress, method: Option<Method>, protocol: Protocol) -> Open {
        let started = Instant::now();
        let record = Recorder::begin(Opening {
            id: self.shared.ids.next(),
            time: self.shared.clock.at(started),
            started,
            listener: ingress.listener(),
            method,
            // Whatever the request names, this is where it came through.
            authority: ingress.authority(),
            protocol,
        });
        let way = match ingress {
            Ingress::Tunnel(tunnel) => Way::Tunnel(Arc::clone(tunnel)),
            Ingress::Forward { .. } | Ingress::Reverse { .. } | Ingress::Socks { .. } => {
                Way::Door(Arc::clone(&self.recorder))
            }
        };
        Open::new(record, way)
    }
}
