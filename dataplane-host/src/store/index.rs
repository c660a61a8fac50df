//! A cache per range: a bitmap of held slots, the position of the next search, and for each slot
//! the time at which it was released and a hash of the pod that had it.
//!
//! A wrong bit costs time, never correctness: the names in `records/` decide. The cache is
//! therefore never synced to the disk. It is rebuilt when the file is missing, has another size or
//! is from another boot, and when it shows no free slot.

use std::fs::File;
use std::os::unix::fs::FileExt;

use dataplane_common::types::fnv::hash64;

use super::directory::Directory;
use super::{Range, StoreError};

const MAGIC: u64 = u64::from_le_bytes(*b"RWINDEX2");
const PREFIX: &str = "index-";
const HEADER: u64 = 32;
const CHUNK: usize = 4096;
/// Bytes of a slot's time and hash.
const RELEASED: u64 = 12;

/// The open cache of one range.
#[derive(Debug)]
pub(super) struct Index {
    file: File,
    name: String,
    range: Range,
    boot: u64,
    cursor: u32,
    /// Newly created, so all slots look free.
    pub(super) fresh: bool,
}

/// The result of a search for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotSearch {
    /// A slot that is free and has cooled down.
    Free(u32),
    /// Only slots that were released a moment ago: the one that was released first, and how many
    /// seconds ago.
    Warm(u32, u32),
    /// All slots are held.
    None,
}

impl Index {
    pub(super) fn open(base: &Directory, range: Range, boot: &str) -> Result<Self, StoreError> {
        let name = format!("{PREFIX}{}", range.to_string().replace('/', "_"));
        let file = base.open_or_create(&name)?;
        let slots = range.slots();
        let boot = hash64(boot.as_bytes());
        let mut index = Self { file, name, range, boot, cursor: 0, fresh: false };
        let mut header = [0; HEADER as usize];
        let n = index.file.read_at(&mut header, 0).map_err(|e| base.io("read", &index.name, e))?;
        let word = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let right_size = index.file.metadata().is_ok_and(|m| m.len() == index.size());
        let known = n == header.len() && header[..8] == MAGIC.to_le_bytes() && word(16) == slots && right_size;
        if known {
            index.cursor = word(20) % slots;
        }
        if !known || header[8..16] != boot.to_le_bytes() {
            index.fresh = true;
            index.clear(base)?;
        }
        Ok(index)
    }

    /// Parses the file name of a cache into its range.
    pub(super) fn range_of(name: &str) -> Option<Range> {
        Range::new(name.strip_prefix(PREFIX)?.replace('_', "/").parse().ok()?).ok()
    }

    pub(super) const fn range(&self) -> Range {
        self.range
    }

    fn bitmap_bytes(&self) -> u64 {
        u64::from(self.range.slots().div_ceil(8)).next_multiple_of(8)
    }

    /// Returns the offset of a slot's time, which the hash follows.
    fn released_offset(&self, slot: u32) -> u64 {
        HEADER + self.bitmap_bytes() + u64::from(slot) * RELEASED
    }

    fn size(&self) -> u64 {
        self.released_offset(self.range.slots())
    }

    /// Clears held slots and release times; keeps the cursor.
    pub(super) fn clear(&mut self, base: &Directory) -> Result<(), StoreError> {
        let size = self.size();
        let mut header = [0; HEADER as usize];
        header[..8].copy_from_slice(&MAGIC.to_le_bytes());
        header[8..16].copy_from_slice(&self.boot.to_le_bytes());
        header[16..20].copy_from_slice(&self.range.slots().to_le_bytes());
        header[20..24].copy_from_slice(&self.cursor.to_le_bytes());
        let write = || {
            self.file.set_len(0)?;
            self.file.set_len(size)?;
            self.file.write_all_at(&header, 0)
        };
        write().map_err(|e| base.io("write", &self.name, e))
    }

