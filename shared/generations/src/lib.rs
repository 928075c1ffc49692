//! Leads each generation of an index to its end: it is filled, compared, takes over, is kept for a while, and goes.
//!
//! Whoever comes along does the next thing that can be done, and says nothing where that is nothing: `migrate`, the validator with
//! each invocation, an operator. Each step is in PostgreSQL (`6_generations.sql`), so that none is lost, and none harms if it is
//! done twice.

mod copy;

use std::future::Future;
use std::time::Duration;

use config::Env;
use database::audit::Actor;
use database::generations::{self, Generation, State};
use search::request::{self, answer, find};
use search::{Server, names};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tracing::{info, warn};

/// While a generation takes over nothing is sent, for so long at most. It waits for as long before, if it has to.
const LEVEL_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
/// Settings by which an index takes no writes. Elasticsearch sets the first one where a disk is full.
const BLOCKS: [&str; 3] = ["index.blocks.read_only_allow_delete", "index.blocks.write", "index.blocks.read_only"];
/// For whoever does it unasked.
const KEEPER: Actor<'static> = Actor { name: "sluice", source_ip: None };

/// How generations change places.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `APPROVE_REINDEX`: a generation takes over when an operator lets it, and not by itself.
    pub approve: bool,
    /// `KEEP_PREVIOUS`: for so long the one before is kept, and written.
    pub keep: Duration,
}

impl Settings {
    /// Reads them; what is wrong is noted in `env`.
    pub fn from_env(env: &mut Env) -> Self {
        let is_one_of = |text: &String| matches!(text.as_str(), "true" | "false");
        Self {
            approve: env.parsed("APPROVE_REINDEX", "false".to_owned(), "true or false", is_one_of) == "true",
            keep: env.duration("KEEP_PREVIOUS", Duration::from_secs(24 * 60 * 60)),
        }
    }
}

/// Why a generation does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Elasticsearch does not answer, or refuses.
    #[error(transparent)]
    Elasticsearch(#[from] request::Error),
    /// PostgreSQL does not answer, or refuses.
    #[error("{}", database::describe(.0))]
    Database(#[from] tokio_postgres::Error),
    /// What was sent to it is still on its way.
    #[error("what was sent to {0} has not arrived; try again in a moment")]
    NotLevel(String),
    /// The public alias is on an index of somebody else's.
    #[error("the alias {alias} is on {other}, which is no index of Sluice's")]
    AliasTaken {
        /// The alias.
        alias: String,
        /// The index.
        other: String,
    },
}

/// Settings come nested or dotted, with `index` in front or without: each by its whole name.
pub fn flat_settings(settings: Option<&Value>) -> Map<String, Value> {
    let mut flat = Map::new();
    flatten("", settings.unwrap_or(&Value::Null), &mut flat);
    flat
}

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

/// What an index is made with in place of what it is to have: nobody searches it while it is filled. Elasticsearch remembers the
/// deletes of one that is copied for longer than any copy takes, since a copy knows nothing of them.
pub fn while_filled(has_source: bool) -> Map<String, Value> {
    let mut settings = Map::new();
    settings.insert("index.number_of_replicas".to_owned(), json!(0));
    settings.insert("index.refresh_interval".to_owned(), json!("-1"));
    if !has_source {
        settings.insert("index.gc_deletes".to_owned(), json!("30d"));
    }
    settings
}

/// Who leads the generations of one installation.
#[derive(Clone, Copy)]
pub struct Keeper<'a> {
    /// PostgreSQL, outside of any transaction.
    pub client: &'a Client,
    /// Where the indexes are.
    pub elasticsearch: &'a Server,
    /// What the names of aliases begin with.
    pub prefix: &'a str,
    /// How.
    pub settings: Settings,
}

