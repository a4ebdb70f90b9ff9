//! `cupbearer token list|show|refresh`: asks the running proxy through its admin API.

use std::process::ExitCode;

use anyhow::Context;
use reqwest::Method;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::primitives::CredentialName;

use super::{FAILED, Failure, Result, args, context, control_runtime, output, serving::ask};

pub(super) fn token(global: &args::Global, command: &args::Token) -> Result {
    let settings = context::load_silently(global)?;
    let runtime = control_runtime().context("can't start a runtime")?;
    runtime.block_on(async {
        match command {
            args::Token::List { json } => {
                let tokens = ask(&settings, Method::GET, "tokens").await?;
                if *json { print_json(&tokens) } else { print_table(&tokens) }
            }
            args::Token::Show { credential, json } => {
                let path = format!("tokens/{}", named(credential)?);
                let token = ask(&settings, Method::GET, &path).await?;
                if *json { print_json(&token) } else { print_one(&token) }
            }
            args::Token::Refresh { credential } => {
                let path = format!("tokens/{}/refresh", named(credential)?);
                let token = ask(&settings, Method::POST, &path).await?;
                print_one(&token)
            }
        }
    })
}

/// Only what a path can hold as it is.
fn named(credential: &str) -> Result<CredentialName> {
    CredentialName::parse(credential).map_err(|error| Failure::NotStarted(error.into()))
}

fn print_json(value: &Value) -> Result {
    output::line(serde_json::to_string_pretty(value).context("can't write JSON")?);
    Ok(ExitCode::SUCCESS)
}

fn print_table(tokens: &Value) -> Result {
    let Some(tokens) = tokens.as_array().or_else(|| tokens["tokens"].as_array()) else {
        output::note("the admin API's answer isn't a list");
        return Ok(ExitCode::from(FAILED));
    };
    output::line(format_args!(
        "{:<20} {:<11} {:>10} {:>5}  {:<16}  {:<7}  LAST ERROR",
        "CREDENTIAL", "STATE", "EXPIRES", "GEN", "FINGERPRINT", "LOGIN"
    ));
    for token in tokens {
        let expires = token["expires_in_seconds"].as_u64().map_or("-".to_owned(), |seconds| format!("{seconds}s"));
        output::line(format_args!(
            "{:<20} {:<11} {expires:>10} {:>5}  {:<16}  {:<7}  {}",
            text(&token["credential"]),
            text(&token["state"]),
            text(&token["generation"]),
            text(&token["fingerprint"]),
            text(&token["login"]["state"]),
            text(&token["last_error"]),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What comes first; whatever else there is follows.
const FIRST: [&str; 8] = [
    "credential",
    "grant",
    "authorization_server",
    "state",
    "expires_in_seconds",
    "generation",
    "fingerprint",
    "login",
];

fn print_one(token: &Value) -> Result {
    let members = token.as_object().into_iter().flatten();
    let first = FIRST.iter().filter_map(|name| Some((*name, token.get(name)?)));
    let rest = members.map(|(name, value)| (name.as_str(), value)).filter(|(name, _)| !FIRST.contains(name));
    for (name, value) in first.chain(rest) {
        print_row(name, value);
    }
    Ok(ExitCode::SUCCESS)
}

/// What has parts has a row for each.
fn print_row(name: &str, value: &Value) {
    match value {
        Value::Object(parts) if !parts.is_empty() => {
            parts.iter().for_each(|(part, value)| print_row(&format!("{name}_{part}"), value));
        }
        _whole => output::line(format_args!("{:<26}{}", name.replace('_', " "), cell(name, value))),
    }
}

fn cell(name: &str, value: &Value) -> String {
    let moment = value.as_i64().filter(|_| name.ends_with("_at"));
    let moment = moment.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| text(value))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Object(parts) if parts.is_empty() => "-".to_owned(),
        Value::String(text) => output::plain(text),
        other => other.to_string(),
    }
}
