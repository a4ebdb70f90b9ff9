//! `cupbearer run -- CMD`: a proxy for one command, with a certificate authority that
//! lives in memory only and a key that nobody else has.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::time::Instant;

use crate::{
    app::{self, Running},
    config::Settings,
    identity,
    launch::{self, AgentKey, Inherited, Plan, TemporaryTrust, child},
    primitives::{AgentName, Authority, Host, ListenAddress, ListenerName, Secret},
    server::ForwardListener,
    tls::CertificateAuthority,
};

use super::{Failure, Result, args, context, control_runtime, output};

/// How long requests may go on once the command has ended: nobody is left to read them.
const DRAIN: Duration = Duration::from_secs(1);
/// For all that comes after the command's end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long the audit log may hold up the end once more.
const FLUSH: Duration = Duration::from_millis(500);

pub(super) fn run(global: &args::Global, run: &args::Run) -> Result {
    let mut settings = context::load(global)?;
    settings.tokens.transient = true;
    context::lock_memory(&settings)?;
    let agent = context::agent(&settings, run.agent.as_deref())?;
    let key = own_listener(&mut settings, &agent)?;
    let authority = CertificateAuthority::ephemeral(&context::clock()).context("can't make a certificate authority")?;
    let surroundings = context::surroundings(Arc::new(authority), context::store(&settings)?)?;
    let runtime = control_runtime().context("can't start the control runtime")?;
    runtime.block_on(async {
        let running = app::start(&settings, surroundings)
            .map_err(|error| Failure::NotStarted(anyhow::Error::new(error).context("can't start")))?;
        let ended = launch(&settings, &running, AgentKey { name: agent, key }, run).await;
        let recorder = running.recorder().clone();
        end(running).await;
        match ended {
            Ok(status) => {
                output::note(recorder.metrics().summary());
                Ok(ExitCode::from(status))
            }
            Err(error) => {
                let status = error.status();
                Ok(super::fail(&error.into(), status))
            }
        }
    })
}

/// The last requests, then the tokens that were got for this run: all within a few seconds,
/// whoever hangs (standards 1.D).
async fn end(running: Running) {
    let (shared, end) = (Arc::clone(running.shared()), Instant::now() + LAST_WORDS);
    running.shutdown(DRAIN).await;
    let broker = shared.rules.load().broker.clone();
    if tokio::time::timeout_at(end, broker.end()).await.is_err() {
        tracing::warn!("not every access token could be revoked in time");
    }
    let recorder = shared.recorder.clone();
    let _ = tokio::task::spawn_blocking(move || recorder.flush_within(FLUSH)).await;
}

/// One listener on a free port and nothing else; the agent gets one more key, for this run.
fn own_listener(settings: &mut Settings, agent: &AgentName) -> Result<Secret> {
    let (key, hash) = identity::generate_key().context("no random numbers")?;
    for known in settings.agents.iter_mut().filter(|known| known.name == *agent) {
        known.keys.push(hash);
    }
    let name = ListenerName::parse("run").context("the listener's name")?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
    settings.server.forward = vec![ForwardListener { name, listen, tls: None }];
    settings.server.reverse.clear();
    settings.server.socks.clear();
    settings.admin = None;
    Ok(key)
}

/// The command's exit status.
async fn launch(
    settings: &Settings,
    running: &Running,
    agent: AgentKey,
    run: &args::Run,
) -> std::result::Result<u8, launch::Error> {
    // It has a key of its own for this run, and no business with another agent's.
    let inherited = Inherited::new(std::env::vars_os().filter(|(name, _)| name != super::env::KEY_VARIABLE));
    let trust = TemporaryTrust::create(running.authority().root_pem(), &inherited)?;
    let port = running.forward.first().and_then(ListenAddress::tcp).map_or(0, |address| address.port());
    let proxy = Authority::new(Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)), port);
    let launch =
        launch::Settings { proxy, proxy_tls: false, agent: Some(agent), ..settings_of(settings, !run.no_java) };
    let plan = Plan::new(&launch, trust.files(), &inherited)?;
    report(&plan);
    let mut words = run.command.iter().cloned();
    // clap asks for one word at least.
    let command = words.next().unwrap_or_default();
    child::run(command, words, plan.apply(inherited)).await
}

/// What `run` and `env` take from the config alike; the proxy's address and the agent
/// are still to be filled in.
pub(super) fn settings_of(settings: &Settings, java: bool) -> launch::Settings {
    let hosts = settings.routes.iter().flat_map(|route| &route.hosts);
    launch::Settings {
        proxy: Authority::new(Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)), 8080),
        proxy_tls: false,
        agent: None,
        placeholders: settings.launch.placeholders.clone(),
        secret_variables: settings.launch.secret_variables.clone(),
        keyring: settings.launch.keyring,
        routed_hosts: hosts.map(ToString::to_string).collect(),
        java,
    }
}

/// What the user may wonder about.
pub(super) fn report(plan: &Plan) {
    for entry in plan.no_proxy_removed() {
        tracing::warn!(entry, "left out of NO_PROXY: it would lead past the proxy to a host of a route");
    }
    for name in plan.proxies_replaced() {
        tracing::info!(name, "the proxy variable that was set is replaced");
    }
}
