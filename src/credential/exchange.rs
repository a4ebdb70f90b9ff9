//! Walks a credential's steps: inputs -> grant -> client authentication -> endpoint -> typed
//! outcome; and keeps what may be kept. Knows neither the cache nor who waits.
//!
//! ```text
//! obtain: the token's lock (all processes) -> one that another process left? -> walk -> keep
//! walk:   for each step: inputs -> ask (with the single retries that the standards allow)
//!         what an earlier step gave is used again while it is good
//! ```

mod ask;
mod ciba;
mod login;
mod poll;
mod revoke;
mod session;

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::primitives::{CredentialName, Secret};

use super::{
    Settings, Spec,
    cache::{Obtain, Obtained, Want},
    client_auth::assertion,
    digest,
    dpop::Prover,
    endpoint::Endpoint,
    error::{Failure, Fault, LoginReason, Misbehaviour, SettingsError},
    expiry,
    grant::{Grant, saml2_bearer},
    lease::Material,
    pace::chance,
    response::{Granted, TokenKind},
    sign::SigningKey,
    step::{DpopUse, Input, Step, Which},
    tools::{Drift, Neighbours, Tools, left},
    vault::{self, KeptToken, VaultError, key_bytes, key_text, token_key},
};

pub(crate) use ask::{Question, Reached};
pub(crate) use login::LoginStep;
pub(crate) use poll::Pending;
pub(crate) use revoke::Revocation;

/// After this a token that couldn't be replaced at a start is tried to be replaced again.
const RETRY: Duration = Duration::from_secs(30);

/// How one credential's token is got.
#[derive(Debug)]
pub(crate) struct Exchange {
    spec: Spec,
    /// By step.
    endpoints: Vec<Option<Arc<Endpoint>>>,
    limits: Limits,
    tools: Arc<Tools>,
    peers: Neighbours,
    state: Mutex<State>,
    drift: Drift,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    /// For a lock that another process may hold for one exchange.
    lock: Duration,
    /// What this process asks for ends with it.
    transient: bool,
}

#[derive(Debug, Default)]
struct State {
    /// How often all was forgotten: what was asked for before isn't kept.
    forgotten: u64,
    /// What earlier steps gave, while it is good.
    outputs: Vec<Option<Output>>,
    /// The key of a credential without a login.
    prover: Option<Arc<Prover>>,
    /// What the server said of its limits, last.
    quota: Option<String>,
}

/// What a step gave.
#[derive(Clone, Debug)]
struct Output {
    token: Secret,
    kind: TokenKind,
    scope: Option<String>,
    extra: Vec<(String, String)>,
    prover: Option<Arc<Prover>>,
    identity: Option<Arc<crate::tls::ClientIdentity>>,
    started: Instant,
    life: Duration,
}