    /// Returns the next slot to try: from the cursor, around once, without those that `skip`
    /// selects. `now` and `cool_down` are seconds of the same clock.
    pub(super) fn find(
        &self,
        base: &Directory,
        now: u32,
        cool_down: u32,
        skip: impl Fn(u32) -> bool,
    ) -> Result<SlotSearch, StoreError> {
        let slots = self.range.slots();
        let mut warm: Option<(u32, u32)> = None;
        for (from, to) in [(self.cursor, slots), (0, self.cursor)] {
            let mut slot = from;
            while slot < to {
                let start = slot / 8;
                let mut chunk = [0; CHUNK];
                let want = (to.div_ceil(8) - start).min(CHUNK as u32) as usize;
                self.file
                    .read_exact_at(&mut chunk[..want], HEADER + u64::from(start))
                    .map_err(|e| base.io("read", &self.name, e))?;
                let end = to.min((start + want as u32) * 8);
                while slot < end {
                    let byte = chunk[(slot / 8 - start) as usize];
                    if byte == 0xff && slot.is_multiple_of(8) {
                        slot += 8;
                        continue;
                    }
                    if byte & 1 << (slot % 8) == 0 && !self.range.is_reserved(slot) && !skip(slot) {
                        let age = self.released(base, slot, now)?.0;
                        if age >= cool_down {
                            return Ok(SlotSearch::Free(slot));
                        }
                        if warm.is_none_or(|(_, oldest)| age > oldest) {
                            warm = Some((slot, age));
                        }
                    }
                    slot += 1;
                }
            }
        }
        Ok(warm.map_or(SlotSearch::None, |(slot, age)| SlotSearch::Warm(slot, age)))
    }

    /// Returns how many seconds ago a slot was released, `u32::MAX` if never, and the hash of the
    /// pod that had it.
    pub(super) fn released(&self, base: &Directory, slot: u32, now: u32) -> Result<(u32, u64), StoreError> {
        let mut bytes = [0; RELEASED as usize];
        self.file.read_exact_at(&mut bytes, self.released_offset(slot)).map_err(|e| base.io("read", &self.name, e))?;
        let [a, b, c, d, hash @ ..] = bytes;
        let age = match u32::from_le_bytes([a, b, c, d]) {
            0 => u32::MAX,
            at => now.saturating_sub(at),
        };
        Ok((age, u64::from_le_bytes(hash)))
    }

    /// Marks a slot as held; the next search begins after it.
    pub(super) fn take(&mut self, base: &Directory, slot: u32) -> Result<(), StoreError> {
        self.hold(base, slot)?;
        self.cursor = (slot + 1) % self.range.slots();
        self.file.write_all_at(&self.cursor.to_le_bytes(), 20).map_err(|e| base.io("write", &self.name, e))
    }

    /// Marks a slot as held.
    pub(super) fn hold(&self, base: &Directory, slot: u32) -> Result<(), StoreError> {
        self.change(base, slot, |byte, bit| byte | bit)
    }

    /// Marks a slot as free since `now`. `pod`: the hash of the pod that had it.
    pub(super) fn release(&self, base: &Directory, slot: u32, now: u32, pod: u64) -> Result<(), StoreError> {
        let mut bytes = [0; RELEASED as usize];
        bytes[..4].copy_from_slice(&now.max(1).to_le_bytes());
        bytes[4..].copy_from_slice(&pod.to_le_bytes());
        self.file.write_all_at(&bytes, self.released_offset(slot)).map_err(|e| base.io("write", &self.name, e))?;
        self.change(base, slot, |byte, bit| byte & !bit)
    }

    fn change(&self, base: &Directory, slot: u32, f: impl Fn(u8, u8) -> u8) -> Result<(), StoreError> {
        let at = HEADER + u64::from(slot / 8);
        let mut byte = [0];
        self.file
            .read_exact_at(&mut byte, at)
            .and_then(|()| self.file.write_all_at(&[f(byte[0], 1 << (slot % 8))], at))
            .map_err(|e| base.io("write", &self.name, e))
    }
}
