//! `cupbearer login` and `logout`, end to end: a human with a browser, a running proxy that
//! learns of it, an agent that notices nothing but that it works.

use std::{process::Stdio, time::Duration};

use cupbearer::demo::{
    WorldSettings,
    authorization_server::{AuthMethod, Client, GrantType, Poll, Returned},
    world::AUDIENCE,
};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStderr},
    time::timeout,
};

use crate::{
    binary::{Finished, LIMIT, Serve, Town},
    support::Facts,
};

const CLIENT: &str = "desktop";
const SCOPES: [&str; 2] = ["read:orders", "write:orders"];

/// A program on a human's machine: it has no secret, and comes back to loopback only.
fn desktop() -> Client {
    Client {
        id: CLIENT.to_owned(),
        auth_methods: vec![AuthMethod::Public],
        grants: vec![GrantType::AuthorizationCode, GrantType::DeviceCode, GrantType::RefreshToken],
        scopes: SCOPES.map(str::to_owned).to_vec(),
        audiences: vec![AUDIENCE.to_owned()],
        redirect_uris: vec!["http://127.0.0.1/cb/orders".to_owned()],
        ..Client::default()
    }
}

/// The ordinary config, but that a human logs in for the credential.
fn config(facts: &Facts, more: &str) -> String {
    let text = facts.config();
    let (before, rest) = text.split_once("grant = ").unwrap();
    let (_, after) = rest.split_once("audience = ").unwrap();
    let login = "grant = \"authorization_code\"\nauthorization_server = \"main\"\nclient_id = \"desktop\"\n\
                 client_auth = { method = \"none\" }\n";
    format!("{before}{login}{more}\naudience = {after}")
}

async fn town_with(more: &str) -> Town {
    let world = WorldSettings { clients: vec![desktop()], ..WorldSettings::default() };
    Town::with(world, |facts| config(facts, more)).await
}

/// A `cupbearer login` that waits for its human.
struct Login {
    child: Child,
    told: BufReader<ChildStderr>,
    said: String,
}

