//! Decisions and their reasons, with properties over many policies.

use std::sync::Arc;

use http::HeaderMap;
use proptest::{prelude::*, sample::select};

use crate::{
    identity::{AgentSettings, Evidence, Registry, testing::record},
    primitives::{AgentName, RouteName},
    route::{
        Route, Table, Target,
        testing::{authority, route, table, table as compile, target},
    },
};

use super::{RefusalReason::*, *};

/// Lent for as long as the tests run, as rules would.
fn agent(name: &str) -> &'static Agent {
    let settings = AgentSettings { name: AgentName::parse(name).unwrap(), keys: Vec::new(), anonymous: true };
    let registry = Box::leak(Box::new(Registry::new(vec![settings])));
    registry.identify(Evidence::Proxy(&HeaderMap::new())).unwrap()
}

/// The route that lets it through, or why not and the route that is named with it.
fn outcome(table: &Table, name: &str, target: &Target) -> Result<String, (RefusalReason, Option<String>)> {
    let Ok(candidates) = table.find(target) else { return Err((HostNotAllowed, None)) };
    decide(agent(name), &candidates, target)
        .map(|permit| permit.route().name.to_string())
        .map_err(|refusal| (refusal.reason, refusal.route.map(|route| route.to_string())))
}

fn asked(table: &Table, name: &str, method: &str, url: &str) -> Result<String, (RefusalReason, Option<String>)> {
    outcome(table, name, &target(method, url))
}

fn by(name: &str) -> Result<String, (RefusalReason, Option<String>)> {
    Ok(name.to_owned())
}

fn no(reason: RefusalReason, name: &str) -> Result<String, (RefusalReason, Option<String>)> {
    Err((reason, (!name.is_empty()).then(|| name.to_owned())))
}

fn orders() -> Table {
    table([
        route("read", &["a.example"]).methods(&["GET", "HEAD"]).paths(&["/v1/orders/**"]).agents(&["researcher"]),
        route("one", &["a.example"]).methods(&["GET"]).paths(&["/v1/orders/1"]).agents(&["researcher", "writer"]),
        route("write", &["a.example"]).paths(&["/v1/**"]).agents(&["writer"]),
        route("secret", &["a.example"]).paths(&["/v1/orders/secret/**"]).agents(&["writer"]).deny(),
        route("nobody", &["b.example"]).agents(&[]),
        route("open", &["c.example"]),
        route("get", &["d.example"]).methods(&["GET"]),
        route("no-delete", &["e.example"]).methods(&["DELETE"]).deny(),
        route("any", &["e.example"]),
    ])
}

#[test]
fn the_most_specific_route_allows() {
    let table = orders();
    assert_eq!(asked(&table, "researcher", "GET", "https://a.example/v1/orders"), by("read"));
    assert_eq!(asked(&table, "researcher", "GET", "https://a.example/v1/orders/1"), by("one"));
    assert_eq!(asked(&table, "researcher", "HEAD", "https://a.example/v1/orders/1"), by("read"));
    assert_eq!(asked(&table, "writer", "PATCH", "https://a.example/v1/orders/1"), by("write"));
    assert_eq!(asked(&table, "anyone", "BREW", "https://c.example/"), by("open"));
}

#[test]
fn a_refusal_says_what_came_nearest() {
    let table = orders();
    let cases = [
        ("researcher", "GET", "https://other.example/", no(HostNotAllowed, "")),
        ("researcher", "GET", "https://a.example:8443/v1/orders", no(HostNotAllowed, "")),
        ("stranger", "GET", "https://a.example/v1/orders", no(AgentNotAllowed, "")),
        ("researcher", "GET", "https://b.example/", no(AgentNotAllowed, "")),
        ("researcher", "GET", "https://a.example/v1/ordersX", no(PathNotAllowed, "one")),
        ("researcher", "GET", "https://a.example/v1", no(PathNotAllowed, "one")),
        ("researcher", "POST", "https://a.example/v1/orders", no(MethodNotAllowed, "read")),
        ("researcher", "POST", "https://a.example/v1/orders/1", no(MethodNotAllowed, "one")),
    ];
    for (name, method, url, expected) in cases {
        assert_eq!(asked(&table, name, method, url), expected, "{name} {method} {url}");
    }
}

