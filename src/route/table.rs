//! The compiled table: host first (one search in a sorted list), then the few rules of that
//! host in order of specificity.
//!
//! ```text
//! orders.example.com ─exact──> rules of the host and of each `*.…` above it
//! a.b.example.com    ─below──> `b.example.com`, else `example.com`, else `com`:
//!                              rules of that suffix and of each `*.…` above it
//! ```
//!
//! All lists are merged and sorted when the config is loaded; finding one allocates
//! nothing. A search among names costs less than a hash that nobody can foresee. A rule is one route with one of its paths, so the first rule that matches a
//! request is the most specific one.

use std::{collections::BTreeMap, iter::successors, sync::Arc};

use crate::{
    observe::{Noted, Record},
    primitives::{AgentName, Authority, CanonicalPath, Host},
};

use super::{
    Effect, PathPattern, Route, Scheme, Target,
    path_pattern::PathSpecificity,
    pattern::{HostName, is_default_port},
    tie::{self, Tie},
};

/// All routes, compiled.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: Vec<Arc<Route>>,
    /// In order.
    exact: Box<[(Host, HostRules)]>,
    /// By what follows `*.`, in order.
    below: Box<[(Arc<str>, HostRules)]>,
}

/// The rules that name a target's host, most specific first.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'table> {
    rules: &'table [Rule],
}

/// One route, with one of its paths.
#[derive(Clone, Debug)]
pub struct Rule {
    route: Arc<Route>,
    /// `None`: any path.
    path: Option<PathPattern>,
    specificity: Specificity,
}

/// No route names the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoute;

/// What counts first stands first; the greater one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Specificity {
    host: HostSpecificity,
    path: PathSpecificity,
    named_methods: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HostSpecificity {
    /// The length of what follows `*.`; an exact host has the greatest.
    name: usize,
    explicit_port: bool,
}

/// The rules of one host, for each port that makes a difference.
#[derive(Clone, Debug)]
struct HostRules {
    /// Of patterns without a port: they hold at the scheme's default one.
    portless: Vec<Rule>,
    /// Ports that a pattern names, in order.
    ports: Vec<PortRules>,
}

#[derive(Clone, Debug)]
struct PortRules {
    port: u16,
    /// Where the port isn't the scheme's default one.
    named: Vec<Rule>,
    /// Where it is: with the rules of patterns without a port.
    default: Vec<Rule>,
}

/// That a route names a host (or all below a suffix).
#[derive(Clone, Copy, Debug)]
struct Naming {
    route: usize,
    /// [`HostSpecificity::name`].
    name: usize,
    port: Option<u16>,
}

// === impl Table ===

impl Table {
    /// Compiles; reports every tie, not just the first.
    pub fn compile(routes: Vec<Arc<Route>>) -> Result<Self, Vec<Tie>> {
        let ties = tie::find(&routes);
        if !ties.is_empty() {
            return Err(ties);
        }
        let mut exact: BTreeMap<Host, Vec<Naming>> = BTreeMap::new();
        let mut below: BTreeMap<Arc<str>, Vec<Naming>> = BTreeMap::new();
        for (index, route) in routes.iter().enumerate() {
            for pattern in &route.hosts {
                let naming = |name| Naming { route: index, name, port: pattern.port() };
                match pattern.name() {
                    HostName::Exact(host) => exact.entry(host.clone()).or_default().push(naming(usize::MAX)),
                    HostName::Below(suffix) => {
                        below.entry(suffix.clone()).or_default().push(naming(suffix.len()));
                    }
                }
            }
        }
        let with_wildcards = |own: &[Naming], name: Option<&str>| {
            let above = name.into_iter().flat_map(parents).filter_map(|suffix| below.get(suffix)).flatten();
            HostRules::new(&routes, &own.iter().chain(above).copied().collect::<Vec<_>>())
        };
        let exact = exact.iter().map(|(host, own)| (host.clone(), with_wildcards(own, host.name()))).collect();
        let below = below.iter().map(|(suffix, own)| (suffix.clone(), with_wildcards(own, Some(suffix)))).collect();
        Ok(Self { exact, below, routes })
    }

