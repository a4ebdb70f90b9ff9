//! JWTs that are made here: what `jwt = { … }` and `client_auth` have in common, and what
//! only the former knows.

use std::{path::PathBuf, time::Duration};

use crate::credential::{
    sign::Algorithm,
    step::{Assertion, AudMode, KeySource},
};

use super::{
    super::{
        super::{
            document::{At, Section},
            json,
            preset::Claims,
            problem::{Span, listed, shown},
        },
        listeners::readable,
        source::source,
    },
    Kind,
    input::{Context, Notes, Signed},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `jwt = { … }`, of an input or of `self_signed_jwt`.
pub(super) fn jwt(section: &mut Section<'_>, context: Context<'_>, notes: &mut Notes) -> Option<Assertion> {
    const EXAMPLE: &str = "jwt = { key = { file = \"key.pem\" } }";
    let mut table = section.section("jwt", "jwt", EXAMPLE)?;
    let defaults = context.preset.jwt(context.kind);
    let iss = table.string("iss", "iss = \"my-client\"").map(|text| text.value);
    if let Some(sub) = defaults.sub {
        table.need("sub", &format!("sub = \"{sub}\""));
    }
    let sub = table.string("sub", "sub = \"user@example.com\"").map(|text| text.value);
    let backdate = table.duration_or_zero("backdate").map(|length| length.value).unwrap_or_default();
    let own_audience = table.has("aud") || table.has("aud_mode");
    // Google: the token's audience or its scopes, not both.
    let claimed = defaults.scope_claim && (context.kind != Kind::SelfSignedJwt || !own_audience);
    let scope_claim = table.boolean("scope_claim").map_or(claimed, |flag| flag.value);
    let jti = table.boolean("jti").is_none_or(|flag| flag.value);
    let without_server = context.kind == Kind::SelfSignedJwt;
    let aud = if without_server && !own_audience {
        if !(scope_claim && context.has_scopes) {
            table.need("aud", "aud = \"https://api.example.com/\"` or `aud_mode = \"none\"");
        }
        let _ = (table.entry("aud"), table.entry("aud_mode"));
        Some(At { value: AudMode::Absent, span: table.span.clone() })
    } else {
        audience(&mut table, defaults, Modes { absent: true, server: !without_server })
    };
    let common = common(&mut table, defaults, DAY);
    table.finish();
    let Common { keys, lifetime, typ, claims } = common?;
    let aud = aud?;
    note(notes, &aud, &keys);
    Some(Assertion { keys, iss, sub, aud: aud.value, lifetime, backdate, typ, scope_claim, jti, claims })
}

/// For the check of who may be shown which assertion.
pub(super) fn note(notes: &mut Notes, aud: &At<AudMode>, keys: &[KeySource]) {
    let keys = keys.iter().map(|key| key.source.clone()).collect();
    notes.signed.push(Signed { span: aud.span.clone(), aud: aud.value.clone(), keys });
}

/// What every JWT has that is signed with a private key.
pub(super) struct Common {
    pub(super) keys: Vec<KeySource>,
    pub(super) lifetime: Duration,
    pub(super) typ: Option<String>,
    pub(super) claims: Vec<(String, serde_json::Value)>,
}

pub(super) fn common(table: &mut Section<'_>, defaults: &Claims, longest: Duration) -> Option<Common> {
    let keys = keys(table, defaults);
    let lifetime = lifetime(table, defaults, longest);
    let typ = table.string("typ", "typ = \"client-authentication+jwt\"").map(|text| text.value);
    let claims = claims(table);
    Some(Common { keys: keys?, lifetime, typ, claims })
}

pub(super) fn lifetime(table: &mut Section<'_>, defaults: &Claims, longest: Duration) -> Duration {
    let Some(lifetime) = table.duration("lifetime") else { return defaults.lifetime };
    if lifetime > longest || lifetime < Duration::from_secs(1) {
        let message = "`lifetime` is out of range";
        let most = longest.as_secs() / 60;
        table.doc.problem(&table.place("lifetime"), message, format!("write from \"1s\" to \"{most}m\""));
    }
    lifetime
}

fn claims(table: &mut Section<'_>) -> Vec<(String, serde_json::Value)> {
    let doc = table.doc;
    let mut found = json::members(table, "claims", "claims = { org_id = \"org_1\" }");
    found.retain(|(name, _)| {
        let own = match name.value.as_str() {
            "iss" | "sub" | "aud" | "jti" => name.value.as_str(),
            "iat" => "backdate",
            "exp" => "lifetime",
            "scope" => "scope_claim",
            _ => return true,
        };
        let message = format!("`{}` is no further claim", name.value);
        doc.problem(&name.span, message, format!("it follows from other keys: see `{own}`"));
        false
    });
    found.into_iter().map(|(name, value)| (name.value, value)).collect()
}

/// One key, or two while one takes the other's place.
fn keys(table: &mut Section<'_>, defaults: &Claims) -> Option<Vec<KeySource>> {
    let key = source(table, "key", "CLIENT_KEY");
    let algorithm = algorithm(table, defaults);
    let key_id = table.string("key_id", "key_id = \"key-1\"").map(|text| text.value);
    let certificate = certificate(table, "certificate");
    if defaults.wants_certificate {
        table.need("certificate", "certificate = \"client.pem\"");
    }
    let first = key.map(|source| KeySource { source, algorithm, key_id, certificate });
    let has_next = table.has("next_key");
    if has_next && defaults.wants_certificate {
        table.need("next_certificate", "next_certificate = \"next.pem\"");
    }
    let next = has_next.then(|| source(table, "next_key", "NEXT_CLIENT_KEY"));
    let _ = table.entry("next_key");
    let key_id = table.string("next_key_id", "next_key_id = \"key-2\"").map(|text| text.value);
    let certificate = self::certificate(table, "next_certificate");
    for key in ["next_key_id", "next_certificate"] {
        if table.has(key) && !has_next {
            let help = "add `next_key`, or take it out";
            table.doc.problem(&table.place(key), format!("`{key}` goes with `next_key`"), help);
        }
    }
    let mut keys = vec![first?];
    if let Some(next) = next {
        keys.push(KeySource { source: next?, algorithm, key_id, certificate });
    }
    Some(keys)
}

fn certificate(table: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let file = table.path(key, &format!("{key} = \"client.pem\""))?;
    readable(table.doc, &file).then_some(file.value)
}

fn algorithm(table: &mut Section<'_>, defaults: &Claims) -> Option<Algorithm> {
    let Some(text) = table.string("alg", "alg = \"RS256\"") else { return defaults.algorithm };
    let asymmetric = Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric());
    let known: Vec<&str> = asymmetric.map(Algorithm::as_str).collect();
    let found = named_algorithm(table, &text, &known)?;
    if !defaults.algorithms.is_empty() && !defaults.algorithms.contains(&found) {
        let message = format!("the preset's provider doesn't take {found}");
        let taken = defaults.algorithms.iter().map(|algorithm| algorithm.as_str());
        table.doc.problem(&text.span, message, format!("write one of {}", listed(taken)));
    }
    Some(found)
}

