//! A change of protocol (RFC 9110 §7.8), such as WebSocket's: asked for by the agent, allowed
//! by the route, and made only once the upstream's 101 names what was asked for (threat 65).
//! The token goes with the handshake; after it bytes pass as they are.
//!
//! ```text
//! Upgrade::asked -> Upgrade::write -> the upstream's 101 -> Upgrade::agrees -> Switched
//!                                     any other answer    -> HTTP goes on
//! ```
//!
//! Over HTTP/2 an agent asks by `CONNECT` with `:protocol` (RFC 8441). That becomes the `GET`
//! that it stands for before anything is judged, and an `Upgrade` upstream, whose handshake is
//! then ours to check.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::prelude::{BASE64_STANDARD, Engine};
use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, UPGRADE},
    request::Parts,
};

use crate::{
    identity::TunnelIdentity,
    primitives::RouteName,
    route::{Route, Target},
    upstream::{Sent, Upgraded},
};

use super::{
    Body, Error, Rules, Shared, Standing,
    forward::Answered,
    inbound::Inbound,
    marks::Mark,
    open::Open,
    respond::Answering,
    scrub::{Screened, Screening},
    tunnel::TunnelRecord,
};

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
    /// An agent that asks by `CONNECT` takes any 2xx for a yes.
    by_connect: bool,
    /// What a WebSocket server is sent by us, whose agent sends none over HTTP/2.
    key: Option<String>,
    /// Who asks, and for what, to be judged again later.
    identity: TunnelIdentity,
    target: Target,
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
    upstream: Option<Upgraded>,
    /// Where the token must not come back in its messages.
    screening: Option<Screening>,
    record: TunnelRecord,
}

// === impl Upgrade ===

impl Upgrade {
    /// What the agent asks for, as far as it may. Everything else that stands in `Upgrade` is
    /// ignored, as any server may do; so is the whole field in HTTP/1.0, where no `Connection`
    /// names it, and before a body, behind which it would have to wait.
    pub(super) fn asked(inbound: &Inbound<'_>, rules: &Rules, route: &Route) -> Result<Option<Box<Self>>, Error> {
        let fields = &inbound.parts.headers;
        if inbound.extended.is_none() && !inbound.marks.has(Mark::UPGRADE) {
            return Ok(None);
        }
        let (_, identity) = rules.registry.identify_tunnel(inbound.evidence())?;
        let asked =
            |tokens, by_connect, key| Self { tokens, by_connect, key, identity, target: inbound.target().clone() };
        if let Some(protocol) = &inbound.extended {
            // There is nothing else that such a request could be.
            let protocol = protocol.as_str();
            let tokens = HeaderValue::try_from(protocol).ok().filter(|_| route.allows_upgrade(protocol));
            let key = protocol.eq_ignore_ascii_case(WEBSOCKET).then(websocket_key);
            return Ok(Some(Box::new(asked(tokens.ok_or_else(|| NotAllowed::by(route))?, true, key))));
        }
        let bodiless = http_body::Body::is_end_stream(&inbound.body);
        if inbound.parts.version != Version::HTTP_11 || !bodiless || !names_upgrade(fields) {
            return Ok(None);
        }
        let allowed: Vec<_> = items(fields, &UPGRADE).filter(|token| route.allows_upgrade(token)).collect();
        if allowed.is_empty() {
            return match items(fields, &UPGRADE).any(|token| token.eq_ignore_ascii_case(WEBSOCKET)) {
                true => Err(NotAllowed::by(route).into()),
                false => Ok(None),
            };
        }
        let tokens = HeaderValue::try_from(allowed.join(", "));
        Ok(tokens.ok().map(|tokens| Box::new(asked(tokens, false, None))))
    }