    /// The rules whose host (and port) match the target's.
    pub fn find(&self, target: &Target) -> Result<Candidates<'_>, NoRoute> {
        self.candidates(&target.authority, Some(target.scheme))
    }

    /// For `CONNECT`, where only the authority is known: the rules that name it,
    /// under either scheme.
    pub fn find_authority(&self, authority: &Authority) -> Result<Candidates<'_>, NoRoute> {
        self.candidates(authority, None)
    }

    /// Where an `http` request to `asked` goes out as `https`, if a route wants that
    /// (`upgrade_http`): at port 443 instead of 80, at any other port as it is, as
    /// browsers do (RFC 6797 §8.3). Asked before the decision, since scheme and port are
    /// part of what is decided on.
    ///
    /// As there, it is the host that is upgraded and not one path: one allowing route
    /// with `upgrade_http` among those that name the host most closely is enough, so
    /// that no request meant for it leaves in clear text because of its path, its method
    /// or its agent. An exact host without `upgrade_http` is left alone by the
    /// wildcard's. A rule never permits clear text itself where its route has
    /// `upgrade_http`, so a wrong guess here is refused and not sent.
    pub fn upgrade_http(&self, asked: &Authority) -> Option<Authority> {
        let upgraded = if asked.port() == Scheme::Http.default_port() {
            asked.with_port(Scheme::Https.default_port())
        } else {
            asked.clone()
        };
        let candidates = self.candidates(&upgraded, Some(Scheme::Https)).ok()?;
        let mut allowing = candidates.rules().iter().filter(|rule| rule.route.effect == Effect::Allow).peekable();
        let nearest = allowing.peek()?.specificity.host.name;
        allowing
            .take_while(|rule| rule.specificity.host.name == nearest)
            .any(|rule| rule.route.upgrade_http)
            .then_some(upgraded)
    }

    /// Whether any route names this host, at whatever port.
    pub fn names_host(&self, host: &Host) -> bool {
        self.rules_of(host).is_some()
    }

    /// As they were written.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    fn candidates(&self, authority: &Authority, scheme: Option<Scheme>) -> Result<Candidates<'_>, NoRoute> {
        let found = self.rules_of(authority.host());
        let rules = found.map_or(&[][..], |rules| rules.at(authority.port(), scheme));
        if rules.is_empty() { Err(NoRoute) } else { Ok(Candidates { rules }) }
    }

    fn rules_of(&self, host: &Host) -> Option<&HostRules> {
        if let Ok(at) = self.exact.binary_search_by(|(name, _)| name.cmp(host)) {
            return Some(&self.exact[at].1);
        }
        host.name().into_iter().flat_map(parents).find_map(|suffix| {
            let at = self.below.binary_search_by(|(name, _)| (**name).cmp(suffix)).ok()?;
            Some(&self.below[at].1)
        })
    }
}

/// `b.c` and `c` of `a.b.c`: the suffixes under which a wildcard may name it.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    let parent = |name: &str| name.find('.').map(|dot| dot + 1);
    successors(parent(name).map(|at| &name[at..]), move |name| parent(name).map(|at| &name[at..]))
}

// === impl HostRules ===

