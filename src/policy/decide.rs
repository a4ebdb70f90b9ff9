//! The one decision function for all entrances (threat 72).

use std::sync::Arc;

use crate::{
    identity::Agent,
    primitives::{Authority, Hint, Host},
    route::{Candidates, Effect, Route, Rule, Scheme, Target},
};

use super::{Permit, Refusal, RefusalReason};

/// Deny beats allow; among those that allow, the most specific wins.
///
/// # Errors
/// Why not; where nothing matches, what came nearest.
pub fn decide(agent: &Agent, candidates: &Candidates<'_>, target: &Target) -> Result<Permit, Refusal> {
    let rules = || candidates.rules().filter(|rule| rule.route().agents.includes(agent.name()));
    if target.path.is_ambiguous() && rules().any(Rule::has_path) {
        return Err(refusal(RefusalReason::AmbiguousPath, None, target));
    }
    let matching = || rules().filter(|rule| rule.matches_path(target) && rule.matches_method(target));
    if let Some(denying) = matching().find(|rule| rule.route().effect == Effect::Deny) {
        return Err(refusal(RefusalReason::DeniedByRoute, Some(denying.route()), target));
    }
    // No deny is left, and the rules come most specific first.
    let Some(rule) = matching().next() else { return Err(nearest(rules(), target)) };
    permit(agent, rule.route(), target)
}

/// May this agent open a tunnel to intercept? Whether any route could allow it a
/// request there; every request inside is decided on its own.
///
/// # Errors
/// No route of this host is for the agent, or one denies it everything.
pub fn decide_tunnel(agent: &Agent, candidates: &Candidates<'_>, authority: &Authority) -> Result<(), Refusal> {
    let rules = || candidates.rules().filter(|rule| rule.route().agents.includes(agent.name()));
    let hint = |verb: &str| Hint::new(format!("{verb}: `cupbearer explain CONNECT https://{authority}`"));
    let denies_all =
        |rule: &&Rule| rule.route().effect == Effect::Deny && !rule.has_path() && rule.route().methods.is_empty();
    if let Some(denying) = rules().find(denies_all) {
        let route = Some(denying.route().name.clone());
        return Err(Refusal { reason: RefusalReason::DeniedByRoute, route, hint: hint("the operator can ask why") });
    }
    if rules().any(|rule| rule.route().effect == Effect::Allow) {
        return Ok(());
    }
    let hint = hint("the operator adds the agent to a route of this host");
    Err(Refusal { reason: RefusalReason::AgentNotAllowed, route: None, hint })
}

/// What still stands between a route that allows and the permit.
fn permit(agent: &Agent, route: &Arc<Route>, target: &Target) -> Result<Permit, Refusal> {
    if let Some(credential) = &route.credential {
        let locked = !credential.hosts.iter().any(|host| host.matches(&target.authority, Some(target.scheme)));
        if locked {
            return Err(refusal(RefusalReason::CredentialHost, Some(route), target));
        }
        let clear_is_fine = route.danger_allow_plaintext && is_loopback(target.authority.host());
        if target.scheme == Scheme::Http && !clear_is_fine {
            return Err(refusal(RefusalReason::PlaintextNotAllowed, Some(route), target));
        }
    }
    Ok(Permit {
        agent: agent.clone(),
        route: Arc::clone(route),
        scheme: target.scheme,
        authority: target.authority.clone(),
    })
}

/// Clear text stays on this machine only if the name can't be anybody else's.
fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Ip(address) => address.is_loopback(),
        Host::Name(name) => **name == *"localhost",
    }
}

fn nearest<'a>(rules: impl Iterator<Item = &'a Rule>, target: &Target) -> Refusal {
    let mut nearest = None;
    for rule in rules.filter(|rule| rule.route().effect == Effect::Allow) {
        if rule.matches_path(target) {
            return refusal(RefusalReason::MethodNotAllowed, Some(rule.route()), target);
        }
        nearest = nearest.or(Some(rule.route()));
    }
    match nearest {
        Some(route) => refusal(RefusalReason::PathNotAllowed, Some(route), target),
        None => refusal(RefusalReason::AgentNotAllowed, None, target),
    }
}

fn refusal(reason: RefusalReason, route: Option<&Arc<Route>>, target: &Target) -> Refusal {
    let hint = match reason {
        RefusalReason::PlaintextNotAllowed => {
            Hint::fixed("use https://, or the operator sets upgrade_http on the route")
        }
        RefusalReason::AmbiguousPath => {
            Hint::fixed("write the path without `..`, `//`, `;`, `\\` and encoded slashes, percent signs or controls")
        }
        RefusalReason::CredentialHost => Hint::fixed("the operator adds the host to the credential's `hosts`"),
        RefusalReason::DeniedByRoute => Hint::fixed("ask the operator, if the request should be allowed"),
        RefusalReason::HostNotAllowed
        | RefusalReason::MethodNotAllowed
        | RefusalReason::PathNotAllowed
        | RefusalReason::AgentNotAllowed => {
            let Target { scheme, authority, method, path } = target;
            // Only what can stand in a command; the agent knows the rest of its path.
            let path = if path.as_str().len() > 200 { "/…" } else { path.as_str() };
            let scheme = scheme.as_str();
            Hint::new(format!("the operator sees why by: cupbearer explain {method} '{scheme}://{authority}{path}'"))
        }
    };
    Refusal { reason, route: route.map(|route| route.name.clone()), hint }
}
