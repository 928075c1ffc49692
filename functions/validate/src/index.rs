//! An index of Elasticsearch, as far as it is compared.

use search::Client;
use search::documents::{Documents, Wanted};
use search::request::{self, find};
use serde_json::json;

use crate::error::Error;

/// Of an answer: a larger one is asked for in halves.
const ANSWER_BYTES: u64 = 4 << 20;

/// The index's own name in Elasticsearch. Or why nothing can be compared with it: it does not keep documents as they were
/// written, or is gone.
pub(crate) async fn uuid(elasticsearch: &Client, index: &str) -> Result<Result<String, String>, Error> {
    let sent = elasticsearch.get([index]).query("flat_settings", "true").send().await;
    let Some(found) = find(sent, format!("reading the settings of the index {index}")).await? else {
        return Ok(Err(format!("its index {index} is gone: run migrate, which makes and fills one")));
    };
    let (settings, source) = (&found[index]["settings"], &found[index]["mappings"]["_source"]);
    let has = |name: &str| settings[name].as_str().is_some_and(|value| value != "_none");
    let reason = if has("index.default_pipeline") || has("index.final_pipeline") {
        "a pipeline changes documents on their way into it"
    } else if settings["index.mapping.source.mode"] == "synthetic" || source["mode"] == "synthetic" {
        "its documents are put together from their fields (synthetic _source)"
    } else if source["enabled"] == json!(false) || settings["index.mapping.source.mode"] == "disabled" {
        "it keeps no _source"
    } else if source.get("includes").is_some() || source.get("excludes").is_some() {
        "it keeps some fields of _source only"
    } else {
        return Ok(Ok(settings["index.uuid"].as_str().unwrap_or_default().to_owned()));
    };
    Ok(Err(format!(
        "it cannot be compared: the index {index} does not keep documents as they were written, since {reason}"
    )))
}

/// Reads these documents, each a key with the source's content, and gives each to `look` in their order: the source's content, the
/// version that the index has, and its content, where the source has one.
pub(crate) async fn read(
    elasticsearch: &Client,
    index: &str,
    documents: &[(&str, Option<&str>)],
    mut look: impl FnMut(Option<&str>, Option<i64>, Option<&str>),
) -> Result<(), Error> {
    let wanted: Vec<Wanted<'_>> =
        documents.iter().map(|(key, document)| Wanted { key, content: document.is_some() }).collect();
    let mut todo = vec![(documents, wanted.as_slice())];
    while let Some((documents, wanted)) = todo.pop() {
        let most = if wanted.len() == 1 { u64::MAX } else { ANSWER_BYTES };
        let Some(answer) = Documents::read(elasticsearch, index, wanted, most).await? else {
            let (one, other) = documents.split_at(documents.len() / 2);
            let (wanted, others) = wanted.split_at(one.len());
            todo.extend([(other, others), (one, wanted)]);
            continue;
        };
        for ((_, document), found) in documents.iter().zip(answer.parse(wanted)?) {
            let unreadable =
                |reason| request::Error::Foreign(format!("a document of {index} cannot be read: {reason}"));
            let found = found.map_err(unreadable)?;
            let content = found.and_then(|found| found.content).map(|content| content.get());
            look(*document, found.map(|found| found.version), content);
        }
    }
    Ok(())
}
