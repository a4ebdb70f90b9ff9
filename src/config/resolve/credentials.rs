//! Credentials and the authorization servers behind them.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    credential::{AuthorizationServer, ClearText, Injection, Spec, Step, grant::Grant},
    tls::client::token_client_config,
};

use super::{super::document::Document, dangling, raw, roots::Roots};

/// In the order of the file: a credential's id is its place here.
pub(super) fn specs(doc: &Document<'_>, raw: &raw::Config, roots: &Roots) -> Vec<Spec> {
    let servers: BTreeMap<&str, Option<Arc<AuthorizationServer>>> = raw
        .servers
        .iter()
        .map(|server| (server.text.value.as_str(), authorization_server(doc, server, roots)))
        .collect();
    let names: Vec<&str> = servers.keys().copied().collect();
    let mut specs = Vec::new();
    for credential in &raw.credentials {
        let Some(reference) = &credential.server else { continue };
        let Some(server) = servers.get(reference.value.as_str()) else {
            dangling(doc, reference, "authorization server", "authorization_servers", &names);
            continue;
        };
        if let (Some(name), Some(server), Some(grant)) = (&credential.name, server, &credential.grant) {
            specs.push(Spec {
                name: name.clone(),
                steps: vec![Step {
                    grant: Grant::ClientCredentials,
                    server: Some(server.clone()),
                    client: grant.0.clone(),
                    ask: grant.1.clone(),
                    answer: Default::default(),
                    dpop: Default::default(),
                }],
                scopes: None,
                max_scopes: Vec::new(),
                revoke_after_run: true,
                injection: Injection::default(),
                default_ttl: credential.default_ttl,
                strict_scopes: credential.strict_scopes,
            });
        }
    }
    specs
}

fn authorization_server(
    doc: &Document<'_>,
    server: &raw::servers::Server,
    roots: &Roots,
) -> Option<Arc<AuthorizationServer>> {
    let store = roots.store(doc, server.ca.as_ref(), &server.text.span)?;
    Some(Arc::new(AuthorizationServer {
        name: server.name.clone()?,
        location: server.location.clone()?,
        tls: token_client_config(store),
        endpoints: Vec::new(),
        clear_text: if server.danger_allow_http { ClearText::Loopback } else { ClearText::Never },
    }))
}
