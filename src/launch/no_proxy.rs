//! Which `NO_PROXY` entries may stay. Programs read the same entry in different ways
//! (standards 4.1), so an entry goes as soon as one of them would take it for a host
//! that has a route: a request past the proxy would have no credential and no record.

use std::net::IpAddr;

use ipnet::IpNet;

/// Hosts that programs reach on this machine.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The entries to set, and those that were taken out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) kept: Vec<String>,
    pub(super) removed: Vec<String>,
}

/// Local hosts and `inherited` lists, each entry once, without those that lead past a route.
pub(super) fn merge<'a>(inherited: impl IntoIterator<Item = &'a str>, routed_hosts: &[String]) -> Merged {
    let routed: Vec<Routed> = routed_hosts.iter().map(|text| Routed::parse(text)).collect();
    let separated = inherited.into_iter().flat_map(|list| list.split(|c: char| c == ',' || c.is_whitespace()));
    let mut merged = Merged::default();
    for entry in LOCAL.into_iter().chain(separated).filter(|entry| !entry.is_empty()) {
        let covers = routed.iter().any(|routed| covers(entry, routed));
        let list = if covers { &mut merged.removed } else { &mut merged.kept };
        if !list.iter().any(|known| known == entry) {
            list.push(entry.to_owned());
        }
    }
    merged
}

/// The entries in the form of `http.nonProxyHosts`: `|` between patterns with `*` at one
/// end. Networks have no such form.
pub(super) fn for_java(entries: &[String]) -> String {
    let mut patterns: Vec<String> = Vec::new();
    for entry in entries {
        match entry.as_str() {
            "127.0.0.1" => patterns.push("127.*".to_owned()),
            address if address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) => {
                patterns.push(format!("[{address}]"));
            }
            network if network.contains('/') => {}
            // An option is split at white space, and a quote would begin a quoted part.
            odd if odd.contains(['|', '"', '\'']) => {}
            "localhost" => patterns.push("localhost".to_owned()),
            address if address.parse::<IpAddr>().is_ok() => patterns.push(address.to_owned()),
            name => {
                let name = name.trim_start_matches('*').trim_start_matches('.');
                if name.is_empty() {
                    patterns.push("*".to_owned());
                } else {
                    patterns.extend([name.to_owned(), format!("*.{name}")]);
                }
            }
        }
    }
    patterns.join("|")
}

/// The host part of a route's pattern.
enum Routed {
    Address(IpAddr),
    Name(String),
    /// With the leading dot: `.example.com` for `*.example.com`.
    Below(String),
}

impl Routed {
    fn parse(text: &str) -> Self {
        let host = without_port(text).to_ascii_lowercase();
        if let Ok(address) = host.parse() {
            return Self::Address(address);
        }
        match host.strip_prefix('*') {
            Some(below) => Self::Below(below.to_owned()),
            None => Self::Name(host),
        }
    }
}

/// Whether some program would read `entry` as one that some host under `routed` matches.
fn covers(entry: &str, routed: &Routed) -> bool {
    let entry = without_port(entry).to_ascii_lowercase();
    if entry == "*" {
        return true;
    }
    if let Ok(address) = entry.parse::<IpAddr>() {
        return matches!(routed, Routed::Address(routed) if *routed == address);
    }
    if let Ok(network) = entry.parse::<IpNet>() {
        return matches!(routed, Routed::Address(routed) if network.contains(routed));
    }
    // `.x`, `*.x` and `*x` are suffixes. So is `x`: of whole labels for most programs, of
    // plain text for Python's requests.
    let suffix = entry.trim_start_matches('*').trim_start_matches('.');
    match routed {
        Routed::Address(address) => glob(&entry, &address.to_string()),
        Routed::Name(_) | Routed::Below(_) if is_address_glob(&entry) => false,
        Routed::Name(name) if suffix.contains('*') => glob(&entry, name),
        Routed::Name(name) => name.ends_with(suffix),
        Routed::Below(below) => {
            let tail = suffix.rsplit('*').next().unwrap_or(suffix);
            below.ends_with(tail) || tail.ends_with(below.as_str())
        }
    }
}

/// `a.example:443`, `[::1]:443`, `::1`, `10.0.0.0/8` without port, brackets and final dot.
fn without_port(text: &str) -> &str {
    let text = text.trim();
    if let Some((inside, _)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside;
    }
    let host = match text.split_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => text,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// `192.168.*`: no host name ends that way.
fn is_address_glob(entry: &str) -> bool {
    entry.starts_with(|first: char| first.is_ascii_digit())
        && entry.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'*'))
}

/// Whether `text` matches `pattern`, where each `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match left.find(piece) {
            Some(at) => left = &left[at + piece.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(hosts: &[&str]) -> Vec<String> {
        hosts.iter().map(|host| (*host).to_owned()).collect()
    }

    #[test]
    fn entries_that_lead_past_a_route_go() {
        let exact = ["api.example.com:443", "api.example.com", "10.1.2.3", "[2001:db8::1]:8443"];
        for entry in [
            "*",
            "api.example.com",
            "API.Example.com.",
            "api.example.com:8443",
            "example.com",
            ".example.com",
            "*.example.com",
            "*example.com",
            "com",
            "ample.com",
            "api.*.com",
            "*.example.*",
            "10.1.2.3",
            "10.0.0.0/8",
            "10.1.*",
            "2001:db8::1",
            "[2001:db8::1]",
            "2001:db8::/32",
        ] {
            let merged = merge([entry], &routes(&exact));
            assert_eq!(merged.removed, [entry]);
            assert_eq!(merged.kept, LOCAL);
        }
    }

    #[test]
    fn entries_that_intersect_a_wildcard_go() {
        for entry in ["*", "example.com", ".example.com", "*.example.com", "a.b.example.com", "com", "*.b.example.com"]
        {
            assert_eq!(merge([entry], &routes(&["*.example.com"])).removed, [entry]);
        }
    }

    #[test]
    fn other_entries_stay_once_and_in_order() {
        let lists = ["intranet, .corp.test\t10.0.0.0/8,localhost", "intranet,other.example.com,,192.168.*"];
        let merged = merge(lists, &routes(&["api.example.com", "172.16.0.1", "*.api.test"]));
        assert_eq!(
            merged.kept,
            ["localhost", "127.0.0.1", "::1", "intranet", ".corp.test", "10.0.0.0/8", "other.example.com", "192.168.*"]
        );
        assert!(merged.removed.is_empty());
    }

    /// Else a route to a service on this machine would never see the proxy.
    #[test]
    fn a_route_to_this_machine_takes_the_local_entries_out() {
        let merged = merge([], &routes(&["127.0.0.1:8443", "localhost"]));
        assert_eq!(merged, Merged { kept: vec!["::1".to_owned()], removed: routes(&["localhost", "127.0.0.1"]) });
    }

    #[test]
    fn java_has_a_syntax_of_its_own() {
        let entries = routes(&["localhost", "127.0.0.1", "::1", ".corp.test", "a.test", "10.0.0.0/8", "10.1.2.3"]);
        assert_eq!(for_java(&entries), "localhost|127.*|[::1]|corp.test|*.corp.test|a.test|*.a.test|10.1.2.3");
        assert_eq!(for_java(&[]), "");
    }
}
