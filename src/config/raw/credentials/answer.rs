//! `answer`: where in a server's answer things stand, and `inject`: where the token goes in a
//! request.

use http::{HeaderName, header};

use crate::credential::{
    inject::{Injection, Template},
    step::AnswerFormat,
};

use super::{
    super::{
        super::{
            document::{At, Section},
            preset::Preset,
            problem::{listed, shown},
        },
        fields::pointer,
    },
    Kind,
};

pub(super) fn answer(section: &mut Section<'_>, kind: Kind, preset: &Preset) -> AnswerFormat {
    let mut format = AnswerFormat { bearer: kind.is_http(), ..AnswerFormat::default() };
    format.extra = preset.extra.iter().map(|(name, pointer)| ((*name).to_owned(), (*pointer).to_owned())).collect();
    if kind == Kind::GithubApp {
        format.token = Some("/token".to_owned());
        format.expires_at = Some("/expires_at".to_owned());
    }
    let Some(mut table) = section.section("answer", "answer", "answer = { token = \"/data/token\" }") else {
        return format;
    };
    let mut set = |key: &'static str, place: &mut Option<String>| {
        if let Some(text) = table.string(key, &format!("{key} = \"/data/{key}\"")) {
            *place = pointer(&table, &text).or(place.take());
        }
    };
    set("token", &mut format.token);
    set("token_type", &mut format.token_type);
    set("expires_in", &mut format.expires_in);
    set("expires_at", &mut format.expires_at);
    set("scope", &mut format.scope);
    set("refresh_token", &mut format.refresh_token);
    set("error", &mut format.error);
    set("error_description", &mut format.error_description);
    if table.has("expires_in") && table.has("expires_at") {
        let help = "keep the one that the server's answers have";
        table.doc.problem(&table.place("expires_at"), "both `expires_in` and `expires_at`", help);
    }
    for (name, text) in table.string_table("extra", "extra = { instance_url = \"/instance_url\" }") {
        if let Some(text) = pointer(&table, &text) {
            format.extra.retain(|(known, _)| *known != name.value);
            format.extra.push((name.value, text));
        }
    }
    table.finish();
    format
}

/// `inject`; `username` of the grant "basic" makes it for it.
pub(super) fn injection(section: &mut Section<'_>, username: Option<&At<String>>) -> Option<Injection> {
    let mut injection = Injection::default();
    if let Some(name) = username {
        injection.template = basic(section, name)?;
    }
    if !section.has("inject") {
        let _ = section.entry("inject");
        return Some(injection);
    }
    let mut table = section.section("inject", "inject", "inject = { header = \"x-api-key\" }")?;
    let text = table.string("header", "header = \"x-api-key\"");
    let field = text.as_ref().map(|text| field(&table, text));
    let template = template(&mut table, username.is_some());
    let is_elsewhere = field.as_ref().is_some_and(|field| field.as_ref() != Some(&header::AUTHORIZATION));
    table.finish();
    injection.template = match template? {
        Some(template) => template,
        None if username.is_none() && is_elsewhere => Template::parse("{token}").ok()?,
        None => injection.template,
    };
    if let Some(field) = field {
        injection.field = field?;
    }
    Some(injection)
}

/// `None`: a problem; `Some(None)`: neither `scheme` nor `template`.
#[expect(clippy::option_option, reason = "absent and faulty are two things here")]
fn template(table: &mut Section<'_>, is_basic: bool) -> Option<Option<Template>> {
    let keys = ["scheme", "template"].map(|key| table.has(key));
    let (scheme, template) =
        (table.string("scheme", "scheme = \"Token\""), table.string("template", "template = \"Token {token}\""));
    let (key, text, source) = match (scheme, template) {
        _ if keys == [true, true] => {
            let help = "keep `scheme` for a word before the token, or `template` for the whole value";
            table.doc.problem(&table.place("template"), "both `scheme` and `template`", help);
            return None;
        }
        (Some(scheme), _) => ("scheme", format!("{} {{token}}", scheme.value), scheme),
        (_, Some(template)) => ("template", template.value.clone(), template),
        (None, None) => return (keys == [false, false]).then_some(None),
    };
    if is_basic {
        let message = format!("`{key}` doesn't go with the grant \"basic\"");
        table.doc.problem(&table.place(key), message, "take it out, or write the grant \"static\"");
        return None;
    }
    let is_word = key == "template" || source.value.bytes().all(|byte| byte.is_ascii_graphic());
    match Template::parse(&text) {
        Ok(template) if is_word => Some(Some(template)),
        Ok(_) => {
            let message = format!("`{}` is no scheme", shown(&source.value));
            table.doc.problem(&source.span, message, "write one word: scheme = \"Token\"");
            None
        }
        Err(error) => {
            let message = format!("`{}` is no template: {error}", shown(&source.value));
            let help = "write text, `{token}`, and `b64(…)` around either: \"Basic b64(x-access-token:{token})\"";
            table.doc.problem(&source.span, message, help);
            None
        }
    }
}

/// RFC 7617, section 2: a name has no colon.
fn basic(section: &Section<'_>, name: &At<String>) -> Option<Template> {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && !matches!(byte, b':' | b'(' | b')' | b'{' | b'}');
    if name.value.bytes().all(plain) {
        return Template::parse(&format!("Basic b64({}:{{token}})", name.value)).ok();
    }
    let message = format!("`{}` can't be a user's name here", shown(&name.value));
    section.doc.problem(&name.span, message, "write visible ASCII characters but `:`, `(`, `)`, `{` and `}`");
    None
}

/// A field that a token may stand in.
fn field(table: &Section<'_>, text: &At<String>) -> Option<HeaderName> {
    const OTHERS: &[&str] = &[
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "expect",
        "via",
        "proxy-authorization",
        "proxy-connection",
        "dpop",
    ];
    let found = HeaderName::from_bytes(text.value.as_bytes()).ok();
    if found.is_none() {
        let message = format!("`{}` is no name of a field", shown(&text.value));
        table.doc.problem(&text.span, message, "write header = \"x-api-key\"");
    }
    let found = found?;
    if OTHERS.contains(&found.as_str()) {
        let message = format!("a token can't stand in `{found}`");
        table.doc.problem(&text.span, message, format!("write another field than {}", listed(OTHERS.iter().copied())));
        return None;
    }
    Some(found)
}
