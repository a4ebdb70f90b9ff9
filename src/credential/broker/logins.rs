//! Logins: how they begin, what can be told of them, how they end; and what ends with them.

use crate::{
    credential::{
        Error, LoginState, TokenState,
        error::Fault,
        exchange::Revocation,
        login::{self, LoggedOut},
    },
    observe::Event,
    primitives::CredentialName,
};

use super::{Broker, Place, fault};

impl Broker {
    /// A human logs in, as the credential's grant says. What the server gives for it is kept
    /// for good when this returns; nothing of a former login is used any more.
    pub async fn log_in(
        &self,
        name: &CredentialName,
        options: &login::Options,
        prompt: &dyn login::Prompt,
    ) -> Result<(), Error> {
        let owner = self.login_owner(name)?;
        let failed = |failure| fault(&owner, failure);
        let place = self.named(&owner)?;
        // A route with scopes of its own is a variant of the credential.
        let variants = self.0.places.iter().filter(|place| *place.slot.name() == owner);
        let mut scopes: Vec<&str> = Vec::new();
        for scope in variants.flat_map(|place| place.exchange.login_scopes()) {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        let fingerprint = login::log_in(&place.exchange, &scopes, options, prompt).await.map_err(failed)?;
        let grant = place.exchange.login_step().map_or("", |login| login.step.name());
        let event = Event::Login { credential: owner.clone(), grant, fingerprint };
        self.0.shared.recorder.event(event);
        self.forget(&owner).await
    }

    /// Whose login the credential uses: its own, or another one's.
    pub fn login_owner(&self, name: &CredentialName) -> Result<CredentialName, Error> {
        let owner = self.named(name)?.login.clone();
        owner.ok_or_else(|| fault(name, login::no_login()))
    }

    /// What is kept of the login that `name` uses; `None`: it needs none.
    pub async fn login_state(&self, name: &CredentialName) -> Result<Option<LoginState>, Error> {
        let place = self.named(name)?;
        let Some(owner) = &place.login else { return Ok(None) };
        let session = self.0.tools.vault.session(owner).await.map_err(|error| fault(name, Fault::store(error)))?;
        let now = self.0.shared.clock.unix_seconds();
        let ends_at = session.as_ref().and_then(|session| session.end.into_iter().chain(session.idle_end).min());
        let refresh_token = session.as_ref().and_then(|session| session.refresh_token.as_ref());
        let state = match (refresh_token, ends_at) {
            (None, _) => "needed",
            (Some(_), Some(end)) if end <= now => "expired",
            (Some(_), _) => "valid",
        };
        Ok(Some(LoginState {
            state,
            credential: owner.to_string(),
            generation: session.as_ref().map_or(0, |session| session.generation),
            fingerprint: refresh_token.map(|token| token.fingerprint().to_string()),
            scope: session.as_ref().and_then(|session| session.scope.clone()),
            logged_in_at: session.as_ref().map(|session| session.logged_in_at),
            refreshed_at: session.as_ref().map(|session| session.refreshed_at),
            ends_at,
        }))
    }

    /// All that can be told of each credential, its login too. What can't be read of a login
    /// is said as the last error.
    pub async fn told(&self) -> Vec<TokenState> {
        let mut told = Vec::with_capacity(self.0.places.len());
        for place in &self.0.places {
            let mut state = place.state();
            match self.login_state(place.slot.name()).await {
                Ok(login) => state.login = login,
                Err(error) => {
                    state.last_error.get_or_insert_with(|| error.failure.describe());
                }
            }
            told.push(state);
        }
        told
    }

    /// Revokes a login at its server and forgets it here, with every token that came of it,
    /// whatever the server says. An error means that it isn't forgotten.
    pub async fn log_out(&self, name: &CredentialName) -> Result<LoggedOut, Error> {
        let failed = |failure| fault(name, failure);
        let place = self.named(name)?;
        if place.login.is_none() {
            return Err(failed(login::no_login()));
        }
        let _ = place.slot.revoke().await;
        let revocation = place.exchange.log_out().await.map_err(failed)?;
        self.forget(name).await?;
        let revoked = matches!(revocation, Revocation::Done);
        self.0.shared.recorder.event(Event::Logout { credential: name.clone(), revoked });
        Ok(match revocation {
            Revocation::Done => LoggedOut::Revoked,
            Revocation::Nothing => LoggedOut::NothingToRevoke,
            Revocation::Unsupported => LoggedOut::Unsupported,
            Revocation::Failed(failure) => LoggedOut::NotRevoked(failed(failure)),
        })
    }

    /// No access token that there is of the credential is used any more, here or after the
    /// next start, nor of those that hang on it. The login itself stays.
    pub async fn forget(&self, name: &CredentialName) -> Result<(), Error> {
        let places = self.hanging_on(name);
        for place in &places {
            place.exchange.forget();
            place.slot.forget();
            place.subject_slots().iter().for_each(|slot| slot.forget());
        }
        let names: Vec<&CredentialName> = places.iter().map(|place| place.slot.name()).collect();
        let forgotten = self.0.tools.vault.forget_tokens(&names).await;
        forgotten.map_err(|error| fault(name, Fault::store(error)))
    }

    /// The credential, those that use its login or feed on its tokens, those that feed on
    /// them, and so on.
    fn hanging_on(&self, name: &CredentialName) -> Vec<&Place> {
        let mut found: Vec<&Place> = self.0.places.iter().filter(|place| place.slot.name() == name).collect();
        loop {
            let known = |place: &Place| found.iter().any(|found| std::ptr::eq(*found, place));
            let hangs = |place: &Place| {
                let mut on = place.login.iter().chain(&place.feeds_on);
                on.any(|on| found.iter().any(|found| found.slot.name() == on))
            };
            let more: Vec<&Place> = self.0.places.iter().filter(|place| !known(place) && hangs(place)).collect();
            if more.is_empty() {
                return found;
            }
            found.extend(more);
        }
    }
}
