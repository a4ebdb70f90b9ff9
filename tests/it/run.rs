//! `cupbearer run -- CMD`: an unmodified program gets through, and notices nothing else.

use std::{collections::BTreeMap, fs, process::Stdio, time::Duration};

use cupbearer::demo::WorldSettings;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    time::{Instant, timeout},
};

use crate::{
    binary::{CUPBEARER, LIMIT, Town, finish},
    support::Facts,
};

const SECRET_VARIABLE: &str = "ORDERS_CLIENT_SECRET";

/// The variables of standards 4.2, by what they must hold.
const PROXIES: [&str; 15] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "grpc_proxy",
    "GLOBAL_AGENT_HTTP_PROXY",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "CARGO_HTTP_PROXY",
    "CGI_HTTP_PROXY",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
    "CUPBEARER_PROXY",
];
const BUNDLES: [&str; 18] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "npm_config_cafile",
    "NIX_SSL_CERT_FILE",
    "HTTPLIB2_CA_CERTS",
    "PERL_LWP_SSL_CA_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "COMPOSER_CAFILE",
    "YARN_HTTPS_CA_FILE_PATH",
    "BUNDLE_SSL_CA_CERT",
    "CONDA_SSL_VERIFY",
    "HEX_CACERTS_PATH",
];
const ROOTS: [&str; 3] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT", "CUPBEARER_CA"];
const OTHERS: [&str; 9] = [
    "NO_PROXY",
    "no_proxy",
    "NODE_USE_ENV_PROXY",
    "WGETRC",
    "JAVA_TOOL_OPTIONS",
    "CUPBEARER_RUN",
    "CLOUDSDK_PROXY_TYPE",
    "CLOUDSDK_PROXY_ADDRESS",
    "CLOUDSDK_PROXY_PORT",
];

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[tokio::test]
async fn real_curl_gets_through_and_hears_nothing_of_us() {
    let town = Town::new().await;
    let url = town.url("/v1/orders");
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let arguments = ["run", "--", "curl", "-sS", option, "-o", "/dev/null", "-w", "%{http_code} %{http_version}"];
        let ran = town.home.run(&[&arguments[..], &[&url]].concat()).await.expect(0);
        assert_eq!(ran.stdout, format!("200 {version}"));
        let summary = lines(&ran.stderr);
        assert_eq!(summary.len(), 2, "{}", ran.stderr);
        assert!(summary[0].starts_with("cupbearer: 1 request, 0 refused, 0 failed; 0 B sent, "), "{}", summary[0]);
        assert_eq!(summary[1], "cupbearer: 1 token issued, 0 refreshed ahead of expiry, 0 failed token requests");
        let seen = town.world.api().seen().pop().unwrap();
        assert!(seen.claims.unwrap().has_scope("read:orders"));
        assert!(!seen.headers.contains_key("proxy-authorization"));
    }
    let records = town.audit();
    let requests: Vec<_> = records.iter().filter(|line| line.get("event").is_none()).collect();
    assert_eq!(requests.len(), 2, "{records:#?}");
    assert!(requests.iter().all(|record| record["agent"] == "researcher" && record["status"] == 200));
}

/// A secret in the keyring is for the proxy: what it starts isn't led to the bus.
#[tokio::test]
async fn the_command_is_not_led_to_the_keyring() {
    let bus = "unix:path=/nowhere/bus";
    for (source, expected) in [("{ keyring = \"cupbearer/demo\" }", "disabled:"), ("{ file = \"client-secret\" }", bus)]
    {
        let secret = |facts: &Facts| facts.config().replace("{ file = \"client-secret\" }", source);
        let town = Town::with(WorldSettings::default(), secret).await;
        let mut run = town.home.cupbearer(&["run", "--", "sh", "-c", "echo $DBUS_SESSION_BUS_ADDRESS"]);
        run.env("DBUS_SESSION_BUS_ADDRESS", bus);
        assert_eq!(finish(run).await.expect(0).stdout, format!("{expected}\n"));
    }
}

#[tokio::test]
async fn it_ends_as_the_command_does() {
    let town = Town::new().await;
    for (script, status) in [("exit 7", 7), ("exit 0", 0), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)] {
        let ran = town.home.run(&["run", "--", "sh", "-c", script]).await.expect(status);
        assert_eq!(lines(&ran.stderr).len(), 2, "{}", ran.stderr);
    }
    let missing = town.home.run(&["run", "--", "no-such-command"]).await.expect(127);
    assert!(missing.stderr.starts_with("error: \"no-such-command\" was not found\n"), "{}", missing.stderr);
    town.home.write("plain-file", "no program");
    let plain = town.home.run(&["run", "--", "./plain-file"]).await.expect(126);
    assert!(plain.stderr.contains("Permission denied"), "no cause: {}", plain.stderr);
    for ended in [missing, plain] {
        assert!(!ended.stderr.contains("cupbearer: 0 requests"), "{}", ended.stderr);
    }
    assert_eq!(fs::read_dir(town.home.path().join("run")).unwrap().count(), 0, "files were left behind");
}

