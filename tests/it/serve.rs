//! `cupbearer serve` as a service manager sees it: signals, ports, exit status, admin; and
//! `cupbearer demo`, which stands for it in front of newcomers.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Stdio,
};

use nix::sys::signal::{Signal, kill};
use reqwest::StatusCode;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{Instant, timeout},
};

use crate::{
    binary::{Home, LIMIT, Town, direct},
    support::Facts,
};

#[tokio::test]
async fn sigterm_lets_a_request_finish() {
    let town = Town::new().await;
    let mut serve = town.serve().await;
    let agent = town.agent(&serve);
    let mut answer = agent.get(town.url("/v1/stream?count=20&every_ms=25")).send().await.unwrap();
    let first = answer.chunk().await.unwrap().unwrap();
    serve.signal(Signal::SIGTERM);
    serve.wait_for("draining").await;
    let mut body = first.to_vec();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        body.extend(chunk);
    }
    let body = String::from_utf8(body).unwrap();
    assert_eq!(body.matches("data:").count(), 20, "{body}");
    assert!(agent.get(town.url("/v1/orders")).send().await.is_err(), "a new connection was accepted");
    let ended = serve.ended().await.expect(0);
    assert_eq!(ended.stdout, "");
    let records: Vec<_> = town.audit().into_iter().filter(|line| line.get("event").is_none()).collect();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!((&records[0]["status"], &records[0]["error"]), (&200.into(), &serde_json::Value::Null));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let town = Town::new().await;
    let mut serve = town.serve().await;
    let agent = town.agent(&serve);
    agent.get(town.url("/v1/orders")).send().await.unwrap().error_for_status().unwrap();
    // It would go on for ever.
    let mut answer = agent.get(town.url("/v1/stream?every_ms=25")).send().await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    serve.signal(Signal::SIGTERM);
    serve.wait_for("draining").await;
    let signalled = Instant::now();
    serve.signal(Signal::SIGINT);
    let ended = serve.ended().await.expect(1);
    assert!(signalled.elapsed().as_secs() < 5, "it took {:?}", signalled.elapsed());
    assert!(ended.stderr.contains("ended at once"), "{}", ended.stderr);
    // What was done by then is on record.
    let paths: Vec<_> = town.audit().into_iter().filter(|line| line["path"] == "/v1/orders").collect();
    assert_eq!(paths.len(), 1);
}

