//! Where the documents of a stream are written to.

use std::collections::{HashMap, HashSet};

use database::Connect;
use search::names;
use serde::de::IgnoredAny;
use tokio::sync::Mutex;

use crate::{
    cluster::Cluster,
    deadline::Deadline,
    decision::{Answer, Decision, Outcome, Reason, decide_request},
    re_read::Source,
};

pub(crate) const NO_SOURCE: &str = "no_source";

/// The aliases that were found to be Sluice's own.
///
/// A message is not trusted with the name of an index: it is written to an alias only if that leads to an index which
/// Sluice made for it. That is asked of Elasticsearch, so that a change which needs no re-read needs no PostgreSQL
/// either; `sluice.stream` decides where there is no such alias.
#[derive(Debug)]
pub(crate) struct Aliases {
    prefix: String,
    known: Mutex<HashSet<String>>,
}

impl Aliases {
    pub(crate) fn new(prefix: String) -> Self {
        Self { prefix, known: Mutex::default() }
    }

    /// The alias of a stream, or what becomes of the changes of a stream that has none.
    pub(crate) async fn of(
        &self,
        stream: &str,
        cluster: &impl Cluster,
        source: &Source<impl Connect>,
        deadline: Deadline,
    ) -> Result<String, Outcome> {
        if !is_stream_name(stream) {
            return Err(Outcome::NoStream);
        }
        let alias = names::alias(&self.prefix, stream);
        if self.known.lock().await.contains(stream) {
            return Ok(alias);
        }
        let indexes = match cluster.indexes_of(&alias, deadline).await {
            Answer::Success(body) => serde_json::from_slice::<HashMap<String, IgnoredAny>>(&body).ok(),
            Answer::Refused { status: 404, .. } => return Err(self.without_index(stream, source, deadline).await),
            refusal @ (Answer::Refused { .. } | Answer::Lost(_) | Answer::Misconfigured(_)) => {
                return Err(match decide_request(refusal, 1) {
                    // Nothing was sent that could be at fault.
                    Decision::All(Outcome::Permanent(reason)) => Outcome::Configuration(reason),
                    Decision::All(outcome) => outcome,
                    Decision::ByItem(_) | Decision::Halve => Outcome::Retry(malformed()),
                });
            }
        };
        match indexes {
            None => Err(Outcome::Retry(malformed())),
            Some(indexes) if indexes.keys().all(|index| names::is_index_of(&alias, index)) => {
                self.known.lock().await.insert(stream.to_owned());
                Ok(alias)
            }
            Some(_) => Err(Outcome::Configuration(Reason::new(
                "foreign_alias",
                format!("the alias {alias} is on an index that Sluice did not make; rename it, or set INDEX_PREFIX"),
            ))),
        }
    }

    /// After Elasticsearch said that there is no such index: asks afresh from now on, and tells what that means.
    pub(crate) async fn without_index(
        &self,
        stream: &str,
        source: &Source<impl Connect>,
        deadline: Deadline,
    ) -> Outcome {
        self.known.lock().await.remove(stream);
        match source.streams(deadline).await {
            Err(outcome) => outcome,
            Ok(streams) if streams.contains_key(stream) => Outcome::Configuration(Reason::new(
                "no_index",
                format!("the stream {stream} is defined and has no index: run migrate"),
            )),
            Ok(_) => Outcome::NoStream,
        }
    }
}

/// As `sluice.stream` has it. Other names could mean something else to Elasticsearch, as `*` does.
fn is_stream_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// What becomes of a change whose document did not travel, and can be read nowhere.
pub(crate) fn without_source() -> Outcome {
    Outcome::Permanent(Reason::new(NO_SOURCE, "its document did not travel, and the stream has no source to read"))
}

fn malformed() -> Reason {
    Reason::new("malformed_answer", "the answer is not that of Elasticsearch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_stream_can_have_are_looked_for() {
        for name in ["a", "cities", "demo_cities-2"] {
            assert!(is_stream_name(name), "{name}");
        }
        let long = "a".repeat(101);
        for name in ["", "*", "_all", "-a", "1a", "Cities", "a,b", "a/b", "..", "<a-{now}>", "é", long.as_str()] {
            assert!(!is_stream_name(name), "{name}");
        }
    }
}
