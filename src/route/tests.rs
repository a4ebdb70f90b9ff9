//! Patterns, specificity, ties and look-ups, with properties over many tables.

use std::{collections::HashSet, sync::Arc};

use proptest::prelude::*;

use crate::{
    identity::testing::record,
    observe::Noted,
    primitives::{CanonicalPath, HostError},
};

use super::{
    testing::{agents, authority, route, table, target},
    *,
};

fn host(pattern: &str) -> HostPattern {
    HostPattern::parse(pattern).unwrap()
}

fn path(pattern: &str) -> PathPattern {
    PathPattern::parse(pattern).unwrap()
}

fn names(candidates: Result<Candidates<'_>, NoRoute>) -> Vec<String> {
    candidates
        .map_or_else(|_| Vec::new(), |found| found.rules().iter().map(|rule| rule.route().name.to_string()).collect())
}

fn found(table: &Table, url: &str) -> Vec<String> {
    names(table.find(&target("GET", url)))
}

// === Hosts ===

/// Threats 25 and 27.
#[test]
fn host_patterns_match_label_by_label() {
    let cases: [(&str, &[&str], &[&str]); 6] = [
        (
            "api.example.com",
            &["api.example.com:443", "API.Example.COM:443", "api.example.com.:443"],
            &["example.com:443", "xapi.example.com:443", "api.example.com.evil.com:443", "apiXexample.com:443"],
        ),
        ("API.example.com.", &["api.example.com:443"], &["api.example.org:443"]),
        (
            "*.example.com",
            &["a.example.com:443", "a.b.example.com:443", "A.EXAMPLE.com.:443"],
            &[
                "example.com:443",
                "evilexample.com:443",
                "evil-example.com:443",
                "example.com.evil.com:443",
                "a.example.com.evil.com:443",
                "a.example.org:443",
                "com:443",
            ],
        ),
        ("127.0.0.1", &["127.0.0.1:443"], &["127.0.0.2:443", "[::ffff:127.0.0.1]:443"]),
        ("[::1]:8443", &["[::1]:8443", "[0:0:0:0:0:0:0:1]:8443"], &["[::1]:443", "[::2]:8443"]),
        ("*.1.example", &["a.1.example:443"], &["1.1.1.1:443", "11.example:443"]),
    ];
    for (pattern, matching, others) in cases {
        for text in matching {
            assert!(host(pattern).matches(&authority(text), Some(Scheme::Https)), "{pattern} {text}");
        }
        for text in others {
            assert!(!host(pattern).matches(&authority(text), Some(Scheme::Https)), "{pattern} {text}");
        }
    }
}

#[test]
fn a_pattern_without_a_port_means_the_schemes_own() {
    use Scheme::{Http, Https};
    let cases = [
        ("a.example", "a.example:443", Some(Https), true),
        ("a.example", "a.example:80", Some(Http), true),
        ("a.example", "a.example:80", Some(Https), false),
        ("a.example", "a.example:443", Some(Http), false),
        ("a.example", "a.example:8443", Some(Https), false),
        ("a.example", "a.example:443", None, true),
        ("a.example", "a.example:80", None, true),
        ("a.example", "a.example:8443", None, false),
        ("a.example:8443", "a.example:8443", Some(Https), true),
        ("a.example:8443", "a.example:8443", Some(Http), true),
        ("a.example:8443", "a.example:8443", None, true),
        ("a.example:8443", "a.example:443", Some(Https), false),
        ("*.example:8443", "a.example:8443", Some(Https), true),
        ("*.example:8443", "a.example:443", Some(Https), false),
    ];
    for (pattern, text, scheme, expected) in cases {
        assert_eq!(host(pattern).matches(&authority(text), scheme), expected, "{pattern} {text} {scheme:?}");
    }
}

