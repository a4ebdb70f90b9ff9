//! What a token request asks for besides what its grant says, and how it is written.

use http::Method;

use crate::credential::step::{Ask, BodyFormat};

use super::{
    super::{
        super::{
            document::{At, Document, Section},
            mask,
            preset::{Audience, Preset, Scopes},
            problem::{Span, shown},
        },
        fields::headers,
    },
    Kind,
    input::Context,
};

pub(super) fn ask(section: &mut Section<'_>, context: Context<'_>) -> Ask {
    let kind = context.kind;
    let mut ask = Ask { method: Method::POST, ..Ask::default() };
    if kind.is_served() {
        ask.audience = audience(section, context);
        ask.resource = resource(section, context);
    }
    if kind.is_scoped() {
        let list = scopes(section, "scopes");
        if kind == Kind::ClientCredentials && !section.has("scopes") && context.preset.scopes != Scopes::Any {
            let example = if context.preset.scopes == Scopes::Default {
                "scopes = [\"https://graph.microsoft.com/.default\"]"
            } else {
                "scopes = [\"orders/read\"]"
            };
            section.need("scopes", example);
        }
        check_scopes(section.doc, &list, kind, context.preset, &section.place("scopes"));
        ask.scopes = list.into_iter().map(|scope| scope.value).collect();
    }
    if kind.is_served() || kind == Kind::Http {
        ask.params = params(section, "params", kind);
        let bodies = [("form", BodyFormat::Form), ("json", BodyFormat::Json)];
        ask.body = section.choice("body", &bodies, &[]).unwrap_or_default();
        ask.method = method(section, kind);
    }
    if kind == Kind::MetadataServer {
        ask.method = Method::GET;
    }
    if kind.is_served() || kind.is_http() {
        ask.headers = headers(section);
    }
    ask
}

fn audience(section: &mut Section<'_>, context: Context<'_>) -> Vec<String> {
    const EXAMPLE: &str = "audience = \"https://api.example.com\"";
    let list = section.one_or_more("audience", EXAMPLE, "leave `audience` out to ask for none");
    let list = list.map_or(Vec::new(), |list| list.value);
    let (kind, preset) = (context.kind, context.preset);
    if let Some(second) = list.get(1).filter(|_| kind != Kind::TokenExchange) {
        let help = "keep one; only a token exchange may ask for several (RFC 8693, section 2.1)";
        section.doc.problem(&second.span, "more than one `audience`", help);
    }
    let place = section.place("audience");
    match preset.audience {
        Audience::Never if !list.is_empty() => {
            let message = format!("{} knows no `audience`", preset.name);
            section.doc.problem(&place, message, "name the API by a scope, and take `audience` out");
        }
        Audience::ExchangeOnly if !list.is_empty() && kind != Kind::TokenExchange => {
            let message = format!("{} takes `audience` in a token exchange only", preset.name);
            let help = "give the client an audience mapper, or a client scope that has one, and name that scope";
            section.doc.problem(&place, message, help);
        }
        Audience::Wanted if kind == Kind::ClientCredentials && !section.has("audience") => {
            let message = format!("{} needs an `audience` to know which API the token is for", preset.name);
            section.doc.warning(&place, message, format!("add `{EXAMPLE}`"));
        }
        Audience::Never | Audience::ExchangeOnly | Audience::Wanted | Audience::Taken => {}
    }
    list.into_iter().map(|item| item.value).collect()
}

/// RFC 8707.
fn resource(section: &mut Section<'_>, context: Context<'_>) -> Vec<String> {
    const EXAMPLE: &str = "resource = \"https://api.example.com\"";
    let list = section.one_or_more("resource", EXAMPLE, "leave `resource` out to ask for none (RFC 8707)");
    let list = list.map_or(Vec::new(), |list| list.value);
    if !list.is_empty() && !context.preset.resource {
        let message = format!("{} doesn't know `resource` (RFC 8707)", context.preset.name);
        section.doc.problem(&section.place("resource"), message, "take it out, and name the API by a scope");
    }
    for item in &list {
        if !item.value.contains(':') || item.value.contains('#') {
            let message =
                format!("`{}` is no resource: it wants an absolute URI without a fragment", shown(&item.value));
            section.doc.problem(&item.span, message, format!("write `{EXAMPLE}` (RFC 8707, section 2)"));
        }
    }
    list.into_iter().map(|item| item.value).collect()
}

/// A list of scopes, each of which could stand in a request.
pub(in crate::config) fn scopes(section: &mut Section<'_>, key: &'static str) -> Vec<At<String>> {
    let (example, empty) = if key == "scopes" {
        ("scopes = [\"read:orders\"]", "leave `scopes` out to ask for the server's default")
    } else {
        ("max_scopes = [\"write:orders\"]", "leave `max_scopes` out to allow no others")
    };
    let mut scopes = Vec::new();
    for scope in section.strings(key, example, empty).map_or(Vec::new(), |list| list.value) {
        // RFC 6749, section 3.3: scope-token.
        if scope.value.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && !matches!(byte, b'"' | b'\\')) {
            scopes.push(scope);
            continue;
        }
        let parts: Vec<String> = scope.value.split_whitespace().map(|part| format!("\"{}\"", shown(part))).collect();
        let message = format!("`{}` is no scope", shown(&scope.value));
        section.doc.problem(&scope.span, message, format!("one scope a string: [{}]", parts.join(", ")));
    }
    scopes
}

