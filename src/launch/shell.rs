//! A plan as text that a shell evaluates (`cupbearer env`). Pure: it returns the text.

use std::str::FromStr;

use super::{
    Plan,
    environment::{Change, is_variable_name},
};

/// Whose syntax to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// POSIX: sh, bash, zsh, dash, ksh.
    Sh,
    Fish,
    PowerShell,
}

/// Not `sh`, `fish` or `powershell`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shell is `sh`, `fish` or `powershell`")]
pub struct UnknownShell;

impl FromStr for Shell {
    type Err = UnknownShell;

    fn from_str(text: &str) -> Result<Self, UnknownShell> {
        match text {
            "sh" => Ok(Self::Sh),
            "fish" => Ok(Self::Fish),
            "powershell" => Ok(Self::PowerShell),
            _ => Err(UnknownShell),
        }
    }
}

impl Plan {
    /// Lines for `shell` to evaluate, by name. They hold the agent's key.
    pub fn to_shell(&self, shell: Shell) -> String {
        // A variable with another kind of name can't be a shell's, and its name could be code.
        let named = self.changes().filter(|(name, _)| is_variable_name(name));
        named.map(|(name, change)| shell.line(name, change)).collect()
    }

    /// One object: the value by name, `null` to unset. It holds the agent's key.
    pub fn to_json(&self) -> serde_json::Value {
        self.changes()
            .map(|(name, change)| (name.to_owned(), change.value().into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

impl Shell {
    fn line(self, name: &str, change: &Change) -> String {
        match (self, change.value()) {
            (Self::Sh, Some(value)) => format!("export {name}={}\n", self.quote(value)),
            (Self::Sh, None) => format!("unset {name}\n"),
            (Self::Fish, Some(value)) => format!("set -gx {name} {}\n", self.quote(value)),
            (Self::Fish, None) => format!("set -e {name}\n"),
            (Self::PowerShell, Some(value)) => format!("$env:{name} = {}\n", self.quote(value)),
            (Self::PowerShell, None) => format!("Remove-Item Env:{name} -ErrorAction SilentlyContinue\n"),
        }
    }

    fn quote(self, value: &str) -> String {
        let mut quoted = String::from("'");
        for character in value.chars() {
            match (self, character) {
                (Self::Sh, '\'') => quoted.push_str("'\\''"),
                (Self::Fish, '\'' | '\\') => quoted.extend(['\\', character]),
                // PowerShell ends a string at typographic quotes too; doubled, each is itself.
                (Self::PowerShell, '\'' | '\u{2018}'..='\u{201b}') => quoted.extend([character, character]),
                (_, character) => quoted.push(character),
            }
        }
        quoted.push('\'');
        quoted
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf, process::Command};

    use super::*;
    use crate::{
        launch::{Inherited, Settings, TrustFiles},
        primitives::Authority,
    };

    const NASTY: &str = "a'b\"c$HOME`id`$(id)\\\\ \\n!*;&|\n  two\u{2019}lines 'end'\\";

    fn plan() -> Plan {
        let file = PathBuf::from("/run/c b/it's");
        let trust = TrustFiles { ca: file.clone(), bundle: file.clone(), java: file.clone(), wgetrc: file };
        let settings = Settings {
            proxy: Authority::parse("127.0.0.1:3128", None).unwrap(),
            proxy_tls: false,
            agent: None,
            placeholders: BTreeMap::from([("NASTY".to_owned(), NASTY.to_owned())]),
            keyring: false,
            secret_variables: vec!["GONE".to_owned(), "odd;touch /tmp/owned".to_owned()],
            routed_hosts: Vec::new(),
            java: true,
        };
        let inherited = ["GONE", "odd;touch /tmp/owned"].map(|name| (name.into(), "secret".into()));
        Plan::new(&settings, &trust, &Inherited::new(inherited)).unwrap()
    }

    /// A real shell evaluates the text and shows the environment it then has.
    #[test]
    fn sh_gets_every_value_exactly() {
        let plan = plan();
        let script = format!("{}exec env -0", plan.to_shell(Shell::Sh));
        let output = Command::new("sh")
            .args(["-c", &script])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GONE", "secret")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let after: BTreeMap<_, _> = text.split_terminator('\0').filter_map(|pair| pair.split_once('=')).collect();
        assert_eq!(after["NASTY"], NASTY);
        assert!(!after.contains_key("GONE"));
        let set: Vec<_> = plan.changes().filter_map(|(name, change)| Some((name, change.value()?))).collect();
        assert!(set.len() > 40);
        for (name, value) in set {
            assert_eq!(after[name], value, "{name}");
        }
    }

    /// These shells aren't everywhere, so their rules are written down here.
    #[test]
    fn fish_and_powershell_are_quoted_by_their_own_rules() {
        let line = |shell: Shell, value: &str| shell.line("A", &Change::Set(value.to_owned()));
        assert_eq!(line(Shell::Fish, "it's \\ $x"), "set -gx A 'it\\'s \\\\ $x'\n");
        assert_eq!(line(Shell::PowerShell, "it's \\ $x \u{2019}"), "$env:A = 'it''s \\ $x \u{2019}\u{2019}'\n");
        assert_eq!(Shell::Fish.line("A", &Change::Unset), "set -e A\n");
        assert_eq!(Shell::PowerShell.line("A", &Change::Unset), "Remove-Item Env:A -ErrorAction SilentlyContinue\n");
    }

    #[test]
    fn a_name_is_never_code() {
        for shell in [Shell::Sh, Shell::Fish, Shell::PowerShell] {
            assert!(!plan().to_shell(shell).contains("touch"));
        }
    }

    #[test]
    fn json_has_null_for_what_goes() {
        let json = plan().to_json();
        assert_eq!(json["NASTY"], NASTY);
        assert_eq!(json["GONE"], serde_json::Value::Null);
        assert!(json.as_object().unwrap().contains_key("GONE"));
        assert_eq!(json["WGETRC"], "/run/c b/it's");
    }

    #[test]
    fn shells_have_names() {
        assert_eq!("fish".parse(), Ok(Shell::Fish));
        assert_eq!("cmd".parse::<Shell>(), Err(UnknownShell));
    }
}
