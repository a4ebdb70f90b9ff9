//! A client for this room's own tests: trusts one world and nothing else.

use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, redirect::Policy};
use serde_json::Value;

use super::{
    World,
    world::{AUDIENCE, CLIENT_ID},
};

pub(super) fn builder(world: &World) -> ClientBuilder {
    let root = Certificate::from_pem(world.ca_pem().as_bytes()).unwrap();
    Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only([root])
}

pub(super) fn client(world: &World) -> Client {
    builder(world).build().unwrap()
}

/// A POST to the token endpoint, without client authentication.
pub(super) fn token_post(world: &World, client: &Client, params: &[(&str, &str)]) -> RequestBuilder {
    client.post(world.authorization_server().token_endpoint()).form(params)
}

/// A token for the demo's client, with its full scope unless `scope` is given.
pub(super) async fn fetch_token(world: &World, client: &Client, scope: Option<&str>) -> String {
    let secret = world.client_secret().expose();
    let mut params = vec![
        ("grant_type", "client_credentials"),
        ("audience", AUDIENCE),
        ("client_id", CLIENT_ID),
        ("client_secret", secret),
    ];
    params.extend(scope.map(|scope| ("scope", scope)));
    let answer = token_post(world, client, &params).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}