impl Keeper<'_> {
    /// Does what can be done now, for each generation: what was done, in words. One that does not go on is told of with it, and stops no
    /// other.
    ///
    /// # Errors
    /// PostgreSQL does not answer.
    pub async fn keep(&self) -> Result<Vec<String>, Error> {
        let mut said = vec![];
        let mut streams: Vec<String> = vec![];
        for generation in generations::list(self.client).await? {
            if streams.last() != Some(&generation.stream) {
                streams.push(generation.stream.clone());
            }
            match self.lead(&generation).await {
                Ok((done, problem)) => {
                    generations::note_problem(self.client, &generation.name, problem.as_deref()).await?;
                    if let Some(done) = done {
                        info!(stream = generation.stream, generation = generation.number, done, "a generation goes on");
                        said.push(format!("stream {}: generation {} {done}", generation.stream, generation.number));
                    }
                }
                Err(Error::NotLevel(_)) => {}
                Err(error) => {
                    warn!(stream = generation.stream, generation = generation.number, %error, "a generation does not go on");
                    generations::note_problem(self.client, &generation.name, Some(&error.to_string())).await?;
                }
            }
        }
        for stream in streams {
            if let Err(error) = self.align(&stream).await {
                warn!(stream, %error, "the alias is not on the live index");
            }
        }
        Ok(said)
    }

    /// The next thing: what was done, and what is in its way.
    async fn lead(&self, generation: &Generation) -> Result<(Option<&'static str>, Option<String>), Error> {
        let name = &generation.name;
        if generation.state == State::Building
            && let Some(problem) = self.hindrance(&generation.index).await?
        {
            return Ok((None, Some(problem)));
        }
        match generation.state {
            State::Building if !generation.is_filled => {
                let mut problem = None;
                let is_copied = if generation.has_source {
                    false
                } else {
                    match self.copy(generation).await? {
                        copy::Copy::Done => true,
                        copy::Copy::GoesOn => false,
                        copy::Copy::Failed(reason) => {
                            problem = Some(format!("the live index cannot be copied: {reason}"));
                            false
                        }
                    }
                };
                let is_filled = generations::note_filled(self.client, name, is_copied).await?;
                Ok((is_filled.then_some("is filled"), problem))
            }
            State::Building if !generation.is_checked => {
                if !generations::has_filled(self.client, name).await? || !self.complete(generation).await? {
                    return Ok((None, None));
                }
                generations::check(self.client, name).await?;
                Ok((Some("has all documents, and is compared with its source"), None))
            }
            State::Building => {
                if generations::waits(self.client, name, self.settings.approve).await?.is_some() {
                    return Ok((None, None));
                }
                self.take_over(generation, "takeover", KEEPER).await?;
                Ok((Some("took over"), None))
            }
            State::Kept if generation.is_approved => {
                self.take_over(generation, "rollback", KEEPER).await?;
                Ok((Some("is live again"), None))
            }
            State::Kept if !generation.is_over => Ok((None, None)),
            State::Kept => {
                generations::drop_generation(self.client, name).await?;
                Ok((Some("was kept for long enough, and is given up"), None))
            }
            State::Dropped => {
                let alias = names::alias(self.prefix, &generation.stream);
                if self.bearers(&alias).await?.contains(&generation.index) {
                    self.align(&generation.stream).await?;
                }
                let sent = self.elasticsearch.delete([generation.index.as_str()]).send().await;
                find(sent, format!("deleting the index {}", generation.index)).await?;
                let is_gone = generations::forget(self.client, name).await?;
                Ok((is_gone.then_some("is gone, with its index"), None))
            }
        }
    }

    /// Why nothing can be written to an index, with what to do.
    async fn hindrance(&self, index: &str) -> Result<Option<String>, request::Error> {
        let sent = self.elasticsearch.get([index, "_settings"]).query("flat_settings", "true").send().await;
        let Some(found) = find(sent, format!("looking at the index {index}")).await? else {
            return Ok(Some(format!(
                "its index {index} is gone: give it up, and run migrate, which begins another one"
            )));
        };
        let settings = &found[index]["settings"];
        let block = BLOCKS.into_iter().find(|block| settings[*block] == "true");
        Ok(block.map(|block| {
            format!("its index {index} takes no writes since {block} is true: where a disk is full, make room; then set it to false")
        }))
    }

    /// Gives the index what it is to have: whether it is as well off as the live one.
    async fn complete(&self, generation: &Generation) -> Result<bool, Error> {
        let index = &generation.index;
        let wanted = flat_settings(generation.settings.as_ref());
        let settings: Map<String, Value> = while_filled(generation.has_source)
            .into_iter()
            .map(|(name, _)| {
                let kept = if name == "index.gc_deletes" { json!("1h") } else { Value::Null };
                let value = wanted.get(&name).cloned().unwrap_or(kept);
                (name, value)
            })
            .collect();
        let request = self.elasticsearch.put([index.as_str(), "_settings"]);
        let sent = request.json(&Value::Object(settings)).send().await;
        answer(sent, format!("giving the index {index} its settings")).await?;
        self.refresh(index).await?;
        Ok(self.health(index).await? >= self.health(&generation.live_index).await?)
    }

    async fn refresh(&self, index: &str) -> Result<(), request::Error> {
        let sent = self.elasticsearch.post([index, "_refresh"]).send().await;
        answer(sent, format!("refreshing the index {index}")).await.map(drop)
    }

    /// Red, yellow or green, as 0, 1 or 2.
    async fn health(&self, index: &str) -> Result<u8, request::Error> {
        let sent = self.elasticsearch.get(["_cluster", "health", index]).send().await;
        let health = answer(sent, format!("asking for the health of {index}")).await?;
        Ok(match health["status"].as_str() {
            Some("green") => 2,
            Some("yellow") => 1,
            _ => 0,
        })
    }

    /// Makes a generation the live one: whoever searches finds nothing older than before.
    ///
    /// The drain stands still meanwhile, so that all that was sent to either index can be waited for, and the alias moves before it goes
    /// on.
    ///
    /// # Errors
    /// Also where what was sent to it does not arrive within two seconds: nothing has changed then.
    async fn take_over(&self, generation: &Generation, action: &str, actor: Actor<'_>) -> Result<(), Error> {
        let changed = async {
            self.stand_still(&generation.name).await?;
            self.refresh(&generation.index).await?;
            self.move_alias(&generation.stream, &generation.index).await?;
            generations::change_places(self.client, &generation.name, self.settings.keep, action, actor).await?;
            Ok(())
        };
        self.in_transaction(changed).await
    }

    /// Brings the alias to the live index, where it is on another one of the stream: somebody ended between the alias and the commit.
    async fn align(&self, stream: &str) -> Result<(), Error> {
        let Some(live) = generations::live_index(self.client, stream).await? else { return Ok(()) };
        if self.bearers(&names::alias(self.prefix, stream)).await? == [live] {
            return Ok(());
        }
        let moved = async {
            self.stand_still(stream).await?;
            // Another keeper may have changed places by now.
            let Some(live) = generations::live_index(self.client, stream).await? else { return Ok(()) };
            self.refresh(&live).await?;
            self.move_alias(stream, &live).await
        };
        self.in_transaction(moved).await
    }

    async fn in_transaction(&self, work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        self.client.batch_execute("BEGIN; SET LOCAL lock_timeout = '5s'").await?;
        let outcome = work.await;
        self.client.batch_execute(if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        outcome
    }

    /// Keeps the drain from sending more until the transaction ends, and waits for what was sent to this generation.
    async fn stand_still(&self, name: &str) -> Result<(), Error> {
        // As long as the drain goes on.
        within(name, async || generations::has_caught_up(self.client, name).await).await?;
        generations::lock(self.client, name).await?;
        within(name, async || generations::is_level(self.client, name).await).await
    }

    /// In one request: there is no moment in which nothing, or two, would be searched.
    async fn move_alias(&self, stream: &str, index: &str) -> Result<(), Error> {
        let alias = names::alias(self.prefix, stream);
        let mut actions = vec![];
        for other in self.bearers(&alias).await? {
            if !is_of_stream(&alias, &other) {
                return Err(Error::AliasTaken { alias, other });
            }
            if other != index {
                actions.push(json!({"remove": {"index": other, "alias": alias}}));
            }
        }
        actions.push(json!({"add": {"index": index, "alias": alias, "is_write_index": true}}));
        let sent = self.elasticsearch.post(["_aliases"]).json(&json!({"actions": actions})).send().await;
        answer(sent, format!("moving the alias {alias} to {index}")).await?;
        Ok(())
    }

    /// The indexes that bear an alias.
    async fn bearers(&self, alias: &str) -> Result<Vec<String>, request::Error> {
        let sent = self.elasticsearch.get(["_alias", alias]).send().await;
        let found = find(sent, format!("looking for the alias {alias}")).await?;
        Ok(found.iter().filter_map(Value::as_object).flat_map(Map::keys).cloned().collect())
    }
}

