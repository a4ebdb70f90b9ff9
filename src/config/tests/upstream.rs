//! `[upstream]`: where the parent is, and never its password.

use super::*;
use crate::route::parent::{ParentProtocol, Past};

fn with(lines: &str) -> String {
    format!("{SMALL}\n[upstream]\n{lines}\n")
}

#[test]
fn a_parent_is_named_by_its_url() {
    let parent = |lines: &str| good(&with(lines)).tokens.parent.unwrap();
    let plain = parent("proxy = \"http://Parent.example.com:3128/\"");
    assert_eq!(plain.parent.authority.as_str(), "parent.example.com:3128");
    assert!(plain.parent.protocol == ParentProtocol::Http && plain.login.is_none());
    for scheme in ["socks5", "socks5h"] {
        let found = parent(&format!("proxy = \"{scheme}://gate@10.0.0.1:1080\""));
        assert_eq!(found.parent.protocol, ParentProtocol::Socks5);
        assert_eq!(found.login.unwrap().user, "gate");
    }
    let credentials = "proxy_credentials = { username = \"gate\", password = { env = \"CLIENT_SECRET\" } }";
    for proxy in ["http://p.test:1", "http://gate@p.test:1"] {
        let settings =
            good(&with(&format!("proxy = \"{proxy}\"\n{credentials}\nno_proxy = [\"*.internal\", \"10.1.0.0/8\"]")));
        assert_eq!(settings.launch.secret_variables, ["CLIENT_SECRET"]);
        let found = settings.tokens.parent.unwrap();
        let login = found.login.unwrap();
        assert_eq!((login.user.as_str(), login.source()), ("gate", Some(&Source::Env("CLIENT_SECRET".to_owned()))));
        assert_eq!(found.parent.past[1], Past::Network("10.0.0.0/8".parse().unwrap()));
    }
}

#[test]
fn mistakes_say_what_to_write_and_show_no_password() {
    let cases = [
        ("no_proxy = [\"a.test\"]", "has no `proxy`"),
        ("proxy = \"p.test:3128\"", "it starts with neither http:// nor socks5://"),
        ("proxy = \"https://p.test:3128\"", "it starts with neither http:// nor socks5://"),
        ("proxy = \"http://p.test\"", "the authority has no port"),
        ("proxy = \"http://p.test:3128/x\"", "it has a path"),
        ("proxy = \"http://gate:hunter2@p.test:3128\"", "it holds a password"),
        ("proxy = \"http://gate%3Ahunter2@p.test:3128\"", "its user can't be read"),
        (
            "proxy = \"http://p.test:1\"\nproxy_credentials = { username = \"g\", password = \"hunter2\" }",
            "holds a secret itself",
        ),
        (
            "proxy = \"http://p.test:1\"\nproxy_credentials = { password = { env = \"CLIENT_SECRET\" } }",
            "has no `username`",
        ),
        (
            "proxy = \"http://a@p.test:1\"\nproxy_credentials = { username = \"b\", password = { env = \"CLIENT_SECRET\" } }",
            "names another user",
        ),
        (
            "proxy = \"http://p.test:1\"\nproxy_credentials = { username = \"a:b\", password = { env = \"CLIENT_SECRET\" } }",
            "no user name",
        ),
        ("proxy = \"http://p.test:1\"\nno_proxy = [\"http://a\"]", "neither a host nor a network"),
        ("proxy = \"http://p.test:1\"\nno_proxy = [\"10.0.0.0/33\"]", "neither a host nor a network"),
    ];
    for (lines, message) in cases {
        let text = with(lines);
        let found = problems(&text);
        assert!(found.len() == 1 && found[0].1.contains(message), "{lines}\n{found:?}");
        let shown = read(&text).map(|_| ()).unwrap_err().render(false);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_route_that_goes_past_no_parent_is_a_warning() {
    let direct = SMALL.replacen("agents =", "direct = true\nagents =", 1);
    assert!(warnings(&direct).contains("`direct` does nothing"));
    assert_eq!(warnings(&format!("{direct}\n[upstream]\nproxy = \"http://p.test:1\"\n")), "");
}

#[test]
fn a_client_certificate_is_read_with_the_file() {
    let directory = tempfile::tempdir().unwrap();
    client_files(directory.path());
    let file = directory.path().join("proxy.toml");
    let route = |more: &str| {
        let line = "upstream_certificate = { certificate = \"client.pem\", key = \"client.key\" }";
        SMALL.replacen("agents =", &format!("{line}\n{more}agents ="), 1)
    };
    let read = |text: &str| parse(text, &file, &environment);
    let settings = read(&route("")).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(settings.routes[0].upstream.tls.client_auth_cert_resolver.has_certs());

    let message = |text: &str| read(text).map(|_| ()).unwrap_err().iter().next().unwrap().message.clone();
    let bound = "client_auth = { method = \"tls_client_auth\", certificate = \"client.pem\", key = \"client.key\" }";
    let secret = "client_auth = { method = \"client_secret_post\", secret = { env = \"CLIENT_SECRET\" } }";
    assert!(message(&route("").replace(secret, bound)).contains("hold with its own certificate only"));
    let key = directory.path().join("client.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(message(&route("")).contains("can be read by other users (mode 0640)"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(directory.path().join("client.pem"), "no certificate").unwrap();
    assert!(message(&route("")).contains("holds no certificate"));
    std::fs::remove_file(&key).unwrap();
    assert!(message(&route("")).contains("can't read"));
}
