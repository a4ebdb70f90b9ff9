//! The wall: which addresses may be dialled (threats 24, 34, 36, 38, 39).
//!
//! It judges the address that is dialled, after DNS, and knows no names. What isn't
//! plain public unicast is refused, unless the route names it; the machine's metadata
//! service has to be named alone; our own listeners can't be named at all.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use ipnet::IpNet;

use crate::primitives::is_metadata_service;

/// Knows our own listeners, which nothing reaches through the proxy.
#[derive(Clone, Debug, Default)]
pub struct Wall {
    own: Arc<[SocketAddr]>,
}

impl Wall {
    /// `own`: every address this process listens on; an unspecified IP stands for all of the machine's.
    pub fn new(own: Vec<SocketAddr>) -> Self {
        Self { own: own.into_iter().map(|own| SocketAddr::new(own.ip().to_canonical(), own.port())).collect() }
    }

    /// Refuses all but public unicast addresses and those in `allowed`; cloud metadata
    /// only where `allowed` names that very address; our own listeners never.
    ///
    /// The error says what the address is, to stand in "… is {kind}, which …".
    pub fn check(&self, address: SocketAddr, allowed: &[IpNet]) -> Result<(), &'static str> {
        let ip = address.ip();
        let plain = ip.to_canonical();
        let inner = embedded(ip);
        let reached = || [Some(plain), inner].into_iter().chain(embedded_elsewhere(ip)).flatten();
        let is_own =
            |reached: IpAddr| (reached == plain || !reached.is_unspecified()) && self.is_own(reached, address.port());
        if reached().any(is_own) {
            return Err("one of the proxy's own listeners");
        }
        // To dial it means to dial this machine, whatever a list of networks says.
        if plain.is_unspecified() {
            return Err(UNSPECIFIED);
        }
        if reached().any(|candidate| is_metadata_service(candidate) && !names_exactly(allowed, &[ip, plain, candidate]))
        {
            return Err(METADATA);
        }
        let listed = |ip: IpAddr| allowed.iter().any(|net| net.contains(&ip));
        if let Some(kind) = special_purpose(ip)
            && !listed(plain)
        {
            return Err(kind);
        }
        // A translator (NAT64, 6to4, …) that may be used doesn't open what lies behind it.
        let opened = |inner| listed(inner) || names_exactly(allowed, &[ip]);
        let behind = |inner: IpAddr| special_purpose(inner).filter(|_| !opened(inner));
        // What no network would divide its prefix for is none that stands elsewhere.
        let elsewhere = embedded_elsewhere(ip).into_iter().flatten().filter(|inner| !is_no_host(*inner));
        match inner.into_iter().chain(elsewhere).find_map(behind) {
            Some(kind) => Err(kind),
            None => Ok(()),
        }
    }

    /// Whether one of our listeners has this port.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.own.iter().any(|own| own.port() == port)
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        self.own.iter().filter(|own| own.port() == port).any(|own| {
            let own = own.ip();
            own == ip || (ip.is_unspecified() && is_this_machine(own)) || (own.is_unspecified() && is_this_machine(ip))
        })
    }
}

/// Whether the kernel would deliver to us. Asked only where a port is one of our own,
/// so that two system calls at connect time are cheaper than a list that grows stale.
fn is_this_machine(ip: IpAddr) -> bool {
    if ip.is_loopback() || ip.is_unspecified() {
        return true;
    }
    // In doubt (no permission, no descriptor left) it is ours.
    !matches!(UdpSocket::bind((ip, 0)), Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable)
}

fn names_exactly(allowed: &[IpNet], spellings: &[IpAddr]) -> bool {
    allowed.iter().any(|net| net.prefix_len() == net.max_prefix_len() && spellings.contains(&net.addr()))
}

const UNSPECIFIED: &str = "the unspecified address";
const METADATA: &str = "a cloud metadata service";

