//! A refresh token's life (RFC 6749 §6, RFC 9700 §4.14): used by one at a time among all
//! processes, replaced on the disk before anybody sees what it brought, never used again once
//! its server refused it.
//!
//! ```text
//! lock -> read -> marker: "an exchange is under way" (durable) -> ask
//!   granted        the new token, the marker gone (durable) -> the access token may be seen
//!   no answer      the same token once more, at once (B3)
//!   invalid_grant  a login is needed; with the marker of a broken exchange: and we say so
//!   never sent     the marker is taken back
//! ```

use std::{sync::Arc, time::Duration};

use crate::{
    credential::{
        digest,
        dpop::Prover,
        error::{Failure, Fault, LoginReason, Misbehaviour, Outage},
        grant::{Grant, Login},
        response::Granted,
        step::Step,
        vault::{Session, VaultError, key_text, session_key},
    },
    primitives::{CredentialName, Fingerprint, Secret},
};

use super::{Exchange, Output};

/// How often a rotated refresh token is written before the flight gives up for now.
const WRITES: u32 = 3;
const WRITE_PAUSE: Duration = Duration::from_millis(100);

impl Exchange {
    /// An access token by the refresh token.
    pub(super) async fn refresh(
        &self,
        number: usize,
        step: &Step,
        login: &Login,
        scopes: &[&str],
    ) -> Result<Output, Fault> {
        let owner = login.of.as_ref().unwrap_or(&self.spec.name);
        let _guard = self.tools.vault.lock(&session_key(owner), self.limits.lock).await.map_err(Fault::store)?;
        let mut session = self.session(owner, step, login).await?;
        let Some(refresh_token) = session.refresh_token.clone() else {
            return Err(Fault::login(session.reason()));
        };
        let now = self.tools.clock.unix_seconds();
        if session.end.is_some_and(|end| end <= now) {
            return Err(Fault::login(LoginReason::Expired));
        }
        let prover = self.session_prover(step, &mut session)?;
        let _exchanging = self.tools.exchanging();
        // Whoever finds this mark after a crash knows what may have become of the token.
        let mut doubtful = session.under_way.replace(refresh_token.fingerprint().to_string()).is_some();
        self.tools.vault.keep_session(owner, &session).await.map_err(Fault::store)?;
        let mut asked_again = false;
        loop {
            let given = std::slice::from_ref(&refresh_token);
            let fault = match self.ask(number, step, given, scopes, prover.clone()).await {
                Ok(reached) => {
                    session.rotate(&reached.granted, self.tools.clock.unix_seconds());
                    // B2: durable before anybody sees the access token.
                    self.save(owner, session).await?;
                    return self.output(step, scopes, reached);
                }
                Err(fault) => fault,
            };
            if is_unanswered(&fault) {
                doubtful = true;
                if !std::mem::replace(&mut asked_again, true) {
                    tracing::warn!(credential = %owner, "no answer to a refresh: the same refresh token once more");
                    continue;
                }
                return Err(fault);
            }
            return Err(self.refused(owner, session, fault, doubtful).await);
        }
    }

    /// What is kept, unless the operator has put in another refresh token.
    async fn session(&self, owner: &CredentialName, step: &Step, login: &Login) -> Result<Session, Fault> {
        if let Some(session) = self.tools.unsaved(owner) {
            self.save(owner, session).await?;
        }
        let identity = digest::owner(step);
        let kept = self.tools.vault.session(owner).await.map_err(Fault::store)?;
        let foreign = kept.as_ref().is_some_and(|kept| kept.owner != identity);
        if foreign && login.of.is_none() && login.seed.is_none() {
            // B6: it was issued by another server or for another client.
            tracing::warn!(credential = %owner, "the refresh token that is kept is for another server or client");
        }
        let kept = kept.filter(|kept| kept.owner == identity);
        let seed = match (&login.seed, &kept) {
            (None, _) => None,
            (Some(seed), kept) => match (self.tools.read(seed).await, kept) {
                (Ok(seed), _) => Some(seed),
                // The first refresh token may be gone once we have our own.
                (Err(_), Some(_)) => None,
                (Err(fault), None) => return Err(fault),
            },
        };
        match (seed, kept) {
            (Some(seed), Some(kept)) if kept.seed.as_deref() == Some(&*seed.fingerprint().to_string()) => Ok(kept),
            (Some(seed), kept) => {
                let generation = kept.map_or(0, |kept| kept.generation);
                Ok(Session::seeded(seed, identity, generation, self.tools.clock.unix_seconds()))
            }
            (None, Some(kept)) => Ok(kept),
            (None, None) => Err(Fault::login(LoginReason::Never)),
        }
    }

    /// RFC 9449 §5: a public client's refresh token is bound to the key it was issued with.
    fn session_prover(&self, step: &Step, session: &mut Session) -> Result<Option<Arc<Prover>>, Fault> {
        use crate::credential::step::DpopUse;
        match (&session.dpop_key, step.dpop) {
            (Some(key), _) => self.prover_of(key).map(Some),
            (None, DpopUse::Off) => Ok(None),
            (None, DpopUse::Preferred | DpopUse::Required) => {
                let prover = self.own_prover(step)?;
                session.dpop_key = prover.as_ref().and_then(|prover| prover.pkcs8()).map(|key| key_text(&key));
                Ok(prover)
            }
        }
    }

