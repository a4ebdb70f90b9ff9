//! Header fields at the border: strip first, inject last (threats R4, standards 3.2).
//!
//! Everything works in place on the map that was parsed; what leaves is serialised
//! anew and never relayed as bytes.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{CONNECTION, TE, VIA},
};

use crate::{
    credential::{Lease, Recipient},
    policy::Permit,
};

use super::{
    error::{BadRequest, Error},
    marks::{Mark, Marks},
    respond::PROXY_STATUS,
    scrub,
};

/// Families of fields that `Connection` must not name either.
const PROTECTED_PREFIXES: [&str; 4] = ["mcp-", "x-forwarded-", "proxy-", "dpop"];

/// Makes the agent's fields fit to be forwarded under `permit`, with ourselves in `Via`;
/// the token comes last, by [`inject`]. `marks`: of the fields as they came; `received`: the
/// version that the request came by; `reverse`: through a base URL, so that the agent's key
/// stands among the fields.
///
/// # Errors
/// The request has been here before, or `Connection` can't be obeyed.
pub fn rewrite_request(
    (fields, marks): (&mut HeaderMap, Marks),
    permit: &Permit<'_>,
    via: &Via,
    received: Version,
    reverse: bool,
) -> Result<(), Error> {
    if marks.has(Mark::VIA) && has_looped(fields, via) {
        return Err(Error::Loop);
    }
    strip_request(fields, marks, permit, reverse)?;
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

fn strip_request(fields: &mut HeaderMap, marks: Marks, permit: &Permit<'_>, reverse: bool) -> Result<(), BadRequest> {
    let trailers_accepted = marks.has(Mark::TE) && accepts_trailers(fields);
    if marks.has(Mark::CONNECTION) {
        remove_connection_options(fields)?;
    }
    let route = permit.route();
    let has_rules = !route.methods.is_empty() || !route.paths.is_empty();
    let has_credential = permit.credential().is_some();
    // In reverse mode an agent's key may stand in any of these fields, so that none of them
    // passes, on a route without a credential either. Who is anonymous showed no key.
    let may_hold_a_key = has_credential || (reverse && !permit.agent().is_anonymous());
    let mut unwanted = Mark::HOP_BY_HOP.and(Mark::SPOOFABLE);
    for (mark, is_unwanted) in
        [(Mark::OVERRIDE, has_rules), (Mark::AGENT_KEY, may_hold_a_key), (Mark::DPOP, has_credential)]
    {
        unwanted = if is_unwanted { unwanted.and(mark) } else { unwanted };
    }
    marks.remove(unwanted, fields);
    if marks.has(Mark::FORM) && permit.credential().is_some_and(|credential| credential.scrub) {
        scrub::prefer_readable(fields);
    }
    if trailers_accepted {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Cleans what the upstream sent; our own connection's fields are the engine's to write.
pub(super) fn strip_response(fields: &mut HeaderMap) {
    let marks = Marks::of(fields);
    if marks.has(Mark::CONNECTION) {
        // An upstream's bad `Connection` harms nobody but its own answer.
        let _ = remove_connection_options(fields);
    }
    marks.remove(Mark::HOP_BY_HOP.and(Mark::ALTERNATIVE).and(Mark::OURS), fields);
    if marks.has(Mark::PROXY_STATUS) {
        remove_our_status(fields);
    }
}

/// Trailers may not carry framing, routing or authentication (RFC 9110 §6.5.1).
pub(super) fn strip_trailers(fields: &mut HeaderMap) {
    const UNWANTED: Mark = Mark::HOP_BY_HOP
        .and(Mark::SPOOFABLE)
        .and(Mark::PROTECTED)
        .and(Mark::OVERRIDE)
        .and(Mark::AGENT_KEY)
        .and(Mark::DPOP)
        .and(Mark::ALTERNATIVE)
        .and(Mark::OURS)
        .and(Mark::TRAILER);
    Marks::of(fields).remove(UNWANTED, fields);
    remove_our_status(fields);
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
        // Made once a process and kept as long as it runs: what is static isn't counted, and two
        // counts a message would be shared by all workers. Hexadecimal digits and letters are
        // always a valid field value.
        let value = |version: &str| HeaderValue::from_static(format!("{version} {pseudonym}").leak());
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
        let mark = Mark::of(name);
        let family = || PROTECTED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
        mark.is(Mark::PROTECTED) || (!mark.is(Mark::HOP_BY_HOP) && family())
    };
    if named.iter().any(protected) {
        return Err(BadRequest::ConnectionNamesProtectedField);
    }
    for name in &named {
        fields.remove(name);
    }
    Ok(())
}

/// What an upstream would say in our name. What other proxies on the way say of
/// themselves (RFC 9209) passes.
fn remove_our_status(fields: &mut HeaderMap) {
    let names_us =
        |value: &HeaderValue| value.as_bytes().windows(9).any(|part| part.eq_ignore_ascii_case(b"cupbearer"));
    if fields.get_all(PROXY_STATUS).iter().any(names_us) {
        fields.remove(PROXY_STATUS);
    }
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
            "x-http-method-override",
            "x-api-key",
            "dpop",
            "x-mine",
            "my_own",
        ]);
        strip_trailers(&mut fields);
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
