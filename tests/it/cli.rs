//! Commands that start nothing, as a user types them: what they print, and how they end.

use std::{fs, os::unix::fs::PermissionsExt};

use cupbearer::primitives::digest;
use serde_json::Value;

use crate::{
    binary::{Home, Town},
    support::{API, Facts},
};

/// Five mistakes, with the line and a part of the fix that each has to be reported with.
const MISTAKES: &str = r#"
[proxy]
listen = "8080"

[authorization_servers.main]
issuer = "http://login.example.com/"

[credentials.orders]
grant = "client_credentials"
authorization_server = "main"
client_id = "me"
client_auth = { method = "client_secret_post", secret = "hunter2-hunter2" }
scope = ["read:orders"]
hosts = ["orders.example.com"]

[agents.researcher]
key_sha256 = "0000000000000000000000000000000000000000000000000000000000000000"

[[routes]]
name = "orders"
hosts = ["orders.example.com"]
methods = []
agents = ["researcher"]
credential = "orders"
"#;

const FIXES: [(usize, &str); 5] =
    [(3, "127.0.0.1:8080"), (6, "https://"), (12, "{ env = \""), (13, "scopes"), (22, "leave `methods` out")];

#[tokio::test]
async fn check_prints_every_problem_with_its_line_and_a_fix() {
    let home = Home::new();
    home.write("proxy.toml", MISTAKES);
    let checked = home.run(&["check"]).await.expect(2);
    assert_eq!(checked.stdout, "");
    let blocks: Vec<&str> = checked.stderr.split("\n\n").filter(|block| block.starts_with("error: ")).collect();
    // The last says how many there were.
    assert_eq!(blocks.len(), FIXES.len() + 1, "{}", checked.stderr);
    for (block, (line, fix)) in blocks.iter().zip(FIXES) {
        assert!(block.contains(&format!("--> ./proxy.toml:{line}:")), "no line {line}:\n{block}");
        let help = block.split("= help: ").nth(1).unwrap_or_else(|| panic!("no fix:\n{block}"));
        assert!(help.contains(fix), "no `{fix}`:\n{block}");
    }
    assert_eq!(blocks[5].trim(), "error: 5 problems in ./proxy.toml");
    assert!(!checked.stderr.contains("hunter2"), "{}", checked.stderr);
    assert!(!checked.stderr.contains('\u{1b}'), "colours where nobody sees them");
}

#[tokio::test]
async fn check_counts_what_a_good_file_has() {
    let town = Town::new().await;
    let checked = town.home.run(&["check"]).await.expect(0);
    let counts = "./proxy.toml: 1 route, 1 agent, 1 credential\n";
    assert_eq!(checked.stdout, format!("{counts}danger: routes.orders.danger_allow_private_addresses is on\n"));
    assert_eq!(checked.stderr, "");
    assert_eq!(town.world.authorization_server().token_request_count(), 0);
}

#[tokio::test]
async fn warnings_are_printed_where_they_matter_and_not_with_quiet() {
    let town = Town::with(Default::default(), |facts| {
        facts.config().replace("{ file = \"client-secret\" }", "{ env = \"NOBODY_SET_THIS\" }")
    })
    .await;
    let checked = town.home.run(&["check"]).await.expect(0);
    assert!(checked.stderr.starts_with("warning: the environment variable NOBODY_SET_THIS isn't set\n"));
    assert_eq!(town.home.run(&["check", "-q"]).await.expect(0).stderr, "");
    assert_eq!(town.home.run(&["agent", "list"]).await.expect(0).stderr, "");
}

