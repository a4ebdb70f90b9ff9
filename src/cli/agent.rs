//! `cupbearer agent new|list`.

use std::process::ExitCode;

use anyhow::Context;

use crate::{
    identity,
    primitives::{AgentName, digest},
};

use super::{Failure, Result, args, context, output};

pub(super) fn agent(global: &args::Global, command: &args::Agent) -> Result {
    match command {
        args::Agent::New { name } => new(name),
        args::Agent::List => {
            let settings = context::load(global)?;
            settings.agents.iter().for_each(|agent| output::line(&agent.name));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The key goes to stdout once and is kept nowhere; the config holds its hash.
fn new(name: &str) -> Result {
    let name = AgentName::parse(name).map_err(|error| Failure::NotStarted(error.into()))?;
    let (key, hash) = identity::generate_key().context("no random numbers")?;
    output::line("# The agent's key, shown this once. The agent proves itself with it:");
    output::line(format_args!("#   HTTPS_PROXY=http://{name}:{}@HOST:PORT", key.expose()));
    output::line("# In proxy.toml:");
    output::line(format_args!("[agents.{name}]"));
    output::line(format_args!("key_sha256 = \"{}\"", digest::hex(&hash)));
    Ok(ExitCode::SUCCESS)
}
