//! Arithmetic of pools and blocks: a validated pool, its blocks by index, a block's object name.
//!
//! Used by the watches, which validate the objects, and by the planner. Pure: no objects are read
//! or written here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::crd::{IpPoolSpec, LabelSelector};

/// Blocks have at most 4096 addresses.
const MOST_HOST_BITS: u8 = 12;
/// Blocks have 64 addresses by default.
const DEFAULT_HOST_BITS: u8 = 6;

/// A pool with a valid specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Name of the `IPPool` object.
    pub name: String,
    /// The whole range of the pool.
    pub cidr: IpNetwork,
    /// Prefix length of its blocks.
    pub block_prefix: u8,
    /// Nodes that may claim blocks; `None`: all.
    pub selector: Option<LabelSelector>,
    /// Namespaces whose pods may use it if they ask for it; `None`: all pods.
    pub namespaces: Option<LabelSelector>,
    /// Give out no more addresses.
    pub disabled: bool,
    /// Ranges from which a pod gets an address only if it asks for it, including the ends of the
    /// pool.
    pub reserved: Vec<IpNetwork>,
    /// Pods may ask for an address.
    pub allow_fixed_addresses: bool,
    /// Nodes get parts of other nodes' blocks when no block is left.
    pub borrow: bool,
}

impl Pool {
    /// Validates a specification.
    ///
    /// # Errors
    /// Names the invalid field and the reason.
    pub fn new(name: &str, spec: &IpPoolSpec) -> Result<Self, String> {
        let cidr: IpNetwork = spec
            .cidr
            .parse()
            .map_err(|_| format!("spec.cidr: {:?} must be a CIDR such as 10.244.0.0/16", spec.cidr))?;
        if cidr.ip() != cidr.network() {
            return Err(format!("spec.cidr: {cidr} has bits set beyond its prefix"));
        }
        let first = cidr.network();
        if first.is_multicast() || first.is_unspecified() || first.is_loopback() || is_link_local(first) {
            return Err(format!("spec.cidr: {cidr} must be a range of global or private unicast addresses"));
        }
        let bits = width(first);
        // A block is not larger than the pool and has at most 4096 addresses.
        let least = cidr.prefix().max(bits - MOST_HOST_BITS);
        let given = spec.block_size.unwrap_or_else(|| (bits - DEFAULT_HOST_BITS).max(cidr.prefix()).into());
        let block_prefix = u8::try_from(given).ok().filter(|prefix| (least..=bits).contains(prefix));
        let block_prefix =
            block_prefix.ok_or_else(|| format!("spec.blockSize: {given} must be between {least} and {bits}"))?;
        let mut reserved = ends(cidr);
        for (i, text) in spec.reserved.iter().enumerate() {
            reserved.push(text.parse().map_err(|_| format!("spec.reserved[{i}]: {text:?} must be a CIDR"))?);
        }
        Ok(Self {
            name: name.into(),
            cidr,
            block_prefix,
            selector: spec.node_selector.clone(),
            namespaces: spec.namespace_selector.clone(),
            disabled: spec.disabled,
            reserved,
            allow_fixed_addresses: spec.allow_fixed_addresses,
            borrow: spec.borrow,
        })
    }

    /// Returns the number of blocks.
    #[must_use]
    pub fn blocks(&self) -> u128 {
        1 << (self.block_prefix - self.cidr.prefix()).min(127)
    }

    /// Returns the block with this index.
    #[must_use]
    pub fn block(&self, index: u128) -> IpNetwork {
        piece(self.cidr, self.block_prefix, index)
    }

    /// Returns the block that contains an address, or `None` if the address is not in the pool.
    #[must_use]
    pub fn block_of(&self, address: IpAddr) -> Option<IpNetwork> {
        let block = IpNetwork::new(address, self.block_prefix).ok()?;
        self.cidr.contains(address).then(|| IpNetwork::new(block.network(), self.block_prefix).ok())?
    }

