//! Keys in every spelling, and everything that is nearly one.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::primitives::{AgentName, sha256};

use super::{testing::record, *};

const KEY: &str = "cup_researcher-key";
const OTHER: &str = "cup_writer-key";

fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

fn settings(agent: &str, keys: &[&str]) -> AgentSettings {
    let keys = keys.iter().map(|key| sha256(key.as_bytes())).collect();
    AgentSettings { name: name(agent), keys, anonymous: agent == "anonymous" }
}

fn registry() -> Registry {
    Registry::new(vec![settings("researcher", &[KEY, "cup_next-key"]), settings("writer", &[OTHER])])
}

fn open_registry() -> Registry {
    Registry::new(vec![settings("researcher", &[KEY]), settings("writer", &[OTHER]), settings("anonymous", &[])])
}

fn basic(pair: impl AsRef<[u8]>) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    lines.iter().map(line).collect()
}

fn proxy(registry: &Registry, value: &str) -> Result<String, Unknown> {
    let fields = fields(&[("proxy-authorization", value)]);
    registry.identify(Evidence::Proxy(&fields)).map(|agent| agent.name().to_string())
}

fn reverse(registry: &Registry, lines: &[(&'static str, &str)]) -> Result<String, Unknown> {
    registry.identify(Evidence::Reverse(&fields(lines))).map(|agent| agent.name().to_string())
}

fn is(agent: &str) -> Result<String, Unknown> {
    Ok(agent.to_owned())
}

#[test]
fn a_good_key_is_its_agent() {
    let registry = registry();
    let good = [
        basic(format!("researcher:{KEY}")),
        basic("researcher:cup_next-key"),
        basic(format!(":{KEY}")),
        basic(format!("researcher:{KEY}")).replace("Basic", "bASIC"),
        format!("Bearer {KEY}"),
        format!("bearer   {KEY}"),
    ];
    for value in good {
        assert_eq!(proxy(&registry, &value), is("researcher"), "{value}");
    }
    assert_eq!(proxy(&registry, &format!("Bearer {OTHER}")), is("writer"));
    let colon = Registry::new(vec![settings("a", &["k:e:y"])]);
    assert_eq!(proxy(&colon, &basic("a:k:e:y")), is("a"));
}

/// Threat 1. Neither a bad key nor an unreadable one is ever the anonymous agent.
#[test]
fn a_key_that_differs_in_anything_is_nobodys() {
    let digest = hex_digest(KEY);
    let mismatches = [
        basic(format!("researcher:{KEY}\0")),
        basic(format!("researcher:\0{KEY}")),
        basic(format!("researcher:{KEY}x")),
        basic(format!("researcher:{KEY} ")),
        basic(format!("researcher:{}", &KEY[..KEY.len() - 1])),
        basic(format!("researcher:{}", KEY.to_uppercase())),
        basic(format!("researcher:{OTHER}")),
        basic(format!("researcher:{digest}")),
        basic(format!("researcher\0:{KEY}")),
        basic(format!("Researcher:{KEY}")),
        basic(format!("nobody:{KEY}")),
        basic([b"\xff:", KEY.as_bytes()].concat()),
        format!("Bearer {KEY}x"),
        format!("Bearer {}", &KEY[1..]),
        format!("Bearer {digest}"),
    ];
    let malformed = [
        String::new(),
        "Basic".to_owned(),
        "Basic ".to_owned(),
        "Basic !!!".to_owned(),
        basic("researcher"),
        basic("researcher:"),
        basic(":"),
        basic(format!("researcher:{KEY}")) + "=",
        basic(format!("researcher:{KEY}")) + " x",
        basic(format!("researcher:{KEY}")).replace("Basic ", "Basic\t"),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {KEY} {KEY}"),
        format!("Bearer {KEY}\u{e9}"),
        format!("Bearer\t{KEY}"),
        format!("Digest {KEY}"),
        KEY.to_owned(),
    ];
    for registry in [registry(), open_registry()] {
        for value in &mismatches {
            assert_eq!(proxy(&registry, value), Err(Unknown::Mismatch), "{value:?}");
        }
        for value in &malformed {
            assert_eq!(proxy(&registry, value), Err(Unknown::Malformed), "{value:?}");
        }
    }
}

fn hex_digest(key: &str) -> String {
    hex(&sha256(key.as_bytes()))
}

/// Threat 2.
#[test]
fn two_lines_are_ambiguous_even_if_equal() {
    let good = format!("Bearer {KEY}");
    let twice = fields(&[("proxy-authorization", &good), ("proxy-authorization", &good)]);
    for registry in [registry(), open_registry()] {
        for evidence in [Evidence::Proxy(&twice), Evidence::Reverse(&twice)] {
            assert_eq!(registry.identify(evidence).err(), Some(Unknown::Ambiguous));
        }
    }
}

#[test]
fn without_evidence_only_a_named_anonymous_agent_gets_in() {
    let none = HeaderMap::new();
    for evidence in [Evidence::Proxy(&none), Evidence::Reverse(&none)] {
        assert_eq!(registry().identify(evidence).err(), Some(Unknown::Missing));
        assert_eq!(open_registry().identify(evidence).unwrap().name(), &name("anonymous"));
        assert_eq!(Registry::default().identify(evidence).err(), Some(Unknown::Missing));
    }
}

/// A forward request's own `Authorization` is for the upstream, and says nothing to us
/// (nor do the fields of threat 6).
#[test]
fn other_fields_are_no_evidence_on_a_forward_request() {
    let bearer = format!("Bearer {KEY}");
    let lines =
        [("authorization", &*bearer), ("x-api-key", KEY), ("x-agent", "researcher"), ("forwarded", "researcher")];
    assert_eq!(registry().identify(Evidence::Proxy(&fields(&lines))).err(), Some(Unknown::Missing));
    assert_eq!(reverse(&registry(), &lines[2..]), Err(Unknown::Missing));
}

#[test]
fn reverse_mode_takes_the_key_where_an_sdk_puts_it() {
    let (bearer, basic) = (format!("Bearer {KEY}"), basic(format!("researcher:{KEY}")));
    for line in [
        ("authorization", &*bearer),
        ("authorization", &*basic),
        ("proxy-authorization", &*basic),
        ("x-api-key", KEY),
        ("api-key", KEY),
        ("x-goog-api-key", KEY),
    ] {
        assert_eq!(reverse(&registry(), &[line]), is("researcher"), "{line:?}");
    }
    assert_eq!(reverse(&registry(), &[("x-api-key", "wrong")]), Err(Unknown::Mismatch));
    assert_eq!(reverse(&registry(), &[("authorization", "Bearer wrong")]), Err(Unknown::Mismatch));
    assert_eq!(reverse(&registry(), &[("authorization", KEY)]), Err(Unknown::Malformed));
    assert_eq!(reverse(&registry(), &[("authorization", KEY), ("api-key", "wrong")]), Err(Unknown::Mismatch));
}

#[test]
fn reverse_mode_with_several_fields_needs_them_to_agree() {
    let bearer = format!("Bearer {KEY}");
    let agree = [("authorization", &*bearer), ("x-api-key", KEY)];
    let placeholder = [("authorization", "Bearer sk-placeholder"), ("x-api-key", KEY)];
    let differ = [("authorization", &*bearer), ("x-api-key", OTHER)];
    let twice = [("x-api-key", KEY), ("x-api-key", KEY)];
    for registry in [registry(), open_registry()] {
        assert_eq!(reverse(&registry, &agree), is("researcher"));
        assert_eq!(reverse(&registry, &placeholder), is("researcher"));
        assert_eq!(reverse(&registry, &differ), Err(Unknown::Ambiguous));
        assert_eq!(reverse(&registry, &twice), Err(Unknown::Ambiguous));
    }
}

#[test]
fn a_placeholder_is_anonymous_in_reverse_mode_but_a_bad_proxy_key_is_not() {
    let open = open_registry();
    for line in [("authorization", "Bearer sk-placeholder"), ("x-api-key", "unused"), ("authorization", "AWS4 x")] {
        assert_eq!(reverse(&open, &[line]), is("anonymous"), "{line:?}");
    }
    assert_eq!(reverse(&open, &[("proxy-authorization", "Bearer wrong")]), Err(Unknown::Mismatch));
    let bearer = format!("Bearer {KEY}");
    let lines = [("proxy-authorization", "Bearer wrong"), ("authorization", &*bearer)];
    assert_eq!(reverse(&open, &lines), Err(Unknown::Mismatch));
}

#[test]
fn a_key_of_two_agents_names_neither_by_itself() {
    let registry = Registry::new(vec![settings("a", &[KEY]), settings("b", &[KEY])]);
    assert_eq!(proxy(&registry, &format!("Bearer {KEY}")), Err(Unknown::Mismatch));
    assert_eq!(proxy(&registry, &basic(format!("b:{KEY}"))), is("b"));
}

/// Threats 5 and 106.
#[test]
fn a_tunnel_is_its_openers_as_long_as_the_key_is_good() {
    let shown = fields(&[("proxy-authorization", &format!("Bearer {KEY}"))]);
    let known = registry();
    let (agent, identity) = known.identify_tunnel(Evidence::Proxy(&shown)).unwrap();
    assert_eq!(agent.name(), &name("researcher"));
    let again =
        |registry: Registry| registry.identify(Evidence::Tunnel(&identity)).map(|agent| agent.name().to_string());
    assert_eq!(again(registry()), is("researcher"));
    assert_eq!(again(Registry::new(vec![settings("researcher", &["cup_rotated", KEY])])), is("researcher"));
    assert_eq!(again(Registry::new(vec![settings("researcher", &["cup_rotated"])])), Err(Unknown::Mismatch));
    let shared = vec![settings("researcher", &[KEY]), settings("writer", &[KEY])];
    assert_eq!(again(Registry::new(shared)), is("researcher"), "it said its name");
    // The key is now another agent's, and no key is needed for the anonymous one.
    let moved = vec![settings("writer", &[KEY]), settings("anonymous", &[])];
    assert_eq!(again(Registry::new(moved)), Err(Unknown::Mismatch));
}

#[test]
fn an_anonymous_tunnel_lasts_as_long_as_anonymous_agents_may_come() {
    let known = open_registry();
    let (agent, identity) = known.identify_tunnel(Evidence::Proxy(&HeaderMap::new())).unwrap();
    assert_eq!(agent.name(), &name("anonymous"));
    assert!(open_registry().identify(Evidence::Tunnel(&identity)).is_ok());
    assert_eq!(registry().identify(Evidence::Tunnel(&identity)).err(), Some(Unknown::Mismatch));
    let closed = AgentSettings { anonymous: false, ..settings("anonymous", &[KEY]) };
    assert_eq!(Registry::new(vec![closed]).identify(Evidence::Tunnel(&identity)).err(), Some(Unknown::Mismatch));
}

#[test]
fn agents_are_found_by_name() {
    assert_eq!(registry().named(&name("writer")).unwrap().name(), &name("writer"));
    assert!(registry().named(&name("nobody")).is_none());
    let mut names: Vec<_> = registry().names().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, ["researcher", "writer"]);
}

#[test]
fn debug_shows_no_whole_digest() {
    let shown = fields(&[("proxy-authorization", &format!("Bearer {KEY}"))]);
    let known = registry();
    let (agent, identity) = known.identify_tunnel(Evidence::Proxy(&shown)).unwrap();
    let text = format!("{agent:?} {identity:?} {known:?}");
    let digest = hex_digest(KEY);
    assert!(text.contains(&digest[..8]) && text.contains("researcher"), "{text}");
    assert!(!text.contains(&digest[..9]), "{text}");
    let as_numbers = format!("{:?}", &sha256(KEY.as_bytes())[..5]);
    assert!(!text.contains(as_numbers.trim_matches(['[', ']'])), "{text}");
}

#[test]
fn the_record_learns_who_asks_or_why_nobody_does() {
    let mut record = record();
    let none = HeaderMap::new();
    assert!(record.note(registry().identify(Evidence::Proxy(&none))).is_err());
    assert_eq!((record.agent.get(), record.decision.allowed), (None, None));
    assert_eq!(record.decision.reason, "agent_key_missing");
    assert!(record.note(open_registry().identify(Evidence::Proxy(&none))).is_ok());
    assert_eq!(record.agent.get(), Some(&name("anonymous")));
    assert_eq!(Unknown::Mismatch.to_string(), Unknown::Mismatch.reason());
}

/// What an agent proves itself with is no token of its own.
#[test]
fn a_key_is_known_as_a_key() {
    let knows = |text: &str| registry().knows(&crate::primitives::Secret::new(text.to_owned()));
    assert!(knows(KEY) && knows(OTHER) && knows("cup_next-key"));
    assert!(!knows("cup_researcher-ke") && !knows("") && !knows("eyJ.a.b"));
}
