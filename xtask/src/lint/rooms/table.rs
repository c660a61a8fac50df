//! The rooms of each crate, from the bottom up, and the rooms that each may use.
//!
//! Read by the check in `rooms.rs`, which fails on an arrow that is missing here and on one that
//! the source does not have. Holds data and the checks of the data, reads no file.

/// A crate with rooms.
pub(super) struct Crate {
    /// The name of the crate's folder.
    pub(super) name: &'static str,
    /// The largest number of rooms.
    pub(super) most_rooms: usize,
    /// The largest number of arrows between rooms.
    pub(super) most_arrows: usize,
    /// The rooms; each uses only rooms that are listed before it.
    pub(super) rooms: &'static [Room],
}

/// A top-level module and everything below it.
pub(super) struct Room {
    /// The module's name.
    pub(super) name: &'static str,
    /// The rooms that it may use.
    pub(super) uses: &'static [&'static str],
}

/// Every crate whose layers are checked.
pub(super) const CRATES: &[Crate] = &[COMMON, USER];

const COMMON: Crate = Crate {
    name: "dataplane-common",
    most_rooms: 8,
    most_arrows: 19,
    rooms: &[
        Room { name: "wire", uses: &[] },
        Room { name: "types", uses: &["wire"] },
        Room { name: "maps", uses: &["types"] },
        Room { name: "balance", uses: &["types", "maps"] },
        Room { name: "packet", uses: &["wire", "types", "maps"] },
        Room { name: "verdict", uses: &["types", "packet"] },
        Room { name: "policy", uses: &["types", "maps"] },
        Room { name: "path", uses: &["wire", "types", "maps", "balance", "packet", "verdict", "policy"] },
    ],
};

const USER: Crate = Crate {
    name: "dataplane-user",
    most_rooms: 10,
    most_arrows: 25,
    rooms: &[
        Room { name: "config", uses: &[] },
        Room { name: "load", uses: &["config"] },
        Room { name: "api", uses: &[] },
        Room { name: "policy", uses: &[] },
        Room { name: "proxy", uses: &["config", "api"] },
        Room { name: "network", uses: &["config", "load", "proxy"] },
        Room { name: "ipam", uses: &["api", "proxy", "network"] },
        Room { name: "observe", uses: &["api", "load", "proxy", "network"] },
        Room { name: "agent", uses: &["config", "load", "api", "proxy", "network", "ipam", "observe"] },
        Room { name: "cli", uses: &["load", "network", "observe"] },
    ],
};

impl Crate {
    /// Returns the room of this name.
    pub(super) fn room(&self, name: &str) -> Option<&Room> {
        self.rooms.iter().find(|room| room.name == name)
    }

    /// Returns the number of arrows between rooms.
    pub(super) fn arrows(&self) -> usize {
        self.rooms.iter().map(|room| room.uses.len()).sum()
    }

    /// Returns the faults of the table: circles, unknown rooms, too many rooms or arrows.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (index, room) in self.rooms.iter().enumerate() {
            for to in room.uses {
                if !self.rooms[..index].iter().any(|below| below.name == *to) {
                    let fault = "is no room below it: arrows point down, or there is a circle";
                    faults.push(format!("{}: `{}` uses `{to}`, which {fault}", self.name, room.name));
                }
            }
        }
        if self.rooms.len() > self.most_rooms {
            faults.push(format!("{}: {} rooms; {} is the limit", self.name, self.rooms.len(), self.most_rooms));
        }
        if self.arrows() > self.most_arrows {
            faults.push(format!("{}: {} arrows; {} is the limit", self.name, self.arrows(), self.most_arrows));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circle_of_rooms_is_a_fault() {
        let rooms: &[Room] = &[Room { name: "a", uses: &["b"] }, Room { name: "b", uses: &["a"] }];
        let faults = Crate { name: "house", most_rooms: 2, most_arrows: 2, rooms }.faults();
        assert!(
            faults.len() == 1 && faults[0].starts_with("house: `a` uses `b`, which is no room below"),
            "{faults:?}"
        );
    }

    #[test]
    fn rooms_and_arrows_are_counted() {
        let rooms: &[Room] = &[Room { name: "a", uses: &[] }, Room { name: "b", uses: &["a"] }];
        assert_eq!(
            Crate { name: "house", most_rooms: 1, most_arrows: 0, rooms }.faults(),
            ["house: 2 rooms; 1 is the limit", "house: 1 arrows; 0 is the limit"]
        );
    }

    #[test]
    fn room_tables_are_valid() {
        for of in CRATES {
            assert_eq!(of.faults(), [""; 0]);
        }
    }
}
