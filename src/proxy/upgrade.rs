//! A change of protocol (RFC 9110 §7.8), such as WebSocket's: asked for by the agent, allowed
//! by the route, and made only once the upstream's 101 names what was asked for (threat 65).
//! The token goes with the handshake; after it bytes pass as they are.
//!
//! ```text
//! Upgrade::asked -> Upgrade::write -> the upstream's 101 -> Upgrade::agrees -> Switched
//!                                     any other answer    -> HTTP goes on
//! ```

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, Version,
    header::{CONNECTION, CONTENT_LENGTH, UPGRADE},
    request::Parts,
};
use hyper::upgrade::{OnUpgrade, Upgraded};

use crate::{
    policy::Permit,
    primitives::RouteName,
    route::Route,
    upstream::{ConnectionGuard, Sent},
};

use super::{Body, Error, Shared, open::Open, respond::Answering, tunnel::TunnelRecord};

/// The one protocol whose handshake is nothing without it, so that a route that doesn't
/// allow it says so instead of passing on half a request.
const WEBSOCKET: &str = "websocket";

/// A route doesn't allow the protocol that a request is all about.
#[derive(Debug, thiserror::Error)]
#[error("the route `{route}` doesn't allow the protocol")]
pub struct NotAllowed {
    pub route: RouteName,
}

/// The protocols that a request asks for and its route allows.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// As `Upgrade` has them; at least one.
    tokens: HeaderValue,
}

/// What became of a request.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<Body>,
    /// The response is a 101 and this is what follows it.
    pub switched: Option<Box<Switched>>,
}

/// The upstream's side of a connection that changed its protocol.
#[derive(Debug)]
pub struct Switched {
    upstream: OnUpgrade,
    connection: ConnectionGuard,
    open: Open,
}

// === impl Upgrade ===

impl Upgrade {
    /// What the agent asks for, as far as it may. Everything else that stands in `Upgrade` is
    /// ignored, as any server may do; so is the whole field in HTTP/1.0, where no `Connection`
    /// names it, and before a body, behind which it would have to wait.
    pub(super) fn asked(head: &Parts, bodiless: bool, permit: &Permit) -> Result<Option<Self>, Error> {
        let fields = &head.headers;
        let fits = head.version == Version::HTTP_11 && bodiless;
        if !fields.contains_key(UPGRADE) || !fits || !names_upgrade(fields) {
            return Ok(None);
        }
        let route = permit.route();
        let allowed: Vec<_> = items(fields, &UPGRADE).filter(|token| route.allows_upgrade(token)).collect();
        if allowed.is_empty() {
            return match items(fields, &UPGRADE).any(|token| token.eq_ignore_ascii_case(WEBSOCKET)) {
                true => Err(NotAllowed::by(route).into()),
                false => Ok(None),
            };
        }
        let tokens = HeaderValue::try_from(allowed.join(", "));
        Ok(tokens.ok().map(|tokens| Self { tokens }))
    }

    /// Asks the upstream; after everything of the agent's connection was removed.
    pub(super) fn write(&self, fields: &mut HeaderMap) {
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, self.tokens.clone());
    }

    /// Whether a 101 changes to one protocol, and to one that was asked for.
    pub(super) fn agrees(&self, fields: &HeaderMap) -> bool {
        let asked = self.tokens.to_str().unwrap_or_default();
        let is_asked = |token: &str| asked.split(", ").any(|asked| asked.eq_ignore_ascii_case(token));
        let mut named = items(fields, &UPGRADE);
        let one = named.next().filter(|_| named.next().is_none());
        one.is_some_and(is_asked) && names_upgrade(fields)
    }
}

fn names_upgrade(fields: &HeaderMap) -> bool {
    items(fields, &CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// The items of a field that is a list; those that aren't text are no protocol's name.
fn items<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = fields.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

impl NotAllowed {
    fn by(route: &Route) -> Self {
        Self { route: route.name.clone() }
    }
}

// === impl Answer ===

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self { response, switched: None }
    }
}

impl Answering {
    /// The upstream's 101, which was asked for.
    pub(super) fn switch(self, sent: Sent, shared: &Shared, open: Open) -> Answer {
        let Sent { mut response, connection, .. } = sent;
        let upstream = hyper::upgrade::on(&mut response);
        let protocol = response.headers_mut().remove(UPGRADE);
        let mut response = self.clean(response, shared).map(|_| Body::empty());
        // The answer has no body, whatever it says.
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            response.headers_mut().insert(UPGRADE, protocol);
        }
        Answer { response, switched: Some(Box::new(Switched { upstream, connection, open })) }
    }
}

// === impl Switched ===

impl Switched {
    /// The upstream's stream, and the record, which wants [`TunnelRecord::end`].
    pub async fn split(self) -> (hyper::Result<Upgraded>, TunnelRecord) {
        let upstream = self.upstream.await;
        drop(self.connection);
        (upstream, TunnelRecord(self.open))
    }
}