#[test]
fn deny_beats_a_more_specific_allow_but_only_for_its_agents() {
    let table = orders();
    for path in ["/v1/orders/secret", "/v1/orders/secret/", "/v1/orders/secret/x", "/v1/orders/%73ecret/x"] {
        let url = format!("https://a.example{path}");
        assert_eq!(asked(&table, "writer", "GET", &url), no(DeniedByRoute, "secret"), "{path}");
        assert_eq!(asked(&table, "researcher", "GET", &url), by("read"), "{path}");
    }
    let wide = compile([
        route("wide", &["*.example"]).deny(),
        route("close", &["a.example:443"]).methods(&["GET"]).paths(&["/v1/orders/1"]),
    ]);
    assert_eq!(asked(&wide, "anyone", "GET", "https://a.example/v1/orders/1"), no(DeniedByRoute, "wide"));
}

/// Threat 71.
#[test]
fn methods_are_case_sensitive_and_denied_in_any_case() {
    let table = orders();
    for method in ["get", "Get", "GETX", "HEAD", "TRACE"] {
        assert_eq!(asked(&table, "x", method, "https://d.example/"), no(MethodNotAllowed, "get"), "{method}");
    }
    for method in ["DELETE", "delete", "Delete"] {
        assert_eq!(asked(&table, "x", method, "https://e.example/"), no(DeniedByRoute, "no-delete"), "{method}");
    }
    assert_eq!(asked(&table, "x", "GET", "https://e.example/"), by("any"));
}

/// Threats 69 and 70.
#[test]
fn a_path_that_can_be_read_in_two_ways_is_refused_where_a_rule_looks_at_paths() {
    let table = orders();
    let odd = [
        "/v1/orders/../admin",
        "/v1/orders/%2e%2e/admin",
        "/v1/orders/..%2fadmin",
        "/v1/orders/%2fadmin",
        "/v1/orders/%5cadmin",
        "/v1/orders/\\admin",
        "/v1/orders//admin",
        "//v1/orders",
        "/v1/./orders",
        "/v1/orders;/../admin",
        "/v1/orders/%3bx",
        "/v1/orders/%252e%252e/admin",
        "/v1/orders/%00",
        "/v1/orders/%c0%ae%c0%ae/admin",
    ];
    for path in odd {
        let url = |host: &str| format!("https://{host}{path}");
        let refused = asked(&table, "researcher", "GET", &url("a.example"));
        assert_eq!(refused, no(AmbiguousPath, "one"), "{path}");
        // Rules for other agents don't count, and neither do hosts without path rules.
        assert_eq!(asked(&table, "stranger", "GET", &url("a.example")), no(AgentNotAllowed, ""), "{path}");
        assert_eq!(asked(&table, "researcher", "GET", &url("c.example")), by("open"), "{path}");
    }
    let denied = compile([route("deny", &["a.example"]).paths(&["/x"]).deny(), route("any", &["a.example"])]);
    assert_eq!(asked(&denied, "x", "GET", "https://a.example/y/../x"), no(AmbiguousPath, "deny"));
}

