//! `[proxy]`, `[[reverse]]`, `[socks]` and `[admin]`: the doors.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    primitives::{
        ListenerName,
        listen::{ListenAddress, UnixAddress},
    },
    route::Scheme,
    server::{ListenerTls, Mount, Unmatched},
};

use super::{
    super::{
        document::{At, Document, Section},
        problem::{Span, shown},
    },
    named,
    url::url,
};

/// Before the path of a socket file.
const UNIX: &str = "unix:";
/// Where the forward proxy listens when the file doesn't say.
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
/// Likewise the SOCKS door.
const SOCKS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1080);
/// Likewise the admin door.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9180);

/// `[proxy]`.
pub(in crate::config) struct Proxy {
    pub(in crate::config) listen: Vec<At<ListenAddress>>,
    pub(in crate::config) tls: Option<Tls>,
    pub(in crate::config) unmatched: Unmatched,
    pub(in crate::config) workers: Option<usize>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            listen: vec![At { value: PROXY.into(), span: 0..0 }],
            tls: None,
            unmatched: Unmatched::default(),
            workers: None,
        }
    }
}

/// `tls = { certificate, key }`.
pub(in crate::config) struct Tls {
    pub(in crate::config) files: ListenerTls,
    pub(in crate::config) key_span: Span,
}

/// One `[[reverse]]`.
pub(in crate::config) struct Reverse {
    pub(in crate::config) name: Option<At<ListenerName>>,
    pub(in crate::config) listen: Option<At<ListenAddress>>,
    pub(in crate::config) tls: Option<Tls>,
    pub(in crate::config) mounts: Vec<At<Mount>>,
}

/// `[socks]`.
pub(in crate::config) struct Socks {
    pub(in crate::config) listen: Vec<At<ListenAddress>>,
}

/// `[admin]`.
pub(in crate::config) struct Admin {
    pub(in crate::config) listen: At<ListenAddress>,
}

pub(in crate::config) fn proxy(mut section: Section<'_>) -> Proxy {
    let listen = listen(&mut section, "listen = \"127.0.0.1:8080\"", PROXY);
    let tls = tls(&mut section);
    let unmatched = section.choice("unmatched", &[("deny", Unmatched::Deny), ("tunnel", Unmatched::Tunnel)], &[]);
    let workers = section.count("workers", 1..=1024).and_then(|count| usize::try_from(count).ok());
    section.finish();
    Proxy { listen, tls, unmatched: unmatched.unwrap_or_default(), workers }
}

pub(in crate::config) fn socks(mut section: Section<'_>) -> Socks {
    let listen = listen(&mut section, "listen = \"127.0.0.1:1080\"", SOCKS);
    section.finish();
    Socks { listen }
}

/// One address or several.
fn listen(section: &mut Section<'_>, example: &'static str, fallback: SocketAddr) -> Vec<At<ListenAddress>> {
    if !section.has("listen") {
        let _ = section.entry("listen");
        addresses(section, &[]);
        return vec![At { value: fallback.into(), span: section.span.clone() }];
    }
    let list =
        section.one_or_more("listen", example, "an empty list listens nowhere: take the key out, or name an address");
    addresses(section, &list.map_or(Vec::new(), |list| list.value))
}

/// Those that are good, with `unix_mode` for those that are socket files.
fn addresses(section: &mut Section<'_>, texts: &[At<String>]) -> Vec<At<ListenAddress>> {
    let doc = section.doc;
    let mode = unix_mode(section);
    if section.has("unix_mode") && !texts.iter().any(|text| text.value.starts_with(UNIX)) {
        let help = "take it out, or listen on `\"unix:/run/cupbearer.sock\"`";
        doc.problem(&section.place("unix_mode"), "`unix_mode` is about socket files, and this listens on none", help);
    }
    texts.iter().filter_map(|text| address(doc, text, mode)).collect()
}

/// Who may connect to a socket file: as a rule, who we run as.
fn unix_mode(section: &mut Section<'_>) -> u32 {
    const OWN: u32 = 0o600;
    let doc = section.doc;
    let Some(text) = section.string("unix_mode", "unix_mode = \"0660\"") else { return OWN };
    let digits = text.value.strip_prefix('0').unwrap_or(&text.value);
    let octal = digits.len() == 3 && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if octal => mode,
        Ok(_) | Err(_) => {
            let message = format!("`{}` is no mode of a file", shown(&text.value));
            doc.problem(&text.span, message, "write four octal digits, as chmod has them: \"0660\"");
            OWN
        }
    }
}

pub(in crate::config) fn admin(mut section: Section<'_>) -> Admin {
    let fallback = At { value: ADMIN.into(), span: section.span.clone() };
    let listen = section.string("listen", "listen = \"127.0.0.1:9180\"");
    let listen = addresses(&mut section, listen.as_slice()).pop();
    section.finish();
    Admin { listen: listen.unwrap_or(fallback) }
}

pub(in crate::config) fn reverse(at: usize, mut section: Section<'_>) -> Reverse {
    let name = match section.string("name", "name = \"openai\"") {
        Some(text) => named(&section, &text, ListenerName::parse).map(|value| At { value, span: text.span }),
        None => ListenerName::parse(&format!("reverse-{}", at + 1))
            .ok()
            .map(|value| At { value, span: section.span.clone() }),
    };
    section.need("listen", "listen = \"127.0.0.1:8443\"");
    let listen = section.string("listen", "listen = \"127.0.0.1:8443\"");
    let listen = addresses(&mut section, listen.as_slice()).pop();
    let tls = tls(&mut section);
    let mounts = mounts(&mut section);
    section.finish();
    Reverse { name, listen, tls, mounts }
}