#[test]
fn odd_host_patterns_are_refused() {
    let wildcards =
        ["*", "*.*.com", "a.*.com", "*example.com", "a*.example.com", "**.example.com", "*.127.0.0.1", "*:443"];
    for text in wildcards {
        assert_eq!(HostPattern::parse(text), Err(PatternError::Wildcard), "{text}");
    }
    for (text, error) in [
        ("", HostError::Empty),
        ("*.", HostError::Empty),
        ("a.example:0", HostError::Port),
        ("a.example:70000", HostError::Port),
        ("a.example:80:80", HostError::Character),
        ("https://a.example", HostError::Port),
        ("a.example/v1", HostError::Character),
        ("u@a.example", HostError::UserInfo),
        ("bücher.example", HostError::Character),
        (".example.com", HostError::Label),
        ("2130706433", HostError::NumericHost),
        ("*.0x7f.1", HostError::NumericHost),
    ] {
        assert_eq!(HostPattern::parse(text), Err(PatternError::Host(error)), "{text}");
    }
}

#[test]
fn patterns_are_shown_in_their_plain_form() {
    for (text, shown) in [("*.Example.com.", "*.example.com"), ("A.b:8443", "a.b:8443"), ("[0::1]:1", "[::1]:1")] {
        assert_eq!(host(text).to_string(), shown);
    }
    for text in ["/", "/v1/*/items/**", "/v1/orders/", "/caf%C3%A9"] {
        assert_eq!(path(text).to_string(), text);
    }
    assert_eq!(path("/a/**/**").to_string(), "/a/**");
}

// === Paths ===

/// Threats 69 and 70.
#[test]
fn path_patterns_match_segment_by_segment() {
    let cases: [(&str, &[&str], &[&str]); 12] = [
        (
            "/v1/orders",
            &["/v1/orders"],
            &["/v1/orders/", "/v1/ordersX", "/v1/order", "/v1/Orders", "/v1/orders/1", "/"],
        ),
        ("/v1/orders/", &["/v1/orders/"], &["/v1/orders", "/v1/orders/1"]),
        (
            "/v1/orders/**",
            &["/v1/orders", "/v1/orders/", "/v1/orders/1", "/v1/orders/1/2/"],
            &["/v1/ordersX", "/v1", "/v1/ordersX/1"],
        ),
        ("/v1/*", &["/v1/a", "/v1/a%20b"], &["/v1/", "/v1", "/v1/a/", "/v1/a/b"]),
        ("/v1/*/items", &["/v1/a/items"], &["/v1/items", "/v1/a/b/items", "/v1//items"]),
        ("/", &["/"], &["/a"]),
        ("/**", &["/", "/a", "/a/", "/a/b"], &[]),
        ("/*", &["/a"], &["/", "/a/", "/a/b"]),
        ("/**/items", &["/items", "/a/items", "/a/items/items"], &["/a/items/", "/items/x", "/a/itemsX"]),
        ("/a/**/b/*/c", &["/a/b/x/c", "/a/b/b/x/c", "/a/b/x/b/y/c", "/a/b/b/b/c"], &["/a/b/c", "/a/x/c", "/a/b/x/c/d"]),
        ("/a/**/b/**", &["/a/b", "/a/x/b/y", "/a/b/"], &["/a", "/a/x", "/b"]),
        ("/p:read", &["/p:read"], &["/p%3Aread"]),
    ];
    for (pattern, matching, others) in cases {
        let matches = |text: &str| path(pattern).matches(&CanonicalPath::parse(text).unwrap());
        for text in matching {
            assert!(matches(text), "{pattern} {text}");
        }
        for text in others {
            assert!(!matches(text), "{pattern} {text}");
        }
    }
}

