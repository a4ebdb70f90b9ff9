//! Places of secrets.

use std::time::Duration;

use super::{SMALL, changed, good, problems};
use crate::credential::{Source, client_auth::ClientAuth};

#[test]
fn the_keyring_is_a_place_for_a_secret() {
    let written = |source: &str| SMALL.replace("{ env = \"CLIENT_SECRET\" }", source);
    let read = |source: &str| {
        let settings = good(&written(source));
        let auth = settings.credentials[0].steps[0].client.auth.clone();
        let ClientAuth::SecretPost { secrets } = auth else { panic!() };
        secrets[0].clone()
    };
    let keyring = |service: &str, user: &str, ttl| Source::Keyring {
        service: service.to_owned(),
        user: user.to_owned(),
        ttl: Duration::from_secs(ttl),
    };
    assert_eq!(read("{ keyring = \"cupbearer/orders\" }"), keyring("cupbearer", "orders", 300));
    // A service may be a URL; a user is what stands behind the last slash.
    let url = "{ keyring = \"https://as.example/x/me@example\", ttl = \"1m\" }";
    assert_eq!(read(url), keyring("https://as.example/x", "me@example", 60));
    for bad in ["hunter2", "/orders", "cupbearer/", "-s/orders", "cupbearer/-w", "a\\nb/c"] {
        let found = problems(&written(&format!("{{ keyring = \"{bad}\" }}")));
        assert_eq!(found.len(), 1, "{bad}: {found:?}");
        assert_eq!(found[0].1, "`keyring` wants a service and a user with `/` between them");
    }
    let (message, _) = changed("{ env = \"CLIENT_SECRET\" }", "{ keyring = \"a/b\", env = \"CLIENT_SECRET\" }");
    assert!(message.ends_with("names more than one place"), "{message}");
    let (message, _) = changed("{ env = \"CLIENT_SECRET\" }", "{ env = \"CLIENT_SECRET\", ttl = \"1m\" }");
    assert_eq!(message, "`ttl` goes with `command`, `keyring` and `http` only");
}
