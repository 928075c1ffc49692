//! The index of one stream.

use database::generations::{Generation, State};
use database::streams::{self, Live};
use database::subscriptions::ELASTICSEARCH;
use search::request::{self, answer, find};
use search::{Engine, Server, names};
use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use generations::{flat_settings, while_filled};

use super::{Outcome, Stream};
use crate::{error, mapping};

/// Elasticsearch forgets the version of a deleted document after this time; until then it refuses what is older.
const GC_DELETES: (&str, &str) = ("index.gc_deletes", "1h");

/// From 9.2 on Elasticsearch leaves vectors out of the documents that it gives, unless the index says otherwise: nobody could compare them
/// with the source then, or copy them into the next generation.
const WITHOUT_VECTORS: &str = "index.mapping.exclude_source_vectors";

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
        "{0}; narrow the template's index_patterns, lower its priority below {priority}, or set INDEX_PREFIX",
        priority = super::TEMPLATE_PRIORITY
    )]
    DataStream(request::Error),
    #[error(transparent)]
    Elasticsearch(#[from] request::Error),
    #[error(transparent)]
    Database(#[from] error::Error),
}

/// Makes the index and its aliases, extends the mapping, begins the next generation, or does nothing.
pub(super) async fn bring(
    client: &mut Client,
    elasticsearch: &Server,
    stream: &Stream,
    beside: &[&Generation],
) -> Result<Outcome, Error> {
    let bearers = indexes(elasticsearch, &stream.alias).await?;
    if bearers.contains_key(&stream.alias) {
        return Err(Error::NameTaken(stream.alias.clone()));
    }
    let wanted = names::index(&stream.alias, stream.generation, &stream.mapping);
    let index = stream.live.as_ref().map_or(&wanted, |live| &live.index);
    // That of another generation is on its way to the live one.
    let is_of_ours = |bearer: &String| beside.iter().any(|generation| generation.index == *bearer);
    if let Some(other) = bearers.keys().find(|bearer| *bearer != index && !is_of_ours(bearer)) {
        let (alias, other, index) = (stream.alias.clone(), other.clone(), index.clone());
        return Err(Error::AliasTaken { alias, other, index });
    }
    let Some(found) = indexes(elasticsearch, index).await?.remove(index) else {
        return create(client, elasticsearch, stream, &wanted).await;
    };
    if found["mappings"]["_meta"]["sluice"] != mark(stream) {
        return Err(Error::NotOurs(index.clone()));
    }
    let has_aliases = [stream.alias.clone(), names::write_alias(&stream.alias, stream.generation)]
        .iter()
        .all(|alias| found["aliases"].get(alias).is_some());
    let Some(live) = &stream.live else { return adopt(client, elasticsearch, stream, index, has_aliases).await };
    // One that is on another generation's index is brought back when both have the same.
    let restored = if has_aliases || bearers.keys().any(|bearer| bearer != index) {
        None
    } else {
        put_aliases(elasticsearch, stream, index).await?;
        Some(format!("put the alias {} back on the index {index}", stream.alias))
    };
    if let Some(building) = beside.iter().find(|generation| generation.state == State::Building) {
        if building.is_wanted {
            return Ok(restored.map_or(Outcome::Nothing, Outcome::Done));
        }
        database::generations::drop_generation(client, &building.name)
            .await
            .map_err(error::query("giving a generation up"))?;
    }
    let reason = match change(elasticsearch, stream, live, &found["settings"]).await? {
        Change::InPlace { fields, settings } => {
            let done = extend(client, elasticsearch, stream, live, &fields, &settings).await?;
            let done: Vec<String> = done.into_iter().chain(restored).collect();
            return Ok(if done.is_empty() { Outcome::Nothing } else { Outcome::Done(done.join("; ")) });
        }
        Change::Next(reason) => reason,
    };
    if !stream.wants_next
        && let Some(kept) = beside.iter().find(|generation| generation.state == State::Kept && generation.is_wanted)
    {
        return Ok(Outcome::Done(format!(
            "went back from generation {}, which is what is wanted: let it take over, or define the stream as it was",
            kept.number
        )));
    }
    begin(client, elasticsearch, stream, &reason).await
}

/// What an index has to become.
enum Change {
    /// It can: by these fields, and these settings have been changed.
    InPlace { fields: Vec<String>, settings: Vec<String> },
    /// It cannot, and why.
    Next(String),
}

/// Which way leads to what is wanted. Settings that an open index takes are changed with it.
async fn change(
    elasticsearch: &search::Client,
    stream: &Stream,
    live: &Live,
    has_settings: &Value,
) -> Result<Change, Error> {
    if stream.wants_next {
        return Ok(Change::Next("it is read anew".to_owned()));
    }
    let fields = match mapping::additions(&live.mapping, &stream.mapping) {
        Ok(fields) => fields,
        Err(change) => return Ok(Change::Next(change)),
    };
    let (settings, refused) = put_settings(elasticsearch, stream, &live.index, has_settings).await?;
    if refused.is_empty() {
        return Ok(Change::InPlace { fields, settings });
    }
    Ok(Change::Next(format!("an index that exists cannot have {}", refused.join(", "))))
}

/// The next generation: its index, which is filled by and by, and takes over when it has all.
async fn begin(client: &mut Client, elasticsearch: &Server, stream: &Stream, reason: &str) -> Result<Outcome, Error> {
    let number = stream.generations + 1;
    let index = names::index(&stream.alias, number, &stream.mapping);
    if indexes(elasticsearch, &index)
        .await?
        .get(&index)
        .is_some_and(|found| found["mappings"]["_meta"]["sluice"] == mark(stream))
    {
        // A run before this one did not come to its end, and nothing was written to it.
        let sent = elasticsearch.delete([index.as_str()]).send().await;
        answer(sent, format!("deleting the index {index}")).await?;
    }
    let mut settings = settings(stream)?;
    for (name, value) in while_filled(stream.has_source) {
        settings[&name] = value;
    }
    let aliases = json!({names::write_alias(&stream.alias, number): {}});
    make(elasticsearch, stream, &index, settings, aliases).await?;
    let begun = async {
        let transaction = client.transaction().await?;
        database::generations::begin(&transaction, &stream.name, number, &index).await?;
        transaction.commit().await
    };
    begun.await.map_err(error::query("beginning a generation"))?;
    let from = if stream.has_source { "from the source" } else { "from the live index" };
    Ok(Outcome::Done(format!(
        "{reason}: began generation {number}, whose index {index} is being filled {from}; searches find the live one until then"
    )))
}

/// Makes an index.
async fn make(
    elasticsearch: &Server,
    stream: &Stream,
    index: &str,
    mut settings: Value,
    aliases: Value,
) -> Result<(), Error> {
    elasticsearch.allow_creation(&mut settings);
    let keeps_vectors = elasticsearch.engine() == Engine::Elasticsearch && settings.get(WITHOUT_VECTORS).is_none();
    if keeps_vectors {
        settings[WITHOUT_VECTORS] = json!(false);
    }
    let mut body = json!({"mappings": mappings(stream), "settings": settings, "aliases": aliases});
    let put = async |body: &Value| {
        answer(elasticsearch.put([index]).json(body).send().await, format!("creating the index {index}")).await
    };
    let mut made = put(&body).await;
    let unknown = format!("unknown setting [{WITHOUT_VECTORS}]");
    // One that does not know it gives them.
    if keeps_vectors && made.as_ref().is_err_and(|error| error.to_string().contains(&unknown)) {
        body["settings"].as_object_mut().map(|settings| settings.remove(WITHOUT_VECTORS));
        made = put(&body).await;
    }
    match made {
        // Somebody else's template goes before Sluice's.
        Err(error @ request::Error::Refused { .. }) if error.to_string().contains("creates data streams only") => {
            Err(Error::DataStream(error))
        }
        other => Ok(other.map(drop)?),
    }
}

/// The index with its aliases, in one request. Where the stream had one, its documents are read again.
async fn create(client: &mut Client, elasticsearch: &Server, stream: &Stream, index: &str) -> Result<Outcome, Error> {
    let written = names::write_alias(&stream.alias, stream.generation);
    let aliases = json!({&stream.alias: {"is_write_index": true}, written: {}});
    make(elasticsearch, stream, index, settings(stream)?, aliases).await?;
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
    elasticsearch: &search::Client,
    stream: &Stream,
    index: &str,
    has_aliases: bool,
) -> Result<Outcome, Error> {
    let sent = elasticsearch.get([index, "_count"]).send().await;
    let documents = answer(sent, format!("counting the documents of {index}")).await?["count"].as_u64().unwrap_or(0);
    if documents > 0 {
        return Err(Error::Leftover { index: index.to_owned(), documents });
    }
    if !has_aliases {
        put_aliases(elasticsearch, stream, index).await?;
    }
    set_live(client, stream, index, false).await?;
    Ok(Outcome::Done(format!("finished the index {index}")))
}

/// Adds the mapping's new fields: what was done, in words.
async fn extend(
    client: &mut Client,
    elasticsearch: &search::Client,
    stream: &Stream,
    live: &Live,
    added: &[String],
    changed: &[String],
) -> Result<Vec<String>, Error> {
    let index = &live.index;
    let mut done = vec![];
    if !changed.is_empty() {
        done.push(format!("changed {} of the index {index}", changed.join(", ")));
    }
    if added.is_empty() {
        return Ok(done);
    }
    let sent = elasticsearch.put([index, "_mapping"]).json(&mappings(stream)).send().await;
    let added = added.join(", ");
    answer(sent, format!("adding the fields {added} to the index {index}")).await?;
    set_live(client, stream, index, true).await?;
    done.push(if stream.has_source {
        format!("added {added} to the index {index}, which is being filled from the source")
    } else {
        format!("added {added} to the index {index}; what was emitted before has no such fields")
    });
    Ok(done)
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
/// were changed, and which an index keeps that exists.
async fn put_settings(
    elasticsearch: &search::Client,
    stream: &Stream,
    index: &str,
    has: &Value,
) -> Result<(Vec<String>, Vec<String>), Error> {
    let current = flat_settings(Some(has));
    let (mut changed, mut refused) = (Vec::new(), Vec::new());
    for (name, wanted) in settings(stream)?.as_object().into_iter().flatten() {
        if as_told(wanted) == current.get(name).map_or(String::new(), as_told) {
            continue;
        }
        let sent = elasticsearch.put([index, "_settings"]).json(&json!({name: wanted})).send().await;
        match answer(sent, format!("changing {name} of the index {index}")).await {
            Ok(_) => changed.push(name.clone()),
            Err(request::Error::Refused { status: 400, .. }) => refused.push(format!("{name} {wanted}")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((changed, refused))
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

/// The one that is searched, and the one that is written.
async fn put_aliases(elasticsearch: &search::Client, stream: &Stream, index: &str) -> Result<(), request::Error> {
    let written = names::write_alias(&stream.alias, stream.generation);
    let add = |alias: &str| json!({"add": {"index": index, "alias": alias, "is_write_index": true}});
    let body = json!({"actions": [add(&stream.alias), add(&written)]});
    let sent = elasticsearch.post(["_aliases"]).json(&body).send().await;
    answer(sent, format!("putting the alias {} on the index {index}", stream.alias)).await.map(drop)
}

/// The indexes that a name stands for, by their own names.
async fn indexes(elasticsearch: &search::Client, name: &str) -> Result<Map<String, Value>, request::Error> {
    let sent = elasticsearch.get([name]).send().await;
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
    flat_settings(stream.settings.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(mapping: Value, settings: Option<Value>) -> Stream {
        let (name, alias) = ("cities".to_owned(), "test-cities".to_owned());
        Stream {
            name,
            alias,
            has_source: true,
            mapping,
            settings,
            live: None,
            generation: 1,
            generations: 1,
            wants_next: false,
        }
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