/// What a deny rule names can't be reached by another spelling.
#[test]
fn rules_that_deny_match_what_an_upstream_may_take_for_the_path() {
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("/priv%C3%A9/**", &["/PRIV%C3%89/x", "/priv%C3%A9"], &["/prive/x"]),
        ("/v1/admin/**", &["/v1/Admin/keys", "/V1/ADMIN", "/v1/%41dmin"], &["/v1/adm", "/v1/users"]),
        ("/p:delete", &["/p:delete", "/p%3Adelete", "/p%3Adelete/"], &["/p%3Aread", "/p"]),
        ("/users/a%40b/**", &["/users/a@b", "/users/a%40b/x"], &["/users/ab"]),
        ("/admin", &["/admin", "/admin/"], &["/admin/x", "/administration", "/"]),
        ("/admin/", &["/admin", "/admin/"], &["/admin/x"]),
        ("/", &["/"], &["/a"]),
    ];
    for (pattern, matching, others) in cases {
        let table = table([route("deny", &["a.example"]).paths(&[pattern]).deny()]);
        let matches = |text: &str| {
            let target = target("GET", &format!("https://a.example{text}"));
            table.find(&target).unwrap().rules()[0].matches_path(&target.path)
        };
        for text in matching {
            assert!(matches(text), "{pattern} {text}");
        }
        for text in others {
            assert!(!matches(text), "{pattern} {text}");
        }
    }
}

#[test]
fn odd_path_patterns_are_refused() {
    for text in ["", "v1", "*", "**", "https://a.example/v1"] {
        assert_eq!(PathPattern::parse(text), Err(PatternError::NotAbsolute), "{text}");
    }
    for text in ["/v1*", "/v1/*.json", "/v1/***", "/a*b", "/**x"] {
        assert_eq!(PathPattern::parse(text), Err(PatternError::Glob), "{text}");
    }
    let ambiguous = [
        "/a/../b",
        "/a//b",
        "/a%2Fb",
        "/a;b",
        "/%7Euser",
        "/caf%c3%a9",
        "/café",
        "/a b",
        "/a?x=1",
        "/a#x",
        "/%",
        "/a%25",
    ];
    for text in ambiguous {
        assert_eq!(PathPattern::parse(text), Err(PatternError::AmbiguousPath), "{text}");
    }
}

#[test]
fn the_closer_path_pattern_is_the_more_specific_one() {
    let order = [
        "/v1/orders/items/a",
        "/v1/orders/items",
        "/v1/orders/",
        "/v1/orders",
        "/v1/orders/*/items",
        "/v1/orders/*",
        "/v1/orders/*/**",
        "/v1/orders/**",
        "/v1/*/items",
        "/v1/**/items",
        "/v1/*/*",
        "/v1/*",
        "/v1/**",
        "/*/orders",
        "/**",
    ];
    for pair in order.windows(2) {
        // Equal only where no path matches both.
        let (closer, other) = (path(pair[0]), path(pair[1]));
        let ties = closer.specificity() == other.specificity() && closer.meet(&other).is_none();
        assert!(closer.specificity() > other.specificity() || ties, "{pair:?}");
    }
}

fn any_pattern() -> impl Strategy<Value = PathPattern> {
    let segment = prop::sample::select(vec!["a", "b", "*", "**"]);
    (prop::collection::vec(segment, 1..5), any::<bool>())
        .prop_map(|(segments, slash)| path(&format!("/{}{}", segments.join("/"), if slash { "/" } else { "" })))
}

fn any_path() -> impl Strategy<Value = CanonicalPath> {
    let segment = prop::sample::select(vec!["a", "b", "c"]);
    (prop::collection::vec(segment, 0..6), any::<bool>()).prop_map(|(segments, slash)| {
        let slash = if slash && !segments.is_empty() { "/" } else { "" };
        CanonicalPath::parse(&format!("/{}{slash}", segments.join("/"))).unwrap()
    })
}

/// The slow and obvious way.
fn matches_by_recursion(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => {
            matches_by_recursion(rest, path) || !path.is_empty() && matches_by_recursion(pattern, &path[1..])
        }
        (["*", rest @ ..], [first, tail @ ..]) => !first.is_empty() && matches_by_recursion(rest, tail),
        ([literal, rest @ ..], [first, tail @ ..]) => literal == first && matches_by_recursion(rest, tail),
        ([], _) | (_, []) => false,
    }
}

