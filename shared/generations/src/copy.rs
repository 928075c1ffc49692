//! Filling a generation of a stream that is fed by emit, which has no other source than the live index.

use database::generations::{self, Generation};
use elasticsearch::http::Method;
use elasticsearch::http::headers::HeaderMap;
use search::request::{answer, find};
use serde_json::{Value, json};

use crate::{Error, Keeper};

/// How far it is.
pub(crate) enum Copy {
    GoesOn,
    Done,
    /// In words.
    Failed(String),
}

impl Keeper<'_> {
    /// Begins to copy when whatever was sent to the live index alone has arrived there, or looks how far it is. Documents keep their
    /// versions, so that one that has changed meanwhile is not overwritten, and one that was deleted stays so.
    pub(crate) async fn copy(&self, generation: &Generation) -> Result<Copy, Error> {
        let name = &generation.name;
        let Some(task) = &generation.copied_by else {
            if generations::can_be_copied(self.client, name).await? {
                let task = self.begin_copy(generation).await?;
                generations::note_copy(self.client, name, Some(&task)).await?;
            }
            return Ok(Copy::GoesOn);
        };
        let path = format!("/_tasks/{task}");
        let sent = self.elasticsearch.send(Method::Get, &path, HeaderMap::new(), None::<&()>, None::<()>, None).await;
        let Some(found) = find(sent, format!("asking how far the copy of {} is", generation.live_index)).await? else {
            // Elasticsearch was started again, and knows nothing of it.
            generations::note_copy(self.client, name, None).await?;
            return Ok(Copy::GoesOn);
        };
        Ok(outcome(&found))
    }

    async fn begin_copy(&self, generation: &Generation) -> Result<String, Error> {
        let (from, to) = (&generation.live_index, &generation.index);
        self.refresh(from).await?;
        let body = json!({
            "conflicts": "proceed",
            "source": {"index": from},
            "dest": {"index": to, "version_type": "external"},
        });
        let sent = self.elasticsearch.reindex().wait_for_completion(false).body(body).send().await;
        let begun = answer(sent, format!("copying {from} to {to}")).await?;
        Ok(begun["task"].as_str().unwrap_or_default().to_owned())
    }
}

/// What Elasticsearch tells of a task that copies.
fn outcome(task: &Value) -> Copy {
    if task["completed"] != true {
        return Copy::GoesOn;
    }
    let failures = task["response"]["failures"].as_array().map_or(0, Vec::len);
    if task["error"].is_null() && failures == 0 && task["response"]["canceled"].is_null() {
        return Copy::Done;
    }
    let causes = [&task["response"]["failures"][0]["cause"]["reason"], &task["error"]["reason"], &task["response"]["canceled"]];
    let reason = causes.into_iter().find_map(Value::as_str).unwrap_or("Elasticsearch does not say why");
    Copy::Failed(format!("{failures} documents are refused, the first one since: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_done_only_when_nothing_was_refused() {
        let told = |task: Value| match outcome(&task) {
            Copy::GoesOn => "goes on".to_owned(),
            Copy::Done => "done".to_owned(),
            Copy::Failed(reason) => reason,
        };
        assert_eq!(told(json!({"completed": false, "response": {"failures": []}})), "goes on");
        assert_eq!(told(json!({"completed": true, "response": {"failures": [], "version_conflicts": 7}})), "done");
        let refused = json!({"completed": true, "response": {"failures": [{"cause": {"reason": "no number"}}]}});
        assert!(told(refused).ends_with("no number"));
        assert!(told(json!({"completed": true, "error": {"reason": "no such index"}})).ends_with("no such index"));
    }
}
