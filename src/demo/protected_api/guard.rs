//! Every request's way in: it is recorded, its token judged, its scope checked.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, header, request::Parts};
use http_body_util::BodyExt;

use crate::demo::{client_certificates::PeerCertificates, dpop, https::ConnectionId, journal::lock, jwt::Claims};

use super::{READ_ORDERS, Seen, Shared, WRITE_ORDERS, challenge::Rejection, endpoints::Counted, verify::Verified};

/// A client may still be sending when it is refused. Reading on up to here lets it finish
/// and read the answer, where closing at once would reset its connection.
const DRAIN_LIMIT: u64 = 64 * 1024 * 1024;

pub(super) fn protect(router: Router, shared: &Arc<Shared>) -> Router {
    router.layer(from_fn_with_state(Arc::clone(shared), guard))
}

async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    mask(&mut parts.headers);
    let verified = shared.verifier.verify(&parts).await;
    let judged = match &verified {
        Ok(verified) => shared.judge(verified, required_scope(&parts.method, parts.uri.path())),
        Err(rejection) => Err(*rejection),
    };
    let claims = verified.ok().map(|verified| verified.claims);
    let progress = Arc::new(Progress::default());
    shared.seen.push(Sighting::new(&parts, claims.clone(), judged.err(), Arc::clone(&progress)));
    let body = Body::new(Counted::new(body, progress));
    let nonce = shared.verifier.nonce(judged == Err(Rejection::NoNonce));
    let mut answer = match judged {
        Ok(()) => {
            if let Some(claims) = claims {
                parts.extensions.insert(claims);
            }
            next.run(Request::from_parts(parts, body)).await
        }
        Err(rejection) => {
            if !parts.headers.contains_key(header::EXPECT) {
                drain(body).await;
            }
            rejection.into_response()
        }
    };
    if let Some(nonce) = nonce {
        answer.headers_mut().insert(dpop::NONCE, nonce);
    }
    answer
}

/// So that `Debug` of a [`Seen`] doesn't show the token.
fn mask(headers: &mut HeaderMap) {
    for name in [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE] {
        if let header::Entry::Occupied(mut lines) = headers.entry(name) {
            lines.iter_mut().for_each(|line| line.set_sensitive(true));
        }
    }
}

fn required_scope(method: &Method, path: &str) -> Option<&'static str> {
    let orders = path == "/v1/orders" || path.starts_with("/v1/orders/");
    match *method {
        _ if !orders => None,
        Method::GET | Method::HEAD => Some(READ_ORDERS),
        _ => Some(WRITE_ORDERS),
    }
}

async fn drain(mut body: Body) {
    let mut left = DRAIN_LIMIT;
    while left > 0
        && let Some(Ok(frame)) = body.frame().await
    {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        left = left.saturating_sub(length);
    }
}

impl Shared {
    /// The knobs first, so that a scripted 401 comes whatever the scope.
    fn judge(&self, verified: &Verified, scope: Option<&'static str>) -> Result<(), Rejection> {
        let Verified { scheme, claims } = verified;
        if lock(&self.revoked).contains(&claims.jti)
            || claims.iat < self.reject_issued_before.load(Ordering::SeqCst)
            || self.reject_this_one()
        {
            return Err(Rejection::InvalidToken(*scheme, "the token was revoked"));
        }
        match scope {
            Some(scope) if !claims.has_scope(scope) => Err(Rejection::InsufficientScope(*scheme, scope)),
            Some(_) | None => Ok(()),
        }
    }

    fn reject_this_one(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        self.reject_next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }
}

// === impl Sighting ===

/// How far a body has been read; shared by the body and its record.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) bytes: AtomicU64,
    pub(super) ended: AtomicBool,
}

/// A [`Seen`] whose body may still be under way.
#[derive(Debug)]
pub(super) struct Sighting {
    seen: Seen,
    progress: Arc<Progress>,
}

impl Sighting {
    fn new(parts: &Parts, claims: Option<Claims>, rejection: Option<Rejection>, progress: Arc<Progress>) -> Self {
        let host = || parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let seen = Seen {
            connection: parts.extensions.get::<ConnectionId>().copied(),
            method: parts.method.clone(),
            path: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            authority: parts.uri.authority().map(|authority| authority.as_str()).or_else(host).map(str::to_owned),
            version: parts.version,
            headers: parts.headers.clone(),
            certificate: parts.extensions.get().map(PeerCertificates::thumbprint),
            claims,
            refusal: rejection.map(Rejection::code),
            body_length: 0,
            body_ended: false,
        };
        Self { seen, progress }
    }

    /// As it stands now.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            body_length: self.progress.bytes.load(Ordering::SeqCst),
            body_ended: self.progress.ended.load(Ordering::SeqCst),
            ..self.seen.clone()
        }
    }
}
