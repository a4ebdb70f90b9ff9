//! `cupbearer explain METHOD URL`.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use http::Uri;

use crate::{
    app,
    identity::Registry,
    proxy::{self, Explanation, Judges},
};

use super::{FAILED, Failure, Result, args, context, output};

pub(super) fn explain(global: &args::Global, explain: &args::Explain) -> Result {
    let settings = context::load_silently(global)?;
    let agent = context::agent(&settings, explain.agent.as_deref())?;
    let url: Uri = explain.url.parse().map_err(|error| bad_url(&explain.url, &error))?;
    if url.scheme().is_none() {
        return Err(Failure::NotStarted(anyhow!("`{}` has no scheme; write https://…", explain.url)));
    }
    let registry = Registry::new(settings.agents.clone());
    let judges = Judges {
        registry: &registry,
        routes: &settings.table,
        unmatched: settings.server.unmatched,
        authorization_servers: &app::authorization_servers(&settings),
    };
    let explanation = proxy::explain(judges, &agent, &explain.method, &url);
    if explain.json {
        output::line(serde_json::to_string_pretty(&explanation).context("can't write JSON")?);
    } else {
        print(&explanation);
    }
    Ok(if explanation.allowed { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn bad_url(text: &str, error: &http::uri::InvalidUri) -> Failure {
    Failure::NotStarted(anyhow!("`{text}` isn't a URL: {error}"))
}

fn print(explanation: &Explanation) {
    let verdict = if explanation.allowed { "allowed" } else { "refused" };
    let row = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            output::line(format_args!("{name:<12}{value}"));
        }
    };
    row(verdict, Some(&explanation.reason));
    row("agent", Some(&explanation.agent));
    row("request", explanation.url.as_ref().map(|url| format!("{} {url}", explanation.method)).as_deref());
    row("route", explanation.route.as_deref());
    if explanation.route.is_some() && explanation.allowed {
        row("credential", Some(explanation.credential.as_deref().unwrap_or("none: forwarded without a token")));
    }
    let answer = explanation.status.zip(explanation.code);
    row("answer", answer.map(|(status, code)| format!("{status} {code}")).as_deref());
    row("hint", explanation.hint.as_deref());
}