/// What a grant, or a provider, wants of scopes; those of a route among them.
pub(in crate::config) fn check_scopes(
    doc: &Document<'_>,
    scopes: &[At<String>],
    kind: Kind,
    preset: &Preset,
    place: &Span,
) {
    if kind == Kind::Ciba && !scopes.iter().any(|scope| scope.value == "openid") {
        let help = "add \"openid\": scopes = [\"openid\"] (CIBA, section 7.1)";
        doc.problem(place, "the grant \"ciba\" wants the scope `openid`", help);
    }
    if kind != Kind::ClientCredentials {
        return;
    }
    match preset.scopes {
        Scopes::Default => {
            for scope in scopes.iter().filter(|scope| !scope.value.ends_with("/.default")) {
                let message = format!("{} wants scopes that end in `/.default`", preset.name);
                let help = format!("write the resource and `/.default`, such as \"{}/.default\"", shown(&scope.value));
                doc.problem(&scope.span, message, help);
            }
            if let Some(second) = scopes.get(1) {
                let message = format!("{} gives tokens for one resource at a time", preset.name);
                doc.problem(&second.span, message, "keep one scope, and make a credential for each other resource");
            }
        }
        Scopes::Qualified => {
            for scope in scopes.iter().filter(|scope| !scope.value.contains('/')) {
                let message = format!("{} wants scopes with their resource server", preset.name);
                let help = format!("write \"RESOURCE-SERVER/{}\"", shown(&scope.value));
                doc.problem(&scope.span, message, help);
            }
        }
        Scopes::Any | Scopes::Wanted => {}
    }
}

/// Extra parameters: those that something else in the file decides are refused.
pub(super) fn params(section: &mut Section<'_>, key: &'static str, kind: Kind) -> Vec<(String, String)> {
    let doc = section.doc;
    let mut params = Vec::new();
    for (name, value) in section.string_table(key, &format!("{key} = {{ organization = \"org_1\" }}")) {
        if let Some(own) = own_key(key, &name.value, kind) {
            doc.hide(&value.span);
            doc.problem(&name.span, format!("`{}` is no extra parameter", name.value), own.help());
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

/// Who decides about a parameter.
enum Own {
    Key(String),
    Login,
}

impl Own {
    fn help(&self) -> String {
        match self {
            Self::Key(key) => format!("use the key `{key}` of the credential"),
            Self::Login => "take it out: `cupbearer login` sets it".to_owned(),
        }
    }
}

fn own_key(table: &str, name: &str, kind: Kind) -> Option<Own> {
    let key = match name {
        "client_id" | "audience" | "resource" if kind != Kind::Http => name,
        "scope" if kind != Kind::Http => "scopes",
        "grant_type" if kind != Kind::Http => "grant",
        "client_secret" | "client_assertion" | "client_assertion_type" => "client_auth",
        "refresh_token" if kind.is_login() => name,
        "subject_token" | "subject_token_type" if kind == Kind::TokenExchange => "subject",
        "actor_token" | "actor_token_type" if kind == Kind::TokenExchange => "actor",
        "requested_token_type" if kind == Kind::TokenExchange => name,
        "assertion" if matches!(kind, Kind::JwtBearer | Kind::Saml2Bearer) => name,
        "login_hint" | "login_hint_token" | "id_token_hint" | "binding_message" | "requested_expiry"
            if kind == Kind::Ciba =>
        {
            name
        }
        "redirect_uri" | "response_type" | "state" | "code_challenge" | "code_challenge_method"
            if table == "authorize_params" =>
        {
            return Some(Own::Login);
        }
        _ => return None,
    };
    Some(Own::Key(key.to_owned()))
}

fn method(section: &mut Section<'_>, kind: Kind) -> Method {
    let mut methods = vec![("POST", Method::POST), ("PUT", Method::PUT), ("PATCH", Method::PATCH)];
    let mut usual = Method::POST;
    if kind == Kind::Http {
        methods.push(("GET", Method::GET));
        if !["json", "params"].iter().any(|key| section.has(key)) {
            usual = Method::GET;
        }
    }
    let names: Vec<(&'static str, usize)> = methods.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
    let chosen = section.choice("method", &names, &[]).map(|at| methods[at].1.clone());
    if let Some(Method::GET) = chosen
        && let Some(key) = ["json", "params"].into_iter().find(|key| section.has(key))
    {
        let message = format!("`{key}` makes a body, and GET has none");
        section.doc.problem(&section.place(key), message, "write `method = \"POST\"`, or put it into the `url`");
    }
    chosen.unwrap_or(usual)
}
