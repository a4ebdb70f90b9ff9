//! Discovery (RFC 8414, OpenID Connect Discovery 1.0).

use super::*;

#[tokio::test]
async fn metadata_is_at_every_well_known_place() {
    let settings = WorldSettings { issuer_path: "/tenant".to_owned(), ..WorldSettings::default() };
    let world = World::start(settings).await.unwrap();
    let client = client(&world);
    let origin = world.issuer().strip_suffix("/tenant").unwrap();
    let paths = [
        "/.well-known/oauth-authorization-server/tenant",
        "/.well-known/openid-configuration/tenant",
        "/tenant/.well-known/openid-configuration",
    ];
    for path in paths {
        let document: Value = client.get(format!("{origin}{path}")).send().await.unwrap().json().await.unwrap();
        assert_eq!(document["issuer"], world.issuer(), "{path}");
        assert_eq!(document["token_endpoint"], format!("{origin}/oauth/token"), "{path}");
        assert_eq!(document["jwks_uri"], world.authorization_server().jwks_uri(), "{path}");
    }
    let stray = client.get(format!("{origin}/.well-known/oauth-authorization-server")).send().await.unwrap();
    assert_eq!(stray.status(), 404);

    let mix_up = Map::from_iter([("issuer".to_owned(), json!("https://evil.test"))]);
    world.authorization_server().set_discovery_fault(Some(Fault::Override(mix_up)));
    let url = format!("{origin}{}", paths[0]);
    let document: Value = client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(document["issuer"], "https://evil.test");
}

#[tokio::test]
async fn an_issuer_must_be_an_https_url() {
    for issuer_path in ["/a?b=c", "/ "] {
        let settings = WorldSettings { issuer_path: issuer_path.to_owned(), ..WorldSettings::default() };
        assert!(matches!(World::start(settings).await, Err(Error::Issuer)), "{issuer_path}");
    }
}
