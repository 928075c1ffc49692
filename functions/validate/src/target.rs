//! Elasticsearch, as far as it is compared.

use elasticsearch::Elasticsearch;
use elasticsearch::indices::IndicesGetParts;
use search::request::{Error, find};
use serde_json::json;

/// The index's own name in Elasticsearch. Or why nothing can be compared with it: it does not keep documents as they were
/// written, or is gone.
pub(crate) async fn uuid(elasticsearch: &Elasticsearch, index: &str) -> Result<Result<String, String>, Error> {
    let sent = elasticsearch.indices().get(IndicesGetParts::Index(&[index])).flat_settings(true).send().await;
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
