//! Redrive: a letter's key becomes an ordinary event of the log, and then the letter is deleted.
//!
//! So the document is read anew, under a new version: a redrive that is months late, or done twice, is as safe as one
//! now. What has no source to read goes back to the queue as it came, with the version that it had: a newer write that
//! was made since wins over it, and one that is sent twice does no harm. Each event is made once: the audit knows it by the
//! letter's message id.

use std::collections::HashMap;
use std::time::Duration;

use database::subscriptions::ELASTICSEARCH;
use database::{Stream, letters};
use queue::{Message, send_all};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::warn;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::letters::queue::{Facts, Letter};
use crate::problem::Problem;
use crate::services::Queues;

const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Of what the audit keeps of a text of the letter.
const KEPT_CHARS: usize = 1000;
/// What a letter's own text brings about, by the class of the SQLSTATE: data, constraints, limits, our own refusals.
const OF_ONE_LETTER: [&str; 4] = ["22", "23", "54", "P0"];

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

/// What became of some letters.
pub struct Redriven {
    /// Of each, in their order.
    pub fates: Vec<Result<Fate, Problem>>,
    /// How many are out of the queue.
    pub deleted: usize,
}

/// On whose behalf, with which clients.
pub struct Redrive<'a> {
    queues: &'a Queues,
    database: &'a Client,
    caller: &'a Caller,
    /// The task that counts them.
    task: Option<i64>,
    streams: HashMap<String, Stream>,
}

impl<'a> Redrive<'a> {
    /// With a fresh look at the streams.
    pub async fn new(
        queues: &'a Queues,
        database: &'a Client,
        caller: &'a Caller,
        task: Option<i64>,
    ) -> Result<Self, Problem> {
        let streams = database::streams(database, ELASTICSEARCH).await?;
        Ok(Self { queues, database, caller, task, streams })
    }

    /// Redrives these, and deletes those with which that was done. One that fails by itself stops none of the others.
    ///
    /// # Errors
    /// What concerns all of them; then none was deleted.
    pub async fn letters(&self, letters: &[Letter]) -> Result<Redriven, Problem> {
        // PostgreSQL has no text with the character U+0000, so no row has such a key.
        let is_event = |facts: &Facts| {
            !facts.key.contains('\0')
                && database::of_name(&self.streams, &facts.stream)
                    .is_some_and(|stream| stream.is_delivered && stream.source.is_some())
        };
        let (mut sourced, mut others) = (vec![], vec![]);
        for letter in letters {
            match letter.facts.as_ref().filter(|facts| is_event(facts)) {
                Some(facts) => sourced.push((letter, facts)),
                None => others.push(letter),
            }
        }
        let mut fates: HashMap<&str, Result<Fate, Problem>> = HashMap::new();
        match self.emit(&sourced).await {
            Ok(found) => fates.extend(found),
            Err(failure) if is_of_one_letter(&failure) => {
                for one in &sourced {
                    match self.emit(std::slice::from_ref(one)).await {
                        Ok(found) => fates.extend(found),
                        Err(failure) if is_of_one_letter(&failure) => {
                            fates.insert(&one.0.message_id, Err(failure.into()));
                        }
                        Err(failure) => return Err(failure.into()),
                    }
                }
            }
            Err(failure) => return Err(failure.into()),
        }
        fates.extend(self.send_back(&others).await?);
        let is_done = |letter: &&Letter| matches!(fates.get(letter.message_id.as_str()), Some(Ok(_)));
        let receipts: Vec<&str> = letters.iter().filter(is_done).map(|letter| letter.receipt.as_str()).collect();
        // One that stays is found again, and known to be redriven, or sent once more.
        let deleted = self.queues.letters.delete(&receipts).await?;
        let fates = letters.iter().map(|letter| {
            let fate = fates.get(letter.message_id.as_str()).cloned();
            fate.unwrap_or_else(|| Err(Problem::unavailable("nothing became of the letter; try again")))
        });
        Ok(Redriven { fates: fates.collect(), deleted })
    }

    /// In one statement: the events, the audit's rows and the task's counts are there together, or none of them.
    async fn emit<'l>(
        &self,
        letters: &[(&'l Letter, &Facts)],
    ) -> Result<Vec<(&'l str, Result<Fate, Problem>)>, tokio_postgres::Error> {
        if letters.is_empty() {
            return Ok(vec![]);
        }
        let all: Vec<letters::Letter<'_>> = letters
            .iter()
            .map(|(letter, facts)| letters::Letter {
                message_id: &letter.message_id,
                // Under its name of today: it may have become the live one.
                stream: database::of_name(&self.streams, &facts.stream).map_or(&facts.stream, |stream| &stream.name),
                key: &facts.key,
                detail: detail(letter).to_string(),
            })
            .collect();
        let events = letters::redrive(self.database, self.caller.as_actor(), self.task, &all).await?;
        let fate = |letter: &'l Letter| match events.get(&letter.message_id) {
            Some(Some(_)) => Fate::Redriven,
            Some(None) | None => Fate::AlreadyRedriven,
        };
        Ok(letters.iter().map(|(letter, _)| (letter.message_id.as_str(), Ok(fate(letter)))).collect())
    }

    /// Sent, then noted: a crash in between sends it once more, which does no harm.
    async fn send_back<'l>(
        &self,
        letters: &[&'l Letter],
    ) -> Result<Vec<(&'l str, Result<Fate, Problem>)>, tokio_postgres::Error> {
        if letters.is_empty() {
            return Ok(vec![]);
        }
        let messages: Vec<Message> = letters.iter().map(|letter| as_it_came(letter)).collect();
        let sent = send_all(&self.queues.queue, &messages, Instant::now() + SEND_TIMEOUT).await;
        let (gone, left): (Vec<_>, Vec<_>) = letters.iter().enumerate().partition(|(at, _)| sent.contains(at));
        let returned: Vec<(&str, String)> =
            gone.iter().map(|(_, letter)| (letter.message_id.as_str(), detail(letter).to_string())).collect();
        letters::note_returned(self.database, self.caller.as_actor(), self.task, &returned).await?;
        if !left.is_empty() {
            warn!(letters = left.len(), "SQS did not take dead letters back into the queue");
        }
        let refused = || Problem::unavailable("SQS did not take the letter back into the queue; try again");
        let left = left.into_iter().map(|(_, letter)| (letter.message_id.as_str(), Err(refused())));
        Ok(left.chain(gone.into_iter().map(|(_, letter)| (letter.message_id.as_str(), Ok(Fate::Returned)))).collect())
    }
}

fn is_of_one_letter(failure: &tokio_postgres::Error) -> bool {
    failure.code().is_some_and(|code| OF_ONE_LETTER.iter().any(|class| code.code().starts_with(class)))
}

fn as_it_came(letter: &Letter) -> Message {
    let mut message = Message::new(letter.body.as_str());
    if let Some(first_seen) = letter.attribute("first_seen") {
        message.attributes.push(("first_seen", first_seen.to_owned()));
    }
    message
}

/// What the audit keeps of a letter: not its document. Texts are such as PostgreSQL can hold.
pub fn detail(letter: &Letter) -> serde_json::Value {
    let facts = letter.facts.as_ref();
    let kept = |text: &str| text.replace('\0', "\u{2400}").chars().take(KEPT_CHARS).collect::<String>();
    json!({
        "stream": letter.stream().map(kept),
        "key": letter.key().map(kept),
        "version": facts.map(|facts| facts.version),
        "letter_change_id": facts.map(|facts| facts.change_id),
        "error_type": letter.attribute("error_type").map(kept),
    })
}