    /// Writes a session that must not be lost. What can't be written stays in memory, and the
    /// next flight begins with writing it.
    async fn save(&self, owner: &CredentialName, session: Session) -> Result<(), Fault> {
        let mut written = 0;
        loop {
            let Err(error) = self.tools.vault.keep_session(owner, &session).await else {
                self.tools.saved(owner);
                return Ok(());
            };
            written += 1;
            if written < WRITES && !matches!(error, VaultError::Abandoned) {
                tokio::time::sleep(WRITE_PAUSE).await;
                continue;
            }
            let reason = Failure::Store(error);
            tracing::error!(credential = %owner, "a rotated refresh token can't be written yet: {}", reason.describe());
            self.tools.keep_unsaved(owner, session);
            let Failure::Store(error) = reason else { return Err(Fault::login(LoginReason::Refused)) };
            return Err(Fault::store(error));
        }
    }

    /// The server answered, and it was no grant.
    async fn refused(&self, owner: &CredentialName, mut session: Session, fault: Fault, doubtful: bool) -> Fault {
        if fault.code() == Some("invalid_grant") {
            session.end(doubtful);
            let reason = session.reason();
            tracing::error!(credential = %owner, "a login is needed: {reason}; run `cupbearer login {owner}`");
            return match self.save(owner, session).await {
                Ok(()) => Fault::login(reason),
                Err(fault) => fault,
            };
        }
        if !doubtful && was_never_processed(&fault) {
            session.under_way = None;
            if let Err(error) = self.tools.vault.keep_session(owner, &session).await {
                return Fault::store(error);
            }
        }
        fault
    }

    /// What a login brought becomes the session, whatever was there. Durable when it returns.
    pub(super) async fn begin(
        &self,
        step: &Step,
        granted: &Granted,
        prover: Option<&Arc<Prover>>,
    ) -> Result<Fingerprint, Fault> {
        let owner = &self.spec.name;
        let Some(refresh_token) = granted.refresh_token.clone() else {
            return Err(Fault::protocol(Misbehaviour::Lacks("refresh_token")));
        };
        let fingerprint = refresh_token.fingerprint();
        let _guard = self.tools.vault.lock(&session_key(owner), self.limits.lock).await.map_err(Fault::store)?;
        let former = self.legible_session(owner).await?;
        let now = self.tools.clock.unix_seconds();
        // The grant that it begins with counts too.
        let generation = former.map_or(0, |former| former.generation);
        let mut session = Session::seeded(refresh_token, digest::owner(step), generation, now);
        session.rotate(granted, now);
        session.generation = generation + 1;
        session.seed = match &step.grant {
            Grant::Login(Login { seed: Some(seed), .. }) => {
                self.tools.read(seed).await.ok().map(|seed| seed.fingerprint().to_string())
            }
            _no_seed => None,
        };
        session.dpop_key = prover.and_then(|prover| prover.pkcs8()).map(|key| key_text(&key));
        self.save(owner, session).await?;
        Ok(fingerprint)
    }

    /// What is kept, for whoever replaces it: one that can't be read counts as none.
    pub(super) async fn legible_session(&self, owner: &CredentialName) -> Result<Option<Session>, Fault> {
        match self.tools.vault.session(owner).await {
            Err(VaultError::Damaged { .. }) => Ok(None),
            read => read.map_err(Fault::store),
        }
    }
}

/// The request may have been processed, and its answer is lost.
fn is_unanswered(fault: &Fault) -> bool {
    matches!(&fault.failure, Failure::Unavailable(Outage::Broken(_) | Outage::Slow(_)))
}

/// Nothing can have become of the refresh token.
fn was_never_processed(fault: &Fault) -> bool {
    match &fault.failure {
        Failure::Unavailable(Outage::Connect(_)) => true,
        // 429 comes before any work; a 5xx may come after it.
        Failure::Unavailable(Outage::Status(status) | Outage::Refused { status, .. }) => *status == 429,
        Failure::Refused { .. } | Failure::Source(_) | Failure::Key(_) | Failure::Certificate(_) => true,
        Failure::Protocol(_) | Failure::Settings(_) => false,
        _ => false,
    }
}

// === impl Session ===

impl Session {
    pub(crate) fn seeded(refresh_token: Secret, owner: String, generation: u64, now: u64) -> Self {
        Self {
            seed: Some(refresh_token.fingerprint().to_string()),
            refresh_token: Some(refresh_token),
            id_token: None,
            scope: None,
            dpop_key: None,
            generation: generation + 1,
            under_way: None,
            ended_ambiguously: false,
            owner,
            logged_in_at: now,
            refreshed_at: now,
            idle_end: None,
            end: None,
        }
    }

    /// B1: a new refresh token replaces the old one; none keeps it.
    fn rotate(&mut self, granted: &Granted, now: u64) {
        if let Some(refresh_token) = &granted.refresh_token {
            self.refresh_token = Some(refresh_token.clone());
            self.generation += 1;
        }
        if let Some(id_token) = &granted.id_token {
            self.id_token = Some(id_token.clone());
        }
        if let Some(scope) = &granted.scope {
            self.scope = Some(scope.clone());
        }
        let (idle, end) = granted.refresh_life;
        // What was said of the last refresh token doesn't count for this one.
        self.idle_end = idle.map(|idle| now.saturating_add(idle));
        self.end = end.map(|end| now.saturating_add(end)).or(self.end);
        self.refreshed_at = now;
        self.under_way = None;
        self.ended_ambiguously = false;
    }

    fn end(&mut self, doubtful: bool) {
        self.refresh_token = None;
        self.under_way = None;
        self.ended_ambiguously = doubtful;
    }

    fn reason(&self) -> LoginReason {
        if self.ended_ambiguously { LoginReason::Ambiguous } else { LoginReason::Refused }
    }
}
