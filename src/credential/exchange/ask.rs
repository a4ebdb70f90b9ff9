//! One question to an authorization server, with the single retries that the standards allow:
//! another nonce (a few times), another secret, another clock (each once a question).

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, StatusCode};
use reqwest::Url;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{
    credential::{
        client_auth::assertion::Occasion,
        dpop::{self, Prover},
        endpoint::Reply,
        error::{Failure, Fault, Misbehaviour, Outage},
        metadata::EndpointKind,
        request::TokenRequest,
        response::{self, Answer, Granted},
        step::Step,
    },
    primitives::Secret,
    tls::ClientIdentity,
};

use super::Exchange;

/// A grant, and how it was come by.
pub(crate) struct Reached {
    pub(crate) granted: Granted,
    /// Before the request was sent: the token's life counts from there (A9).
    pub(crate) started: Instant,
    pub(crate) unix_now: u64,
    pub(crate) prover: Option<Arc<Prover>>,
    pub(crate) identity: Option<Arc<ClientIdentity>>,
}

/// Attempts with another nonce: a server that takes the newest only may have handed out one
/// more, to another credential or process of ours, before ours came.
const MAX_NONCES: u32 = 4;

/// What was tried again already.
#[derive(Default)]
struct Tries {
    nonces: u32,
    clock: bool,
    secret: bool,
}

/// Where a question goes and who asks it.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) number: usize,
    pub(crate) step: &'a Step,
    pub(crate) kind: EndpointKind,
    pub(crate) scopes: &'a [&'a str],
    pub(crate) prover: Option<&'a Arc<Prover>>,
}

/// Writes a request, for each attempt anew.
pub(crate) type Make<'a> = dyn Fn() -> Result<TokenRequest, Fault> + Sync + 'a;

/// One exchange, read no further than its bytes.
pub(crate) struct Heard {
    pub(crate) reply: Reply,
    started: Instant,
    unix_now: u64,
    identity: Option<Arc<ClientIdentity>>,
    /// The server handed out another nonce than the one that was used.
    new_nonce: bool,
}

impl Exchange {
    /// Asks the token endpoint for what the step's grant says.
    pub(super) async fn ask(
        &self,
        number: usize,
        step: &Step,
        given: &[Secret],
        scopes: &[&str],
        prover: Option<Arc<Prover>>,
    ) -> Result<Reached, Fault> {
        let question = Question { number, step, kind: EndpointKind::Token, scopes, prover: prover.as_ref() };
        let make = || step.request(given, scopes).map_err(Fault::settings);
        self.ask_for_token(question, &make).await
    }

    /// Asks the token endpoint with a request of any kind.
    pub(crate) async fn ask_for_token(&self, question: Question<'_>, make: &Make<'_>) -> Result<Reached, Fault> {
        let format = &question.step.answer;
        let (granted, heard) = self
            .question(question, make, |heard, request, wall| response::read(&heard.answer(), format, request, wall))
            .await?;
        let Heard { started, unix_now, identity, .. } = heard;
        Ok(Reached { granted, started, unix_now, prover: question.prover.cloned(), identity })
    }

    /// Asks any endpoint that the client authenticates at. `make` writes the request anew for
    /// every attempt, `read` judges the answer.
    pub(crate) async fn question<T: Send>(
        &self,
        question: Question<'_>,
        make: &Make<'_>,
        read: impl Fn(&Heard, &TokenRequest, SystemTime) -> Result<T, Fault> + Send + Sync,
    ) -> Result<(T, Heard), Fault> {
        let Question { number, step, .. } = question;
        let endpoint = self.endpoint(number)?;
        let client = &step.client;
        let choices = client.auth.choices();
        let mut choice = self.tools.choice(endpoint.name(), client);
        let (mut tries, mut turn) = (Tries::default(), None);
        loop {
            let mut request = make()?;
            let (fault, heard) = match self.send(question, choice, &mut request).await {
                Err(fault) => (fault, None),
                Ok(heard) => match read(&heard, &request, self.tools.clock.now()) {
                    Ok(value) => {
                        self.tools.prefer(endpoint.name(), client, choice);
                        return Ok((value, heard));
                    }
                    Err(fault) => (fault, Some(heard)),
                },
            };
            let headers = heard.as_ref().map(|heard| &heard.reply.headers);
            if self.is_about_the_nonce(&fault, heard.as_ref()) && tries.nonces < MAX_NONCES {
                tries.nonces += 1;
                if turn.is_none() {
                    turn = endpoint.turn().await;
                }
                continue;
            }
            if self.is_about_the_clock(&fault, step, headers) && !std::mem::replace(&mut tries.clock, true) {
                continue;
            }
            if is_about_the_client(&fault, heard.as_ref(), client) {
                client.refused(&self.tools);
                if choices > 1 && !std::mem::replace(&mut tries.secret, true) {
                    choice = (choice + 1) % choices;
                    continue;
                }
            }
            if matches!(fault.failure, Failure::Protocol(_)) {
                endpoint.doubt();
            }
            return Err(fault);
        }
    }

