//! `cupbearer agent new|list`.

use std::process::ExitCode;

use anyhow::{Context, anyhow};

use crate::{
    identity,
    primitives::{AgentName, digest},
};

use super::{Failure, Result, args, context, output};

pub(super) fn agent(global: &args::Global, command: &args::Agent) -> Result {
    match command {
        args::Agent::New { name } => new(name),
        args::Agent::List => {
            let settings = context::load_silently(global)?;
            settings.agents.iter().for_each(|agent| output::line(&agent.name));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The key goes to stdout once and is kept nowhere; the config holds its hash.
fn new(name: &str) -> Result {
    let name = AgentName::parse(name).map_err(|error| Failure::NotStarted(error.into()))?;
    if name.as_str() == "anonymous" {
        let why = anyhow!("`anonymous` is the agent that needs no key; choose another name");
        return Err(Failure::NotStarted(why));
    }
    let (key, hash) = identity::generate_key().context("no random numbers")?;
    output::line("# The agent's key, shown this once. The agent proves itself with it:");
    output::line(format_args!("#   HTTPS_PROXY=http://{name}:{}@HOST:PORT", key.expose()));
    output::line("# In proxy.toml:");
    // A dot would begin a table within the table.
    let quote = if name.as_str().contains('.') { "\"" } else { "" };
    output::line(format_args!("[agents.{quote}{name}{quote}]"));
    output::line(format_args!("key_sha256 = \"{}\"", digest::hex(&hash)));
    Ok(ExitCode::SUCCESS)
}
