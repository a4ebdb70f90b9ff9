//! The routes, and what stands before them.

use std::{any::Any, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tower_http::{
    catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer, sensitive_headers::SetSensitiveRequestHeadersLayer,
    set_header::SetResponseHeaderLayer,
};

use super::{
    Admin, RefreshError,
    guard::{self, Denied, Names},
    problem::Problem,
};
use crate::observe::metrics;

/// No request here has a body worth more, in bytes.
const BODY_LIMIT: usize = 16 * 1024;
/// How long figures may wait for the collector; after that those at hand are shown.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// The broker has limits of its own; this one is for a handle that forgets them.
const REFRESH_LIMIT: Duration = Duration::from_secs(60);

/// The whole application for a listener at `listen`; `None`: a socket file. The layer named last sees a request first.
pub(super) fn router(admin: Admin, listen: Option<SocketAddr>) -> Router {
    let api = Router::new()
        .route("/tokens", get(tokens))
        .route("/tokens/{name}", get(token))
        .route("/tokens/{name}/refresh", post(refresh))
        .route("/tokens/{name}/forget", post(forget))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(admin.clone(), need_key));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .nest("/api/v1", api)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(admin)
        .layer(RequestBodyLimitLayer::new(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(Names::new(listen), need_our_name))
        .layer(middleware::map_response(as_problem))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(SetResponseHeaderLayer::overriding(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(SetSensitiveRequestHeadersLayer::new([header::AUTHORIZATION]))
}

// === Before the routes ===

async fn need_our_name(State(names): State<Names>, request: Request, next: Next) -> Response {
    let allowed = names
        .check(request.uri(), request.headers())
        .and_then(|()| guard::check_origin(request.method(), request.headers()));
    match allowed {
        Ok(()) => next.run(request).await,
        Err(denied) => denied.into_response(),
    }
}

async fn need_key(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    match guard::check_key(request.headers(), &admin.key) {
        Ok(()) => next.run(request).await,
        Err(denied) => denied.into_response(),
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let problem = match self {
            Self::Host => Problem::new(StatusCode::MISDIRECTED_REQUEST, "host_not_allowed")
                .detail("the request names a host that this listener doesn't go by")
                .hint("use http://localhost or the listener's own address"),
            Self::Origin => Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed")
                .detail("another origin may not change anything here"),
            Self::Key => Problem::new(StatusCode::UNAUTHORIZED, "key_required")
                .detail("this needs the admin key")
                .hint("send `Authorization: Bearer KEY` with the line in admin.key of the state directory"),
        };
        problem.into_response()
    }
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    tracing::error!("a handler of the admin listener panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal").into_response()
}

/// What axum and its layers refuse on their own (a body too large, a path that is no
/// UTF-8) comes as text; here every error is a problem.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().ends_with(b"json"));
    if !is_error || is_json {
        return response;
    }
    let code = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        _ if status.is_client_error() => "bad_request",
        _ => "internal",
    };
    Problem::new(status, code).into_response()
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found")
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
}

// === Health and metrics ===

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let readiness = admin.health.readiness();
    let ready = readiness.unready.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": ready, "reasons": readiness.unready, "degraded": readiness.degraded });
    (status, Json(body)).into_response()
}

/// The collector is asked for what it has gathered, so that a scrape shows the requests
/// before it. That blocks, and so does encoding: neither on this runtime's thread.
async fn show_metrics(State(admin): State<Admin>) -> Response {
    let text = tokio::task::spawn_blocking(move || {
        admin.recorder.flush_within(FLUSH_LIMIT);
        admin.recorder.metrics().encode()
    });
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal").into_response(),
    }
}

// === /api/v1 ===

async fn tokens(State(admin): State<Admin>) -> Json<Value> {
    Json(json!({ "tokens": admin.tokens.states().await }))
}

async fn token(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let named = |state: &Value| state.get("credential").and_then(Value::as_str) == Some(&name);
    admin.tokens.states().await.into_iter().find(named).map(Json).ok_or_else(unknown_credential)
}

