//! Listeners that are socket files: every door, the operator's too, and the file's own life.

use std::{
    collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::PathBuf, process::Stdio, sync::Arc, time::Duration,
};

use cupbearer::{
    app::{self, Surroundings},
    credential::store::Memory,
    primitives::{Clock, SystemClock},
    tls::CertificateAuthority,
};
use tokio::{net::UnixStream, process::Command};

use crate::{
    binary::{CUPBEARER, finish},
    support::{API, Facts, Stage, load},
    wire::{Way, Wire, basic, connect_head},
};

const FILES: [&str; 4] = ["proxy.sock", "base-url.sock", "socks.sock", "admin.sock"];

/// Two workers, and no listener that has an address.
fn config(facts: &Facts) -> String {
    let replaced = [
        ("listen = [\"127.0.0.1:0\"]\nworkers = 1", "listen = [\"unix:proxy.sock\"]\nworkers = 2"),
        ("[admin]\nlisten = \"127.0.0.1:0\"", "[admin]\nlisten = \"unix:admin.sock\""),
        ("listen = \"127.0.0.1:0\"\nupstream", "listen = \"unix:base-url.sock\"\nunix_mode = \"0660\"\nupstream"),
    ];
    let config = facts.config() + "\n[socks]\nlisten = \"unix:socks.sock\"\n";
    let config = replaced.iter().fold(config, |config, (old, new)| {
        assert!(config.contains(old), "{old}");
        config.replace(old, new)
    });
    assert!(!config.contains("127.0.0.1:0"));
    config
}

async fn stage() -> Stage {
    Stage::with(Default::default(), config).await
}

fn file(stage: &Stage, name: &str) -> PathBuf {
    stage.directory.path().join(name)
}

async fn connect(stage: &Stage, name: &str) -> Wire {
    Wire::over(UnixStream::connect(file(stage, name)).await.unwrap())
}

fn curl(arguments: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]).args(arguments).stdin(Stdio::null());
    curl
}

#[tokio::test]
async fn requests_and_tunnels_come_in() {
    let stage = stage().await;
    let head = Way::AbsoluteForm.head(&stage, "GET", "/v1/orders") + "\r\n";
    // Both workers accept: each has the same socket.
    for _ in 0..8 {
        let mut wire = connect(&stage, "proxy.sock").await;
        wire.send(&head).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    let mut wire = connect(&stage, "proxy.sock").await;
    wire.send(connect_head(&stage, &stage.authority())).await;
    assert_eq!(wire.answer().await.status, 200);
    let mut wire = wire.secure(&stage, API, &["http/1.1"]).await.unwrap();
    wire.send(Way::Tunnel.head(&stage, "GET", "/v1/orders") + "\r\n").await;
    assert_eq!(wire.answer().await.status, 200);
    let mut wire = connect(&stage, "proxy.sock").await;
    wire.send(head.replace(&basic("researcher", &stage.key), &basic("researcher", "wrong"))).await;
    assert_eq!(wire.answer().await.code(), "agent_unknown");
    assert_eq!(stage.world.api().seen_count(), 9);
    let records = stage.final_records().await;
    assert_eq!(records.iter().filter(|record| record["listener"] == "proxy").count(), 10);
}

#[tokio::test]
async fn real_curl_gets_through() {
    let stage = stage().await;
    let base_url = file(&stage, "base-url.sock");
    let key = format!("Authorization: Bearer {}", stage.key);
    let through = ["--unix-socket", base_url.to_str().unwrap(), "-H", &key, "http://localhost/v1/orders"];
    assert_eq!(finish(curl(&through)).await.expect(0).stdout, "200");

    let socks = format!("socks5h://localhost{}", file(&stage, "socks.sock").display());
    let ca = file(&stage, "root.pem");
    fs::write(&ca, stage.proxy.authority().root_pem()).unwrap();
    let login = format!("researcher:{}", stage.key);
    let url = stage.url("/v1/orders");
    let through = ["-x", &socks, "--proxy-user", &login, "--cacert", ca.to_str().unwrap(), &url];
    assert_eq!(finish(curl(&through)).await.expect(0).stdout, "200");

    assert_eq!(stage.world.api().seen_count(), 2);
    let records = stage.final_records().await;
    // Each worker writes its own lines: which of two workers' comes first in the file is open.
    let listeners: BTreeSet<_> = records.iter().map(|record| record["listener"].as_str()).collect();
    assert_eq!(listeners, BTreeSet::from([Some("orders-base-url"), Some("socks")]));
}

/// Threat 39: with a socket file no agent gets at the admin door by any address.
#[tokio::test]
async fn the_operator_comes_in_too() {
    let stage = stage().await;
    assert_eq!(stage.proxy.admin, None);
    let admin = file(&stage, "admin.sock");
    let ask = |url: &'static str| finish(curl(&["--unix-socket", admin.to_str().unwrap(), url]));
    assert_eq!(ask("http://localhost/healthz").await.expect(0).stdout, "200");
    assert_eq!(ask("http://evil.test/healthz").await.expect(0).stdout, "421");
    assert_eq!(ask("http://localhost/api/v1/tokens").await.expect(0).stdout, "401");
    let mut list = Command::new(CUPBEARER);
    list.args(["token", "list", "--config"]).arg(stage.config_path()).env("HOME", stage.directory.path());
    assert!(finish(list).await.expect(0).stdout.contains("orders"));
}

#[tokio::test]
async fn the_files_are_for_their_owner_and_go_with_the_proxy() {
    let stage = stage().await;
    let mode = |name| fs::symlink_metadata(file(&stage, name)).unwrap().mode() & 0o777;
    assert_eq!(FILES.map(mode), [0o600, 0o660, 0o600, 0o600]);
    // A second proxy doesn't take them from the one that listens.
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
    let surroundings = Surroundings { authority, clock, instance: 1, store: Arc::new(Memory::default()) };
    let error = app::start(&load(&stage.config_path()), surroundings).unwrap_err();
    assert!(error.to_string().starts_with("can't listen on unix:/"), "{error}");
    let mut wire = connect(&stage, "proxy.sock").await;
    wire.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 400);
    let paths = FILES.map(|name| file(&stage, name));
    let Stage { proxy, directory: _kept, .. } = stage;
    assert!(proxy.shutdown(Duration::from_secs(10)).await);
    assert!(paths.iter().all(|path| !path.exists()));
}