#[tokio::test]
async fn arguments_pass_untouched() {
    let town = Town::new().await;
    let arguments = ["run", "--", "printf", "%s|", "--help", "-v", "--agent", "a b", "", "--", "*"];
    assert_eq!(town.home.run(&arguments).await.expect(0).stdout, "--help|-v|--agent|a b||--|*|");
}

#[tokio::test]
async fn a_signal_goes_on_to_the_command() {
    let town = Town::new().await;
    let script = "trap 'kill $!; echo caught; exit 9' TERM; sleep 60 >/dev/null 2>&1 & echo ready; wait";
    let mut command = town.home.cupbearer(&["run", "--", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(timeout(LIMIT, out.next_line()).await.unwrap().unwrap().unwrap(), "ready");
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(timeout(LIMIT, out.next_line()).await.unwrap().unwrap().unwrap(), "caught");
    assert_eq!(timeout(LIMIT, child.wait()).await.unwrap().unwrap().code(), Some(9));
}

/// Standards 1.D: what a run asked for ends with it.
#[tokio::test]
async fn the_tokens_of_a_run_are_given_back() {
    let town = Town::new().await;
    let url = town.url("/v1/orders");
    for round in 1..=2 {
        town.home.run(&["run", "--", "curl", "-sS", "-o", "/dev/null", &url]).await.expect(0);
        let server = town.world.authorization_server();
        assert_eq!((server.issued().len(), server.revoked().len()), (round, round), "{:?}", server.issued());
    }
    let events: Vec<_> = town.audit().iter().filter_map(|line| line["event"].as_str().map(str::to_owned)).collect();
    assert_eq!(events, ["token.issued", "token.revoked", "token.issued", "token.revoked"]);
}

/// … and a server that hangs then holds nobody up.
#[tokio::test]
async fn a_hung_revocation_doesnt_hold_up_the_end() {
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let revocation = format!("revocation_endpoint = \"https://{}/revoke\"", hung.local_addr().unwrap());
    let town = Town::with(Default::default(), |facts| {
        facts
            .config()
            .replace("ca = \"peers-ca.pem\"\n\n[cred", &format!("ca = \"peers-ca.pem\"\n{revocation}\n\n[cred"))
    })
    .await;
    let script = format!("curl -sS -o /dev/null {} && echo ready && exec sleep 60", town.url("/v1/orders"));
    let mut command = town.home.cupbearer(&["run", "--", "sh", "-c", &script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(timeout(LIMIT, out.next_line()).await.unwrap().unwrap().unwrap(), "ready");
    let signalled = Instant::now();
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    // It is asked, and says nothing.
    let (_silent, _) = timeout(LIMIT, hung.accept()).await.expect("nobody was asked").unwrap();
    assert_eq!(timeout(LIMIT, child.wait()).await.unwrap().unwrap().code(), Some(143));
    assert!(signalled.elapsed() < Duration::from_secs(4), "it took {:?}", signalled.elapsed());
}

#[tokio::test]
async fn the_command_gets_every_variable_and_none_of_our_secrets() {
    let town = Town::with(Default::default(), |facts| {
        facts
            .config()
            .replace("{ file = \"client-secret\" }", &format!("{{ env = \"{SECRET_VARIABLE}\" }}"))
            .replace("upgrade_http = true", "upgrade_http = true\nenv = { GH_TOKEN = \"placeholder\" }")
    })
    .await;
    let secret = town.world.client_secret().expose().to_owned();
    // Everything that it has is looked at before the directory goes.
    let script = format!(
        "env -0; stat -c '%a' \"$(dirname \"$CUPBEARER_CA\")\" >&2; cat \"$CUPBEARER_CA\" \"$SSL_CERT_FILE\" \
         \"$WGETRC\" >/dev/null && curl -sS -o /dev/null -w '%{{http_code}}\\n' {} >&2",
        town.url("/v1/orders")
    );
    let mut command = town.home.cupbearer(&["run", "--", "sh", "-c", &script]);
    command.env(SECRET_VARIABLE, &secret).env("CUPBEARER_AGENT_KEY", "cup_another-agents-key").env("KEPT", "yes");
    let ran = finish(command).await.expect(0);
    // The secret was there for us.
    assert_eq!(lines(&ran.stderr)[..2], ["700", "200"], "{}", ran.stderr);

    let environment: BTreeMap<&str, &str> =
        ran.stdout.split_terminator('\0').map(|entry| entry.split_once('=').unwrap()).collect();
    assert!(!ran.stdout.contains(&secret));
    for name in [SECRET_VARIABLE, "CUPBEARER_AGENT_KEY"] {
        assert!(!environment.contains_key(name), "{name} was inherited");
    }
    assert_eq!((environment["KEPT"], environment["GH_TOKEN"]), ("yes", "placeholder"));

    let proxy = environment["HTTPS_PROXY"];
    assert!(proxy.starts_with("http://researcher:cup_") && proxy.contains("@127.0.0.1:"), "{proxy}");
    assert!(PROXIES.iter().all(|name| environment[name] == proxy));
    let run = town.home.path().join("run");
    let in_run = |name: &&str| environment[*name].starts_with(run.to_str().unwrap());
    assert!(BUNDLES.iter().all(|name| in_run(name) && environment[name] == environment["SSL_CERT_FILE"]));
    assert!(ROOTS.iter().all(|name| in_run(name) && environment[name] == environment["CUPBEARER_CA"]));
    for name in OTHERS {
        assert!(environment.contains_key(name), "no {name}");
    }
    assert_eq!(environment["NO_PROXY"], "localhost,127.0.0.1,::1");
    assert_eq!(environment["NO_PROXY"], environment["no_proxy"]);
    assert_eq!(fs::read_dir(&run).unwrap().count(), 0, "the trust directory outlived the run");

    let mut command = town.home.cupbearer(&["run", "--no-java", "--", "env"]);
    command.env(SECRET_VARIABLE, &secret);
    let ran = finish(command).await.expect(0);
    assert!(!ran.stdout.contains("JAVA_TOOL_OPTIONS"));
}

#[tokio::test]
async fn several_agents_want_a_choice() {
    let town = Town::with(Default::default(), |facts| {
        let other =
            "[agents.writer]\nkey_sha256 = \"1111111111111111111111111111111111111111111111111111111111111111\"\n";
        let config = facts.config().replace("agents = [\"researcher\"]", "agents = [\"*\"]");
        config.replace("[[routes]]", &format!("{other}\n[[routes]]"))
    })
    .await;
    let unclear = town.home.run(&["run", "--", "true"]).await.expect(2);
    assert!(unclear.stderr.contains("--agent: researcher, writer"), "{}", unclear.stderr);
    let url = town.url("/v1/orders");
    town.home.run(&["run", "--agent", "writer", "--", "curl", "-sSf", &url]).await.expect(0);
    assert_eq!(town.audit().iter().find(|line| line.get("event").is_none()).unwrap()["agent"], "writer");
}

#[tokio::test]
async fn nothing_in_no_proxy_leads_past_a_route() {
    let town = Town::new().await;
    let mut command = town.home.cupbearer(&["run", "--log", "text", "--", "sh", "-c"]);
    command.arg(format!("echo \"$NO_PROXY\"; curl -sS -o /dev/null -w '%{{http_code}}' {}", town.url("/v1/orders")));
    command.env("NO_PROXY", "intranet.example, orders.test").env("no_proxy", ".test,*");
    let ran = finish(command).await.expect(0);
    assert_eq!(ran.stdout, "localhost,127.0.0.1,::1,intranet.example\n200");
    for entry in ["orders.test", ".test", "*"] {
        let warned = |line: &str| line.contains("left out of NO_PROXY") && line.contains(&format!("entry=\"{entry}\""));
        assert!(ran.stderr.lines().any(warned), "no warning for {entry}:\n{}", ran.stderr);
    }
}

#[tokio::test]
async fn runs_may_be_side_by_side_and_one_within_another() {
    let town = Town::new().await;
    let url = town.url("/v1/orders");
    let curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", &url];
    let inner = [&["run", "--", CUPBEARER, "run", "--"], &curl[..]].concat();
    let alone = [&["run", "--"], &curl[..]].concat();
    let (nested, one, other) = tokio::join!(town.home.run(&inner), town.home.run(&alone), town.home.run(&alone));
    for ran in [nested, one, other] {
        assert_eq!(ran.expect(0).stdout, "200");
    }
    // Lines of several processes in one log are whole: they parse.
    assert_eq!(town.audit().iter().filter(|line| line.get("event").is_none()).count(), 3);
}

#[tokio::test]
async fn a_refused_request_is_counted() {
    let town = Town::with(Default::default(), Facts::config).await;
    let url = town.url("/v2/orders");
    let ran = town.home.run(&["run", "--", "curl", "-sS", "-w", "%{http_code}", &url]).await.expect(0);
    assert!(ran.stdout.contains("path_not_allowed") && ran.stdout.ends_with("403"), "{}", ran.stdout);
    assert!(ran.stderr.starts_with("cupbearer: 1 request, 1 refused, 0 failed;"), "{}", ran.stderr);
}
