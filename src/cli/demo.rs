//! `cupbearer demo`: the main job, on real servers, in front of the newcomer's eyes.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::{self, Running},
    config::{self, Settings},
    credential::store::Memory,
    demo::{World, WorldSettings, protected_api::Seen},
    identity,
    launch::{Inherited, TemporaryTrust},
    primitives::{Secret, digest},
    tls::CertificateAuthority,
};

use super::{FAILED, Failure, Result, args, context, control_runtime, output};

/// The root's `proxy.toml`: what the README shows is what runs.
const CONFIG: &str = include_str!("../../proxy.toml");

/// Short, so that the demo needn't wait long for an expiry.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3);

/// Once the proof is done and people try things by hand.
const QUIET_TOKEN_LIFETIME: Duration = Duration::from_secs(60);

const DRAIN: Duration = Duration::from_secs(2);

pub(super) fn demo(demo: &args::Demo) -> Result {
    let runtime = control_runtime().context("can't start the control runtime")?;
    runtime.block_on(async {
        let stage = match Stage::set(demo.once).await {
            // Somebody took a port between our look and our bind.
            Err(_) if !demo.once => Stage::set(true).await?,
            stage => stage?,
        };
        let code = match stage.play().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                output::note(format_args!("the proof failed: {error:#}"));
                ExitCode::from(FAILED)
            }
        };
        if !demo.once && code == ExitCode::SUCCESS {
            stage.stay().await?;
        }
        stage.running.shutdown(DRAIN).await;
        Ok(code)
    })
}

/// The authorization server, the API, the proxy, and an agent with nothing but a key.
struct Stage {
    world: World,
    running: Running,
    key: Secret,
    /// The config and its files; removed on drop.
    directory: TemporaryTrust,
    api: String,
}

