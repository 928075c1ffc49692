//! The index of one stream.

use database::streams::{self, Live};
use database::subscriptions::ELASTICSEARCH;
use elasticsearch::{
    CountParts, Elasticsearch,
    indices::{
        IndicesCreateParts, IndicesGetParts, IndicesPutAliasParts, IndicesPutMappingParts, IndicesPutSettingsParts,
    },
};
use search::request::{self, answer, find};
use search::{Server, names};
use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use super::{Outcome, Stream};
use crate::{error, mapping};

/// Elasticsearch forgets the version of a deleted document after this time; until then it refuses what is older.
const GC_DELETES: (&str, &str) = ("index.gc_deletes", "1h");

/// Why a stream has no index with its mapping. Each text ends the sentence "stream x: …".
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("there is an index {0}, where the stream's alias should be; rename or delete it, or set INDEX_PREFIX")]
    NameTaken(String),
    #[error(
        "the alias {alias} points at {other}, which is not the stream's index {index}; delete {other} if it is of an \
         earlier installation, or set INDEX_PREFIX"
    )]
    AliasTaken { alias: String, other: String, index: String },
    #[error(
        "the index {index} holds {documents} documents of an earlier definition of the stream; delete it and run \
         migrate again"
    )]
    Leftover { index: String, documents: u64 },
    #[error("there is an index {0} that Sluice did not make; delete it and run migrate again")]
    NotOurs(String),
    #[error("the settings have {0} {1}, and Sluice needs {2}; leave it out")]
    Setting(&'static str, Value, &'static str),
    #[error(
        "{}: an index that exists keeps these settings. Take the change back, or delete the index {index} and run migrate \
         again, which fills a new one (searches find nothing until then)", .refused.join(", ")
    )]
    FixedSettings { refused: Vec<String>, index: String },
    #[error("{0}")]
    Unsupported(String),
    #[error(
        "{change}; an index cannot be changed so, and goes on with the mapping that it has. Take the change back, or \
         delete the index {index} and run migrate again, which fills a new one (searches find nothing until then)"
    )]
    NotAdditive { change: String, index: String },
    #[error(transparent)]
    Elasticsearch(#[from] request::Error),
    #[error(transparent)]
    Database(#[from] error::Error),
}

/// Makes the index and its alias, extends the mapping, or does nothing.
pub(super) async fn bring(client: &mut Client, elasticsearch: &Server, stream: &Stream) -> Result<Outcome, Error> {
    if let Some(problem) = mapping::unsupported(&stream.mapping, &Value::Object(flat(stream))) {
        return Err(Error::Unsupported(problem));
    }
    let bearers = indexes(elasticsearch, &stream.alias).await?;
    if bearers.contains_key(&stream.alias) {
        return Err(Error::NameTaken(stream.alias.clone()));
    }
    let wanted = names::index(&stream.alias, &stream.mapping);
    let index = stream.live.as_ref().map_or(&wanted, |live| &live.index);
    if let Some(other) = bearers.keys().find(|bearer| *bearer != index) {
        let (alias, other, index) = (stream.alias.clone(), other.clone(), index.clone());
        return Err(Error::AliasTaken { alias, other, index });
    }
    let Some(found) = indexes(elasticsearch, index).await?.remove(index) else {
        return create(client, elasticsearch, stream, &wanted).await;
    };
    if found["mappings"]["_meta"]["sluice"] != mark(stream) {
        return Err(Error::NotOurs(index.clone()));
    }
    let has_alias = bearers.contains_key(index);
    match &stream.live {
        None => adopt(client, elasticsearch, stream, index, has_alias).await,
        Some(live) => extend(client, elasticsearch, stream, live, has_alias, &found["settings"]).await,
    }
}

/// The index with its alias, in one request. Where the stream had one, its documents are read again.
async fn create(client: &mut Client, elasticsearch: &Server, stream: &Stream, index: &str) -> Result<Outcome, Error> {
    let mut settings = settings(stream)?;
    elasticsearch.allow_creation(&mut settings);
    let body = json!({
        "mappings": mappings(stream),
        "settings": settings,
        "aliases": {&stream.alias: {"is_write_index": true}},
    });
    let sent = elasticsearch.indices().create(IndicesCreateParts::Index(index)).body(body).send().await;
    answer(sent, format!("creating the index {index}")).await?;
    let is_lost = stream.live.is_some();
    set_live(client, stream, index, is_lost).await?;
    Ok(Outcome::Done(match (is_lost, stream.has_source) {
        (false, true) => format!(
            "made the index {index}; rows from before the tables were tracked come by SELECT sluice.resync('{}')",
            stream.name
        ),
        (false, false) => format!("made the index {index}"),
        (true, true) => format!("its index was gone; made the index {index}, which is being filled from the source"),
        (true, false) => {
            format!("its index was gone; made the index {index}, which is empty: emit its documents again")
        }
    }))
}

/// An earlier run made the index and did not come to its end, or the database is not the one that it was made for.
async fn adopt(
    client: &mut Client,
    elasticsearch: &Elasticsearch,
    stream: &Stream,
    index: &str,
    has_alias: bool,
) -> Result<Outcome, Error> {
    let sent = elasticsearch.count(CountParts::Index(&[index])).send().await;
    let documents = answer(sent, format!("counting the documents of {index}")).await?["count"].as_u64().unwrap_or(0);
    if documents > 0 {
        return Err(Error::Leftover { index: index.to_owned(), documents });
    }
    if !has_alias {
        put_alias(elasticsearch, stream, index).await?;
    }
    set_live(client, stream, index, false).await?;
    Ok(Outcome::Done(format!("finished the index {index}")))
}

/// The settings that changed, and the mapping's new fields, if that is all that is new.
async fn extend(
    client: &mut Client,
    elasticsearch: &Elasticsearch,
    stream: &Stream,
    live: &Live,
    has_alias: bool,
    has_settings: &Value,
) -> Result<Outcome, Error> {
    let index = &live.index;
    let added = mapping::additions(&live.mapping, &stream.mapping)
        .map_err(|change| Error::NotAdditive { change, index: index.clone() })?;
    let changed = put_settings(elasticsearch, stream, index, has_settings).await?;
    if !has_alias {
        put_alias(elasticsearch, stream, index).await?;
    }
    if added.is_empty() {
        let alias = &stream.alias;
        return Ok(match (has_alias, changed.is_empty()) {
            (true, true) => Outcome::Nothing,
            (true, false) => Outcome::Done(format!("changed {} of the index {index}", changed.join(", "))),
            (false, _) => Outcome::Done(format!("put the alias {alias} back on the index {index}")),
        });
    }
    let indexes = [index.as_str()];
    let parts = IndicesPutMappingParts::Index(&indexes);
    let sent = elasticsearch.indices().put_mapping(parts).body(mappings(stream)).send().await;
    let added = added.join(", ");
    answer(sent, format!("adding the fields {added} to the index {index}")).await?;
    set_live(client, stream, index, true).await?;
    Ok(Outcome::Done(if stream.has_source {
        format!("added {added} to the index {index}, which is being filled from the source")
    } else {
        format!("added {added} to the index {index}; what was emitted before has no such fields")
    }))
}

/// The drain reads by this mapping from now on. `resync`: what is in the index was read by another.
async fn set_live(client: &mut Client, stream: &Stream, index: &str, resync: bool) -> Result<(), error::Error> {
    let doing = error::query("making the mapping live");
    let set = async {
        let transaction = client.transaction().await?;
        streams::set_live(&transaction, ELASTICSEARCH, &stream.name, index, &stream.mapping).await?;
        if resync && stream.has_source {
            streams::resync(&transaction, &stream.name, ELASTICSEARCH).await?;
        }
        transaction.commit().await
    };
    set.await.map_err(doing)
}

/// Brings the index's settings to those of the stream; one by one, since Elasticsearch takes all of a request or none. Which
/// were changed.
async fn put_settings(
    elasticsearch: &Elasticsearch,
    stream: &Stream,
    index: &str,
    has: &Value,
) -> Result<Vec<String>, Error> {
    let mut current = Map::new();
    flatten("", has, &mut current);
    let (mut changed, mut refused) = (Vec::new(), Vec::new());
    for (name, wanted) in settings(stream)?.as_object().into_iter().flatten() {
        if as_told(wanted) == current.get(name).map_or(String::new(), as_told) {
            continue;
        }
        let indexes = [index];
        let parts = IndicesPutSettingsParts::Index(&indexes);
        let sent = elasticsearch.indices().put_settings(parts).body(json!({name: wanted})).send().await;
        match answer(sent, format!("changing {name} of the index {index}")).await {
            Ok(_) => changed.push(name.clone()),
            Err(request::Error::Refused { status: 400, .. }) => refused.push(format!("{name} {wanted}")),
            Err(error) => return Err(error.into()),
        }
    }
    if refused.is_empty() { Ok(changed) } else { Err(Error::FixedSettings { refused, index: index.to_owned() }) }
}

/// Elasticsearch tells each setting as a text.
fn as_told(setting: &Value) -> String {
    match setting {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(as_told).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => setting.to_string(),
    }
}

async fn put_alias(elasticsearch: &Elasticsearch, stream: &Stream, index: &str) -> Result<(), request::Error> {
    let indexes = [index];
    let parts = IndicesPutAliasParts::IndexName(&indexes, &stream.alias);
    let sent = elasticsearch.indices().put_alias(parts).body(json!({"is_write_index": true})).send().await;
    answer(sent, format!("putting the alias {} on the index {index}", stream.alias)).await.map(drop)
}

/// The indexes that a name stands for, by their own names.
async fn indexes(elasticsearch: &Elasticsearch, name: &str) -> Result<Map<String, Value>, request::Error> {
    let sent = elasticsearch.indices().get(IndicesGetParts::Index(&[name])).send().await;
    Ok(match find(sent, format!("looking for {name}")).await? {
        Some(Value::Object(found)) => found,
        _ => Map::new(),
    })
}

/// In the index's `_meta`: whose it is. The alias begins with the installation's prefix, the stream does not.
fn mark(stream: &Stream) -> Value {
    json!({"alias": stream.alias, "stream": stream.name})
}

/// Whether an index with this `_meta.sluice` was made by an installation with this prefix.
pub(crate) fn is_made_by(prefix: &str, mark: &Value) -> bool {
    let stream = mark["stream"].as_str();
    stream.is_some_and(|stream| mark["alias"] == names::alias(prefix, stream))
}

/// The stream's mapping with what must hold: no field that nobody defined, and our mark.
fn mappings(stream: &Stream) -> Value {
    let mut mappings = stream.mapping.clone();
    mappings["dynamic"] = json!("strict");
    if !mappings["_meta"].is_object() {
        mappings["_meta"] = json!({});
    }
    mappings["_meta"]["sluice"] = mark(stream);
    mappings
}

/// The stream's settings with what must hold.
fn settings(stream: &Stream) -> Result<Value, Error> {
    let mut settings = flat(stream);
    let (name, needed) = GC_DELETES;
    match settings.insert(name.to_owned(), json!(needed)) {
        Some(given) if given != needed => Err(Error::Setting(name, given, needed)),
        _ => Ok(Value::Object(settings)),
    }
}

/// The stream's own settings, each by its whole name.
fn flat(stream: &Stream) -> Map<String, Value> {
    let mut settings = Map::new();
    flatten("", stream.settings.as_ref().unwrap_or(&Value::Null), &mut settings);
    settings
}

/// Settings come nested or dotted, with `index` in front or without.
fn flatten(path: &str, settings: &Value, into: &mut Map<String, Value>) {
    let Value::Object(members) = settings else {
        if !path.is_empty() {
            let name = if path.starts_with("index.") { path.to_owned() } else { format!("index.{path}") };
            into.insert(name, settings.clone());
        }
        return;
    };
    for (name, value) in members {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        flatten(&path, value, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(mapping: Value, settings: Option<Value>) -> Stream {
        let (name, alias) = ("cities".to_owned(), "test-cities".to_owned());
        Stream { name, alias, has_source: true, mapping, settings, live: None }
    }

    #[test]
    fn the_mapping_is_strict_and_marked_as_ours() {
        let stream = stream(json!({"properties": {"id": {"type": "long"}}, "_meta": {"team": "maps"}}), None);
        let mappings = mappings(&stream);
        assert_eq!(mappings["dynamic"], "strict");
        assert_eq!(mappings["_meta"], json!({"team": "maps", "sluice": {"alias": "test-cities", "stream": "cities"}}));
        assert_eq!(mappings["properties"], stream.mapping["properties"]);
    }

    #[test]
    fn an_index_of_another_prefix_is_told_apart() {
        let mark = mark(&stream(json!({}), None));
        assert!(is_made_by("test-", &mark));
        for other in ["", "t", "test", "live-"] {
            assert!(!is_made_by(other, &mark), "{other}");
        }
        assert!(!is_made_by("", &Value::Null));
    }

    #[test]
    fn settings_of_any_shape_are_taken_but_for_what_must_hold() {
        let given =
            json!({"number_of_replicas": 0, "index": {"refresh_interval": "5s"}, "analysis.analyzer.x.type": "y"});
        let settings_of = |given| settings(&stream(json!({}), given));
        let expected = json!({"index.number_of_replicas": 0, "index.refresh_interval": "5s",
            "index.analysis.analyzer.x.type": "y", "index.gc_deletes": "1h"});
        assert_eq!(settings_of(Some(given)).unwrap(), expected);
        assert_eq!(settings_of(None).unwrap(), json!({"index.gc_deletes": "1h"}));
        assert!(settings_of(Some(json!({"gc_deletes": "1h"}))).is_ok());
        let told = settings_of(Some(json!({"index": {"gc_deletes": "60s"}}))).unwrap_err().to_string();
        assert_eq!(told, r#"the settings have index.gc_deletes "60s", and Sluice needs 1h; leave it out"#);
    }
}
