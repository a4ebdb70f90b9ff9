//! A request of any door in one form: what it wants, canonically, and what it shows
//! of who sends it. From here on no stage knows which door it was.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use h2::ext::Protocol;
use http::{
    Method, Uri, Version,
    header::{EXPECT, HOST, TRANSFER_ENCODING},
    request::Parts,
    uri::PathAndQuery,
};

use crate::{
    identity::{Evidence, TunnelIdentity},
    observe::{Noted, Record, Recorder},
    primitives::{Authority, CanonicalPath, HostError, ListenerName},
    route::{Scheme, Table, Target},
};

use super::{
    AgentBody, Seat, Settings,
    error::{BadRequest, Error, RefusedMethod},
    interim::InterimSink,
    marks::{Mark, Marks},
    upgrade,
};

/// The door a request came through.
#[derive(Clone, Debug)]
pub enum Ingress {
    /// `HTTP_PROXY`: absolute-form requests.
    Forward { listener: ListenerName },
    /// SOCKS: tunnels and nothing else.
    Socks { listener: ListenerName },
    /// Inside an intercepted `CONNECT`, of HTTP or of SOCKS.
    Tunnel(Arc<Tunnel>),
    /// A base URL.
    Reverse { listener: ListenerName, mounts: Arc<[Mount]> },
}

/// A request as its agent sent it.
pub struct AgentRequest {
    /// Boxed: it is handed on from stage to stage.
    pub head: Box<Parts>,
    pub body: AgentBody,
}

/// Never the fields: the key is among them.
impl fmt::Debug for AgentRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentRequest").field("method", &self.head.method).finish_non_exhaustive()
    }
}

/// How one request arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    pub ingress: &'a Ingress,
    /// Inside a tunnel that isn't TLS.
    pub clear: bool,
    /// The connection's place among those of its agent.
    pub seat: &'a Seat,
    /// Where interim answers go: h1 connections have one.
    pub interim: Option<&'a InterimSink>,
}

/// An intercepted `CONNECT`: where it leads and who opened it.
#[derive(Debug)]
pub struct Tunnel {
    pub(super) listener: ListenerName,
    pub(super) authority: Authority,
    pub(super) identity: TunnelIdentity,
    /// For what comes through it: one count a request moves, and not two.
    pub(super) recorder: Arc<Recorder>,
    /// What it carries is being cut.
    revoked: AtomicBool,
}

impl Tunnel {
    pub(super) fn new(
        listener: ListenerName,
        authority: Authority,
        identity: TunnelIdentity,
        recorder: Arc<Recorder>,
    ) -> Self {
        Self { listener, authority, identity, recorder, revoked: AtomicBool::new(false) }
    }

    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// A prefix of a reverse listener's paths, and where it leads; the prefix is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Starts and ends with `/`.
    pub prefix: String,
    pub scheme: Scheme,
    pub authority: Authority,
    /// The upstream URL's own path, without a `/` at the end; put before what is left.
    pub base_path: String,
}

impl Ingress {
    pub(super) fn listener(&self) -> &ListenerName {
        match self {
            Self::Forward { listener } | Self::Socks { listener } | Self::Reverse { listener, .. } => listener,
            Self::Tunnel(tunnel) => &tunnel.listener,
        }
    }

    /// Where everything that comes through this door leads, if that is one place.
    pub(super) fn authority(&self) -> Option<&Authority> {
        match self {
            Self::Tunnel(tunnel) => Some(&tunnel.authority),
            Self::Forward { .. } | Self::Socks { .. } | Self::Reverse { .. } => None,
        }
    }
}

/// A request whose target is canonical and whose framing is plain. Not `Debug`: its fields
/// hold the agent's key.
pub(super) struct Inbound<'a> {
    pub(super) arrival: Arrival<'a>,
    pub(super) parts: Box<Parts>,
    pub(super) body: AgentBody,
    /// Of the fields as they came.
    pub(super) marks: Marks,
    /// What an extended `CONNECT` asked for.
    pub(super) extended: Option<Protocol>,
    target: Target,
}

