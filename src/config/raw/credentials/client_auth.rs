//! `client_id` and `client_auth`: who we are to the authorization server, and how we prove it.

use std::time::Duration;

use crate::credential::{
    Source,
    client_auth::{BasicEncoding, Client, ClientAuth, IdentityFiles, JWT_BEARER},
    sign::Algorithm,
    step::Assertion,
};

use super::{
    super::{
        super::{document::Section, problem::listed},
        listeners::readable,
        source::{check_private, source},
    },
    input::{Context, Notes},
    jwt::{self, Modes},
};

#[derive(Clone, Copy, PartialEq)]
enum Method {
    None,
    Basic,
    Post,
    SecretJwt,
    PrivateKey,
    Tls,
    SelfSignedTls,
    Assertion,
}

/// Servers take no longer life (Auth0: at most 5 minutes).
const LONGEST: Duration = Duration::from_secs(300);

const METHODS: [(&str, Method); 8] = [
    ("client_secret_basic", Method::Basic),
    ("client_secret_post", Method::Post),
    ("client_secret_jwt", Method::SecretJwt),
    ("private_key_jwt", Method::PrivateKey),
    ("tls_client_auth", Method::Tls),
    ("self_signed_tls_client_auth", Method::SelfSignedTls),
    ("assertion", Method::Assertion),
    ("none", Method::None),
];

/// A key, and which methods know it.
type KeyOf = (&'static str, fn(Method) -> bool);

/// The keys of `client_auth` that only some methods know.
const KEYS: &[KeyOf] = &[
    ("secret", Method::has_secret),
    ("next_secret", Method::has_secret),
    ("encoding", |method| method == Method::Basic),
    ("alg", Method::signs),
    ("aud", Method::signs),
    ("aud_mode", Method::signs),
    ("lifetime", Method::signs),
    ("key", Method::has_key),
    ("next_key", Method::has_key),
    ("certificate", Method::has_key),
    ("next_certificate", Method::has_key),
    ("key_id", |method| method == Method::PrivateKey),
    ("next_key_id", |method| method == Method::PrivateKey),
    ("typ", |method| method == Method::PrivateKey),
    ("claims", |method| method == Method::PrivateKey),
    ("bound", Method::is_tls),
    ("assertion", |method| method == Method::Assertion),
    ("type", |method| method == Method::Assertion),
];

impl Method {
    fn as_str(self) -> &'static str {
        METHODS.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }

    fn has_secret(self) -> bool {
        matches!(self, Self::Basic | Self::Post | Self::SecretJwt)
    }

    fn signs(self) -> bool {
        matches!(self, Self::SecretJwt | Self::PrivateKey)
    }

    fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::SelfSignedTls)
    }

    fn has_key(self) -> bool {
        self == Self::PrivateKey || self.is_tls()
    }
}

/// `None`: a problem was reported.
pub(super) fn client(section: &mut Section<'_>, context: Context<'_>, notes: &mut Notes) -> Option<Client> {
    let anonymous = !context.kind.is_login() && !context.kind.wants_proof();
    let auth = client_auth(section, context, notes);
    // An assertion of somebody else's names the client itself (RFC 7521 §4.2).
    let may_lack = matches!(auth, Some(ClientAuth::Assertion { .. }))
        || (anonymous && matches!(auth, None | Some(ClientAuth::None)));
    if !may_lack {
        section.need("client_id", "client_id = \"…\"");
    }
    let id = section.string("client_id", "client_id = \"…\"");
    if id.is_none() && (section.has("client_id") || !may_lack) {
        return None;
    }
    Some(Client { id: id.map(|id| id.value).unwrap_or_default(), auth: auth? })
}

/// The environment variable that would suit this credential's secret.
fn suggested_variable(name: &str) -> String {
    let plain: String =
        name.chars().map(|each| if each.is_ascii_alphanumeric() { each.to_ascii_uppercase() } else { '_' }).collect();
    let plain = plain.trim_start_matches(|first: char| first.is_ascii_digit());
    format!("{plain}_CLIENT_SECRET").trim_start_matches('_').to_owned()
}