    /// One exchange: signed and proved anew (E3, RFC 9449 §4.2).
    async fn send(&self, question: Question<'_>, choice: usize, request: &mut TokenRequest) -> Result<Heard, Fault> {
        let Question { number, step, kind, scopes, prover } = question;
        let endpoint = self.endpoint(number)?;
        let identity = step.client.auth.identity(choice).map(|files| self.tools.identity(files)).transpose()?;
        let url = endpoint.url(kind, identity.is_some()).await?;
        let token_endpoint = self.token_endpoint(number, &url, kind).await?;
        let occasion = Occasion {
            client: None,
            issuer: endpoint.issuer(),
            token_endpoint: token_endpoint.as_str(),
            endpoint: url.as_str(),
            scopes,
            now: self.drift.server_time(&*self.tools.clock),
        };
        step.client.sign(request, choice, &occasion, &self.tools).await?;
        if let Some(prover) = prover {
            let proof = prover.server_proof(request.method(), &url).map_err(Fault::key)?;
            request.header(dpop::FIELD, proof);
        }
        let (started, unix_now) = (Instant::now(), self.tools.clock.unix_seconds());
        let reply = endpoint.send(url.clone(), request, identity.as_ref()).await?;
        let new_nonce = prover.is_some_and(|prover| prover.learn_server(&url, &reply.headers));
        self.note_quota(&reply.headers);
        Ok(Heard { reply, started, unix_now, identity, new_nonce })
    }

    async fn token_endpoint(&self, number: usize, url: &Url, kind: EndpointKind) -> Result<Url, Fault> {
        match kind {
            EndpointKind::Token => Ok(url.clone()),
            _another => self.endpoint(number)?.url(EndpointKind::Token, false).await,
        }
    }

    fn is_about_the_nonce(&self, fault: &Fault, heard: Option<&Heard>) -> bool {
        fault.code() == Some("use_dpop_nonce") && heard.is_some_and(|heard| heard.new_nonce)
    }

    /// Our own assertion or proof was refused, and the server's `Date` says why.
    fn is_about_the_clock(&self, fault: &Fault, step: &Step, answer: Option<&HeaderMap>) -> bool {
        use crate::credential::{client_auth::ClientAuth, step::Input};
        let signs = matches!(step.client.auth, ClientAuth::PrivateKeyJwt(_) | ClientAuth::SecretJwt { .. });
        let asserts = step.grant.inputs().iter().any(|input| matches!(input, Input::Jwt(_)));
        let about = match fault.code() {
            Some("invalid_client") => signs,
            Some("invalid_grant") => asserts,
            Some("invalid_dpop_proof") => true,
            Some(_) | None => false,
        };
        about && answer.is_some_and(|answer| self.drift.learn(answer, &*self.tools.clock))
    }

    /// Auth0's quotas and rate limits, to be shown.
    fn note_quota(&self, answer: &HeaderMap) {
        const FIELDS: [&str; 5] = [
            "auth0-client-quota-limit",
            "auth0-organization-quota-limit",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
        ];
        let said = FIELDS.iter().filter_map(|name| {
            let value = answer.get(*name)?.to_str().ok()?;
            Some(format!("{name}: {}", value.chars().take(200).collect::<String>()))
        });
        let said: Vec<String> = said.collect();
        if !said.is_empty() {
            self.state().quota = Some(said.join("; "));
        }
    }
}

// === impl Heard ===

impl Heard {
    pub(crate) fn answer(&self) -> Answer<'_> {
        let Reply { status, headers, body, .. } = &self.reply;
        Answer { status: *status, headers, body }
    }

    /// Of an endpoint that gives no token. `Ok(None)`: a success with something else in it.
    pub(crate) fn json<T: DeserializeOwned>(
        &self,
        request: &TokenRequest,
        wall: SystemTime,
    ) -> Result<Option<T>, Fault> {
        if self.reply.status.is_success() {
            return Ok(serde_json::from_slice(&self.reply.body).ok());
        }
        Err(response::failed(&self.answer(), request, wall))
    }
}

/// The server doesn't take the client's secret, key or certificate. Not every server says so
/// by the book: a bare 401, a 403 with nothing in it, a handshake that breaks off.
fn is_about_the_client(fault: &Fault, heard: Option<&Heard>, client: &crate::credential::client_auth::Client) -> bool {
    let status = heard.map(|heard| heard.reply.status);
    match &fault.failure {
        Failure::Refused { code, .. } => code == "invalid_client" || status == Some(StatusCode::UNAUTHORIZED),
        Failure::Protocol(Misbehaviour::Status(401 | 403)) => true,
        Failure::Unavailable(Outage::Connect(_) | Outage::Broken(_)) => client.auth.identity(0).is_some(),
        _ => false,
    }
}
