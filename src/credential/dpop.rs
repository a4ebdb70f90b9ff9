//! Tokens that are bound to a key (RFC 9449): a proof for every attempt, at the
//! authorization server and at the resource server, and the nonces that each of them hands
//! out. Knows no tokens but by their hash.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Url;
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use zeroize::Zeroizing;

use crate::primitives::Clock;

use super::{
    lease::Recipient,
    sign::{self, Header, KeyError, SigningKey},
};

/// The field of a proof.
pub(crate) const FIELD: HeaderName = HeaderName::from_static("dpop");
/// The field of a nonce.
const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Longest nonce that is kept, in bytes.
const MAX_NONCE: usize = 1024;
/// Most origins whose nonces are kept: a route's hosts may be a pattern.
const MAX_ORIGINS: usize = 256;

/// How long requests to a server take turns, once that was needed.
const IN_TURNS: Duration = Duration::from_secs(60);
/// Longest wait for a turn: its holder may be slow, and a nonce is worth another try.
const TURN_WAIT: Duration = Duration::from_secs(2);

/// A key, and the nonces of the servers that proofs go to.
#[derive(Debug)]
pub(crate) struct Prover {
    key: SigningKey,
    clock: Arc<dyn Clock>,
    /// By role and origin. Read for a proof, written when a server hands out another one.
    nonces: RwLock<HashMap<Origin, Arc<str>>>,
    /// Resource servers that take the newest nonce only.
    turns: RwLock<HashMap<Origin, Turns>>,
}

/// Whose turn it is to send a proof.
#[derive(Debug)]
struct Turns {
    place: Arc<Semaphore>,
    until: Instant,
}

/// Nonces of an authorization server and of a resource server are two things, even where
/// both have one origin (RFC 9449 §8.2, §9).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Origin {
    Authorization(String),
    Resource(String),
}

impl Prover {
    pub(crate) fn new(key: SigningKey, clock: Arc<dyn Clock>) -> Self {
        Self { key, clock, nonces: RwLock::default(), turns: RwLock::default() }
    }

    /// PKCS#8, to be kept with the refresh token that is bound to it.
    pub(crate) fn pkcs8(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.key.to_pkcs8().ok()
    }

    /// RFC 7638: what tokens are bound to.
    pub(crate) fn thumbprint(&self) -> &str {
        self.key.thumbprint().unwrap_or_default()
    }

    /// For a request to `url` of the authorization server.
    pub(crate) fn server_proof(&self, method: &Method, url: &Url) -> Result<HeaderValue, KeyError> {
        let mut htu = url.clone();
        htu.set_query(None);
        htu.set_fragment(None);
        self.proof(method, &normal_path(htu.as_str()), None, &Origin::Authorization(url.origin().ascii_serialization()))
    }

    /// Takes the nonce of an authorization server's answer. `true`: it is a new one.
    pub(crate) fn learn_server(&self, url: &Url, answer: &HeaderMap) -> bool {
        self.learn(Origin::Authorization(url.origin().ascii_serialization()), answer)
    }

    /// For a request with the token whose hash is `hash`.
    pub(crate) fn resource_proof(&self, to: &Recipient<'_>, hash: &str) -> Result<HeaderValue, KeyError> {
        self.proof(to.method, &htu(to), Some(hash), &Origin::Resource(origin(to)))
    }

    pub(crate) fn learn_resource(&self, to: &Recipient<'_>, answer: &HeaderMap) -> bool {
        answer.contains_key(&NONCE) && self.learn(Origin::Resource(origin(to)), answer)
    }

    pub(crate) fn knows_nonce(&self, to: &Recipient<'_>) -> bool {
        self.nonce(&Origin::Resource(origin(to))).is_some()
    }

    /// The server refused the very nonce that it had just handed out: it takes the newest only,
    /// and an answer to somebody else came in between. For a while, those who send proofs to it
    /// take turns.
    pub(crate) fn take_turns(&self, to: &Recipient<'_>) {
        let until = Instant::now() + IN_TURNS;
        let mut turns = self.turns.write().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= MAX_ORIGINS {
            turns.retain(|_, turns| turns.until > Instant::now());
        }
        let new = || Turns { place: Arc::new(Semaphore::new(1)), until };
        turns.entry(Origin::Resource(origin(to))).or_insert_with(new).until = until;
    }