fn client_auth(section: &mut Section<'_>, context: Context<'_>, notes: &mut Notes) -> Option<ClientAuth> {
    let variable = suggested_variable(context.name);
    let line = format!("client_auth = {{ method = \"client_secret_basic\", secret = {{ env = \"{variable}\" }} }}");
    let misplaced = ["client_secret", "secret"].into_iter().any(|key| section.has(key));
    for key in ["client_secret", "secret"] {
        section.refuse(
            key,
            &format!("`{key}` has no place here, and a secret is never written in the file"),
            &format!("write `{line}`, and change the secret: it has been in a file"),
        );
    }
    if misplaced {
        let _ = section.entry("client_auth");
        return None;
    }
    if context.kind.wants_proof() {
        section.need("client_auth", &line);
    }
    if !section.has("client_auth") {
        let _ = section.entry("client_auth");
        return (!context.kind.wants_proof()).then_some(ClientAuth::None);
    }
    if let Some((_, value)) = section.entry("client_auth").filter(|(_, value)| !value.get_ref().is_table()) {
        // The secret itself, perhaps.
        section.doc.hide(&value.span());
    }
    let mut table = section.section("client_auth", "client_auth", &line)?;
    table.need("method", "method = \"client_secret_basic\"");
    let method = table.choice("method", &METHODS, &[])?;
    check_method(&table, method, context);
    for (key, goes_with) in KEYS {
        if !goes_with(method) && table.has(key) {
            let message = format!("`{key}` doesn't go with the method \"{}\"", method.as_str());
            let others = METHODS.iter().filter(|(_, other)| goes_with(*other)).map(|(name, _)| *name);
            table.refuse(key, &message, &format!("take it out; it goes with {}", listed(others)));
        }
    }
    let auth = by_method(&mut table, method, &variable, context, notes);
    table.finish();
    auth
}

fn check_method(table: &Section<'_>, method: Method, context: Context<'_>) {
    let (span, doc) = (table.place("method"), table.doc);
    let name = method.as_str();
    if method == Method::None && context.kind.wants_proof() {
        let message = format!("a client of \"{}\" has to prove who it is", context.kind.as_str());
        doc.problem(&span, message, "write `method = \"client_secret_basic\"`, or another one but \"none\"");
    } else if let Some(taken) = context.preset.methods.filter(|taken| method != Method::None && !taken.contains(&name))
    {
        let message = format!("{} doesn't know the method \"{name}\"", context.preset.name);
        doc.problem(&span, message, format!("write one of {}", listed(taken.iter().copied())));
    }
}

fn by_method(
    table: &mut Section<'_>,
    method: Method,
    variable: &str,
    context: Context<'_>,
    notes: &mut Notes,
) -> Option<ClientAuth> {
    match method {
        Method::None => Some(ClientAuth::None),
        Method::Basic => {
            let secrets = secrets(table, variable);
            let encodings = [("rfc6749", BasicEncoding::Rfc6749), ("raw", BasicEncoding::Raw)];
            let encoding = table.choice("encoding", &encodings, &[]).unwrap_or(context.preset.encoding);
            Some(ClientAuth::SecretBasic { secrets: secrets?, encoding })
        }
        Method::Post => Some(ClientAuth::SecretPost { secrets: secrets(table, variable)? }),
        Method::SecretJwt => secret_jwt(table, variable, context, notes),
        Method::PrivateKey => {
            let defaults = &context.preset.client;
            let aud = jwt::audience(table, defaults, Modes { absent: false, server: true });
            let common = jwt::common(table, defaults, LONGEST);
            let (aud, common) = (aud?, common?);
            jwt::note(notes, &aud, &common.keys);
            let jwt::Common { keys, lifetime, typ, claims } = common;
            let made = Assertion { keys, aud: aud.value, lifetime, typ, claims, ..Assertion::default() };
            Some(ClientAuth::PrivateKeyJwt(Box::new(made)))
        }
        Method::Tls | Method::SelfSignedTls => {
            let identities = identities(table);
            let bound = table.boolean("bound").is_none_or(|flag| flag.value);
            Some(ClientAuth::Tls { identities: identities?, self_signed: method == Method::SelfSignedTls, bound })
        }
        Method::Assertion => {
            let source = source(table, "assertion", "CLIENT_ASSERTION");
            let assertion_type = table.string("type", &format!("type = \"{JWT_BEARER}\""));
            let assertion_type = assertion_type.map_or(JWT_BEARER.to_owned(), |text| text.value);
            Some(ClientAuth::Assertion { source: source?, assertion_type })
        }
    }
}

