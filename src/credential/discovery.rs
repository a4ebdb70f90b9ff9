//! Finds an authorization server's metadata from its issuer (RFC 8414 §3, OpenID Connect Discovery 1.0 §4;
//! standards 1.G). The metadata must name the very issuer that is configured, or a server
//! could pose as another one (threat 104). Knows no tokens.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderValue, StatusCode, header::ETAG};
use reqwest::Url;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    endpoint::{Http, Reply},
    error::{Failure, Fault, Misbehaviour, Outage, SettingsError},
    metadata::{EndpointKind, Metadata, printable},
    response,
};

/// How long metadata is taken as it is.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// How long it is kept in use after it couldn't be fetched again.
const STALE: Duration = Duration::from_secs(300);

/// What is known of one issuer.
#[derive(Debug)]
pub(super) struct Discovery {
    issuer: String,
    candidates: Vec<Url>,
    /// What the operator names himself.
    fixed: Vec<(EndpointKind, Url)>,
    known: Mutex<Option<Known>>,
    /// Guards no data: credentials of one issuer that start together ask once.
    turn: Semaphore,
}

#[derive(Clone, Debug)]
struct Known {
    metadata: Arc<Metadata>,
    from: Url,
    etag: Option<HeaderValue>,
    fresh_until: Instant,
}

