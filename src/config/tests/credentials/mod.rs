//! Credentials of every kind: what the file says is what the engine gets, and what makes no
//! sense has its line and what to write instead.

mod client_auth;
mod grants;
mod mistakes;
mod presets;
mod references;
mod routes;

use super::*;
use crate::credential::{
    Spec, Step,
    step::{Assertion, Input},
};

const SERVERS: &str = r#"[authorization_servers.corp]
issuer = "https://corp.example.com/"

[authorization_servers.plain]
token_endpoint = "https://plain.example.com/token"

[agents.anonymous]

"#;

const SECRET: &str = "client_auth = { method = \"client_secret_post\", secret = { env = \"CLIENT_SECRET\" } }";
const CLIENT: &str = "authorization_server = \"corp\"\nclient_id = \"id\"";

/// A file with these tables after the servers.
fn file(tables: &str) -> String {
    format!("{SERVERS}{tables}")
}

/// A credential `c` with these keys.
fn table(keys: &str) -> String {
    format!("[credentials.c]\nhosts = [\"api.example.com\"]\n{keys}\n")
}

/// What the engine gets of such a credential; `corp.pem` and `corp.key` are there.
fn spec(keys: &str) -> Spec {
    let directory = tempfile::tempdir().unwrap();
    let key = pem_file(directory.path()).with_file_name("corp.key");
    std::fs::write(&key, "").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = file(&table(keys));
    let settings = parse(&text, &directory.path().join("proxy.toml"), &environment);
    let mut settings = settings.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(settings.credentials.len(), 1);
    settings.credentials.remove(0)
}

fn step(keys: &str) -> Step {
    spec(keys).steps.remove(0)
}

/// The problems of a file with these tables, their lines counted from the first table's.
fn wrong_file(tables: &str) -> Vec<(usize, String, String)> {
    let before = SERVERS.lines().count();
    let found = problems(&file(tables)).into_iter();
    found.map(|(line, message, help)| (line - before, message, help)).collect()
}

/// The one problem of a credential with these keys, its line counted from the first of them.
fn wrong(keys: &str) -> (usize, String, String) {
    let mut found = wrong_file(&table(keys));
    assert_eq!(found.len(), 1, "{keys}\n{found:?}");
    let (line, message, help) = found.remove(0);
    (line.saturating_sub(2), message, help)
}

/// Each entry: the keys, and the line, the message and the help of its one problem.
fn all_wrong(cases: &[(&str, usize, &str, &str)]) {
    for (keys, line, message, help) in cases {
        let found = wrong(keys);
        assert_eq!((found.0, found.1.as_str(), found.2.as_str()), (*line, *message, *help), "{keys}");
    }
}

fn env(name: &str) -> Source {
    Source::Env(name.to_owned())
}

fn claims_of(input: &Input) -> &Assertion {
    let Input::Jwt(made) = input else { panic!("{input:?}") };
    made
}

#[test]
fn every_variable_with_a_secret_is_known() {
    let steps = "[credentials.c]\nhosts = [\"api.example.com\"]\n[[credentials.c.steps]]\ngrant = \"jwt_bearer\"\nauthorization_server = \"corp\"\nassertion = { jwt = { key = { env = \"A\" }, next_key = { env = \"B\" } } }
[[credentials.c.steps]]\ngrant = \"http\"\nurl = \"https://a.example.com\"\nauthorization = { previous = true }\n[credentials.d]\nhosts = [\"api.example.com\"]\ngrant = \"basic\"\nusername = \"u\"\npassword = { env = \"C\" }\n[state]\nkey = { env = \"D\" }\n";
    assert_eq!(good(&file(steps)).launch.secret_variables, ["A", "B", "C", "D"]);
}

#[test]
fn the_store_is_chosen() {
    let with = |keys: &str| format!("[state]\n{keys}\n{SMALL}");
    let plain = good(&with("")).store;
    assert_eq!((plain.kind, plain.key), (StoreKind::Embedded, None));
    let memory = good(&with("store = \"memory\"")).store;
    assert_eq!(memory.kind, StoreKind::Memory);
    assert_eq!(good(&with("key = { env = \"K\" }")).store.key, Some(env("K")));
    let found = problems(&with("store = \"memory\"\nkey = { env = \"K\" }"));
    assert_eq!((found[0].0, found[0].1.as_str()), (3, "a store in memory has no use for a `key`"));
    let found = problems(&with("key = \"hunter2\""));
    assert_eq!(found[0].1, "`key` holds a secret itself; only where it is may stand here");
}

/// Secrets in new places are hidden as those in old ones.
#[test]
fn a_token_in_the_file_is_never_shown() {
    for keys in [
        "grant = \"static\"\ntoken = \"hunter2\"",
        "grant = \"basic\"\nusername = \"u\"\npassword = \"hunter2\"",
        "grant = \"token_exchange\"\nauthorization_server = \"corp\"\nsubject = \"hunter2\"",
        "grant = \"saml2_bearer\"\nauthorization_server = \"corp\"\nassertion = \"hunter2\"",
        "grant = \"github_app\"\napp_id = 1\ninstallation_id = 1\nkey = \"hunter2\"",
        "grant = \"http\"\nurl = \"https://a.example.com\"\nheaders = { X-Auth-Token = \"hunter2\" }",
        "grant = \"http\"\nurl = \"https://a.example.com\"\njson = { password = \"hunter2\" }",
        "grant = \"http\"\nurl = \"https://a.example.com\"\nauthorization = \"hunter2\"",
    ] {
        let found = read(&file(&table(keys))).map(|_| ()).unwrap_err();
        for rendered in [found.render(false), format!("{found:?}")] {
            assert!(!rendered.contains("hunter2"), "{rendered}");
        }
    }
}

/// E9.
#[test]
fn secrets_come_from_metadata_servers() {
    let read = |keys: &str| step(&format!("grant = \"static\"\ntoken = {{ {keys} }}")).sources()[0].clone();
    let full = read(
        "http = \"http://169.254.169.254/x?a=b\", headers = { Metadata = \"true\" }, pointer = \"/access_token\", ttl = \"1m\"",
    );
    let Source::Web(web) = full else { panic!() };
    assert_eq!((web.url.as_str(), web.pointer.as_deref()), ("http://169.254.169.254/x?a=b", Some("/access_token")));
    assert_eq!((web.headers[0].0.as_str(), web.ttl), ("metadata", Duration::from_secs(60)));
    let Source::Web(web) = read("http = \"https://a.example.com/x\"") else { panic!() };
    assert_eq!((web.pointer.as_deref(), web.ttl), (None, Duration::from_secs(300)));

    let says = |keys: &str| wrong(&format!("grant = \"static\"\ntoken = {{ {keys} }}")).1;
    assert_eq!(says("http = \"http://a.example.com/x\""), "`a.example.com:80` is no metadata server's address");
    assert_eq!(says("http = \"https://a.example.com/x\", pointer = \"a\""), "`a` is no JSON pointer");
    assert_eq!(says("env = \"CLIENT_SECRET\", pointer = \"/a\""), "`pointer` goes with `http` only");
    assert_eq!(says("file = \"f\", ttl = \"1m\""), "`ttl` goes with `command`, `keyring` and `http` only");
    assert_eq!(says("file = \"f\", http = \"https://a.example.com/x\""), "`token` names more than one place");
}
