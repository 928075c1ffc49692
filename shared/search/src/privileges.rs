//! What the credentials may do.

use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::{Engine, Server};

/// Of the cluster, and of the indexes: what migrate and the writers need.
const OF_CLUSTER: [&str; 2] = ["monitor", "manage_index_templates"];
const OF_INDEXES: [&str; 4] = ["create_index", "manage", "read", "write"];
const TIMEOUT: Duration = Duration::from_secs(10);

/// Lists those that are missing, for indexes of these names: `write on books`. An empty list, too, where security is off. `None`:
/// it is OpenSearch, where nobody can ask that.
///
/// # Errors
/// Nobody answered.
pub async fn list_missing(client: &Server, names: &[String]) -> Result<Option<Vec<String>>, elasticsearch::Error> {
    #[derive(Deserialize)]
    struct Answer {
        cluster: BTreeMap<String, bool>,
        index: BTreeMap<String, BTreeMap<String, bool>>,
    }
    if client.engine() == Engine::OpenSearch {
        return Ok(None);
    }
    let asked = json!({"cluster": OF_CLUSTER, "index": [{"names": names, "privileges": OF_INDEXES}]});
    let request = client.post(["_security", "user", "_has_privileges"]).json(&asked);
    let answer = request.timeout(TIMEOUT).send().await?;
    // Without security there is no such path.
    if !answer.status_code().is_success() {
        return Ok(Some(vec![]));
    }
    let Answer { cluster, index } = answer.json().await?;
    let of_cluster = cluster.into_iter().filter(|(_, has)| !has).map(|(name, _)| format!("{name} on the cluster"));
    let of_indexes = index.into_iter().flat_map(|(index, privileges)| {
        let missing = privileges.into_iter().filter(|(_, has)| !has);
        missing.map(move |(name, _)| format!("{name} on {index}")).collect::<Vec<_>>()
    });
    Ok(Some(of_cluster.chain(of_indexes).collect()))
}
