//! Where a secret is. The one thing that never stands in the file is the secret itself, so
//! nothing here repeats a value that could be one.

use std::time::Duration;

use toml::de::DeValue;

use crate::{
    credential::{Source, source::Web},
    files,
};

use super::{
    super::document::{Document, Section},
    fields::{headers, pointer},
    url::metadata_url,
};

/// How long what a command, a server or the keyring gave is kept when the file doesn't say.
const TTL: Duration = Duration::from_secs(300);

const WAYS: [&str; 5] = ["env", "file", "command", "keyring", "http"];

/// `key = { env = "NAME" }`, `{ file = "PATH" }`, `{ command = ["…"], ttl = "5m" }`,
/// `{ keyring = "service/user" }` or `{ http = "URL", pointer = "/access_token" }`.
/// `example` is the name of an environment variable that would suit.
pub(in crate::config) fn source(section: &mut Section<'_>, key: &'static str, example: &str) -> Option<Source> {
    let line = format!("{key} = {{ env = \"{example}\" }}");
    section.need(key, &line);
    let doc = section.doc;
    let (_, value) = section.entry(key)?;
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        doc.hide(&value.span());
        let help = format!(
            "write `{line}`, `{{ file = \"PATH\" }}` or `{{ command = [\"…\"] }}`, and change the secret: it has been in a file"
        );
        doc.problem(&value.span(), format!("`{key}` holds a secret itself; only where it is may stand here"), help);
        return None;
    }
    let mut table = section.section(key, "SOURCE", &line)?;
    let found = place(&mut table, key, &line);
    table.finish();
    found
}

/// Where the secret is, in a table that may say more. `line` is an example.
pub(in crate::config) fn place(table: &mut Section<'_>, key: &str, line: &str) -> Option<Source> {
    let doc = table.doc;
    let ways = WAYS.into_iter().filter(|way| table.has(way)).count();
    if ways != 1 {
        let message = if ways == 0 {
            format!("`{key}` doesn't say where the secret is")
        } else {
            format!("`{key}` names more than one place")
        };
        doc.problem(
            &table.span,
            message,
            format!("write `{line}`, `{{ file = \"PATH\" }}` or `{{ command = [\"…\"] }}`"),
        );
    }
    let ttl = table.duration("ttl");
    if table.has("ttl") && !["command", "keyring", "http"].iter().any(|way| table.has(way)) {
        doc.problem(
            &table.place("ttl"),
            "`ttl` goes with `command`, `keyring` and `http` only",
            "take it out: a file is read again when it changes",
        );
    }
    for key in ["headers", "pointer"] {
        if table.has(key) && !table.has("http") {
            doc.problem(&table.place(key), format!("`{key}` goes with `http` only"), "take it out");
        }
    }
    let ttl = ttl.unwrap_or(TTL);
    let found = variable(table)
        .or_else(|| file(table))
        .or_else(|| command(table, ttl))
        .or_else(|| keyring(table, ttl))
        .or_else(|| web(table, ttl));
    // `or_else` may have left some unasked.
    for key in WAYS.into_iter().chain(["headers", "pointer"]) {
        let _ = table.entry(key);
    }
    if ways == 1 { found } else { None }
}

/// The answer of a metadata server.
fn web(table: &mut Section<'_>, ttl: Duration) -> Option<Source> {
    let url = table.string("http", "http = \"http://169.254.169.254/identity\"")?;
    let parts = metadata_url(table.doc, "http", &url);
    let headers = headers(table);
    let text = table.string("pointer", "pointer = \"/access_token\"");
    let has_pointer = text.is_some();
    let pointer = text.and_then(|text| pointer(table, &text));
    if parts.is_none() || has_pointer != pointer.is_some() {
        return None;
    }
    Some(Source::Web(Box::new(Web { url: url.value, headers, pointer, ttl })))
}

fn variable(table: &mut Section<'_>) -> Option<Source> {
    let name = table.string("env", "env = \"CLIENT_SECRET\"")?;
    if !is_variable(&name.value) {
        table.doc.hide(&name.span);
        table.doc.problem(
            &name.span,
            "that is no name of an environment variable",
            "write the variable's name, not its value: letters, digits and `_`",
        );
        return None;
    }
    let set = (table.doc.env)(&name.value).is_some_and(|value| !value.is_empty());
    if !set {
        let message = format!("the environment variable {} isn't set", name.value);
        table.doc.warning(&name.span, message, "requests that need it will be refused with 502 `credential_failed`");
    }
    Some(Source::Env(name.value))
}

fn file(table: &mut Section<'_>) -> Option<Source> {
    let path = table.path("file", "file = \"/run/secrets/client\"")?;
    match std::fs::metadata(&path.value) {
        Ok(metadata) => check_private(table.doc, &path, &metadata),
        Err(error) => {
            let message = format!("can't read {}: {error}", path.value.display());
            table.doc.warning(
                &path.span,
                message,
                "requests that need it will be refused with 502 `credential_failed`",
            );
        }
    }
    Some(Source::File(path.value))
}

/// Refuses a file that holds a secret where every user of the machine can read it (threat 20),
/// and warns where only its own directories, or a group, keep others from it.
pub(in crate::config) fn check_private(
    doc: &Document<'_>,
    path: &super::super::document::At<std::path::PathBuf>,
    metadata: &std::fs::Metadata,
) {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return;
    }
    let shown = path.value.display();
    if files::is_exposed(&path.value).unwrap_or(true) && !doc.readable_secrets.get() {
        let message = format!("{shown} can be read by every user of this machine (mode {mode:04o})");
        let help = format!(
            "chmod 600 {shown}; where nobody else is on the machine, as in a container, \
             `danger_allow_readable_secrets = true` of [state] lets it pass"
        );
        doc.problem(&path.span, message, help);
    } else {
        let message = format!("{shown} can be read by other users (mode {mode:04o})");
        doc.warning(&path.span, message, format!("chmod 600 {shown}"));
    }
}

fn command(table: &mut Section<'_>, ttl: Duration) -> Option<Source> {
    let example = "command = [\"vault\", \"kv\", \"get\", \"-field=secret\", \"kv/client\"]";
    let (_, value) = table.entry("command")?;
    let Some(list) = value.get_ref().as_array() else {
        table.wrong_kind(value, "command", "a list: the program and its arguments", example);
        return None;
    };
    // Not `strings`: an argument may be empty or come twice.
    let argv: Option<Vec<String>> = list.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
    let argv = argv.filter(|argv| argv.first().is_some_and(|program| !program.is_empty()));
    if argv.is_none() {
        table.doc.problem(
            &value.span(),
            "`command` wants a program and its arguments, all strings",
            format!("write `{example}`"),
        );
    }
    argv.map(|argv| Source::Command { argv, ttl })
}

fn keyring(table: &mut Section<'_>, ttl: Duration) -> Option<Source> {
    let name = table.string("keyring", "keyring = \"cupbearer/orders\"")?;
    // They become arguments of a program, which would take a dash for an option.
    let good = |part: &str| !part.is_empty() && !part.starts_with('-') && !part.contains(char::is_control);
    let parts = name.value.rsplit_once('/').filter(|(service, user)| good(service) && good(user));
    let Some((service, user)) = parts else {
        table.doc.hide(&name.span);
        table.doc.problem(
            &name.span,
            "`keyring` wants a service and a user with `/` between them",
            "write the names under which the secret is kept, not its value: `keyring = \"cupbearer/orders\"`",
        );
        return None;
    };
    Some(Source::Keyring { service: service.to_owned(), user: user.to_owned(), ttl })
}

pub(in crate::config) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
