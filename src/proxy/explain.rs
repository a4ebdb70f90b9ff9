//! What would happen to a request, and why: the pipeline's own stages, stopped before
//! anything is sent.

use http::{Method, Uri};
use serde::Serialize;

use crate::{
    identity::Registry,
    policy::{self, RefusalReason},
    primitives::{AgentName, Authority},
    route::{Scheme, Table},
};

use super::{Error, Unmatched, error::BadRequest, inbound, tunnel};

/// The answer of `cupbearer explain`.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub allowed: bool,
    pub agent: String,
    pub method: String,
    /// In canonical form, as it would go upstream; without the query, which decides nothing
    /// and may hold a secret.
    pub url: Option<String>,
    pub reason: String,
    pub route: Option<String>,
    /// `None` with `allowed`: forwarded with no credential.
    pub credential: Option<String>,
    /// The status and code that the agent would read.
    pub status: Option<u16>,
    pub code: Option<&'static str>,
    pub hint: Option<String>,
}

/// What judges; a part of the pipeline's own [`Rules`](super::Rules).
#[derive(Clone, Copy, Debug)]
pub struct Judges<'a> {
    pub registry: &'a Registry,
    pub routes: &'a Table,
    pub unmatched: Unmatched,
    pub authorization_servers: &'a [Authority],
}

impl Judges<'_> {
    /// A `CONNECT` to a host that no route names at this port.
    fn judge_unnamed(self, authority: &Authority, explanation: &mut Explanation) -> Result<(), Error> {
        match self.unmatched {
            Unmatched::Tunnel if !self.routes.names_host(authority.host()) => {
                tunnel::check_blind(self.authorization_servers, authority)?;
                explanation.allowed = true;
                explanation.reason = "no route names the host: tunnelled untouched, without a credential".to_owned();
                Ok(())
            }
            Unmatched::Tunnel | Unmatched::Deny => Err(Error::NoRoute),
        }
    }
}

/// Judges `method url` as if `agent` had sent it through the forward proxy. `CONNECT`
/// judges a tunnel to the URL's host.
pub fn explain(rules: Judges<'_>, agent: &AgentName, method: &Method, url: &Uri) -> Explanation {
    let mut explanation = Explanation {
        allowed: false,
        agent: agent.to_string(),
        method: method.to_string(),
        url: None,
        reason: String::new(),
        route: None,
        credential: None,
        status: None,
        code: None,
        hint: None,
    };
    let judged = if method == Method::CONNECT {
        judge_tunnel(rules, agent, url, &mut explanation)
    } else {
        judge_request(rules, agent, method, url, &mut explanation)
    };
    if let Err(error) = judged {
        let verdict = error.verdict();
        explanation.reason = error.to_string();
        explanation.route = verdict.route.as_ref().map(ToString::to_string);
        explanation.status = Some(verdict.status.as_u16());
        explanation.code = Some(verdict.code);
        let hint = remedy(&error, agent, method).unwrap_or_else(|| verdict.hint.to_string());
        explanation.hint = Some(hint).filter(|hint| !hint.is_empty());
    }
    explanation
}

/// What the operator would change. (What an agent is told leads here.)
fn remedy(error: &Error, agent: &AgentName, method: &Method) -> Option<String> {
    let (reason, route) = match error {
        Error::Refused(refusal) => (refusal.reason, refusal.route.as_ref()),
        Error::NoRoute => (RefusalReason::HostNotAllowed, None),
        _ => return None,
    };
    let route = route.map_or_else(|| "a [[routes]] entry".to_owned(), |route| format!("route `{route}`"));
    Some(match reason {
        RefusalReason::HostNotAllowed => format!("add the host to `hosts` of {route}"),
        RefusalReason::MethodNotAllowed => format!("add \"{method}\" to `methods` of {route}"),
        RefusalReason::PathNotAllowed => format!("add the path to `paths` of {route}"),
        RefusalReason::AgentNotAllowed => format!("add \"{agent}\" to `agents` of {route}"),
        RefusalReason::DeniedByRoute => format!("{route} has `effect = \"deny\"`, which beats all that allow"),
        RefusalReason::CredentialHost | RefusalReason::PlaintextNotAllowed | RefusalReason::AmbiguousPath => {
            return None;
        }
    })
}

fn judge_request(
    rules: Judges<'_>,
    agent: &AgentName,
    method: &Method,
    url: &Uri,
    explanation: &mut Explanation,
) -> Result<(), Error> {
    inbound::check_method(method)?;
    let target = inbound::forward_target(method, url, rules.routes, |text, port| Authority::parse(text, Some(port)))?;
    let upstream = inbound::upstream_uri(&target, url)?.to_string();
    explanation.url = Some(upstream.split('?').next().unwrap_or_default().to_owned());
    let agent = rules.registry.named(agent).ok_or(crate::identity::Unknown::Mismatch)?;
    let candidates = match rules.routes.find(&target) {
        Ok(candidates) => candidates,
        // An agent sends https:// through a CONNECT.
        Err(unnamed) if target.scheme == Scheme::Http => return Err(unnamed.into()),
        Err(_) => return rules.judge_unnamed(&target.authority, explanation),
    };
    let permit = policy::decide(agent, &candidates, &target)?;
    if permit.credential().is_some() && inbound::has_token_in_query(url) {
        return Err(BadRequest::TokenInQuery.into());
    }
    explanation.allowed = true;
    explanation.reason = "allowed by the most specific route that matches".to_owned();
    explanation.route = Some(permit.route().name.to_string());
    explanation.credential = permit.credential().map(|credential| credential.name.to_string());
    Ok(())
}

fn judge_tunnel(rules: Judges<'_>, agent: &AgentName, url: &Uri, explanation: &mut Explanation) -> Result<(), Error> {
    let port = match url.scheme_str() {
        Some("http") => 80,
        _ => 443,
    };
    let text = url.authority().ok_or(BadRequest::NotAbsoluteForm)?;
    let authority = Authority::parse(text.as_str(), Some(port))?;
    explanation.url = Some(authority.to_string());
    let agent = rules.registry.named(agent).ok_or(crate::identity::Unknown::Mismatch)?;
    let Ok(candidates) = rules.routes.find_authority(&authority) else {
        return rules.judge_unnamed(&authority, explanation);
    };
    policy::decide_tunnel(agent, &candidates, &authority)?;
    explanation.allowed = true;
    explanation.reason = "intercepted: each request inside is decided on its own".to_owned();
    Ok(())
}