    /// Asks the upstream; after everything of the agent's connection was removed.
    pub(super) fn write(&self, fields: &mut HeaderMap) {
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, self.tokens.clone());
        if let Some(key) = self.key.as_ref().and_then(|key| HeaderValue::try_from(key).ok()) {
            fields.insert(SEC_WEBSOCKET_KEY, key);
        }
    }

    /// Whether an answer other than 101 would be taken for what it isn't.
    pub(super) fn is_mistaken(&self, status: StatusCode) -> bool {
        self.by_connect && status.is_success()
    }

    /// Whether a 101 changes to one protocol, and to one that was asked for. `plainly`: in which
    /// the token can be looked for, so without an extension (RFC 6455 §4.1: none was asked for).
    pub(super) fn agrees(&self, fields: &HeaderMap, plainly: bool) -> bool {
        if plainly && fields.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            return false;
        }
        let asked = self.tokens.to_str().unwrap_or_default();
        let is_asked = |token: &str| asked.split(", ").any(|asked| asked.eq_ignore_ascii_case(token));
        let mut named = items(fields, &UPGRADE);
        let one = named.next().filter(|_| named.next().is_none());
        one.is_some_and(is_asked) && names_upgrade(fields) && self.is_accepted(fields)
    }

    /// What may be judged again of the connection that changed to `protocol`.
    fn standing(self, protocol: Option<&HeaderValue>) -> Standing {
        let protocol = protocol.and_then(|value| value.to_str().ok()).unwrap_or_default();
        Standing::upgraded(self.identity, self.target, protocol.to_owned())
    }

    /// RFC 6455 §4.1; what an agent itself sent is the agent's to check.
    fn is_accepted(&self, fields: &HeaderMap) -> bool {
        let Some(key) = &self.key else { return true };
        let mut accepted = fields.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        accepted.next().is_some_and(|value| value.as_bytes() == websocket_accept(key).as_bytes())
            && accepted.next().is_none()
    }
}

/// 16 bytes that nobody has used before. They keep a server that knows no WebSocket from
/// agreeing by accident, and are no secret.
fn websocket_key() -> String {
    let mut nonce = [0; 16];
    // Without random numbers there would be no TLS, and nobody to ask.
    let _ = aws_lc_rs::rand::fill(&mut nonce);
    BASE64_STANDARD.encode(nonce)
}

fn websocket_accept(key: &str) -> String {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest.finish())
}

/// What an extended `CONNECT` (RFC 8441 §4) asks for. The request becomes the one that rules
/// know, by the mapping of its §5.
pub(super) fn extended(head: &mut Parts) -> Option<Protocol> {
    let protocol = head.extensions.remove::<Protocol>().filter(|_| head.method == Method::CONNECT)?;
    head.method = Method::GET;
    Some(protocol)
}

/// Whether a `CONNECT` is one of RFC 8441, which asks for no tunnel.
pub fn is_extended(head: &Parts) -> bool {
    head.extensions.get::<Protocol>().is_some()
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
    pub(super) fn switch(self, upgrade: Upgrade, answered: Answered, shared: &Shared, open: Open) -> Answer {
        let Answered { sent: Sent { response, .. }, screening, .. } = answered;
        let (head, body) = response.into_parts();
        let (mut response, upstream) = (Response::from_parts(head, ()), body.into_upgraded());
        // The one that was agreed on, however the field is written.
        let protocol = items(response.headers(), &UPGRADE).next().and_then(|item| HeaderValue::from_str(item).ok());
        response.headers_mut().remove(UPGRADE);
        let record = TunnelRecord { open, standing: upgrade.standing(protocol.as_ref()) };
        let mut response = self.clean(response, shared).map(|_| Body::empty());
        if let Some(screening) = &screening {
            screening.clean(response.headers_mut());
        }
        let is_websocket = protocol.as_ref().is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
        let screening = screening.filter(|_| is_websocket);
        // The answer has no body, whatever it says.
        response.headers_mut().remove(CONTENT_LENGTH);
        if self.is_h2() {
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        } else if let Some(protocol) = protocol {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, protocol);
        }
        Answer { response, switched: Some(Box::new(Switched { upstream, screening, record })) }
    }
}

// === impl Switched ===

impl Switched {
    /// The upstream's stream, and the record, which wants [`TunnelRecord::end`].
    pub fn split(self) -> (Option<Screened<Upgraded>>, TunnelRecord) {
        (self.upstream.map(|io| Screened::new(io, self.screening)), self.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    #[test]
    fn a_key_is_accepted_as_the_rfc_says() {
        assert_eq!(websocket_accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_ne!(websocket_key(), websocket_key());
        assert_eq!(BASE64_STANDARD.decode(websocket_key()).unwrap().len(), 16);
    }
}