proptest! {
    #[test]
    fn matching_agrees_with_its_definition(pattern in any_pattern(), path in any_path()) {
        let text = pattern.to_string();
        let segments: Vec<_> = text[1..].split('/').collect();
        let path_segments: Vec<_> = path.as_str()[1..].split('/').collect();
        let expected = matches_by_recursion(&segments, &path_segments);
        prop_assert_eq!(pattern.matches(&path), expected);
        prop_assert!(!expected || pattern.matches_loosely(&path), "a deny rule matches at least as much");
    }

    #[test]
    fn two_patterns_meet_where_a_path_matches_both(one in any_pattern(), two in any_pattern(), path in any_path()) {
        let meet = one.meet(&two);
        prop_assert_eq!(meet.is_some(), two.meet(&one).is_some());
        if one.matches(&path) && two.matches(&path) {
            prop_assert!(meet.is_some());
        }
        if let Some(meet) = meet {
            prop_assert!(!meet.matches(&path) || one.matches(&path) && two.matches(&path), "{meet} is too wide");
            let example = meet.to_string().replace("**", "a/b").replace('*', "c");
            let example = CanonicalPath::parse(&example).unwrap();
            prop_assert!(one.matches(&example) && two.matches(&example), "{meet}: {example}");
        }
    }
}

// === Table ===

#[test]
fn the_closest_host_stands_first() {
    let table = table([
        route("com", &["*.com"]),
        route("wild", &["*.example.com"]),
        route("deep", &["*.b.example.com"]),
        route("exact", &["a.b.example.com"]),
        route("port", &["a.b.example.com:443"]),
    ]);
    let cases: [(&str, &[&str]); 7] = [
        ("https://a.b.example.com/", &["port", "exact", "deep", "wild", "com"]),
        ("http://a.b.example.com/", &["exact", "deep", "wild", "com"]),
        ("http://a.b.example.com:443/", &["port"]),
        ("https://x.y.b.example.com/", &["deep", "wild", "com"]),
        ("https://b.example.com/", &["wild", "com"]),
        ("https://example.com/", &["com"]),
        ("https://com/", &[]),
    ];
    for (url, expected) in cases {
        assert_eq!(found(&table, url), expected, "{url}");
    }
    assert_eq!(table.routes().len(), 5);
    assert_eq!(table.find(&target("GET", "https://evil.org/")).err(), Some(NoRoute));
}

#[test]
fn ports_and_schemes_choose_the_rules() {
    let table = table([
        route("plain", &["a.example"]),
        route("eighty", &["a.example:80"]),
        route("high", &["a.example:8443"]),
        route("wild", &["*.example"]),
        route("wild-high", &["*.example:8443"]),
        route("ip", &["[::1]:9000", "127.0.0.1"]),
    ]);
    let cases: [(&str, &[&str]); 9] = [
        ("https://a.example/", &["plain", "wild"]),
        ("http://a.example/", &["eighty", "plain", "wild"]),
        ("https://a.example:80/", &["eighty"]),
        ("https://a.example:8443/", &["high", "wild-high"]),
        ("http://a.example:8443/", &["high", "wild-high"]),
        ("https://a.example:9/", &[]),
        ("https://b.example:8443/", &["wild-high"]),
        ("http://[::1]:9000/", &["ip"]),
        ("http://127.0.0.1/", &["ip"]),
    ];
    for (url, expected) in cases {
        assert_eq!(found(&table, url), expected, "{url}");
    }
    let tunnels: [(&str, &[&str]); 4] = [
        ("a.example:443", &["plain", "wild"]),
        ("a.example:80", &["eighty", "plain", "wild"]),
        ("a.example:8443", &["high", "wild-high"]),
        ("a.example:22", &[]),
    ];
    for (text, expected) in tunnels {
        assert_eq!(names(table.find_authority(&authority(text))), expected, "{text}");
    }
}