    /// One's turn, where there are turns. To be held until the server has judged the proof.
    pub(crate) async fn turn(&self, to: &Recipient<'_>) -> Option<OwnedSemaphorePermit> {
        let place = {
            let turns = self.turns.read().unwrap_or_else(PoisonError::into_inner);
            if turns.is_empty() {
                return None;
            }
            let turns = turns.get(&Origin::Resource(origin(to))).filter(|turns| Instant::now() < turns.until)?;
            turns.place.clone()
        };
        timeout(TURN_WAIT, place.acquire_owned()).await.ok()?.ok()
    }

    fn proof(&self, method: &Method, htu: &str, hash: Option<&str>, origin: &Origin) -> Result<HeaderValue, KeyError> {
        let header = Header { jwk: true, ..Header::of_type("dpop+jwt") };
        let mut claims = json!({
            "jti": sign::unique_id()?,
            "htm": method.as_str(),
            "htu": htu,
            "iat": self.clock.unix_seconds(),
        });
        if let Some(hash) = hash {
            claims["ath"] = hash.into();
        }
        if let Some(nonce) = self.nonce(origin) {
            claims["nonce"] = (*nonce).into();
        }
        let proof = self.key.sign(&header, &claims)?;
        HeaderValue::from_str(proof.expose()).map_err(|_| KeyError::Field)
    }

    fn nonce(&self, origin: &Origin) -> Option<Arc<str>> {
        self.nonces.read().unwrap_or_else(PoisonError::into_inner).get(origin).cloned()
    }

    fn learn(&self, origin: Origin, answer: &HeaderMap) -> bool {
        let value = answer.get(&NONCE).and_then(|value| value.to_str().ok());
        let Some(nonce) = value.filter(|nonce| !nonce.is_empty() && nonce.len() <= MAX_NONCE) else { return false };
        if self.nonce(&origin).is_some_and(|known| *known == *nonce) {
            return false;
        }
        let mut nonces = self.nonces.write().unwrap_or_else(PoisonError::into_inner);
        if nonces.len() >= MAX_ORIGINS && !nonces.contains_key(&origin) {
            nonces.clear();
        }
        nonces.insert(origin, nonce.into());
        true
    }
}

fn origin(to: &Recipient<'_>) -> String {
    format!("{}://{}", to.scheme.as_str(), to.authority)
}

/// The URL that the resource server sees: no query, no default port (RFC 9449 §4.3).
fn htu(to: &Recipient<'_>) -> String {
    let base = match to.htu_base {
        Some(base) => base.trim_end_matches('/').to_owned(),
        None => {
            let authority = to.authority.as_str();
            let port = format!(":{}", to.scheme.default_port());
            format!("{}://{}", to.scheme.as_str(), authority.strip_suffix(&port).unwrap_or(authority))
        }
    };
    let path = if to.path.is_empty() { "/" } else { to.path };
    normal_path(&format!("{base}{path}"))
}

