//! The record of an attachment: its fields, and its file format, one line of JSON followed by one
//! with its checksum.
//!
//! Written once by [`super::Reservation`], read by everything that opens the store. A record is
//! never changed.

use std::net::IpAddr;

use dataplane_common::types::fnv::hash64;
use serde::{Deserialize, Serialize};

use super::PortMapping;
use super::hash::file_name;

/// Longest accepted record, in bytes.
pub(super) const MOST_BYTES: usize = 1 << 16;

/// The identity of an attachment, as the container runtime gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachmentId {
    /// Id of the container, from `CNI_CONTAINERID`.
    pub container: String,
    /// The interface's name in the pod.
    pub ifname: String,
}

impl AttachmentId {
    /// Returns bytes that differ for different attachments: neither part can contain the separator.
    fn bytes(&self) -> Vec<u8> {
        format!("{}\0{}", self.container, self.ifname).into_bytes()
    }

    /// Returns the name of the record's file.
    pub(super) fn file_name(&self) -> String {
        file_name(&self.bytes())
    }

    /// Returns the name of the host-side device: `rw` and 52 bits of the hash, which fills the 15
    /// bytes of a name.
    #[must_use]
    pub fn host_ifname(&self) -> String {
        format!("rw{:013x}", self.hash() >> 12)
    }

    /// Returns the 64-bit hash of the identity.
    #[must_use]
    pub fn hash(&self) -> u64 {
        hash64(&self.bytes())
    }
}

/// Everything that is stored about an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachmentRecord {
    /// Format of the record: 1.
    pub version: u32,
    /// Container id and interface name.
    #[serde(flatten)]
    pub id: AttachmentId,
    /// Name of the network in the configuration.
    pub network: String,
    /// `<namespace>/<name>` of the pod, if the runtime said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// One address of each family that the node has.
    pub addresses: Vec<IpAddr>,
    /// The MAC of the pod's end, if the runtime requested one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes, if the configuration sets it; otherwise the pod follows the node's MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Host ports of the pod, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Name of the host-side device.
    pub host_ifname: String,
    /// The boot in which the record was written.
    pub boot: String,
    /// Time of the write in nanoseconds since 1970. Differs for every record of a node.
    pub generation: u64,
}

impl AttachmentRecord {
    pub(super) const VERSION: u32 = 1;

    /// Returns the content of the record's file.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        let checksum = hash64(&bytes);
        bytes.extend_from_slice(format!("\n{checksum:016x}\n").as_bytes());
        Ok(bytes)
    }

    /// Parses the file's content; an error is the reason why it is damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        const CHECKSUM: usize = 18;
        let text_end = bytes.len().checked_sub(CHECKSUM).ok_or("too short")?;
        let (text, checksum) = bytes.split_at(text_end);
        if checksum != format!("\n{:016x}\n", hash64(text)).as_bytes() {
            return Err("checksum is wrong".into());
        }
        let record: Self = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if record.version == Self::VERSION {
            Ok(record)
        } else {
            Err(format!("record of version {}, this program knows {}", record.version, Self::VERSION))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Transport;

    fn record() -> AttachmentRecord {
        AttachmentRecord {
            version: 1,
            id: AttachmentId { container: "c1".into(), ifname: "eth0".into() },
            network: "pods".into(),
            pod: Some("default/web".into()),
            addresses: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            mac: None,
            mtu: None,
            ports: vec![PortMapping {
                protocol: Transport::Tcp,
                host_ip: Some("127.0.0.1".parse().unwrap()),
                host_port: 8080,
                container_port: 80,
            }],
            host_ifname: "rw1".into(),
            boot: "b".into(),
            generation: 7,
        }
    }

    #[test]
    fn record_round_trips_and_damage_is_detected() {
        let bytes = record().to_bytes().unwrap();
        assert_eq!(AttachmentRecord::from_bytes(&bytes).unwrap(), record());
        for end in 0..bytes.len() {
            assert!(AttachmentRecord::from_bytes(&bytes[..end]).is_err(), "cut to {end} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(AttachmentRecord::from_bytes(&damaged).is_err(), "bit {bit} flipped");
        }
    }

    #[test]
    fn absent_host_ports_and_mtu_are_not_written() {
        let bytes = AttachmentRecord { ports: Vec::new(), ..record() }.to_bytes().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(!text.contains("ports") && !text.contains("mtu"), "{text}");
        assert_eq!(AttachmentRecord::from_bytes(&bytes).unwrap().ports, []);
        let own = AttachmentRecord { mtu: Some(1400), ..record() };
        assert_eq!(AttachmentRecord::from_bytes(&own.to_bytes().unwrap()).unwrap(), own);
    }

    #[test]
    fn names_depend_on_container_and_interface() {
        let id = |c: &str, i: &str| AttachmentId { container: c.into(), ifname: i.into() };
        assert_ne!(id("a", "eth0").host_ifname(), id("a", "eth1").host_ifname());
        assert_ne!(id("ab", "c").file_name(), id("a", "bc").file_name());
        assert_eq!(id("a", "eth0").host_ifname().len(), 15);
    }

    /// A record with the right checksum and any content: what another version may have written.
    #[test]
    fn fuzz_records() {
        let whole = record().to_bytes().unwrap();
        let text = &whole[..whole.len() - 18];
        let words = ["containerID", "ifname", "addresses", "ports", "mac", "mtu", "generation", "boot", "version"];
        fuzzing::run("records", &[text], &words, |input| {
            let sum = format!("\n{:016x}\n", hash64(input));
            let read = AttachmentRecord::from_bytes(&[input, sum.as_bytes()].concat());
            assert!(AttachmentRecord::from_bytes(input).is_err() || input.len() > 18);
            // What is read can be written and read again.
            let again = read.as_ref().map(|record| AttachmentRecord::from_bytes(&record.to_bytes().unwrap()));
            assert!(again.is_err() || again == Ok(read.clone()), "{read:?}");
            read.is_ok()
        });
    }
}
