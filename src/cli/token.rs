//! `cupbearer token list|show|refresh`: asks the running proxy through its admin API.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde_json::Value;

use crate::{admin, config::Settings, primitives::CredentialName};

use super::{FAILED, Failure, Result, args, context, control_runtime, output};

pub(super) fn token(global: &args::Global, command: &args::Token) -> Result {
    let settings = context::load_silently(global)?;
    let runtime = control_runtime().context("can't start a runtime")?;
    runtime.block_on(async {
        match command {
            args::Token::List { json } => {
                let tokens = ask(&settings, reqwest::Method::GET, "tokens").await?;
                if *json { print_json(&tokens) } else { print_table(&tokens) }
            }
            args::Token::Show { credential, json } => {
                let path = format!("tokens/{}", named(credential)?);
                let token = ask(&settings, reqwest::Method::GET, &path).await?;
                if *json { print_json(&token) } else { print_one(&token) }
            }
            args::Token::Refresh { credential } => {
                let path = format!("tokens/{}/refresh", named(credential)?);
                let token = ask(&settings, reqwest::Method::POST, &path).await?;
                print_one(&token)
            }
        }
    })
}

/// Only what a path can hold as it is.
fn named(credential: &str) -> Result<CredentialName> {
    CredentialName::parse(credential).map_err(|error| Failure::NotStarted(error.into()))
}

async fn ask(settings: &Settings, method: reqwest::Method, path: &str) -> Result<Value> {
    let Some(admin) = &settings.admin else {
        return Err(Failure::NotStarted(anyhow!(
            "the config has no [admin] table, through which a running proxy is asked"
        )));
    };
    let key = admin::load_or_create_key(&settings.state).context("can't read the admin key")?;
    let url = format!("http://{}/api/v1/{path}", admin.listen);
    // Never through a proxy, and least of all through ourselves.
    let client = reqwest::Client::builder().no_proxy().build().context("can't make an HTTP client")?;
    let response = client.request(method, &url).bearer_auth(key.expose()).send().await;
    let response = response.map_err(|error| {
        anyhow!(error.without_url())
            .context(format!("no proxy answers at {}; is `cupbearer serve` running?", admin.listen))
    })?;
    let status = response.status();
    let body: Value = response.json().await.context("the admin API's answer isn't JSON")?;
    if status.is_success() {
        return Ok(body);
    }
    let detail = body["detail"].as_str().unwrap_or("no reason given");
    Err(Failure::Failed(match body["hint"].as_str() {
        Some(hint) => anyhow!("{detail} (hint: {hint})"),
        None => anyhow!("{detail}"),
    }))
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
        "{:<20} {:<11} {:>10} {:>5}  {:<16}  LAST ERROR",
        "CREDENTIAL", "STATE", "EXPIRES", "GEN", "FINGERPRINT"
    ));
    for token in tokens {
        let expires = token["expires_in_seconds"].as_u64().map_or("-".to_owned(), |seconds| format!("{seconds}s"));
        output::line(format_args!(
            "{:<20} {:<11} {expires:>10} {:>5}  {:<16}  {}",
            text(&token["credential"]),
            text(&token["state"]),
            text(&token["generation"]),
            text(&token["fingerprint"]),
            text(&token["last_error"]),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_one(token: &Value) -> Result {
    for (name, value) in token.as_object().into_iter().flatten() {
        output::line(format_args!("{:<26}{}", name.replace('_', " "), text(value)));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // A server's words may be in it: none of them moves the terminal's cursor.
        Value::String(text) => text.replace(char::is_control, "\u{fffd}"),
        other => other.to_string(),
    }
}
