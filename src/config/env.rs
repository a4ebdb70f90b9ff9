//! Where the config file is looked for. Knows the environment through a closure only.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

/// No config file was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// The places that were tried, in order.
    pub tried: Vec<PathBuf>,
}

/// `--config FILE`, else `$CUPBEARER_CONFIG`, `./proxy.toml`,
/// `$XDG_CONFIG_HOME/cupbearer/proxy.toml`, `/etc/cupbearer/proxy.toml`.
///
/// A file that was asked for by name is taken whether it is there or not, so that a slip in
/// the name never starts another config.
///
/// # Errors
/// The places tried, where none has a file.
pub fn locate(explicit: Option<&Path>, env: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, NotFound> {
    if let Some(path) = explicit {
        return Ok(path.to_owned());
    }
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("CUPBEARER_CONFIG") {
        return Ok(path);
    }
    first_file(places(&set))
}

fn places(set: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let user = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let user = user.map(|directory| directory.join("cupbearer/proxy.toml"));
    [Some(PathBuf::from("./proxy.toml")), user, Some(PathBuf::from("/etc/cupbearer/proxy.toml"))]
        .into_iter()
        .flatten()
        .collect()
}

fn first_file(tried: Vec<PathBuf>) -> Result<PathBuf, NotFound> {
    match tried.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(NotFound { tried }),
    }
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<String> = self.tried.iter().map(|path| path.display().to_string()).collect();
        write!(f, "no config file: name one with --config or CUPBEARER_CONFIG; tried {}", places.join(", "))
    }
}

impl std::error::Error for NotFound {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_wins_even_when_it_is_missing() {
        let env = |name: &str| (name == "CUPBEARER_CONFIG").then(|| OsString::from("/nowhere/b.toml"));
        assert_eq!(locate(Some(Path::new("/nowhere/a.toml")), &env), Ok(PathBuf::from("/nowhere/a.toml")));
        assert_eq!(locate(None, &env), Ok(PathBuf::from("/nowhere/b.toml")));
    }

    #[test]
    fn places_are_tried_in_order() {
        let only = |wanted: &'static str, value: &'static str| {
            move |name: &str| (name == wanted).then(|| PathBuf::from(value))
        };
        let expect = |user: &str| ["./proxy.toml", user, "/etc/cupbearer/proxy.toml"].map(PathBuf::from).to_vec();
        assert_eq!(places(&only("XDG_CONFIG_HOME", "/x")), expect("/x/cupbearer/proxy.toml"));
        assert_eq!(places(&only("HOME", "/h")), expect("/h/.config/cupbearer/proxy.toml"));
    }

    #[test]
    fn the_first_file_that_is_there_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let (absent, present) = (home.path().join("a.toml"), home.path().join("b.toml"));
        let missing = first_file(vec![absent.clone(), present.clone()]).unwrap_err();
        assert!(missing.to_string().contains(&present.display().to_string()), "{missing}");
        std::fs::write(&present, "").unwrap();
        assert_eq!(first_file(vec![absent, present.clone()]), Ok(present));
    }
}
