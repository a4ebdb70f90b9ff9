//! The keys that belong to one grant each.

use crate::{
    credential::{
        grant::{
            Ciba, Grant, JwtBearer, Login, LoginKind, Redirect, Saml2Bearer, Subject, TokenExchange, ciba::Hint,
            jwt_bearer, token_exchange,
        },
        step::Which,
    },
    primitives::CredentialName,
};

use super::{
    super::{
        super::{document::Section, problem::shown},
        source::source,
    },
    Kind, ask, http_source,
    input::{Context, Notes, Reference, input, typed},
    jwt,
};

/// `None`: a problem was reported.
pub(super) fn grant(section: &mut Section<'_>, context: Context<'_>, notes: &mut Notes) -> Option<Grant> {
    match context.kind {
        Kind::ClientCredentials => Some(Grant::ClientCredentials),
        Kind::RefreshToken => refresh_token(section, notes).map(Grant::Login),
        Kind::AuthorizationCode => {
            let redirect = redirect(section);
            let params = ask::params(section, "authorize_params", context.kind);
            login(section, LoginKind::AuthorizationCode { redirect, params })
        }
        Kind::DeviceCode => login(section, LoginKind::DeviceCode),
        Kind::TokenExchange => exchange(section, context, notes),
        Kind::JwtBearer => {
            section.need("assertion", "assertion = { jwt = { key = { file = \"key.pem\" } } }");
            let assertion = input(section, "assertion", context, notes);
            let grant_type = grant_type(section, jwt_bearer::GRANT_TYPE);
            Some(Grant::JwtBearer(JwtBearer { grant_type, assertion: assertion? }))
        }
        Kind::Saml2Bearer => {
            let assertion = source(section, "assertion", "SAML_ASSERTION")?;
            Some(Grant::Saml2Bearer(Saml2Bearer { assertion }))
        }
        Kind::SelfSignedJwt => {
            section.need("jwt", "jwt = { key = { file = \"key.pem\" }, aud = \"https://api.example.com/\" }");
            jwt::jwt(section, context, notes).map(|made| Grant::SelfSignedJwt(Box::new(made)))
        }
        Kind::Ciba => ciba(section),
        Kind::Http => http_source::source(section, context, notes),
        Kind::GithubApp => http_source::github_app(section, notes),
        Kind::MetadataServer => Some(http_source::metadata_server()),
        Kind::Static => {
            let token = source(section, "token", &format!("{}_TOKEN", variable(context.name)))?;
            Some(Grant::Static { token, name: Kind::Static.as_str() })
        }
        Kind::Basic => {
            section.need("username", "username = \"…\"");
            let token = source(section, "password", &format!("{}_PASSWORD", variable(context.name)))?;
            Some(Grant::Static { token, name: Kind::Basic.as_str() })
        }
    }
}

/// The start of an environment variable's name that suits the credential.
fn variable(name: &str) -> String {
    name.chars().map(|each| if each.is_ascii_alphanumeric() { each.to_ascii_uppercase() } else { '_' }).collect()
}

fn grant_type(section: &mut Section<'_>, standard: &str) -> String {
    section.string("grant_type", &format!("grant_type = \"{standard}\"")).map_or(standard.to_owned(), |text| text.value)
}

fn refresh_token(section: &mut Section<'_>, notes: &mut Notes) -> Option<Login> {
    const EXAMPLE: &str = "refresh_token = { file = \"PATH\" }";
    let feeds = section
        .entry("refresh_token")
        .and_then(|(_, value)| value.get_ref().as_table())
        .is_some_and(|table| table.contains_key("credential"));
    if !feeds {
        let seed = source(section, "refresh_token", "REFRESH_TOKEN")?;
        return Some(Login { kind: LoginKind::RefreshToken, seed: Some(seed), of: None });
    }
    let mut table = section.section("refresh_token", "INPUT", EXAMPLE)?;
    let name = table.string("credential", "credential = \"NAME\"");
    table.finish();
    let name = name?;
    let of = CredentialName::parse(&name.value).ok();
    notes.references.push(Reference { name, which: Which::RefreshToken, is_login: true });
    Some(Login { kind: LoginKind::RefreshToken, seed: None, of: Some(of?) })
}