async fn refresh(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let failed = |status, detail: String| Problem::new(status, "credential_failed").detail(detail);
    match tokio::time::timeout(REFRESH_LIMIT, admin.tokens.refresh(&name)).await {
        Ok(Ok(state)) => Ok(Json(state)),
        Ok(Err(RefreshError::Unknown)) => Err(unknown_credential()),
        Ok(Err(RefreshError::Failed { detail })) => Err(failed(StatusCode::BAD_GATEWAY, detail)),
        Ok(Err(RefreshError::Unavailable { detail, retry_after })) => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "credential_unavailable")
                .detail(detail)
                .retry_after(retry_after))
        }
        Err(_) => Err(failed(StatusCode::GATEWAY_TIMEOUT, "the token didn't come in time".to_owned())),
    }
}

async fn forget(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    admin.tokens.forget(&name).await.map(Json).ok_or_else(unknown_credential)
}

fn unknown_credential() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "credential_unknown")
        .detail("there is no credential of this name")
        .hint("cupbearer token list")
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use reqwest::Method;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::oneshot,
        task::JoinHandle,
    };

    use super::*;
    use crate::{
        admin::{ForgetFuture, Listener, Readiness, RefreshFuture, StatesFuture, Tokens, serve},
        observe::{Event, Recorder, Settings},
        primitives::Secret,
    };

    const KEY: &str = "canary-admin-key-0123456789abcdefghij";

    /// Knows `orders`, which refreshes, and three that don't.
    #[derive(Default)]
    struct Broker {
        refreshes: AtomicU64,
        forgotten: AtomicU64,
    }

    impl Tokens for Broker {
        fn states(&self) -> StatesFuture<'_> {
            let generation = self.refreshes.load(Ordering::Relaxed);
            let states =
                [json!({ "credential": "orders", "generation": generation }), json!({ "credential": "wrong" })];
            Box::pin(async move { states.to_vec() })
        }

        fn forget<'a>(&'a self, name: &'a str) -> ForgetFuture<'a> {
            Box::pin(async move {
                let known = name == "orders";
                self.forgotten.fetch_add(u64::from(known), Ordering::Relaxed);
                known.then(|| json!({ "credential": "orders", "state": "none" }))
            })
        }

        fn refresh<'a>(&'a self, name: &'a str) -> RefreshFuture<'a> {
            Box::pin(async move {
                match name {
                    "orders" => {
                        let before = self.refreshes.fetch_add(1, Ordering::Relaxed);
                        Ok(json!({ "credential": "orders", "generation": before + 1 }))
                    }
                    "wrong" => Err(RefreshError::Failed { detail: "invalid_client".to_owned() }),
                    "away" => Err(RefreshError::Unavailable {
                        detail: "down".to_owned(),
                        retry_after: Some(Duration::from_millis(1500)),
                    }),
                    "panics" => panic!("canary-admin-key"),
                    _ => Err(RefreshError::Unknown),
                }
            })
        }
    }

    struct Running {
        address: SocketAddr,
        client: reqwest::Client,
        broker: Arc<Broker>,
        recorder: Recorder,
        stop: oneshot::Sender<()>,
        served: JoinHandle<()>,
    }

    async fn start(readiness: Readiness) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let broker = Arc::new(Broker::default());
        let recorder = Recorder::start(&Settings::default()).unwrap();
        let admin = Admin {
            recorder: recorder.clone(),
            key: Arc::new(Secret::new(KEY.to_owned())),
            health: Arc::new(move || readiness.clone()),
            tokens: Arc::clone(&broker) as Arc<dyn Tokens>,
        };
        assert!(!format!("{admin:?}").contains("canary"));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(Listener::Tcp(listener), admin, async { stopped.await.unwrap_or(()) }));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Running { address, client, broker, recorder, stop, served }
    }

    impl Running {
        fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
            self.client.request(method, format!("http://{}{path}", self.address))
        }

        async fn with_key(&self, method: Method, path: &str) -> reqwest::Response {
            self.request(method, path).bearer_auth(KEY).send().await.unwrap()
        }

        async fn open(&self, path: &str) -> reqwest::Response {
            self.request(Method::GET, path).send().await.unwrap()
        }
    }

    async fn problem(response: reqwest::Response) -> (u16, Value) {
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["status"], status);
        (status, body)
    }

    #[tokio::test]
    async fn health_and_readiness_need_no_key() {
        let degraded = vec!["credential `wrong` fails".to_owned()];
        let running = start(Readiness { unready: Vec::new(), degraded }).await;
        let healthy = running.open("/healthz").await;
        assert_eq!(healthy.status(), 200);
        assert_eq!(healthy.headers()["x-content-type-options"], "nosniff");
        assert_eq!(healthy.headers()["cache-control"], "no-store");
        assert!(healthy.headers().get("access-control-allow-origin").is_none());
        assert_eq!(healthy.text().await.unwrap(), "ok\n");
        let ready = running.open("/readyz").await;
        assert_eq!(ready.status(), 200);
        let body: Value = ready.json().await.unwrap();
        assert_eq!(body, json!({ "ready": true, "reasons": [], "degraded": ["credential `wrong` fails"] }));
    }

    #[tokio::test]
    async fn a_reason_makes_it_unready_but_not_dead() {
        let running = start(Readiness { unready: vec!["draining".to_owned()], degraded: Vec::new() }).await;
        let ready = running.open("/readyz").await;
        assert_eq!(ready.status(), 503);
        assert_eq!(ready.json::<Value>().await.unwrap()["reasons"], json!(["draining"]));
        assert_eq!(running.open("/healthz").await.status(), 200);
    }

    #[tokio::test]
    async fn a_scrape_shows_what_happened_before_it() {
        let running = start(Readiness::default()).await;
        for round in 1..=3 {
            running.recorder.event(Event::Alert { kind: "x", detail: String::new() });
            running.recorder.end(crate::observe::line_tests::record().into());
            let scrape = running.open("/metrics").await;
            assert_eq!(scrape.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
            let text = scrape.text().await.unwrap();
            assert!(text.contains(&format!("cupbearer_request_duration_seconds_count {round}\n")), "{text}");
            assert!(text.ends_with("# EOF\n"));
        }
    }

    #[tokio::test]
    async fn the_api_needs_the_key_and_says_so() {
        let running = start(Readiness::default()).await;
        let paths = ["tokens", "tokens/orders", "nothing", "tokens/orders/refresh", "tokens/orders/forget"];
        for path in paths.map(|path| format!("/api/v1/{path}")) {
            let path = path.as_str();
            let (status, body) = problem(running.open(path).await).await;
            assert_eq!((status, &body["code"]), (401, &json!("key_required")), "{path}");
            let wrong = running.request(Method::POST, path).bearer_auth("canary").send().await.unwrap();
            assert_eq!(wrong.headers()["www-authenticate"], "Bearer realm=\"cupbearer admin\"");
            let (status, body) = problem(wrong).await;
            assert_eq!(status, 401);
            assert!(!body.to_string().contains("canary"), "{body}");
        }
        assert_eq!(running.broker.refreshes.load(Ordering::Relaxed), 0);
        assert_eq!(running.broker.forgotten.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn tokens_are_listed_shown_and_refreshed() {
        let running = start(Readiness::default()).await;
        let list: Value = running.with_key(Method::GET, "/api/v1/tokens").await.json().await.unwrap();
        assert_eq!(list["tokens"][0], json!({ "credential": "orders", "generation": 0 }));
        let fresh: Value = running.with_key(Method::POST, "/api/v1/tokens/orders/refresh").await.json().await.unwrap();
        assert_eq!(fresh["generation"], 1);
        let shown: Value = running.with_key(Method::GET, "/api/v1/tokens/orders").await.json().await.unwrap();
        assert_eq!(shown, json!({ "credential": "orders", "generation": 1 }));
    }

    #[tokio::test]
    async fn a_token_is_forgotten() {
        let running = start(Readiness::default()).await;
        let forgotten: Value =
            running.with_key(Method::POST, "/api/v1/tokens/orders/forget").await.json().await.unwrap();
        assert_eq!(forgotten, json!({ "credential": "orders", "state": "none" }));
        assert_eq!(running.broker.forgotten.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn errors_are_problems() {
        let running = start(Readiness::default()).await;
        let cases = [
            (Method::GET, "/nothing", 404, "not_found"),
            (Method::DELETE, "/metrics", 405, "method_not_allowed"),
            (Method::GET, "/api/v1/nothing", 404, "not_found"),
            (Method::GET, "/api/v1/tokens/nobody", 404, "credential_unknown"),
            (Method::GET, "/api/v1/tokens/%ff", 400, "bad_request"),
            (Method::POST, "/api/v1/tokens/nobody/refresh", 404, "credential_unknown"),
            (Method::GET, "/api/v1/tokens/orders/refresh", 405, "method_not_allowed"),
            (Method::POST, "/api/v1/tokens/nobody/forget", 404, "credential_unknown"),
            (Method::GET, "/api/v1/tokens/orders/forget", 405, "method_not_allowed"),
            (Method::POST, "/api/v1/tokens/wrong/refresh", 502, "credential_failed"),
            (Method::POST, "/api/v1/tokens/away/refresh", 503, "credential_unavailable"),
            (Method::POST, "/api/v1/tokens/panics/refresh", 500, "internal"),
        ];
        for (method, path, status, code) in cases {
            let (seen, body) = problem(running.with_key(method, path).await).await;
            assert_eq!((seen, &body["code"]), (status, &json!(code)), "{path}");
            assert!(!body.to_string().contains("canary"), "{body}");
        }
        let away = running.with_key(Method::POST, "/api/v1/tokens/away/refresh").await;
        assert_eq!(away.headers()["retry-after"], "2");
        assert_eq!(running.broker.refreshes.load(Ordering::Relaxed), 0);
    }

    /// Threat 40: DNS rebinding and cross-site requests, also for one who has the key.
    #[tokio::test]
    async fn foreign_hosts_and_origins_are_refused() {
        let running = start(Readiness::default()).await;
        for path in ["/healthz", "/metrics", "/api/v1/tokens"] {
            let rebound = running.request(Method::GET, path).bearer_auth(KEY).header("host", "evil.example");
            let (status, body) = problem(rebound.send().await.unwrap()).await;
            assert_eq!((status, &body["code"]), (421, &json!("host_not_allowed")), "{path}");
        }
        let forged = running
            .request(Method::POST, "/api/v1/tokens/orders/refresh")
            .bearer_auth(KEY)
            .header("origin", "http://evil.example");
        let (status, body) = problem(forged.send().await.unwrap()).await;
        assert_eq!((status, &body["code"]), (403, &json!("origin_not_allowed")));
        assert_eq!(running.broker.refreshes.load(Ordering::Relaxed), 0);
        let own = running
            .request(Method::POST, "/api/v1/tokens/orders/refresh")
            .bearer_auth(KEY)
            .header("origin", format!("http://{}", running.address));
        assert_eq!(own.send().await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn a_request_without_a_host_is_refused() {
        let running = start(Readiness::default()).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 421 "), "{answer}");
    }

    #[tokio::test]
    async fn a_large_body_is_refused() {
        let running = start(Readiness::default()).await;
        let large = running.request(Method::POST, "/api/v1/tokens/orders/refresh").bearer_auth(KEY);
        let (status, body) = problem(large.body(vec![b'x'; BODY_LIMIT + 1]).send().await.unwrap()).await;
        assert_eq!((status, &body["code"]), (413, &json!("too_large")));
        assert_eq!(running.broker.refreshes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn the_shutdown_ends_idle_connections_and_the_listener() {
        let running = start(Readiness::default()).await;
        // The client keeps its connection; that must not hold the end up.
        assert_eq!(running.open("/healthz").await.status(), 200);
        running.stop.send(()).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(3), running.served).await;
        assert!(matches!(ended, Ok(Ok(()))));
        assert!(TcpStream::connect(running.address).await.is_err());
    }
}