fn mounts(section: &mut Section<'_>) -> Vec<At<Mount>> {
    let doc = section.doc;
    let (single, several) = (section.has("upstream"), section.has("mounts"));
    if single && several {
        let help = "write one of them; `upstream = URL` is the same as `mounts = { \"/\" = URL }`";
        doc.problem(&section.place("mounts"), "both `upstream` and `mounts`", help);
    } else if !single && !several {
        section.need("upstream", "upstream = \"https://api.example.com\"");
    }
    let mut found: Vec<At<Mount>> = Vec::new();
    if let Some(text) = section.string("upstream", "upstream = \"https://api.example.com\"") {
        found.extend(mount(doc, "/", &text));
    }
    let mounts = section.string_table("mounts", "mounts = { \"/orders/\" = \"https://orders.example.com\" }");
    if section.is_empty_table("mounts") {
        let help = "name a prefix: mounts = { \"/orders/\" = \"https://orders.example.com\" }";
        doc.problem(&section.place("mounts"), "`mounts` is empty", help);
    }
    for (prefix, text) in mounts {
        if !(prefix.value.starts_with('/') && prefix.value.ends_with('/')) || prefix.value.contains("//") {
            let message = format!("the prefix `{}` doesn't start and end with `/`", shown(&prefix.value));
            let help = format!("write `\"/{}/\"`", shown(prefix.value.trim_matches('/')));
            doc.problem(&prefix.span, message, help);
            continue;
        }
        found.extend(mount(doc, &prefix.value, &text));
    }
    found.sort_by_key(|mount| std::cmp::Reverse(mount.value.prefix.len()));
    found
}

fn mount(doc: &Document<'_>, prefix: &str, text: &At<String>) -> Option<At<Mount>> {
    let url = url(doc, "upstream", text)?;
    if url.has_query {
        doc.problem(&text.span, "an upstream's URL can't have a query", "take it out");
        return None;
    }
    let base_path = url.path.trim_end_matches('/').to_owned();
    let mount = Mount { prefix: prefix.to_owned(), scheme: url.scheme, authority: url.authority, base_path };
    Some(At { value: mount, span: text.span.clone() })
}

fn tls(section: &mut Section<'_>) -> Option<Tls> {
    const EXAMPLE: &str = "tls = { certificate = \"proxy.pem\", key = \"proxy.key\" }";
    let mut tls = section.section("tls", "tls", EXAMPLE)?;
    tls.need("certificate", "certificate = \"proxy.pem\"");
    tls.need("key", "key = \"proxy.key\"");
    let certificate = tls.path("certificate", "certificate = \"proxy.pem\"");
    let key = tls.path("key", "key = \"proxy.key\"");
    tls.unsupported(&["client_ca"]);
    let doc = tls.doc;
    tls.finish();
    let (certificate, key) = (certificate?, key?);
    let present = [&certificate, &key].map(|file| readable(doc, file));
    present
        .iter()
        .all(|present| *present)
        .then_some(Tls { files: ListenerTls { certificate: certificate.value, key: key.value }, key_span: key.span })
}

/// Reports a file that can't be opened.
pub(in crate::config) fn readable(doc: &Document<'_>, file: &At<PathBuf>) -> bool {
    match std::fs::File::open(&file.value) {
        Ok(_) => true,
        Err(error) => {
            let message = format!("can't read {}: {error}", file.value.display());
            doc.problem(&file.span, message, "paths are relative to the config file");
            false
        }
    }
}

fn address(doc: &Document<'_>, text: &At<String>, mode: u32) -> Option<At<ListenAddress>> {
    if let Some(path) = text.value.strip_prefix(UNIX) {
        let path = socket_file(doc, &At { value: path.to_owned(), span: text.span.clone() })?;
        return Some(At { value: ListenAddress::Unix(UnixAddress { path, mode }), span: text.span.clone() });
    }
    if let Ok(value) = text.value.parse::<SocketAddr>() {
        return Some(At { value: value.into(), span: text.span.clone() });
    }
    let help = match text.value.strip_prefix("localhost:").or_else(|| text.value.strip_prefix(':')) {
        Some(port) => format!("write \"127.0.0.1:{}\"", shown(port)),
        None => "write an IP address and a port: \"127.0.0.1:8080\"".to_owned(),
    };
    doc.problem(&text.span, format!("`{}` is no address to listen on", shown(&text.value)), help);
    None
}

fn socket_file(doc: &Document<'_>, text: &At<String>) -> Option<PathBuf> {
    // `sun_path` has room for 108 bytes with the NUL at their end.
    const LONGEST: usize = 107;
    let path = doc.expand(text)?;
    let fault = if text.value.is_empty() || text.value.ends_with('/') {
        "a unix socket wants the path of a file"
    } else if text.value.contains('\0') || path.as_os_str().len() > LONGEST {
        "a unix socket's path has at most 107 bytes, and no NUL"
    } else {
        return Some(path);
    };
    doc.problem(&text.span, fault, "write \"unix:/run/cupbearer.sock\"");
    None
}

/// Whether a token or a key may cross the link to this host in clear text.
pub(in crate::config) fn is_loopback(host: &crate::primitives::Host) -> bool {
    match host {
        crate::primitives::Host::Name(name) => &**name == "localhost",
        crate::primitives::Host::Ip(address) => address.is_loopback(),
    }
}

/// For messages.
pub(in crate::config) fn origin(scheme: Scheme, authority: &crate::primitives::Authority) -> String {
    format!("{}://{authority}", scheme.as_str())
}
