//! The validator: compares what a source has with what its index, or its table, has, while both move, and puts right what differs.
//!
//! A round of a stream and a target goes through the source's documents, then through the target's. What differs is a candidate, and is
//! confirmed only when all that was under way has arrived, and nobody has changed it meanwhile (`6_validation.sql` says how).
//! Everything is remembered in PostgreSQL: an invocation may end, or be killed, at any point, and the next one goes on.

mod compare;
mod config;
mod error;
mod examine;
mod index;
mod round;
mod target;

use std::time::{Duration, SystemTime};

use database::audit::Actor;
use database::lease;
use database::subscriptions::{CLICKHOUSE, ELASTICSEARCH};
use database::validation::{self, Status, Turn};
use generations::Keeper;
use secrets::Secrets;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_clickhouse::Connection;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Client;
use tracing::{info, warn};

pub use crate::config::{Config, Settings};
pub use crate::error::Error;
use crate::round::{Done, Pace, Step, Worker};
use crate::target::Target;

/// Left for the answer, and for a request that was begun in the last moment.
const MARGIN: Duration = Duration::from_secs(4);
/// How long somebody who waits for an answer is kept waiting.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long one stream is worked on before the next has its turn.
const TURN: Duration = Duration::from_secs(5);
/// A lease is taken anew for each turn, and outlives the slowest step.
const LEASE: Duration = Duration::from_secs(60);
/// What one statement may take, and one step.
const STATEMENT_TIMEOUT: &str = "20s";
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// While a change of the stream takes longer than this to arrive, no more of it is compared.
const LAG_MS: i64 = 30_000;
/// Between two looks at whether something has arrived.
const POLL: Duration = Duration::from_millis(200);
/// What somebody has to look at, or to repair; the others are explained.
const UNEXPLAINED: [&str; 6] = ["missing", "stale", "extra", "unreadable", "version_ahead", "untracked"];

/// What is asked of the function, but by the schedule.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    /// Asks for a round of a stream, or of all, in a target, or in each that can be compared.
    Begin {
        stream: Option<String>,
        target: Option<String>,
        #[serde(default)]
        repair: bool,
        #[serde(default)]
        dry_run: bool,
        actor: String,
    },
    /// Works on rounds of these streams for a while, in a target or in each, and tells how far they are.
    GoOn { streams: Vec<String>, target: Option<String> },
}

/// Whether a round is worked on, by its subscription and its stream.
type IsMeant<'a> = dyn Fn(&str, &String) -> bool + Sync + 'a;

/// The function's value.
pub struct Validator {
    config: Config,
    secrets: Secrets,
}

impl Validator {
    /// Connects to nothing yet.
    pub fn new(config: Config, secrets: Secrets) -> Self {
        Self { config, secrets }
    }

    /// Handles an invocation: an event of the schedule, or a command.
    ///
    /// # Errors
    /// Nothing could be done at all, or what was asked for makes no sense. What is wrong with one stream is told in its row.
    pub async fn handle(&self, event: Value, deadline: SystemTime) -> Result<Value, Error> {
        let remaining = deadline.duration_since(SystemTime::now()).unwrap_or_default();
        let stop_at = Instant::now() + remaining.saturating_sub(MARGIN);
        if event.get("command").is_none() {
            return self.scrub(stop_at.min(Instant::now() + self.config.settings.stay)).await;
        }
        let command = serde_json::from_value(event)
            .map_err(|error| Error::Asked(format!("the event is no command of the validator: {error}")))?;
        let client = self.connect().await?;
        match command {
            Command::Begin { stream, target, repair, dry_run, actor } => {
                if target.as_deref() == Some(CLICKHOUSE) && self.config.clickhouse.is_none() {
                    let told = "the validator does not know of a ClickHouse: set CLICKHOUSE_SECRET_ARN, and deploy";
                    return Err(Error::Asked(told.to_owned()));
                }
                let only_known = if self.config.clickhouse.is_none() { Some(ELASTICSEARCH) } else { None };
                let actor = Actor { name: &actor, source_ip: None };
                let (stream, target) = (stream.as_deref(), target.as_deref().or(only_known));
                let asked = validation::ask(&client, target, stream, repair, dry_run, actor).await;
                let streams = asked.map_err(|error| Error::Asked(database::describe(&error)))?;
                Ok(json!({"streams": streams}))
            }
            Command::GoOn { streams, target } => {
                let stop_at = stop_at.min(Instant::now() + ANSWER_WITHIN);
                let mut done = Done::default();
                let is_meant = |reader: &str, stream: &String| {
                    streams.contains(stream) && target.as_deref().is_none_or(|target| target == reader)
                };
                self.work(&client, Some(&is_meant), stop_at, &mut done).await?;
                let mut rows = self.list(&client).await?;
                self.measure(&rows, done);
                rows.retain(|row| is_meant(&row.subscription, &row.stream));
                let is_finished = rows.iter().all(|row| row.state == "done");
                Ok(json!({"finished": is_finished, "streams": rows}))
            }
        }
    }

