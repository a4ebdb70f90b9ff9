//! What a test holds in its hand: it looks into a running server and turns its knobs.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::jwk::Jwk;
use serde_json::Value;

use crate::{
    demo::{
        Error, NoncePolicy, Repeated,
        journal::lock,
        jwt::{Claims, Confirmation},
        random_secret,
    },
    primitives::Secret,
};

use super::{
    CertificateRule, Client, Endpoint, Fault, Knobs, Poll, RevokedFamily, Rotation, Shared, TokenRequest,
    authorize::AUTHORIZE_PATH, consent::Consent, metadata, record::Outcome,
};

/// Looks into a running server and turns its knobs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuthorizationServerHandle(Arc<Shared>);

impl AuthorizationServerHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    pub fn token_endpoint(&self) -> &str {
        &self.0.endpoints.token
    }

    pub fn url(&self, endpoint: Endpoint) -> String {
        self.0.endpoints.url(endpoint)
    }

    pub fn jwks_uri(&self) -> &str {
        &self.0.endpoints.jwks
    }

    pub fn authorization_endpoint(&self) -> String {
        self.0.endpoints.at(AUTHORIZE_PATH)
    }

    /// The RFC 8414 document as it is served.
    pub fn metadata(&self) -> Value {
        metadata::document(&self.0)
    }

    /// An access token with any claims, signed with the server's key, for tests of
    /// resource servers.
    pub fn sign(&self, claims: &Claims) -> Result<Secret, Error> {
        self.0.sign(claims)
    }
}

/// What the server saw.
impl AuthorizationServerHandle {
    /// The token requests so far (the last 10,000), oldest first, refused ones too.
    pub fn token_requests(&self) -> Vec<TokenRequest> {
        self.requests(Endpoint::Token)
    }

    /// The same for any endpoint that takes a form.
    pub fn requests(&self, endpoint: Endpoint) -> Vec<TokenRequest> {
        self.0.desk(endpoint).requests.map(Clone::clone)
    }

    /// How many token requests have arrived since the start.
    pub fn token_request_count(&self) -> usize {
        self.0.desk(Endpoint::Token).requests.total()
    }

    /// Returns as soon as that many requests to `endpoint` have arrived, answered or not.
    pub async fn wait_for_requests(&self, endpoint: Endpoint, count: usize) {
        self.0.desk(endpoint).requests.wait_for(count).await;
    }

    /// Returns as soon as that many token requests have arrived, answered or not.
    pub async fn wait_for_token_requests(&self, count: usize) {
        self.0.desk(Endpoint::Token).requests.wait_for(count).await;
    }

    /// Returns as soon as `count` requests to `endpoint` have had their whole effect, whether or
    /// not they have been answered: what [`Fault::HoldAnswer`] holds counts.
    pub async fn wait_for_outcomes(&self, endpoint: Endpoint, count: usize) {
        let done = |request: &TokenRequest| request.outcome != Outcome::Pending;
        self.0.desk(endpoint).requests.wait_until(count, done).await;
    }

    /// The `jti` of the access tokens given out so far (the last 10,000), oldest first.
    pub fn issued(&self) -> Vec<String> {
        self.0.issued.map(Clone::clone)
    }

    /// The parameters of the authorization requests so far, oldest first, refused ones too.
    pub fn authorization_requests(&self) -> Vec<Vec<(String, String)>> {
        self.0.authorization_requests.map(Clone::clone)
    }

    /// The assertions of clients that came twice. A client that signs a new one for each attempt
    /// leaves this empty.
    pub fn repeated_assertions(&self) -> Vec<Repeated> {
        self.0.assertions.repeated()
    }

    /// The DPoP proofs that came twice. A client that makes a new one for each attempt leaves
    /// this empty.
    pub fn repeated_proofs(&self) -> Vec<Repeated> {
        self.0.dpop.repeated()
    }

    /// The `jti` of the access tokens that their clients revoked. The API doesn't hear of it.
    pub fn revoked(&self) -> Vec<String> {
        lock(&self.0.revoked).iter().cloned().collect()
    }

    /// The logins whose refresh tokens were all withdrawn, oldest login first.
    pub fn revoked_families(&self) -> Vec<RevokedFamily> {
        lock(&self.0.refresh_tokens).revoked()
    }
}

/// Who may ask.
impl AuthorizationServerHandle {
    /// Adds a client, or replaces the one of that id.
    pub fn register(&self, client: Client) {
        lock(&self.0.clients).insert(client.id.clone(), client);
    }

