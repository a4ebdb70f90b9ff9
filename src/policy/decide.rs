//! The one decision function for all entrances (threat 72).
//!
//! ```text
//! rules of the host, the most specific first
//!   -> only those that concern the agent
//!   -> a path that could be read in two ways, and a rule that looks at paths: refused
//!   -> any rule that denies and matches: refused
//!   -> the first rule that allows and matches -> its locks -> Permit
//! ```

use std::net::IpAddr;

use crate::{
    identity::Agent,
    primitives::{Authority, Host},
    route::{Candidates, Effect, Route, Rule, Scheme, Target},
};

use super::{Permit, Refusal, RefusalReason};

/// Deny beats allow; among those that allow, the most specific wins.
pub fn decide<'r>(agent: &'r Agent, candidates: &Candidates<'r>, target: &Target) -> Result<Permit<'r>, Refusal> {
    let route = choose(agent, candidates, target)
        .and_then(|route| locks(route, target).map_or(Ok(route), |reason| Err((reason, Some(route)))))
        .map_err(|(reason, route)| Refusal::new(reason, route, agent, target))?;
    Ok(Permit { agent, route, scheme: target.scheme, authority: target.authority.clone() })
}

/// May this agent open a tunnel to intercept? Whether any route could allow it a
/// request there; every request inside is decided on its own.
pub fn decide_tunnel(agent: &Agent, candidates: &Candidates<'_>, authority: &Authority) -> Result<(), Refusal> {
    let mut allowed = false;
    for rule in concerning(agent, candidates) {
        match rule.route().effect {
            Effect::Deny if rule.matches_all() => {
                let route = Some(rule.route().name.clone());
                return Err(Refusal::of_tunnel(RefusalReason::DeniedByRoute, route, agent, authority));
            }
            Effect::Deny => {}
            Effect::Allow => allowed = true,
        }
    }
    if allowed { Ok(()) } else { Err(Refusal::of_tunnel(RefusalReason::AgentNotAllowed, None, agent, authority)) }
}

type Nearest<'r> = (RefusalReason, Option<&'r Route>);

/// The route that allows the request, or what came nearest to it.
fn choose<'r>(agent: &Agent, candidates: &Candidates<'r>, target: &Target) -> Result<&'r Route, Nearest<'r>> {
    if target.path.is_ambiguous()
        && let Some(rule) = concerning(agent, candidates).find(|rule| rule.has_path())
    {
        return Err((RefusalReason::AmbiguousPath, Some(rule.route())));
    }
    let mut allowing = None;
    let (mut with_path, mut with_agent) = (None, None);
    for rule in concerning(agent, candidates) {
        let route = rule.route();
        let path = rule.matches_path(&target.path);
        let all = path && rule.matches_method(&target.method);
        match route.effect {
            Effect::Deny if all => return Err((RefusalReason::DeniedByRoute, Some(route))),
            Effect::Deny => {}
            Effect::Allow => {
                let nearest = match (all, path) {
                    (true, _) => &mut allowing,
                    (false, true) => &mut with_path,
                    (false, false) => &mut with_agent,
                };
                nearest.get_or_insert(route);
            }
        }
    }
    match (allowing, with_path, with_agent) {
        (Some(route), _, _) => Ok(route),
        (None, Some(route), _) => Err((RefusalReason::MethodNotAllowed, Some(route))),
        (None, None, Some(route)) => Err((RefusalReason::PathNotAllowed, Some(route))),
        // No route's name here: it would be another agent's.
        (None, None, None) => Err((RefusalReason::AgentNotAllowed, None)),
    }
}

fn concerning<'r>(agent: &Agent, candidates: &Candidates<'r>) -> impl Iterator<Item = &'r Rule> {
    candidates.rules().iter().filter(move |rule| rule.concerns(agent.name()))
}

/// What keeps the chosen route from being used. No other route takes its place: that
/// one wasn't meant for this request.
fn locks(route: &Route, target: &Target) -> Option<RefusalReason> {
    if target.scheme == Scheme::Http && route.upgrade_http {
        return Some(RefusalReason::PlaintextNotAllowed);
    }
    let credential = route.credential.as_ref()?;
    let names_host = |scheme| credential.hosts.iter().any(|host| host.matches(&target.authority, scheme));
    if !names_host(Some(target.scheme)) {
        return Some(RefusalReason::CredentialHost);
    }
    let plaintext_is_meant = route.danger_allow_plaintext && is_loopback(target.authority.host());
    (target.scheme == Scheme::Http && !plaintext_is_meant).then_some(RefusalReason::PlaintextNotAllowed)
}

/// By its spelling alone, since nothing is resolved here: another name that leads to
/// this machine today may lead elsewhere tomorrow.
fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Name(name) => &**name == "localhost",
        Host::Ip(IpAddr::V4(address)) => address.is_loopback(),
        Host::Ip(IpAddr::V6(address)) => address.is_loopback(),
    }
}