#[tokio::test]
async fn check_online_gets_a_token_or_says_why_not() {
    let town = Town::new().await;
    let checked = town.home.run(&["check", "--online"]).await.expect(0);
    let last = checked.stdout.lines().last().unwrap();
    let life = last.strip_prefix("orders: got a token for ").and_then(|rest| rest.strip_suffix(" s"));
    assert!((3500..=3600).contains(&life.unwrap().parse().unwrap()), "{last}");
    assert_eq!(town.world.authorization_server().token_request_count(), 1);
    assert!(!checked.all().contains("eyJ"), "{}", checked.all());

    town.home.write("client-secret", "not-the-secret");
    let checked = town.home.run(&["check", "--online"]).await.expect(1);
    let mut lines = checked.stdout.lines().rev();
    let (hint, failure) = (lines.next().unwrap(), lines.next().unwrap());
    assert!(failure.starts_with("orders: the authorization server answered `invalid_client`"), "{failure}");
    assert!(hint.starts_with("  hint: check `client_id` and the client secret"), "{hint}");

    town.world.stop_authorization_server();
    let checked = town.home.run(&["check", "--online"]).await.expect(1);
    assert!(checked.stdout.contains("orders: the authorization server is unavailable"), "{}", checked.stdout);
    assert!(checked.stdout.contains("Connection refused"), "no cause: {}", checked.stdout);
}

#[tokio::test]
async fn without_a_config_the_places_are_listed() {
    let home = Home::new();
    for command in [&["check"][..], &["serve"], &["run", "--", "true"]] {
        let finished = home.run(command).await.expect(2);
        for place in ["./proxy.toml", "/config/cupbearer/proxy.toml", "/etc/cupbearer/proxy.toml", "--config"] {
            assert!(finished.stderr.contains(place), "no {place}: {}", finished.stderr);
        }
    }
    let named = home.run(&["check", "--config", "other.toml"]).await.expect(2);
    assert!(named.stderr.contains("can't read other.toml"), "{}", named.stderr);
}

#[tokio::test]
async fn the_config_is_found_where_the_surface_says() {
    let town = Town::new().await;
    let text = town.config();
    let elsewhere = town.home.path().join("config/cupbearer");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("proxy.toml"), text.replace("agents.researcher", "agents.found-by-xdg")).unwrap();
    town.home.write("named.toml", text.replace("agents.researcher", "agents.found-by-variable"));
    let agents = async |variable: Option<&str>| {
        let mut command = town.home.cupbearer(&["check"]);
        command.envs(variable.map(|value| ("CUPBEARER_CONFIG", value)));
        crate::binary::finish(command).await.all()
    };
    // The route names `researcher`: only the config in ./ is a good one.
    assert!(agents(None).await.starts_with("./proxy.toml: 1 route"));
    assert!(agents(Some("named.toml")).await.contains("named.toml"));
    fs::remove_file(town.home.work("proxy.toml")).unwrap();
    assert!(agents(None).await.contains("config/cupbearer/proxy.toml"));
}

#[tokio::test]
async fn explain_says_what_would_happen_and_sends_nothing() {
    let town = Town::new().await;
    let url = town.url("/v1/orders?limit=2");
    let allowed = town.home.run(&["explain", "GET", &url]).await.expect(0);
    for row in ["allowed ", "agent       researcher", "route       orders", "credential  orders"] {
        assert!(allowed.stdout.contains(row), "no `{row}`:\n{}", allowed.stdout);
    }
    let json = town.home.run(&["explain", "GET", &url, "--json"]).await.expect(0);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (&json["allowed"], &json["route"], &json["url"]),
        (&true.into(), &"orders".into(), &town.url("/v1/orders").into())
    );
    let in_query = town.home.run(&["explain", "GET", &town.url("/v1/orders?access_token=mine")]).await.expect(1);
    assert!(in_query.stdout.contains("400 bad_request") && !in_query.stdout.contains("mine"), "{}", in_query.stdout);

    let refused = town.home.run(&["explain", "GET", &town.url("/v2/orders")]).await.expect(1);
    assert!(refused.stdout.contains("answer      403 path_not_allowed"), "{}", refused.stdout);
    // What to change, and not the command that was just given.
    assert!(refused.stdout.contains("hint        add the path to `paths` of route `orders`"), "{}", refused.stdout);
    let json = town.home.run(&["explain", "GET", "https://other.example/", "--json"]).await.expect(1);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["allowed"], &json["code"]), (&false.into(), &"host_not_allowed".into()));
    assert_eq!(json["hint"], "add the host to `hosts` of a [[routes]] entry");

    for bad in ["not a url", "orders.test/v1/orders", "https://", "https://a:b:c/"] {
        let finished = town.home.run(&["explain", "GET", bad]).await.expect(2);
        assert!(finished.stderr.starts_with("error: "), "{bad}: {}", finished.stderr);
    }
    town.home.run(&["explain", "GET", &town.url("/v1/orders"), "--agent", "nobody"]).await.expect(2);
    assert_eq!(town.world.authorization_server().token_request_count(), 0);
    assert_eq!(town.world.api().seen_count(), 0);
}

