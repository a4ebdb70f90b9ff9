//! Header fields at the border: strip first, inject last (threats R4, standards 3.2).
//!
//! Everything works in place on the map that was parsed; what leaves is serialised
//! anew by hyper and never relayed as bytes.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
};

use crate::{
    credential::{Lease, Recipient},
    identity,
    policy::Permit,
};

use super::{
    error::{BadRequest, Error},
    respond::{ERROR_FIELD, PROXY_STATUS},
};

/// Hop-by-hop fields besides those that `Connection` names (RFC 9110 §7.6.1).
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    HeaderName::from_static("http2-settings"),
];

/// What an agent could use to pretend a path or an identity (threat 6); a route never
/// needs it on the way out.
static SPOOFABLE: [HeaderName; 7] = [
    FORWARDED,
    HeaderName::from_static("x-agent"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("x-cluster-client-ip"),
    HeaderName::from_static("client-ip"),
    HeaderName::from_static("true-client-ip"),
];
/// `-for`, `-host`, `-proto`, `-prefix`, `-user`, `-email` …: there is no end to them.
const SPOOFABLE_PREFIX: &str = "x-forwarded-";

/// Fields by which some servers let a request change its method or path after the
/// rules have looked at it (threat 67).
static OVERRIDES: [HeaderName; 5] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

/// A proof of the agent's own would be about a token that isn't sent.
static DPOP: HeaderName = HeaderName::from_static("dpop");

/// Fields of a response that would lead the agent around the proxy (threat 84).
static ALTERNATIVES: [HeaderName; 2] = [HeaderName::from_static("alt-svc"), HeaderName::from_static("alt-used")];

/// Fields that are this proxy's to send (RFC 9110 §11.7.3).
static OURS: [HeaderName; 2] = [ERROR_FIELD, HeaderName::from_static("proxy-authentication-info")];

/// Fields that `Connection` must not name: removing one changes what the request means
/// or who it comes from (threats 12 and 13).
static PROTECTED: [HeaderName; 5] = [AUTHORIZATION, HOST, CONTENT_LENGTH, COOKIE, EXPECT];
const PROTECTED_PREFIXES: [&str; 4] = ["mcp-", SPOOFABLE_PREFIX, "proxy-", "dpop"];

/// Makes the agent's fields fit to be forwarded under `permit`, with ourselves in `Via`;
/// the token comes last, by [`inject`]. `received`: the version that the request came by;
/// `reverse`: through a base URL, so that the agent's key stands among the fields.
///
/// # Errors
/// The request has been here before, or `Connection` can't be obeyed.
pub fn rewrite_request(
    fields: &mut HeaderMap,
    permit: &Permit,
    via: &Via,
    received: Version,
    reverse: bool,
) -> Result<(), Error> {
    if has_looped(fields, via) {
        return Err(Error::Loop);
    }
    strip_request(fields, permit, reverse)?;
    add_via(fields, via, received);
    Ok(())
}

/// Puts the token in: exactly one `Authorization`, ours (or the field that the API wants).
pub fn inject(fields: &mut HeaderMap, lease: &Lease, to: &Recipient<'_>) -> Result<(), Error> {
    lease.authorize(fields, to).map_err(Error::Proof)
}

/// Makes the upstream's fields fit for the agent, with ourselves in `Via`.
pub fn rewrite_response(fields: &mut HeaderMap, via: &Via, received: Version) {
    strip_response(fields);
    add_via(fields, via, received);
}

fn strip_request(fields: &mut HeaderMap, permit: &Permit, reverse: bool) -> Result<(), BadRequest> {
    let trailers_accepted = accepts_trailers(fields);
    remove_connection_options(fields)?;
    remove_all(fields, &HOP_BY_HOP);
    remove_spoofable(fields);
    if !permit.route().methods.is_empty() || !permit.route().paths.is_empty() {
        remove_all(fields, &OVERRIDES);
    }
    if reverse {
        // The agent's key came in one of these.
        remove_reverse_key(fields, permit);
    }
    if permit.credential().is_some() {
        fields.remove(AUTHORIZATION);
        fields.remove(&DPOP);
        for name in &identity::REVERSE_FIELDS {
            fields.remove(name);
        }
    }
    if trailers_accepted {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// In reverse mode an agent's key may stand in any of these fields, so that none of them
/// passes, on a route without a credential either. Who is anonymous showed no key.
fn remove_reverse_key(fields: &mut HeaderMap, permit: &Permit) {
    if permit.agent().is_anonymous() {
        return;
    }
    for name in &identity::REVERSE_FIELDS {
        fields.remove(name);
    }
}

/// Cleans what the upstream sent; our own connection's fields are hyper's to write.
pub(super) fn strip_response(fields: &mut HeaderMap) {
    // An upstream's bad `Connection` harms nobody but its own answer.
    let _ = remove_connection_options(fields);
    remove_all(fields, &HOP_BY_HOP);
    remove_all(fields, &ALTERNATIVES);
    remove_ours(fields);
}

/// Trailers may not carry framing, routing or authentication (RFC 9110 §6.5.1).
pub(super) fn strip_trailers(fields: &mut HeaderMap) {
    remove_all(fields, &HOP_BY_HOP);
    remove_all(fields, &PROTECTED);
    remove_all(fields, &ALTERNATIVES);
    remove_ours(fields);
    remove_spoofable(fields);
    fields.remove(TRAILER);
}

/// Adds ourselves to `Via` (RFC 9110 §7.6.3). `received` is the version we received.
fn add_via(fields: &mut HeaderMap, via: &Via, received: Version) {
    let value = match received {
        Version::HTTP_2 => &via.h2,
        Version::HTTP_10 => &via.h10,
        _ => &via.h11,
    };
    fields.append(VIA, value.clone());
}

/// Whether this very proxy has handled the request before (threat 38).
fn has_looped(fields: &HeaderMap, via: &Via) -> bool {
    fields.get_all(VIA).iter().any(|value| {
        let mut entries = value.as_bytes().split(|byte| *byte == b',');
        entries.any(|entry| entry.trim_ascii().ends_with(via.pseudonym.as_bytes()))
    })
}

/// Our name in `Via`, and the field value ready for each version.
#[derive(Clone, Debug)]
pub struct Via {
    pseudonym: String,
    h10: HeaderValue,
    h11: HeaderValue,
    h2: HeaderValue,
}

impl Via {
    /// `instance` tells one process from another; it holds no secret.
    pub fn new(instance: u64) -> Self {
        let pseudonym = format!("cupbearer-{instance:016x}");
        let value = |version: &str| {
            // Hexadecimal digits and letters: always a valid field value.
            HeaderValue::try_from(format!("{version} {pseudonym}"))
                .unwrap_or_else(|_| HeaderValue::from_static("1.1 cupbearer"))
        };
        Self { h10: value("1.0"), h11: value("1.1"), h2: value("2"), pseudonym }
    }
}

fn accepts_trailers(fields: &HeaderMap) -> bool {
    fields.get_all(TE).iter().any(|value| {
        value.as_bytes().split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

fn remove_connection_options(fields: &mut HeaderMap) -> Result<(), BadRequest> {
    // The common cases hold nothing to remove; look before allocating.
    let plain = |value: &HeaderValue| {
        ["keep-alive", "close"].iter().any(|word| value.as_bytes().eq_ignore_ascii_case(word.as_bytes()))
    };
    if fields.get_all(CONNECTION).iter().all(plain) {
        return Ok(());
    }
    let named = fields
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
        .map(|option| HeaderName::from_bytes(option).map_err(|_| BadRequest::Connection))
        .collect::<Result<Vec<_>, _>>()?;
    let protected = |name: &HeaderName| {
        PROTECTED.contains(name)
            || (PROTECTED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)) && !HOP_BY_HOP.contains(name))
    };
    if named.iter().any(protected) {
        return Err(BadRequest::ConnectionNamesProtectedField);
    }
    for name in &named {
        fields.remove(name);
    }
    Ok(())
}

fn remove_all(fields: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        fields.remove(name);
    }
}

/// What an upstream would say in our name. What other proxies on the way say of
/// themselves (RFC 9209) passes.
fn remove_ours(fields: &mut HeaderMap) {
    remove_all(fields, &OURS);
    let names_us =
        |value: &HeaderValue| value.as_bytes().windows(9).any(|part| part.eq_ignore_ascii_case(b"cupbearer"));
    if fields.get_all(PROXY_STATUS).iter().any(names_us) {
        fields.remove(PROXY_STATUS);
    }
}

/// Removes what an agent could pretend to be with, also in the spelling that servers which
/// turn fields into variables (`HTTP_X_FORWARDED_FOR`) can't tell from it: `x_forwarded_for`.
fn remove_spoofable(fields: &mut HeaderMap) {
    remove_all(fields, &SPOOFABLE);
    let guarded = |name: &HeaderName| {
        let name = name.as_str();
        if name.starts_with(SPOOFABLE_PREFIX) {
            return true;
        }
        if !name.contains('_') {
            return false;
        }
        let dashed = name.replace('_', "-");
        let mut listed = HOP_BY_HOP.iter().chain(&SPOOFABLE).chain(&OVERRIDES).chain(&PROTECTED);
        dashed.starts_with(SPOOFABLE_PREFIX) || listed.any(|listed| *listed == *dashed)
    };
    let names: Vec<_> = fields.keys().filter(|name| guarded(name)).cloned().collect();
    remove_all(fields, &names);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(names: &[&'static str]) -> HeaderMap {
        names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x"))).collect()
    }

    fn left(fields: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn nobody_pretends_to_come_from_elsewhere_or_to_be_another() {
        let mut fields = map(&[
            "x-forwarded-for",
            "x-forwarded-user",
            "x_forwarded-email",
            "x_forwarded_for",
            "x_real_ip",
            "true-client-ip",
            "x_http_method_override",
            "content_length",
            "x-mine",
            "my_own",
        ]);
        remove_spoofable(&mut fields);
        assert_eq!(left(&fields), ["my_own", "x-mine"]);
    }

    #[test]
    fn an_upstream_does_not_speak_in_our_name() {
        let mut fields = map(&["x-cupbearer-error", "proxy-authentication-info", "alt-svc", "etag"]);
        fields.insert(PROXY_STATUS, HeaderValue::from_static("cdn; received-status=502, Cupbearer; error=dns_error"));
        let mut trailers = fields.clone();
        strip_response(&mut fields);
        strip_trailers(&mut trailers);
        assert_eq!(left(&fields), ["etag"]);
        assert_eq!(left(&trailers), ["etag"]);
        fields.insert(PROXY_STATUS, HeaderValue::from_static("cdn; received-status=502"));
        strip_response(&mut fields);
        assert_eq!(left(&fields), ["etag", "proxy-status"]);
    }
}
