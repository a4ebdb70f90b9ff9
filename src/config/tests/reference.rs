//! `docs/configuration.md` against the code.

use super::*;

/// The reference in `docs/configuration.md` names each key under its table.
#[test]
fn every_key_is_documented() {
    let directory = tempfile::tempdir().unwrap();
    let text = full(directory.path());
    let doc = Document::new(&text, directory.path(), &environment);
    let (table, errors) = DeTable::parse_recoverable(&text);
    assert_eq!(errors, []);
    raw::read(Section::root(&doc, table.get_ref()));
    let known = doc.known.take();
    let kinds: BTreeSet<&str> = known.iter().map(|(kind, _)| *kind).collect();
    let expected = [
        "",
        "INPUT",
        "SOURCE",
        "admin",
        "agents.NAME",
        "answer",
        "audit",
        "authorization_servers.NAME",
        "client_auth",
        "credentials.NAME",
        "inject",
        "jwt",
        "limits",
        "proxy",
        "proxy_credentials",
        "redirect",
        "refresh_on",
        "reverse",
        "routes",
        "socks",
        "state",
        "steps",
        "tls",
        "upstream",
        "upstream_certificate",
    ];
    assert_eq!(kinds, BTreeSet::from(expected));
    let reference = include_str!("../../../docs/configuration.md");
    for (kind, key) in &known {
        let title = match *kind {
            "" => "## The file".to_owned(),
            "tls"
            | "client_auth"
            | "SOURCE"
            | "INPUT"
            | "answer"
            | "inject"
            | "jwt"
            | "redirect"
            | "refresh_on"
            | "proxy_credentials"
            | "upstream_certificate" => {
                format!("## `{kind}`")
            }
            // The same keys, in a credential of one step or of several.
            "steps" => "## `[credentials.NAME]`".to_owned(),
            "routes" | "reverse" => format!("## `[[{kind}]]`"),
            kind => format!("## `[{kind}]`"),
        };
        let section =
            reference.split("\n## ").find(|section| format!("## {section}").starts_with(&format!("{title}\n")));
        let section = section.unwrap_or_else(|| panic!("no section {title}"));
        assert!(section.contains(&format!("`{key}`")), "{title} lacks `{key}`");
    }
}

/// The example of the reference loads.
#[test]
fn the_documented_example_loads() {
    let reference = include_str!("../../../docs/configuration.md");
    let blocks: Vec<&str> = reference.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        good(block);
    }
}

/// Documented defaults are the real ones.
#[test]
fn documented_limits_are_the_defaults() {
    let reference = include_str!("../../../docs/configuration.md");
    let section = reference.split("\n## ").find(|section| section.starts_with("`[limits]`")).unwrap();
    let mut lines = String::from("[limits]\n");
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        lines.push_str(&format!("{} = {}\n", cells[1].trim_matches('`'), cells[3].trim_matches('`')));
    }
    assert!(lines.lines().count() > 15, "{lines}");
    let (written, default) = (good(&format!("{lines}{SMALL}")), good(SMALL));
    let shown = |settings: &Settings| {
        format!(
            "{:?}{:?}{:?}{:?}{:?}",
            settings.server,
            settings.proxy,
            settings.upstream,
            settings.tokens,
            settings.routes[0].upstream.response_timeout
        )
    };
    assert_eq!(shown(&written), shown(&default));
}
