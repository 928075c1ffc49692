//! Filling a generation of a stream that is fed by emit, which has no other source than the live index.

use database::generations::{self, Generation};
use search::documents::{Documents, Wanted};
use search::request::answer;
use search::scan::{Found, Scan};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::{Error, Keeper};

/// Documents that are read and written at once, and their bytes.
const PAGE: usize = 500;
const PAGE_BYTES: u64 = 20 << 20;
/// How long one step goes on.
const STEP: Duration = Duration::from_secs(5);

/// How far it is.
pub(crate) enum Copy {
    GoesOn,
    Done,
    /// In words.
    Failed(String),
}

impl Keeper<'_> {
    /// Begins to copy when whatever was sent to the live index alone has arrived there, or goes on for a while. Each document is read as it is
    /// then and keeps its version, so that one that has changed meanwhile is not overwritten. Of one that was deleted the new
    /// index knows the delete, for longer than any step takes.
    pub(crate) async fn copy(&self, generation: &Generation) -> Result<Copy, Error> {
        let name = &generation.name;
        let Some(from) = generation.copied_to else {
            if generations::can_be_copied(self.client, name).await? {
                generations::note_copied(self.client, name, 0).await?;
            }
            return Ok(Copy::GoesOn);
        };
        let until = Instant::now() + STEP;
        let Some(mut scan) = Scan::open(self.elasticsearch, &generation.live_index, from).await? else {
            return Ok(Copy::Failed("it is gone".to_owned()));
        };
        let outcome = self.copy_pages(generation, &mut scan, until).await;
        scan.close().await;
        outcome
    }

    async fn copy_pages(&self, generation: &Generation, scan: &mut Scan<'_>, until: Instant) -> Result<Copy, Error> {
        while let Some(found) = scan.next().await? {
            for page in found.chunks(PAGE) {
                if Instant::now() > until {
                    return Ok(Copy::GoesOn);
                }
                if let Some(reason) = self.copy_page(generation, page).await? {
                    return Ok(Copy::Failed(reason));
                }
                // The last number again: another shard may have it, too.
                if let Some(last) = page.last() {
                    generations::note_copied(self.client, &generation.name, last.seq_no).await?;
                }
            }
        }
        Ok(Copy::Done)
    }

    /// Why some of it cannot be copied.
    async fn copy_page(&self, generation: &Generation, page: &[Found]) -> Result<Option<String>, Error> {
        let wanted: Vec<Wanted<'_>> = page.iter().map(|found| Wanted { key: &found.key, content: true }).collect();
        let Some(read) = Documents::read(self.elasticsearch, &generation.live_index, &wanted, PAGE_BYTES).await? else {
            let (first, second) = page.split_at(page.len() / 2);
            if first.is_empty() {
                return Ok(Some(format!("a document has more than {PAGE_BYTES} bytes")));
            }
            return match Box::pin(self.copy_page(generation, first)).await? {
                None => Box::pin(self.copy_page(generation, second)).await,
                refused => Ok(refused),
            };
        };
        let mut lines = String::new();
        for (wanted, document) in wanted.iter().zip(read.parse(&wanted)?) {
            let document = match document {
                Ok(Some(document)) => document,
                // It was deleted meanwhile, in both.
                Ok(None) => continue,
                Err(reason) => return Ok(Some(reason)),
            };
            let Some(content) = document.content else { return Ok(Some("it does not keep its documents".to_owned())) };
            let action = json!({"index": {"_id": wanted.key, "version": document.version, "version_type": "external"}});
            lines.push_str(&format!("{action}\n{content}\n"));
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let index = &generation.index;
        let sent = self.elasticsearch.post([index.as_str(), "_bulk"]).body(lines).send().await;
        let written = answer(sent, format!("copying documents to {index}")).await?;
        Ok(refused(&written))
    }
}

/// Why documents were refused. One that is newer there is none of them.
fn refused(answer: &Value) -> Option<String> {
    let items = answer["items"].as_array()?;
    let mut refused = items.iter().filter(|item| !item["index"]["error"].is_null() && item["index"]["status"] != 409);
    let first = refused.next()?;
    let reason = first["index"]["error"]["reason"].as_str().unwrap_or("Elasticsearch does not say why");
    let cause =
        first["index"]["error"]["caused_by"]["reason"].as_str().map(|cause| format!(": {cause}")).unwrap_or_default();
    Some(format!("{} documents of a page are refused, the first one since {reason}{cause}", 1 + refused.count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_newer_there_is_not_refused() {
        let item = |status: u16, error: Value| json!({"index": {"status": status, "error": error}});
        let answer = |items: Vec<Value>| json!({"errors": true, "items": items});
        let conflict = || item(409, json!({"type": "version_conflict_engine_exception", "reason": "newer"}));
        assert_eq!(refused(&answer(vec![item(201, Value::Null), conflict()])), None);
        let bad = || item(400, json!({"reason": "failed to parse", "caused_by": {"reason": "no number"}}));
        let told = refused(&answer(vec![conflict(), bad(), bad()])).unwrap();
        assert_eq!(told, "2 documents of a page are refused, the first one since failed to parse: no number");
    }
}
