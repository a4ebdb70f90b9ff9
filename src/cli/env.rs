//! `cupbearer env`: the environment that leads a program through a running proxy.

use std::{net::IpAddr, process::ExitCode};

use anyhow::{Context, anyhow};

use crate::{
    config::Settings,
    launch::{AgentKey, Inherited, Plan, Shell, TrustFiles},
    primitives::{AgentName, Authority, Host, Secret},
};

use super::{Failure, Result, args, context, output, run};

/// Where the agent's key is looked for without `--key-file`.
pub(super) const KEY_VARIABLE: &str = "CUPBEARER_AGENT_KEY";

pub(super) fn env(global: &args::Global, env: &args::Env) -> Result {
    let settings = context::load_silently(global)?;
    let agent = agent_key(&settings, env)?;
    let mut listeners = settings.server.forward.iter();
    let found = listeners.find_map(|listener| Some((listener.listen.tcp()?, listener.tls.is_some())));
    let (listen, proxy_tls) = found.ok_or_else(|| {
        let missing = "the config has no [proxy] listener with an address that the environment could lead to";
        Failure::NotStarted(anyhow!(missing))
    })?;
    let inherited = Inherited::new(std::env::vars_os().filter(|(name, _)| name != KEY_VARIABLE));
    let authority = context::authority(&settings)?;
    let files = TrustFiles::write(&settings.state.join("trust"), authority.root_pem(), &inherited)?;
    let mut launch = run::settings_of(&settings, env.java);
    launch.proxy = Authority::new(Host::Ip(reachable(listen.ip())), listen.port());
    launch.proxy_tls = proxy_tls;
    launch.agent = agent;
    let plan = Plan::new(&launch, &files, &inherited)?;
    run::report(&plan);
    if env.json {
        output::line(serde_json::to_string_pretty(&plan.to_json()).context("can't write JSON")?);
    } else {
        output::text(plan.to_shell(match env.shell {
            args::EnvShell::Sh => Shell::Sh,
            args::EnvShell::Fish => Shell::Fish,
            args::EnvShell::Powershell => Shell::PowerShell,
        }));
    }
    Ok(ExitCode::SUCCESS)
}

/// The config holds the key's hash only, so the key has to be given; the anonymous agent
/// has none.
fn agent_key(settings: &Settings, env: &args::Env) -> Result<Option<AgentKey>> {
    let anonymous = settings.agents.iter().any(|agent| agent.anonymous);
    let key = match &env.key_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
            Some(text.trim_end().to_owned())
        }
        None => std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()),
    };
    match key {
        Some(key) => {
            let named: AgentName = named(settings, env)?;
            Ok(Some(AgentKey { name: named, key: Secret::new(key) }))
        }
        None if anonymous && env.agent.is_none() => Ok(None),
        None => Err(Failure::NotStarted(anyhow!(
            "the agent's key is needed: set {KEY_VARIABLE} or give --key-file (`cupbearer agent new` makes one)"
        ))),
    }
}

fn named(settings: &Settings, env: &args::Env) -> Result<AgentName> {
    let mut with_key = settings.agents.iter().filter(|agent| !agent.anonymous);
    match (&env.agent, with_key.next(), with_key.next()) {
        (None, Some(only), None) => Ok(only.name.clone()),
        _ => context::agent(settings, env.agent.as_deref()),
    }
}

/// A listener on every address is reached by loopback.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        other => other,
    }
}
