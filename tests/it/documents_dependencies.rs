//! `docs/dependencies.md` has one line for each direct dependency, with the version that is
//! locked, and none too many.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The keys of one table of `Cargo.toml`.
fn declared(table: &str) -> BTreeSet<String> {
    let cargo = read("Cargo.toml");
    let lines = cargo.lines().skip_while(|line| *line != format!("[{table}]")).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Name and version of each row of the table under a heading.
fn described(heading: &str) -> Vec<(String, String)> {
    let text = read("docs/dependencies.md");
    let lines = text.lines().skip_while(|line| *line != format!("## {heading}")).skip(1);
    lines
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let mut cells = row.split('|').map(str::trim);
            let name = cells.next().unwrap().trim_end_matches('`').to_owned();
            (name, cells.next().unwrap().to_owned())
        })
        .collect()
}

/// Every version of every package in `Cargo.lock`.
fn locked() -> BTreeMap<String, Vec<String>> {
    let lock = read("Cargo.lock");
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut lines = lock.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("name = ") else { continue };
        let version = lines.next().and_then(|line| line.strip_prefix("version = ")).unwrap();
        packages.entry(name.trim_matches('"').to_owned()).or_default().push(version.trim_matches('"').to_owned());
    }
    packages
}

#[test]
fn each_dependency_has_its_line_and_no_line_is_left_over() {
    for (table, heading) in [("dependencies", "In the program"), ("dev-dependencies", "In tests and benchmarks")] {
        let (declared, described) = (declared(table), described(heading));
        let names: BTreeSet<String> = described.iter().map(|(name, _)| name.clone()).collect();
        assert!(declared.len() > 4, "only {declared:?} were found in [{table}]");
        assert_eq!(names.len(), described.len(), "a line stands twice under `{heading}`");
        let missing: Vec<_> = declared.difference(&names).collect();
        let left_over: Vec<_> = names.difference(&declared).collect();
        assert!(missing.is_empty() && left_over.is_empty(), "{heading}: missing {missing:?}, left over {left_over:?}");
    }
}

#[test]
fn the_versions_are_the_locked_ones() {
    let locked = locked();
    for (name, version) in ["In the program", "In tests and benchmarks"].into_iter().flat_map(described) {
        let fits = |locked: &String| *locked == version || locked.starts_with(&format!("{version}."));
        let versions = locked.get(&name).unwrap_or_else(|| panic!("`{name}` isn't in Cargo.lock"));
        assert!(versions.iter().any(fits), "{name}: {version} is described, {versions:?} is locked");
    }
}
