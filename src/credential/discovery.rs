//! Finds a token endpoint from an issuer (RFC 8414 §3, OpenID Connect Discovery 1.0 §4;
//! standards 1.G). The metadata must name the very issuer that is configured, or a server
//! could pose as another one (threat 104). Knows no tokens.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderValue, StatusCode, header::ETAG};
use reqwest::Url;
use serde::Deserialize;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    endpoint::{Http, Reply},
    error::{Failure, Fault, Misbehaviour, Outage, SettingsError},
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
    known: Mutex<Option<Known>>,
    /// Guards no data: credentials of one issuer that start together ask once.
    turn: Semaphore,
}

#[derive(Clone, Debug)]
struct Known {
    token_endpoint: Url,
    from: Url,
    etag: Option<HeaderValue>,
    fresh_until: Instant,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    token_endpoint: Option<String>,
}

impl Discovery {
    pub(super) fn new(issuer: &str, http: &Http) -> Result<Self, SettingsError> {
        let url = http.permitted(issuer).filter(|url| url.query().is_none());
        let url = url.ok_or_else(|| SettingsError::Url(issuer.to_owned()))?;
        Ok(Self {
            issuer: issuer.to_owned(),
            candidates: candidates(&url),
            known: Mutex::default(),
            turn: Semaphore::new(1),
        })
    }

    /// The token endpoint: what is known while it is fresh, else what the server says now,
    /// else (the server being away) what was known.
    pub(super) async fn token_endpoint(&self, http: &Http) -> Result<Url, Fault> {
        if let Some(url) = self.fresh() {
            return Ok(url);
        }
        let _turn = self.turn.acquire().await;
        if let Some(url) = self.fresh() {
            return Ok(url);
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
        let url = known.token_endpoint.clone();
        *self.known() = Some(known);
        Ok(url)
    }

    /// The next look-up asks the server again.
    pub(super) fn doubt(&self) {
        if let Some(known) = &mut *self.known() {
            known.fresh_until = Instant::now();
        }
    }

    fn fresh(&self) -> Option<Url> {
        let now = Instant::now();
        self.known().as_ref().filter(|known| now < known.fresh_until).map(|known| known.token_endpoint.clone())
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
        let Ok(metadata) = serde_json::from_slice::<Metadata>(&reply.body) else {
            return Ok(Err(Misbehaviour::NotJson));
        };
        let wrong = |fault| Fault::terminal(Failure::Protocol(fault));
        if metadata.issuer != self.issuer {
            let found = printable(&metadata.issuer);
            return Err(wrong(Misbehaviour::Issuer { expected: self.issuer.clone(), found }));
        }
        let text = metadata.token_endpoint.ok_or_else(|| wrong(Misbehaviour::NoTokenEndpoint))?;
        let token_endpoint = http.permitted(&text).ok_or_else(|| wrong(Misbehaviour::Endpoint(printable(&text))))?;
        let etag = reply.headers.get(ETAG).cloned();
        Ok(Ok(Known { token_endpoint, from: url.clone(), etag, fresh_until: Instant::now() + FRESH }))
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

/// What a server wrote, fit for a log line.
fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(200).collect()
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