    /// Changes a client; requests that come later see it changed.
    pub fn change_client(&self, client_id: &str, change: impl FnOnce(&mut Client)) -> Result<(), Error> {
        lock(&self.0.clients).get_mut(client_id).map(change).ok_or(Error::UnknownClient)
    }

    /// Takes what another issuer signs as evidence: in a token exchange, and as a grant.
    pub fn trust(&self, issuer: &str, keys: Vec<Jwk>) {
        lock(&self.0.trusted).insert(issuer.to_owned(), keys);
    }

    /// Gives a client a new secret; the old ones are refused at once.
    pub fn rotate_secret(&self, client_id: &str, new: Secret) -> Result<(), Error> {
        self.set_client_secrets(client_id, vec![new])
    }

    /// The same with a secret made up here.
    pub fn rotate_client_secret(&self, client_id: &str) -> Result<Secret, Error> {
        let secret = random_secret()?;
        self.rotate_secret(client_id, secret.clone())?;
        Ok(secret)
    }

    /// Several secrets overlap, as they do during a rotation.
    pub fn set_client_secrets(&self, client_id: &str, secrets: Vec<Secret>) -> Result<(), Error> {
        self.change_client(client_id, |client| client.secrets = secrets)
    }

    /// Gives a client a new key; the old ones are refused at once.
    pub fn rotate_key(&self, client_id: &str, new: Jwk) -> Result<(), Error> {
        self.set_client_keys(client_id, vec![new])
    }

    /// Gives a client a new certificate; the old ones are refused at once.
    pub fn rotate_certificate(&self, client_id: &str, new: CertificateRule) -> Result<(), Error> {
        self.change_client(client_id, |client| client.certificates = vec![new])
    }

    /// Several keys overlap likewise.
    pub fn set_client_keys(&self, client_id: &str, keys: Vec<Jwk>) -> Result<(), Error> {
        self.change_client(client_id, |client| client.keys = keys)
    }
}

/// Refresh tokens and their life.
impl AuthorizationServerHandle {
    /// For tokens to come; whole seconds, rounded up.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.adjust(|knobs| knobs.token_lifetime = lifetime);
    }

    pub fn set_rotation(&self, rotation: Rotation) {
        lock(&self.0.refresh_tokens).set_rotation(rotation);
    }

    /// A refresh token of a new family, as a login would have given one: for `scope`
    /// (separated by spaces) at the client's default audience, or else its first.
    pub fn issue_refresh_token(&self, client_id: &str, scope: &str) -> Result<Secret, Error> {
        let audience = {
            let clients = lock(&self.0.clients);
            let client = clients.get(client_id).ok_or(Error::UnknownClient)?;
            client.default_audience.clone().or_else(|| client.audiences.first().cloned())
        };
        let consent = Consent {
            client_id: client_id.to_owned(),
            subject: client_id.to_owned(),
            scopes: scope.split_ascii_whitespace().map(str::to_owned).collect(),
            audiences: audience.into_iter().collect(),
            login: None,
            actor: None,
            holder: Confirmation::default(),
        };
        lock(&self.0.refresh_tokens).issue(consent)
    }

    /// Withdraws all refresh tokens of a client, used and unused.
    pub fn revoke_refresh_tokens(&self, client_id: &str) {
        lock(&self.0.refresh_tokens).revoke_client(client_id);
    }
}

/// What it does otherwise, and what it does wrong.
impl AuthorizationServerHandle {
    /// What becomes of every login that began at `endpoint` and is still polled for.
    pub fn decide(&self, endpoint: Endpoint, polls: &[Poll]) {
        if let Some(waiting) = self.0.waiting(endpoint) {
            lock(waiting).decide(polls);
        }
    }

    pub fn adjust(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut lock(&self.0.knobs));
    }

    /// The DPoP nonces given out so far are no good any more.
    pub fn set_dpop_nonces(&self, policy: NoncePolicy) {
        self.0.dpop.set_policy(policy);
    }

    /// What the token endpoint does wrong until this is called again.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.set_fault_at(Endpoint::Token, fault);
    }

    /// The same for any endpoint that takes a form.
    pub fn set_fault_at(&self, endpoint: Endpoint, fault: Option<Fault>) {
        self.0.desk(endpoint).faults.set(fault, None);
    }

    /// What the token endpoint does wrong for the next `requests`; then it is well again.
    pub fn set_fault_for(&self, requests: usize, fault: Fault) {
        self.0.desk(Endpoint::Token).faults.set(Some(fault), Some(requests));
    }

    /// The same for the metadata documents, never for the JWKS.
    pub fn set_discovery_fault(&self, fault: Option<Fault>) {
        self.0.discovery_fault.set(fault, None);
    }
}
