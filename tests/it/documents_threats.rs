//! What the documents say about the code names code that is there, and no threat of the
//! model is passed over.

use std::{fs, path::Path};

const THREATS: usize = 114;
const ANSWERS: [&str; 4] = ["met", "partly", "not yet", "yours"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Number, answer and where, of each row of the table.
fn rows(text: &str) -> Vec<(usize, String, String)> {
    text.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix("| ")?.trim_end_matches('|').split(" | ").map(str::trim).collect();
            Some((cells.first()?.parse().ok()?, (*cells.get(2)?).to_owned(), (*cells.get(3)?).to_owned()))
        })
        .collect()
}

#[test]
fn every_threat_has_its_answer() {
    let rows = rows(&fs::read_to_string(root().join("docs/security.md")).unwrap());
    let numbers: Vec<usize> = rows.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=THREATS).collect::<Vec<_>>());
    for (number, answer, place) in &rows {
        assert!(ANSWERS.contains(&answer.as_str()), "threat {number} is answered `{answer}`");
        assert!(!place.is_empty(), "threat {number} says nothing");
    }
}

/// `src/…`, `tests/…` and the like between backticks.
fn paths(text: &str) -> Vec<&str> {
    let inside = text.split('`').skip(1).step_by(2);
    let named = |word: &&str| {
        ["src/", "tests/", "docs/", "deploy/", "benches/", ".ci/"].iter().any(|top| word.starts_with(top))
    };
    inside.filter(named).collect()
}

#[test]
fn every_path_that_a_document_names_is_there() {
    let mut found = 0;
    let mut missing = Vec::new();
    for name in ["README.md", "docs/architecture.md", "docs/security.md", "docs/dependencies.md", "deploy/README.md"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        for path in paths(&text) {
            found += 1;
            if !root().join(path.trim_end_matches('*')).exists() {
                missing.push(format!("{name}: {path}"));
            }
        }
    }
    assert!(found > 100, "only {found} paths were found");
    assert!(missing.is_empty(), "these aren't there:\n{}", missing.join("\n"));
}