#[tokio::test]
async fn explain_knows_of_untouched_tunnels() {
    let town =
        Town::with(Default::default(), |facts| facts.config().replace("[proxy]", "[proxy]\nunmatched = \"tunnel\""))
            .await;
    for (method, url) in [("CONNECT", "https://other.example"), ("GET", "https://other.example/")] {
        let told = town.home.run(&["explain", method, url]).await.expect(0);
        assert!(told.stdout.contains("tunnelled untouched, without a credential"), "{}", told.stdout);
        assert!(!told.stdout.contains("\ncredential"), "{}", told.stdout);
    }
    // Not over clear text, not to odd ports, and never to an authorization server.
    for url in ["http://other.example/", "https://other.example:22/", "https://127.0.0.1:443/"] {
        let told = town.home.run(&["explain", "GET", url]).await.expect(1);
        assert!(told.stdout.contains("403 host_not_allowed"), "{}", told.stdout);
    }
    // A host that a route names has no other way in than the route, at no port.
    let elsewhere = format!("https://{API}:8443/");
    for method in ["CONNECT", "GET"] {
        let told = town.home.run(&["explain", method, &elsewhere]).await.expect(1);
        assert!(told.stdout.contains("403 host_not_allowed"), "{}", told.stdout);
    }
}

#[tokio::test]
async fn a_new_agents_key_fits_its_hash() {
    let home = Home::new();
    for name in ["researcher", "team.researcher-2"] {
        let made = home.run(&["agent", "new", name]).await.expect(0);
        assert_eq!(made.stderr, "");
        let (_, rest) = made.stdout.split_once(&format!("http://{name}:")).unwrap();
        let (key, _) = rest.split_once('@').unwrap();
        let hash = digest::hex(&digest::sha256(key.as_bytes()));
        assert!(made.stdout.contains(&format!("\nkey_sha256 = \"{hash}\"\n")), "{}", made.stdout);
        // As it is, it is a config: the key stands in a remark.
        let facts = Facts { issuer: "https://login.example.com/".to_owned(), api_port: 443, key_sha256: hash.clone() };
        let config = facts.config().replace(&format!("[agents.researcher]\nkey_sha256 = \"{hash}\"\n"), &made.stdout);
        home.write(
            "proxy.toml",
            config
                .replace("\"researcher\"", &format!("\"{name}\""))
                .replace("\nca = \"peers-ca.pem\"", "")
                .replace("\nupstream_ca = \"peers-ca.pem\"", ""),
        );
        assert_eq!(home.run(&["agent", "list"]).await.expect(0).stdout, format!("{name}\n"));
    }
    for bad in ["", "a b", "anonymous", "a/b"] {
        let finished = home.run(&["agent", "new", bad]).await.expect(2);
        assert_eq!(finished.stdout, "", "a key for `{bad}`");
    }
}