impl<'a> Inbound<'a> {
    /// Refuses what can't be judged; repairs nothing (threats R6).
    pub(super) fn normalise(
        arrival: Arrival<'a>,
        routes: &Table,
        settings: &Settings,
        request: AgentRequest,
    ) -> Result<Self, Error> {
        let AgentRequest { head: mut parts, body } = request;
        check_size(&parts, settings)?;
        let extended = upgrade::extended(&mut parts);
        let marks = Marks::of(&parts.headers);
        check_framing(&parts, marks)?;
        check_method(&parts.method)?;
        let target = match arrival.ingress {
            Ingress::Forward { .. } => {
                let seat = arrival.seat;
                forward_target(&parts.method, &parts.uri, routes, |text, port| seat.authority(text, port))?
            }
            Ingress::Tunnel(tunnel) => tunnel_target(&parts, tunnel, arrival.clear, routes)?,
            // No request comes this way but inside a tunnel.
            Ingress::Socks { .. } => return Err(BadRequest::Socks.into()),
            Ingress::Reverse { mounts, .. } => reverse_target(&parts, mounts)?,
        };
        // Scheme and authority are the permit's to say. In origin-form it is as it has to be.
        let is_so = |path: &PathAndQuery| says(path, &target.path);
        if parts.uri.authority().is_some() || !parts.uri.path_and_query().is_some_and(is_so) {
            parts.uri = upstream_path(&target, &parts.uri)?.into();
        }
        Ok(Self { arrival, parts, body, marks, extended, target })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn evidence(&self) -> Evidence<'_> {
        match self.arrival.ingress {
            Ingress::Forward { .. } | Ingress::Socks { .. } => Evidence::Proxy(&self.parts.headers),
            Ingress::Tunnel(tunnel) => Evidence::Tunnel(&tunnel.identity),
            Ingress::Reverse { .. } => Evidence::Reverse(&self.parts.headers),
        }
    }

    /// The agent's key may stand in `Authorization`.
    pub(super) fn is_reverse(&self) -> bool {
        matches!(self.arrival.ingress, Ingress::Reverse { .. })
    }
}

impl Noted for Inbound<'_> {
    fn note(&self, record: &mut Record) {
        record.asked.authority.set(&self.target.authority);
        record.asked.path = Some(self.target.path.clone());
        if self.extended.is_some() {
            record.asked.method = Some(self.target.method.clone());
        }
    }
}

/// What is longer than a whole head may be was refused where it was read.
fn check_size(head: &Parts, settings: &Settings) -> Result<(), BadRequest> {
    let uri = &head.uri;
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    if path + uri.authority().map_or(0, |authority| authority.as_str().len()) > settings.request_target {
        return Err(BadRequest::TargetTooLong);
    }
    if head.headers.len() > settings.request_fields {
        return Err(BadRequest::TooManyFields);
    }
    Ok(())
}

/// What both engines let pass of standards 3.4, in one version or the other.
fn check_framing(parts: &Parts, marks: Marks) -> Result<(), BadRequest> {
    if marks.has(Mark::TRANSFER_ENCODING) {
        let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
        let is_chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !is_chunked || codings.next().is_some() || marks.has(Mark::CONTENT_LENGTH) {
            return Err(BadRequest::Framing);
        }
    }
    if marks.has_two(Mark::CONTENT_LENGTH.and(Mark::HOST)) {
        return Err(BadRequest::Framing);
    }
    if !marks.has(Mark::EXPECT) {
        return Ok(());
    }
    let mut expectations = parts.headers.get_all(EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        _ => Err(BadRequest::Expectation),
    }
}

pub(super) fn check_method(method: &Method) -> Result<(), BadRequest> {
    // Methods are case-sensitive, but not every server knows.
    let is = |name: &str| method.as_str().eq_ignore_ascii_case(name);
    let refused = [RefusedMethod::Trace, RefusedMethod::Track, RefusedMethod::Connect];
    match refused.into_iter().find(|refused| is(refused.as_str())) {
        Some(refused) => Err(BadRequest::Method(refused)),
        None => Ok(()),
    }
}

/// Absolute-form (RFC 9112 §3.2.2): the target decides and `Host` is ignored. `authority` reads
/// one; what stands for its port is the scheme's.
pub(super) fn forward_target(
    method: &Method,
    uri: &Uri,
    routes: &Table,
    authority: impl FnOnce(&str, u16) -> Result<Authority, HostError>,
) -> Result<Target, Error> {
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some(_) => return Err(BadRequest::Scheme.into()),
        None => return Err(BadRequest::NotAbsoluteForm.into()),
    };
    let text = uri.authority().map_or("", http::uri::Authority::as_str);
    let authority = authority(text, scheme.default_port())?;
    let path = CanonicalPath::parse(uri.path())?;
    Ok(upgraded(Target { scheme, authority, method: method.clone(), path }, routes))
}

