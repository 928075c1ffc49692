//! Redrive: a letter's key becomes an ordinary event of the log, and then the letter is deleted.
//!
//! So the document is read anew, under a new version: a redrive that is months late, or done twice, is as safe as one
//! now. What has no source to read goes back to the queue as it came, with the version that it had: a newer write that
//! was made since wins over it. Each letter is redriven once; the audit knows by its message id.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use database::Stream;
use queue::{Message, send_all};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::Client;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::letters::{Facts, Letter};
use crate::problem::Problem;
use crate::services::Services;

const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Its key is in the log again.
    Redriven,
    /// It is in the queue again, as it came.
    Returned,
    /// That was done before.
    AlreadyRedriven,
}

/// On whose behalf, with which clients.
pub struct Redrive<'a> {
    services: &'a Services,
    database: &'a Client,
    caller: &'a Caller,
    /// The task that counts them.
    task: Option<i64>,
    streams: HashMap<String, Stream>,
}

impl<'a> Redrive<'a> {
    /// With a fresh look at the streams.
    pub async fn new(
        services: &'a Services,
        database: &'a Client,
        caller: &'a Caller,
        task: Option<i64>,
    ) -> Result<Self, Problem> {
        let streams = database::streams(database).await?;
        Ok(Self { services, database, caller, task, streams })
    }

    /// Redrives these and deletes them: what became of each, in their order.
    pub async fn letters(&self, letters: &[Letter]) -> Result<Vec<Fate>, Problem> {
        let mut fates: HashMap<&str, Fate> = HashMap::new();
        let has_source = |facts: &Facts| self.streams.get(&facts.stream).is_some_and(|stream| stream.source.is_some());
        let (mut sourced, mut others) = (vec![], vec![]);
        for letter in letters {
            match letter.facts.as_ref().filter(|facts| has_source(facts)) {
                Some(facts) => sourced.push((letter, facts)),
                None => others.push(letter),
            }
        }
        if !sourced.is_empty() {
            fates.extend(self.emit(&sourced).await?);
        }
        if !others.is_empty() {
            fates.extend(self.send_back(&others).await?);
        }
        let receipts: Vec<&str> = letters.iter().map(|letter| letter.receipt.as_str()).collect();
        // One that stays is found again, and known to be redriven.
        self.services.letters.delete(&receipts).await?;
        Ok(letters.iter().map(|letter| fates[letter.message_id.as_str()]).collect())
    }

    /// In one statement: the events, the audit's rows and the task's counts are there together, or none of them.
    async fn emit<'l>(&self, letters: &[(&'l Letter, &Facts)]) -> Result<Vec<(&'l str, Fate)>, Problem> {
        let statement = "WITH letter AS (
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS l (message_id, stream, key, detail)),
             done AS MATERIALIZED (
                 SELECT message_id, sluice.redrive(message_id, stream, key, $5, $6, detail::jsonb) AS event FROM letter),
             counted AS (
                 UPDATE sluice.redrive_task
                 SET redriven = redriven + (SELECT count(event) FROM done),
                     already_redriven = already_redriven + (SELECT count(*) - count(event) FROM done),
                     updated_at = clock_timestamp()
                 WHERE id = $7)
             SELECT message_id, event FROM done";
        let ids: Vec<&str> = letters.iter().map(|(letter, _)| letter.message_id.as_str()).collect();
        let streams: Vec<&str> = letters.iter().map(|(_, facts)| facts.stream.as_str()).collect();
        let keys: Vec<&str> = letters.iter().map(|(_, facts)| facts.key.as_str()).collect();
        let details: Vec<String> = letters.iter().map(|(letter, _)| detail(letter).to_string()).collect();
        let Caller { actor, source_ip, .. } = self.caller;
        let rows =
            self.database.query(statement, &[&ids, &streams, &keys, &details, actor, source_ip, &self.task]).await?;
        let events: HashMap<String, Option<i64>> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let fate = |letter: &'l Letter| match events.get(&letter.message_id) {
            Some(Some(_)) => Fate::Redriven,
            Some(None) | None => Fate::AlreadyRedriven,
        };
        Ok(letters.iter().map(|(letter, _)| (letter.message_id.as_str(), fate(letter))).collect())
    }

    /// Sent, then noted: a crash in between sends it once more, which does no harm.
    async fn send_back<'l>(&self, letters: &[&'l Letter]) -> Result<Vec<(&'l str, Fate)>, Problem> {
        let ids: Vec<&str> = letters.iter().map(|letter| letter.message_id.as_str()).collect();
        let query = "SELECT subject FROM sluice.audit WHERE action = 'redrive' AND subject = ANY ($1)";
        let rows = self.database.query(query, &[&ids]).await?;
        let known: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let (before, now): (Vec<&Letter>, Vec<&Letter>) =
            letters.iter().partition(|letter| known.contains(&letter.message_id));

        let messages: Vec<Message> = now.iter().map(|letter| as_it_came(letter)).collect();
        let sent = send_all(&self.services.queue, &messages, Instant::now() + SEND_TIMEOUT).await;
        let statement = "WITH noted AS (
                 INSERT INTO sluice.audit (actor, source_ip, action, subject, result, detail)
                 SELECT $3, $4, 'redrive', l.message_id, 'returned', l.detail::jsonb
                 FROM unnest($1::text[], $2::text[]) AS l (message_id, detail)
                 ON CONFLICT (subject) WHERE action = 'redrive' DO NOTHING)
             UPDATE sluice.redrive_task
             SET redriven = redriven + cardinality($1::text[]), already_redriven = already_redriven + $6,
                 updated_at = clock_timestamp()
             WHERE id = $5";
        let gone: Vec<&Letter> =
            now.iter().enumerate().filter(|(at, _)| sent.contains(at)).map(|(_, it)| *it).collect();
        let ids: Vec<&str> = gone.iter().map(|letter| letter.message_id.as_str()).collect();
        let details: Vec<String> = gone.iter().map(|letter| detail(letter).to_string()).collect();
        let Caller { actor, source_ip, .. } = self.caller;
        let already = i64::try_from(before.len()).unwrap_or(i64::MAX);
        self.database.execute(statement, &[&ids, &details, actor, source_ip, &self.task, &already]).await?;
        if gone.len() < now.len() {
            return Err(Problem::unavailable("SQS did not take all letters back into the queue; try again"));
        }
        let before = before.into_iter().map(|letter| (letter.message_id.as_str(), Fate::AlreadyRedriven));
        Ok(before.chain(gone.into_iter().map(|letter| (letter.message_id.as_str(), Fate::Returned))).collect())
    }
}

fn as_it_came(letter: &Letter) -> Message {
    let mut message = Message::new(letter.body.as_str());
    if let Some(first_seen) = letter.attribute("first_seen") {
        message.attributes.push(("first_seen", first_seen.to_owned()));
    }
    message
}

/// What the audit keeps of a letter: not its document.
pub fn detail(letter: &Letter) -> serde_json::Value {
    let facts = letter.facts.as_ref();
    json!({
        "stream": letter.stream(),
        "key": letter.key(),
        "version": facts.map(|facts| facts.version),
        "letter_change_id": facts.map(|facts| facts.change_id),
        "error_type": letter.attribute("error_type"),
    })
}
