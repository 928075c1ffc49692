//! The topics of streams that go to Kafka.

use database::streams::{Definition, list_definitions};
use database::subscriptions::KAFKA;
use kafka::topics::{COMPACT, Topics};
use kafka::{Connection, Settings};
use secrets::Secrets;
use tokio_postgres::Client;

use crate::Report;
use crate::error::{Error, query};
use crate::targets::set_live;

/// Makes the topics that are missing. Whether anything was done. A stream that fails holds no other up.
pub(crate) async fn make(
    client: &mut Client,
    settings: Option<&Settings>,
    secrets: &Secrets,
    report: &mut Report,
) -> Result<bool, Error> {
    let definitions = list_definitions(client, KAFKA).await.map_err(query("reading the streams"))?;
    if definitions.is_empty() {
        return Ok(false);
    }
    let Some(settings) = settings else {
        report.say("streams go to kafka, and KAFKA_BROKERS is missing: their changes wait");
        return Ok(false);
    };
    let connection = Connection::new(settings.clone(), secrets.clone());
    let topics = match Topics::connect(&connection).await {
        Ok(topics) => topics,
        Err(error) => return Err(Error::Streams(vec![format!("the topics were not looked at: {error}")])),
    };
    let mut is_anything_done = false;
    let mut failures = vec![];
    for stream in &definitions {
        match bring(client, &topics, stream, report).await {
            Ok(None) => {}
            Ok(Some(what)) => {
                is_anything_done = true;
                report.say(format!("stream {}: {what} in Kafka", stream.name));
            }
            Err(reason) => failures.push(format!("stream {}: {reason}", stream.name)),
        }
    }
    if failures.is_empty() { Ok(is_anything_done) } else { Err(Error::Streams(failures)) }
}

/// What was done, in words.
async fn bring(
    client: &mut Client,
    topics: &Topics,
    stream: &Definition,
    report: &mut Report,
) -> Result<Option<String>, String> {
    let topic = stream.mapping["topic"].as_str().unwrap_or(&stream.name);
    let partitions = stream.mapping["partitions"].as_i64().and_then(|partitions| i32::try_from(partitions).ok());
    let cleanup = stream.mapping["cleanup"].as_str().unwrap_or(COMPACT);
    let ensured = topics.ensure(topic, partitions, cleanup).await.map_err(|error| error.to_string())?;
    if let Some(warning) = ensured.warning {
        report.say(format!("stream {}: {warning}", stream.name));
    }
    let is_live = stream.live.as_ref().is_some_and(|live| live.mapping == stream.mapping);
    if is_live && !ensured.is_made {
        return Ok(None);
    }
    // What it had is gone. At first somebody asks for it.
    let is_resynced =
        ensured.is_made && stream.live.as_ref().is_some_and(|live| live.index == topic) && stream.has_source;
    set_live(client, KAFKA, stream, topic, is_resynced).await.map_err(|error| error.to_string())?;
    let mut what =
        if ensured.is_made { format!("made the topic {topic}") } else { format!("goes on with the topic {topic}") };
    if is_resynced {
        what += ", and it is filled from the source";
    }
    Ok(Some(what))
}
