//! Where the documents of a stream are written to.

use std::collections::HashSet;

use tokio::sync::Mutex;

use crate::answer::decide_alias;
use crate::cluster::Cluster;
use crate::deadline::Deadline;
use crate::names;
use crate::outcome::Outcome;

/// The aliases that were found to be Sluice's own.
///
/// A message is not trusted with the name of an index: it is written to an alias only if that leads to an index which
/// Sluice made for it. That is asked of Elasticsearch, so that a change which needs no re-read needs no PostgreSQL
/// either; where there is no such alias, `sluice.stream` decides what that means.
#[derive(Debug)]
pub struct Aliases {
    prefix: String,
    known: Mutex<HashSet<String>>,
}

impl Aliases {
    /// By what the names of aliases begin with; nothing is known yet.
    pub fn new(prefix: String) -> Self {
        Self { prefix, known: Mutex::default() }
    }

    /// The alias by which a generation of a stream is written, or what becomes of the changes of one that has none.
    pub async fn of(
        &self,
        stream: &str,
        generation: i32,
        cluster: &impl Cluster,
        deadline: Deadline,
    ) -> Result<String, Outcome> {
        let (alias, written) = self.names(stream, generation).ok_or(Outcome::NoStream)?;
        if !self.known.lock().await.contains(&written) {
            decide_alias(&alias, generation, cluster.indexes_of(&written, deadline).await)?;
            self.known.lock().await.insert(written.clone());
        }
        Ok(written)
    }

    /// After Elasticsearch said that there is no such index: asks afresh from now on.
    pub async fn forget(&self, stream: &str, generation: i32) {
        if let Some((_, written)) = self.names(stream, generation) {
            self.known.lock().await.remove(&written);
        }
    }

    /// The alias that is searched, and the one that is written.
    fn names(&self, stream: &str, generation: i32) -> Option<(String, String)> {
        // Beside the live one it has its number behind its name.
        let base = stream.strip_suffix(&format!(".g{generation}")).unwrap_or(stream);
        let alias = (is_stream_name(base) && generation > 0).then(|| names::alias(&self.prefix, base))?;
        let written = names::write_alias(&alias, generation);
        Some((alias, written))
    }
}

/// As `sluice.stream` has it. Other names could mean something else to Elasticsearch, as `*` does.
fn is_stream_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
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
