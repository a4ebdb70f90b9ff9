//! What every exchange of a broker works with: secrets, the clock, what is kept on the disk,
//! the other credentials; and which of two secrets a server takes now.

use std::{
    collections::HashMap,
    fs,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use crate::{
    primitives::{Clock, CredentialName, Secret},
    tls::ClientIdentity,
};

use super::{
    Source,
    client_auth::{Client, IdentityFiles},
    error::{Error, Failure, Fault},
    source::Secrets,
    vault::{Session, Vault},
};

/// Longest drift of a server's clock that is believed.
const MAX_DRIFT: i64 = 300;

/// Shared by all credentials of a broker, and by the next broker after a reload.
#[derive(Debug)]
pub(crate) struct Tools {
    secrets: Secrets,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) vault: Vault,
    /// Which secret or key of a client its server took last.
    choices: Mutex<HashMap<String, usize>>,
    identities: Mutex<HashMap<IdentityFiles, (Stamp, Arc<ClientIdentity>)>>,
    /// Rotated refresh tokens that couldn't be written yet.
    unsaved: Mutex<HashMap<CredentialName, Session>>,
    /// How many exchanges an end of the process would lose something of now.
    exchanges: watch::Sender<usize>,
}

/// See [`Tools::exchanging`].
#[derive(Debug)]
pub(crate) struct Exchanging<'t>(&'t watch::Sender<usize>);

impl Drop for Exchanging<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|under_way| *under_way -= 1);
    }
}

/// When a pair of files was written.
type Stamp = [Option<SystemTime>; 2];

/// The other credentials, for those that feed on them.
pub(crate) trait Peers: std::fmt::Debug + Send + Sync {
    /// The access token of `name`, other than `refused`.
    fn token<'a>(&'a self, name: &'a CredentialName, refused: Option<&'a Secret>) -> TokenFuture<'a>;
}

pub(crate) type TokenFuture<'a> = Pin<Box<dyn Future<Output = Result<Secret, Error>> + Send + 'a>>;

/// Set once the broker is whole.
pub(crate) type Neighbours = Arc<OnceLock<std::sync::Weak<dyn Peers>>>;

impl Tools {
    pub(crate) fn new(clock: Arc<dyn Clock>, vault: Vault) -> Self {
        Self {
            secrets: Secrets::default(),
            clock,
            vault,
            choices: Mutex::default(),
            identities: Mutex::default(),
            unsaved: Mutex::default(),
            exchanges: watch::Sender::new(0),
        }
    }

    /// Held while a refresh token is at its server, or what came back isn't on the disk yet: a
    /// process that ends in between loses the login.
    pub(crate) fn exchanging(&self) -> Exchanging<'_> {
        self.exchanges.send_modify(|under_way| *under_way += 1);
        Exchanging(&self.exchanges)
    }

    /// Returns when an end loses nothing.
    pub(crate) async fn exchanged(&self) {
        // It can't fail: the sender is here.
        let _ = self.exchanges.subscribe().wait_for(|under_way| *under_way == 0).await;
    }

    pub(crate) async fn read(&self, source: &Source) -> Result<Secret, Fault> {
        self.secrets.read(source).await.map_err(|error| Fault::terminal(Failure::Source(error)))
    }

    /// What was kept of the secret is not used again.
    pub(crate) fn forget(&self, source: &Source) {
        self.secrets.forget(source);
    }

    /// Which secret of the client to try first.
    pub(crate) fn choice(&self, server: &str, client: &Client) -> usize {
        let choices = self.choices.lock().unwrap_or_else(PoisonError::into_inner);
        choices.get(&choice_key(server, client)).copied().unwrap_or(0).min(client.auth.choices().saturating_sub(1))
    }

    /// The server took this one: the next request begins with it.
    pub(crate) fn prefer(&self, server: &str, client: &Client, choice: usize) {
        let mut choices = self.choices.lock().unwrap_or_else(PoisonError::into_inner);
        let former = choices.insert(choice_key(server, client), choice).unwrap_or(0);
        if former != choice {
            let (method, number) = (client.auth.name(), choice + 1);
            tracing::info!(
                server,
                client = client.id,
                method,
                number,
                "the server takes another secret of the client's now"
            );
        }
    }

    /// A session that has to be written before anything else is done with it.
    pub(crate) fn unsaved(&self, owner: &CredentialName) -> Option<Session> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).get(owner).cloned()
    }

    pub(crate) fn keep_unsaved(&self, owner: &CredentialName, session: Session) {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).insert(owner.clone(), session);
    }

    pub(crate) fn saved(&self, owner: &CredentialName) {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner).remove(owner);
    }

    /// The identity in `files`, read again when they changed.
    pub(crate) fn identity(&self, files: &IdentityFiles) -> Result<Arc<ClientIdentity>, Fault> {
        let written = |path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let stamp = [written(&files.certificate), written(&files.key)];
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, identity)) = identities.get(files)
            && *known == stamp
        {
            return Ok(identity.clone());
        }
        let loaded = ClientIdentity::load(&files.certificate, &files.key);
        match (loaded, identities.get(files)) {
            (Ok(loaded), known) => {
                // The same certificate in new files is the same identity.
                let identity = match known {
                    Some((_, known)) if known.thumbprint() == loaded.thumbprint() => known.clone(),
                    Some(_) | None => Arc::new(loaded),
                };
                identities.insert(files.clone(), (stamp, identity.clone()));
                Ok(identity)
            }
            // One of the two is being replaced at this moment: the next look finds both.
            (Err(error), Some((_, known))) => {
                tracing::warn!(%error, "the client certificate can't be read again; the former one stays in use");
                Ok(known.clone())
            }
            (Err(error), None) => Err(Fault::terminal(Failure::Certificate(error))),
        }
    }
}

fn choice_key(server: &str, client: &Client) -> String {
    format!("{server}\0{}\0{}", client.id, client.auth.name())
}

/// How far a server's clock is ahead of ours, learnt from an answer that said that our
/// assertion's time is off.
#[derive(Debug, Default)]
pub(crate) struct Drift(AtomicI64);

impl Drift {
    /// Unix time by the server's clock.
    pub(crate) fn server_time(&self, clock: &dyn Clock) -> u64 {
        clock.unix_seconds().saturating_add_signed(self.0.load(Ordering::Relaxed))
    }

    /// From `Date`. `true`: it was another one.
    pub(crate) fn learn(&self, answer: &http::HeaderMap, clock: &dyn Clock) -> bool {
        let date = answer.get(http::header::DATE).and_then(|value| value.to_str().ok());
        let Some(theirs) = date.and_then(|text| httpdate::parse_http_date(text).ok()) else { return false };
        let theirs = theirs.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let drift = i64::try_from(theirs).unwrap_or(0) - i64::try_from(clock.unix_seconds()).unwrap_or(0);
        let known = self.0.load(Ordering::Relaxed);
        if drift.abs() > MAX_DRIFT || (drift - known).abs() < 2 {
            return false;
        }
        self.0.store(drift, Ordering::Relaxed);
        tracing::info!(seconds = drift, "the authorization server's clock differs from ours");
        true
    }
}

/// Wall time left until `end`.
pub(crate) fn left(end: SystemTime, now: SystemTime) -> Duration {
    end.duration_since(now).unwrap_or_default()
}
