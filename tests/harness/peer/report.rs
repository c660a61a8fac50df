//! The report of a client: answers, failures and times.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::socket::Answer;

/// Number of requests to two servers whose spread [`Report::is_even`] can judge.
pub const SPREAD: u64 = 1600;
/// The chi-square statistic that equal chances of two servers exceed once in a million runs: a
/// difference of 196 of 1600. Chances of 60 to 40 stay below it once in 1200 runs.
const UNEVEN: f64 = 23.9;

/// The sum over many requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Number of requests that were answered.
    pub ok: u64,
    /// Number of requests that were not answered.
    pub failed: u64,
    /// Number of answers by each server.
    pub by_server: BTreeMap<String, u64>,
    /// Number of failures by kind: the errno name where the kernel reported one.
    pub errors: BTreeMap<String, u64>,
    /// This client's addresses, as the servers saw them.
    pub seen_as: BTreeSet<IpAddr>,
    /// The longest time of one request in microseconds, answered or not.
    pub slowest_us: u64,
}

impl Report {
    /// Adds the outcome of one request.
    pub fn add(&mut self, outcome: io::Result<Answer>, time: Duration) {
        self.slowest_us = self.slowest_us.max(time.as_micros() as u64);
        match outcome {
            Ok(answer) => {
                self.ok += 1;
                *self.by_server.entry(answer.server).or_default() += 1;
                self.seen_as.insert(answer.seen_as.ip().to_canonical());
            }
            Err(error) => {
                self.failed += 1;
                *self.errors.entry(word(&error)).or_default() += 1;
            }
        }
    }

    /// Returns the longest time of one request.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest_us)
    }

    /// Returns Pearson's chi-square statistic of the answers, against equal shares of all servers
    /// that have answered: the sum of `(count - mean)^2 / mean`. With n servers it has n - 1
    /// degrees of freedom.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
    pub fn chi_square(&self) -> f64 {
        let mean = self.ok as f64 / self.by_server.len() as f64;
        self.by_server.values().map(|count| (*count as f64 - mean).powi(2) / mean).sum()
    }

    /// Returns true if two servers have answered with equal chances. For [`SPREAD`] requests.
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.by_server.len() == 2 && self.chi_square() < UNEVEN
    }

    /// Adds the counts of another report.
    pub fn merge(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        for (server, count) in other.by_server {
            *self.by_server.entry(server).or_default() += count;
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.seen_as.extend(other.seen_as);
        self.slowest_us = self.slowest_us.max(other.slowest_us);
    }
}

/// Returns an error as a short word: `ECONNREFUSED`, `timeout`, or its text.
pub(super) fn word(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc_code) => match nix::errno::Errno::from_raw(libc_code) {
            nix::errno::Errno::EAGAIN => "timeout".to_owned(),
            errno => format!("{errno:?}"),
        },
        None if error.kind() == io::ErrorKind::TimedOut => "timeout".to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_reported_by_errno_name() {
        assert_eq!(word(&io::Error::from_raw_os_error(111)), "ECONNREFUSED");
        assert_eq!(word(&io::Error::from_raw_os_error(11)), "timeout");
        assert_eq!(word(&io::Error::from(io::ErrorKind::TimedOut)), "timeout");
        assert_eq!(word(&io::Error::other("reply from elsewhere")), "reply from elsewhere");
    }

    #[test]
    fn chi_square_grows_with_unequal_shares() {
        let of = |a: u64, b: u64| {
            let by_server = [("a".to_owned(), a), ("b".to_owned(), b)].into();
            Report { ok: a + b, by_server, ..Report::default() }.chi_square()
        };
        // (10 - 0)^2 / 10 from each server, and so on
        assert!((of(20, 20), of(10, 30)) == (0.0, 10.0), "{} {}", of(20, 20), of(10, 30));
        assert!((of(960, 640) - 64.0).abs() < 1e-9, "60 to 40: {}", of(960, 640));
    }

    #[test]
    fn spread_of_one_server_is_not_even() {
        let of = |shares: &[(&str, u64)]| {
            let by_server: BTreeMap<_, _> = shares.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            Report { ok: by_server.values().sum(), by_server, ..Report::default() }.is_even()
        };
        assert!(!of(&[("a", 700), ("b", 900)]) && of(&[("a", 703), ("b", 897)]));
        assert!(!of(&[("a", 1600)]) && !of(&[]) && !of(&[("a", 800), ("b", 800), ("c", 0)]));
    }

    #[test]
    fn merged_reports_add_up() {
        let answer =
            |server: &str| Ok(Answer { server: server.to_owned(), seen_as: "[::ffff:10.0.0.1]:1".parse().unwrap() });
        let mut report = Report::default();
        report.add(answer("a"), Duration::from_micros(5));
        let mut other = Report::default();
        other.add(answer("a"), Duration::from_micros(9));
        other.add(Err(io::Error::from_raw_os_error(111)), Duration::from_micros(1));
        report.merge(other);
        assert_eq!((report.ok, report.failed, report.slowest_us), (2, 1, 9));
        assert_eq!(report.by_server["a"], 2);
        assert!(report.seen_as.contains(&"10.0.0.1".parse::<IpAddr>().unwrap()));
    }
}