#[tokio::test]
async fn the_certificate_authority_is_kept_private_and_rotated() {
    let town = Town::new().await;
    let shown = town.home.run(&["ca", "show"]).await.expect(0).stdout;
    let fingerprint = |shown: &str| shown.split("sha-256      ").nth(1).unwrap().trim().to_owned();
    let mode = |name: &str| fs::metadata(town.home.work(name)).unwrap().permissions().mode() & 0o777;
    for (name, wanted) in [("", 0o700), ("/ca", 0o700), ("/ca/root.key", 0o600), ("/ca/issuing.key", 0o600)] {
        assert_eq!(mode(&format!("state{name}")), wanted, "state{name}");
    }
    let exported = town.home.run(&["ca", "export"]).await.expect(0).stdout;
    assert!(exported.starts_with("-----BEGIN CERTIFICATE-----\n"), "{exported}");
    assert!(exported.ends_with("-----END CERTIFICATE-----\n"), "{exported}");
    assert!(!exported.contains("PRIVATE"), "{exported}");
    // Showing and exporting change nothing.
    assert_eq!(town.home.run(&["ca", "show"]).await.expect(0).stdout, shown);

    let rotated = town.home.run(&["ca", "rotate"]).await.expect(0);
    assert_ne!(fingerprint(&rotated.stdout), fingerprint(&shown));
    assert!(rotated.stderr.contains("cupbearer ca export"), "{}", rotated.stderr);
    assert_eq!(town.home.run(&["ca", "show"]).await.expect(0).stdout, rotated.stdout);
    assert_ne!(town.home.run(&["ca", "export"]).await.expect(0).stdout, exported);
    assert_eq!(fs::read_to_string(town.home.work("state/ca.previous/root.pem")).unwrap(), exported);
    assert_eq!((mode("state/ca.previous"), mode("state/ca.previous/root.key")), (0o700, 0o600));
}

#[tokio::test]
async fn every_shell_has_a_completion_script() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = home.run(&["completions", shell]).await.expect(0);
        assert!(script.stdout.contains("explain") && script.stderr.is_empty(), "{shell}");
    }
    home.write("bash", home.run(&["completions", "bash"]).await.stdout);
    home.sh("bash -n bash").await.expect(0);
    home.run(&["completions", "ksh"]).await.expect(2);
}

/// A change of what users type or read shows up in review.
#[tokio::test]
async fn help_of_every_command() {
    let home = Home::new();
    let commands = [
        "",
        "demo",
        "serve",
        "run",
        "env",
        "check",
        "explain",
        "login",
        "logout",
        "ca",
        "ca show",
        "ca export",
        "ca rotate",
        "agent",
        "agent new",
        "agent list",
        "token",
        "token list",
        "token show",
        "token refresh",
        "completions",
    ];
    let mut text = String::new();
    for command in commands {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = home.run(&arguments).await.expect(0);
        assert_eq!(help.stderr, "");
        text.push_str(&format!("$ cupbearer {}\n{}\n", arguments.join(" "), help.stdout));
    }
    insta::assert_snapshot!("help", text);
}

#[tokio::test]
async fn what_cannot_be_understood_starts_nothing() {
    let home = Home::new();
    let unknown: [&[&str]; 7] = [
        &["frobnicate"],
        &["check", "--frobnicate"],
        &["--log", "xml", "check"],
        &["run"],
        &["explain", "GET"],
        &["check", "-v", "-q"],
        &[],
    ];
    for arguments in unknown {
        let finished = home.run(arguments).await.expect(2);
        assert_eq!(finished.stdout, "", "{arguments:?}");
        assert!(
            finished.stderr.contains("cupbearer [") || finished.stderr.contains("try '--help'"),
            "{arguments:?}: {}",
            finished.stderr
        );
    }
    let version = home.run(&["--version"]).await.expect(0);
    assert_eq!(version.stdout, format!("cupbearer {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn tokens_of_a_running_proxy() {
    let town = Town::new().await;
    let serve = town.serve_at_known_ports().await;
    let list = town.home.run(&["token", "list"]).await.expect(0);
    assert!(list.stdout.lines().nth(1).unwrap().starts_with("orders "), "{}", list.stdout);

    let first = town.home.run(&["token", "refresh", "orders"]).await.expect(0);
    let second = town.home.run(&["token", "refresh", "orders"]).await.expect(0);
    let generation = |told: &str| field(told, "generation").parse::<u64>().unwrap();
    assert!(generation(&second.stdout) > generation(&first.stdout), "{}{}", first.stdout, second.stdout);
    assert_ne!(field(&second.stdout, "fingerprint"), field(&first.stdout, "fingerprint"));

    let shown = town.home.run(&["token", "show", "orders"]).await.expect(0);
    assert_eq!(field(&shown.stdout, "generation"), field(&second.stdout, "generation"));
    let json = town.home.run(&["token", "show", "orders", "--json"]).await.expect(0);
    let told: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(told["fingerprint"], field(&shown.stdout, "fingerprint"));
    let listed = town.home.run(&["token", "list", "--json"]).await.expect(0);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["tokens"][0]["credential"], "orders");

    let unknown = town.home.run(&["token", "show", "nothing"]).await.expect(1);
    assert!(unknown.stderr.contains("no credential of this name"), "{}", unknown.stderr);
    town.home.run(&["token", "show", "../tokens"]).await.expect(2);

    // A real token begins like that.
    town.agent(&serve).get(town.url("/v1/orders")).send().await.unwrap().error_for_status().unwrap();
    let token = town.world.api().seen()[0].headers["authorization"].to_str().unwrap().to_owned();
    assert!(token.starts_with("Bearer eyJ"));
    for finished in [&list, &first, &second, &shown, &json, &unknown] {
        assert!(!finished.all().contains("eyJ"), "{}", finished.all());
    }
    serve.terminate().await.expect(0);

    let nobody = town.home.run(&["token", "list"]).await.expect(1);
    assert!(nobody.stderr.contains("is `cupbearer serve` running?"), "{}", nobody.stderr);
}

/// A value of `token show`.
fn field<'a>(told: &'a str, name: &str) -> &'a str {
    let line = told.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}:\n{told}"));
    line[name.len()..].trim()
}