/// One of `known`.
pub(super) fn named_algorithm(table: &Section<'_>, text: &At<String>, known: &[&str]) -> Option<Algorithm> {
    let found = Algorithm::parse(&text.value).ok().filter(|algorithm| known.contains(&algorithm.as_str()));
    if found.is_none() {
        let message = format!("`{}` is no algorithm for this", shown(&text.value));
        table.doc.problem(&text.span, message, format!("write one of {}", listed(known.iter().copied())));
    }
    found
}

/// Which audience modes make sense.
#[derive(Clone, Copy)]
pub(super) struct Modes {
    /// `none`: no audience at all.
    pub(super) absent: bool,
    /// Those that a server answers.
    pub(super) server: bool,
}

/// `aud = "…"`, or `aud_mode`; else what the preset says.
pub(super) fn audience(table: &mut Section<'_>, defaults: &Claims, modes: Modes) -> Option<At<AudMode>> {
    if table.has("aud") && table.has("aud_mode") {
        let help = "keep `aud` for an audience of your own, or `aud_mode`";
        table.doc.problem(&table.place("aud_mode"), "both `aud` and `aud_mode`", help);
        let _ = (table.entry("aud"), table.entry("aud_mode"));
        return None;
    }
    let span = audience_span(table);
    let literal = table.string("aud", "aud = \"https://auth.example.com/\"").map(|text| text.value);
    #[derive(Clone, Copy)]
    enum Mode {
        Issuer,
        TokenEndpoint,
        Endpoint,
        Absent,
    }
    let server = [("issuer", Mode::Issuer), ("token_endpoint", Mode::TokenEndpoint), ("endpoint", Mode::Endpoint)];
    let mut choices: Vec<(&'static str, Mode)> = Vec::new();
    if modes.server {
        choices.extend(server);
    }
    if modes.absent {
        choices.push(("none", Mode::Absent));
    }
    let has_mode = table.has("aud_mode");
    let mode = table.choice("aud_mode", &choices, &[]);
    let value = match (literal, mode) {
        (Some(text), _) => AudMode::Literal(text),
        (None, Some(Mode::Issuer)) => AudMode::Issuer,
        (None, Some(Mode::TokenEndpoint)) => AudMode::TokenEndpoint,
        (None, Some(Mode::Endpoint)) => AudMode::Endpoint,
        (None, Some(Mode::Absent)) => AudMode::Absent,
        (None, None) if has_mode || table.has("aud") => return None,
        (None, None) => defaults.aud.mode(),
    };
    Some(At { value, span })
}

fn audience_span(table: &Section<'_>) -> Span {
    if table.has("aud") { table.place("aud") } else { table.place("aud_mode") }
}