impl Stage {
    async fn set(any_ports: bool) -> Result<Self> {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, free_or_any(port, any_ports)));
        let world = World::start(WorldSettings {
            authorization_server: address(4430),
            api: address(4431),
            dns_names: vec!["orders.demo.test".to_owned()],
            token_lifetime: TOKEN_LIFETIME,
            ..WorldSettings::default()
        });
        let world = world.await.context("can't start the demo's own servers")?;
        let authority =
            CertificateAuthority::ephemeral(&context::clock()).context("can't make a certificate authority")?;
        let directory = TemporaryTrust::create(authority.root_pem(), &Inherited::default())?;
        let (key, hash) = identity::generate_key().context("no random numbers")?;
        let config = write_config(&home(&directory)?, &world, &hash, any_ports)?;
        let settings = load(&config)?;
        let surroundings = context::surroundings(Arc::new(authority), Arc::new(Memory::default()))?;
        let running = app::start(&settings, surroundings)
            .map_err(|error| Failure::NotStarted(anyhow::Error::new(error).context("can't start")))?;
        let api = format!("https://orders.demo.test:{}", world.api_address().port());
        Ok(Self { world, running, key, directory, api })
    }

    /// The proof: without the proxy 401, with it 200; the token expires, nobody notices.
    async fn play(&self) -> anyhow::Result<()> {
        output::line("cupbearer demo: a request goes in with no credential and arrives with one\n");
        self.without_the_proxy().await?;
        let first = self.ask("first request").await?;
        output::line(format_args!(
            "… the token lives for {}s; waiting until it has expired …\n",
            TOKEN_LIFETIME.as_secs()
        ));
        tokio::time::sleep(TOKEN_LIFETIME + Duration::from_millis(500)).await;
        let second = self.ask("the same request, after the token has expired").await?;
        let (old, new) = (claim_id(&first)?, claim_id(&second)?);
        ensure!(old != new, "the API saw the same token twice");
        self.refused().await?;
        let requests = self.world.authorization_server().token_request_count();
        output::line(format_args!(
            "proof: 2 requests served with {requests} tokens the agent never saw; it noticed nothing of the renewal"
        ));
        Ok(())
    }

    async fn without_the_proxy(&self) -> anyhow::Result<()> {
        let ca = reqwest::Certificate::from_pem(self.world.ca_pem().as_bytes())?;
        let api = self.world.api_address();
        let direct =
            reqwest::Client::builder().no_proxy().tls_certs_only([ca]).resolve("orders.demo.test", api).build()?;
        let status = direct.get(format!("{}/v1/orders", self.api)).send().await?.status();
        ensure!(status == 401, "the API answered {status} to a request without a token");
        output::line(format_args!("without the proxy:  GET {}/v1/orders  →  {status}\n", self.api));
        Ok(())
    }

    /// One request as any HTTP client would send it, and what the API saw of it.
    async fn ask(&self, title: &str) -> anyhow::Result<Seen> {
        let seen_before = self.world.api().seen_count();
        let request =
            self.agent()?.get(format!("{}/v1/orders", self.api)).header("user-agent", "an-agent/1.0").build()?;
        let sent: Vec<String> =
            request.headers().iter().map(|(name, value)| format!("{name}: {}", show(value))).collect();
        let response = self.agent()?.execute(request).await.context("the agent's request failed")?;
        let status = response.status();
        let body = response.text().await?;
        ensure!(status == 200, "the agent got {status}: {body}");
        let seen = self.world.api().seen().into_iter().nth(seen_before).context("the API saw no request")?;
        let claims = seen.claims.as_ref().context("the API saw no good token")?;
        ensure!(claims.has_scope("read:orders"), "the token has the wrong scope");
        output::line(format_args!("{title}:"));
        let mut arrived: Vec<_> = seen.headers.iter().map(|(name, value)| format!("{name}: {}", show(value))).collect();
        arrived.push(format!("  token: sub={} scope={:?}", claims.sub, claims.scope));
        side_by_side(
            ("the agent sent", &format!("GET {}/v1/orders", self.api), &sent),
            ("the API saw", &format!("GET {}", seen.path), &arrived),
        );
        output::line(format_args!("  the agent got {status} and {} bytes\n", body.len()));
        Ok(seen)
    }

    async fn refused(&self) -> anyhow::Result<()> {
        let url = format!("{}/v1/admin/keys", self.api);
        let response = self.agent()?.delete(&url).send().await?;
        let code = response.headers().get("x-cupbearer-error").map(show).unwrap_or_default();
        ensure!(response.status() == 403, "a request outside of the policy was answered {}", response.status());
        output::line(format_args!("and what its policy denies:  DELETE {url}  →  {} {code}\n", response.status()));
        Ok(())
    }

    /// An ordinary HTTP client that knows the proxy, its key there, and our root certificate.
    fn agent(&self) -> anyhow::Result<reqwest::Client> {
        let root = reqwest::Certificate::from_pem(self.running.authority().root_pem().as_bytes())?;
        Ok(reqwest::Client::builder().proxy(reqwest::Proxy::all(self.proxy_url()?)?).tls_certs_only([root]).build()?)
    }

    fn proxy_url(&self) -> anyhow::Result<String> {
        let address = self.running.forward.first().context("there is no proxy listener")?;
        Ok(format!("http://researcher:{}@{address}", self.key.expose()))
    }

    /// Stays up for the curious.
    async fn stay(&self) -> Result<()> {
        self.world.authorization_server().set_token_lifetime(QUIET_TOKEN_LIFETIME);
        let proxy = self.proxy_url()?;
        let ca = self.directory.files().ca.display().to_string();
        let key = self.key.expose();
        output::line("still up; try it from another terminal (Ctrl-C ends it):\n");
        output::line(format_args!("  export https_proxy={proxy} http_proxy={proxy} CURL_CA_BUNDLE={ca}"));
        output::line(format_args!("  curl {}/v1/orders", self.api));
        output::line(format_args!("  curl {}/v1/whoami", self.api));
        // No remarks behind the commands: zsh takes `#` for a word when it is typed.
        output::line("refused, and why:");
        output::line(format_args!("  curl -X DELETE {}/v1/orders", self.api));
        if let Some(reverse) = self.running.reverse.first() {
            output::line("by a base URL, for clients that know no proxy:");
            output::line(format_args!("  curl --noproxy '*' -H 'x-api-key: {key}' http://{reverse}/v1/orders"));
        }
        if let Some(admin) = self.running.admin {
            output::line("what the operator sees; one record a request:");
            output::line(format_args!("  curl --noproxy '*' http://{admin}/metrics"));
        }
        let directory = home(&self.directory)?;
        let directory = directory.display();
        output::line(format_args!("  tail -f {directory}/state/audit.jsonl"));
        output::line(format_args!("\nits config: {directory}/proxy.toml"));
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            _ = terminate.recv() => {}
        }
        Ok(())
    }
}

