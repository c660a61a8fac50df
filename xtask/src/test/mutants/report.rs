//! Counts of a run, and its survivors compared with the accepted ones.

use std::fmt::{self, Display};

use super::accepted::{Entry, FILE, draft};
use super::mutant::Mutant;
use super::trial::Outcome;

/// The number of mutants with each result.
#[derive(Default)]
struct Counts {
    caught: u32,
    missed: u32,
    timeout: u32,
    unviable: u32,
}

impl Counts {
    fn of<'a>(results: impl IntoIterator<Item = &'a (Mutant, Outcome)>) -> Self {
        let mut counts = Self::default();
        for (_, outcome) in results {
            *match outcome {
                Outcome::Caught => &mut counts.caught,
                Outcome::Missed => &mut counts.missed,
                Outcome::Timeout => &mut counts.timeout,
                Outcome::Unviable => &mut counts.unviable,
            } += 1;
        }
        counts
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let viable = self.caught + self.missed + self.timeout;
        let percent = if viable == 0 { 0.0 } else { 100.0 * f64::from(self.missed) / f64::from(viable) };
        write!(f, "{viable} viable: {} caught, {} timeouts, ", self.caught, self.timeout)?;
        write!(f, "{} survived ({percent:.1} %); {} unviable", self.missed, self.unviable)
    }
}

/// The results of a run.
#[derive(Default)]
pub(super) struct Report {
    rooms: Vec<(&'static str, Vec<(Mutant, Outcome)>)>,
}

impl Report {
    /// Adds the results of a room.
    pub(super) fn add(&mut self, room: &'static str, results: Vec<(Mutant, Outcome)>) {
        self.rooms.push((room, results));
    }

    /// Returns the number of mutants that have a result.
    pub(super) fn len(&self) -> usize {
        self.all().count()
    }

    fn all(&self) -> impl Iterator<Item = &(Mutant, Outcome)> {
        self.rooms.iter().flat_map(|(_, results)| results)
    }

    /// Prints the counts; returns the survivors that are not accepted.
    pub(super) fn print(&self, accepted: &[Entry]) -> Vec<&Mutant> {
        for (room, results) in &self.rooms {
            println!("{room:<14} {}", Counts::of(results));
        }
        println!("{:<14} {}", "all", Counts::of(self.all()));
        let is_accepted = |mutant: &Mutant| accepted.iter().any(|entry| entry.is_of(mutant));
        for (mutant, outcome) in self.all().filter(|(mutant, _)| is_accepted(mutant)) {
            match outcome {
                Outcome::Missed => println!("accepted survivor: {}", mutant.place),
                Outcome::Caught | Outcome::Timeout => {
                    println!("no survivor any more, remove it from {FILE}: {}", mutant.place);
                }
                Outcome::Unviable => {}
            }
        }
        let survivors = self.all().filter(|(_, outcome)| *outcome == Outcome::Missed).map(|(mutant, _)| mutant);
        let new: Vec<_> = survivors.filter(|mutant| !is_accepted(mutant)).collect();
        for mutant in &new {
            println!("survivor: {}\n{}\n", mutant.place, draft(mutant));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, outcome: Outcome) -> (Mutant, Outcome) {
        let (place, name, span) = (name.to_owned(), name.to_owned(), [(1, 1), (1, 1)]);
        (Mutant { place, name, source: String::new(), span, replacement: String::new() }, outcome)
    }

    #[test]
    fn share_of_survivors_is_of_the_viable_ones() {
        let results = [Outcome::Caught, Outcome::Caught, Outcome::Timeout, Outcome::Missed, Outcome::Unviable];
        let counts = Counts::of(&results.map(|outcome| result("a", outcome)));
        assert_eq!(counts.to_string(), "4 viable: 2 caught, 1 timeouts, 1 survived (25.0 %); 1 unviable");
        assert_eq!(Counts::of(&[]).to_string(), "0 viable: 0 caught, 0 timeouts, 0 survived (0.0 %); 0 unviable");
    }

    #[test]
    fn survivor_without_a_reason_is_returned() {
        let mut report = Report::default();
        report.add("room", vec![result("a", Outcome::Missed), result("b", Outcome::Caught)]);
        let new = report.print(&[]);
        assert_eq!(new.iter().map(|mutant| mutant.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(report.len(), 2);
    }
}