    /// Does what is due, until it is time to stop or nothing is left to do.
    async fn scrub(&self, stop_at: Instant) -> Result<Value, Error> {
        let client = self.connect().await?;
        let mut done = Done::default();
        let mut worked = Ok(());
        while Instant::now() < stop_at {
            let led = self.lead_generations(&client).await;
            worked = self.work(&client, None, stop_at, &mut done).await;
            if !led {
                break;
            }
        }
        match self.list(&client).await {
            Ok(rows) => self.measure(&rows, done),
            Err(error) => warn!(error = database::describe(&error), "what was found cannot be told"),
        }
        worked?;
        Ok(json!({"checked": done.checked, "repaired": done.repaired}))
    }

    /// Does the next thing for each generation of an index: whether anything was done.
    async fn lead_generations(&self, client: &Client) -> bool {
        let config = &self.config;
        let led = async {
            if database::generations::list(client).await.map_err(generations::Error::from)?.is_empty() {
                return Ok(vec![]);
            }
            let Ok(elasticsearch) = search::connect(&config.search, &self.secrets).await else { return Ok(vec![]) };
            let (prefix, settings) = (&config.search.index_prefix, config.generations);
            let keeper = Keeper { client, elasticsearch: &elasticsearch, prefix, settings };
            keeper.keep().await
        };
        match led.await {
            Ok(said) => !said.is_empty(),
            Err(error) => {
                warn!(%error, "generations of indexes do not go on");
                false
            }
        }
    }

    async fn connect(&self) -> Result<Client, Error> {
        let client = database::connect(&self.config.database, &self.secrets, "sluice-validate").await?;
        client.batch_execute(&format!("SET statement_timeout = '{STATEMENT_TIMEOUT}'")).await?;
        Ok(client)
    }

    /// The streams of the targets that it knows.
    async fn list(&self, client: &Client) -> Result<Vec<Status>, tokio_postgres::Error> {
        let mut rows = validation::list(client).await?;
        rows.retain(|row| row.subscription == ELASTICSEARCH || self.config.clickhouse.is_some());
        Ok(rows)
    }

