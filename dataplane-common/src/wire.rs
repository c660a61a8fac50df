//! Encodings and checksums of the wire.
//!
//! Owns byte order and the arithmetic of incremental checksums: the Internet checksum and
//! `CRC32c`. Every other module may use it. It knows neither packets nor maps.

pub mod byte_order;
pub mod checksum;
pub mod crc32c;
