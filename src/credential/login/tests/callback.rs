//! What anybody on this machine, or any web page, may try at the loopback address.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    credential::{
        error::Failure,
        login::callback::{Answer, Callback, Limits},
    },
    primitives::Secret,
};

const STATE: &str = "the-state-of-this-login";

struct Waiting {
    uri: String,
    authority: String,
    answer: JoinHandle<Option<Answer>>,
}

impl Waiting {
    async fn start(redirect: Redirect, limits: Limits) -> Self {
        let callback = Callback::bind(&redirect, &name("orders")).await.unwrap();
        let uri = callback.uri();
        let authority = uri.split('/').nth(2).unwrap().to_owned();
        let answer = tokio::spawn(async move { callback.answer(&Secret::new(STATE.to_owned()), limits).await });
        Self { uri, authority, answer }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.authority).await.unwrap()
    }

    /// Sends bytes, reads to the end.
    async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(LIMIT, stream.read_to_string(&mut answer)).await.unwrap();
        answer
    }

    fn good(&self) -> String {
        format!("{}?code=c-1&state={STATE}", self.uri)
    }

    async fn ended(self) -> Option<Answer> {
        within(LIMIT, self.answer).await.unwrap()
    }
}

/// Standards 1.F: one path, one method, one host.
#[tokio::test]
async fn nothing_else_is_there() {
    let waiting = Waiting::start(Redirect::default(), Limits::default()).await;
    let (host, query) = (&waiting.authority, format!("code=c-1&state={STATE}"));
    let line = |method: &str, target: &str| format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let refused = [
        (line("GET", &format!("/?{query}")), 404),
        (line("GET", &format!("/cb/other?{query}")), 404),
        (line("GET", &format!("/cb/orders/?{query}")), 404),
        (line("GET", &format!("/cb/orders/x?{query}")), 404),
        (line("GET", &format!("/CB/orders?{query}")), 404),
        (line("GET", &format!("/cb/%6frders?{query}")), 404),
        (line("GET", &format!("/cb/../cb/orders?{query}")), 404),
        (line("GET", "/favicon.ico"), 404),
        (line("POST", &format!("/cb/orders?{query}")), 405),
        (line("HEAD", &format!("/cb/orders?{query}")), 405),
        (line("OPTIONS", &format!("/cb/orders?{query}")), 405),
        (line("GET", "/cb/orders"), 400),
        (format!("GET /cb/orders?{query} HTTP/1.1\r\nHost: attacker.example\r\n\r\n"), 404),
        (format!("GET /cb/orders?{query} HTTP/1.0\r\n\r\n"), 404),
        ("\u{16}\u{3}\u{1} what is this\r\n\r\n".to_owned(), 400),
        (format!("GET /cb/orders?{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "x".repeat(100_000)), 414),
    ];
    for (request, status) in refused {
        let answer = waiting.raw(&request).await;
        let shown = &request[..request.len().min(80)];
        assert_eq!(answer.split(' ').nth(1), Some(status.to_string().as_str()), "{shown:?}: {answer}");
        assert!(!answer.contains(STATE) && !answer.contains("c-1"), "{answer}");
    }
    assert!(!waiting.answer.is_finished());
    let answer = waiting.raw(&line("GET", &format!("/cb/orders?{query}"))).await.to_lowercase();
    for field in
        ["200 ok", "cache-control: no-store", "referrer-policy: no-referrer", "x-content-type-options: nosniff"]
    {
        assert!(answer.contains(field), "no {field}: {answer}");
    }
    assert!(answer.contains("connection: close") && answer.contains("default-src 'none'") && answer.len() < 600);
    let brought = waiting.ended().await.unwrap();
    assert_eq!(brought.code.unwrap().expose(), "c-1");
}

/// Those who send nothing, or a byte now and then, or never read, don't keep the browser out.
#[tokio::test]
async fn who_is_slow_makes_room() {
    let waiting = Waiting::start(Redirect::default(), Limits::default()).await;
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut stream = waiting.connect().await;
        if number % 2 == 0 {
            stream.write_all(b"GET /cb/orders?code=x HTTP/1.1\r\nHost: ").await.unwrap();
        }
        slow.push(stream);
    }
    // The first of them was cut, long before its time.
    let cut = tokio::time::timeout(Duration::from_secs(2), slow[0].read_to_end(&mut Vec::new())).await;
    assert!(matches!(cut, Ok(Ok(0) | Err(_))), "{cut:?}");
    let (status, _) = get(&waiting.good()).await.unwrap();
    assert_eq!(status, 200);
    assert!(waiting.ended().await.is_some());
}

/// A head that drips has a limit of its own.
#[tokio::test]
async fn a_head_has_to_come_in_time() {
    let limits = Limits { head: Duration::from_millis(50), ..Limits::default() };
    let waiting = Waiting::start(Redirect::default(), limits).await;
    for begun in ["", "GET /cb/orders?code=x HTTP/1.1\r\n", "GET /cb/orders HTTP/1.1\r\nHost: x\r\nA: "] {
        let mut stream = waiting.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = within(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(matches!(ended, Ok(_) | Err(_)) && !answer.starts_with(b"HTTP/1.1 200"), "{begun:?}");
    }
    assert!(!waiting.answer.is_finished());
    waiting.answer.abort();
}

/// Standards 1.F: five minutes, whoever comes by meanwhile.
#[tokio::test]
async fn the_browser_has_five_minutes() {
    let callback = Callback::bind(&Redirect::default(), &name("orders")).await.unwrap();
    let uri = callback.uri();
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    assert!(callback.answer(&Secret::new(STATE.to_owned()), Limits::default()).await.is_none());
    assert_eq!(started.elapsed().as_secs(), 300);
    tokio::time::resume();
    assert!(get(&uri).await.is_err(), "it listens on");
}

#[tokio::test]
async fn localhost_is_both_addresses() {
    let redirect = Redirect { localhost: true, port: None };
    let waiting = Waiting::start(redirect, Limits::default()).await;
    let port = waiting.uri.strip_prefix("http://localhost:").unwrap().strip_suffix("/cb/orders").unwrap();
    let port: u16 = port.parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());
    if TcpListener::bind(("::1", 0)).await.is_ok() {
        assert!(TcpStream::connect(("::1", port)).await.is_ok());
    }
    assert_eq!(get(&waiting.good()).await.unwrap().0, 200);
    assert!(waiting.ended().await.is_some());
}

/// A port that the server knows, and that another program has.
#[tokio::test]
async fn a_port_that_isnt_free_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Some(taken.local_addr().unwrap().port());
    let server = server(json!({}), |_, _| None).await;
    for localhost in [false, true] {
        let redirect = Redirect { localhost, port };
        let (_directory, spec) = login_spec(&server, LoginKind::AuthorizationCode { redirect, params: Vec::new() });
        let broker = broker(&[spec], &memory(), settings());
        let error = Attempt::start(&broker, Options::default()).ended().await.unwrap_err();
        assert!(matches!(&*error.failure, Failure::Callback(_)), "{error:?}");
        assert!(error.hint().as_str().contains("--device"), "{}", error.hint());
    }
}