impl Discovery {
    pub(super) fn new(issuer: &str, fixed: Vec<(EndpointKind, Url)>, http: &Http) -> Result<Self, SettingsError> {
        let url = http.permitted(issuer).filter(|url| url.query().is_none());
        let url = url.ok_or_else(|| SettingsError::Url(issuer.to_owned()))?;
        Ok(Self {
            issuer: issuer.to_owned(),
            candidates: candidates(&url),
            fixed,
            known: Mutex::default(),
            turn: Semaphore::new(1),
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What is known while it is fresh, else what the server says now, else (the server
    /// being away) what was known.
    pub(super) async fn metadata(&self, http: &Http) -> Result<Arc<Metadata>, Fault> {
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        let _turn = self.turn.acquire().await;
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        let stale = self.known().clone();
        let found = match &stale {
            Some(stale) => self.revalidate(http, stale).await,
            None => self.search(http).await,
        };
        let known = match (found, stale) {
            (Ok(known), _) => known,
            (Err(fault), Some(stale)) => {
                tracing::warn!(issuer = %self.issuer, "old metadata stays in use: {}", fault.failure);
                Known { fresh_until: Instant::now() + STALE, ..stale }
            }
            (Err(fault), None) => return Err(fault),
        };
        let metadata = known.metadata.clone();
        *self.known() = Some(known);
        Ok(metadata)
    }

    /// The next look-up asks the server again.
    pub(super) fn doubt(&self) {
        if let Some(known) = &mut *self.known() {
            known.fresh_until = Instant::now();
        }
    }

    fn fresh(&self) -> Option<Arc<Metadata>> {
        let now = Instant::now();
        self.known().as_ref().filter(|known| now < known.fresh_until).map(|known| known.metadata.clone())
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn revalidate(&self, http: &Http, stale: &Known) -> Result<Known, Fault> {
        let reply = http.get(stale.from.clone(), stale.etag.as_ref()).await?;
        if reply.status == StatusCode::NOT_MODIFIED {
            return Ok(Known { fresh_until: Instant::now() + FRESH, ..stale.clone() });
        }
        match self.read(http, &stale.from, &reply)? {
            Ok(known) => Ok(known),
            Err(_elsewhere) => self.search(http).await,
        }
    }

    /// Asks the candidates in order. A 4xx means "not here"; so do a redirect (not followed)
    /// and a page that isn't JSON, as some servers answer for unknown paths. An outage ends
    /// the search, and so does metadata that is wrong.
    async fn search(&self, http: &Http) -> Result<Known, Fault> {
        let mut missed: Option<(&Url, String)> = None;
        for url in &self.candidates {
            let reply = http.get(url.clone(), None).await?;
            match self.read(http, url, &reply)? {
                Ok(known) => return Ok(known),
                Err(miss) => missed = Some((url, miss.to_string())),
            }
        }
        let (url, last) = missed.map(|(url, last)| (url.to_string(), last)).unwrap_or_default();
        Err(Fault::protocol(Misbehaviour::NoMetadata { issuer: self.issuer.clone(), url, last }))
    }

    /// `Ok(Err(_))`: the document isn't at this URL.
    fn read(&self, http: &Http, url: &Url, reply: &Reply) -> Result<Result<Known, Misbehaviour>, Fault> {
        let status = reply.status;
        if status.is_server_error() || response::is_retryable(status) {
            return Err(Fault::outage(Outage::Status(status.as_u16()), None));
        }
        if status.is_redirection() {
            return Ok(Err(Misbehaviour::Redirect(status.as_u16())));
        }
        if status != StatusCode::OK {
            return Ok(Err(Misbehaviour::Status(status.as_u16())));
        }
        let wrong = |fault| Fault::terminal(Failure::Protocol(fault));
        let mut metadata = match Metadata::read(&reply.body, |text| http.permitted(text)) {
            Ok(metadata) => metadata,
            Err(None) => return Ok(Err(Misbehaviour::NotJson)),
            // Whose metadata it is comes before what is wrong with it.
            Err(Some(fault)) => return Err(self.foreign(&reply.body).unwrap_or_else(|| wrong(fault))),
        };
        if let Some(fault) = self.foreign(&reply.body) {
            return Err(fault);
        }
        for (kind, url) in &self.fixed {
            metadata.set(*kind, url.clone());
        }
        let etag = reply.headers.get(ETAG).cloned();
        let metadata = Arc::new(metadata);
        Ok(Ok(Known { metadata, from: url.clone(), etag, fresh_until: Instant::now() + FRESH }))
    }

    /// The document is another issuer's (RFC 8414 §3.3).
    fn foreign(&self, document: &[u8]) -> Option<Fault> {
        #[derive(serde::Deserialize)]
        struct Named {
            issuer: String,
        }
        let named: Named = serde_json::from_slice(document).ok()?;
        let found = (named.issuer != self.issuer).then(|| printable(&named.issuer))?;
        Some(Fault::protocol(Misbehaviour::Issuer { expected: self.issuer.clone(), found }))
    }
}

/// Where the metadata of `issuer` may be, in the order of standards 1.G.
fn candidates(issuer: &Url) -> Vec<Url> {
    // A slash at the end is removed before the insertion (RFC 8414 §3.1).
    let path = issuer.path().trim_end_matches('/');
    let mut paths = vec![
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("/.well-known/openid-configuration{path}"),
        format!("{path}/.well-known/openid-configuration"),
    ];
    paths.dedup();
    let at = |path: &String| {
        let mut url = issuer.clone();
        url.set_path(path);
        url
    };
    paths.iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Standards 1.G, the first two rows of the table.
    #[test]
    fn the_order_of_the_candidates() {
        let of = |issuer: &str| -> Vec<String> {
            candidates(&Url::parse(issuer).unwrap()).iter().map(ToString::to_string).collect()
        };
        let root = ["https://h/.well-known/oauth-authorization-server", "https://h/.well-known/openid-configuration"];
        assert_eq!(of("https://h"), root);
        assert_eq!(of("https://h/"), root);
        let tenant = [
            "https://h:8443/.well-known/oauth-authorization-server/t1",
            "https://h:8443/.well-known/openid-configuration/t1",
            "https://h:8443/t1/.well-known/openid-configuration",
        ];
        assert_eq!(of("https://h:8443/t1"), tenant);
        assert_eq!(of("https://h:8443/t1/"), tenant);
        assert!(of("https://h/a%2Fb")[0].ends_with("/a%2Fb"));
    }
}
