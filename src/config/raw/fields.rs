//! Fields of a request of ours, and places in an answer to it.

use http::{HeaderName, HeaderValue, header};

use super::super::{
    document::{At, Section},
    mask,
    problem::shown,
};

/// `headers = { … }`: further fields.
pub(in crate::config) fn headers(section: &mut Section<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let doc = section.doc;
    let mut headers = Vec::new();
    for (name, value) in section.string_table("headers", "headers = { Metadata-Flavor = \"Google\" }") {
        let Ok(field) = HeaderName::from_bytes(name.value.as_bytes()) else {
            let message = format!("`{}` is no name of a field", shown(&name.value));
            doc.problem(&name.span, message, "write headers = { Metadata-Flavor = \"Google\" }");
            continue;
        };
        if mask::names_a_secret(field.as_str()) {
            doc.hide(&value.span);
            let message = format!("`{field}` is a secret's field, and a secret is never written in the file");
            doc.problem(&name.span, message, "use `client_auth`, or `authorization` with the grant \"http\"");
            continue;
        }
        if is_ours(&field) {
            let message = format!("`{field}` can't be set");
            doc.problem(&name.span, message, "take it out: it follows from the request");
            continue;
        }
        match HeaderValue::from_str(&value.value) {
            Ok(value) => headers.push((field, value)),
            Err(_) => doc.problem(&value.span, "that can't stand in a field", "write visible ASCII characters"),
        }
    }
    headers
}

fn is_ours(field: &HeaderName) -> bool {
    const OURS: [HeaderName; 9] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::PROXY_AUTHORIZATION,
    ];
    OURS.contains(field) || field == "dpop"
}

/// A JSON pointer (RFC 6901, section 3).
pub(in crate::config) fn pointer(table: &Section<'_>, text: &At<String>) -> Option<String> {
    let escapes = text.value.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if text.value.starts_with('/') && escapes {
        return Some(text.value.clone());
    }
    let message = format!("`{}` is no JSON pointer", shown(&text.value));
    let help = format!("write \"/{}\"", shown(&text.value.replace('.', "/")));
    table.doc.problem(&text.span, message, help);
    None
}