#[tokio::test]
async fn the_printed_environment_leads_real_programs_through_the_proxy() {
    let town = Town::new().await;
    let serve = town.serve_at_known_ports().await;
    let curl = format!("curl -sS -o /dev/null -w '%{{http_code}}' {}", town.url("/v1/orders"));
    let cupbearer = crate::binary::CUPBEARER;
    let by_variable = format!("env=$(CUPBEARER_AGENT_KEY={} {cupbearer} env) && eval \"$env\" && {curl}", town.key);
    assert_eq!(town.home.sh(&by_variable).await.expect(0).stdout, "200");
    town.home.write("key", format!("{}\n", town.key));
    let by_file = format!("env=$({cupbearer} env --key-file key --shell sh) && eval \"$env\" && cd / && {curl}");
    assert_eq!(town.home.sh(&by_file).await.expect(0).stdout, "200");
    assert_eq!(town.world.api().seen().iter().filter(|seen| seen.claims.is_some()).count(), 2);
    assert_ne!(town.home.sh(&curl).await.status, 0, "curl gets there without the environment");
    serve.terminate().await.expect(0);
}

#[tokio::test]
async fn the_same_environment_in_every_form() {
    let town = Town::new().await;
    town.home.write("key", &town.key);
    town.home.write("proxy.toml", town.config().replacen("127.0.0.1:0", "127.0.0.1:18080", 1));
    let run = async |more: &[&str]| {
        let arguments = [&["env", "--key-file", "key"], more].concat();
        town.home.run(&arguments).await.expect(0).stdout
    };
    let json: Value = serde_json::from_str(&run(&["--json"]).await).unwrap();
    let proxy = format!("http://researcher:{}@127.0.0.1:18080", town.key);
    assert_eq!(json["HTTPS_PROXY"], proxy);
    for (shell, line) in [
        ("sh", format!("export https_proxy='{proxy}'\n")),
        ("fish", format!("set -gx https_proxy '{proxy}'\n")),
        ("powershell", format!("$env:https_proxy = '{proxy}'\n")),
    ] {
        let text = run(&["--shell", shell]).await;
        assert!(text.contains(&line), "{shell}:\n{text}");
        assert_eq!(text.lines().count(), json.as_object().unwrap().len(), "{shell}");
    }
    let bundle = json["SSL_CERT_FILE"].as_str().unwrap();
    assert!(fs::read_to_string(bundle).unwrap().contains("BEGIN CERTIFICATE"), "found from every directory");

    let keyless = town.home.run(&["env"]).await.expect(2);
    assert!(keyless.stderr.contains("CUPBEARER_AGENT_KEY") && keyless.stdout.is_empty(), "{}", keyless.all());
}
