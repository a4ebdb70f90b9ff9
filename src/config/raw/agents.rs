//! `[agents.NAME]`.

use crate::primitives::{AgentName, digest::unhex32};

use super::{
    super::document::{At, Section},
    named,
};

pub(in crate::config) struct Agent {
    /// As the file names it, also where that is no valid name.
    pub(in crate::config) text: At<String>,
    pub(in crate::config) name: Option<AgentName>,
    pub(in crate::config) keys: Vec<At<[u8; 32]>>,
}

/// The agent that needs no key.
pub(in crate::config) const ANONYMOUS: &str = "anonymous";

pub(in crate::config) fn agent(text: At<String>, mut section: Section<'_>) -> Agent {
    const EXAMPLE: &str = "key_sha256 = \"…\"";
    let make = format!("run `cupbearer agent new {}`, which prints the line to write", super::shown(&text.value));
    let name = named(&section, &text, AgentName::parse);
    section.unsupported(&["certificate", "jwt", "unix_user", "source"]);
    section.refuse("key", "an agent's key is never written in the file, only its SHA-256", &make);
    let anonymous = text.value == ANONYMOUS;
    let otherwise = ["key", "certificate", "jwt", "unix_user", "source"].into_iter().any(|key| section.has(key));
    if anonymous && section.has("key_sha256") {
        let help = "take the key out, or give the agent another name";
        section.doc.problem(&section.place("key_sha256"), "the agent `anonymous` has no key", help);
    } else if !anonymous && !otherwise && !section.has("key_sha256") {
        let message = format!("{} has no `key_sha256`: nobody could be this agent", section.title());
        let help = format!("{make}; an agent without a key is called `anonymous`");
        section.doc.problem(&section.span, message, help);
    }
    let list = section.one_or_more("key_sha256", EXAMPLE, "an empty list means that nobody is this agent");
    let list = list.map_or(Vec::new(), |list| {
        if list.value.len() > 2 {
            let help = "keep the current key and, while it is being changed, the next one";
            section.doc.problem(&list.span, "an agent has one key, or two while it is being changed", help);
        }
        list.value
    });
    let mut keys = Vec::new();
    for hash in list {
        match unhex32(&hash.value) {
            Some(value) => keys.push(At { value, span: hash.span }),
            None => {
                // It may be the key itself.
                section.doc.hide(&hash.span);
                section.doc.problem(&hash.span, "`key_sha256` is no SHA-256: 64 hexadecimal digits", &*make);
            }
        }
    }
    section.finish();
    Agent { text, name, keys }
}