/// IANA IPv4 special-purpose registry, and the multicast and reserved space. The first match holds.
const SPECIAL_V4: [([u8; 4], u32, &str); 20] = [
    ([0, 0, 0, 0], 32, UNSPECIFIED),
    ([0, 0, 0, 0], 8, "an address of \"this network\""),
    ([10, 0, 0, 0], 8, "a private address"),
    ([100, 64, 0, 0], 10, "a carrier-grade NAT address"),
    ([127, 0, 0, 0], 8, "a loopback address"),
    ([169, 254, 0, 0], 16, "a link-local address"),
    ([172, 16, 0, 0], 12, "a private address"),
    ([192, 0, 0, 0], 24, "an IETF protocol address"),
    ([192, 0, 2, 0], 24, "a documentation address"),
    ([192, 31, 196, 0], 24, "an AS112 address"),
    ([192, 52, 193, 0], 24, "an AMT relay address"),
    ([192, 88, 99, 0], 24, "a 6to4 relay address"),
    ([192, 168, 0, 0], 16, "a private address"),
    ([192, 175, 48, 0], 24, "an AS112 address"),
    ([198, 18, 0, 0], 15, "a benchmarking address"),
    ([198, 51, 100, 0], 24, "a documentation address"),
    ([203, 0, 113, 0], 24, "a documentation address"),
    ([224, 0, 0, 0], 4, "a multicast address"),
    ([255, 255, 255, 255], 32, "the broadcast address"),
    ([240, 0, 0, 0], 4, "a reserved address"),
];

