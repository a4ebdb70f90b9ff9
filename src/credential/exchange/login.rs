//! What a login needs of the exchange that it is for: the step that takes a refresh token,
//! what to ask for, a key of its own, and the end of it. How the human gets there is
//! [`login`](crate::credential::login)'s.

use std::sync::Arc;

use crate::{
    credential::{
        dpop::Prover,
        error::Fault,
        grant::{Grant, Login},
        sign::SigningKey,
        step::{DpopUse, Step},
    },
    primitives::{CredentialName, Fingerprint},
};

use super::{Exchange, Reached, check_kind};

/// The step of a credential that a login is for.
#[derive(Clone, Copy)]
pub(crate) struct LoginStep<'a> {
    pub(crate) number: usize,
    pub(crate) step: &'a Step,
    pub(crate) login: &'a Login,
}

impl Exchange {
    pub(crate) fn name(&self) -> &CredentialName {
        &self.spec.name
    }

    /// `None`: no human has to log in for this credential.
    pub(crate) fn login_step(&self) -> Option<LoginStep<'_>> {
        self.spec.steps.iter().enumerate().find_map(|(number, step)| match &step.grant {
            Grant::Login(login) => Some(LoginStep { number, step, login }),
            _another => None,
        })
    }

    /// What a login has to be for: the credential's scopes, and those of its routes.
    pub(crate) fn login_scopes(&self) -> impl Iterator<Item = &str> {
        let own = self.login_step().map(|login| &login.step.ask.scopes);
        let is_last = self.login_step().is_some_and(|login| login.number + 1 == self.spec.steps.len());
        let routes = self.spec.scopes.as_ref().filter(|_| is_last);
        own.into_iter().chain(routes).flatten().map(String::as_str)
    }

    /// A key for the life of a login: its refresh token is bound to it (RFC 9449 §5).
    pub(crate) fn fresh_prover(&self, step: &Step) -> Result<Option<Arc<Prover>>, Fault> {
        match step.dpop {
            DpopUse::Off => Ok(None),
            DpopUse::Preferred | DpopUse::Required => {
                let key = SigningKey::generate().map_err(Fault::key)?;
                Ok(Some(Arc::new(Prover::new(key, self.tools.clock.clone()))))
            }
        }
    }

    /// Judges what the server granted by the same rules as any token, and keeps the session.
    /// It is durable when this returns.
    pub(crate) async fn settle(
        &self,
        login: LoginStep<'_>,
        scopes: &[&str],
        reached: Reached,
    ) -> Result<Fingerprint, Fault> {
        let Reached { granted, prover, .. } = reached;
        self.check_scope(scopes, &granted)?;
        check_kind(granted.kind, login.step.dpop, prover.is_some()).map_err(Fault::protocol)?;
        self.begin(login.step, &granted, prover.as_ref()).await
    }

    /// Nothing that was got earlier is used any more.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        state.outputs.clear();
        state.forgotten += 1;
    }
}
