//! `[credentials.NAME]`: what every credential has, and its one step, or its list of them.

mod answer;
mod ask;
pub(super) mod client_auth;
mod grants;
mod http_source;
mod input;
mod jwt;
mod kind;
mod step;

use std::time::Duration;

use crate::{
    credential::{Injection, step::DpopUse},
    primitives::CredentialName,
};

use super::{
    super::{
        document::{At, Section},
        hosts::{HostEntry, host_entries},
        preset::{self, Preset},
    },
    named,
};

pub(in crate::config) use ask::{check_scopes, scopes};
pub(in crate::config) use http_source::Place;
pub(in crate::config) use input::Reference;
pub(in crate::config) use kind::Kind;
pub(in crate::config) use step::Step;

pub(in crate::config) struct Credential {
    /// As the file names it, also where that is no valid name.
    pub(in crate::config) text: At<String>,
    pub(in crate::config) name: Option<CredentialName>,
    pub(in crate::config) preset: &'static Preset,
    pub(in crate::config) steps: Vec<Step>,
    /// The second lock.
    pub(in crate::config) hosts: Vec<HostEntry>,
    /// Whether there is a `hosts`: one that only feeds others goes nowhere.
    pub(in crate::config) has_hosts: bool,
    pub(in crate::config) default_ttl: Duration,
    pub(in crate::config) strict_scopes: bool,
    pub(in crate::config) revoke_after_run: bool,
    /// `None`: a problem was reported.
    pub(in crate::config) injection: Option<Injection>,
}

/// For a token whose answer names no end: short, so that a revoked one isn't kept long.
const DEFAULT_TTL: Duration = Duration::from_secs(300);

pub(in crate::config) fn credential(text: At<String>, mut section: Section<'_>) -> Credential {
    let name = named(&section, &text, CredentialName::parse);
    let empty = "an empty list means that the token may go nowhere: name the hosts it is for";
    let hosts = section.strings("hosts", "hosts = [\"api.example.com\"]", empty);
    let hosts = hosts.map_or(Vec::new(), |list| host_entries(section.doc, list.value));
    let has_hosts = section.has("hosts");
    let default_ttl = section.duration("default_ttl").unwrap_or(DEFAULT_TTL);
    let strict_scopes = section.flag("strict_scopes");
    let revoke_after_run = section.boolean("revoke_after_run").is_none_or(|flag| flag.value);
    let chosen = section.choice("preset", &preset::ALL, &[]);
    let is_misnamed = section.has("preset") && chosen.is_none();
    let has_steps = section.has("steps");
    let only = if has_steps || is_misnamed { None } else { step::kind(&mut section, chosen.unwrap_or(&preset::NONE)) };
    let preset = chosen.unwrap_or(Preset::implied_by(only));
    let username = (only == Some(Kind::Basic)).then(|| section.string("username", "username = \"…\"")).flatten();
    let injection = answer::injection(&mut section, username.as_ref());
    let steps = if has_steps {
        kind::refuse_direct(&mut section);
        steps(&mut section, &text.value, preset)
    } else {
        let _ = section.entry("steps");
        vec![step::step(&mut section, only, step::Whole { name: &text.value, preset, is_first: true })]
    };
    check_injection(&section, injection.as_ref(), &steps);
    warn_of_git(&section, injection.as_ref(), &steps, &hosts);
    if has_steps || only.is_some() {
        // The keys of a grant that isn't known can't be judged.
        section.finish();
    }
    Credential { text, name, preset, steps, hosts, has_hosts, default_ttl, strict_scopes, revoke_after_run, injection }
}

/// `[[credentials.NAME.steps]]`.
fn steps(section: &mut Section<'_>, name: &str, preset: &'static Preset) -> Vec<Step> {
    let title = section.title().to_owned();
    let mut steps = Vec::new();
    for (number, mut each) in section.array("steps").into_iter().enumerate() {
        each.rename(format!("step {} of {title}", number + 1));
        let kind = step::kind(&mut each, preset);
        let made = step::step(&mut each, kind, step::Whole { name, preset, is_first: number == 0 });
        if number > 0 && made.grant.is_some() && made.notes.previous.is_none() {
            let message = format!("nothing uses what step {number} of {title} gives");
            let help = format!("write `{{ previous = true }}` in step {}, or take step {number} out", number + 1);
            each.doc.problem(&made.span, message, help);
        }
        if kind.is_some() {
            each.finish();
        }
        steps.push(made);
    }
    if section.is_empty_list("steps") {
        let help = format!("write [[credentials.{name}.steps]] once a step");
        section.doc.problem(&section.place("steps"), "`steps` is empty", help);
    }
    steps
}

/// RFC 9449, section 7.1: a bound token goes where the RFC has it.
fn check_injection(section: &Section<'_>, injection: Option<&Injection>, steps: &[Step]) {
    let bound = steps.last().is_some_and(|step| step.dpop == DpopUse::Required);
    if bound && injection.is_some_and(|injection| !injection.is_bearer()) {
        let help = "take one of the two out: a token with a proof goes as `Authorization: DPoP`";
        section.doc.problem(&section.place("inject"), "`inject` and `dpop = \"required\"`", help);
    }
}

/// GitHub's REST API takes a token as Bearer, its git server as Basic only.
fn warn_of_git(section: &Section<'_>, injection: Option<&Injection>, steps: &[Step], hosts: &[HostEntry]) {
    let is_app = steps.last().is_some_and(|step| step.kind == Some(Kind::GithubApp));
    let git = hosts.iter().find(|host| host.text.eq_ignore_ascii_case("github.com"));
    if let (Some(git), true, Some(true)) = (git, is_app, injection.map(Injection::is_bearer)) {
        let help = "for git, add `inject = { template = \"Basic b64(x-access-token:{token})\" }`";
        section.doc.warning(&git.span, "git at github.com takes no Bearer token", help);
    }
}