impl Login {
    fn start(town: &Town, arguments: &[&str]) -> Self {
        let mut command = town.home.cupbearer(&[&["login"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let told = BufReader::new(child.stderr.take().unwrap());
        Self { child, told, said: String::new() }
    }

    /// The next line that begins so.
    async fn line(&mut self, begin: &str) -> String {
        loop {
            let mut line = String::new();
            let read = timeout(LIMIT, self.told.read_line(&mut line)).await.expect("it says nothing").unwrap();
            assert_ne!(read, 0, "it ended without `{begin}`:\n{}", self.said);
            self.said.push_str(&line);
            if line.starts_with(begin) {
                return line.trim().to_owned();
            }
        }
    }

    async fn ended(mut self) -> Finished {
        let mut stdout = String::new();
        let status = timeout(LIMIT, async {
            self.told.read_to_string(&mut self.said).await.unwrap();
            self.child.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
            self.child.wait().await.unwrap()
        });
        let status = status.await.expect("it doesn't end").code().expect("it was killed");
        Finished { status, stdout, stderr: self.said }
    }
}

/// The human's browser: trusts the server, follows it back to us.
async fn browse(town: &Town, url: &str) -> String {
    let root = reqwest::Certificate::from_pem(town.world.ca_pem().as_bytes()).unwrap();
    let browser = reqwest::Client::builder().no_proxy().tls_certs_only([root]).timeout(LIMIT).build().unwrap();
    let shown = browser.get(url).send().await.unwrap();
    assert_eq!(shown.url().path(), "/cb/orders", "it didn't come back to us");
    shown.text().await.unwrap()
}

async fn log_in(town: &Town) -> Finished {
    let mut login = Login::start(town, &["orders", "--no-browser"]);
    let url = login.line("  https://").await;
    browse(town, &url).await;
    login.ended().await
}

async fn ask(town: &Town, serve: &Serve) -> (StatusCode, Value) {
    let response = town.agent(serve).get(town.url("/v1/orders")).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

fn events(town: &Town) -> Vec<String> {
    town.audit().iter().filter_map(|line| line["event"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_human_logs_in_and_agents_are_served_from_then_on() {
    let town = town_with("").await;
    let logged_in = log_in(&town).await.expect(0);
    assert_eq!(logged_in.stdout, "orders: logged in\n");
    assert!(!logged_in.stderr.contains("running proxy"), "{}", logged_in.stderr);
    for round in 0..2 {
        let serve = town.serve().await;
        assert_eq!(ask(&town, &serve).await.0, 200, "start {round}");
        let log = serve.terminate().await.expect(0);
        assert!(!log.all().contains("eyJ"), "a token in the log: {}", log.all());
    }
    let seen = town.world.api().seen();
    assert_eq!(seen.last().unwrap().claims.as_ref().unwrap().sub, "demo-user");
    let grants: Vec<String> = town
        .world
        .authorization_server()
        .token_requests()
        .iter()
        .filter_map(|request| request.grant().map(str::to_owned))
        .collect();
    assert_eq!(grants, ["authorization_code", "refresh_token"], "the second start bought a token");
    assert_eq!(events(&town)[0], "login");
    assert!(!logged_in.all().contains("eyJ"), "{}", logged_in.all());
}

#[tokio::test]
async fn a_running_proxy_learns_of_a_login_and_a_logout() {
    let town = town_with("").await;
    let serve = town.serve_at_known_ports().await;
    let (status, problem) = ask(&town, &serve).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &"login_required".into()));
    assert!(problem["hint"].as_str().unwrap().contains("cupbearer login orders"), "{problem}");

    let logged_in = log_in(&town).await.expect(0);
    assert!(logged_in.stderr.contains("the running proxy knows of it"), "{}", logged_in.stderr);
    assert_eq!(ask(&town, &serve).await.0, 200, "it rests after its failure");

    let shown = town.home.run(&["token", "show", "orders"]).await.expect(0).stdout;
    for row in [
        "login state               valid",
        "login credential          orders",
        "grant                     authorization_code",
    ] {
        assert!(shown.contains(row), "no `{row}`:\n{shown}");
    }
    let moment = shown.lines().find(|line| line.starts_with("login logged in at")).unwrap();
    assert!(moment.contains("T") && moment.ends_with('Z'), "{moment}");
    let json: Value =
        serde_json::from_str(&town.home.run(&["token", "show", "orders", "--json"]).await.expect(0).stdout).unwrap();
    assert_eq!(json["login"]["state"], "valid");
    assert!(json["login"]["fingerprint"].is_string() && !json.to_string().contains("eyJ"), "{json}");
    let list = town.home.run(&["token", "list"]).await.expect(0).stdout;
    assert!(list.lines().nth(1).unwrap().contains(" valid "), "{list}");

    let logged_out = town.home.run(&["logout", "orders"]).await.expect(0);
    assert!(logged_out.stdout.starts_with("orders: "), "{}", logged_out.stdout);
    assert!(logged_out.stderr.contains("the running proxy knows of it"), "{}", logged_out.stderr);
    let (status, problem) = ask(&town, &serve).await;
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &"login_required".into()));
    let shown = town.home.run(&["token", "show", "orders"]).await.expect(0).stdout;
    assert!(shown.contains("login state               needed"), "{shown}");
    serve.terminate().await.expect(0);
    let told = events(&town);
    let of_logins: Vec<&str> = told.iter().map(String::as_str).filter(|event| event.starts_with("log")).collect();
    assert_eq!(of_logins, ["login", "logout"]);

    // Nobody to tell is no failure either.
    let again = town.home.run(&["logout", "orders"]).await.expect(0);
    assert_eq!(again.stdout, "orders: forgotten; there was nothing to revoke\n");
    assert!(!again.stderr.contains("running proxy"), "{}", again.stderr);
}

/// `$BROWSER`, without a shell and without our secrets.
#[tokio::test]
async fn the_browser_is_opened() {
    use std::os::unix::fs::PermissionsExt;
    let town = town_with("").await;
    let browser =
        "#!/bin/sh\nenv > browser-env\ncurl -sSL --noproxy '*' --cacert peers-ca.pem -o page \"$1\" && mv page shown\n";
    town.home.write("browser", browser);
    std::fs::set_permissions(town.home.work("browser"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = town.home.cupbearer(&["login", "orders", "--param", "acr_values=phr $(touch run)"]);
    command.env("BROWSER", "./browser").env("CUPBEARER_AGENT_KEY", "canary-agent-key");
    let logged_in = crate::binary::finish(command).await.expect(0);
    assert!(logged_in.stderr.contains("It was opened with ./browser.\n"), "{}", logged_in.stderr);
    let asked = town.world.authorization_server().authorization_requests();
    assert!(asked[0].contains(&("acr_values".to_owned(), "phr $(touch run)".to_owned())), "{asked:?}");
    assert!(!town.home.work("run").exists(), "a shell read the URL");
    let environment = std::fs::read_to_string(town.home.work("browser-env")).unwrap();
    assert!(environment.contains("HOME=") && !environment.contains("canary"), "{environment}");
}

#[tokio::test]
async fn a_login_on_another_device() {
    let town = town_with("dpop = \"required\"").await;
    town.world.authorization_server().adjust(|knobs| {
        knobs.device.script = vec![Poll::Pending, Poll::Approve];
        knobs.device.interval = Duration::from_secs(1);
    });
    let mut login = Login::start(&town, &["orders", "--device"]);
    let url = login.line("  https://").await;
    assert!(url.starts_with(town.world.issuer()), "{url}");
    let code = login.line("  ").await;
    assert_eq!(code.len(), 9, "{code}");
    let done = login.ended().await.expect(0);
    assert_eq!(done.stdout, "orders: logged in\n");
    assert!(!done.stderr.contains('\u{1b}') && !done.stderr.contains('█'), "a drawing where nobody sees it");
    let serve = town.serve().await;
    assert_eq!(ask(&town, &serve).await.0, 200);
    serve.terminate().await.expect(0);
    // Bound to the login's key, before and after.
    let seen = town.world.api().seen();
    assert!(seen.last().unwrap().headers["authorization"].to_str().unwrap().starts_with("DPoP "));
    assert!(town.world.authorization_server().repeated_proofs().is_empty());
}

#[tokio::test]
async fn a_login_that_fails_says_why() {
    let town = town_with("").await;
    let server = town.world.authorization_server();
    server.adjust(|knobs| knobs.authorize.deny = true);
    let denied = log_in(&town).await.expect(1);
    assert!(
        denied.stderr.contains("error: orders: the authorization server answered `access_denied`"),
        "{}",
        denied.stderr
    );
    assert!(denied.stderr.contains("  hint: ") && denied.stdout.is_empty(), "{}", denied.all());

    // RFC 9207: the words of a stranger aren't shown.
    server.adjust(|knobs| knobs.authorize.iss = Returned::Wrong("https://attacker.example/".to_owned()));
    let forged = log_in(&town).await.expect(1);
    assert!(
        forged.stderr.contains("can't be trusted") && !forged.stderr.contains("access_denied"),
        "{}",
        forged.stderr
    );
    assert_eq!(server.token_request_count(), 0);

    town.world.stop_authorization_server();
    let away = town.home.run(&["login", "orders", "--no-browser"]).await.expect(1);
    assert!(away.stderr.contains("unavailable") && away.stderr.contains("Connection refused"), "{}", away.stderr);
}

#[tokio::test]
async fn what_nobody_can_log_in_for() {
    let town = Town::new().await;
    for command in ["login", "logout"] {
        let unknown = town.home.run(&[command, "nothing"]).await.expect(2);
        assert!(unknown.stderr.contains("no credential `nothing`; it has: orders"), "{}", unknown.stderr);
    }
    let useless = town.home.run(&["login", "orders"]).await.expect(1);
    assert!(useless.stderr.contains("nobody logs in for this credential"), "{}", useless.stderr);
    town.home.run(&["logout", "orders"]).await.expect(2);
    // Nor where it would be lost at once.
    let text = config(&town.facts, "").replace("[state]", "[state]\nstore = \"memory\"");
    town.home.write("proxy.toml", text);
    let lost = town.home.run(&["login", "orders"]).await.expect(2);
    assert!(lost.stderr.contains("would be lost"), "{}", lost.stderr);
    for bad in ["", "=x", "noequals"] {
        town.home.run(&["login", "orders", "--param", bad]).await.expect(2);
    }
    assert_eq!(town.world.authorization_server().token_request_count(), 0);
}

#[tokio::test]
async fn check_online_says_who_is_waited_for() {
    let town = town_with("").await;
    let checked = town.home.run(&["check", "--online"]).await.expect(0);
    assert!(checked.stdout.contains("orders: a login is needed: there has been no login yet\n"), "{}", checked.stdout);
    assert!(checked.stdout.contains("cupbearer login orders"), "{}", checked.stdout);
    log_in(&town).await.expect(0);
    let checked = town.home.run(&["check", "--online"]).await.expect(0);
    assert!(checked.stdout.contains("orders: got a token for "), "{}", checked.stdout);
}