    /// Returns the index of the first block from `index` on that is not wholly reserved, or the
    /// number of blocks if there is none.
    #[must_use]
    pub fn skip_reserved(&self, mut index: u128) -> u128 {
        loop {
            if index >= self.blocks() {
                return self.blocks();
            }
            let block = self.block(index);
            let Some(part) = self.reserved.iter().find(|part| covers(**part, block)) else { return index };
            // Continue behind the reserved part, however large it is: an IPv6 pool can have 2^80
            // blocks.
            let per_part = 1_u128 << (self.block_prefix - part.prefix().max(self.cidr.prefix())).min(127);
            index = (index / per_part + 1).saturating_mul(per_part);
        }
    }
}

/// Returns the name of a block's object: the full address and the prefix length. Each block has
/// exactly one name.
#[must_use]
pub fn block_name(block: IpNetwork) -> String {
    let address = match block.network() {
        IpAddr::V4(a) => a.octets().map(|o| o.to_string()).join("-"),
        IpAddr::V6(a) => a.segments().map(|s| format!("{s:x}")).join("-"),
    };
    format!("{address}-{}", block.prefix())
}

/// Returns true if `outer` contains all of `inner`.
#[must_use]
pub fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// Returns true if the two ranges have addresses in common.
#[must_use]
pub fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// Returns the piece `index` of `range` for pieces of this prefix length, which the family must
/// have.
pub(super) fn piece(range: IpNetwork, prefix: u8, index: u128) -> IpNetwork {
    // A shift by the whole width happens only if there is a single piece.
    let offset = index.checked_shl(u32::from(width(range.ip()) - prefix)).unwrap_or(0);
    let address = match range.network() {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() | offset as u32)),
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() | offset)),
    };
    IpNetwork::new(address, prefix).unwrap_or(range)
}

