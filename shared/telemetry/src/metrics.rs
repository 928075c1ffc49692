//! Metrics for CloudWatch: a log line in its embedded metric format, from which it takes them.

use std::io::{Write as _, stdout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use config::Env;
use serde_json::{Map, Value, json};

/// All metrics are in this one.
const NAMESPACE: &str = "Sluice";
/// What the format allows in one array.
const MOST_VALUES: usize = 100;

/// Credentials that were refused and looked up anew, by this process, since the last line.
static SECRET_REFRESHES: AtomicU64 = AtomicU64::new(0);

/// Counts a credential that was refused and looked up anew; the next line of metrics has it.
pub fn count_secret_refresh() {
    SECRET_REFRESHES.fetch_add(1, Ordering::Relaxed);
}

/// Whose metrics: CloudWatch tells them apart by the stack and, where several services measure the same of different things, by
/// the service. By nothing else, since it bills each combination.
#[derive(Clone, Debug)]
pub struct Metrics {
    service: &'static str,
    stack: String,
    dimensions: &'static [&'static str],
}

impl Metrics {
    /// STACK_NAME: the deployed stack, so that two of an account are told apart. `None`: it is not set, and nobody reads
    /// metrics.
    pub fn from_env(env: &mut Env, service: &'static str) -> Option<Self> {
        env.optional("STACK_NAME").map(|stack| Self { service, stack, dimensions: &["stack"] })
    }

    /// The same, told apart from those of other services.
    #[must_use]
    pub fn by_service(self) -> Self {
        Self { dimensions: &["stack", "service"], ..self }
    }

    /// A line with no metric yet but of credentials that were refused and looked up anew.
    pub fn line(&self) -> Line {
        let fields = [("service", self.service), ("stack", self.stack.as_str())];
        let fields = fields.map(|(name, value)| (name.to_owned(), Value::from(value)));
        let mut line = Line { fields: Map::from_iter(fields), dimensions: self.dimensions, metrics: vec![] };
        line.count("SecretRefreshes", SECRET_REFRESHES.swap(0, Ordering::Relaxed));
        line
    }
}

/// One line, with the metrics of one invocation.
#[derive(Debug)]
pub struct Line {
    fields: Map<String, Value>,
    dimensions: &'static [&'static str],
    metrics: Vec<Value>,
}

impl Line {
    /// A number of things. None at all is left out: a metric costs by being there, and alarms take missing for none.
    pub fn count(&mut self, name: &str, count: u64) -> &mut Self {
        if count > 0 {
            self.add(name, "Count", count.into());
        }
        self
    }

    /// A state that was measured, 0 included.
    pub fn gauge(&mut self, name: &str, unit: &str, value: u64) -> &mut Self {
        self.add(name, unit, value.into());
        self
    }

    /// Times in milliseconds, of which CloudWatch makes percentiles. Where there are many, they are rounded to two
    /// digits, and the longest are kept.
    pub fn times(&mut self, name: &str, times_ms: &[u64]) -> &mut Self {
        let mut counted = std::collections::BTreeMap::<u64, u64>::new();
        for &time in times_ms {
            let time = if times_ms.len() > MOST_VALUES { rounded(time) } else { time };
            *counted.entry(time).or_default() += 1;
        }
        while counted.len() > MOST_VALUES {
            counted.pop_first();
        }
        if !counted.is_empty() {
            let (values, counts): (Vec<u64>, Vec<u64>) = counted.into_iter().unzip();
            self.add(name, "Milliseconds", json!({"Values": values, "Counts": counts}));
        }
        self
    }

    /// A fact beside the metrics, for queries over the log.
    pub fn fact(&mut self, name: &str, value: Value) -> &mut Self {
        self.fields.insert(name.to_owned(), value);
        self
    }

    /// Writes it to stdout, where the runtime collects it, unless there is nothing to tell.
    pub fn print(self, now: SystemTime) {
        if let Some(line) = self.json(now) {
            // Where even the log is gone, there is nobody to tell.
            writeln!(stdout(), "{line}").ok();
        }
    }

