//! What an upstream is shown of us: each route its own certificate, none on another's
//! connection, and a new one after a reload.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use cupbearer::{
    config,
    demo::{Protocols, WorldSettings},
    primitives::sha256,
};
use http::StatusCode;

use crate::support::{API, Facts, Stage};

/// Writes `NAME.pem` and `NAME.key`, and returns the certificate's thumbprint.
fn make(directory: &Path, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    fs::write(directory.join(format!("{name}.pem")), made.cert.pem()).unwrap();
    let key = directory.join(format!("{name}.key"));
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    BASE64_URL_SAFE_NO_PAD.encode(sha256(made.cert.der()))
}

/// Three routes to one host: two with a certificate each, one without.
fn config(facts: &Facts, files: &Path) -> String {
    let files = files.display();
    let shows = |name: &str| {
        format!("upstream_certificate = {{ certificate = \"{files}/{name}.pem\", key = \"{files}/{name}.key\" }}\n")
    };
    let route = |name: &str, path: &str, more: &str| {
        let Facts { api_port, .. } = facts;
        format!(
            "\n[[routes]]\nname = \"{name}\"\nhosts = [\"{API}:{api_port}\"]\npaths = [\"{path}\"]\n\
             agents = [\"researcher\"]\nupstream_ca = \"peers-ca.pem\"\n{more}\
             danger_allow_private_addresses = [\"127.0.0.0/8\"]\n"
        )
    };
    facts.config()
        + &route("one", "/v1/one", &shows("one"))
        + &route("two", "/v1/two", &shows("two"))
        + &route("none", "/v1/none", "")
}

/// Threats 53 and 54, of identities.
#[tokio::test]
async fn each_route_shows_its_own_certificate_and_no_other() {
    for api_protocols in [Protocols::Http2, Protocols::Http1] {
        let files = tempfile::tempdir().unwrap();
        let (one, two) = (make(files.path(), "one"), make(files.path(), "two"));
        let world = WorldSettings { ask_client_certificates: true, api_protocols, ..WorldSettings::default() };
        let stage = Stage::with(world, |facts| config(facts, files.path())).await;
        let agent = stage.agent();
        let shown = async |path: &str| {
            let response = agent.get(stage.url(path)).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "the API's own answer to who has no token");
            stage.world.api().seen().last().unwrap().certificate.clone()
        };
        for _ in 0..3 {
            assert_eq!(shown("/v1/one").await.as_ref(), Some(&one));
            assert_eq!(shown("/v1/two").await.as_ref(), Some(&two));
            assert_eq!(shown("/v1/none").await, None);
        }
        let renewed = make(files.path(), "one");
        assert_eq!(shown("/v1/one").await.as_ref(), Some(&one), "until it is told");
        stage.reload(&config(&stage.facts, files.path()));
        assert_eq!(shown("/v1/one").await.as_ref(), Some(&renewed));
        assert_eq!(shown("/v1/two").await.as_ref(), Some(&two));
        assert_eq!(shown("/v1/none").await, None);
    }
}

/// Threat 20: a key that others can read is no key, and a reload with it changes nothing.
#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    let files = tempfile::tempdir().unwrap();
    make(files.path(), "one");
    make(files.path(), "two");
    let stage = Stage::with(WorldSettings::default(), |facts| config(facts, files.path())).await;
    fs::set_permissions(files.path().join("two.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let problems = config::load(&stage.config_path()).unwrap_err().render(false);
    assert!(problems.contains("two.key can be read by other users (mode 0644): run `chmod 600"), "{problems}");
}