    /// Works on the streams that are meant, or on all that are due, each for a while. A target that is away stops no other.
    async fn work(
        &self,
        client: &Client,
        is_meant: Option<&IsMeant<'_>>,
        stop_at: Instant,
        done: &mut Done,
    ) -> Result<(), Error> {
        let settings = &self.config.settings;
        let within = if is_meant.is_some() { Duration::ZERO } else { settings.within };
        let mut pace = Pace::new(settings);
        let mut targets = vec![(ELASTICSEARCH, None)];
        if let Some(clickhouse) = &self.config.clickhouse {
            let connection = Connection::new(clickhouse.clone(), self.secrets.clone());
            targets.push((CLICKHOUSE, Some(Target::ClickHouse(Box::new(connection)))));
        }
        let mut failure = None;
        while Instant::now() < stop_at {
            let (mut is_idle, mut has_moved, mut away) = (true, false, None);
            for (reader, target) in &mut targets {
                let mut due = validation::list_due(client, reader, within, settings.repair).await?;
                due.retain(|round| is_meant.is_none_or(|is_meant| is_meant(reader, &round.stream)));
                if due.is_empty() {
                    continue;
                }
                is_idle = false;
                let target = match target {
                    Some(target) => target,
                    None => match search::connect(&self.config.search, &self.secrets).await {
                        Ok(elasticsearch) => target.insert(Target::Elasticsearch(elasticsearch)),
                        Err(error) => {
                            warn!(%error, "Elasticsearch is away");
                            (failure, away) = (Some(error), Some(*reader));
                            continue;
                        }
                    },
                };
                for round in due {
                    let stop_at = stop_at.min(Instant::now() + TURN);
                    has_moved |= turn(client, target, (reader, &round.stream), stop_at, &mut pace, done).await?;
                }
            }
            targets.retain(|(reader, _)| Some(*reader) != away);
            if is_idle {
                break;
            }
            if !has_moved {
                sleep(POLL.min(stop_at.saturating_duration_since(Instant::now()))).await;
            }
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Writes the metrics of an invocation.
    fn measure(&self, rows: &[Status], done: Done) {
        let within_ms = i64::try_from(self.config.settings.within.as_millis()).unwrap_or(i64::MAX);
        let ages: Vec<i64> = rows.iter().filter_map(|row| row.verdict_age_ms).collect();
        let late = ages.iter().filter(|age| within_ms > 0 && **age > within_ms.saturating_mul(2)).count();
        let differences: u64 = rows.iter().map(|row| unexplained(&row.classes)).sum();
        info!(checked = done.checked, repaired = done.repaired, differences, "validated");
        if let Some(metrics) = &self.config.metrics {
            let mut line = metrics.line();
            line.count("DocumentsChecked", done.checked.unsigned_abs())
                .count("KeysRepaired", done.repaired.unsigned_abs())
                .gauge("Differences", "Count", differences)
                .gauge("OldestVerdictAge", "Milliseconds", ages.iter().copied().max().unwrap_or(0).unsigned_abs())
                .gauge("VerdictsLate", "Count", late as u64);
            line.print(SystemTime::now());
        }
    }
}

/// Differences that are confirmed, not repaired, and not explained.
fn unexplained(classes: &Value) -> u64 {
    let counted = |class: &&Value| {
        class["class"].as_str().is_some_and(|name| UNEXPLAINED.contains(&name))
            && matches!(class["state"].as_str(), Some("confirmed" | "repairing" | "stuck"))
    };
    classes.as_array().into_iter().flatten().filter(counted).filter_map(|class| class["count"].as_u64()).sum()
}

/// Works on a stream until its time is over or there is nothing to do: whether it moved. What is wrong with the stream is
/// noted in its round, and stops no other.
async fn turn(
    client: &Client,
    target: &Target,
    (reader, stream): (&str, &str),
    stop_at: Instant,
    pace: &mut Pace,
    done: &mut Done,
) -> Result<bool, Error> {
    let holder = format!("{:032x}", fastrand::u128(..));
    let turn = Turn { subscription: reader, stream, holder: &holder };
    if !lease::take(client, &turn.lease(), &holder, LEASE).await? {
        return Ok(false);
    }
    // As it is defined now: a new field, or another index, may have come since the last turn.
    let stream = database::stream(client, reader, stream).await?;
    let mut worked = Ok((false, None));
    if let Some(stream) = stream.filter(|stream| stream.is_delivered) {
        let lags = validation::lag_ms(client, reader, &stream.name).await? > LAG_MS;
        let mut worker = Worker::new(client, target, &stream, turn);
        worked = work_on(&mut worker, stop_at, pace, lags, done).await;
        worker.close().await;
    }
    let (has_moved, problem) = worked?;
    match validation::note_problem(client, turn, problem.as_deref()).await {
        Err(error) if error.as_db_error().is_none() => return Err(error.into()),
        // Somebody else has the turn, or has the round locked.
        Err(error) => {
            warn!(stream = turn.stream, error = database::describe(&error), "how far a round is cannot be noted");
        }
        Ok(()) => {}
    }
    lease::release(client, &turn.lease(), &holder).await?;
    Ok(has_moved && problem.is_none())
}

/// Step by step: whether it moved, and why it does not go on.
async fn work_on(
    worker: &mut Worker<'_>,
    stop_at: Instant,
    pace: &mut Pace,
    lags: bool,
    done: &mut Done,
) -> Result<(bool, Option<String>), Error> {
    let mut has_moved = false;
    while Instant::now() < stop_at {
        let step = match timeout_at(Instant::now() + STEP_TIMEOUT, worker.step(pace, lags, done)).await {
            Ok(step) => step,
            Err(late) => Err(late.into()),
        };
        let step = match step {
            Err(failure) => worker.recover(failure).await,
            step => step,
        };
        match step {
            Ok(Step::On) => has_moved = true,
            Ok(Step::Done) => return Ok((true, None)),
            Ok(Step::Waits) => {
                let problem = lags.then(|| "it waits until what is on its way has arrived".to_owned());
                return Ok((has_moved, problem));
            }
            Err(Error::Database(error)) if validation::is_not_its_turn(&error) => break,
            Err(error) if error.is_of_the_stream() => {
                let told = error.without_data();
                warn!(
                    stream = worker.stream.name,
                    target = worker.turn.subscription,
                    error = told,
                    "a stream cannot be compared now"
                );
                return Ok((has_moved, Some(error.to_string())));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((has_moved, None))
}
