//! The server over real sockets and TLS, rule by rule.

mod authorization_code;
mod certificates;
mod ciba;
mod client_auth;
mod device_code;
mod dpop;
mod faults;
mod jwt_bearer;
mod metadata;
mod refresh;
mod revocation;
mod saml2_bearer;
mod token;
mod token_exchange;

use std::time::Duration;

use http::header;
use reqwest::{Client as HttpClient, Response};
use serde_json::{Map, Value, json};

use crate::{
    demo::{
        World, WorldSettings,
        jwt::{Claims, SigningAlgorithm},
        testing::{client, token_post},
        world::{AUDIENCE, CLIENT_ID},
    },
    primitives::Secret,
};

use super::*;

const ODD_SECRET: &str = "p%+ ä:&=";
const GRANT: (&str, &str) = ("grant_type", "client_credentials");
const AUD: (&str, &str) = ("audience", AUDIENCE);

async fn world() -> (World, HttpClient) {
    let odd = Client {
        id: "odd client".to_owned(),
        secrets: vec![Secret::new(ODD_SECRET.to_owned())],
        auth_methods: vec![AuthMethod::ClientSecretBasic],
        grants: vec![GrantType::ClientCredentials],
        scopes: vec!["a".to_owned(), "b".to_owned()],
        audiences: vec!["https://one.test".to_owned(), "https://two.test".to_owned()],
        default_audience: Some("https://one.test".to_owned()),
        ..Client::default()
    };
    let world = World::start(WorldSettings { clients: vec![odd], ..WorldSettings::default() }).await.unwrap();
    let client = client(&world);
    (world, client)
}

/// Sends `params` with the demo client's id and secret in the body.
async fn post(world: &World, client: &HttpClient, params: &[(&str, &str)]) -> Response {
    let secret = world.client_secret().expose();
    let all = [params, &[("client_id", CLIENT_ID), ("client_secret", secret)]].concat();
    token_post(world, client, &all).send().await.unwrap()
}

async fn error_of(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    let body: Value = answer.json().await.unwrap();
    (status, body["error"].as_str().unwrap().to_owned())
}

fn claims_of(answer: &Value) -> Claims {
    jsonwebtoken::dangerous::insecure_decode(answer["access_token"].as_str().unwrap()).unwrap().claims
}
