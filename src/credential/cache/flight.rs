//! One way to a token, from the first attempt to the landing. Knows the slot it lands in
//! and nobody who waits there.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    credential::{
        error::{Failure, Fault, Misbehaviour, Retry},
        lease::Token,
    },
    observe::{Event, record::TokenEvent},
};

use super::{Landing, Obtained, Slot, Trouble, Want};

/// One way to a token, with its retries. A task of its own: whoever waits may leave. Dropped
/// before it landed (a panic, the end of the runtime), it leaves the slot free for the next.
pub(super) struct Flight {
    slot: Arc<Slot>,
    want: Want,
    result: watch::Sender<Landing>,
    /// Of the slot, at the departure.
    forgotten: u64,
    landed: bool,
}

impl Flight {
    pub(super) fn new(slot: Arc<Slot>, want: Want, result: watch::Sender<Landing>, forgotten: u64) -> Self {
        Self { slot, want, result, forgotten, landed: false }
    }

    pub(super) async fn run(mut self) {
        let shared = self.slot.shared.clone();
        let budget = shared.settings.exchange_timeout;
        let departed = Instant::now();
        let mut made = 0;
        let outcome = loop {
            let attempt = Instant::now();
            let fault = match self.slot.obtain.obtain(&self.want).await {
                Ok(obtained) => break self.arrive(obtained, attempt).map_err(|fault| (fault, attempt)),
                Err(fault) => fault,
            };
            made += 1;
            let Some(pause) = shared.pace.pause(made, fault.retry, departed.elapsed(), budget) else {
                break Err((fault, attempt));
            };
            self.report(&fault.failure, attempt, Some(pause));
            tokio::time::sleep(pause).await;
        };
        if let Err((fault, attempt)) = outcome {
            self.crash(fault, attempt);
        }
    }

    /// Publishes the token, wakes who waits, then tells the log.
    fn arrive(&mut self, obtained: Obtained, attempt: Instant) -> Result<(), Fault> {
        let slot = self.slot.clone();
        let Obtained { material, refresh_at, expires_at } = obtained;
        let times = (refresh_at, expires_at);
        let now = Instant::now();
        let mut inner = slot.state.lock();
        if inner.forgotten != self.forgotten {
            drop(inner);
            return Err(Fault::terminal(Failure::Abandoned));
        }
        let token = Token::new(slot.name.clone(), inner.generation + 1, material, &slot.injection, times);
        let Some(mut token) = token else {
            drop(inner);
            return Err(Fault::protocol(Misbehaviour::TokenCharacter));
        };
        token.more_scopes.clone_from(&self.want.more_scopes);
        let former = slot.state.token.load_full().or(inner.refused.clone());
        // The same again, good for longer: a static token that was read anew.
        let same = former.as_ref().filter(|former| former.is_same_as(&token));
        token.generation = same.map_or(token.generation, |same| same.generation);
        let is_new = same.is_none();
        inner.generation = token.generation;
        let token = Arc::new(token);
        let replaced = slot.state.token.swap(Some(token.clone()));
        if std::mem::take(&mut inner.forced) {
            inner.forced_at = Some(now);
        }
        inner.trouble = None;
        let leaked = inner.leaked.take();
        let refused = inner.refused.take();
        inner.flight = None;
        drop(inner);
        if let Some(refused) = refused.filter(|old| leaked == Some(old.fingerprint) && is_new) {
            slot.take_back(refused);
        }
        self.landed = true;
        self.result.send_replace(Some(Ok(token.clone())));
        if is_new {
            let renewed = replaced.is_some_and(|old| now < old.expires_at);
            self.tell(&token, renewed, attempt);
        }
        Ok(())
    }

    fn tell(&self, token: &Token, renewed: bool, attempt: Instant) {
        let shared = &self.slot.shared;
        let left = token.expires_at.saturating_duration_since(Instant::now());
        let event = TokenEvent {
            credential: token.credential.clone(),
            grant: self.slot.grant,
            fingerprint: token.fingerprint,
            generation: token.generation,
            expires_at: shared.clock.now() + left,
            duration: attempt.elapsed(),
        };
        shared.recorder.event(match (token.minted, renewed) {
            (false, _) => Event::TokenLoaded(event),
            (true, true) => Event::TokenRefreshed(event),
            (true, false) => Event::TokenIssued(event),
        });
    }

    /// No token: the slot rests, and everybody who waited hears the same.
    fn crash(&mut self, fault: Fault, attempt: Instant) {
        let slot = self.slot.clone();
        let mut inner = slot.state.lock();
        if inner.forgotten != self.forgotten {
            drop(inner);
            self.landed = true;
            self.result.send_replace(Some(Err(slot.error(fault.failure, None))));
            return;
        }
        let failures = inner.trouble.take().map_or(0, |trouble| trouble.failures).saturating_add(1);
        let rest = match fault.failure {
            // Costs nobody anything to look again: somebody may have logged in.
            Failure::LoginRequired(_) => slot.shared.pace.refusal.0,
            _ => slot.shared.pace.rest(failures, fault.retry),
        };
        let retry_after = (fault.retry != Retry::No).then_some(rest);
        let error = slot.error(fault.failure, retry_after);
        inner.trouble = Some(Trouble { error: error.clone(), until: Instant::now() + rest, failures });
        inner.flight = None;
        inner.forced = false;
        slot.state.restore(&mut inner);
        drop(inner);
        self.landed = true;
        self.result.send_replace(Some(Err(error.clone())));
        let reason = error.failure.describe();
        tracing::warn!(credential = %slot.name, failures, retry_in = ?rest, "no token: {reason}");
        self.report(&error.failure, attempt, Some(rest));
    }

    fn report(&self, failure: &Failure, attempt: Instant, retry_in: Option<Duration>) {
        let event = Event::TokenFailed {
            credential: self.slot.name.clone(),
            grant: self.slot.grant,
            error: failure.class(),
            detail: failure.detail(),
            duration: attempt.elapsed(),
            retry_in,
        };
        self.slot.shared.recorder.event(event);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            let mut inner = self.slot.state.lock();
            if inner.forgotten == self.forgotten {
                inner.flight = None;
                inner.forced = false;
                self.slot.state.restore(&mut inner);
            }
        }
    }
}