/// Where the demo's files are.
fn home(directory: &TemporaryTrust) -> anyhow::Result<PathBuf> {
    directory.files().ca.parent().map(Path::to_owned).context("the demo's files have no directory")
}

/// The port, or any where it is taken (or must not be relied on).
fn free_or_any(port: u16, any: bool) -> u16 {
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    if !any && free() { port } else { 0 }
}

/// Writes the compiled-in config with what is different each time, and the files it names.
fn write_config(directory: &Path, world: &World, hash: &[u8; 32], any_ports: bool) -> anyhow::Result<PathBuf> {
    let mut text = CONFIG.to_owned();
    let mut replace = |from: &str, to: String| -> anyhow::Result<()> {
        ensure!(text.contains(from), "the built-in config has no `{from}`");
        text = text.replace(from, &to);
        Ok(())
    };
    replace("127.0.0.1:4430", world.authorization_server_address().to_string())?;
    replace("orders.demo.test:4431", format!("orders.demo.test:{}", world.api_address().port()))?;
    replace(&"0".repeat(64), digest::hex(hash))?;
    for port in [8080, 9180, 8443] {
        replace(&format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", free_or_any(port, any_ports)))?;
    }
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        write_private(&path, text).with_context(|| format!("can't write {}", path.display())).map(|()| path)
    };
    write("demo-ca.pem", world.ca_pem())?;
    write("client-secret", world.client_secret().expose())?;
    write("proxy.toml", &text)
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn load(config: &Path) -> Result<Settings> {
    config::load(config).map_err(|problems| {
        output::note(problems.render(output::colour()));
        Failure::Failed(anyhow!("the built-in config has problems"))
    })
}

fn claim_id(seen: &Seen) -> anyhow::Result<&str> {
    let claims = seen.claims.as_ref().context("the API saw no good token")?;
    Ok(&claims.jti)
}

/// A header value for the screen; a token is shown as what it is, not as itself.
fn show(value: &http::HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    match text.strip_prefix("Bearer ") {
        Some(token) => {
            format!("Bearer [token {}, {} bytes]", crate::primitives::Fingerprint::of(token.as_bytes()), token.len())
        }
        None => text.into_owned(),
    }
}

fn side_by_side(left: (&str, &str, &[String]), right: (&str, &str, &[String])) {
    let column = |(title, line, fields): (&str, &str, &[String])| {
        let mut rows = vec![title.to_owned(), "─".repeat(title.chars().count()), line.to_owned()];
        rows.extend(fields.iter().cloned());
        rows
    };
    let (left, right) = (column(left), column(right));
    let width = left.iter().map(|row| row.chars().count()).max().unwrap_or(0).max(40);
    for row in 0..left.len().max(right.len()) {
        let cell = |rows: &[String]| rows.get(row).cloned().unwrap_or_default();
        output::line(format_args!("  {:<width$}  │  {}", cell(&left), cell(&right)));
    }
}
