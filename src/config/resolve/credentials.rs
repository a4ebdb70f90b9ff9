//! Credentials and the authorization servers behind them: each credential once as the file
//! has it, and once more for every route that wants other scopes of it.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    credential::{
        AuthorizationServer, ClearText, EndpointKind, Location, Source, Spec, Step,
        grant::{Grant, Login},
    },
    primitives::{AuthorizationServerName, CredentialName},
    route::CredentialId,
    tls::client::token_client_config,
};

use super::{
    super::{document::Document, problem::Span, raw::credentials::Kind},
    dangling, raw,
    roots::Roots,
};

/// The list that a [`CredentialId`] is an index of.
pub(super) struct Specs {
    /// The plain ones first, in the order of the file: whoever looks for a name finds them.
    pub(super) list: Vec<Spec>,
}

type Servers<'r> = BTreeMap<&'r str, Option<Arc<AuthorizationServer>>>;

pub(super) fn specs(doc: &Document<'_>, raw: &raw::Config, roots: &Roots) -> Specs {
    let servers: Servers<'_> = raw
        .servers
        .iter()
        .map(|server| (server.text.value.as_str(), authorization_server(doc, server, roots)))
        .collect();
    let mut list: Vec<Spec> =
        raw.credentials.iter().filter_map(|credential| spec(doc, credential, &servers, roots)).collect();
    lend_seeds(&mut list);
    Specs { list }
}

/// Whoever uses another credential's refresh token may be the first one who does: it begins
/// with what the operator put there.
fn lend_seeds(list: &mut [Spec]) {
    let own = |spec: &Spec| spec.steps.last().and_then(|step| login_of(step)?.seed.clone());
    let seeds: BTreeMap<CredentialName, Source> =
        list.iter().filter_map(|spec| Some((spec.name.clone(), own(spec)?))).collect();
    for step in list.iter_mut().flat_map(|spec| &mut spec.steps) {
        if let Grant::Login(Login { seed, of: Some(of), .. }) = &mut step.grant {
            *seed = seeds.get(of).cloned();
        }
    }
}

fn login_of(step: &Step) -> Option<&Login> {
    match &step.grant {
        Grant::Login(login) => Some(login),
        _no_login => None,
    }
}

/// `None`: a problem was reported.
fn spec(
    doc: &Document<'_>,
    credential: &raw::credentials::Credential,
    servers: &Servers<'_>,
    roots: &Roots,
) -> Option<Spec> {
    let steps: Vec<Option<Step>> =
        credential.steps.iter().map(|each| step(doc, credential, each, servers, roots)).collect();
    Some(Spec {
        name: credential.name.clone()?,
        steps: steps.into_iter().collect::<Option<_>>()?,
        scopes: None,
        max_scopes: Vec::new(),
        default_ttl: credential.default_ttl,
        strict_scopes: credential.strict_scopes,
        revoke_after_run: credential.revoke_after_run,
        injection: credential.injection.clone()?,
    })
}

fn step(
    doc: &Document<'_>,
    credential: &raw::credentials::Credential,
    step: &raw::credentials::Step,
    servers: &Servers<'_>,
    roots: &Roots,
) -> Option<Step> {
    let server = match (&step.server, &step.place) {
        (Some(reference), _) => {
            let Some(server) = servers.get(reference.value.as_str()) else {
                let names: Vec<&str> = servers.keys().copied().collect();
                dangling(doc, reference, "authorization server", "authorization_servers", &names);
                return None;
            };
            let server = server.as_ref()?;
            check_endpoint(doc, server, step.kind?, &reference.span);
            Some(server.clone())
        }
        (None, Some(place)) => Some(Arc::new(server_at(doc, place, credential, &step.span, roots)?)),
        (None, None) if step.kind?.is_served() || step.kind?.is_http() => return None,
        (None, None) => None,
    };
    Some(Step {
        grant: step.grant.clone()?,
        server,
        client: step.client.clone()?,
        ask: step.ask.clone(),
        answer: step.answer.clone(),
        dpop: step.dpop,
    })
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
        endpoints: server.endpoints.clone(),
        tls: token_client_config(store),
        clear_text: if server.danger_allow_http { ClearText::Loopback } else { ClearText::Never },
    }))
}

/// A place that is no `[authorization_servers.NAME]`: known by its host.
fn server_at(
    doc: &Document<'_>,
    place: &raw::credentials::Place,
    credential: &raw::credentials::Credential,
    span: &Span,
    roots: &Roots,
) -> Option<AuthorizationServer> {
    let store = roots.store(doc, place.ca.as_ref(), span)?;
    let name = AuthorizationServerName::parse(&place.host)
        .or_else(|_| AuthorizationServerName::parse(&credential.text.value))
        .ok()?;
    Some(AuthorizationServer {
        name,
        location: Location::TokenEndpoint(place.url.clone()),
        endpoints: Vec::new(),
        tls: token_client_config(store),
        clear_text: place.clear_text,
    })
}

/// A grant that needs more than the token endpoint, at a server whose metadata nobody reads.
fn check_endpoint(doc: &Document<'_>, server: &AuthorizationServer, kind: Kind, span: &Span) {
    let needed = match kind {
        Kind::AuthorizationCode => EndpointKind::Authorization,
        Kind::DeviceCode => EndpointKind::DeviceAuthorization,
        Kind::Ciba => EndpointKind::BackchannelAuthentication,
        _token_endpoint_only => return,
    };
    let named = server.endpoints.iter().any(|(kind, _)| *kind == needed);
    if !named && matches!(server.location, Location::TokenEndpoint(_)) {
        let (name, key) = (&server.name, needed.as_str());
        let message = format!("the authorization server `{name}` has no `{key}`, which \"{}\" needs", kind.as_str());
        let help =
            format!("add `{key} = \"https://…\"` to [authorization_servers.{name}], or `issuer` to have it found");
        doc.problem(span, message, help);
    }
}

impl Specs {
    /// The credential of this name, with the scopes that a route wants instead of its own.
    pub(super) fn id(&mut self, name: &str, scopes: Option<&[String]>, max_scopes: &[String]) -> Option<CredentialId> {
        let plain = self.list.iter().position(|spec| spec.name.as_str() == name)?;
        let sorted = |list: &[String]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list.dedup();
            list
        };
        let own = self.list[plain].steps.last().map(|step| sorted(&step.ask.scopes)).unwrap_or_default();
        let scopes = scopes.map(sorted).filter(|scopes| *scopes != own);
        let max_scopes = sorted(max_scopes);
        if scopes.is_none() && max_scopes.is_empty() {
            return Some(CredentialId(plain));
        }
        let same = |spec: &Spec| spec.name.as_str() == name && spec.scopes == scopes && spec.max_scopes == max_scopes;
        let at = self.list.iter().position(same).unwrap_or_else(|| {
            let variant = Spec { scopes, max_scopes, ..self.list[plain].clone() };
            self.list.push(variant);
            self.list.len() - 1
        });
        Some(CredentialId(at))
    }
}
