//! What makes two tokens the same: a digest over every field that identifies one (A15),
//! each with its length, so that no two lists of fields run together.

use crate::primitives::sha256;

use super::{
    AuthorizationServer, Location, Source, Spec,
    client_auth::ClientAuth,
    grant::{ClientCredentials, Step},
};

/// Two credentials with equal keys would get the same token: issuer or token endpoint,
/// client, grant, sorted scopes, audience, resources, and every other parameter.
pub(crate) fn key(spec: &Spec) -> [u8; 32] {
    let mut fields = Fields::default();
    fields.server(&spec.server);
    fields.list("steps", spec.steps.iter().map(|_| "step"));
    for step in &spec.steps {
        fields.step(step);
    }
    fields.finish()
}

/// The key, and all that decides how the token is got and kept. A reload that leaves it
/// equal keeps the token.
pub(crate) fn settings(spec: &Spec) -> [u8; 32] {
    let mut fields = Fields::default();
    fields.bytes(&key(spec));
    fields.text("name", spec.name.as_str());
    fields.text("default_ttl", &spec.default_ttl.as_nanos().to_string());
    fields.text("strict_scopes", if spec.strict_scopes { "1" } else { "0" });
    for step in &spec.steps {
        fields.auth(&step.client().auth);
        match step {
            Step::ClientCredentials(grant) => fields.text("body", &format!("{:?}", grant.body)),
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
        self.text("grant", step.name());
        self.text("client", &step.client().id);
        match step {
            Step::ClientCredentials(ClientCredentials { client: _, audience, scopes, resource, params, body: _ }) => {
                self.list("audience", audience.as_deref());
                self.sorted("scopes", scopes.iter().map(String::as_str));
                self.sorted("resource", resource.iter().map(String::as_str));
                let mut params: Vec<&(String, String)> = params.iter().collect();
                params.sort_unstable();
                self.list("params", params.into_iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
            }
        }
    }

    fn auth(&mut self, auth: &ClientAuth) {
        match auth {
            ClientAuth::SecretBasic { secret, encoding } => {
                self.text("auth", &format!("basic {encoding:?}"));
                self.source(secret);
            }
            ClientAuth::SecretPost { secret } => {
                self.text("auth", "post");
                self.source(secret);
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
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc, time::Duration};

    use super::*;
    use crate::credential::testing;

    fn change(change: impl FnOnce(&mut Spec, &mut ClientCredentials)) -> Spec {
        let mut spec = testing::spec("orders", testing::server(Location::Issuer("https://as.example/".to_owned())));
        let Step::ClientCredentials(mut grant) = spec.steps.remove(0);
        grant.scopes = vec!["b".to_owned(), "a".to_owned()];
        grant.params = vec![("organization".to_owned(), "org_1".to_owned())];
        change(&mut spec, &mut grant);
        spec.steps.push(Step::ClientCredentials(grant));
        spec
    }

    /// A15: specs that differ in exactly one field never share a token.
    #[test]
    fn each_field_makes_another_key() {
        let specs = [
            change(|_, _| {}),
            change(|spec, _| spec.server = testing::server(Location::Issuer("https://as.example".to_owned()))),
            change(|spec, _| spec.server = testing::server(Location::TokenEndpoint("https://as.example/".to_owned()))),
            change(|_, grant| grant.client.id = "other".to_owned()),
            change(|_, grant| grant.scopes = vec!["a".to_owned()]),
            change(|_, grant| grant.scopes = vec!["a b".to_owned()]),
            change(|_, grant| grant.audience = None),
            change(|_, grant| grant.audience = Some(String::new())),
            change(|_, grant| grant.resource = vec!["https://r/".to_owned()]),
            change(|_, grant| grant.params = vec![("organization".to_owned(), "org_2".to_owned())]),
            change(|_, grant| grant.params = vec![("organizationorg_1".to_owned(), String::new())]),
            change(|_, grant| grant.params.clear()),
        ];
        let keys: std::collections::HashSet<[u8; 32]> = specs.iter().map(key).collect();
        assert_eq!(keys.len(), specs.len());
    }

    #[test]
    fn the_order_of_scopes_and_parameters_is_nothing() {
        let reordered = change(|_, grant| {
            grant.scopes.reverse();
            grant.params.push(("x".to_owned(), "1".to_owned()));
        });
        let other = change(|_, grant| grant.params.insert(0, ("x".to_owned(), "1".to_owned())));
        assert_eq!(key(&reordered), key(&other));
    }

    #[test]
    fn settings_see_what_the_key_does_not() {
        let base = change(|_, _| {});
        let others = [
            change(|spec, _| spec.default_ttl += Duration::from_secs(1)),
            change(|spec, _| spec.strict_scopes = true),
            change(|_, grant| grant.client.auth = ClientAuth::SecretPost { secret: Source::File(PathBuf::from("x")) }),
        ];
        for other in &others {
            assert_eq!(key(&base), key(other));
            assert_ne!(settings(&base), settings(other));
        }
        let again = Spec { server: Arc::new((*base.server).clone()), ..base.clone() };
        assert_eq!(settings(&base), settings(&again));
    }
}