/// One secret, or two while one takes the other's place.
fn secrets(table: &mut Section<'_>, variable: &str) -> Option<Vec<Source>> {
    let first = source(table, "secret", variable);
    let next = table.has("next_secret").then(|| source(table, "next_secret", &format!("NEXT_{variable}")));
    let _ = table.entry("next_secret");
    let mut secrets = vec![first?];
    if let Some(next) = next {
        secrets.push(next?);
    }
    Some(secrets)
}

fn secret_jwt(table: &mut Section<'_>, variable: &str, context: Context<'_>, notes: &mut Notes) -> Option<ClientAuth> {
    let secrets = secrets(table, variable);
    let known: Vec<&str> =
        Algorithm::ALL.into_iter().filter(|each| each.is_symmetric()).map(Algorithm::as_str).collect();
    let algorithm = match table.string("alg", "alg = \"HS256\"") {
        Some(text) => jwt::named_algorithm(table, &text, &known),
        None => Some(Algorithm::Hs256),
    };
    let defaults = &context.preset.client;
    let aud = jwt::audience(table, defaults, Modes { absent: false, server: true });
    let lifetime = jwt::lifetime(table, defaults, LONGEST);
    let aud = aud?;
    jwt::note(notes, &aud, &[]);
    let claims = Box::new(Assertion { aud: aud.value, lifetime, ..Assertion::default() });
    Some(ClientAuth::SecretJwt { secrets: secrets?, algorithm: algorithm?, claims })
}

/// RFC 8705: one certificate, or two while one takes the other's place.
fn identities(table: &mut Section<'_>) -> Option<Vec<IdentityFiles>> {
    let first = identity(table, "certificate", "key");
    let next = (table.has("next_certificate") || table.has("next_key"))
        .then(|| identity(table, "next_certificate", "next_key"));
    let _ = (table.entry("next_certificate"), table.entry("next_key"));
    let mut identities = vec![first?];
    if let Some(next) = next {
        identities.push(next?);
    }
    Some(identities)
}

/// The files of one certificate and its key.
pub(in crate::config) fn identity(
    table: &mut Section<'_>,
    certificate: &'static str,
    key: &'static str,
) -> Option<IdentityFiles> {
    let lines = (format!("{certificate} = \"client.pem\""), format!("{key} = \"client.key\""));
    table.need(certificate, &lines.0);
    table.need(key, &lines.1);
    let certificate = table.path(certificate, &lines.0);
    if let Some((_, value)) = table.entry(key).filter(|(_, value)| value.get_ref().is_table()) {
        let help = format!("write `{}`: the key has to be in a file here", lines.1);
        table.doc.problem(&value.span(), format!("`{key}` is a table, but wants a path"), help);
        return None;
    }
    let key = table.path(key, &lines.1);
    let doc = table.doc;
    let (certificate, key) = (certificate?, key?);
    let present = [&certificate, &key].map(|file| readable(doc, file));
    if let Ok(metadata) = std::fs::metadata(&key.value) {
        check_private(doc, &key, &metadata);
    }
    let files = IdentityFiles { certificate: certificate.value, key: key.value };
    present.into_iter().all(|present| present).then_some(files)
}
