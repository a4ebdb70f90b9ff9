//! A client for this room's own tests: trusts one world and nothing else.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Header,
    jwk::{CommonParameters, Jwk},
};
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, redirect::Policy};
use serde_json::{Value, json};

use crate::primitives::{Clock, SystemClock, sha256};

use super::{
    World,
    dpop::thumbprint,
    jwt::{SigningAlgorithm, SigningKey},
    random_id,
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

/// A holder of a DPoP key, who makes what proofs a test wants.
pub(super) struct Prover {
    pub(super) key: SigningKey,
}

impl Prover {
    pub(super) fn new() -> Self {
        Self { key: SigningKey::generate(SigningAlgorithm::Es256).unwrap() }
    }

    pub(super) fn thumbprint(&self) -> String {
        thumbprint(self.key.public()).unwrap()
    }

    /// As it should be, with the public key alone.
    pub(super) fn header(&self) -> Header {
        let mut header = self.key.header("dpop+jwt");
        header.kid = None;
        header.jwk = Some(Jwk { common: CommonParameters::default(), ..self.key.public().clone() });
        header
    }

    /// What a proof says when it is as it should be.
    pub(super) fn claims(method: &str, uri: &str, token: Option<&str>) -> Value {
        let now = SystemClock.unix_seconds();
        let mut claims = json!({ "htm": method, "htu": uri, "iat": now, "jti": random_id().unwrap() });
        if let Some(token) = token {
            claims["ath"] = URL_SAFE_NO_PAD.encode(sha256(token.as_bytes())).into();
        }
        claims
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        self.key.sign(&self.header(), claims).unwrap().expose().to_owned()
    }

    pub(super) fn proof(&self, method: &str, uri: &str, token: Option<&str>) -> String {
        self.sign(&Self::claims(method, uri, token))
    }
}
