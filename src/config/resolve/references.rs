//! Credentials that feed on each other: who is named is there, has what is wanted, and
//! doesn't wait for the one that waits for it.

use crate::credential::{client_auth::Client, grant::Grant, step::Which};

use super::{
    super::{
        document::Document,
        problem::shown,
        raw::credentials::{Credential, Reference, Step},
    },
    dangling, lint, raw,
};

pub(super) fn check(doc: &Document<'_>, raw: &raw::Config) {
    let known: Vec<&str> = raw.credentials.iter().map(|credential| credential.text.value.as_str()).collect();
    let mut misnamed = false;
    for step in raw.credentials.iter().flat_map(|credential| &credential.steps) {
        for reference in &step.notes.references {
            if let Some(other) = named(raw, &reference.name.value) {
                feed(doc, step, reference, other);
            } else {
                misnamed = true;
                dangling(doc, &reference.name, "credential", "credentials", &known);
            }
        }
    }
    if !misnamed {
        raw.credentials.iter().for_each(|credential| hosts(doc, raw, credential));
    }
    cycles(doc, raw);
}

fn named<'r>(raw: &'r raw::Config, name: &str) -> Option<&'r Credential> {
    raw.credentials.iter().find(|credential| credential.text.value == name)
}

/// `step` wants `reference` of `other`.
fn feed(doc: &Document<'_>, step: &Step, reference: &Reference, other: &Credential) {
    let (name, span) = (shown(&other.text.value), &reference.name.span);
    if other.steps.iter().any(|step| step.notes.takes_the_agents_token) {
        let message = format!("the tokens of `{name}` are one agent's each: no other credential can use them");
        doc.problem(span, message, "exchange the agent's token here: `{ agent = true }`");
    }
    let Some(last) = other.steps.last() else { return };
    let Some(kind) = last.kind.filter(|_| reference.which != Which::AccessToken) else { return };
    let token = if reference.which == Which::IdToken { "ID token" } else { "refresh token" };
    if !matches!(&last.grant, Some(Grant::Login(login)) if login.of.is_none()) {
        if kind.is_login() && last.grant.is_none() {
            return;
        }
        let message = format!("the credential `{name}` holds no {token} of its own");
        let help = "name one with the grant \"authorization_code\", \"device_code\" or \"refresh_token\"";
        doc.problem(span, message, help);
    } else if reference.is_login && !has_same_client(step, last) {
        let message = format!("the refresh token of `{name}` was issued by another server or to another client");
        doc.problem(span, message, format!("use the `authorization_server` and the `client_id` of `{name}`"));
    }
}

/// A refresh token is of use to whom it was issued (RFC 6749 §6).
fn has_same_client(one: &Step, other: &Step) -> bool {
    let server = |step: &Step| step.server.as_ref().map(|server| server.value.clone());
    let id = |client: &Option<Client>| client.as_ref().map(|client| client.id.clone());
    // A client that couldn't be read has its own problem.
    let comparable = one.client.is_some() && other.client.is_some();
    server(one) == server(other) && (!comparable || id(&one.client) == id(&other.client))
}

/// A token that goes nowhere is one that others feed on.
fn hosts(doc: &Document<'_>, raw: &raw::Config, credential: &Credential) {
    let name = &credential.text.value;
    let route = raw.routes.iter().filter_map(|route| route.credential.as_ref()).any(|used| used.value == *name);
    if !credential.has_hosts && (route || !lint::is_fed_on(raw, name)) {
        let message = format!("[credentials.{}] has no `hosts`", shown(name));
        doc.problem(&credential.text.span, message, "add `hosts = [\"api.example.com\"]`");
    }
}

/// Each circle once, told whole.
fn cycles(doc: &Document<'_>, raw: &raw::Config) {
    let mut done: Vec<&str> = Vec::new();
    for credential in &raw.credentials {
        walk(doc, raw, credential, &mut Vec::new(), &mut done);
    }
}

fn walk<'r>(
    doc: &Document<'_>,
    raw: &'r raw::Config,
    credential: &'r Credential,
    way: &mut Vec<&'r str>,
    done: &mut Vec<&'r str>,
) {
    let name = credential.text.value.as_str();
    if done.contains(&name) {
        return;
    }
    way.push(name);
    for reference in credential.steps.iter().flat_map(|step| &step.notes.references) {
        let wanted = reference.name.value.as_str();
        if let Some(start) = way.iter().position(|earlier| *earlier == wanted) {
            let names: Vec<String> = way[start..].iter().chain([&wanted]).map(|name| shown(name)).collect();
            let message = format!("credentials that wait for each other: {}", names.join(" -> "));
            let help = "one of them has to get its token from somewhere else";
            doc.problem(&reference.name.span, message, help);
        } else if let Some(other) = named(raw, wanted) {
            walk(doc, raw, other, way, done);
        }
    }
    way.pop();
    done.push(name);
}
