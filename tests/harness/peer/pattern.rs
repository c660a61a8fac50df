//! A byte pattern that both sides compute, so that the receiver can check every byte.

use std::io::{self, Read, Write};

/// Size of one read or write, in bytes.
const CHUNK: usize = 256 * 1024;

/// Returns the byte at an offset. It differs between neighbours and between packets of any common
/// size.
fn byte(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Writes the bytes of offsets `0..length`.
pub(super) fn send(to: &mut impl Write, length: u64) -> io::Result<()> {
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut place = 0;
    while place < length {
        let end = length.min(place + CHUNK as u64);
        chunk.clear();
        chunk.extend((place..end).map(byte));
        to.write_all(&chunk)?;
        place = end;
    }
    to.flush()
}

/// Reads this many bytes. An error names the offset of the first wrong byte.
pub(super) fn receive(from: &mut impl Read, length: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut place = 0;
    while place < length {
        let want = CHUNK.min((length - place) as usize);
        let got = from.read(&mut chunk[..want])?;
        if got == 0 {
            return Err(io::Error::other(format!("the stream ends at byte {place} of {length}")));
        }
        check(&chunk[..got], place)?;
        place += got as u64;
    }
    Ok(())
}

/// Fills a buffer with the bytes of the offsets from `0`.
pub(super) fn fill(buffer: &mut [u8]) {
    for (place, slot) in (0..).zip(buffer) {
        *slot = byte(place);
    }
}

/// Compares bytes with the pattern from offset `start`.
pub(super) fn check(bytes: &[u8], start: u64) -> io::Result<()> {
    match (start..).zip(bytes).find(|(place, got)| byte(*place) != **got) {
        Some((place, _)) => Err(io::Error::other(format!("byte {place} is wrong"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_byte_is_detected() {
        let mut sent = Vec::new();
        send(&mut sent, 300_000).unwrap();
        receive(&mut &sent[..], 300_000).unwrap();
        assert!(receive(&mut &sent[1..], 299_999).is_err(), "shifted");
        sent[280_000] ^= 1;
        assert_eq!(receive(&mut &sent[..], 300_000).unwrap_err().to_string(), "byte 280000 is wrong");
        assert!(receive(&mut &sent[..10], 300_000).is_err(), "short");
    }
}
