//! `[credentials.NAME]`.

use std::time::Duration;

use crate::{
    credential::{
        client_auth::{BasicEncoding, Client, ClientAuth},
        step::{Ask, BodyFormat},
    },
    primitives::CredentialName,
};

use super::{
    super::{
        document::{At, Section},
        hosts::{HostEntry, host_entries},
        mask,
        problem::shown,
    },
    named,
    source::source,
};

pub(in crate::config) struct Credential {
    /// As the file names it, also where that is no valid name.
    pub(in crate::config) text: At<String>,
    pub(in crate::config) name: Option<CredentialName>,
    pub(in crate::config) server: Option<At<String>>,
    pub(in crate::config) grant: Option<(Client, Ask)>,
    /// The second lock.
    pub(in crate::config) hosts: Vec<HostEntry>,
    pub(in crate::config) default_ttl: Duration,
    pub(in crate::config) strict_scopes: bool,
}

/// For a token whose answer names no end: short, so that a revoked one isn't kept long.
const DEFAULT_TTL: Duration = Duration::from_secs(300);

const LATER_GRANTS: &[&str] = &[
    "refresh_token",
    "authorization_code",
    "device_code",
    "token_exchange",
    "jwt_bearer",
    "saml2_bearer",
    "ciba",
    "static",
    "basic",
    "self_signed_jwt",
];

pub(in crate::config) fn credential(text: At<String>, mut section: Section<'_>) -> Credential {
    let name = named(&section, &text, CredentialName::parse);
    section.need("grant", "grant = \"client_credentials\"");
    let grant = section.choice("grant", &[("client_credentials", ())], LATER_GRANTS);
    section.need("authorization_server", "authorization_server = \"NAME\"");
    let server = section.string("authorization_server", "authorization_server = \"auth0\"");
    section.need("hosts", "hosts = [\"api.example.com\"]");
    let empty = "an empty list means that the token may go nowhere: name the hosts it is for";
    let hosts = section.strings("hosts", "hosts = [\"api.example.com\"]", empty);
    let hosts = hosts.map_or(Vec::new(), |list| host_entries(section.doc, list.value));
    let default_ttl = section.duration("default_ttl").unwrap_or(DEFAULT_TTL);
    let strict_scopes = section.flag("strict_scopes");
    if section.has("grant") && grant.is_none() {
        // The keys of a grant that isn't there can't be judged.
        return Credential { text, name, server, grant: None, hosts, default_ttl, strict_scopes };
    }
    let grant = client_credentials(&text.value, &mut section);
    section.finish();
    Credential { text, name, server, grant, hosts, default_ttl, strict_scopes }
}

fn client_credentials(name: &str, section: &mut Section<'_>) -> Option<(Client, Ask)> {
    section.need("client_id", "client_id = \"…\"");
    let id = section.string("client_id", "client_id = \"…\"");
    let auth = client_auth(name, section);
    let audience = section.string("audience", "audience = \"https://api.example.com\"").map(|text| text.value);
    let scopes = scopes(section);
    let resource = section.one_or_more(
        "resource",
        "resource = \"https://api.example.com\"",
        "leave `resource` out to ask for none (RFC 8707)",
    );
    let resource = resource.map_or(Vec::new(), |list| list.value.into_iter().map(|item| item.value).collect());
    let params = params(section);
    let body = section.choice("body", &[("form", BodyFormat::Form), ("json", BodyFormat::Json)], &[]);
    let ask = Ask {
        audience: audience.into_iter().collect(),
        scopes,
        resource,
        params,
        body: body.unwrap_or_default(),
        method: http::Method::POST,
        ..Ask::default()
    };
    Some((Client { id: id?.value, auth: auth? }, ask))
}

#[derive(Clone, Copy, PartialEq)]
enum Method {
    Basic,
    Post,
}

/// The environment variable that would suit this credential's secret.
fn suggested_variable(name: &str) -> String {
    let plain: String =
        name.chars().map(|each| if each.is_ascii_alphanumeric() { each.to_ascii_uppercase() } else { '_' }).collect();
    let plain = plain.trim_start_matches(|first: char| first.is_ascii_digit());
    format!("{plain}_CLIENT_SECRET").trim_start_matches('_').to_owned()
}

