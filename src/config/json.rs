//! Values of the file as JSON, for what is passed on to a server as it is: claims, bodies.

use serde_json::{Map, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    document::{At, Document, Section},
    mask,
    problem::shown,
};

/// A table under names of the operator's own, in the order of the file.
pub(super) fn members(section: &mut Section<'_>, key: &'static str, example: &str) -> Vec<(At<String>, Value)> {
    let doc = section.doc;
    let Some((_, value)) = section.entry(key) else { return Vec::new() };
    let Some(table) = value.get_ref().as_table() else {
        section.wrong_kind(value, key, "a table", example);
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, value) in table.iter() {
        let at = At { value: name.get_ref().to_string(), span: name.span() };
        if value.get_ref().is_str() && mask::names_a_secret(&at.value) {
            secret(doc, &at, value);
        } else if let Some(json) = json(doc, value) {
            found.push((at, json));
        }
    }
    found.sort_by_key(|(name, _)| name.span.start);
    found
}

/// A secret in the file, under a name that says so.
fn secret(doc: &Document<'_>, name: &At<String>, value: &Spanned<DeValue<'_>>) {
    doc.hide(&value.span());
    let message = format!("`{}` looks like a secret, and a secret is never written in the file", shown(&name.value));
    doc.problem(&name.span, message, "take it out, and change the secret: it has been in a file");
}

/// `None`: a problem was reported.
fn json(doc: &Document<'_>, value: &Spanned<DeValue<'_>>) -> Option<Value> {
    let number = |text: &str| serde_json::from_str(&text.replace(['_', '+'], "")).ok().filter(Value::is_number);
    let read = match value.get_ref() {
        DeValue::String(text) => Some(Value::String(text.to_string())),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(Value::from),
        DeValue::Float(float) => number(float.as_str()),
        DeValue::Boolean(flag) => Some(Value::Bool(*flag)),
        DeValue::Datetime(moment) => Some(Value::String(moment.to_string())),
        DeValue::Array(items) => {
            return items.iter().map(|item| json(doc, item)).collect::<Option<Vec<_>>>().map(Value::Array);
        }
        DeValue::Table(table) => return object(doc, table).map(Value::Object),
    };
    if read.is_none() {
        doc.problem(&value.span(), "this number can't be written as JSON", "write it as a string");
    }
    read
}

fn object(doc: &Document<'_>, table: &DeTable<'_>) -> Option<Map<String, Value>> {
    let members = table.iter().map(|(name, value)| Some((name.get_ref().to_string(), json(doc, value)?)));
    members.collect()
}
