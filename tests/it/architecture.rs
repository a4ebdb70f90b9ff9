//! House law 4: dependencies point down, and files stay small.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Top to bottom; the rooms of one floor never see each other.
const FLOORS: &[&[&str]] = &[
    &["cli"],
    &["demo", "launch"],
    &["app"],
    &["config"],
    &["server", "admin"],
    &["proxy"],
    &["credential", "upstream"],
    &["policy"],
    &["route"],
    &["identity"],
    &["tls"],
    &["observe"],
    &["files", "http1", "http2"],
    &["primitives"],
];

const MOST_LINES: usize = 600;

/// The floors that a request walks through, and how many lines fit a screen.
const REQUEST_PATH: &[&str] = &[
    "server",
    "proxy",
    "credential",
    "upstream",
    "policy",
    "route",
    "identity",
    "observe",
    "http1",
    "http2",
    "primitives",
];
const SCREEN: usize = 50;

fn sources() -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 40, "only {} source files were found", found.len());
    found
}

/// The room a file belongs to; `None` for `main.rs` and `lib.rs`.
fn room(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let mut parts = inside.components();
    let first = parts.next()?.as_os_str().to_str()?.to_owned();
    parts.next().map(|_| first)
}

fn floor(room: &str) -> usize {
    FLOORS
        .iter()
        .position(|floor| floor.contains(&room))
        .unwrap_or_else(|| panic!("the room `{room}` isn't in the floor plan"))
}

/// Every room that a text names by `crate::ROOM`, also inside `use crate::{a, b::c}`.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => word.clear(),
                    ':' if depth == 1 && !word.is_empty() => {
                        named.insert(std::mem::take(&mut word));
                    }
                    letter if depth == 1 && (letter.is_alphanumeric() || letter == '_') => word.push(letter),
                    _ => {}
                }
                if depth == 1 && (character == ',' || character == '\n') {
                    word.clear();
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            let word: String = rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            named.insert(word);
        }
    }
    let rooms: BTreeSet<_> = FLOORS.iter().flat_map(|floor| floor.iter().map(|room| (*room).to_owned())).collect();
    named.intersection(&rooms).cloned().collect()
}

/// Whoever opens the repository finds what belongs there, and no more.
#[test]
fn the_top_level_is_fixed() {
    const FIXED: &[&str] = &[
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "proxy.toml",
        "tests",
        "benches",
        "README.md",
        "docs",
        "deploy",
        "CHANGELOG.md",
        "LICENSE",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap();
    let found: BTreeSet<String> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let belongs = |name: &str| {
        name.starts_with('.') || FIXED.contains(&name) || ignored.lines().any(|line| line == format!("/{name}"))
    };
    let others: Vec<_> = found.iter().filter(|name| !belongs(name)).collect();
    assert!(others.is_empty(), "{others:?} don't belong at the top level");
    assert!(FIXED.iter().all(|name| found.contains(*name)), "{found:?}");
}

#[test]
fn dependencies_point_down() {
    let mut edges = 0;
    let mut upward = Vec::new();
    for path in sources() {
        let Some(from) = room(&path) else { continue };
        for to in rooms_named(&fs::read_to_string(&path).unwrap()) {
            if to == from {
                continue;
            }
            edges += 1;
            if floor(&from) >= floor(&to) {
                upward.push(format!("{}: {from} -> {to}", path.display()));
            }
        }
    }
    assert!(edges > 50, "only {edges} edges were found");
    assert!(upward.is_empty(), "these point up or sideways:\n{}", upward.join("\n"));
}

#[test]
fn files_stay_small() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
            (lines > MOST_LINES).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "these have more than {MOST_LINES} lines before their tests:\n{}", long.join("\n"));
}

/// Name and length of each function that has a body, up to the tests of the file. rustfmt
/// puts a function's last brace where its first line starts.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let starts = lines.iter().enumerate().filter_map(|(at, line)| {
        let before = line.split_once("fn ")?;
        let is_item =
            before.0.split_whitespace().all(|word| ["const", "async"].contains(&word) || word.starts_with("pub"));
        is_item.then_some((at, before.1))
    });
    let functions = starts.filter_map(|(at, rest)| {
        let name = rest.split(['(', '<']).next()?.to_owned();
        let own = indent(lines[at]);
        let last = lines[at..].iter().position(|line| {
            indent(line) == own && (line.trim_start().starts_with('}') || line.ends_with('}') || line.ends_with(';'))
        })?;
        (!lines[at + last].ends_with(';')).then_some((name, last + 1))
    });
    functions.collect()
}

#[test]
fn functions_on_the_request_path_fit_a_screen() {
    let mut found = 0;
    let mut long = Vec::new();
    for path in sources() {
        let is_test = path
            .components()
            .any(|part| ["tests", "tests.rs", "testing.rs"].iter().any(|name| part.as_os_str() == *name));
        if is_test || !room(&path).is_some_and(|room| REQUEST_PATH.contains(&room.as_str())) {
            continue;
        }
        let functions = functions(&fs::read_to_string(&path).unwrap());
        found += functions.len();
        let too_long = functions.into_iter().filter(|(_, lines)| *lines > SCREEN);
        long.extend(too_long.map(|(name, lines)| format!("{}: {name}, {lines} lines", path.display())));
    }
    assert!(found > 500, "only {found} functions were found");
    assert!(long.is_empty(), "these have more than {SCREEN} lines:\n{}", long.join("\n"));
}

#[test]
fn functions_are_measured_to_their_own_last_brace() {
    let text = "impl A {\n    pub(super) async fn long(\n        &self,\n    ) -> B {\n        if c {\n        }\n    }\n\n    \
                fn short(&self) {}\n}\n\ntrait T {\n    fn none(&self);\n}\n\n#[cfg(test)]\nfn test() {\n}";
    assert_eq!(functions(text), [("long".to_owned(), 6), ("short".to_owned(), 1)]);
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "these don't start with `//!`:\n{}", silent.join("\n"));
}

/// The reader itself has to find what it looks for.
#[test]
fn rooms_are_found_in_every_spelling() {
    let named = rooms_named(
        "use crate::{\n    config::{self, Settings},\n    primitives::Host,\n};\nuse crate::tls;\ncrate::route::Table",
    );
    assert_eq!(named.into_iter().collect::<Vec<_>>(), ["config", "primitives", "route", "tls"]);
}