/// IANA IPv6 special-purpose registry. The first match holds; whatever isn't global
/// unicast (2000::/3) after that is reserved.
const SPECIAL_V6: [([u16; 8], u32, &str); 27] = [
    ([0; 8], 128, UNSPECIFIED),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "a loopback address"),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "an IPv4-mapped address"),
    ([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, "an IPv4-translated address"),
    ([0; 8], 96, "an IPv4-compatible address"),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "a NAT64 address"),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "a NAT64 address"),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "a discard-only address"),
    ([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "a dummy address"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "a Teredo address"),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "a benchmarking address"),
    ([0x2001, 3, 0, 0, 0, 0, 0, 0], 32, "an AMT relay address"),
    ([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48, "an AS112 address"),
    ([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, "an ORCHID address"),
    ([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, "an ORCHID address"),
    ([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28, "a drone remote ID address"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "an IETF protocol address"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "a documentation address"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "a 6to4 address"),
    ([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, "an AS112 address"),
    ([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16, "a 6bone address"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "a documentation address"),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "an SRv6 segment address"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "a unique local address"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "a link-local address"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "a site-local address"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "a multicast address"),
];

const RESERVED_V6: &str = "a reserved address";

/// What an address is, when it isn't plain public unicast. An IPv4-mapped address is
/// what its IPv4 address is, and never plain.
pub fn special_purpose(address: IpAddr) -> Option<&'static str> {
    if is_metadata_service(address.to_canonical()) {
        return Some(METADATA);
    }
    match address {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().and_then(special_v4).or_else(|| special_v6(ip)),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let matches = |base: [u8; 4], prefix: u32| (ip.to_bits() ^ u32::from_be_bytes(base)).leading_zeros() >= prefix;
    SPECIAL_V4.iter().find(|(base, prefix, _)| matches(*base, *prefix)).map(|(_, _, kind)| *kind)
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let matches =
        |base: [u16; 8], prefix: u32| (ip.to_bits() ^ Ipv6Addr::from(base).to_bits()).leading_zeros() >= prefix;
    let listed = SPECIAL_V6.iter().find(|(base, prefix, _)| matches(*base, *prefix)).map(|(_, _, kind)| *kind);
    listed.or_else(|| (ip.segments()[0] & 0xe000 != 0x2000).then_some(RESERVED_V6))
}

/// The IPv4 address that a translator on the way would make of an IPv6 address.
fn embedded(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else { return None };
    let bits = ip.to_bits();
    let low = bits as u32;
    let inner = match ip.segments() {
        // NAT64 (RFC 6052, RFC 8215), IPv4-translated and IPv4-compatible: the last 32 bits.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => low,
        [0, 0, 0, 0, 0, 0, ..] if low > 1 => low,
        // 6to4 (RFC 3056): the 32 bits behind the prefix.
        [0x2002, ..] => (bits >> 80) as u32,
        // Teredo (RFC 4380): the client's address, inverted.
        [0x2001, 0, ..] => !low,
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(inner).into())
}

/// `0.0.0.0/8` and `240.0.0.0/4`: what the other ways to divide a prefix mostly come to.
fn is_no_host(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if matches!(ip.octets()[0], 0 | 240..))
}

/// Where else one may stand behind the prefix that each network divides as it likes (RFC 8215):
/// those lengths of prefixes that the 32 bits at the end are not for (RFC 6052 §2.2).
fn embedded_elsewhere(ip: IpAddr) -> [Option<IpAddr>; 3] {
    let IpAddr::V6(ip) = ip else { return [None; 3] };
    if !matches!(ip.segments(), [0x64, 0xff9b, 1, ..]) {
        return [None; 3];
    }
    let bits = ip.to_bits();
    // Up to bit 64, and behind the eight bits that follow it.
    let (before, behind) = ((bits >> 64) as u32, (bits >> 24) as u32);
    let of = |count: u32| (before << (32 - count)) | (behind >> count);
    [of(16), of(8), behind].map(|inner| Some(Ipv4Addr::from_bits(inner).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written as the registries have it, apart from the tables above.
    const RANGES: [&str; 51] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "168.63.129.16/32",
        "::/128",
        "::1/128",
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "100:0:0:1::/64",
        "2001::/23",
        "2001::/32",
        "2001:1::1/128",
        "2001:2::/48",
        "2001:3::/32",
        "2001:4:112::/48",
        "2001:10::/28",
        "2001:20::/28",
        "2001:30::/28",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3ffe::/16",
        "3fff::/20",
        "4000::/2",
        "5f00::/16",
        "8000::/1",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
        "fd00:ec2::254/128",
    ];

    fn ranges() -> impl Iterator<Item = IpNet> {
        RANGES.iter().map(|text| text.parse().unwrap())
    }

    fn neighbour(ip: IpAddr, step: i128) -> Option<IpAddr> {
        match ip {
            IpAddr::V4(ip) => Some(Ipv4Addr::from_bits(u32::try_from(i128::from(ip.to_bits()) + step).ok()?).into()),
            IpAddr::V6(ip) if step < 0 => Some(Ipv6Addr::from_bits(ip.to_bits().checked_sub(1)?).into()),
            IpAddr::V6(ip) => Some(Ipv6Addr::from_bits(ip.to_bits().checked_add(1)?).into()),
        }
    }

    fn check(address: &str, allowed: &[&str]) -> Result<(), &'static str> {
        let allowed: Vec<IpNet> = allowed.iter().map(|net| net.parse().unwrap()).collect();
        Wall::default().check(SocketAddr::new(address.parse().unwrap(), 443), &allowed)
    }

    /// Threats 24 and 34: each range is refused from its first address to its last, and
    /// what lies right before and behind it only where another range says so.
    #[test]
    fn every_special_purpose_range_ends_where_it_ends() {
        let mut open = 0;
        for net in ranges() {
            for ip in [net.network(), net.broadcast()] {
                assert!(special_purpose(ip).is_some(), "{ip} of {net}");
                assert!(Wall::default().check(SocketAddr::new(ip, 443), &[]).is_err(), "{ip} of {net}");
            }
            for ip in [neighbour(net.network(), -1), neighbour(net.broadcast(), 1)].into_iter().flatten() {
                let listed = ranges().any(|net| net.contains(&ip));
                assert_eq!(special_purpose(ip).is_some(), listed || outside_global_unicast(ip), "{ip} beside {net}");
                open += usize::from(!listed);
            }
        }
        assert!(open > 30, "only {open} neighbours are public");
    }

    fn outside_global_unicast(ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V6(ip) if ip.segments()[0] >> 13 != 1)
    }

    proptest::proptest! {
        #[test]
        fn an_address_is_special_exactly_in_the_ranges(v4: u32, v6: u128) {
            for ip in [IpAddr::from(Ipv4Addr::from_bits(v4)), IpAddr::from(Ipv6Addr::from_bits(v6))] {
                let listed = ranges().any(|net| net.contains(&ip)) || outside_global_unicast(ip);
                proptest::prop_assert_eq!(special_purpose(ip).is_some(), listed, "{}", ip);
            }
        }

        #[test]
        fn within_a_range_no_address_is_public(index in 0..RANGES.len(), offset: u128) {
            let net: IpNet = RANGES[index].parse().unwrap();
            let ip: IpAddr = match net {
                IpNet::V4(net) => Ipv4Addr::from_bits(net.network().to_bits() | (offset as u32 & net.hostmask().to_bits())).into(),
                IpNet::V6(net) => Ipv6Addr::from_bits(net.network().to_bits() | (offset & net.hostmask().to_bits())).into(),
            };
            proptest::prop_assert!(special_purpose(ip).is_some(), "{} of {}", ip, net);
            proptest::prop_assert!(Wall::default().check(SocketAddr::new(ip, 80), &[]).is_err(), "{} of {}", ip, net);
        }
    }

    /// What makes IPv4 of IPv6 on the way, by its own RFC: the prefix, and where the IPv4 address
    /// stands (Teredo's is inverted).
    const TRANSLATORS: [(&str, u32, bool); 7] = [
        ("::ffff:0:0/96", 0, false),
        ("::/96", 0, false),
        ("::ffff:0:0:0/96", 0, false),
        ("64:ff9b::/96", 0, false),
        ("64:ff9b:1::/48", 0, false),
        ("2002::/16", 80, false),
        ("2001::/32", 0, true),
    ];

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

        /// Threats 24 and 36: no translator leads to what is refused, though the route lists all that
        /// the translator has; and nothing but public unicast is open where nothing is listed.
        #[test]
        fn behind_a_translator_lies_what_lies_there(
            (prefix, shift, inverted) in proptest::sample::select(&TRANSLATORS[..]),
            range in proptest::sample::select(&RANGES[..20]),
            offset: u32,
            other: u128,
        ) {
            let IpNet::V4(range) = range.parse().unwrap() else { panic!("an IPv4 range comes first") };
            let inner = range.network().to_bits() | (offset & range.hostmask().to_bits());
            let IpNet::V6(net) = prefix.parse().unwrap() else { panic!("{prefix}") };
            let spelled = u128::from(if inverted { !inner } else { inner }) << shift;
            let rest = other & net.hostmask().to_bits() & !(u128::from(u32::MAX) << shift);
            let ip = IpAddr::from(Ipv6Addr::from_bits(net.network().to_bits() | spelled | rest));
            let check = |allowed: &[IpNet]| Wall::default().check(SocketAddr::new(ip, 443), allowed);
            proptest::prop_assert!(check(&[]).is_err(), "{} for {}", ip, Ipv4Addr::from_bits(inner));
            // Of the mapped form the IPv4 address is the address; `::/96` lists the loopback address, too.
            if ip.to_canonical().is_ipv6() && !matches!(ip, IpAddr::V6(ip) if ip.is_loopback()) {
                proptest::prop_assert!(check(&[net.into()]).is_err(), "{} for {}", ip, Ipv4Addr::from_bits(inner));
            }
        }

        #[test]
        fn what_is_open_is_public(v4: u32, v6: u128) {
            for ip in [IpAddr::from(Ipv4Addr::from_bits(v4)), IpAddr::from(Ipv6Addr::from_bits(v6))] {
                let listed = ranges().any(|net| net.contains(&ip)) || outside_global_unicast(ip);
                let open = Wall::default().check(SocketAddr::new(ip, 443), &[]).is_ok();
                proptest::prop_assert_eq!(open, !listed, "{}", ip);
            }
        }
    }

    #[test]
    fn public_unicast_is_open() {
        for address in ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450::1", "223.255.255.255"] {
            assert_eq!(check(address, &[]), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_route_opens_what_it_names_and_no_more() {
        assert_eq!(check("10.1.2.3", &["10.0.0.0/8"]), Ok(()));
        assert_eq!(check("::ffff:10.1.2.3", &["10.0.0.0/8"]), Ok(()));
        assert_eq!(check("fd12::1", &["fd12::/16"]), Ok(()));
        assert_eq!(check("10.1.2.3", &["192.168.0.0/16"]), Err("a private address"));
        assert_eq!(check("::ffff:10.1.2.3", &[]), Err("a private address"));
        assert_eq!(check("::ffff:1.1.1.1", &[]), Err("an IPv4-mapped address"));
        assert_eq!(check("127.0.0.1", &["10.0.0.0/8"]), Err("a loopback address"));
    }

    /// Threat 36.
    #[test]
    fn metadata_has_to_be_named_alone() {
        for address in ["169.254.169.254", "::ffff:169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16"]
        {
            assert_eq!(check(address, &["0.0.0.0/0", "::/0"]), Err(METADATA), "{address}");
        }
        assert_eq!(check("fd00:ec2::254", &["fd00::/8", "fd00:ec2::/127"]), Err(METADATA));
        assert_eq!(check("64:ff9b::a9fe:a9fe", &["64:ff9b::/96", "169.254.0.0/16"]), Err(METADATA));
        // RFC 6052 §2.4, behind the prefix of RFC 8215: /48, /56, /64 and /96.
        for address in
            ["64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:0:a9:fea9:fe00::", "64:ff9b:1::a9fe:a9fe"]
        {
            assert_eq!(check(address, &["::/0", "0.0.0.0/0"]), Err(METADATA), "{address}");
        }
        assert_eq!(check("64:ff9b:1::808:808", &["64:ff9b:1::/48"]), Ok(()));
        assert_eq!(check("64:ff9b:1:fffe::808:808", &["64:ff9b:1::/48"]), Ok(()));
        assert_eq!(check("64:ff9b:1:a00:0:500:808:808", &["64:ff9b:1::/48"]), Err("a private address"));
        assert_eq!(check("64:ff9b:1:a00:0:500:808:808", &["64:ff9b:1::/48", "10.0.0.0/8"]), Ok(()));
        assert_eq!(check("169.254.169.254", &["169.254.169.254/32"]), Ok(()));
        assert_eq!(check("::ffff:169.254.169.254", &["169.254.169.254/32"]), Ok(()));
        assert_eq!(check("fd00:ec2::254", &["fd00:ec2::254/128"]), Ok(()));
    }

    #[test]
    fn a_translator_opens_nothing_behind_it() {
        assert_eq!(check("64:ff9b::808:808", &[]), Err("a NAT64 address"));
        assert_eq!(check("64:ff9b::808:808", &["64:ff9b::/96"]), Ok(()));
        assert_eq!(check("64:ff9b::a00:1", &["64:ff9b::/96"]), Err("a private address"));
        assert_eq!(check("64:ff9b::a00:1", &["64:ff9b::/96", "10.0.0.0/8"]), Ok(()));
        assert_eq!(check("64:ff9b::a00:1", &["64:ff9b::a00:1/128"]), Ok(()));
        assert_eq!(check("2002:7f00:1::", &["2002::/16"]), Err("a loopback address"));
        assert_eq!(check("2001:0:1:2:3:4:80ff:fffe", &["2001::/32"]), Err("a loopback address"));
        assert_eq!(check("::7f00:1", &["::/96"]), Err("a loopback address"));
    }

    #[test]
    fn the_unspecified_address_is_never_dialled() {
        for address in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            assert_eq!(check(address, &["0.0.0.0/0", "::/0", "0.0.0.0/32", "::/128"]), Err(UNSPECIFIED), "{address}");
        }
    }

    /// Threats 38 and 39: in every spelling, and even when allow-listed.
    #[test]
    fn our_own_listeners_are_never_reached() {
        let everything: Vec<IpNet> = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let own = Err("one of the proxy's own listeners");
        let wall = Wall::new(vec!["127.0.0.1:8080".parse().unwrap(), "[::]:9180".parse().unwrap()]);
        let check = |text: &str| wall.check(text.parse().unwrap(), &everything);
        for address in [
            "127.0.0.1:8080",
            "[::ffff:127.0.0.1]:8080",
            "0.0.0.0:8080",
            "[::]:8080",
            "127.0.0.1:9180",
            "127.9.9.9:9180",
            "[::1]:9180",
            "0.0.0.0:9180",
        ] {
            assert_eq!(check(address), own, "{address}");
        }
        // A translator would hand them back.
        let wall = Wall::new(vec!["10.0.0.5:8080".parse().unwrap()]);
        for address in ["[64:ff9b::a00:5]:8080", "[2002:a00:5::]:8080", "[64:ff9b:1:a00:0:500::]:8080"] {
            assert_eq!(wall.check(address.parse().unwrap(), &everything), own, "{address}");
        }
        assert_eq!(wall.check("[64:ff9b:1::808:808]:8080".parse().unwrap(), &everything), Ok(()));
        assert_eq!(check("127.0.0.1:8081"), Ok(()));
        assert_eq!(check("127.0.0.2:8080"), Ok(()));
        // Documentation addresses are no interface of this machine.
        assert_eq!(check("192.0.2.1:9180"), Ok(()));
    }

    /// A listener on all addresses is reached at the one that the machine has in its network.
    #[test]
    fn an_interface_of_this_machine_is_ours() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Sends nothing: it only makes the kernel choose a source address.
        let _ = socket.connect("192.0.2.1:9");
        let local = socket.local_addr().unwrap().ip();
        assert!(is_this_machine(local), "{local}");
        assert!(!is_this_machine("192.0.2.1".parse().unwrap()));
    }
}