#[test]
fn a_route_stands_once_for_each_path_under_its_closest_pattern() {
    let table = table([
        route("both", &["*.example", "a.example", "a.example:443"]).paths(&["/v1/**", "/v1/orders"]),
        route("other", &["a.example"]).paths(&["/v1/orders/items"]),
    ]);
    assert_eq!(found(&table, "https://a.example/"), ["both", "both", "other"]);
    assert_eq!(found(&table, "http://a.example/"), ["other", "both", "both"]);
    let rules = table.find(&target("GET", "https://a.example/")).unwrap().rules();
    let path = CanonicalPath::parse("/v1/orders").unwrap();
    assert!(rules[0].matches_path(&path) && rules[1].matches_path(&path) && !rules[2].matches_path(&path));
    let below = CanonicalPath::parse("/v1/x").unwrap();
    assert!(!rules[0].matches_path(&below) && rules[1].matches_path(&below));
}

#[test]
fn named_methods_beat_any_and_paths_beat_methods() {
    let table = table([
        route("any", &["a.example"]).paths(&["/v1/**"]),
        route("get", &["a.example"]).paths(&["/v1/**"]).methods(&["GET"]),
        route("longer", &["a.example"]).paths(&["/v1/orders/**"]),
    ]);
    assert_eq!(found(&table, "https://a.example/"), ["longer", "get", "any"]);
}

fn ties(routes: impl IntoIterator<Item = Route>) -> Vec<(String, String, String)> {
    let ties = Table::compile(routes.into_iter().map(Arc::new).collect()).err().unwrap_or_default();
    ties.into_iter().map(|tie| (tie.first.to_string(), tie.second.to_string(), tie.example)).collect()
}

#[test]
fn every_tie_is_reported_once_with_an_example() {
    let tied = ties([
        route("one", &["a.example", "*.b.example:8443"]).paths(&["/v1/**"]).methods(&["POST", "GET"]),
        route("two", &["A.example."]).paths(&["/v2", "/v1/**"]).methods(&["DELETE", "GET"]),
        route("three", &["*.b.example:8443"]).paths(&["/v1/**"]).methods(&["POST"]).agents(&["writer"]),
        route("any", &["c.example"]),
        route("also-any", &["c.example"]).paths(&["/**"]),
    ]);
    let tie = |first: &str, second: &str, example: &str| (first.to_owned(), second.to_owned(), example.to_owned());
    assert_eq!(
        tied,
        [
            tie("one", "two", "GET a.example/v1/**"),
            tie("one", "three", "POST *.b.example:8443/v1/**"),
            tie("any", "also-any", "GET c.example/**"),
        ]
    );
}

#[test]
fn wildcards_that_cross_tie_and_the_example_lies_in_both() {
    let tied = ties([route("one", &["a.example"]).paths(&["/*/b/*"]), route("two", &["a.example"]).paths(&["/*/*/c"])]);
    assert_eq!(tied, [("one".to_owned(), "two".to_owned(), "GET a.example/*/b/c".to_owned())]);
}

#[test]
fn routes_that_no_request_can_choose_between_do_not_tie() {
    let base = || route("base", &["a.example"]).paths(&["/v1/**"]).methods(&["GET"]);
    let named = |route: Route| Route { name: RouteName::parse("other").unwrap(), ..route };
    let others = [
        ("host", Route { hosts: testing::hosts(&["b.example"]), ..base() }),
        ("wildcard", Route { hosts: testing::hosts(&["*.example"]), ..base() }),
        ("port", Route { hosts: testing::hosts(&["a.example:443"]), ..base() }),
        ("path", base().paths(&["/v2/**"])),
        ("closer path", base().paths(&["/v1/x/**"])),
        ("method", base().methods(&["POST"])),
        ("any method", base().methods(&[])),
        ("deny", base().deny()),
        ("nobody", base().agents(&[])),
    ];
    for (what, other) in others {
        assert_eq!(ties([base(), named(other)]), [], "{what}");
    }
    assert_eq!(ties([base().agents(&["a"]), named(base().agents(&["b"]))]), []);
    assert_eq!(ties([base().agents(&["a", "b"]), named(base().agents(&["b"]))]).len(), 1);
    assert_eq!(ties([base().deny(), named(base().deny())]), [], "deny routes never tie");
}

