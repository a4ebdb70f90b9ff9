//! `[upstream]`: the parent proxy.

use std::sync::Arc;

use ipnet::IpNet;

use crate::{
    credential::{ParentLogin, ParentProxy, Source},
    primitives::{Authority, HostError},
    route::{
        HostPattern,
        parent::{Parent, ParentProtocol, Past},
    },
};

use super::{
    super::{
        document::{At, Document, Section},
        problem::shown,
    },
    source::source,
};

const EXAMPLE: &str = "proxy = \"http://parent.example.com:3128\"";

pub(in crate::config) fn upstream(mut section: Section<'_>) -> Option<ParentProxy> {
    let doc = section.doc;
    section.need("proxy", EXAMPLE);
    let proxy = section.string("proxy", EXAMPLE).and_then(|text| proxy(doc, &text));
    let credentials = credentials(&mut section);
    let past = past(&mut section);
    let given = section.has("proxy_credentials");
    let place = section.place("proxy_credentials");
    section.finish();
    let (protocol, authority, user) = proxy?;
    let user = match (user, credentials) {
        (Some(user), Some(Credentials { user: Some(other), .. })) if user != other => {
            doc.problem(&place, "the URL of `proxy` names another user", "write the user in one of the two places");
            return None;
        }
        (None, Some(Credentials { user: None, .. })) => {
            doc.problem(&place, "`proxy_credentials` has no `username`", "write `username = \"…\"`");
            return None;
        }
        (Some(user), Some(Credentials { password, .. })) | (None, Some(Credentials { user: Some(user), password })) => {
            Some(ParentLogin::new(user, password))
        }
        // A faulty table has its problems reported.
        (_, None) if given => return None,
        (Some(user), None) => Some(ParentLogin::new(user, None)),
        (None, None) => None,
    };
    let parent = Arc::new(Parent { protocol, authority, past });
    Some(ParentProxy { parent, login: user.map(Arc::new) })
}

struct Credentials {
    user: Option<String>,
    password: Option<Source>,
}

fn credentials(section: &mut Section<'_>) -> Option<Credentials> {
    const TABLE: &str = "proxy_credentials = { username = \"cupbearer\", password = { env = \"PROXY_PASSWORD\" } }";
    let mut table = section.section("proxy_credentials", "proxy_credentials", TABLE)?;
    let user = table.string("username", "username = \"cupbearer\"");
    let password = source(&mut table, "password", "PROXY_PASSWORD");
    let doc = table.doc;
    table.finish();
    if let Some(user) = user.as_ref().filter(|user| !is_user(&user.value)) {
        doc.problem(
            &user.span,
            "that is no user name: no colon and no control character",
            "write it as the proxy has it",
        );
        return None;
    }
    Some(Credentials { user: user.map(|user| user.value), password: Some(password?) })
}

/// Basic ends the name at a colon (RFC 7617 §2).
fn is_user(text: &str) -> bool {
    !text.is_empty() && text.len() < 256 && !text.contains(|letter: char| letter == ':' || letter.is_control())
}

/// `http://[USER@]HOST:PORT`, `socks5://…`.
fn proxy(doc: &Document<'_>, text: &At<String>) -> Option<(ParentProtocol, Authority, Option<String>)> {
    match parse(&text.value) {
        Ok(found) => Some(found),
        Err(mistake) => {
            // What stands before an `@` may be a password.
            if text.value.contains('@') {
                doc.hide(&text.span);
                doc.problem(&text.span, format!("`proxy` is no usable URL: {}", mistake.reason()), mistake.help());
            } else {
                let message = format!("`{}` is no usable proxy: {}", shown(&text.value), mistake.reason());
                doc.problem(&text.span, message, mistake.help());
            }
            None
        }
    }
}

enum Mistake {
    Scheme,
    Password,
    User,
    Path,
    Host(HostError),
}

impl Mistake {
    fn reason(&self) -> String {
        match self {
            Self::Scheme => "it starts with neither http:// nor socks5://".to_owned(),
            Self::Password => "it holds a password".to_owned(),
            Self::User => "its user can't be read".to_owned(),
            Self::Path => "it has a path".to_owned(),
            Self::Host(error) => error.to_string(),
        }
    }

    fn help(&self) -> String {
        match self {
            Self::Password | Self::User => {
                "write `proxy_credentials = { username = \"…\", password = { env = \"PROXY_PASSWORD\" } }`, and change \
                 the password: it has been in a file"
                    .to_owned()
            }
            Self::Scheme | Self::Path | Self::Host(_) => format!("write {EXAMPLE}"),
        }
    }
}

fn parse(text: &str) -> Result<(ParentProtocol, Authority, Option<String>), Mistake> {
    let (scheme, rest) = text.split_once("://").ok_or(Mistake::Scheme)?;
    let protocol = match scheme {
        "http" => ParentProtocol::Http,
        // Names are resolved over there in both spellings.
        "socks5" | "socks5h" => ParentProtocol::Socks5,
        _ => return Err(Mistake::Scheme),
    };
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => return Err(Mistake::Password),
        Some((user, _)) if user.contains('%') || !is_user(user) => return Err(Mistake::User),
        Some((user, host)) => (Some(user.to_owned()), host),
        None => (None, rest),
    };
    let host = host.strip_suffix('/').unwrap_or(host);
    if host.contains(['/', '?', '#']) {
        return Err(Mistake::Path);
    }
    // curl and browsers don't agree on a default.
    Ok((protocol, Authority::parse(host, None).map_err(Mistake::Host)?, user))
}

fn past(section: &mut Section<'_>) -> Vec<Past> {
    let doc = section.doc;
    let list = section.strings("no_proxy", "no_proxy = [\"*.internal\", \"10.0.0.0/8\"]", "leave it out for none");
    let entry = |text: &At<String>| {
        let network = text.value.contains('/').then(|| text.value.parse::<IpNet>().ok());
        let parsed = match network {
            Some(network) => network.map(|network| Past::Network(network.trunc())),
            None => HostPattern::parse(&text.value).ok().map(Past::Host),
        };
        if parsed.is_none() {
            let message = format!("`{}` is neither a host nor a network", shown(&text.value));
            doc.problem(&text.span, message, "write \"wiki.example.com\", \"*.internal\" or \"10.0.0.0/8\"");
        }
        parsed
    };
    list.map_or(Vec::new(), |list| list.value.iter().filter_map(entry).collect())
}
