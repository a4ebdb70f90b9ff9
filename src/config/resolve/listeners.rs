//! The doors against each other: names and addresses are taken once.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    primitives::{ListenAddress, ListenerName},
    server::{ForwardListener, ReverseListener, SocksListener},
};

use super::{
    super::{
        document::{At, Document},
        problem::Span,
        raw::{listeners::Tls, source::check_private},
    },
    raw,
};

#[derive(Default)]
pub(super) struct Listeners {
    pub(super) forward: Vec<ForwardListener>,
    pub(super) reverse: Vec<ReverseListener>,
    pub(super) socks: Vec<SocksListener>,
}

pub(super) fn listeners(doc: &Document<'_>, raw: &raw::Config) -> Listeners {
    let mut listeners = Listeners::default();
    // A file with other listeners only wants no forward proxy.
    let others = !raw.reverse.is_empty() || raw.socks.is_some();
    let fallback = (!others).then(raw::listeners::Proxy::default);
    if let Some(proxy) = raw.proxy.as_ref().or(fallback.as_ref()) {
        forward(doc, proxy, &mut listeners);
    }
    if let Some(door) = &raw.socks {
        socks(doc, door, &mut listeners);
    }
    reverse(doc, raw, &mut listeners);
    addresses(doc, raw);
    listeners
}

fn forward(doc: &Document<'_>, proxy: &raw::listeners::Proxy, listeners: &mut Listeners) {
    let tls = proxy.tls.as_ref();
    if let Some(tls) = tls {
        check_key(doc, tls);
    }
    for (at, listen) in proxy.listen.iter().enumerate() {
        let name = if at == 0 { "proxy".to_owned() } else { format!("proxy-{}", at + 1) };
        clear_text(doc, listen, tls.is_some());
        let tls = tls.map(|tls| tls.files.clone());
        listeners.forward.extend(ListenerName::parse(&name).ok().map(|name| ForwardListener {
            name,
            listen: listen.value.clone(),
            tls,
        }));
    }
}

fn socks(doc: &Document<'_>, door: &raw::listeners::Socks, listeners: &mut Listeners) {
    for (at, listen) in door.listen.iter().enumerate() {
        let name = if at == 0 { "socks".to_owned() } else { format!("socks-{}", at + 1) };
        if let Some(address) = reachable(listen) {
            let message = format!("{address} can be reached from other machines: SOCKS has no TLS");
            doc.warning(&listen.span, message, "listen on 127.0.0.1: keys pass in clear text");
        }
        let name = ListenerName::parse(&name).ok();
        listeners.socks.extend(name.map(|name| SocksListener { name, listen: listen.value.clone() }));
    }
}

fn reverse(doc: &Document<'_>, raw: &raw::Config, listeners: &mut Listeners) {
    let taken = listeners.forward.iter().map(|each| &each.name).chain(listeners.socks.iter().map(|each| &each.name));
    let mut names: BTreeMap<String, Span> = taken.map(|name| (name.to_string(), 0..0)).collect();
    for door in &raw.reverse {
        let Some(name) = &door.name else { continue };
        if names.insert(name.value.to_string(), name.span.clone()).is_some() {
            let message = format!("the name `{}` is taken by another listener", name.value);
            doc.problem(&name.span, message, "give each listener a `name` of its own");
        }
        if let Some(tls) = &door.tls {
            check_key(doc, tls);
        }
        let Some(listen) = &door.listen else { continue };
        clear_text(doc, listen, door.tls.is_some());
        listeners.reverse.push(ReverseListener {
            name: name.value.clone(),
            listen: listen.value.clone(),
            tls: door.tls.as_ref().map(|tls| tls.files.clone()),
            mounts: door.mounts.iter().map(|mount| mount.value.clone()).collect(),
        });
    }
}

fn check_key(doc: &Document<'_>, tls: &Tls) {
    let key = At { value: tls.files.key.clone(), span: tls.key_span.clone() };
    if let Ok(metadata) = std::fs::metadata(&key.value) {
        check_private(doc, &key, &metadata);
    }
}

/// The address, where other machines may reach it.
fn reachable(listen: &At<ListenAddress>) -> Option<SocketAddr> {
    listen.value.tcp().filter(|address| !address.ip().is_loopback())
}

fn clear_text(doc: &Document<'_>, listen: &At<ListenAddress>, tls: bool) {
    if let Some(address) = reachable(listen).filter(|_| !tls) {
        let message = format!("{address} can be reached from other machines without TLS: keys pass in clear text");
        doc.warning(&listen.span, message, "listen on 127.0.0.1, or add `tls = { certificate = \"…\", key = \"…\" }`");
    }
}

fn addresses(doc: &Document<'_>, raw: &raw::Config) {
    let proxy = raw.proxy.iter().flat_map(|proxy| &proxy.listen);
    let reverse = raw.reverse.iter().filter_map(|door| door.listen.as_ref());
    let socks = raw.socks.iter().flat_map(|door| &door.listen);
    let admin = raw.admin.as_ref().map(|admin| &admin.listen);
    let mut taken: Vec<&ListenAddress> = Vec::new();
    for listen in proxy.chain(reverse).chain(socks).chain(admin) {
        if let Some(other) = taken.iter().find(|other| collide(other, &listen.value)) {
            let message = format!("{} is taken by another listener ({other})", listen.value);
            doc.problem(&listen.span, message, "give each listener an address of its own");
        }
        taken.push(&listen.value);
    }
    if let Some((admin, address)) = admin.and_then(|admin| Some((admin, reachable(admin)?))) {
        let message = format!("the admin listener {address} can be reached from other machines");
        doc.warning(&admin.span, message, "listen on 127.0.0.1: it tells who asks for what");
    }
}

/// Port 0 is another port each time; an unspecified address stands for all of its family.
fn collide(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (Some(one), Some(other)) = (one.tcp(), other.tcp()) else {
        return one.unix().is_some() && one.unix() == other.unix();
    };
    let (first, second) = (one.ip(), other.ip());
    let same_family = first.is_ipv4() == second.is_ipv4();
    one.port() == other.port()
        && one.port() != 0
        && (first == second || (same_family && (first.is_unspecified() || second.is_unspecified())))
}
