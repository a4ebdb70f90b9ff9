//! The metadata services of clouds, by their addresses: the wall, the way past a parent proxy
//! and the config have to mean the same ones (threat 36).

use std::net::IpAddr;

/// Metadata services that hand out credentials of the machine: AWS (also ECS, EKS),
/// Azure, GCP, OpenStack and most others; Alibaba; Oracle; Tencent; Scaleway; Azure's
/// wire server, which stands in public space.
const METADATA_V4: [[u8; 4]; 8] = [
    [169, 254, 169, 254],
    [169, 254, 170, 2],
    [169, 254, 170, 23],
    [100, 100, 100, 200],
    [192, 0, 0, 192],
    [169, 254, 0, 23],
    [169, 254, 42, 42],
    [168, 63, 129, 16],
];

const METADATA_V6: [[u16; 8]; 4] = [
    [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
    [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23],
    [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254],
    [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42],
];

/// Whether a cloud's metadata service is there. An IPv4-mapped address isn't taken apart.
pub fn is_metadata_service(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => METADATA_V4.contains(&address.octets()),
        IpAddr::V6(address) => METADATA_V6.contains(&address.segments()),
    }
}