impl HostRules {
    fn new(routes: &[Arc<Route>], namings: &[Naming]) -> Self {
        let rules = |ports: &[Option<u16>]| rules(routes, namings.iter().filter(|naming| ports.contains(&naming.port)));
        let mut ports: Vec<u16> = namings.iter().filter_map(|naming| naming.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let at = |port: u16| {
            let default = if is_default_port(port, None) { rules(&[Some(port), None]) } else { Vec::new() };
            PortRules { port, named: rules(&[Some(port)]), default }
        };
        Self { portless: rules(&[None]), ports: ports.into_iter().map(at).collect() }
    }

    fn at(&self, port: u16, scheme: Option<Scheme>) -> &[Rule] {
        let named = self.ports.iter().find(|rules| rules.port == port);
        match (named, is_default_port(port, scheme)) {
            (Some(rules), true) => &rules.default,
            (Some(rules), false) => &rules.named,
            (None, true) => &self.portless,
            (None, false) => &[],
        }
    }
}

/// Each route once for each of its paths, under the closest pattern it names the host by.
fn rules<'n>(routes: &[Arc<Route>], namings: impl Iterator<Item = &'n Naming>) -> Vec<Rule> {
    let mut closest: BTreeMap<usize, HostSpecificity> = BTreeMap::new();
    for naming in namings {
        let host = HostSpecificity { name: naming.name, explicit_port: naming.port.is_some() };
        closest.entry(naming.route).and_modify(|best| *best = host.max(*best)).or_insert(host);
    }
    let mut rules: Vec<Rule> = closest
        .into_iter()
        .filter_map(|(index, host)| routes.get(index).map(|route| (route, host)))
        .flat_map(|(route, host)| paths(route).into_iter().map(move |path| Rule::new(route, path, host)))
        .collect();
    // Names break what isn't a tie for any request, so that the order in the file never counts.
    rules.sort_by(|one, other| {
        other.specificity.cmp(&one.specificity).then_with(|| one.route.name.cmp(&other.route.name))
    });
    rules
}

fn paths(route: &Route) -> Vec<Option<PathPattern>> {
    if route.paths.is_empty() { vec![None] } else { route.paths.iter().cloned().map(Some).collect() }
}

// === impl Rule ===

impl Rule {
    fn new(route: &Arc<Route>, path: Option<PathPattern>, host: HostSpecificity) -> Self {
        let closeness = path.as_ref().map_or_else(|| PathPattern::any().specificity(), PathPattern::specificity);
        let specificity = Specificity { host, path: closeness, named_methods: !route.methods.is_empty() };
        Self { route: route.clone(), path, specificity }
    }

    pub fn route(&self) -> &Route {
        &self.route
    }

    pub fn concerns(&self, agent: &AgentName) -> bool {
        self.route.agents.contains(agent)
    }

    /// Whether the path makes a difference to this rule.
    pub fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// A rule that denies matches more loosely: see [`PathPattern`].
    pub fn matches_path(&self, path: &CanonicalPath) -> bool {
        self.path.as_ref().is_none_or(|pattern| match self.route.effect {
            Effect::Allow => pattern.matches(path),
            Effect::Deny => pattern.matches_loosely(path),
        })
    }

    /// Methods are case-sensitive (RFC 9110 §9.1, threat 71), but not every upstream
    /// knows that: a rule that denies `DELETE` denies `delete`.
    pub fn matches_method(&self, method: &http::Method) -> bool {
        let methods = &self.route.methods;
        methods.is_empty()
            || match self.route.effect {
                Effect::Allow => methods.contains(method),
                Effect::Deny => methods.iter().any(|named| named.as_str().eq_ignore_ascii_case(method.as_str())),
            }
    }

    /// Whether it matches any request of the agents it concerns.
    pub fn matches_all(&self) -> bool {
        self.route.methods.is_empty() && self.path.as_ref().is_none_or(PathPattern::is_any)
    }
}

// === impl Candidates ===

impl<'table> Candidates<'table> {
    /// Never empty.
    pub fn rules(&self) -> &'table [Rule] {
        self.rules
    }
}

/// Which route it is, and whether it allows, `policy` notes.
impl Noted for Candidates<'_> {
    fn note(&self, _record: &mut Record) {}
}

// === impl NoRoute ===

impl Noted for NoRoute {
    fn note(&self, record: &mut Record) {
        record.decision.allowed = Some(false);
        record.decision.reason = "host_not_allowed".into();
    }
}
