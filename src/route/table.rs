//! The compiled table: host first (one hash look-up), then the few rules of that
//! host in order of specificity. Nothing here is proportional to the number of routes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    observe::{Noted, Record},
    primitives::{Authority, Host, RouteName},
};

use super::{AgentSet, Effect, HostPattern, PathPattern, Route, Scheme, Target};

/// All routes, compiled.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: Vec<Arc<Route>>,
    exact: HashMap<Host, Arc<[Rule]>>,
    /// By what stands behind `*.`; each list also holds the rules of shorter suffixes.
    wildcard: HashMap<Box<str>, Arc<[Rule]>>,
}

/// One host and one path of a route.
#[derive(Clone, Debug)]
pub struct Rule {
    route: Arc<Route>,
    host: HostPattern,
    path: Option<PathPattern>,
}

/// Two routes that allow the same request with equal specificity: a config error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tie {
    pub first: RouteName,
    pub second: RouteName,
    /// What both match, for the message: `GET orders.example.com/v1/**`.
    pub example: String,
}

/// The rules that name a target's authority, most specific first.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'table> {
    rules: &'table [Rule],
    port: u16,
    scheme: Option<Scheme>,
}

/// No route names the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoute;

impl Table {
    /// # Errors
    /// Every tie, not just the first.
    pub fn compile(routes: Vec<Arc<Route>>) -> Result<Self, Vec<Tie>> {
        let rules: Vec<Rule> = routes.iter().flat_map(Rule::of).collect();
        let ties = ties(&rules);
        if !ties.is_empty() {
            return Err(ties);
        }
        let listed = |host: &Host, wildcard: bool| {
            let concerns = |rule: &&Rule| match (rule.host.is_wildcard(), wildcard) {
                (false, true) => false,
                (true, true) if rule.host.host() == host => true,
                (_, _) => rule.host.matches_host(host),
            };
            let mut list: Vec<Rule> = rules.iter().filter(concerns).cloned().collect();
            list.sort_by_key(|rule| std::cmp::Reverse(rule.specificity()));
            Arc::from(list)
        };
        let mut table = Self { routes: routes.clone(), ..Self::default() };
        for rule in &rules {
            let host = rule.host.host();
            match host {
                Host::Name(suffix) if rule.host.is_wildcard() => {
                    if !table.wildcard.contains_key(&**suffix) {
                        table.wildcard.insert((&**suffix).into(), listed(host, true));
                    }
                }
                Host::Name(_) | Host::Ip(_) => {
                    if !table.exact.contains_key(host) {
                        table.exact.insert(host.clone(), listed(host, false));
                    }
                }
            }
        }
        Ok(table)
    }

    /// The rules whose host and port match the target's.
    ///
    /// # Errors
    /// No rule does.
    pub fn find(&self, target: &Target) -> Result<Candidates<'_>, NoRoute> {
        self.candidates(&target.authority, Some(target.scheme))
    }

    /// For `CONNECT`, where only the authority is known: the rules that name it,
    /// under either scheme.
    ///
    /// # Errors
    /// No rule does.
    pub fn find_authority(&self, authority: &Authority) -> Result<Candidates<'_>, NoRoute> {
        self.candidates(authority, None)
    }

    /// Whether a plain `http://` request to this authority goes out as `https://`: a route
    /// that allows something there over TLS (at 443 where the agent named 80, else at the
    /// same port) says so.
    pub fn upgrades_http(&self, authority: &Authority) -> bool {
        let port = if authority.port() == Scheme::Http.default_port() { 443 } else { authority.port() };
        let upgrades = |rule: &Rule| {
            rule.route.upgrade_http
                && rule.route.effect == Effect::Allow
                && rule.host.matches_port(port, Some(Scheme::Https))
        };
        self.rules(authority.host()).iter().any(upgrades)
    }

    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    fn candidates(&self, authority: &Authority, scheme: Option<Scheme>) -> Result<Candidates<'_>, NoRoute> {
        let candidates = Candidates { rules: self.rules(authority.host()), port: authority.port(), scheme };
        if candidates.rules().next().is_none() { Err(NoRoute) } else { Ok(candidates) }
    }

    fn rules(&self, host: &Host) -> &[Rule] {
        if let Some(rules) = self.exact.get(host) {
            return rules;
        }
        let mut rest = host.name().unwrap_or("");
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(rules) = self.wildcard.get(suffix) {
                return rules;
            }
            rest = suffix;
        }
        &[]
    }
}