/// Inside a tunnel the tunnel's authority decides; whatever else the request names
/// has to agree (threats 42 and 43).
fn tunnel_target(parts: &Parts, tunnel: &Tunnel, clear: bool, routes: &Table) -> Result<Target, Error> {
    let scheme = if clear { Scheme::Http } else { Scheme::Https };
    let agrees = |text: &str| tunnel.authority.is_named_by(text, scheme.default_port());
    if parts.uri.scheme_str().is_some_and(|named| named != scheme.as_str()) {
        return Err(Error::TargetMismatch);
    }
    if parts.uri.authority().is_some_and(|named| !agrees(named.as_str())) {
        return Err(Error::TargetMismatch);
    }
    match parts.headers.get(HOST).map(|host| host.to_str()) {
        Some(Ok(host)) if agrees(host) => {}
        Some(_) => return Err(Error::TargetMismatch),
        // h2 names its authority in a pseudo-field.
        None if parts.version == Version::HTTP_2 && parts.uri.authority().is_some() => {}
        None => return Err(BadRequest::Host.into()),
    }
    let path = CanonicalPath::parse(parts.uri.path())?;
    let target = Target { scheme, authority: tunnel.authority.clone(), method: parts.method.clone(), path };
    Ok(upgraded(target, routes))
}

/// A base URL: the listener decides, `Host` names the listener and is ignored.
fn reverse_target(parts: &Parts, mounts: &[Mount]) -> Result<Target, Error> {
    let path = CanonicalPath::parse(parts.uri.path())?;
    let matches = |mount: &&Mount| {
        path.as_str().starts_with(&mount.prefix) || path.as_str() == mount.prefix.trim_end_matches('/')
    };
    let mount = mounts.iter().find(matches).ok_or(Error::NoRoute)?;
    let whole_host = mounts.len() == 1 && mount.prefix == "/" && mount.base_path.is_empty();
    // `/a/../b` would lead out of the mount, or out of the upstream's own path.
    if !whole_host && path.is_ambiguous() {
        return Err(BadRequest::AmbiguousPath.into());
    }
    let rest = path.as_str().get(mount.prefix.len()..).unwrap_or("");
    let path = if mount.prefix == "/" && mount.base_path.is_empty() {
        path
    } else {
        CanonicalPath::parse(&format!("{}/{rest}", mount.base_path))?
    };
    Ok(Target { scheme: mount.scheme, authority: mount.authority.clone(), method: parts.method.clone(), path })
}

/// `upgrade_http`: what the agent asks of `http://host` goes to `https://host`.
fn upgraded(target: Target, routes: &Table) -> Target {
    let upgraded = (target.scheme == Scheme::Http).then(|| routes.upgrade_http(&target.authority)).flatten();
    match upgraded {
        Some(authority) => Target { scheme: Scheme::Https, authority, ..target },
        None => target,
    }
}

/// The path that goes upstream: what was decided on, with the agent's query.
/// Whether it is sent as it was decided on. A query alone means `/` and doesn't say so, which
/// HTTP/2 takes for malformed (RFC 9113 §8.3.1).
fn says(asked: &PathAndQuery, decided: &CanonicalPath) -> bool {
    asked.path() == decided.as_str() && asked.as_str().starts_with('/')
}

fn upstream_path(target: &Target, asked: &Uri) -> Result<PathAndQuery, BadRequest> {
    match asked.path_and_query() {
        Some(same) if says(same, &target.path) => Ok(same.clone()),
        Some(other) => {
            let query = other.query().map_or(String::new(), |query| format!("?{query}"));
            PathAndQuery::try_from(format!("{}{query}", target.path)).map_err(|_| BadRequest::Framing)
        }
        None => Ok(PathAndQuery::from_static("/")),
    }
}

