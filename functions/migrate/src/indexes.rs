//! One index for each stream, behind an alias of the stream's name.

mod index;

use std::collections::BTreeSet;

use ::generations::{Keeper, Settings};
use database::generations::{self, Generation};
use database::streams::{Definition, Live, list_definitions};
use database::subscriptions::ELASTICSEARCH;
use search::request::{self, answer, find};
use search::{Server, names};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    Report,
    error::{Error, query},
};

pub(crate) use index::is_made_by;

/// Above any template of a user's that happens to match the same names.
const TEMPLATE_PRIORITY: u32 = 1_000_000;

/// A stream, as far as its index is concerned.
struct Stream {
    name: String,
    /// The rows can be read again. A stream without a source is fed by sluice.emit.
    has_source: bool,
    alias: String,
    mapping: Value,
    settings: Option<Value>,
    live: Option<Live>,
    /// Of the live index.
    generation: i32,
    /// The highest number that was given.
    generations: i32,
    /// Whatever the live index could become, another one is wanted.
    wants_next: bool,
}

/// What came of a stream.
enum Outcome {
    /// All is as it should be.
    Nothing,
    /// In words.
    Done(String),
}

/// Brings the index of every stream to its mapping. Whether anything was done. A stream that fails holds no other up.
pub(crate) async fn make(
    client: &mut Client,
    elasticsearch: &Server,
    prefix: &str,
    settings: Settings,
    report: &mut Report,
) -> Result<bool, Error> {
    let streams = streams(client, prefix).await?;
    let generations = generations::list(client).await.map_err(query("reading the generations"))?;
    forbid_creation_by_writing(elasticsearch, prefix, &streams).await?;
    let mut is_anything_done = false;
    let mut failures = Vec::new();
    for stream in &streams {
        let beside: Vec<&Generation> = generations.iter().filter(|it| it.stream == stream.name).collect();
        match index::bring(client, elasticsearch, stream, &beside).await {
            Ok(Outcome::Nothing) => {}
            Ok(Outcome::Done(what)) => {
                is_anything_done = true;
                report.say(format!("stream {}: {what}", stream.name));
            }
            Err(error) => failures.push(format!("stream {}: {error}", stream.name)),
        }
    }
    is_anything_done |= lead_generations(client, elasticsearch, prefix, settings, report).await?;
    if failures.is_empty() { Ok(is_anything_done) } else { Err(Error::Streams(failures)) }
}

/// Does the next thing for each generation, and tells how far those are that are being built. Whether anything was done.
async fn lead_generations(
    client: &Client,
    elasticsearch: &Server,
    prefix: &str,
    settings: Settings,
    report: &mut Report,
) -> Result<bool, Error> {
    let keeper = Keeper { client, elasticsearch, prefix, settings };
    let said = keeper.keep().await?;
    let is_anything_done = !said.is_empty();
    for what in said {
        report.say(what);
    }
    for status in generations::list_status(client, None).await.map_err(query("reading the generations"))? {
        if let Some(waits) = status.waits {
            report
                .say(format!("stream {}: generation {} does not take over yet: {waits}", status.stream, status.number));
        }
    }
    Ok(is_anything_done)
}

async fn streams(client: &Client, prefix: &str) -> Result<Vec<Stream>, Error> {
    let definitions = list_definitions(client, ELASTICSEARCH).await.map_err(query("reading the streams"))?;
    let stream = |Definition { name, has_source, mapping, settings, live, generation, generations, wants_next }| {
        let alias = names::alias(prefix, &name);
        Stream { name, has_source, alias, mapping, settings, live, generation, generations, wants_next }
    };
    Ok(definitions.into_iter().map(stream).collect())
}

/// `{prefix}sluice`: one template for all streams, since two of one priority must not match the same name.
pub(crate) fn template_name(prefix: &str) -> String {
    format!("{prefix}sluice")
}

/// Elasticsearch makes an index of any name that somebody writes to, with a mapping that it guesses; a bulk delete does
/// so even where it requires an alias. A template forbids it for the names that Sluice uses, and for no others.
async fn forbid_creation_by_writing(
    elasticsearch: &Server,
    prefix: &str,
    streams: &[Stream],
) -> Result<(), request::Error> {
    let mut patterns = BTreeSet::new();
    for stream in streams {
        patterns.insert(stream.alias.clone());
        patterns.insert(format!("{}.g*", stream.alias));
        patterns.insert(names::index(&stream.alias, stream.generation, &stream.mapping));
        patterns.extend(stream.live.as_ref().map(|live| live.index.clone()));
    }
    let name = template_name(prefix);
    let mut wanted = json!({
        "index_patterns": patterns,
        "priority": TEMPLATE_PRIORITY,
        "_meta": {"sluice": {"prefix": prefix}},
    });
    elasticsearch.forbid_creation(&mut wanted);
    match template(elasticsearch, &name).await? {
        Some(found) if found["_meta"]["sluice"].is_null() => {
            return Err(request::Error::Foreign(format!(
                "there is an index template {name} that Sluice did not make; delete it, or set INDEX_PREFIX"
            )));
        }
        Some(found) if found["index_patterns"] == wanted["index_patterns"] => return Ok(()),
        // Elasticsearch wants one pattern at least.
        _ if streams.is_empty() => return Ok(()),
        _ => {}
    }
    let sent = elasticsearch.put(["_index_template", &name]).json(&wanted).send().await;
    answer(sent, format!("putting the index template {name}")).await?;
    tracing::info!(template = name, "indexes are not created by writing to them");
    Ok(())
}

pub(crate) async fn template(elasticsearch: &search::Client, name: &str) -> Result<Option<Value>, request::Error> {
    let sent = elasticsearch.get(["_index_template", name]).send().await;
    let found = find(sent, format!("looking for the index template {name}")).await?;
    Ok(found.map(|mut found| found["index_templates"][0]["index_template"].take()))
}