#[test]
fn the_credentials_own_hosts_are_a_second_lock() {
    let table = table([
        route("locked", &["*.example"]).credential("orders", &["a.example", "*.b.example", "c.example:8443"]),
        route("ports", &["c.example:8443", "a.example:8443"]).credential("orders", &["a.example", "c.example:8443"]),
        route("nowhere", &["d.test"]).credential("orders", &[]),
        route("none", &["*.test"]),
    ]);
    let cases = [
        ("https://a.example/", by("locked")),
        ("https://x.b.example/", by("locked")),
        ("https://b.example/", no(CredentialHost, "locked")),
        ("https://evil.example/", no(CredentialHost, "locked")),
        ("https://c.example/", no(CredentialHost, "locked")),
        ("https://c.example:8443/", by("ports")),
        ("https://a.example:8443/", no(CredentialHost, "ports")),
        // No host is no host, and not every one (threat 41).
        ("https://d.test/", no(CredentialHost, "nowhere")),
        ("https://e.test/", by("none")),
    ];
    for (url, expected) in cases {
        assert_eq!(asked(&table, "x", "GET", url), expected, "{url}");
    }
}

/// Threat 22.
#[test]
fn no_token_goes_over_clear_text_but_to_this_machine_on_purpose() {
    let local =
        ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "a.example", "[::ffff:127.0.0.1]", "x.localhost", "10.0.0.1"];
    let at_81 = ["127.0.0.1:81", "localhost:81"];
    let table = table([
        route("meant", &local).credential("orders", &local).plaintext(),
        route("not-meant", &at_81).credential("orders", &at_81),
        route("no-token", &["b.example"]),
        route("upgraded", &["c.example"]).upgrade(),
        route("upgraded-local", &["localhost:82"]).credential("orders", &["localhost:82"]).plaintext().upgrade(),
    ]);
    for host in &local[..4] {
        assert_eq!(asked(&table, "x", "GET", &format!("http://{host}/")), by("meant"), "{host}");
    }
    for host in &local[4..] {
        let refused = asked(&table, "x", "GET", &format!("http://{host}/"));
        assert_eq!(refused, no(PlaintextNotAllowed, "meant"), "{host}");
        assert_eq!(asked(&table, "x", "GET", &format!("https://{host}/")), by("meant"), "{host}");
    }
    for host in at_81 {
        let refused = asked(&table, "x", "GET", &format!("http://{host}/"));
        assert_eq!(refused, no(PlaintextNotAllowed, "not-meant"), "{host}");
    }
    assert_eq!(asked(&table, "x", "GET", "http://b.example/"), by("no-token"));
    // What was to be upgraded and wasn't doesn't slip out.
    assert_eq!(asked(&table, "x", "GET", "http://c.example/"), no(PlaintextNotAllowed, "upgraded"));
    assert_eq!(asked(&table, "x", "GET", "http://localhost:82/"), no(PlaintextNotAllowed, "upgraded-local"));
}

#[test]
fn a_permit_holds_what_was_decided_on() {
    let table = table([route("r", &["a.example"]).credential("orders", &["a.example"])]);
    let target = target("GET", "https://a.example/x");
    let permit = decide(agent("researcher"), &table.find(&target).unwrap(), &target).unwrap();
    assert_eq!(permit.agent().name().as_str(), "researcher");
    assert_eq!((permit.scheme(), permit.authority()), (target.scheme, &target.authority));
    assert_eq!(permit.credential().unwrap().name.as_str(), "orders");
}

// === Tunnels ===

fn tunnel(table: &Table, name: &str, text: &str) -> Result<(), (RefusalReason, Option<String>)> {
    let Ok(candidates) = table.find_authority(&authority(text)) else { return Err((HostNotAllowed, None)) };
    decide_tunnel(agent(name), &candidates, &authority(text))
        .map_err(|refusal| (refusal.reason, refusal.route.map(|route| route.to_string())))
}

