//! A secret that an HTTP server gives: the metadata server of a cloud, which hands out
//! assertions (E9). Asked directly, never through a proxy from the environment; a redirect
//! is no answer.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rustls::RootCertStore;
use zeroize::Zeroizing;

use crate::{
    credential::response::Wiped,
    primitives::Secret,
    tls::client::{platform_roots, token_client_config},
};

use super::{MAX_SECRET, SourceError, nonempty, text};

/// For the whole exchange, from the connect to the last byte.
const LIMIT: Duration = Duration::from_secs(10);

/// `{ http = "URL", headers = { … }, pointer = "/access_token", ttl = "5m" }`. `config` has
/// checked the URL: `https`, or `http` where nobody else can listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Web {
    pub url: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Where in a JSON answer the secret is (RFC 6901); `None`: it is the whole answer.
    pub pointer: Option<String>,
    /// How long it is kept.
    pub ttl: Duration,
}

impl Web {
    pub(super) async fn read(&self) -> Result<Secret, SourceError> {
        let exchange = async {
            let body = self.fetch(self.client().await?).await?;
            self.found(&body)
        };
        match tokio::time::timeout(LIMIT, exchange).await {
            Ok(found) => found,
            Err(_) => Err(SourceError::WebTimeout { url: self.shown(), limit: LIMIT }),
        }
    }

    /// Made for one exchange: the next one is `ttl` away.
    async fn client(&self) -> Result<reqwest::Client, SourceError> {
        let secure = self.url.starts_with("https:");
        let roots = if secure {
            let read = tokio::task::spawn_blocking(platform_roots).await;
            read.map_err(|_| SourceError::NoRoots)?.map_err(|_| SourceError::NoRoots)?
        } else {
            RootCertStore::empty()
        };
        let mut tls = token_client_config(roots);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .https_only(secure)
            .user_agent(concat!("cupbearer/", env!("CARGO_PKG_VERSION")))
            .build();
        client.map_err(|error| self.failed(error))
    }

    async fn fetch(&self, client: reqwest::Client) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let headers: HeaderMap = self.headers.iter().cloned().collect();
        let request = client.get(&self.url).headers(headers);
        let mut response = request.send().await.map_err(|error| self.failed(error))?;
        if response.status() != StatusCode::OK {
            return Err(SourceError::WebStatus { url: self.shown(), status: response.status().as_u16() });
        }
        // Whole at once: a buffer that grows leaves copies behind that nobody zeroes.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_SECRET));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + chunk.len() > MAX_SECRET {
                return Err(SourceError::TooLong { limit: MAX_SECRET });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn found(&self, body: &[u8]) -> Result<Secret, SourceError> {
        let Some(pointer) = &self.pointer else { return text(body) };
        let lacks = || SourceError::WebPointer { url: self.shown(), pointer: pointer.clone() };
        let mut answer = Wiped(serde_json::from_slice(body).map_err(|_| lacks())?);
        match answer.0.pointer_mut(pointer).map(serde_json::Value::take) {
            Some(serde_json::Value::String(secret)) => nonempty(Secret::new(secret)),
            Some(_) | None => Err(lacks()),
        }
    }

    fn failed(&self, error: reqwest::Error) -> SourceError {
        SourceError::Web { url: self.shown(), source: error.without_url() }
    }

    /// Without its query, which may name more than messages should.
    fn shown(&self) -> String {
        self.url.split('?').next().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that gives one answer and then tells what it was asked.
    async fn server(answer: &str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token?audience=a", listener.local_addr().unwrap());
        let answer = answer.to_owned();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        (url, asked)
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn web(url: String, pointer: Option<&str>) -> Web {
        let headers = vec![(HeaderName::from_static("metadata-flavor"), HeaderValue::from_static("Google"))];
        Web { url, headers, pointer: pointer.map(str::to_owned), ttl: Duration::from_secs(60) }
    }

    async fn read(answer: &str, pointer: Option<&str>) -> Result<String, SourceError> {
        let (url, asked) = server(answer).await;
        let read = web(url, pointer).read().await.map(|secret| secret.expose().to_owned());
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET /token?audience=a HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("metadata-flavor: Google\r\n"), "{asked}");
        read
    }

    /// E9.
    #[tokio::test]
    async fn an_answer_is_the_secret_or_has_it() {
        assert_eq!(read(&ok("eyJ.a.b\n"), None).await.unwrap(), "eyJ.a.b");
        let json = r#"{"access_token":"t","nested":{"value":"u"}}"#;
        assert_eq!(read(&ok(json), Some("/access_token")).await.unwrap(), "t");
        assert_eq!(read(&ok(json), Some("/nested/value")).await.unwrap(), "u");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused_and_never_shown() {
        let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(read(moved, None).await, Err(SourceError::WebStatus { status: 302, .. })));
        let json = r#"{"secret":"hunter2","number":5}"#;
        for pointer in ["/missing", "/number", ""] {
            let error = read(&ok(json), Some(pointer)).await.unwrap_err();
            assert!(matches!(error, SourceError::WebPointer { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        assert!(matches!(read(&ok("hunter2"), Some("/a")).await, Err(SourceError::WebPointer { .. })));
        assert!(matches!(read(&ok(""), None).await, Err(SourceError::Empty)));
        let long = ok(&"a".repeat(MAX_SECRET + 1));
        let (url, _asked) = server(&long).await;
        assert!(matches!(web(url, None).read().await, Err(SourceError::TooLong { .. })));
        let nobody = web("http://127.0.0.1:1/x?secret=hunter2".to_owned(), None).read().await.unwrap_err();
        assert!(matches!(nobody, SourceError::Web { .. }));
        assert!(!format!("{nobody} {nobody:?}").contains("hunter2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let silent = web(url, None).read().await;
        assert!(matches!(silent, Err(SourceError::WebTimeout { .. })), "{silent:?}");
    }

    /// Only what the machine trusts is believed.
    #[tokio::test]
    async fn https_is_verified() {
        let server = crate::credential::testing::AuthServer::start(|_, _| panic!("it is not to be asked")).await;
        let untrusted = web(server.url("/token").replace(crate::credential::testing::HOST, "localhost"), None);
        let refused = untrusted.read().await;
        assert!(matches!(refused, Err(SourceError::Web { .. } | SourceError::NoRoots)), "{refused:?}");
        assert!(server.seen().is_empty());
    }
}
