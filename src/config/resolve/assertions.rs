//! Assertions that are made here against the servers that see them: an audience has to be
//! known, and none of two servers may use at the other what it was shown (E4).

use crate::credential::{Location, Source, step::AudMode};

use super::{
    super::{document::Document, problem::Span, raw::credentials::Step},
    raw,
};

/// A key, and a server that sees what it signs.
struct Use<'r> {
    key: &'r Source,
    server: &'r str,
    /// Its name, for messages.
    name: &'r str,
    risky: bool,
    span: &'r Span,
}

pub(super) fn check(doc: &Document<'_>, raw: &raw::Config) {
    let mut uses: Vec<Use<'_>> = Vec::new();
    for step in raw.credentials.iter().flat_map(|credential| &credential.steps) {
        // A server that isn't there has its own problem.
        let Some((name, location)) = server(raw, step) else { continue };
        for signed in &step.notes.signed {
            if signed.aud == AudMode::Issuer && !matches!(location, Some(Location::Issuer(_))) {
                no_issuer(doc, step, name, &signed.span);
            }
            let server = step.place.as_ref().map_or(location.map_or("", Location::url), |place| place.url.as_str());
            let risky = matches!(signed.aud, AudMode::TokenEndpoint | AudMode::Endpoint);
            uses.extend(signed.keys.iter().map(|key| Use { key, server, name, risky, span: &signed.span }));
        }
    }
    for one in uses.iter().filter(|one| one.risky) {
        let other = uses.iter().find(|other| other.key == one.key && other.server != one.server);
        if let Some(other) = other {
            let message = format!(
                "this key signs for `{}` too: with an endpoint as audience, one server could use an assertion at the other",
                other.name
            );
            let help = "write `aud_mode = \"issuer\"`, or give each server a key of its own (RFC 10070)";
            doc.problem(one.span, message, help);
        }
    }
}

/// The server of a step: its name, and where it is. `None`: it has one, but not a good one.
fn server<'r>(raw: &'r raw::Config, step: &'r Step) -> Option<(&'r str, Option<&'r Location>)> {
    match (&step.server, &step.place) {
        (Some(reference), _) => {
            let server = raw.servers.iter().find(|server| server.text.value == reference.value)?;
            Some((server.text.value.as_str(), Some(server.location.as_ref()?)))
        }
        (None, Some(place)) => Some((place.host.as_str(), None)),
        (None, None) if step.kind.is_some_and(raw::credentials::Kind::is_served) => None,
        (None, None) => Some(("", None)),
    }
}

fn no_issuer(doc: &Document<'_>, step: &Step, name: &str, span: &Span) {
    let others = "write `aud_mode = \"token_endpoint\"`, or `aud = \"…\"` as the server wants it";
    if step.server.is_some() {
        let message = format!("the audience is the issuer, and the authorization server `{name}` names none");
        doc.problem(span, message, format!("add `issuer` to [authorization_servers.{name}], or {others}"));
    } else {
        doc.problem(span, "the audience is the issuer, and there is none here", others);
    }
}