/// The whole URI that goes upstream, for `explain`.
pub(super) fn upstream_uri(target: &Target, asked: &Uri) -> Result<Uri, Error> {
    let authority = if target.authority.port() == target.scheme.default_port() {
        let text = target.authority.as_str();
        &text[..text.rfind(':').unwrap_or(text.len())]
    } else {
        target.authority.as_str()
    };
    Uri::builder()
        .scheme(target.scheme.as_str())
        .authority(authority)
        .path_and_query(upstream_path(target, asked)?)
        .build()
        .map_err(|_| BadRequest::Framing.into())
}

/// A token in the query (RFC 6750 §2.3) on a route that injects one. Some servers split a
/// query at `;`, too; all of them decode a parameter's name.
pub(super) fn has_token_in_query(uri: &Uri) -> bool {
    let name = |pair: &str| is_spelled(pair.split('=').next().unwrap_or(""), b"access_token");
    uri.query().is_some_and(|query| query.split(['&', ';']).any(name))
}

/// Whether `text` is `word` once its percent-encoded characters are decoded, in any case.
fn is_spelled(text: &str, word: &[u8]) -> bool {
    let mut rest = text.as_bytes();
    let mut spelled = word.iter();
    loop {
        let (byte, after) = match rest {
            [] => return spelled.next().is_none(),
            [b'%', high, low, after @ ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                match (digit(high), digit(low)) {
                    (Some(high), Some(low)) => ((high * 16 + low) as u8, after),
                    _ => return false,
                }
            }
            [byte, after @ ..] => (*byte, after),
        };
        if !spelled.next().is_some_and(|wanted| wanted.eq_ignore_ascii_case(&byte)) {
            return false;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(prefix: &str, base_path: &str) -> Mount {
        let authority = Authority::parse("orders.test", Some(443)).unwrap();
        Mount { prefix: prefix.into(), scheme: Scheme::Https, authority, base_path: base_path.into() }
    }

    fn through(mounts: &[Mount], path: &str) -> Result<String, Error> {
        let (parts, ()) = http::Request::get(path).body(()).unwrap().into_parts();
        Ok(reverse_target(&parts, mounts)?.path.as_str().to_owned())
    }

    #[test]
    fn what_is_sent_says_the_path_that_was_decided_on() {
        for (asked, sent) in [
            ("/a?b", "/a?b"),
            ("http://a.test/a?b", "/a?b"),
            ("http://a.test", "/"),
            ("http://a.test?b", "/?b"),
            ("http://a.test/?b", "/?b"),
        ] {
            let uri: Uri = asked.parse().unwrap();
            let authority = Authority::parse("a.test", Some(80)).unwrap();
            let path = CanonicalPath::parse(uri.path()).unwrap();
            let target = Target { scheme: Scheme::Http, authority, method: Method::GET, path };
            assert_eq!(upstream_path(&target, &uri).unwrap().as_str(), sent, "{asked}");
        }
        let lone = PathAndQuery::from_static("?b");
        assert!(!says(&lone, &CanonicalPath::parse("/").unwrap()), "as it may come over HTTP/2");
    }

    #[test]
    fn nothing_leads_out_of_a_mount() {
        let only = [mount("/", "/api/v1")];
        assert_eq!(through(&only, "/orders/7").unwrap(), "/api/v1/orders/7");
        let prefixed = [mount("/orders/", "")];
        assert_eq!(through(&prefixed, "/orders/7").unwrap(), "/7");
        assert_eq!(through(&prefixed, "/orders").unwrap(), "/");
        for path in ["/../admin", "/%2e%2e/admin", "/..%2Fadmin", "/orders/../../admin", "/orders//admin"] {
            assert!(through(&only, path).is_err(), "{path}");
            assert!(through(&prefixed, path).is_err(), "{path}");
        }
        // Where the mount is the whole host there is nothing to lead out of; rules judge it.
        assert_eq!(through(&[mount("/", "")], "/a/../b").unwrap(), "/a/../b");
    }

    #[test]
    fn a_token_in_the_query_is_found_however_it_is_spelled() {
        let has = |text: &str| has_token_in_query(&text.parse().unwrap());
        for yes in
            ["/?access_token=x", "/?a=b&ACCESS_token", "/?access%5Ftoken=x", "/?%61ccess_token=x", "/?a;access_token=x"]
        {
            assert!(has(yes), "{yes}");
        }
        for no in
            ["/", "/?q=access_token", "/?access_tokens=x", "/?access_toke=x", "/access_token=x", "/?access%5token=x"]
        {
            assert!(!has(no), "{no}");
        }
    }
}
