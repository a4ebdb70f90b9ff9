//! Walks a credential's steps: grant -> client authentication -> endpoint -> typed outcome.
//! Knows neither the cache nor who waits.

use std::{collections::BTreeSet, future::Future, pin::Pin, sync::Arc};

use tokio::time::Instant;

use crate::primitives::Clock;

use super::{
    Spec,
    cache::{Obtain, Obtained},
    endpoint::Endpoint,
    error::{Failure, Fault, Misbehaviour, SettingsError},
    expiry,
    grant::Step,
    response::{self, Answer, Granted},
    source::Secrets,
};

/// How one credential's token is got.
#[derive(Debug)]
pub(crate) struct Exchange {
    spec: Spec,
    endpoint: Arc<Endpoint>,
    secrets: Arc<Secrets>,
    clock: Arc<dyn Clock>,
}

impl Exchange {
    /// Refuses a spec whose requests can't be written, before the first is needed.
    pub(crate) fn new(
        spec: Spec,
        endpoint: Arc<Endpoint>,
        secrets: Arc<Secrets>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SettingsError> {
        if spec.steps.is_empty() {
            return Err(SettingsError::NoSteps);
        }
        for step in &spec.steps {
            step.request()?;
        }
        Ok(Self { spec, endpoint, secrets, clock })
    }

    async fn walk(&self) -> Result<Obtained, Fault> {
        let mut last = Err(Fault::terminal(Failure::Settings(SettingsError::NoSteps)));
        for step in &self.spec.steps {
            last = Ok(self.take(step).await?);
        }
        last
    }

    async fn take(&self, step: &Step) -> Result<Obtained, Fault> {
        let url = self.endpoint.token_url().await?;
        let mut request = step.request().map_err(|error| Fault::terminal(Failure::Settings(error)))?;
        step.client().sign(&mut request, &self.secrets).await?;

        let (started, unix_now) = (Instant::now(), self.clock.unix_seconds());
        let reply = self.endpoint.post(url, &request).await?;
        let answer = Answer { status: reply.status, headers: &reply.headers, body: &reply.body };
        let granted =
            response::read(&answer, &request, self.clock.now()).inspect_err(|fault| match &fault.failure {
                Failure::Refused { code, .. } if code == "invalid_client" => step.client().refused(&self.secrets),
                Failure::Protocol(_) => self.endpoint.doubt(),
                _ => {}
            })?;
        self.check_scope(step, &granted)?;

        let default_ttl = self.spec.default_ttl;
        let life = expiry::life(granted.expires_in.as_ref(), granted.token.expose(), unix_now, default_ttl);
        Ok(Obtained { token: granted.token, scope: granted.scope, started, life })
    }

    /// A8: less than was asked for fails, more is warned about. What wasn't asked for at all
    /// is the server's default and can't be compared.
    fn check_scope(&self, step: &Step, granted: &Granted) -> Result<(), Fault> {
        let asked: BTreeSet<&str> = step.scopes().iter().flat_map(|scope| scope.split(' ')).collect();
        let (false, Some(scope)) = (asked.is_empty(), &granted.scope) else { return Ok(()) };
        let got: BTreeSet<&str> = scope.split(' ').filter(|scope| !scope.is_empty()).collect();
        let list = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| {
            let names: Vec<&str> = a.difference(b).copied().collect();
            names.join(" ").chars().filter(|char| !char.is_control()).take(200).collect::<String>()
        };
        if !got.is_superset(&asked) {
            return Err(Fault::protocol(Misbehaviour::ScopeNarrower { missing: list(&asked, &got) }));
        }
        if got.len() > asked.len() {
            let extra = list(&got, &asked);
            if self.spec.strict_scopes {
                return Err(Fault::protocol(Misbehaviour::ScopeWider { extra }));
            }
            tracing::warn!(credential = %self.spec.name, %extra, "the server granted scopes that weren't asked for");
        }
        Ok(())
    }
}

impl Obtain for Exchange {
    fn obtain(&self) -> Pin<Box<dyn Future<Output = Result<Obtained, Fault>> + Send + '_>> {
        Box::pin(self.walk())
    }
}