#[test]
fn a_tunnel_opens_where_some_request_could_be_allowed() {
    let table = table([
        route("read", &["a.example"]).methods(&["GET"]).paths(&["/v1/**"]).agents(&["researcher"]),
        route("some", &["a.example"]).methods(&["DELETE"]).deny(),
        route("path", &["a.example"]).paths(&["/v1/x/**"]).deny(),
        route("not-writer", &["*.example"]).agents(&["writer"]).paths(&["/**"]).deny(),
        route("write", &["a.example"]).agents(&["writer"]).paths(&["/w"]),
        route("port", &["a.example:8443"]),
        route("only-deny", &["b.test"]).deny().paths(&["/x"]),
        route("blocked", &["c.test"]).deny(),
        route("allowed", &["c.test"]).paths(&["/x"]),
    ]);
    assert_eq!(tunnel(&table, "researcher", "a.example:443"), Ok(()));
    assert_eq!(tunnel(&table, "researcher", "a.example:80"), Ok(()));
    assert_eq!(tunnel(&table, "stranger", "a.example:443"), Err((AgentNotAllowed, None)));
    assert_eq!(tunnel(&table, "stranger", "a.example:8443"), Ok(()));
    assert_eq!(tunnel(&table, "researcher", "a.example:22"), Err((HostNotAllowed, None)));
    assert_eq!(tunnel(&table, "writer", "a.example:443"), Err((DeniedByRoute, Some("not-writer".to_owned()))));
    assert_eq!(tunnel(&table, "researcher", "b.test:443"), Err((AgentNotAllowed, None)));
    assert_eq!(tunnel(&table, "researcher", "c.test:443"), Err((DeniedByRoute, Some("blocked".to_owned()))));
}

// === What is told ===

fn refusal(table: &Table, method: &str, url: &str) -> Refusal {
    let target = target(method, url);
    decide(agent("researcher"), &table.find(&target).unwrap(), &target).unwrap_err()
}

#[test]
fn hints_are_commands_that_are_safe_to_paste() {
    let table = table([
        route("r", &["a.example", "a.example:8443"]).paths(&["/v1/**"]).methods(&["GET"]),
        route("c", &["b.example"]).credential("orders", &["c.example"]),
    ]);
    let hint = |method: &str, url: &str| refusal(&table, method, url).hint.to_string();
    assert_eq!(
        hint("GET", "https://a.example/v2/x"),
        "cupbearer explain GET https://a.example/v2/x --agent researcher"
    );
    assert_eq!(
        hint("POST", "https://a.example:8443/v1/"),
        "cupbearer explain POST https://a.example:8443/v1/ --agent researcher"
    );
    assert_eq!(
        hint("GET", "http://a.example/$(id)'`x`"),
        r"cupbearer explain GET 'http://a.example/$(id)'\''`x`' --agent researcher"
    );
    assert_eq!(
        hint("G|T", "https://a.example/v1/"),
        "cupbearer explain 'G|T' https://a.example/v1/ --agent researcher"
    );
    let long = format!("https://a.example/{}", "x".repeat(400));
    assert_eq!(hint("GET", &long), "cupbearer explain METHOD URL --agent researcher");
    assert_eq!(
        hint("GET", "https://b.example/"),
        "add \"b.example\" to `hosts` of [credentials.orders] if its token may go there"
    );
    let none = Refusal::no_route(agent("researcher"), &authority("x.example:80"));
    assert_eq!(none.hint.as_str(), "cupbearer explain GET http://x.example/ --agent researcher");
    assert_eq!(none.reason, HostNotAllowed);
}

#[test]
fn the_record_learns_the_decision() {
    let table = table([route("r", &["a.example"]).paths(&["/v1/**"])]);
    let decided = |url: &str| {
        let target = target("GET", url);
        let mut record = record();
        let found = record.note(table.find(&target));
        let _ = found.map(|candidates| record.note(decide(agent("x"), &candidates, &target)));
        (
            record.decision.allowed,
            record.decision.route.get().map(ToString::to_string),
            record.decision.reason.into_owned(),
        )
    };
    let expect =
        |allowed, route: Option<&str>, reason: &str| (Some(allowed), route.map(str::to_owned), reason.to_owned());
    assert_eq!(decided("https://a.example/v1/x"), expect(true, Some("r"), "allowed"));
    assert_eq!(decided("https://a.example/evil-text"), expect(false, Some("r"), "path_not_allowed"));
    assert_eq!(decided("https://evil.example/"), expect(false, None, "host_not_allowed"));
}