#[tokio::test]
async fn sighup_takes_a_good_config_and_no_bad_one() {
    let town = Town::new().await;
    let mut serve = town.serve().await;
    let agent = town.agent(&serve);
    let status = async || agent.get(town.url("/v1/orders")).send().await.unwrap().status();
    assert_eq!(status().await, StatusCode::OK);

    let good = town.config();
    town.home.write("proxy.toml", good.replace("/v1/**", "/v2/**"));
    serve.signal(Signal::SIGHUP);
    serve.wait_for("the config was reloaded").await;
    assert_eq!(status().await, StatusCode::FORBIDDEN, "also inside the open tunnel");

    town.home.write("proxy.toml", good.replace("upgrade_http", "upgrade_htp").replace("methods", "method"));
    serve.signal(Signal::SIGHUP);
    let told = serve.wait_for("unknown key `upgrade_htp`").await;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let line = good.lines().position(|line| line.starts_with("upgrade_http")).unwrap() + 1;
    assert_eq!(told["line"], line, "{told}");
    assert!(told["help"].as_str().unwrap().contains("upgrade_http"), "{told}");
    serve.wait_for("the former one stays in force").await;
    assert_eq!(status().await, StatusCode::FORBIDDEN);

    town.home.write("proxy.toml", &good);
    serve.signal(Signal::SIGHUP);
    serve.wait_for("the config was reloaded").await;
    assert_eq!(status().await, StatusCode::OK);
    serve.terminate().await.expect(0);
    let reloads: Vec<_> = town.audit().into_iter().filter(|line| line["event"] == "config.reloaded").collect();
    assert_eq!(reloads.len(), 3, "{reloads:#?}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let town = Town::new().await;
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = held.local_addr().unwrap();
    let good = town.config();
    for listener in 0..3 {
        let mut parts: Vec<&str> = good.split("127.0.0.1:0").collect();
        let rest = parts.split_off(listener + 1).join("127.0.0.1:0");
        town.home.write("proxy.toml", format!("{}{taken}{rest}", parts.join("127.0.0.1:0")));
        let failed = town.home.run(&["serve"]).await.expect(2);
        assert!(failed.stderr.contains(&format!("can't listen on {taken}")), "{}", failed.stderr);
        assert!(failed.stderr.contains("in use"), "{}", failed.stderr);
    }
    drop(held);
}

#[tokio::test]
async fn a_second_serve_does_not_share_the_port() {
    // With several workers, the sockets would let it.
    let town = Town::with(Default::default(), |facts| facts.config().replace("workers = 1", "workers = 2")).await;
    let serve = town.serve_at_known_ports().await;
    let second = town.home.run(&["serve"]).await.expect(2);
    assert!(second.stderr.contains(&format!("can't listen on {}", serve.forward)), "{}", second.stderr);
    town.agent(&serve).get(town.url("/v1/orders")).send().await.unwrap().error_for_status().unwrap();
    serve.terminate().await.expect(0);
}

#[tokio::test]
async fn the_admin_listener_answers() {
    let town = Town::new().await;
    let serve = town.serve().await;
    town.agent(&serve).get(town.url("/v1/orders")).send().await.unwrap().error_for_status().unwrap();
    let ask = async |path: &str| {
        let answer = direct().get(format!("http://{}{path}", serve.admin)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    assert_eq!(ask("/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    let (status, ready) = ask("/readyz").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ready).unwrap()["ready"], true);
    let (status, metrics) = ask("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    let counted = r#"cupbearer_requests_total{listener="proxy",agent="researcher",route="orders",outcome="ok"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(ask("/api/v1/tokens").await.0, StatusCode::UNAUTHORIZED);
    serve.terminate().await.expect(0);
}

#[tokio::test]
async fn warnings_and_dangers_stand_in_the_log() {
    let town = Town::with(Default::default(), |facts| {
        facts.config().replace("{ file = \"client-secret\" }", "{ env = \"NOBODY_SET_THIS\" }")
    })
    .await;
    let serve = town.serve().await;
    let ended = serve.terminate().await.expect(0);
    for line in ended.stderr.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    }
    assert!(ended.stderr.contains("NOBODY_SET_THIS isn't set"), "{}", ended.stderr);
    assert!(ended.stderr.contains("routes.orders.danger_allow_private_addresses"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_demo_proves_its_point_in_time() {
    let home = Home::new();
    let started = Instant::now();
    let demo = home.run(&["demo", "--once"]).await.expect(0);
    assert!(started.elapsed().as_secs() < 10, "it took {:?}", started.elapsed());
    assert_eq!(demo.stderr, "");
    for part in [
        "401 Unauthorized",
        "authorization: Bearer [token ",
        "403 Forbidden",
        "\nproof: 2 requests served with 2 tokens",
    ] {
        assert!(demo.stdout.contains(part), "no `{part}`:\n{}", demo.stdout);
    }
    assert!(!demo.stdout.contains("eyJ"), "a token:\n{}", demo.stdout);
    assert_eq!(std::fs::read_dir(home.path().join("tmp")).unwrap().count(), 0, "files were left behind");
}

/// Whether its favourite ports are free or not.
#[tokio::test]
async fn what_the_demo_prints_can_be_copied() {
    let _held: Vec<_> =
        [4430, 4431, 8080, 8443, 9180].into_iter().map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).collect();
    let home = Home::new();
    let mut child = home.cupbearer(&["demo"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut commands = Vec::new();
    loop {
        let line = timeout(LIMIT, out.next_line()).await.unwrap().unwrap().expect("it ended");
        if line.starts_with("its config: ") {
            break;
        }
        commands.extend(
            line.strip_prefix("  ").filter(|_| line.contains("://") || line.contains("tail ")).map(str::to_owned),
        );
    }
    let at = commands.iter().position(|command| command.starts_with("export ")).expect("no export");
    let commands = commands.split_off(at);
    let wanted = [
        "coffee beans",
        "\"client_id\":\"cupbearer-demo\"",
        "method_not_allowed",
        "coffee beans",
        "cupbearer_requests_total{",
    ];
    assert_eq!(commands.len(), wanted.len() + 2, "{commands:#?}");
    for (command, wanted) in commands[1..].iter().zip(wanted) {
        let said = home.sh(&format!("{}; {command}", commands[0])).await.expect(0);
        assert!(said.stdout.contains(wanted), "no `{wanted}` from {command}:\n{}", said.all());
    }
    let log = home.sh(&commands[6].replace("tail -f", "tail -n 1")).await.expect(0);
    assert!(log.stdout.contains("\"route\":\"orders\""), "{}", log.stdout);
    kill(nix::unistd::Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(timeout(LIMIT, child.wait()).await.unwrap().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(home.path().join("tmp")).unwrap().count(), 0, "files were left behind");
}

/// Threat 20: no core file; and nothing on the swap area where the operator wants that, which
/// is told before anything is read where it can't be had.
#[tokio::test]
async fn memory_stays_where_it_is() {
    let lock = |facts: &Facts| facts.config().replace("[state]\n", "[state]\nlock_memory = true\n");
    let town = Town::with(Default::default(), lock).await;
    let of_process = |id: &str, file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap();
    let line = |text: String, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        line.trim_start_matches(name).trim().to_owned()
    };
    /// capabilities(7)
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let held = u64::from_str_radix(&line(of_process("self", "status"), "CapEff:"), 16).unwrap();
    let limit = line(of_process("self", "limits"), "Max locked memory");
    if held & CAP_IPC_LOCK == 0 && !limit.starts_with("unlimited") {
        let refused = town.home.run(&["serve"]).await.expect(2);
        assert!(refused.stderr.contains("memory can't be locked"), "{}", refused.stderr);
        return;
    }
    let serve = town.serve().await;
    let id = serve.id().to_string();
    let locked: u64 = line(of_process(&id, "status"), "VmLck:").trim_end_matches(" kB").parse().unwrap();
    assert!(locked > 0);
    assert!(line(of_process(&id, "limits"), "Max core file size").starts_with('0'));
    town.agent(&serve).get(town.url("/v1/orders")).send().await.unwrap().error_for_status().unwrap();
    serve.terminate().await.expect(0);
}

/// Threat 20: a secret that every user of the machine can read isn't used.
#[tokio::test]
async fn a_secret_for_everybody_stops_the_start() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let town = Town::new().await;
    let set = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let secret = town.home.work("client-secret");
    set(town.home.path(), 0o700);
    set(&secret, 0o644);
    assert!(town.home.run(&["check"]).await.expect(0).all().contains("can be read by other users (mode 0644)"));
    for directory in [&town.home.work(""), town.home.path()] {
        set(directory, 0o755);
    }
    for command in ["serve", "check"] {
        let refused = town.home.run(&[command]).await.expect(2).all();
        assert!(refused.contains("can be read by every user of this machine (mode 0644)"), "{refused}");
        assert!(refused.contains("chmod 600") && refused.contains("client-secret"), "{refused}");
    }
    let meant = town.config().replace("[state]\n", "[state]\ndanger_allow_readable_secrets = true\n");
    town.home.write("proxy.toml", meant);
    let mut serve = town.serve().await;
    serve.wait_for("state.danger_allow_readable_secrets").await;
}

/// Threat 111: the certificate that signs is for the routes' hosts only, also after a reload, and
/// clients take what it signs.
#[tokio::test]
async fn the_ca_vouches_for_the_routes_hosts_only() {
    let town = Town::new().await;
    let issuing = async || {
        let text = town.home.sh("openssl x509 -in state/ca/issuing.pem -noout -text").await.expect(0).stdout;
        let at = text.find("Name Constraints: critical").unwrap_or_else(|| panic!("{text}"));
        text[at..].to_owned()
    };
    let mut serve = town.serve().await;
    let agent = town.agent(&serve);
    agent.get(town.url("/v1/orders")).send().await.unwrap().error_for_status().unwrap();
    let before = issuing().await;
    assert!(before.contains("DNS:orders.test") && before.contains("IP:0.0.0.0/0.0.0.0"), "{before}");
    let route = "\n[[routes]]\nname = \"more\"\nhosts = [\"*.more.test\"]\nagents = [\"*\"]\n";
    town.home.write("proxy.toml", town.config() + route);
    serve.signal(Signal::SIGHUP);
    serve.wait_for("reloaded").await;
    let after = issuing().await;
    assert!(after.contains("DNS:more.test") && after.contains("DNS:orders.test"), "{after}");
    town.agent(&serve).get(town.url("/v1/orders")).send().await.unwrap().error_for_status().unwrap();
    serve.terminate().await.expect(0);
}
