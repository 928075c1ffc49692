//! Elasticsearch, as far as it is compared.

use std::borrow::Cow;

use elasticsearch::indices::IndicesGetParts;
use elasticsearch::{Elasticsearch, MgetParts};
use search::request::{Error, find};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use telemetry::call;

const PEER: &str = "elasticsearch";

/// The documents of some keys, as the index has them now: what was written a moment ago is among them.
pub(crate) struct Documents(Vec<u8>);

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    docs: Vec<Found<'a>>,
}

/// A document of the index. None of the fields is there where it has none of this key.
#[derive(Deserialize)]
pub(crate) struct Found<'a> {
    #[serde(rename = "_id", borrow)]
    id: Option<Cow<'a, str>>,
    /// Of its last write.
    #[serde(rename = "_version")]
    pub(crate) version: Option<i64>,
    #[serde(rename = "_source", borrow)]
    source: Option<&'a RawValue>,
    #[serde(default)]
    found: bool,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl<'a> Found<'a> {
    /// Its content, byte by byte as it was written.
    pub(crate) fn document(&self) -> Option<&'a str> {
        self.source.filter(|_| self.found).map(RawValue::get)
    }
}

/// Reads the documents of these keys.
pub(crate) async fn read(elasticsearch: &Elasticsearch, index: &str, keys: &[&str]) -> Result<Documents, Error> {
    let doing = format!("reading documents of the index {index}");
    let sent = async {
        let response = elasticsearch.mget(MgetParts::Index(index)).body(json!({"ids": keys})).send().await?;
        let status = response.status_code();
        Ok::<_, elasticsearch::Error>((status, response.bytes().await?))
    };
    let (status, body) =
        call(PEER, "_mget", sent).await.map_err(|source| Error::Unanswered { doing: doing.clone(), source })?;
    if !status.is_success() {
        let reason = String::from_utf8_lossy(&body).chars().take(500).collect();
        return Err(Error::Refused { doing, status: status.as_u16(), reason });
    }
    Ok(Documents(body.into()))
}

impl Documents {
    /// In the order of the keys that were asked for; `None`: there is none of this key.
    ///
    /// # Errors
    /// A shard did not answer, or it is no answer of Elasticsearch.
    pub(crate) fn parse(&self, keys: &[&str]) -> Result<Vec<Option<Found<'_>>>, Error> {
        let foreign =
            |problem: String| Error::Foreign(format!("Elasticsearch gave no answer that can be read: {problem}"));
        let answer: Answer<'_> = serde_json::from_slice(&self.0).map_err(|error| foreign(error.to_string()))?;
        if answer.docs.len() != keys.len()
            || answer.docs.iter().zip(keys).any(|(found, key)| found.id.as_deref() != Some(*key))
        {
            return Err(foreign("it is about other documents".to_owned()));
        }
        if let Some(error) = answer.docs.iter().find_map(|found| found.error) {
            let reason =
                serde_json::from_str::<Value>(error.get()).ok().and_then(|it| it["reason"].as_str().map(str::to_owned));
            return Err(foreign(reason.unwrap_or_default()));
        }
        Ok(answer.docs.into_iter().map(|found| found.document().is_some().then_some(found)).collect())
    }
}

/// Why nothing can be compared with this index: it does not keep documents as they were written, or is gone. `None`: it can.
pub(crate) async fn problem(elasticsearch: &Elasticsearch, index: &str) -> Result<Option<String>, Error> {
    let sent = elasticsearch.indices().get(IndicesGetParts::Index(&[index])).flat_settings(true).send().await;
    let found = match find(sent, format!("reading the settings of the index {index}")).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Some(format!("its index {index} is gone: run migrate, which makes and fills one"))),
        Err(error) => return Err(error),
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
        return Ok(None);
    };
    Ok(Some(format!(
        "it cannot be compared: the index {index} does not keep documents as they were written, since {reason}"
    )))
}