/// Waits until a generation is so, for a moment.
async fn within(name: &str, is_so: impl AsyncFn() -> Result<bool, tokio_postgres::Error>) -> Result<(), Error> {
    let until = Instant::now() + LEVEL_WITHIN;
    while !is_so().await? {
        if Instant::now() > until {
            return Err(Error::NotLevel(name.to_owned()));
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Whether an index is of any generation of this stream.
fn is_of_stream(alias: &str, index: &str) -> bool {
    let generation =
        index.strip_prefix(alias).and_then(|rest| rest.strip_prefix(".g")).and_then(|rest| rest.split('-').next());
    names::is_index_of(alias, generation.and_then(|number| number.parse().ok()).unwrap_or(1), index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_told_to_be_of_a_stream_in_any_generation() {
        for (index, expected) in [
            ("cities-0123456789abcdef", true),
            ("cities.g2-0123456789abcdef", true),
            ("cities.g17-0123456789abcdef", true),
            ("cities-2-0123456789abcdef", false),
            ("cities.g2", false),
            ("cities.gx-0123456789abcdef", false),
            ("townships-0123456789abcdef", false),
        ] {
            assert_eq!(is_of_stream("cities", index), expected, "{index}");
        }
    }

    #[test]
    fn settings_of_any_shape_are_told_by_their_whole_names() {
        let given =
            json!({"number_of_replicas": 0, "index": {"refresh_interval": "5s"}, "analysis.analyzer.x.type": "y"});
        let expected = json!({"index.number_of_replicas": 0, "index.refresh_interval": "5s", "index.analysis.analyzer.x.type": "y"});
        assert_eq!(Value::Object(flat_settings(Some(&given))), expected);
        assert!(flat_settings(None).is_empty());
    }
}
