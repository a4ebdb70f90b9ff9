//! What is allowed but probably not meant.

use crate::route::{Effect, Scheme};

use super::{
    super::{
        document::Document,
        problem::shown,
        raw::listeners::{is_loopback, origin},
    },
    raw,
};

pub(super) fn warn(doc: &Document<'_>, raw: &raw::Config) {
    unused(doc, raw);
    reverse(doc, raw);
    clear_text(doc, raw);
    direct(doc, raw);
}

fn direct(doc: &Document<'_>, raw: &raw::Config) {
    let direct = raw.routes.iter().filter_map(|route| route.direct.as_ref());
    for flag in direct.filter(|flag| flag.value && raw.parent.is_none()) {
        doc.warning(&flag.span, "`direct` does nothing: there is no [upstream] `proxy`", "take it out");
    }
}

/// Whether another credential uses the tokens of `name`.
pub(super) fn is_fed_on(raw: &raw::Config, name: &str) -> bool {
    let steps = raw.credentials.iter().filter(|other| other.text.value != name).flat_map(|other| &other.steps);
    steps.flat_map(|step| &step.notes.references).any(|reference| reference.name.value == name)
}

fn unused(doc: &Document<'_>, raw: &raw::Config) {
    let allowing = || raw.routes.iter().filter(|route| route.effect == Effect::Allow);
    let listed: Vec<&str> =
        allowing().filter_map(|route| route.agents.as_ref()).flatten().map(|agent| agent.value.as_str()).collect();
    for agent in &raw.agents {
        let name = agent.text.value.as_str();
        if !listed.contains(&name) && !listed.contains(&"*") {
            let message = format!("no route allows the agent `{}` anything", shown(name));
            doc.warning(
                &agent.text.span,
                message,
                format!("add \"{}\" to a route's `agents`, or take the agent out", shown(name)),
            );
        }
    }
    for credential in &raw.credentials {
        let name = &credential.text.value;
        let by_route = raw.routes.iter().filter_map(|route| route.credential.as_ref()).any(|used| used.value == *name);
        let used = by_route || is_fed_on(raw, name);
        if !used {
            let message = format!("no route uses the credential `{}`", shown(name));
            doc.warning(
                &credential.text.span,
                message,
                format!("add `credential = \"{}\"` to a route, or take it out", shown(name)),
            );
        }
    }
}

fn reverse(doc: &Document<'_>, raw: &raw::Config) {
    for mount in raw.reverse.iter().flat_map(|door| &door.mounts) {
        let (scheme, authority) = (mount.value.scheme, &mount.value.authority);
        let mut naming = raw.routes.iter().filter(|route| {
            route.effect == Effect::Allow
                && route.hosts.iter().any(|host| host.pattern.matches(authority, Some(scheme)))
        });
        let upstream = origin(scheme, authority);
        let (mut any, mut usable) = (false, false);
        for route in naming.by_ref() {
            any = true;
            let plaintext = route.danger_allow_plaintext.as_ref().is_some_and(|flag| flag.value);
            usable |= scheme == Scheme::Https || route.credential.is_none() || plaintext || route.upgrade_http;
        }
        if !any {
            let message = format!("no route allows {upstream}: every request that comes in here will be refused");
            doc.warning(&mount.span, message, format!("add a route with `hosts = [\"{}\"]`", authority.host()));
        } else if !usable {
            let message = format!("no token goes to {upstream}: it is clear text");
            doc.warning(&mount.span, message, "write https://, or requests that come in here will be refused");
        }
    }
}

fn clear_text(doc: &Document<'_>, raw: &raw::Config) {
    for route in raw.routes.iter().filter(|route| route.effect == Effect::Allow) {
        let plaintext = route.danger_allow_plaintext.as_ref().filter(|flag| flag.value);
        let port_80 = route.hosts.iter().find(|host| host.port() == Some(80));
        if let (Some(host), Some(_), None, false) = (port_80, &route.credential, plaintext, route.upgrade_http) {
            let message = format!("no token goes to `{}` in clear text: such requests will be refused", host.text);
            doc.warning(&host.span, message, "add `upgrade_http = true`, or write the host without `:80`");
        }
        let fixed = |host: &str| {
            let mut found = raw.resolve.iter().filter(|(name, _)| name == host);
            found.any(|(_, address)| address.is_loopback())
        };
        let Some(plaintext) = plaintext else { continue };
        if !route.hosts.iter().any(|host| host.is_loopback() || fixed(&host.text)) {
            let help =
                "take it out; for http:// from the agent and https:// to the upstream, write `upgrade_http = true`";
            doc.warning(
                &plaintext.span,
                "`danger_allow_plaintext` works for loopback addresses only, and no host here is one",
                help,
            );
        }
    }
    for server in raw.servers.iter().filter(|server| server.danger_allow_http) {
        let needed = server.urls.iter().any(|(url, _)| url.scheme == Scheme::Http && is_loopback(url.authority.host()));
        if !needed {
            let message = format!("`danger_allow_http` of `{}` does nothing", shown(&server.text.value));
            doc.warning(&server.text.span, message, "take it out");
        }
    }
}
