//! What makes two tokens the same: a digest over every field that identifies one (A15),
//! each with its length, so that no two lists of fields run together.

use crate::primitives::{Secret, digest::hex, sha256};

use super::{
    AuthorizationServer, Location, Source, Spec,
    client_auth::{ClientAuth, IdentityFiles},
    grant::{Ciba, Grant, HttpSource, Login, LoginKind, TokenExchange, ciba::Hint},
    source::Web,
    step::{Ask, Assertion, AudMode, Input, KeySource, Step},
};

/// Two credentials with equal keys would get the same token: issuer or token endpoint,
/// client, grant, sorted scopes, audience, resources, and every other parameter.
pub(crate) fn key(spec: &Spec) -> [u8; 32] {
    let mut fields = Fields::default();
    fields.list("steps", spec.steps.iter().map(|_| "step"));
    for step in &spec.steps {
        fields.step(step);
    }
    if let Some(scopes) = &spec.scopes {
        fields.sorted("route scopes", scopes.iter().map(String::as_str));
    }
    fields.finish()
}

/// Of a token that is kept, with the scopes that it has besides. Two credentials never share
/// one, whatever they have in common (threat 101): each is locked to its own hosts.
pub(crate) fn token(spec: &Spec, more_scopes: &[String]) -> [u8; 32] {
    let mut fields = Fields::default();
    fields.bytes(&key(spec));
    fields.text("name", spec.name.as_str());
    fields.sorted("more scopes", more_scopes.iter().map(String::as_str));
    fields.finish()
}

/// What a subject is known by.
pub(crate) fn subject(subject: &Secret) -> [u8; 32] {
    sha256(subject.expose().as_bytes())
}

/// Whose a refresh token is: the server and the client (B6).
pub(crate) fn owner(step: &Step) -> String {
    let mut fields = Fields::default();
    if let Some(server) = &step.server {
        fields.server(server);
    }
    fields.text("client", &step.client.id);
    hex(&fields.finish())
}

/// The key, and all that decides how the token is got, kept and sent. A reload that leaves
/// it equal keeps the token.
pub(crate) fn settings(spec: &Spec) -> [u8; 32] {
    let mut fields = Fields::default();
    fields.bytes(&key(spec));
    fields.text("name", spec.name.as_str());
    fields.text("default_ttl", &spec.default_ttl.as_nanos().to_string());
    fields.text("strict_scopes", if spec.strict_scopes { "1" } else { "0" });
    fields.text("revoke", if spec.revoke_after_run { "1" } else { "0" });
    fields.sorted("max scopes", spec.max_scopes.iter().map(String::as_str));
    fields.text("field", spec.injection.field.as_str());
    fields.text("template", &spec.injection.template.to_string());
    for step in &spec.steps {
        fields.auth(&step.client.auth);
        fields.text("body", &format!("{:?}", step.ask.body));
        fields.text("answer", &format!("{:?}", step.answer));
        if let Some(server) = &step.server {
            fields.list("endpoints", server.endpoints.iter().flat_map(|(kind, url)| [kind.as_str(), url.as_str()]));
        }
    }
    fields.finish()
}