impl Exchange {
    /// Refuses a spec whose requests can't be written, before the first is needed.
    pub(crate) fn new(
        spec: Spec,
        endpoints: Vec<Option<Arc<Endpoint>>>,
        settings: &Settings,
        tools: Arc<Tools>,
        peers: Neighbours,
    ) -> Result<Self, SettingsError> {
        if spec.steps.is_empty() {
            return Err(SettingsError::NoSteps);
        }
        for step in &spec.steps {
            let anything = Secret::new("x".to_owned());
            let scopes: Vec<&str> = step.ask.scopes.iter().map(String::as_str).collect();
            step.request(&[anything.clone(), anything], &scopes)?;
        }
        // Another process has the lock for its own exchange, with its retries.
        let lock = settings.exchange_timeout.saturating_mul(3);
        let limits = Limits { lock, transient: settings.transient };
        Ok(Self { spec, endpoints, limits, tools, peers, state: Mutex::default(), drift: Drift::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(&self, want: &Want) -> Result<Obtained, Fault> {
        if self.spec.is_local() || want.subject.is_some() {
            return self.walk(want).await.and_then(|output| self.finished(output));
        }
        let key = token_key(&digest::token(&self.spec, &want.more_scopes));
        let _guard = self.tools.vault.lock(&key, self.limits.lock).await.map_err(Fault::store)?;
        let kept = self.tools.vault.token(&key).await.map_err(Fault::store)?;
        // One that is due to be replaced is good until it ends, should no other be got.
        let kept = match kept.and_then(|kept| self.revived(kept, want)) {
            Some(kept) if Instant::now() < kept.refresh_at => return Ok(kept),
            kept => kept,
        };
        let forgotten = self.state().forgotten;
        let obtained = match (self.walk(want).await.and_then(|output| self.finished(output)), kept) {
            (Ok(obtained), _) => obtained,
            (Err(fault), None) => return Err(fault),
            (Err(fault), Some(kept)) => {
                let reason = fault.failure.describe();
                tracing::warn!(credential = %self.spec.name, "the token of the last start stays in use: {reason}");
                return Ok(Obtained { refresh_at: (Instant::now() + RETRY).min(kept.expires_at), ..kept });
            }
        };
        let ends_here = self.limits.transient && self.is_revocable().await;
        if !ends_here && self.state().forgotten == forgotten {
            self.keep(&key, &obtained).await;
        }
        Ok(obtained)
    }

    /// A token that another process, or this one before it was started again, has left.
    fn revived(&self, kept: KeptToken, want: &Want) -> Option<Obtained> {
        let fingerprint = kept.token.fingerprint();
        let known = want.fresh || want.have == Some(fingerprint) || want.refused == Some(fingerprint);
        let now = self.tools.clock.now();
        let at = |unix_milliseconds| left(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_milliseconds), now);
        let (refresh, usable) = (at(kept.refresh_at), at(kept.expires_at));
        if known || usable.is_zero() {
            return None;
        }
        let prover = kept.dpop_key.as_ref().map(|key| self.prover_of(key)).transpose().ok()?;
        let identity = self.current_identity().ok()?;
        if kept.certificate.as_deref() != identity.as_ref().map(|identity| identity.thumbprint()) {
            return None;
        }
        if let Some(prover) = &prover {
            self.state().prover.get_or_insert_with(|| prover.clone());
        }
        let started = Instant::now();
        let material = Material {
            secret: kept.token,
            kind: if kept.dpop { TokenKind::Dpop } else { TokenKind::Bearer },
            prover,
            identity,
            scope: kept.scope,
            extra: kept.extra,
            minted: false,
        };
        Some(Obtained { material, refresh_at: started + refresh, expires_at: started + usable })
    }

    /// The identity that tokens of this credential are bound to, if they are.
    fn current_identity(&self) -> Result<Option<Arc<crate::tls::ClientIdentity>>, Fault> {
        let (Some(step), Some(Some(endpoint))) = (self.spec.steps.last(), self.endpoints.last()) else {
            return Ok(None);
        };
        if !step.client.auth.binds_tokens() {
            return Ok(None);
        }
        let choice = self.tools.choice(endpoint.name(), &step.client);
        step.client.auth.identity(choice).map(|files| self.tools.identity(files)).transpose()
    }

    /// A token that isn't kept only costs another one after the next start: no reason to
    /// refuse the request that waits for it.
    async fn keep(&self, key: &super::store::Key, obtained: &Obtained) {
        let _exchanging = self.tools.exchanging();
        let now = (Instant::now(), self.tools.clock.now());
        let wall = |at: Instant| {
            let at = now.1 + at.saturating_duration_since(now.0);
            at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
        };
        let material = &obtained.material;
        let bound = material.prover.as_ref().filter(|_| material.kind == TokenKind::Dpop);
        let kept = KeptToken {
            credential: self.spec.name.to_string(),
            token: material.secret.clone(),
            dpop: bound.is_some(),
            scope: material.scope.clone(),
            extra: material.extra.clone(),
            refresh_at: wall(obtained.refresh_at),
            expires_at: wall(obtained.expires_at),
            dpop_key: bound.and_then(|prover| prover.pkcs8()).map(|pkcs8| key_text(&pkcs8)),
            certificate: material.identity.as_ref().map(|identity| identity.thumbprint().to_owned()),
        };
        if let Err(error) = self.tools.vault.keep_token(key, &kept).await {
            let error = Failure::Store(error).describe();
            tracing::warn!(credential = %self.spec.name, "the access token isn't kept for the next start: {error}");
        }
    }

    /// The last step's output as a token for requests.
    fn finished(&self, output: Output) -> Result<Obtained, Fault> {
        if output.kind == TokenKind::NotApplicable {
            return Err(Fault::protocol(Misbehaviour::NotForRequests));
        }
        let window = expiry::window(output.life, chance());
        let binds = self.spec.steps.last().is_some_and(|step| step.client.auth.binds_tokens());
        let material = Material {
            secret: output.token,
            kind: output.kind,
            prover: output.prover,
            identity: output.identity.filter(|_| binds),
            scope: output.scope,
            extra: output.extra,
            minted: true,
        };
        let started = output.started;
        Ok(Obtained { material, refresh_at: started + window.refresh, expires_at: started + window.usable })
    }

    async fn walk(&self, want: &Want) -> Result<Output, Fault> {
        let mut fresh = want.fresh;
        let mut spent = Vec::new();
        let forgotten = self.state().forgotten;
        loop {
            let (done, mut previous) = self.resume(fresh);
            let mut earlier = Earlier { used: done > 0, refused: &spent, spent: Vec::new() };
            let mut outcome = Err(Fault::settings(SettingsError::NoSteps));
            for (number, step) in self.spec.steps.iter().enumerate().skip(done) {
                outcome = self.take(number, step, previous.as_ref(), want, &mut earlier).await;
                match &outcome {
                    Ok(output) => {
                        self.remember(number, output, forgotten);
                        previous = Some(output.clone());
                    }
                    Err(_) => break,
                }
            }
            match outcome {
                // The server doesn't take what was got earlier: a fresh one, once (standards 1.A).
                Err(fault) if earlier.used && !fresh && fault.code() == Some("invalid_grant") => {
                    fresh = true;
                    spent = earlier.spent;
                }
                outcome => return outcome,
            }
        }
    }

    /// How many steps needn't be taken again, and what the last of them gave.
    fn resume(&self, fresh: bool) -> (usize, Option<Output>) {
        let mut state = self.state();
        if fresh {
            state.outputs.clear();
        }
        let now = Instant::now();
        let good = |output: &&Output| now + Duration::from_secs(5) < output.started + output.life;
        let last = state.outputs.iter().rposition(|output| output.as_ref().filter(good).is_some());
        match last {
            Some(last) => (last + 1, state.outputs[last].clone()),
            None => (0, None),
        }
    }

    /// The last step's output is the slot's to keep.
    fn remember(&self, number: usize, output: &Output, forgotten: u64) {
        let mut state = self.state();
        if number + 1 < self.spec.steps.len() && state.forgotten == forgotten {
            state.outputs.resize(self.spec.steps.len(), None);
            state.outputs[number] = Some(output.clone());
        }
    }

    /// One step.
    async fn take(
        &self,
        number: usize,
        step: &Step,
        previous: Option<&Output>,
        want: &Want,
        earlier: &mut Earlier<'_>,
    ) -> Result<Output, Fault> {
        let scopes = self.scopes(number, want);
        match &step.grant {
            Grant::Static { token, .. } => {
                let token = self.tools.read(token).await?;
                Ok(Output::local(token, self.spec.default_ttl))
            }
            Grant::SelfSignedJwt(made) => {
                let occasion = self.nowhere(&scopes);
                let token = assertion::made(made, 0, &occasion, &self.tools).await?;
                Ok(Output::local(token, made.lifetime))
            }
            Grant::Login(login) => self.refresh(number, step, login, &scopes).await,
            Grant::Ciba(ciba) => self.approved(number, step, ciba, &scopes).await,
            Grant::Saml2Bearer(grant) => {
                let assertion = self.saml_assertion(&grant.assertion).await?;
                let reached = self.ask(number, step, &[assertion], &scopes, None).await?;
                self.output(step, &scopes, reached)
            }
            Grant::ClientCredentials | Grant::TokenExchange(_) | Grant::JwtBearer(_) | Grant::Http(_) => {
                let mut given = Vec::new();
                let mut subject_end = None;
                for input in step.grant.inputs() {
                    given.push(self.input(number, step, input, previous, want, earlier).await?);
                    if let (Input::Agent, Some(subject)) = (input, &want.subject) {
                        let unix_now = self.tools.clock.unix_seconds();
                        subject_end = expiry::jwt_life(subject.expose(), unix_now);
                    }
                }
                let prover = self.own_prover(step)?;
                let reached = self.ask(number, step, &given, &scopes, prover).await?;
                let mut output = self.output(step, &scopes, reached)?;
                // What was got for a subject isn't used longer than the subject is good.
                output.life = subject_end.map_or(output.life, |end| output.life.min(end));
                Ok(output)
            }
        }
    }

    /// Scopes of this step: the route's for the last one, and what was added by step-up.
    fn scopes<'a>(&'a self, number: usize, want: &'a Want) -> Vec<&'a str> {
        let step = &self.spec.steps[number];
        let last = number + 1 == self.spec.steps.len();
        let base = match &self.spec.scopes {
            Some(scopes) if last => scopes,
            // A refresh without scopes keeps those of the login (RFC 6749 §6).
            Some(_) | None if step.grant.begins_with_a_login() && want.more_scopes.is_empty() => return Vec::new(),
            Some(_) | None => &step.ask.scopes,
        };
        let more = want.more_scopes.iter().filter(|more| last && !base.contains(more));
        base.iter().chain(more).map(String::as_str).collect()
    }

    /// What a grant feeds on.
    async fn input(
        &self,
        number: usize,
        step: &Step,
        input: &Input,
        previous: Option<&Output>,
        want: &Want,
        earlier: &mut Earlier<'_>,
    ) -> Result<Secret, Fault> {
        match input {
            Input::Source(source) => self.tools.read(source).await,
            Input::Previous => {
                previous.map(|output| output.token.clone()).ok_or_else(|| Fault::settings(SettingsError::NoInput))
            }
            Input::Agent => want.subject.clone().ok_or_else(|| Fault::settings(SettingsError::NoInput)),
            Input::Jwt(made) => {
                let scopes = self.scopes(number, want);
                let endpoint = self.endpoint(number)?;
                let url = endpoint.url(super::metadata::EndpointKind::Token, false).await?;
                let occasion = assertion::Occasion {
                    client: (!step.client.id.is_empty()).then_some(step.client.id.as_str()),
                    issuer: endpoint.issuer(),
                    token_endpoint: url.as_str(),
                    endpoint: url.as_str(),
                    scopes: &scopes,
                    now: self.drift.server_time(&*self.tools.clock),
                };
                assertion::made(made, 0, &occasion, &self.tools).await
            }
            Input::Credential { name, which } => {
                let peers = self.peers.get().and_then(std::sync::Weak::upgrade);
                let peers = peers.ok_or_else(|| Fault::settings(SettingsError::UnknownCredential))?;
                let refused = earlier.refused.iter().find(|(spent, _)| spent == name).map(|(_, token)| token);
                let token = peers.token(name, refused).await.map_err(Fault::feed)?;
                earlier.used = true;
                earlier.spent.push((name.clone(), token.clone()));
                match which {
                    Which::AccessToken => Ok(token),
                    Which::RefreshToken | Which::IdToken => {
                        let session = self.tools.vault.session(name).await.map_err(Fault::store)?;
                        let held = session.and_then(|session| match which {
                            Which::RefreshToken => session.refresh_token,
                            Which::AccessToken | Which::IdToken => session.id_token,
                        });
                        held.ok_or_else(|| Fault::login(LoginReason::Never))
                    }
                }
            }
        }
    }

    /// E7: an assertion that has ended is asked for again, and not sent.
    async fn saml_assertion(&self, source: &super::Source) -> Result<Secret, Fault> {
        for _ in 0..2 {
            let assertion = self.tools.read(source).await?;
            match saml2_bearer::time_left(&assertion, self.tools.clock.now()) {
                Some(left) if left.is_zero() => self.tools.forget(source),
                Some(_) | None => return Ok(assertion),
            }
        }
        Err(Fault::settings(SettingsError::ExpiredAssertion))
    }

    /// What was granted, checked against what was asked for.
    fn output(&self, step: &Step, scopes: &[&str], reached: Reached) -> Result<Output, Fault> {
        let Reached { granted, started, unix_now, prover, identity } = reached;
        self.check_scope(scopes, &granted)?;
        if let Grant::TokenExchange(exchange) = &step.grant {
            exchange.check(granted.issued_token_type.as_deref()).map_err(Fault::protocol)?;
        }
        check_kind(granted.kind, step.dpop, prover.is_some()).map_err(Fault::protocol)?;
        let wall = self.tools.clock.now();
        let ends = granted.life.expires_at.map(|end| left(end, wall));
        let expires_in = granted.life.expires_in.as_ref();
        let life = match ends {
            Some(left) => expiry::bounded(left),
            None => expiry::life(expires_in, granted.token.expose(), unix_now, self.spec.default_ttl),
        };
        let Granted { token, kind, scope, extra, .. } = granted;
        Ok(Output { token, kind, scope, extra, prover, identity, started, life })
    }

    /// A8: less than was asked for fails, more is warned about. What wasn't asked for at all
    /// is the server's default and can't be compared.
    fn check_scope(&self, asked: &[&str], granted: &Granted) -> Result<(), Fault> {
        let asked: BTreeSet<&str> = asked.iter().flat_map(|scope| scope.split(' ')).collect();
        let (false, Some(scope)) = (asked.is_empty(), &granted.scope) else { return Ok(()) };
        let got: BTreeSet<&str> = scope.split([' ', ',']).filter(|scope| !scope.is_empty()).collect();
        let list = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| {
            let names: Vec<&str> = a.difference(b).copied().collect();
            names.join(" ").chars().filter(|char| !char.is_control()).take(200).collect::<String>()
        };
        // Names of what else was asked for at a login, which no server counts as granted.
        let missing: BTreeSet<&str> =
            asked.difference(&got).copied().filter(|scope| !matches!(*scope, "openid" | "offline_access")).collect();
        if !missing.is_empty() {
            return Err(Fault::protocol(Misbehaviour::ScopeNarrower { missing: list(&missing, &got) }));
        }
        let extra = list(&got, &asked);
        if !extra.is_empty() {
            if self.spec.strict_scopes {
                return Err(Fault::protocol(Misbehaviour::ScopeWider { extra }));
            }
            tracing::warn!(credential = %self.spec.name, %extra, "the server granted scopes that weren't asked for");
        }
        Ok(())
    }

    /// The key that this credential's tokens are bound to; `None`: they aren't.
    fn own_prover(&self, step: &Step) -> Result<Option<Arc<Prover>>, Fault> {
        if step.dpop == DpopUse::Off {
            return Ok(None);
        }
        let mut state = self.state();
        if let Some(prover) = &state.prover {
            return Ok(Some(prover.clone()));
        }
        let key = SigningKey::generate().map_err(Fault::key)?;
        let prover = Arc::new(Prover::new(key, self.tools.clock.clone()));
        state.prover = Some(prover.clone());
        Ok(Some(prover))
    }

    /// The same key is the same prover: it knows the nonces.
    fn prover_of(&self, key: &Secret) -> Result<Arc<Prover>, Fault> {
        let unusable = || Fault::store(VaultError::Damaged { key: vault::session_key(&self.spec.name) });
        let bytes = key_bytes(key).ok_or_else(unusable)?;
        let key = SigningKey::from_pkcs8(&bytes, None).map_err(Fault::key)?;
        let mut state = self.state();
        match &state.prover {
            Some(known) if Some(known.thumbprint()) == key.thumbprint() => Ok(known.clone()),
            Some(_) | None => {
                let prover = Arc::new(Prover::new(key, self.tools.clock.clone()));
                state.prover = Some(prover.clone());
                Ok(prover)
            }
        }
    }

    pub(crate) fn endpoint(&self, number: usize) -> Result<&Arc<Endpoint>, Fault> {
        let endpoint = self.endpoints.get(number).and_then(Option::as_ref);
        endpoint.ok_or_else(|| Fault::settings(SettingsError::NoInput))
    }

    fn nowhere<'a>(&self, scopes: &'a [&'a str]) -> assertion::Occasion<'a> {
        let now = self.tools.clock.unix_seconds();
        assertion::Occasion { client: None, issuer: None, token_endpoint: "", endpoint: "", scopes, now }
    }
}

/// A token that isn't bound though it has to be, or is though no proof was sent.
fn check_kind(kind: TokenKind, dpop: DpopUse, proved: bool) -> Result<(), Misbehaviour> {
    match (kind, dpop, proved) {
        (TokenKind::Bearer, DpopUse::Required, _) => Err(Misbehaviour::Downgrade),
        (TokenKind::Dpop, _, false) => Err(Misbehaviour::UnaskedDpop),
        (TokenKind::Bearer | TokenKind::Dpop | TokenKind::NotApplicable, _, _) => Ok(()),
    }
}

/// What a walk took that was got before it.
struct Earlier<'w> {
    used: bool,
    /// Other credentials' tokens that the last walk used in vain.
    refused: &'w [(CredentialName, Secret)],
    spent: Vec<(CredentialName, Secret)>,
}

impl Output {
    /// A token that no server gave.
    fn local(token: Secret, life: Duration) -> Self {
        let started = Instant::now();
        Self {
            token,
            kind: TokenKind::Bearer,
            scope: None,
            extra: Vec::new(),
            prover: None,
            identity: None,
            started,
            life,
        }
    }
}

impl Obtain for Exchange {
    fn obtain<'a>(&'a self, want: &'a Want) -> Pin<Box<dyn Future<Output = Result<Obtained, Fault>> + Send + 'a>> {
        Box::pin(self.get(want))
    }

    fn quota(&self) -> Option<String> {
        self.state().quota.clone()
    }

    fn revoke<'a>(&'a self, token: &'a Secret) -> Pin<Box<dyn Future<Output = Result<bool, Fault>> + Send + 'a>> {
        Box::pin(self.revoke_access_token(token))
    }

    fn has_login(&self) -> bool {
        self.spec.steps.iter().any(|step| matches!(step.grant, Grant::Login(_)))
    }
}

/// For the sweep of what nobody will ask for again.
pub(crate) async fn sweep(vault: &vault::Vault, now: SystemTime) {
    if let Err(error) = vault.sweep(now).await {
        tracing::warn!("old tokens can't be removed from the store: {}", Failure::Store(error).describe());
    }
}