// === impl Candidates ===

impl<'table> Candidates<'table> {
    /// Most specific first.
    pub fn rules(&self) -> impl Iterator<Item = &'table Rule> + use<'table> {
        let Self { rules, port, scheme } = *self;
        rules.iter().filter(move |rule| rule.host.matches_port(port, scheme))
    }
}

impl Noted for Candidates<'_> {
    fn note(&self, _record: &mut Record) {}
}

impl Noted for NoRoute {
    fn note(&self, record: &mut Record) {
        record.decision.allowed = Some(false);
        record.decision.reason = "host_not_allowed".into();
    }
}

// === impl Rule ===

/// Compared from left to right: an exact host over a wildcard, a longer suffix over a
/// shorter, a named port over none, the longest literal path, no wildcard in the path,
/// named methods over any.
type Specificity = (bool, usize, bool, Option<(usize, bool)>, bool);

impl Rule {
    fn of(route: &Arc<Route>) -> Vec<Self> {
        let paths = || -> Vec<Option<PathPattern>> {
            if route.paths.is_empty() { vec![None] } else { route.paths.iter().cloned().map(Some).collect() }
        };
        let one = |(host, path): (&HostPattern, _)| Self { route: Arc::clone(route), host: host.clone(), path };
        route.hosts.iter().flat_map(|host| paths().into_iter().map(move |path| (host, path))).map(one).collect()
    }

    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    pub fn has_path(&self) -> bool {
        self.path.is_some()
    }

    pub fn matches_path(&self, target: &Target) -> bool {
        self.path.as_ref().is_none_or(|path| path.matches(&target.path))
    }

    /// Case-sensitive, as methods are (RFC 9110 §9.1).
    pub fn matches_method(&self, target: &Target) -> bool {
        self.route.methods.is_empty() || self.route.methods.contains(&target.method)
    }

    fn specificity(&self) -> Specificity {
        let length = self.host.host().name().map_or(0, str::len);
        let path = self.path.as_ref().map(PathPattern::specificity);
        (!self.host.is_wildcard(), length, self.host.port().is_some(), path, !self.route.methods.is_empty())
    }

    /// Whether some request of some agent is matched by both with equal right.
    fn ties_with(&self, other: &Self) -> bool {
        let paths = match (&self.path, &other.path) {
            (Some(one), Some(two)) => one.intersects(two),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.specificity() == other.specificity()
            && paths
            && agents_overlap(&self.route.agents, &other.route.agents)
            && methods_overlap(&self.route, &other.route)
    }

    fn example(&self) -> String {
        let method = self.route.methods.first().map_or("GET", http::Method::as_str);
        let path = self.route.paths.iter().find(|path| Some(*path) == self.path.as_ref());
        let path = path.map_or("/**".to_owned(), ToString::to_string);
        format!("{method} {}{path}", self.host)
    }
}

fn agents_overlap(one: &AgentSet, two: &AgentSet) -> bool {
    match (one, two) {
        (AgentSet::Any, AgentSet::Any) => true,
        (AgentSet::Any, AgentSet::Named(names)) | (AgentSet::Named(names), AgentSet::Any) => !names.is_empty(),
        (AgentSet::Named(one), AgentSet::Named(two)) => one.iter().any(|name| two.contains(name)),
    }
}

fn methods_overlap(one: &Route, two: &Route) -> bool {
    match (one.methods.is_empty(), two.methods.is_empty()) {
        (true, true) => true,
        (false, false) => one.methods.iter().any(|method| two.methods.contains(method)),
        (true, false) | (false, true) => false,
    }
}

fn ties(rules: &[Rule]) -> Vec<Tie> {
    let mut by_host: BTreeMap<String, Vec<&Rule>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.route.effect == Effect::Allow) {
        by_host.entry(rule.host.to_string()).or_default().push(rule);
    }
    let mut told = BTreeSet::new();
    let mut ties = Vec::new();
    for rules in by_host.values() {
        for (at, first) in rules.iter().enumerate() {
            for second in &rules[at + 1..] {
                let names = (first.route.name.clone(), second.route.name.clone());
                if names.0 != names.1 && first.ties_with(second) && told.insert(names.clone()) {
                    ties.push(Tie { first: names.0, second: names.1, example: first.example() });
                }
            }
        }
    }
    ties
}