/// Every field is written as name and values, each with its length before it.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn finish(self) -> [u8; 32] {
        sha256(&self.0)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.list(name, [value]);
    }

    fn list<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) {
        self.bytes(name.as_bytes());
        let values: Vec<&str> = values.into_iter().collect();
        self.0.extend_from_slice(&(values.len() as u64).to_be_bytes());
        values.iter().for_each(|value| self.bytes(value.as_bytes()));
    }

    fn sorted<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) {
        let mut values: Vec<&str> = values.into_iter().collect();
        values.sort_unstable();
        values.dedup();
        self.list(name, values);
    }

    fn server(&mut self, server: &AuthorizationServer) {
        match &server.location {
            Location::Issuer(issuer) => self.text("issuer", issuer),
            Location::TokenEndpoint(url) => self.text("token_endpoint", url),
        }
    }

    fn step(&mut self, step: &Step) {
        if let Some(server) = &step.server {
            self.server(server);
        }
        self.text("grant", step.name());
        self.text("client", &step.client.id);
        self.text("dpop", &format!("{:?}", step.dpop));
        if let ClientAuth::Tls { identities, bound: true, .. } = &step.client.auth {
            identities.iter().for_each(|files| self.identity(files));
        }
        self.ask(&step.ask);
        match &step.grant {
            Grant::ClientCredentials => {}
            Grant::Login(login) => self.login(login),
            Grant::TokenExchange(exchange) => self.exchange(exchange),
            Grant::JwtBearer(grant) => {
                self.text("grant_type", &grant.grant_type);
                self.input(&grant.assertion);
            }
            Grant::Saml2Bearer(grant) => self.source(&grant.assertion),
            Grant::Ciba(ciba) => self.ciba(ciba),
            Grant::Http(source) => self.http(source),
            Grant::SelfSignedJwt(assertion) => self.assertion(assertion),
            Grant::Static { token, .. } => self.source(token),
        }
    }

    fn ask(&mut self, ask: &Ask) {
        let Ask { audience, scopes, resource, params, headers, body: _, method } = ask;
        self.sorted("audience", audience.iter().map(String::as_str));
        self.sorted("scopes", scopes.iter().map(String::as_str));
        self.sorted("resource", resource.iter().map(String::as_str));
        let mut params: Vec<&(String, String)> = params.iter().collect();
        params.sort_unstable();
        self.list("params", params.into_iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
        for (name, value) in headers {
            self.text("header", name.as_str());
            self.bytes(value.as_bytes());
        }
        self.text("method", method.as_str());
    }

    fn login(&mut self, login: &Login) {
        let Login { kind, seed, of } = login;
        self.list("seed", seed.iter().map(|_| "seed"));
        seed.iter().for_each(|seed| self.source(seed));
        self.list("of", of.iter().map(crate::primitives::CredentialName::as_str));
        match kind {
            LoginKind::RefreshToken | LoginKind::DeviceCode => {}
            LoginKind::AuthorizationCode { redirect, params } => {
                self.text("redirect", &format!("{redirect:?}"));
                self.list("authorize", params.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
            }
        }
    }

    fn exchange(&mut self, exchange: &TokenExchange) {
        self.text("grant_type", &exchange.grant_type);
        for subject in std::iter::once(&exchange.subject).chain(&exchange.actor) {
            self.text("token_type", &subject.token_type);
            self.input(&subject.input);
        }
        self.list("requested", exchange.requested_token_type.as_deref());
    }

    fn ciba(&mut self, ciba: &Ciba) {
        match &ciba.hint {
            Hint::LoginHint(text) => self.text("login_hint", text),
            Hint::LoginHintToken(source) | Hint::IdTokenHint(source) => self.source(source),
        }
        self.list("message", ciba.binding_message.as_deref());
        self.text("expiry", &ciba.requested_expiry.unwrap_or_default().to_string());
    }

    fn http(&mut self, source: &HttpSource) {
        source.authorization.iter().for_each(|input| self.input(input));
        self.list("json", source.json.as_ref().map(ToString::to_string).as_deref());
    }

    fn input(&mut self, input: &Input) {
        match input {
            Input::Source(source) => self.source(source),
            Input::Credential { name, which } => self.list("credential", [name.as_str(), &format!("{which:?}")]),
            Input::Agent => self.list("agent", []),
            Input::Previous => self.list("previous", []),
            Input::Jwt(assertion) => self.assertion(assertion),
        }
    }

    fn assertion(&mut self, assertion: &Assertion) {
        let Assertion { keys, iss, sub, aud, lifetime, backdate, typ, scope_claim, jti, claims } = assertion;
        keys.iter().for_each(|key| self.key(key));
        self.list("iss", iss.as_deref());
        self.list("sub", sub.as_deref());
        match aud {
            AudMode::Issuer | AudMode::TokenEndpoint | AudMode::Endpoint | AudMode::Absent => {
                self.list("aud mode", [&*format!("{aud:?}")]);
            }
            AudMode::Literal(text) => self.text("aud", text),
        }
        self.list("times", [&*lifetime.as_nanos().to_string(), &backdate.as_nanos().to_string()]);
        self.list("typ", typ.as_deref());
        self.text("flags", &format!("{scope_claim} {jti}"));
        for (name, value) in claims {
            self.list("claim", [name.as_str(), &value.to_string()]);
        }
    }

    fn key(&mut self, key: &KeySource) {
        let KeySource { source, algorithm, key_id, certificate } = key;
        self.source(source);
        self.list("algorithm", algorithm.map(|algorithm| algorithm.as_str()));
        self.list("key_id", key_id.as_deref());
        self.bytes(certificate.as_ref().map_or(&[][..], |path| path.as_os_str().as_encoded_bytes()));
    }

    fn identity(&mut self, files: &IdentityFiles) {
        for path in [&files.certificate, &files.key] {
            self.bytes(path.as_os_str().as_encoded_bytes());
        }
    }

    fn auth(&mut self, auth: &ClientAuth) {
        self.text("auth", auth.name());
        match auth {
            ClientAuth::None => {}
            ClientAuth::SecretBasic { secrets, encoding } => {
                self.text("encoding", &format!("{encoding:?}"));
                secrets.iter().for_each(|secret| self.source(secret));
            }
            ClientAuth::SecretPost { secrets } => secrets.iter().for_each(|secret| self.source(secret)),
            ClientAuth::SecretJwt { secrets, algorithm, claims } => {
                self.text("algorithm", algorithm.as_str());
                secrets.iter().for_each(|secret| self.source(secret));
                self.assertion(claims);
            }
            ClientAuth::PrivateKeyJwt(assertion) => self.assertion(assertion),
            ClientAuth::Tls { identities, self_signed: _, bound } => {
                self.text("bound", if *bound { "1" } else { "0" });
                identities.iter().for_each(|files| self.identity(files));
            }
            ClientAuth::Assertion { source, assertion_type } => {
                self.text("assertion_type", assertion_type);
                self.source(source);
            }
        }
    }

    fn source(&mut self, source: &Source) {
        match source {
            Source::Env(name) => self.text("env", name),
            Source::File(path) => {
                self.text("file", "");
                self.bytes(path.as_os_str().as_encoded_bytes());
            }
            Source::Command { argv, ttl } => {
                self.list("command", argv.iter().map(String::as_str));
                self.text("ttl", &ttl.as_nanos().to_string());
            }
            Source::Keyring { service, user, ttl } => {
                self.list("keyring", [service.as_str(), user]);
                self.text("ttl", &ttl.as_nanos().to_string());
            }
            Source::Web(web) => {
                let Web { url, headers, pointer, ttl } = &**web;
                self.text("http", url);
                headers.iter().for_each(|(name, value)| {
                    self.text("header", name.as_str());
                    self.bytes(value.as_bytes());
                });
                self.list("pointer", pointer.as_deref());
                self.text("ttl", &ttl.as_nanos().to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc, time::Duration};

    use super::*;
    use crate::credential::testing;

    fn change(change: impl FnOnce(&mut Spec)) -> Spec {
        let mut spec = testing::spec("orders", testing::server(Location::Issuer("https://as.example/".to_owned())));
        spec.steps[0].ask.scopes = vec!["b".to_owned(), "a".to_owned()];
        spec.steps[0].ask.params = vec![("organization".to_owned(), "org_1".to_owned())];
        change(&mut spec);
        spec
    }

    fn ask(change_ask: impl FnOnce(&mut Ask)) -> Spec {
        change(|spec| change_ask(&mut spec.steps[0].ask))
    }

    fn at(location: Location) -> Spec {
        change(|spec| spec.steps[0].server = Some(testing::server(location)))
    }

    fn exchange(subject: Input, token_type: &str) -> Spec {
        change(|spec| {
            spec.steps[0].grant = Grant::TokenExchange(Box::new(TokenExchange {
                grant_type: "g".to_owned(),
                subject: crate::credential::grant::Subject { input: subject, token_type: token_type.to_owned() },
                actor: None,
                requested_token_type: None,
            }));
        })
    }

    /// A15: specs that differ in exactly one field never share a token.
    #[test]
    fn each_field_makes_another_key() {
        let jwt = |aud| Input::Jwt(Box::new(Assertion { aud, ..Assertion::default() }));
        let specs = [
            change(|_| {}),
            at(Location::Issuer("https://as.example".to_owned())),
            at(Location::TokenEndpoint("https://as.example/".to_owned())),
            change(|spec| spec.steps[0].client.id = "other".to_owned()),
            change(|spec| spec.steps[0].dpop = crate::credential::step::DpopUse::Required),
            change(|spec| spec.scopes = Some(vec!["a".to_owned()])),
            change(|spec| spec.steps.push(spec.steps[0].clone())),
            ask(|ask| ask.scopes = vec!["a".to_owned()]),
            ask(|ask| ask.scopes = vec!["a b".to_owned()]),
            ask(|ask| ask.audience.clear()),
            ask(|ask| ask.audience = vec![String::new()]),
            ask(|ask| ask.resource = vec!["https://r/".to_owned()]),
            ask(|ask| ask.params = vec![("organization".to_owned(), "org_2".to_owned())]),
            ask(|ask| ask.params = vec![("organizationorg_1".to_owned(), String::new())]),
            ask(|ask| ask.params.clear()),
            exchange(Input::Agent, "t"),
            exchange(Input::Agent, "u"),
            exchange(Input::Previous, "t"),
            exchange(Input::Source(Source::Env("A".to_owned())), "t"),
            exchange(Input::Source(Source::Env("B".to_owned())), "t"),
            exchange(jwt(AudMode::Issuer), "t"),
            exchange(jwt(AudMode::Literal("Issuer".to_owned())), "t"),
        ];
        let keys: std::collections::HashSet<[u8; 32]> = specs.iter().map(key).collect();
        assert_eq!(keys.len(), specs.len());
        let tokens: std::collections::HashSet<[u8; 32]> = specs.iter().map(|spec| token(spec, &[])).collect();
        assert_eq!(tokens.len(), specs.len());
        assert_ne!(token(&specs[0], &[]), token(&specs[0], &["c".to_owned()]));
    }

    #[test]
    fn the_order_of_scopes_and_parameters_is_nothing() {
        let reordered = ask(|ask| {
            ask.scopes.reverse();
            ask.params.push(("x".to_owned(), "1".to_owned()));
        });
        let other = ask(|ask| ask.params.insert(0, ("x".to_owned(), "1".to_owned())));
        assert_eq!(key(&reordered), key(&other));
    }

    #[test]
    fn settings_see_what_the_key_does_not() {
        let base = change(|_| {});
        let secrets = || vec![Source::File(PathBuf::from("x"))];
        let others = [
            change(|spec| spec.default_ttl += Duration::from_secs(1)),
            change(|spec| spec.strict_scopes = true),
            change(|spec| spec.max_scopes = vec!["c".to_owned()]),
            change(|spec| spec.steps[0].client.auth = ClientAuth::SecretPost { secrets: secrets() }),
            change(|spec| spec.steps[0].client.auth = ClientAuth::None),
        ];
        for other in &others {
            assert_eq!(key(&base), key(other));
            assert_ne!(settings(&base), settings(other));
        }
        let mut again = base.clone();
        again.steps[0].server = again.steps[0].server.as_ref().map(|server| Arc::new((**server).clone()));
        assert_eq!(settings(&base), settings(&again));
    }

    /// B6: a refresh token is for one server and one client.
    #[test]
    fn a_refresh_token_has_one_owner() {
        let base = change(|_| {});
        let other = change(|spec| spec.steps[0].client.id = "other".to_owned());
        let elsewhere = at(Location::TokenEndpoint("https://as.example/".to_owned()));
        let owners = [&base, &other, &elsewhere].map(|spec| owner(&spec.steps[0]));
        assert!(owners[0] != owners[1] && owners[0] != owners[2]);
        assert_eq!(owners[0], owner(&ask(|ask| ask.scopes.clear()).steps[0]));
    }
}