#[test]
fn codes_are_stable() {
    let codes = [
        (HostNotAllowed, "host_not_allowed"),
        (MethodNotAllowed, "method_not_allowed"),
        (PathNotAllowed, "path_not_allowed"),
        (AgentNotAllowed, "agent_not_allowed"),
        (DeniedByRoute, "denied_by_route"),
        (CredentialHost, "host_not_allowed"),
        (PlaintextNotAllowed, "plaintext_not_allowed"),
        (AmbiguousPath, "path_not_allowed"),
    ];
    for (reason, code) in codes {
        assert_eq!(reason.code(), code);
    }
}

// === Properties ===

const HOSTS: [&str; 6] = ["a.example", "b.a.example", "*.example", "*.a.example", "a.example:443", "*.example:8443"];
const PATHS: [&str; 8] = ["/**", "/v1", "/v1/**", "/v1/*", "/v1/*/x", "/*/b", "/v1/b/**", "/**/x"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const AGENTS: [&str; 3] = ["researcher", "writer", "stranger"];

fn some_of(all: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(all), 0..=most)
}

prop_compose! {
    fn any_route()(
        hosts in prop::collection::vec(select(&HOSTS[..]), 1..3),
        paths in some_of(&PATHS, 2),
        methods in some_of(&METHODS, 2),
        agents in prop::option::weighted(0.7, some_of(&AGENTS, 2)),
        deny in prop::bool::weighted(0.2),
        upgrade in prop::bool::weighted(0.1),
        locked_to in prop::option::weighted(0.4, some_of(&HOSTS, 2)),
    ) -> Route {
        let mut made = route("unnamed", &hosts).paths(&paths).methods(&methods);
        if let Some(agents) = agents { made = made.agents(&agents); }
        if let Some(hosts) = locked_to { made = made.credential("orders", &hosts); }
        if deny { made = made.deny(); }
        if upgrade { made = made.upgrade(); }
        made
    }
}

prop_compose! {
    fn any_target()(
        scheme in select(vec!["http", "https"]),
        host in select(vec!["a.example", "b.a.example", "c.b.a.example", "z.example"]),
        port in select(vec!["", "", "", ":443", ":8443"]),
        path in select(vec!["/", "/v1", "/v1/", "/v1/b", "/v1/b/x", "/v2/b", "/x/y/x"]),
        method in select(&METHODS[..]),
    ) -> Target {
        target(method, &format!("{scheme}://{host}{port}{path}"))
    }
}

fn named(mut routes: Vec<Route>) -> Vec<Arc<Route>> {
    for (index, route) in routes.iter_mut().enumerate() {
        route.name = RouteName::parse(&format!("r{index}")).unwrap();
    }
    routes.into_iter().map(Arc::new).collect()
}

/// Without the routes that tie, so that most cases count.
fn compiled(mut routes: Vec<Arc<Route>>) -> Table {
    loop {
        match Table::compile(routes.clone()) {
            Ok(table) => return table,
            Err(ties) => routes.retain(|route| ties.iter().all(|tie| tie.second != route.name)),
        }
    }
}

/// A route that denies this very request, written narrowly or widely.
fn deny_for(target: &Target, name: &str, wide: [bool; 4]) -> Route {
    let authority = target.authority.to_string();
    let host =
        if wide[0] { authority.replacen(target.authority.host().name().unwrap(), "*.example", 1) } else { authority };
    let mut deny = route("deny", &[&host]).deny();
    if !wide[1] {
        deny = deny.paths(&[target.path.as_str()]);
    }
    if !wide[2] {
        deny = deny.methods(&[target.method.as_str()]);
    }
    if !wide[3] {
        deny = deny.agents(&[name]);
    }
    deny
}

