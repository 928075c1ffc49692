//! The configuration of a function: its environment, read once and nowhere else, with all problems reported at once.

use std::{collections::HashMap, net::IpAddr, str::FromStr, time::Duration};

/// A source of configuration that remembers every problem instead of stopping at the first.
///
/// Each getter returns a usable value even when it records a problem, so that a `from_env` reads on to its end;
/// [`Env::finish`] then tells whether these values may be used. A variable that is set to nothing counts as absent, since
/// a template cannot leave a variable out.
#[derive(Debug)]
pub struct Env {
    values: HashMap<String, String>,
    problems: Vec<String>,
}

/// Everything that is missing or malformed, by name. Never a value: some of them are secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the configuration is wrong: {}", .problems.join("; "))]
pub struct Error {
    /// One sentence for each problem, each with the name of its variable.
    pub problems: Vec<String>,
}

/// Whether a host, as a URL has it, is this machine: what is sent there needs no TLS.
pub fn is_this_machine(host: &str) -> bool {
    let is_loopback = |address: IpAddr| address.is_loopback();
    host == "localhost" || host.ends_with(".localhost") || host.trim_matches(['[', ']']).parse().is_ok_and(is_loopback)
}

impl Env {
    /// The variables of this process.
    pub fn from_process() -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self::from_pairs(std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))))
    }

    /// Variables given by hand.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let values = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .filter(|(_, value): &(String, String)| !value.trim().is_empty())
            .collect();
        Self { values, problems: Vec::new() }
    }

    /// A variable that must be there. Missing: a problem, and an empty text.
    pub fn required(&mut self, name: &str) -> String {
        let value = self.optional(name);
        if value.is_none() {
            self.problem(format!("{name} is missing"));
        }
        value.unwrap_or_default()
    }

    /// A variable that may be absent.
    pub fn optional(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }

    /// COMMIT, from which the deployed code was built.
    pub fn commit(&self) -> String {
        self.optional("COMMIT").unwrap_or_else(|| "unknown".to_owned())
    }

    /// A variable that parses as `T` and is `valid`, or `default` when it is absent.
    ///
    /// `expected` completes the sentence "NAME must be …".
    pub fn parsed<T: FromStr>(&mut self, name: &str, default: T, expected: &str, valid: impl FnOnce(&T) -> bool) -> T {
        let Some(text) = self.values.get(name) else { return default };
        match text.trim().parse() {
            Ok(value) if valid(&value) => value,
            _ => {
                self.problem(format!("{name} must be {expected}"));
                default
            }
        }
    }

    /// A time with its unit (`100ms`, `55s`, `2m`, `1h`), or `default` when it is absent.
    pub fn duration(&mut self, name: &str, default: Duration) -> Duration {
        let Some(text) = self.values.get(name) else { return default };
        parse_duration(text.trim()).unwrap_or_else(|| {
            self.problem(format!("{name} must be a whole number with a unit, as in 100ms, 55s, 2m or 1h"));
            default
        })
    }

    /// Records a problem that only the caller can see, for instance two variables that contradict each other.
    pub fn problem(&mut self, sentence: impl Into<String>) {
        self.problems.push(sentence.into());
    }

    /// All the problems at once, or nothing.
    pub fn finish(self) -> Result<(), Error> {
        if self.problems.is_empty() { Ok(()) } else { Err(Error { problems: self.problems }) }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once_by_name_and_without_a_value() {
        let mut env = Env::from_pairs([("PAGE_SIZE", "s3cret"), ("POLL_INTERVAL", "s3cret"), ("LIMIT", "0")]);
        env.required("QUEUE_URL");
        assert_eq!(env.parsed("PAGE_SIZE", 1000usize, "a number of rows", |_| true), 1000);
        assert_eq!(env.parsed("LIMIT", 7u8, "a number above 0", |n| *n > 0), 7);
        assert_eq!(env.duration("POLL_INTERVAL", Duration::from_millis(100)), Duration::from_millis(100));

        let error = env.finish().unwrap_err();
        assert_eq!(error.problems.len(), 4);
        let told = error.to_string();
        for name in ["QUEUE_URL is missing", "PAGE_SIZE must be a number of rows", "LIMIT must", "POLL_INTERVAL must"] {
            assert!(told.contains(name), "{name} is not told in: {told}");
        }
        assert!(!told.contains("s3cret"), "a value is told in: {told}");
    }

    #[test]
    fn an_empty_variable_is_an_absent_one() {
        let mut env = Env::from_pairs([("PREFIX", ""), ("PAGE_SIZE", " "), ("POLL_INTERVAL", "")]);
        assert_eq!(env.optional("PREFIX"), None);
        assert_eq!(env.parsed("PAGE_SIZE", 5u16, "a number", |_| true), 5);
        assert_eq!(env.duration("POLL_INTERVAL", Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(env.required("PREFIX"), "");
        assert_eq!(env.finish().unwrap_err().problems, ["PREFIX is missing"]);
    }

    #[test]
    fn good_values_are_taken() {
        let mut env = Env::from_pairs([("QUEUE_URL", "http://queue"), ("PAGE_SIZE", "12")]);
        assert_eq!(env.required("QUEUE_URL"), "http://queue");
        assert_eq!(env.parsed("PAGE_SIZE", 1000usize, "a number", |n| (1..=10_000).contains(n)), 12);
        assert_eq!(env.finish(), Ok(()));
    }

    #[test]
    fn a_duration_is_a_whole_number_with_a_unit() {
        for (text, ms) in [("100ms", 100), ("55s", 55_000), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "1.5s", "-1s", "5 s", "5d", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