    fn json(mut self, now: SystemTime) -> Option<Value> {
        if self.metrics.is_empty() {
            return None;
        }
        let ms = u64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        let directive = json!({"Namespace": NAMESPACE, "Dimensions": [self.dimensions], "Metrics": self.metrics});
        self.fields.insert("_aws".to_owned(), json!({"Timestamp": ms, "CloudWatchMetrics": [directive]}));
        Some(Value::Object(self.fields))
    }

    fn add(&mut self, name: &str, unit: &str, value: Value) {
        self.metrics.push(json!({"Name": name, "Unit": unit}));
        self.fields.insert(name.to_owned(), value);
    }
}

/// To two digits.
fn rounded(value: u64) -> u64 {
    let step = 10u64.pow(value.checked_ilog10().unwrap_or(0).saturating_sub(1));
    (value + step / 2) / step * step
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn metrics() -> Metrics {
        Metrics::from_env(&mut Env::from_pairs([("STACK_NAME", "sluice-prod")]), "indexer").unwrap()
    }

    fn line() -> Line {
        metrics().line()
    }

    /// What the specification of the embedded metric format demands of a line.
    fn check(line: &Value) {
        assert!(line["_aws"]["Timestamp"].is_u64(), "{line}");
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            assert!((1..=255).contains(&directive["Namespace"].as_str().unwrap().len()));
            for name in directive["Dimensions"].as_array().unwrap().iter().flat_map(|set| set.as_array().unwrap()) {
                assert!(line[name.as_str().unwrap()].as_str().is_some_and(|value| !value.is_empty()), "{line}");
            }
            let metrics = directive["Metrics"].as_array().unwrap();
            assert!((1..=100).contains(&metrics.len()));
            for metric in metrics {
                assert!(["Count", "Milliseconds", "Bytes", "None"].contains(&metric["Unit"].as_str().unwrap()));
                let value = &line[metric["Name"].as_str().unwrap()];
                let is_distribution = value["Values"].as_array().is_some_and(|values| {
                    (1..=MOST_VALUES).contains(&values.len())
                        && Some(values.len()) == value["Counts"].as_array().map(Vec::len)
                });
                assert!(value.is_number() || is_distribution, "{metric}: {value}");
            }
        }
    }

    #[test]
    fn a_line_has_the_embedded_metric_format() {
        let mut line = line();
        line.count("Written", 3).gauge("Backlog", "Count", 0).times("CommitToIndexed", &[120, 120, 7]);
        line.fact("streams", json!({"books": {"written": 3}}));
        let line = line.json(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        check(&line);
        assert_eq!(
            (&line["_aws"]["Timestamp"], &line["stack"], &line["service"]),
            (&json!(1000), &json!("sluice-prod"), &json!("indexer"))
        );
        assert_eq!((&line["Written"], &line["Backlog"]), (&json!(3), &json!(0)));
        assert_eq!(line["CommitToIndexed"], json!({"Values": [7, 120], "Counts": [1, 2]}));
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["stack"]]));
    }

    #[test]
    fn a_service_can_be_told_apart_from_others_that_measure_the_same() {
        let mut line = metrics().by_service().line();
        line.gauge("Lag", "Milliseconds", 0);
        let line = line.json(UNIX_EPOCH).unwrap();
        check(&line);
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["stack", "service"]]));
    }

    #[test]
    fn many_times_fit_the_format_and_the_longest_are_kept() {
        let times: Vec<u64> = (0..100_000).map(|n| n * 7 % 1_000_003).collect();
        let mut line = line();
        line.times("CommitToIndexed", &times);
        let line = line.json(UNIX_EPOCH).unwrap();
        check(&line);
        assert_eq!(
            line["CommitToIndexed"]["Values"].as_array().unwrap().last(),
            Some(&json!(rounded(*times.iter().max().unwrap())))
        );
    }

    #[test]
    fn a_line_without_metrics_is_not_written() {
        let mut line = line();
        line.count("Written", 0).times("CommitToIndexed", &[]).fact("streams", json!({}));
        assert_eq!(line.json(UNIX_EPOCH), None);
    }
}