/// Returns the number of bits of an address.
pub(super) const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// Returns the addresses that some hosts treat specially: the network address, and IPv4's broadcast
/// address.
fn ends(cidr: IpNetwork) -> Vec<IpNetwork> {
    let bits = width(cidr.ip());
    if cidr.prefix() + 1 >= bits {
        return Vec::new();
    }
    let last = cidr.is_ipv4().then(|| cidr.broadcast());
    [Some(cidr.network()), last].into_iter().flatten().filter_map(|a| IpNetwork::new(a, bits).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str, block_size: Option<i32>, reserved: &[&str]) -> Result<Pool, String> {
        let reserved = reserved.iter().map(ToString::to_string).collect();
        Pool::new("p", &IpPoolSpec { cidr: cidr.into(), block_size, reserved, ..IpPoolSpec::default() })
    }

    #[test]
    fn blocks_are_found_by_index() {
        for (cidr, size, blocks, third) in [
            ("10.244.0.0/16", None, 1024, "10.244.0.128/26"),
            ("10.244.0.0/16", Some(24), 256, "10.244.2.0/24"),
            ("10.244.0.0/16", Some(32), 65536, "10.244.0.2/32"),
            ("fd00:10:244::/64", None, 1 << 58, "fd00:10:244::80/122"),
            ("fd00:10:244::/48", Some(128), 1 << 80, "fd00:10:244::2/128"),
        ] {
            let pool = pool(cidr, size, &[]).unwrap();
            assert_eq!((pool.blocks(), pool.block(2).to_string().as_str()), (blocks, third), "{cidr}");
            for index in [0, 2, blocks / 2, blocks - 1] {
                let block = pool.block(index);
                assert!(covers(pool.cidr, block), "{block}");
                assert_eq!(pool.block_of(block.network()), Some(block));
            }
        }
        let whole = pool("10.244.0.0/28", None, &[]).unwrap();
        assert_eq!((whole.blocks(), whole.block(0).to_string().as_str()), (1, "10.244.0.0/28"));
        assert_eq!(whole.block_of("10.244.1.0".parse().unwrap()), None);
        assert_eq!(whole.block_of("fd00::1".parse().unwrap()), None);
    }

    #[test]
    fn block_names_are_unique_object_names() {
        for (block, name) in [
            ("10.244.0.64/26", "10-244-0-64-26"),
            ("fd00:10:244::40/122", "fd00-10-244-0-0-0-0-40-122"),
            ("::ffff:0:0/122", "0-0-0-0-0-ffff-0-0-122"),
        ] {
            assert_eq!(block_name(block.parse().unwrap()), name);
        }
    }

    #[test]
    fn reserved_blocks_are_skipped() {
        let pool = pool("10.244.0.0/16", None, &["10.244.0.0/17", "10.244.128.0/26", "10.244.129.0/27"]).unwrap();
        assert_eq!(pool.skip_reserved(0), 513);
        assert_eq!(pool.skip_reserved(513), 513);
        assert_eq!(pool.block(pool.skip_reserved(516)).to_string(), "10.244.129.0/26", "half of it is free");
        let none = Pool { reserved: vec!["10.0.0.0/8".parse().unwrap()], ..pool.clone() };
        assert_eq!(none.skip_reserved(7), 1024);
        let six = self::pool("fd00::/48", None, &["fd00::/49"]).unwrap();
        assert_eq!(six.block(six.skip_reserved(5)).to_string(), "fd00:0:0:8000::/122");
    }

    #[test]
    fn invalid_pools_are_explained() {
        for (cidr, size, reserved, words) in [
            ("10.244.0.0", Some(33), &[][..], "spec.blockSize: 33 must be between 32 and 32"),
            ("x", None, &[], "spec.cidr: \"x\" must be a CIDR"),
            ("10.244.0.1/16", None, &[], "spec.cidr: 10.244.0.1/16 has bits set beyond its prefix"),
            ("169.254.0.0/16", None, &[], "spec.cidr: 169.254.0.0/16 must be a range of global"),
            ("fe80::/64", None, &[], "must be a range of global"),
            ("0.0.0.0/0", None, &[], "must be a range of global"),
            ("10.244.0.0/16", Some(19), &[], "spec.blockSize: 19 must be between 20 and 32"),
            ("10.244.0.0/28", Some(26), &[], "spec.blockSize: 26 must be between 28 and 32"),
            ("fd00::/64", Some(64), &[], "spec.blockSize: 64 must be between 116 and 128"),
            ("10.244.0.0/16", None, &["10.244.0.1/32", "y"], "spec.reserved[1]: \"y\" must be a CIDR"),
        ] {
            let error = pool(cidr, size, reserved).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn ends_of_a_pool_are_reserved() {
        let shown = |cidr| ends_of(cidr).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown("10.244.0.0/16"), ["10.244.0.0/32", "10.244.255.255/32"]);
        assert_eq!(shown("fd00::/64"), ["fd00::/128"]);
        assert_eq!(shown("10.244.0.4/31"), [""; 0]);
    }

    fn ends_of(cidr: &str) -> Vec<IpNetwork> {
        pool(cidr, None, &[]).unwrap().reserved
    }

    #[test]
    fn fuzz_pools() {
        let seeds: [&[u8]; 2] = [
            br#"{"cidr":"10.244.0.0/16","blockSize":26,"disabled":false,"nodeSelector":{"matchLabels":{"a":"b"}},"reserved":["10.244.0.0/28"]}"#,
            br#"{"cidr":"fd00:244::/64","blockSize":122,"allowFixedAddresses":true,"borrow":true}"#,
        ];
        let words =
            ["cidr", "blockSize", "reserved", "nodeSelector", "namespaceSelector", "borrow", "::/0", "0.0.0.0/0"];
        fuzzing::run("pools", &seeds, &words, |input| {
            let Ok(spec) = serde_json::from_slice::<IpPoolSpec>(input) else { return false };
            let _ = serde_json::from_slice::<crate::ipam::crd::IpBlock>(input);
            let Ok(pool) = Pool::new("p", &spec) else { return false };
            // The last block is found by its index, as the first is.
            let last = pool.skip_reserved(pool.blocks() - 1).min(pool.blocks() - 1);
            pool.block_of(pool.block(last).network()).is_some()
        });
    }
}