/// Percent-encoding in its normal form (RFC 3986 §6.2.2): digits in capitals, and nothing
/// encoded that needn't be.
fn normal_path(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(at) = rest.find('%') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let byte = after.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(char::from(byte)),
            Some(byte) => {
                // Writing to a String can't fail.
                let _ = write!(out, "%{byte:02X}");
            }
            None => {
                out.push('%');
                rest = &after[1..];
                continue;
            }
        }
        rest = &after[3..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        primitives::{Authority, SystemClock},
        route::Scheme,
    };

    fn seen(url: &str) -> String {
        let url = Url::parse(url).unwrap();
        let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
        let authority = format!("{}:{}", url.host_str().unwrap(), url.port_or_known_default().unwrap());
        let authority = Authority::parse(&authority, None).unwrap();
        let path = url.path().to_owned();
        htu(&Recipient { method: &Method::GET, scheme, authority: &authority, path: &path, htu_base: None })
    }

    /// 1.N: `htu` as the resource server sees it.
    #[test]
    fn the_url_of_a_proof_is_in_normal_form() {
        let table = [
            ("https://API.example.com/v1/orders?x=y", "https://api.example.com/v1/orders"),
            ("https://api.example.com", "https://api.example.com/"),
            ("https://api.example.com:443/", "https://api.example.com/"),
            ("https://api.example.com:8443/a", "https://api.example.com:8443/a"),
            ("http://127.0.0.1:80/a", "http://127.0.0.1/a"),
            ("http://127.0.0.1:443/a", "http://127.0.0.1:443/a"),
            ("https://api.example.com:80/a", "https://api.example.com:80/a"),
            ("https://api.example.com/%7euser", "https://api.example.com/~user"),
            ("https://api.example.com/%7Euser/%41", "https://api.example.com/~user/A"),
            ("https://api.example.com/a%2fb", "https://api.example.com/a%2Fb"),
            ("https://api.example.com/%c3%a4", "https://api.example.com/%C3%A4"),
            ("https://api.example.com/100%25", "https://api.example.com/100%25"),
            ("https://api.example.com/a//b", "https://api.example.com/a//b"),
            ("https://api.example.com/a/", "https://api.example.com/a/"),
            ("https://api.example.com/a;p=1", "https://api.example.com/a;p=1"),
            ("https://api.example.com/a+b", "https://api.example.com/a+b"),
            ("https://api.example.com/a:b@c", "https://api.example.com/a:b@c"),
            ("https://api.example.com/?", "https://api.example.com/"),
            ("https://[::1]:443/a", "https://[::1]/a"),
            ("https://[::1]:8443/a", "https://[::1]:8443/a"),
        ];
        for (url, wanted) in table {
            assert_eq!(seen(url), wanted, "{url}");
        }
        assert_eq!(normal_path("/%zz%4"), "/%zz%4");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_taken_where_they_are_needed_and_not_waited_for_for_ever() {
        let prover = Prover::new(SigningKey::generate().unwrap(), Arc::new(SystemClock));
        let to =
            |authority| Recipient { method: &Method::GET, scheme: Scheme::Https, authority, path: "/", htu_base: None };
        let [one, two] =
            ["one.example.com:443", "two.example.com:443"].map(|text| Authority::parse(text, None).unwrap());
        assert!(prover.turn(&to(&one)).await.is_none());
        prover.take_turns(&to(&one));
        assert!(prover.turn(&to(&two)).await.is_none(), "each server for itself");
        let held = prover.turn(&to(&one)).await;
        assert!(held.is_some());
        let asked = Instant::now();
        assert!(prover.turn(&to(&one)).await.is_none(), "two at once");
        assert_eq!(asked.elapsed(), TURN_WAIT);
        drop(held);
        assert!(prover.turn(&to(&one)).await.is_some());
        tokio::time::advance(IN_TURNS).await;
        assert!(prover.turn(&to(&one)).await.is_none(), "it was needed long ago");
    }

    #[test]
    fn a_proof_says_what_it_is_for() {
        let prover = Prover::new(SigningKey::generate().unwrap(), Arc::new(SystemClock));
        let authority = Authority::parse("api.example.com:443", None).unwrap();
        let to = Recipient {
            method: &Method::POST,
            scheme: Scheme::Https,
            authority: &authority,
            path: "/v1",
            htu_base: Some("https://public.example/base/"),
        };
        let mut answer = HeaderMap::new();
        assert!(!prover.knows_nonce(&to) && !prover.learn_resource(&to, &answer));
        answer.insert(NONCE, HeaderValue::from_static("n-1"));
        assert!(prover.learn_resource(&to, &answer), "a new nonce");
        assert!(!prover.learn_resource(&to, &answer), "the same again");
        let read = |value: &HeaderValue| -> (serde_json::Value, serde_json::Value) {
            let mut parts = value.to_str().unwrap().split('.').map(str::to_owned);
            let mut part = || {
                use base64::Engine;
                let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
                serde_json::from_slice(&bytes).unwrap()
            };
            (part(), part())
        };
        let (header, claims) = read(&prover.resource_proof(&to, "hash").unwrap());
        assert_eq!((&header["typ"], &header["alg"]), (&json!("dpop+jwt"), &json!("ES256")));
        assert!(header["jwk"]["d"].is_null() && header["jwk"]["x"].is_string());
        assert_eq!(claims["htu"], "https://public.example/base/v1");
        assert_eq!((&claims["htm"], &claims["ath"], &claims["nonce"]), (&json!("POST"), &json!("hash"), &json!("n-1")));
        let url = Url::parse("https://api.example.com/token?x=1").unwrap();
        let (_, server) = read(&prover.server_proof(&Method::POST, &url).unwrap());
        assert_eq!(server["htu"], "https://api.example.com/token");
        assert!(server["nonce"].is_null() && server["ath"].is_null(), "the resource server's nonce is its own");
        assert_ne!(claims["jti"], server["jti"]);
    }
}
