//! What an operator sees: whole messages, compared to the letter.

mod credentials;
mod reference;
mod sources;
mod upstream;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{
    credential::{Source, client_auth::ClientAuth},
    primitives::listen::{ListenAddress, UnixAddress},
    route::{AgentSet, Effect, Scheme},
    server::Unmatched,
};

const HASH: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";

/// A small good file; tests change it.
const SMALL: &str = r#"[authorization_servers.auth0]
issuer = "https://example.eu.auth0.com/"

[credentials.orders]
grant = "client_credentials"
authorization_server = "auth0"
client_id = "my-client"
client_auth = { method = "client_secret_post", secret = { env = "CLIENT_SECRET" } }
scopes = ["read:orders"]
hosts = ["orders.example.com"]

[agents.researcher]
key_sha256 = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"

[[routes]]
name = "orders-read"
hosts = ["orders.example.com"]
methods = ["GET", "HEAD"]
paths = ["/v1/orders/**"]
agents = ["researcher"]
credential = "orders"
"#;

fn environment(name: &str) -> Option<OsString> {
    match name {
        "HOME" => Some("/home/u".into()),
        "CLIENT_SECRET" | "OTHER_SECRET" => Some("hunter2".into()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Settings, Problems> {
    parse(text, Path::new("/etc/cupbearer/proxy.toml"), &environment)
}

fn good(text: &str) -> Settings {
    read(text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Message and help of each problem.
fn problems(text: &str) -> Vec<(usize, String, String)> {
    let problems = read(text).map(|_| ()).expect_err("a problem");
    let list: Vec<_> = problems.iter().map(|each| (each.line, each.message.clone(), each.help.clone())).collect();
    assert_eq!(list.len(), problems.len());
    list
}

/// The one problem that the small file has when `from` reads `to`.
fn changed(from: &str, to: &str) -> (String, String) {
    assert!(SMALL.contains(from), "{from}");
    let mut list = problems(&SMALL.replacen(from, to, 1));
    assert_eq!(list.len(), 1, "{list:?}");
    let (_, message, help) = list.remove(0);
    (message, help)
}

fn warnings(text: &str) -> String {
    good(text).warnings.render_as_warnings(false)
}

/// A root certificate in a PEM file.
fn pem_file(directory: &Path) -> PathBuf {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let file = directory.join("corp.pem");
    std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
    file
}

#[test]
fn five_mistakes_are_five_problems() {
    let text = r#"[proxy]
listen = "localhost:8080"

[authorization_servers.auth0]
issuer = "http://example.eu.auth0.com/"

[credentials.orders]
grant = "client_credentials"
authorization_server = "auth0"
client_id = "my-client"
client_auth = { method = "client_secret_post", secret = "hunter2" }
scope = ["read:orders"]
hosts = ["orders.example.com"]

[[routes]]
name = "orders-read"
hosts = ["orders.example.com"]
agents = ["researcher"]
credential = "orders"
"#;
    let found = read(text).map(|_| ()).unwrap_err();
    assert_eq!(found.len(), 5);
    insta::assert_snapshot!(found.render(false));
}

#[test]
fn a_secret_in_the_file_is_never_shown() {
    let direct = SMALL.replace("secret = { env = \"CLIENT_SECRET\" }", "secret = \"hunter2\"");
    let outside = SMALL.replace("scopes =", "client_secret = \"hunter2\"\nscopes =");
    let in_params = SMALL.replace("scopes =", "params = { password = \"hunter2\" }\nscopes =");
    let as_name = SMALL.replace("env = \"CLIENT_SECRET\"", "env = \"hunter2+x\"");
    let as_key = SMALL.replace(&format!("key_sha256 = \"{HASH}\""), "key = \"hunter2\"");
    let as_hash = SMALL.replace(HASH, "hunter2");
    let in_url = SMALL.replace("https://example", "https://user:hunter2@example");
    let broken = SMALL.replace("secret = { env = \"CLIENT_SECRET\" }", "secret = \"hunter2");
    let elsewhere = SMALL.replace("methods =", "api_token = \"hunter2\"\nmethods =");
    let auth = "{ method = \"client_secret_post\", secret = { env = \"CLIENT_SECRET\" } }";
    let as_auth = SMALL.replace(auth, "\"hunter2\"");
    let as_agent = SMALL.replace("[[routes]]", "[agents]\nbob = \"hunter2\"\n[[routes]]");
    let all = [direct, outside, in_params, as_name, as_key, as_hash, in_url, broken, elsewhere, as_auth, as_agent];
    for text in all {
        assert!(text.contains("hunter2"));
        let found = read(&text).map(|_| ()).unwrap_err();
        for rendered in [found.render(false), found.render(true), format!("{found:?}"), found.to_string()] {
            assert!(!rendered.contains("hunter2"), "{rendered}");
        }
    }
}

#[test]
fn a_plain_secret_gets_the_line_to_write() {
    let (message, help) = changed("secret = { env = \"CLIENT_SECRET\" }", "secret = \"hunter2\"");
    assert_eq!(message, "`secret` holds a secret itself; only where it is may stand here");
    assert!(
        help.starts_with("write `secret = { env = \"ORDERS_CLIENT_SECRET\" }`, `{ file = \"PATH\" }` or"),
        "{help}"
    );
    let auth = "client_auth = { method = \"client_secret_post\", secret = { env = \"CLIENT_SECRET\" } }";
    let (message, help) = changed(auth, "client_secret = \"hunter2\"");
    assert_eq!(message, "`client_secret` has no place here, and a secret is never written in the file");
    assert!(help.contains("secret = { env = \"ORDERS_CLIENT_SECRET\" } }"), "{help}");
}

#[test]
fn typos_get_the_key_that_was_meant() {
    let (message, help) = changed("scopes", "scope");
    assert_eq!(message, "unknown key `scope` in [credentials.orders]");
    assert_eq!(help, "did you mean `scopes`?");
    let (message, help) = changed("[[routes]]", "[[route]]");
    assert_eq!((message.as_str(), help.as_str()), ("unknown key `route` in the file", "did you mean `routes`?"));
    let (message, help) = changed("client_secret_post", "client_secret_posts");
    assert_eq!(message, "unknown method `client_secret_posts`");
    assert_eq!(help, "did you mean `client_secret_post`?");
}

#[test]
fn a_dangling_reference_names_what_there_is() {
    let (message, help) = changed("credential = \"orders\"", "credential = \"order\"");
    assert_eq!(message, "there is no credential `order`");
    assert_eq!(help, "did you mean `orders`? The file has `orders`");
    let (message, help) = changed("agents = [\"researcher\"]", "agents = [\"bob\"]");
    assert_eq!(message, "there is no agent `bob`");
    assert_eq!(help, "the file has `researcher`");
    let (message, _) = changed("authorization_server = \"auth0\"", "authorization_server = \"okta\"");
    assert_eq!(message, "there is no authorization server `okta`");
}

/// What refers to a faulty table is not dangling.
#[test]
fn one_mistake_is_one_problem() {
    changed("client_id = \"my-client\"\n", "");
    changed("issuer = \"https://example.eu.auth0.com/\"", "issuer = 3");
    changed(HASH, "123");
}

#[test]
fn a_route_allows_websocket_unless_it_says_otherwise() {
    let with =
        |line: &str| SMALL.replacen("credential = \"orders\"\n", &format!("credential = \"orders\"\n{line}\n"), 1);
    let allowed = |line: &str| good(&with(line)).routes[0].upgrades.clone();
    assert_eq!(allowed(""), ["websocket"]);
    assert_eq!(allowed("upgrades = []"), [""; 0]);
    assert_eq!(allowed("upgrades = [\"proto/1.0\", \"other\"]"), ["proto/1.0", "other"]);
    for (line, message) in [
        ("upgrades = [\"h2c\"]", "requests inside `h2c` couldn't be judged"),
        ("upgrades = [\"HTTP/2.0\"]", "requests inside `HTTP/2.0` couldn't be judged"),
        ("upgrades = [\"tls/1.0\"]", "requests inside `tls/1.0` couldn't be judged"),
        ("upgrades = [\"a, b\"]", "`a, b` is no protocol's name"),
        ("upgrades = [\"a/b/c\"]", "`a/b/c` is no protocol's name"),
        ("upgrades = \"websocket\"", "`upgrades` is a string, but wants a list"),
    ] {
        let found = problems(&with(line));
        assert_eq!(found.iter().map(|(_, message, _)| &**message).collect::<Vec<_>>(), [message], "{line}");
    }
}

#[test]
fn ties_are_problems() {
    let twin = SMALL[SMALL.find("[[routes]]").unwrap()..].replace("orders-read", "orders-too");
    let text = format!("{SMALL}\n{twin}");
    let found = problems(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].1.starts_with("the routes `orders-read` and `orders-too` both allow "), "{found:?}");
    assert_eq!(found[0].0, 24);
    let same_name = text.replace("orders-too", "orders-read");
    assert_eq!(problems(&same_name)[0].1, "another route is named `orders-read` too");
}

#[test]
fn empty_lists_never_mean_everything() {
    let (_, help) = changed("agents = [\"researcher\"]", "agents = []");
    assert_eq!(help, "an empty list means nobody; every agent is `agents = [\"*\"]`");
    for key in ["hosts", "methods", "paths"] {
        let at = SMALL.find("[[routes]]").unwrap();
        let start = at + SMALL[at..].find(key).unwrap();
        let line = SMALL[start..].lines().next().unwrap();
        let text = format!("{}{}", &SMALL[..start], SMALL[start..].replacen(line, &format!("{key} = []"), 1));
        assert_eq!(problems(&text)[0].1, format!("`{key}` is empty"));
    }
}

#[test]
fn agents_without_a_key_are_anonymous_or_wrong() {
    let (message, help) = changed(&format!("key_sha256 = \"{HASH}\""), "");
    assert_eq!(message, "[agents.researcher] has no `key_sha256`: nobody could be this agent");
    assert!(help.contains("cupbearer agent new researcher"), "{help}");
    let text = SMALL.replace("researcher", "anonymous").replace(&format!("key_sha256 = \"{HASH}\""), "");
    let settings = good(&text);
    assert!(settings.agents[0].anonymous && settings.agents[0].keys.is_empty());
    assert_eq!(problems(&SMALL.replace("researcher", "anonymous"))[0].1, "the agent `anonymous` has no key");
}

#[test]
fn the_second_lock_is_checked_when_the_file_is_read() {
    let hosts = "[\"orders.example.com\"]\n\n[agents";
    let (message, help) = changed(hosts, "[\"other.example.com\"]\n\n[agents");
    assert_eq!(message, "the credential `orders` may not be sent to `orders.example.com`");
    assert!(help.starts_with("its `hosts` are `other.example.com`"), "{help}");
    good(&SMALL.replacen(hosts, "[\"*.example.com\"]\n\n[agents", 1));
}

/// A2.
#[test]
fn http_authorization_servers_are_refused() {
    let (message, _) = changed("https://example.eu", "http://example.eu");
    assert!(message.contains("clear text"), "{message}");
    let (_, help) = changed("https://example.eu.auth0.com/", "http://127.0.0.1:9000/");
    assert!(help.contains("danger_allow_http = true"), "{help}");
    let local = SMALL.replace(
        "issuer = \"https://example.eu.auth0.com/\"",
        "token_endpoint = \"http://localhost:9/t\"\ndanger_allow_http = true",
    );
    assert_eq!(good(&local).dangers, ["authorization_servers.auth0.danger_allow_http"]);
}

/// Threat 37.
#[test]
fn a_route_to_an_authorization_server_needs_paths() {
    let with = |paths: &str, rest: &str| {
        format!("{SMALL}\n[[routes]]\nname = \"api\"\nhosts = [\"*.auth0.com\"]\nagents = [\"*\"]\n{paths}\n{rest}")
    };
    for paths in ["", "paths = [\"/**\"]"] {
        let found = problems(&with(paths, ""));
        assert_eq!(found.len(), 1);
        assert!(found[0].1.starts_with("agents could reach the authorization server `auth0`"), "{found:?}");
    }
    good(&with("paths = [\"/api/v2/**\"]", ""));
    good(&with("", "[[routes]]\nname = \"no\"\nhosts = [\"example.eu.auth0.com\"]\neffect = \"deny\""));
    let endpoint = with("paths = [\"/oauth/**\"]", "");
    good(&endpoint);
    let endpoint = endpoint.replace(
        "issuer = \"https://example.eu.auth0.com/\"",
        "token_endpoint = \"https://example.eu.auth0.com/oauth/token\"",
    );
    assert_eq!(problems(&endpoint).len(), 1);
}

#[test]
fn what_this_version_lacks_says_so() {
    let (message, _) = changed("methods =", "rate = \"60/min\"\nmethods =");
    assert_eq!(message, "`rate` is not supported by this version");
    let text = format!("[state]\nstore = {{ postgres = {{ env = \"X\" }} }}\n{SMALL}");
    let messages: Vec<String> = problems(&text).into_iter().map(|(_, message, _)| message).collect();
    assert_eq!(messages, ["a store on a server is not supported by this version"]);
}

#[test]
fn socket_files_have_a_path_and_a_mode() {
    let listen = |lines: &str| {
        let settings = good(&format!("[proxy]\n{lines}\n{SMALL}"));
        settings.server.forward.into_iter().map(|listener| listener.listen).collect::<Vec<_>>()
    };
    let unix = |path: &str, mode| ListenAddress::Unix(UnixAddress { path: path.into(), mode });
    assert_eq!(listen("listen = \"unix:/run/c.sock\""), [unix("/run/c.sock", 0o600)]);
    assert_eq!(
        listen("listen = [\"unix:/run/c.sock\", \"127.0.0.1:0\", \"unix:/d\"]\nunix_mode = \"0660\""),
        [unix("/run/c.sock", 0o660), "127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into(), unix("/d", 0o660)]
    );
    let mistakes = [
        ("listen = \"unix:\"", "a unix socket wants the path of a file"),
        ("listen = \"unix:/run/\"", "a unix socket wants the path of a file"),
        ("listen = \"unix:/run/c.sock\"\nunix_mode = \"rw\"", "`rw` is no mode of a file"),
        ("listen = \"unix:/run/c.sock\"\nunix_mode = \"0888\"", "`0888` is no mode of a file"),
        ("listen = \"unix:/run/c.sock\"\nunix_mode = \"4755\"", "`4755` is no mode of a file"),
        ("unix_mode = \"0660\"", "`unix_mode` is about socket files, and this listens on none"),
        (
            "listen = \"unix:/run/c.sock\"\n[socks]\nlisten = \"unix:/run/c.sock\"",
            "unix:/run/c.sock is taken by another listener (unix:/run/c.sock)",
        ),
    ];
    for (lines, message) in mistakes {
        assert_eq!(problems(&format!("[proxy]\n{lines}\n{SMALL}"))[0].1, message, "{lines}");
    }
    let long = format!("listen = \"unix:/{}\"", "a".repeat(107));
    assert!(problems(&format!("[proxy]\n{long}\n{SMALL}"))[0].1.contains("at most 107 bytes"));
}

#[test]
fn syntax_errors_stand_beside_the_others() {
    let text = SMALL.replace("issuer = \"https://example.eu.auth0.com/\"", "issuer = https").replace("scopes", "scope");
    let found = problems(&text);
    assert_eq!(found.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [2, 9], "{found:?}");
    assert!(found[0].1.starts_with("not TOML: "), "{found:?}");
    let twice = format!("{SMALL}agents = [\"*\"]\n");
    assert_eq!(problems(&twice)[0].1, "not TOML: this name stands twice in the same table");
}

#[test]
fn numbers_need_units_and_ranges() {
    let with = |line: &str| problems(&format!("[limits]\n{line}\n{SMALL}")).remove(0);
    assert_eq!(with("request_head = 65536").2, "write `request_head = \"64KiB\"` if you mean bytes");
    assert_eq!(with("head_timeout = 30").2, "write `head_timeout = \"30s\"` if you mean seconds");
    assert_eq!(with("request_head = \"1KiB\"").2, "write a size from 8KiB to 16MiB");
    assert_eq!(with("connect_timeout = \"0s\"").1, "`connect_timeout` can't be zero");
    assert_eq!(with("h2_streams = 0").1, "`h2_streams` is out of range");
    assert_eq!(with("h2_streams = 99999999999999999999").1, "`h2_streams` is out of range");
    assert_eq!(with("drain = \"soon\"").1, "`soon` is no duration");
}

#[test]
fn values_say_what_to_write_instead() {
    assert_eq!(changed("\"HEAD\"", "\"head\"").1, "write \"HEAD\"");
    assert_eq!(changed("\"HEAD\"", "\"*\"").1, "leave `methods` out for every method");
    assert_eq!(changed("[\"GET\", \"HEAD\"]", "\"GET\"").1, "write `methods = [\"GET\"]`");
    assert_eq!(
        changed("\"read:orders\"", "\"read:orders write\"").1,
        "one scope a string: [\"read:orders\", \"write\"]"
    );
    let (message, help) = changed("methods =", "danger_allow_private_addresses = [\"10.1.0.0/8\"]\nmethods =");
    assert_eq!((message.as_str(), help.as_str()), ("`10.1.0.0/8` has bits beyond its prefix", "write \"10.0.0.0/8\""));
    let route = SMALL.find("[[routes]]").unwrap();
    let url =
        format!("{}{}", &SMALL[..route], SMALL[route..].replace("orders.example.com", "https://orders.example.com/v1"));
    assert_eq!(problems(&url)[0].2, "write \"orders.example.com\": no scheme, no path");
    assert_eq!(
        changed("agents = [\"researcher\"]", "agents = [\"*\", \"researcher\"]").0,
        "`*` already means every agent"
    );
}

#[test]
fn doubled_listeners_are_problems_and_open_ones_warnings() {
    let text =
        format!("[proxy]\nlisten = [\"127.0.0.1:8080\", \"0.0.0.0:8080\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n{SMALL}");
    let found = problems(&text);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, "0.0.0.0:8080 is taken by another listener (127.0.0.1:8080)");
    let text = text.replace("\"127.0.0.1:8080\", ", "");
    assert!(warnings(&text).contains("keys pass in clear text"));
}

#[test]
fn warnings_are_rendered_and_stop_nothing() {
    let idle = format!(
        "{SMALL}\n[agents.idle]\nkey_sha256 = \"{}\"\n[[reverse]]\nlisten = \"127.0.0.1:8443\"\nupstream = \"https://nowhere.example\"\n",
        "0".repeat(64)
    );
    insta::assert_snapshot!(warnings(&idle));
    assert_eq!(warnings(SMALL), "");
    assert!(warnings(&SMALL.replace("CLIENT_SECRET", "UNSET")).contains("UNSET isn't set"));
}

#[cfg(unix)]
#[test]
fn a_secret_file_that_others_read_is_a_warning_and_one_for_everybody_a_problem() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, "hunter2").unwrap();
    let text = SMALL.replace("{ env = \"CLIENT_SECRET\" }", &format!("{{ file = \"{}\" }}", file.display()));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(warnings(&text).contains("can be read by other users (mode 0644)"));
    // Threat 20: nothing keeps anybody from it.
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (_, problem, help) = problems(&text).remove(0);
    assert!(problem.contains("can be read by every user of this machine (mode 0644)"), "{problem}");
    assert!(help.contains(&format!("chmod 600 {}", file.display())), "{help}");
    let meant = format!("{text}\n[state]\ndanger_allow_readable_secrets = true\n");
    assert!(warnings(&meant).contains("can be read by other users (mode 0644)"));
    assert_eq!(good(&meant).dangers, ["state.danger_allow_readable_secrets"]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(warnings(&text), "");
}

/// A certificate and its key, `client.pem` and `client.key`.
fn client_files(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
    std::fs::write(directory.join("client.pem"), made.cert.pem()).unwrap();
    let key = directory.join("client.key");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Every table and every key.
fn full(directory: &Path) -> String {
    pem_file(directory);
    for file in ["proxy.pem", "proxy.key"] {
        std::fs::write(directory.join(file), "").unwrap();
    }
    client_files(directory);
    include_str!("testdata/full.toml").to_owned()
}

#[test]
fn a_full_file_loads() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.toml");
    std::fs::write(&file, full(directory.path())).unwrap();
    let settings = load(&file).unwrap_or_else(|problems| panic!("{problems}"));

    assert_eq!(settings.state, directory.path().join("state"));
    assert_eq!(settings.observe.audit_log, Some(directory.path().join("log.jsonl")));
    let server = &settings.server;
    let names: Vec<&str> = server.forward.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["proxy", "proxy-2"]);
    assert_eq!(server.forward[0].tls.as_ref().unwrap().certificate, directory.path().join("proxy.pem"));
    assert_eq!((server.unmatched, server.workers), (Unmatched::Tunnel, Some(2)));
    assert_eq!((server.limits.request_head, server.drain), (32 << 10, Duration::ZERO));
    assert_eq!(server.reverse[0].name.as_str(), "openai");
    assert_eq!(
        (server.socks[0].name.as_str(), server.socks[0].listen.to_string()),
        ("socks", format!("unix:{}", directory.path().join("socks.sock").display()))
    );
    let mounts = &server.reverse[1].mounts;
    assert_eq!(mounts[0].prefix, "/orders/v2/", "the longest first");
    assert_eq!((mounts[1].scheme, mounts[1].base_path.as_str()), (Scheme::Https, "/base"));
    assert_eq!(settings.admin.unwrap().listen.to_string(), "127.0.0.1:0");
    assert_eq!(settings.resolve, settings.tokens.resolve);
    assert_eq!(settings.resolve[0].0, "orders.example.com");
    assert_eq!(settings.tokens.lease_timeout, Duration::from_secs(5));
    assert_eq!(settings.proxy.replay_limit, 1 << 20);
    assert_eq!(settings.upstream.max_idle, 4);
    assert_eq!(settings.launch.placeholders["GH_TOKEN"], "placeholder");
    assert_eq!(settings.launch.secret_variables, ["CLIENT_SECRET"]);
    assert_eq!(settings.agents.iter().map(|agent| agent.keys.len()).collect::<Vec<_>>(), [2, 0]);
    assert_eq!(
        settings.dangers,
        [
            "authorization_servers.local.danger_allow_http",
            "audit.danger_serve_unrecorded",
            "state.danger_allow_readable_secrets",
            "routes.orders.danger_allow_private_addresses",
            "routes.local.danger_allow_plaintext"
        ]
    );

    let orders = &settings.credentials[0].steps[0];
    let ClientAuth::SecretBasic { secrets, .. } = &orders.client.auth else { panic!() };
    assert_eq!(*secrets, [Source::Env("CLIENT_SECRET".to_owned()), Source::File(directory.path().join("next"))]);
    let orders = &orders.ask;
    assert_eq!(orders.resource, ["https://orders.example.com"]);
    assert_eq!(orders.params, [("organization".to_owned(), "org_1".to_owned())]);
    let local = &settings.credentials[1].steps[0];
    let ClientAuth::SecretPost { secrets } = &local.client.auth else { panic!() };
    let [Source::Command { argv, ttl }] = &**secrets else { panic!() };
    assert_eq!((argv.len(), *ttl), (2, Duration::from_secs(60)));
}

#[test]
fn routes_come_out_compiled_and_share_upstreams() {
    let directory = tempfile::tempdir().unwrap();
    let text = full(directory.path());
    let settings = parse(&text, &directory.path().join("proxy.toml"), &environment).unwrap();
    let route = |name: &str| settings.routes.iter().find(|route| route.name.as_str() == name).unwrap().clone();
    assert_eq!(route("orders").credential.as_ref().unwrap().id, crate::route::CredentialId(0));
    assert_eq!(route("local").credential.as_ref().unwrap().id, crate::route::CredentialId(1));
    assert!(matches!(&route("orders").agents, AgentSet::Named(names) if names.len() == 1));
    assert_eq!((route("no-admin").effect, &route("no-admin").agents), (Effect::Deny, &AgentSet::Any));
    assert_eq!(settings.table.routes().len(), settings.routes.len());
    assert!(Arc::ptr_eq(&route("open").upstream, &route("no-admin").upstream));
    assert_ne!(route("open").upstream.id, route("orders").upstream.id);
    assert_ne!(route("open").upstream.id, route("local").upstream.id);
    assert_eq!(route("orders").upstream.response_timeout, Duration::from_secs(60));
    assert_eq!(route("open").upstream.response_timeout, Duration::from_secs(120));
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem() {
    let directory = tempfile::tempdir().unwrap();
    let missing = load(&directory.path().join("proxy.toml")).map(|_| ()).unwrap_err();
    assert_eq!(missing.len(), 1);
    assert!(missing.render(false).contains("can't read"), "{missing}");
    let binary = directory.path().join("binary.toml");
    std::fs::write(&binary, b"a = 1\nb = \"\xff\"\n").unwrap();
    let found = load(&binary).map(|_| ()).unwrap_err();
    let place = found.iter().next().map(|problem| (problem.line, problem.column));
    assert_eq!(place, Some((2, 6)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in the file: settings or problems, and both can be rendered.
    #[test]
    fn no_input_panics(
        small in any::<bool>(),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..30, mutation()), 1..6),
    ) {
        let mut text = if small { SMALL } else { include_str!("testdata/full.toml") }.to_owned();
        for (at, length, insert) in cuts {
            let start = floor(&text, at.index(text.len() + 1));
            let end = floor(&text, start + length);
            text.replace_range(start..end, &insert);
        }
        if let Err(problems) = parse(&text, Path::new("/nowhere/proxy.toml"), &environment) {
            prop_assert!(!problems.is_empty());
            let plain = problems.render(false);
            prop_assert!(!plain.is_empty());
            prop_assert!(!plain.chars().any(|each| each.is_control() && each != '\n'), "{plain:?}");
            prop_assert!(!problems.render(true).is_empty());
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}(\n[a-z.\\[\\]{}=\"' \u{e9}\r\n]{0,60}){0,4}") {
        let _ = read(&text).map_err(|problems| problems.render(true));
    }
}

fn mutation() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[\\[\\]{}=\"'#.,\n\r\t0-9a-zé\u{0}\u{1b}]{0,6}",
        prop::sample::select(vec![
            "\"\"\"",
            "'''",
            "[[",
            "]]",
            "= -1",
            "= 1e999",
            "1979-05-27",
            "*",
            "\u{feff}",
            "😀",
            "hosts = []\n",
            "[routes]\n"
        ])
        .prop_map(str::to_owned),
    ]
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