/// The first refresh token may be one that was got elsewhere.
fn login(section: &mut Section<'_>, kind: LoginKind) -> Option<Grant> {
    let seed = match section.entry("refresh_token") {
        Some(_) => Some(source(section, "refresh_token", "REFRESH_TOKEN")?),
        None => None,
    };
    Some(Grant::Login(Login { kind, seed, of: None }))
}

fn redirect(section: &mut Section<'_>) -> Redirect {
    let Some(mut table) = section.section("redirect", "redirect", "redirect = { host = \"127.0.0.1\" }") else {
        return Redirect::default();
    };
    let localhost = table.choice("host", &[("127.0.0.1", false), ("localhost", true)], &[]).unwrap_or_default();
    let port = table.count("port", 1..=65535).and_then(|port| u16::try_from(port).ok());
    table.finish();
    Redirect { localhost, port }
}

fn exchange(section: &mut Section<'_>, context: Context<'_>, notes: &mut Notes) -> Option<Grant> {
    section.need("subject", "subject = { credential = \"NAME\" }");
    let subject = typed(section, "subject", context, notes);
    let has_actor = section.has("actor");
    let actor = typed(section, "actor", context, notes);
    let grant_type = grant_type(section, token_exchange::GRANT_TYPE);
    let requested = section
        .string("requested_token_type", "requested_token_type = \"urn:ietf:params:oauth:token-type:access_token\"");
    if has_actor && actor.is_none() {
        return None;
    }
    let made = |(input, token_type)| Subject { input, token_type };
    Some(Grant::TokenExchange(Box::new(TokenExchange {
        grant_type,
        subject: made(subject?),
        actor: actor.map(made),
        requested_token_type: requested.map(|text| text.value),
    })))
}

fn ciba(section: &mut Section<'_>) -> Option<Grant> {
    const HINTS: [&str; 3] = ["login_hint", "login_hint_token", "id_token_hint"];
    let named: Vec<&str> = HINTS.into_iter().filter(|key| section.has(key)).collect();
    match named.as_slice() {
        [] => section.need("login_hint", "login_hint = \"user@example.com\""),
        [_one] => {}
        [_first, second, ..] => {
            let help = "keep one of `login_hint`, `login_hint_token` and `id_token_hint` (CIBA, section 7.1)";
            section.doc.problem(&section.place(second), "more than one hint at who is asked", help);
        }
    }
    let text = section.string("login_hint", "login_hint = \"user@example.com\"");
    let mut hint = text.map(|text| Hint::LoginHint(text.value));
    if section.has("login_hint_token") {
        hint = source(section, "login_hint_token", "LOGIN_HINT_TOKEN").map(Hint::LoginHintToken);
    }
    if section.has("id_token_hint") {
        hint = source(section, "id_token_hint", "ID_TOKEN_HINT").map(Hint::IdTokenHint);
    }
    let _ = (section.entry("login_hint_token"), section.entry("id_token_hint"));
    let binding_message = section.string("binding_message", "binding_message = \"Order 17\"");
    if let Some(text) = &binding_message {
        let plain = |char: char| char.is_ascii_alphanumeric() || " +-_.,:#".contains(char);
        if text.value.len() > 64 || !text.value.chars().all(plain) {
            let message = format!("`{}` can't be read on every device", shown(&text.value));
            let help = "write at most 64 letters, digits, blanks and `+-_.,:#`";
            section.doc.problem(&text.span, message, help);
        }
    }
    let requested_expiry = section.duration("requested_expiry").map(|length| length.as_secs().max(1));
    let binding_message = binding_message.map(|text| text.value);
    Some(Grant::Ciba(Box::new(Ciba { hint: hint?, binding_message, requested_expiry })))
}