proptest! {
    #[test]
    fn a_deny_route_that_matches_always_refuses(
        routes in prop::collection::vec(any_route(), 0..12),
        at in any::<prop::sample::Index>(),
        target in any_target(),
        name in select(&AGENTS[..]),
        wide in any::<[bool; 4]>(),
    ) {
        let mut routes = compiled(named(routes)).routes().to_vec();
        let deny = Arc::new(deny_for(&target, name, wide));
        routes.insert(at.index(routes.len() + 1), deny);
        let table = Table::compile(routes).unwrap();
        let refused = outcome(&table, name, &target);
        prop_assert!(matches!(refused, Err((DeniedByRoute, Some(_)))), "{refused:?}");
        let bystander = if name == "writer" { "researcher" } else { "writer" };
        if !wide[3] {
            let others: Vec<_> = table.routes().iter().filter(|route| route.name.as_str() != "deny").cloned().collect();
            let without = outcome(&Table::compile(others).unwrap(), bystander, &target);
            let with = outcome(&table, bystander, &target);
            let nothing_there = matches!(without, Err((HostNotAllowed, None))) && matches!(with, Err((AgentNotAllowed, None)));
            prop_assert!(with == without || nothing_there, "{with:?} {without:?}");
        }
    }

    #[test]
    fn the_order_of_routes_never_counts(
        (routes, shuffled) in prop::collection::vec(any_route(), 1..12).prop_map(named)
            .prop_flat_map(|routes| (Just(routes.clone()), Just(routes).prop_shuffle())),
        targets in prop::collection::vec(any_target(), 1..8),
    ) {
        prop_assert_eq!(Table::compile(routes.clone()).is_ok(), Table::compile(shuffled.clone()).is_ok());
        let one = compiled(routes);
        let kept: Vec<_> = one.routes().iter().map(|route| route.name.clone()).collect();
        let other = Table::compile(shuffled.into_iter().filter(|route| kept.contains(&route.name)).collect()).unwrap();
        for target in &targets {
            for name in AGENTS {
                prop_assert_eq!(outcome(&one, name, target), outcome(&other, name, target), "{} {:?}", name, target);
            }
            let upgraded = |table: &Table| table.upgrade_http(&target.authority);
            prop_assert_eq!(upgraded(&one), upgraded(&other));
            let tunnels = |table: &Table| AGENTS.map(|name| tunnel(table, name, target.authority.as_str()));
            prop_assert_eq!(tunnels(&one), tunnels(&other));
        }
    }

    /// A tie that `compile` overlooked would be broken by the routes' names. And the
    /// winner beats each other route alone as it beats them all.
    #[test]
    fn what_compiles_has_one_answer(
        routes in prop::collection::vec(any_route(), 1..12),
        target in any_target(),
        name in select(&AGENTS[..]),
    ) {
        let table = compiled(named(routes));
        let routes = table.routes();
        let renamed = |(index, route): (usize, &Arc<Route>)| {
            let name = RouteName::parse(&format!("r{}", 99 - index)).unwrap();
            Arc::new(Route { name, ..Route::clone(route) })
        };
        let renamed = Table::compile(routes.iter().enumerate().map(renamed).collect()).unwrap();
        let answer = |table: &Table| {
            let place = |won: &String| table.routes().iter().position(|route| route.name.as_str() == won);
            outcome(table, name, &target).map(|won| place(&won)).map_err(|(reason, _)| reason)
        };
        prop_assert_eq!(answer(&table), answer(&renamed));
        let Ok(Some(won)) = answer(&table) else { return Ok(()) };
        for other in routes {
            let pair = Table::compile(vec![routes[won].clone(), other.clone()]);
            let expected = Ok(routes[won].name.to_string());
            prop_assert!(other.name == routes[won].name || outcome(&pair.unwrap(), name, &target) == expected);
        }
    }
}
