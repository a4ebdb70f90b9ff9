//! Ties: two routes of which nothing says which one counts. Found when the config is
//! loaded, so that no request ever meets one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::Method;

use crate::primitives::RouteName;

use super::{Effect, HostPattern, PathPattern, Route};

/// Two routes that allow the same request with equal specificity: a config error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tie {
    pub first: RouteName,
    pub second: RouteName,
    /// What both match, for the message: `GET orders.example.com/v1/**`.
    pub example: String,
}

/// Every pair that ties, once, in the order of the file. Hosts that aren't written
/// alike never tie: an exact one beats a wildcard, a longer suffix a shorter one, and a
/// named port none.
pub(super) fn find(routes: &[Arc<Route>]) -> Vec<Tie> {
    let mut by_host: HashMap<&HostPattern, Vec<usize>> = HashMap::new();
    for (index, route) in routes.iter().enumerate().filter(|(_, route)| route.effect == Effect::Allow) {
        for pattern in &route.hosts {
            let named = by_host.entry(pattern).or_default();
            if named.last() != Some(&index) {
                named.push(index);
            }
        }
    }
    let paths: Vec<Vec<PathPattern>> = routes.iter().map(|route| paths(route)).collect();
    let mut ties = BTreeMap::new();
    for (host, named) in by_host {
        for (at, &first) in named.iter().enumerate() {
            for &second in &named[at + 1..] {
                if let Some((method, path)) =
                    overlap((&routes[first], &paths[first]), (&routes[second], &paths[second]))
                {
                    let example = format!("{method} {host}{path}");
                    let tie = Tie { first: routes[first].name.clone(), second: routes[second].name.clone(), example };
                    ties.insert((first, second), tie);
                }
            }
        }
    }
    ties.into_values().collect()
}

/// What two routes that name one host both match, with equal specificity.
fn overlap(one: (&Route, &[PathPattern]), two: (&Route, &[PathPattern])) -> Option<(Method, PathPattern)> {
    if !one.0.agents.overlaps(&two.0.agents) {
        return None;
    }
    let method = common_method(&one.0.methods, &two.0.methods)?;
    one.1
        .iter()
        .find_map(|path| {
            let alike = two.1.iter().filter(|other| other.specificity() == path.specificity());
            alike.filter_map(|other| path.meet(other)).next()
        })
        .map(|path| (method.clone(), path))
}

/// Named methods beat any, so only like ties with like.
fn common_method<'m>(one: &'m [Method], two: &[Method]) -> Option<&'m Method> {
    match (one, two) {
        ([], []) => Some(&Method::GET),
        ([], _) | (_, []) => None,
        (one, two) => one.iter().find(|method| two.contains(method)),
    }
}

fn paths(route: &Route) -> Vec<PathPattern> {
    if route.paths.is_empty() { vec![PathPattern::any()] } else { route.paths.clone() }
}