/// Threat 41.
#[test]
fn an_empty_list_of_agents_is_nobody() {
    let researcher = AgentName::parse("researcher").unwrap();
    assert!(AgentSet::Any.contains(&researcher));
    assert!(agents(&["researcher"]).contains(&researcher));
    assert!(!agents(&[]).contains(&researcher));
    assert!(!agents(&["Researcher", "researcher2"]).contains(&researcher));
}

// === http to https ===

#[test]
fn a_host_is_upgraded_where_a_route_says_so() {
    let table = table([
        route("up", &["a.example"]).paths(&["/v1/**"]).upgrade(),
        route("same-host", &["a.example"]).paths(&["/v2/**"]),
        route("wild", &["*.example"]).upgrade(),
        route("left-alone", &["plain.example"]),
        route("deny", &["b.example"]).deny(),
        route("high", &["c.test:8080"]).upgrade(),
        route("eighty", &["d.test:80"]).upgrade(),
    ]);
    let cases = [
        ("a.example:80", Some("a.example:443")),
        ("other.example:80", Some("other.example:443")),
        ("plain.example:80", None),
        // A route that only denies doesn't stand in the wildcard's way.
        ("b.example:80", Some("b.example:443")),
        ("c.test:8080", Some("c.test:8080")),
        ("c.test:80", None),
        // It names the port on the way out, and that would be 443.
        ("d.test:80", None),
        ("a.example:8080", None),
        ("unknown.test:80", None),
    ];
    for (asked, expected) in cases {
        let upgraded = table.upgrade_http(&authority(asked)).map(|authority| authority.to_string());
        assert_eq!(upgraded.as_deref(), expected, "{asked}");
    }
}

// === Many ===

#[test]
fn a_thousand_routes_each_find_their_own() {
    let mut routes = Vec::new();
    for n in 0..500 {
        routes.push(route(&format!("exact-{n}"), &[&format!("host{n}.example.com")]));
        routes.push(route(&format!("wild-{n}"), &[&format!("*.zone{n}.example.com")]).paths(&["/v1/**"]));
    }
    routes.push(route("deny-internal", &["*.internal.example.com"]).deny());
    let table = table(routes);
    assert_eq!(table.routes().len(), 1001);
    for n in 0..500 {
        assert_eq!(found(&table, &format!("https://host{n}.example.com/")), [format!("exact-{n}")]);
        assert_eq!(found(&table, &format!("https://a.b.zone{n}.example.com/")), [format!("wild-{n}")]);
        assert_eq!(found(&table, &format!("https://zone{n}.example.com/")), Vec::<String>::new());
    }
    assert_eq!(found(&table, "https://host500.example.com/"), Vec::<String>::new());
    assert_eq!(found(&table, "https://x.internal.example.com/"), ["deny-internal"]);
}

#[test]
fn a_thousand_paths_of_one_host_are_told_apart() {
    let routes = (0..1000).map(|n| route(&format!("r{n}"), &["api.example.com"]).paths(&[&format!("/v1/r{n}/**")]));
    let table = table(routes);
    let candidates = table.find(&target("GET", "https://api.example.com/")).unwrap();
    let mut seen = HashSet::new();
    for n in 0..1000 {
        let path = CanonicalPath::parse(&format!("/v1/r{n}/x")).unwrap();
        let matching: Vec<_> = candidates.rules().iter().filter(|rule| rule.matches_path(&path)).collect();
        assert_eq!(matching.len(), 1, "{path}");
        assert_eq!(matching[0].route().name.as_str(), format!("r{n}"));
        seen.insert(matching[0].route().name.clone());
    }
    assert_eq!(seen.len(), 1000);
}

#[test]
fn no_route_is_noted_as_a_refusal() {
    let mut record = record();
    NoRoute.note(&mut record);
    assert_eq!((record.decision.allowed, record.decision.route.get()), (Some(false), None));
    assert_eq!(record.decision.reason, "host_not_allowed");
}
