//! `INPUT`: a token or an assertion that a grant sends along. It comes from a secret's
//! source, another credential, the agent, the step before, or is made here.

use toml::de::DeValue;

use crate::credential::{
    Source,
    step::{AudMode, Input, Which},
};

use super::{
    super::{
        super::{
            document::{At, Section},
            preset::Preset,
            problem::{Span, listed},
        },
        source::place,
    },
    Kind, jwt,
};

/// What a step says that only other sections can judge.
#[derive(Default)]
pub(in crate::config) struct Notes {
    pub(in crate::config) references: Vec<Reference>,
    pub(in crate::config) signed: Vec<Signed>,
    /// Where it takes the output of the step before.
    pub(in crate::config) previous: Option<Span>,
    pub(in crate::config) takes_the_agents_token: bool,
}

/// Another credential.
pub(in crate::config) struct Reference {
    pub(in crate::config) name: At<String>,
    pub(in crate::config) which: Which,
    /// Its refresh token becomes this credential's own.
    pub(in crate::config) is_login: bool,
}

/// A JWT that is made here: whom it may be shown to.
pub(in crate::config) struct Signed {
    pub(in crate::config) span: Span,
    pub(in crate::config) aud: AudMode,
    pub(in crate::config) keys: Vec<Source>,
}

/// What a step is read with.
#[derive(Clone, Copy)]
pub(super) struct Context<'c> {
    pub(super) kind: Kind,
    pub(super) preset: &'static Preset,
    /// The credential, as the file names it.
    pub(super) name: &'c str,
    pub(super) is_first: bool,
    pub(super) has_scopes: bool,
}

const WAYS: [&str; 9] = ["env", "file", "command", "keyring", "http", "credential", "agent", "previous", "jwt"];
const SECRETS: usize = 5;

/// An input without a type.
pub(super) fn input(
    section: &mut Section<'_>,
    key: &'static str,
    context: Context<'_>,
    notes: &mut Notes,
) -> Option<Input> {
    let mut table = table(section, key)?;
    let found = one(&mut table, key, context, notes);
    table.finish();
    found
}

/// An input and the `type` of token that it is (RFC 8693 §3).
pub(super) fn typed(
    section: &mut Section<'_>,
    key: &'static str,
    context: Context<'_>,
    notes: &mut Notes,
) -> Option<(Input, String)> {
    let mut table = table(section, key)?;
    let found = one(&mut table, key, context, notes);
    let known = match &found {
        Some(Input::Credential { which: Which::AccessToken, .. } | Input::Agent) => Some("access_token"),
        Some(Input::Credential { which: Which::RefreshToken, .. }) => Some("refresh_token"),
        Some(Input::Credential { which: Which::IdToken, .. }) => Some("id_token"),
        Some(Input::Jwt(_)) => Some("jwt"),
        Some(Input::Source(_) | Input::Previous) | None => None,
    };
    const EXAMPLE: &str = "type = \"urn:ietf:params:oauth:token-type:access_token\"";
    if found.is_some() && known.is_none() {
        table.need("type", EXAMPLE);
    }
    let token_type = table.string("type", EXAMPLE).map(|text| text.value);
    table.finish();
    let known = known.map(|name| format!("urn:ietf:params:oauth:token-type:{name}"));
    Some((found?, token_type.or(known)?))
}

fn table<'d>(section: &mut Section<'d>, key: &'static str) -> Option<Section<'d>> {
    let line = example(key);
    let (_, value) = section.entry(key)?;
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        section.doc.hide(&value.span());
        let message = format!("`{key}` holds a token itself; only where it comes from may stand here");
        section.doc.problem(&value.span(), message, format!("write {}", ways(key)));
        return None;
    }
    section.section(key, "INPUT", &line)
}

fn example(key: &str) -> String {
    format!("{key} = {{ file = \"PATH\" }}")
}

fn ways(key: &str) -> String {
    format!(
        "`{}`, `{{ credential = \"NAME\" }}`, `{{ agent = true }}`, `{{ previous = true }}` or `{{ jwt = {{ … }} }}`",
        example(key)
    )
}

/// The one way that the table names.
fn one(table: &mut Section<'_>, key: &'static str, context: Context<'_>, notes: &mut Notes) -> Option<Input> {
    let named: Vec<usize> = WAYS.iter().enumerate().filter(|(_, way)| table.has(way)).map(|(at, _)| at).collect();
    let found = match named.as_slice() {
        [] => {
            let message = format!("`{key}` doesn't say where its token comes from");
            table.doc.problem(&table.span, message, format!("write {}", ways(key)));
            None
        }
        [way] if *way < SECRETS => place(table, key, &example(key)).map(Input::Source),
        [way] => match WAYS[*way] {
            "credential" => credential(table, notes),
            "agent" => agent(table, notes),
            "previous" => previous(table, context, notes),
            _jwt => jwt::jwt(table, context, notes).map(|made| Input::Jwt(Box::new(made))),
        },
        several => {
            let message = format!("`{key}` names more than one origin of its token");
            let help = format!("keep one of {}", listed(several.iter().map(|at| WAYS[*at])));
            table.doc.problem(&table.span, message, help);
            None
        }
    };
    if table.has("token") && !table.has("credential") {
        table.doc.problem(&table.place("token"), "`token` goes with `credential` only", "take it out");
    }
    // Known, whichever of them is there.
    for key in WAYS.into_iter().chain(["token", "ttl", "headers", "pointer"]) {
        let _ = table.entry(key);
    }
    found
}

fn credential(table: &mut Section<'_>, notes: &mut Notes) -> Option<Input> {
    let name = table.string("credential", "credential = \"NAME\"")?;
    let tokens =
        [("access_token", Which::AccessToken), ("refresh_token", Which::RefreshToken), ("id_token", Which::IdToken)];
    let which = table.choice("token", &tokens, &[]).unwrap_or_default();
    let parsed = crate::primitives::CredentialName::parse(&name.value).ok();
    notes.references.push(Reference { name, which, is_login: false });
    Some(Input::Credential { name: parsed?, which })
}

fn agent(table: &mut Section<'_>, notes: &mut Notes) -> Option<Input> {
    only_true(table, "agent")?;
    notes.takes_the_agents_token = true;
    Some(Input::Agent)
}

fn previous(table: &mut Section<'_>, context: Context<'_>, notes: &mut Notes) -> Option<Input> {
    only_true(table, "previous")?;
    let span = table.place("previous");
    if context.is_first {
        let help =
            "take the token from somewhere else, or write [[credentials.NAME.steps]] with a step before this one";
        table.doc.problem(&span, "there is no step before this one", help.replace("NAME", context.name));
        return None;
    }
    notes.previous = Some(span);
    Some(Input::Previous)
}

/// A way that is chosen by its name alone.
fn only_true(table: &mut Section<'_>, key: &'static str) -> Option<()> {
    let flag = table.boolean(key)?;
    if !flag.value {
        table.doc.problem(&flag.span, format!("`{key} = false` says nothing"), format!("write `{key} = true`"));
    }
    flag.value.then_some(())
}