fn client_auth(name: &str, section: &mut Section<'_>) -> Option<ClientAuth> {
    let variable = suggested_variable(name);
    let line = format!("client_auth = {{ method = \"client_secret_basic\", secret = {{ env = \"{variable}\" }} }}");
    let misplaced = ["client_secret", "secret"].into_iter().any(|key| section.has(key));
    for key in ["client_secret", "secret"] {
        section.refuse(
            key,
            &format!("`{key}` has no place here, and a secret is never written in the file"),
            &format!("write `{line}`, and change the secret: it has been in a file"),
        );
    }
    if !misplaced {
        section.need("client_auth", &line);
    }
    if let Some((_, value)) = section.entry("client_auth").filter(|(_, value)| !value.get_ref().is_table()) {
        // The secret itself, perhaps.
        section.doc.hide(&value.span());
    }
    let mut table = section.section("client_auth", "client_auth", &line)?;
    table.need("method", "method = \"client_secret_basic\"");
    let later = ["private_key_jwt", "client_secret_jwt", "tls_client_auth", "self_signed_tls_client_auth", "none"];
    let methods = [("client_secret_basic", Method::Basic), ("client_secret_post", Method::Post)];
    let method = table.choice("method", &methods, &later);
    table.unsupported(&["next_secret"]);
    if table.has("method") && method.is_none() {
        return None;
    }
    let secret = source(&mut table, "secret", &variable);
    let encodings = [("rfc6749", BasicEncoding::Rfc6749), ("raw", BasicEncoding::Raw)];
    let encoding = table.choice("encoding", &encodings, &[]);
    if table.has("encoding") && method == Some(Method::Post) {
        table.doc.problem(&table.place("encoding"), "`encoding` goes with client_secret_basic only", "take it out");
    }
    table.finish();
    let secret = secret?;
    Some(match method? {
        Method::Basic => ClientAuth::SecretBasic { secrets: vec![secret], encoding: encoding.unwrap_or_default() },
        Method::Post => ClientAuth::SecretPost { secrets: vec![secret] },
    })
}

fn scopes(section: &mut Section<'_>) -> Vec<String> {
    let list =
        section.strings("scopes", "scopes = [\"read:orders\"]", "leave `scopes` out to ask for the server's default");
    let mut scopes = Vec::new();
    for scope in list.map_or(Vec::new(), |list| list.value) {
        // RFC 6749, section 3.3: scope-token.
        if scope.value.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && !matches!(byte, b'"' | b'\\')) {
            scopes.push(scope.value);
            continue;
        }
        let parts: Vec<String> = scope.value.split_whitespace().map(|part| format!("\"{}\"", shown(part))).collect();
        let message = format!("`{}` is no scope", shown(&scope.value));
        section.doc.problem(&scope.span, message, format!("one scope a string: [{}]", parts.join(", ")));
    }
    scopes
}

fn params(section: &mut Section<'_>) -> Vec<(String, String)> {
    let doc = section.doc;
    let mut params = Vec::new();
    for (name, value) in section.string_table("params", "params = { organization = \"org_1\" }") {
        let own = match name.value.as_str() {
            "client_id" | "audience" | "resource" => Some(name.value.clone()),
            "scope" => Some("scopes".to_owned()),
            "grant_type" => Some("grant".to_owned()),
            "client_secret" | "client_assertion" | "client_assertion_type" => Some("client_auth".to_owned()),
            _ => None,
        };
        if let Some(key) = own {
            doc.hide(&value.span);
            doc.problem(
                &name.span,
                format!("`{}` is no extra parameter", name.value),
                format!("use the key `{key}` of the credential"),
            );
        } else if mask::names_a_secret(&name.value) {
            doc.hide(&value.span);
            let message =
                format!("`{}` looks like a secret, and a secret is never written in the file", shown(&name.value));
            doc.problem(&name.span, message, "take it out, and change the secret: it has been in a file");
        } else {
            params.push((name.value, value.value));
        }
    }
    params
}
