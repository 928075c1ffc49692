//! The contract of a sink: a target that fails in each way in which one may, drained into directly, against a real
//! PostgreSQL.

#[path = "main/direct.rs"]
mod direct;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use config::Env;
use database::delivery::Refusal;
use database::{Postgres, Stream};
use drain::{Drain, Drained, Error, Expanded, FanOut, Outcome, Settings, Sink, Step, Unfit};
use fastrand::Rng;
use localstack::Database;
use message::{Change, Op};
use secrets::Secrets;
use secrets::fake::SecretsManager;
use telemetry::Trace;
use tokio::sync::Notify;
use tokio::time::Instant;

const SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:functions";
const KEYS: u8 = 12;

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    /// Nothing of it arrives.
    Reject,
    /// A part of it arrives, and the step fails.
    Break,
    /// All of it arrives, and the answer is lost.
    FailAfterWrite,
    /// All of it arrives, and no answer ever comes: the drainer's process ends.
    Hold,
}

#[derive(Debug, thiserror::Error)]
#[error("the target failed")]
struct Failed;

/// A target that compares versions: what it has of each key, and what was written to it, in order.
#[derive(Clone, Default)]
struct Target {
    state: Arc<Mutex<State>>,
    /// A step is held.
    held: Arc<Notify>,
}

#[derive(Default)]
struct State {
    documents: BTreeMap<String, (i64, Option<String>)>,
    written: Vec<(String, i64)>,
    fates: VecDeque<Fate>,
    /// Keys that it refuses for their own data.
    refused: BTreeSet<String>,
    /// Streams that it does not take as they are.
    unfit: BTreeSet<String>,
    /// From so many writes on a step is full.
    full_at: Option<usize>,
}

struct Writing {
    target: Target,
    writes: Vec<(String, i64, Option<String>)>,
    outcome: Outcome,
}

impl Target {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, writes: Vec<(String, i64, Option<String>)>) {
        let mut state = self.state();
        for (key, version, document) in writes {
            state.written.push((key.clone(), version));
            let is_newer = state.documents.get(&key).is_none_or(|(before, _)| *before < version);
            if is_newer {
                state.documents.insert(key, (version, document));
            }
        }
    }

    /// Those that it has now.
    fn documents(&self) -> BTreeMap<String, String> {
        let state = self.state();
        state.documents.iter().filter_map(|(key, (_, document))| Some((key.clone(), document.clone()?))).collect()
    }
}

impl Sink for Target {
    type Step = Writing;

    const DOCUMENT_BYTES: i32 = 1_000_000;

    const READS_AGAIN: bool = false;

    async fn has_room(&mut self) -> Result<bool, Failed> {
        Ok(true)
    }

    fn begin(&mut self, _: &Trace, _: i64) -> Writing {
        Writing { target: self.clone(), writes: vec![], outcome: Outcome::default() }
    }
}

impl Step for Writing {
    type Error = Failed;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), Failed> {
        assert_ne!(change.op, Op::Read, "nobody behind a direct target reads again");
        let (is_unfit, is_refused) = {
            let state = self.target.state();
            (state.unfit.contains(&stream.name), state.refused.contains(&*change.key))
        };
        if is_unfit {
            let unfit = &mut self.outcome.unfit;
            match unfit.iter_mut().find(|unfit| unfit.stream == stream.name) {
                Some(unfit) => unfit.ids.push(change.id),
                None => unfit.push(Unfit {
                    stream: stream.name.clone(),
                    reason: "its table is gone".to_owned(),
                    ids: vec![change.id],
                }),
            }
        } else if is_refused && document.is_some() {
            self.outcome.refused.push(Refusal {
                change_id: change.id,
                stream: stream.name.clone(),
                key: change.key.to_string(),
                version: change.version,
                error_type: "out_of_range".to_owned(),
                reason: "n is too large".to_owned(),
            });
        } else {
            self.writes.push((change.key.to_string(), change.version, document.map(str::to_owned)));
        }
        Ok(())
    }

    fn is_full(&mut self) -> bool {
        self.target.state().full_at.is_some_and(|writes| self.writes.len() >= writes)
    }

    async fn finish(mut self) -> Result<Outcome, Failed> {
        let fate = self.target.state().fates.pop_front().unwrap_or(Fate::Pass);
        match fate {
            Fate::Reject => return Err(Failed),
            Fate::Break => self.writes.truncate(self.writes.len() / 2),
            Fate::Pass | Fate::FailAfterWrite | Fate::Hold => {}
        }
        self.target.write(self.writes);
        match fate {
            Fate::Pass => Ok(self.outcome),
            Fate::Hold => {
                self.target.held.notify_one();
                std::future::pending().await
            }
            Fate::Reject | Fate::Break | Fate::FailAfterWrite => Err(Failed),
        }
    }
}

/// A database with a stream `item`, and drainers into one target.
struct World {
    database: Database,
    owner: tokio_postgres::Client,
    secrets: Secrets,
    target: Target,
    trace: Trace,
}

impl World {
    async fn create() -> Result<Self> {
        secrets::install_crypto_provider();
        let database = Database::create().await?;
        let owner = database.owner().await?;
        owner
            .batch_execute(
                "SELECT sluice.drop_stream('sluice_heartbeat');
                 CREATE TABLE item (id int PRIMARY KEY, n int);
                 SELECT sluice.define_stream('item', source => 'public.item', key => 'id', mapping => '{\"properties\": {\"n\": {}}}');
                 SELECT sluice.track('item', stream => 'item', key => 'id');
                 SELECT sluice.set_live(subscription, stream, 'item-1', mapping) FROM sluice.target WHERE stream = 'item'",
            )
            .await?;
        let manager = SecretsManager::start().await?;
        manager.put(SECRET, &database.secret("functions"));
        let trace = Trace::of_invocation(None);
        Ok(Self { database, owner, secrets: Secrets::new(manager.client()), target: Target::default(), trace })
    }

    fn drainer(&self) -> Result<Drain<Postgres, Target>> {
        self.drainer_of("elasticsearch")
    }

    fn drainer_of(&self, subscription: &str) -> Result<Drain<Postgres, Target>> {
        let (settings, database) = self.settings(subscription)?;
        Ok(Drain::new(&settings, database, self.target.clone()))
    }

    fn fan_out(&self) -> Result<FanOut<Postgres>> {
        let (settings, database) = self.settings("elasticsearch")?;
        Ok(FanOut::new(&settings, database))
    }

    fn settings(&self, subscription: &str) -> Result<(Settings, Postgres)> {
        let mut env =
            Env::from_pairs([("DATABASE_SECRET_ARN", SECRET), ("DATABASE_SSLMODE", "disable"), ("PAGE_SIZE", "5")]);
        let settings = (Settings::from_env(subscription, &mut env), database::Settings::from_env(&mut env));
        env.finish()?;
        Ok((settings.0, Postgres::new(settings.1, self.secrets.clone())))
    }

    async fn is_pending(&self) -> Result<bool> {
        let query = "SELECT pending_rows > 0 FROM sluice.status() WHERE subscription = 'elasticsearch'";
        Ok(self.owner.query_one(query, &[]).await?.get(0))
    }

    /// Until nothing is left.
    async fn drain(&self, drainer: &mut Drain<Postgres, Target>) -> Result<()> {
        while self.is_pending().await? {
            self.step(drainer).await?;
        }
        Ok(())
    }

    async fn step(&self, drainer: &mut Drain<Postgres, Target>) -> Result<bool, Error> {
        drainer.step(&self.trace, Instant::now() + Duration::from_secs(60), &mut Drained::default()).await
    }

    async fn source(&self) -> Result<BTreeMap<String, String>> {
        let rows = self.owner.query("SELECT id::text, format('{\"n\":%s}', n) FROM item", &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Each change of a step that fails is written again under a higher version; so of a key these never fall.
    fn versions_never_fall(&self) {
        let mut last = HashMap::new();
        for (key, version) in &self.target.state().written {
            let before = last.insert(key.clone(), *version);
            assert!(before.is_none_or(|before| before < *version), "{key}: {version} after {before:?}");
        }
    }
}

#[tokio::test]
async fn a_step_that_is_full_ends_and_the_next_one_has_the_rest() -> Result<()> {
    let world = World::create().await?;
    let mut drainer = world.drainer()?;
    world.drain(&mut drainer).await?;
    world.target.state().full_at = Some(5); // a page
    world.owner.batch_execute("INSERT INTO item SELECT i, i FROM generate_series(1, 40) AS i").await?;
    while world.target.state().written.is_empty() {
        world.step(&mut drainer).await?;
    }
    assert_eq!(world.target.state().written.len(), 10, "one page more than fills it");
    world.drain(&mut drainer).await?;
    assert_eq!(world.target.documents(), world.source().await?);
    Ok(())
}

#[tokio::test]
async fn a_step_whose_answer_was_lost_is_done_again_under_a_higher_version() -> Result<()> {
    let world = World::create().await?;
    let mut drainer = world.drainer()?;
    world.owner.batch_execute("INSERT INTO item VALUES (1, 1)").await?;
    world.target.state().fates.push_back(Fate::FailAfterWrite);
    let failure = loop {
        match world.step(&mut drainer).await {
            Ok(_) => ensure!(world.is_pending().await?, "the step passed"),
            Err(failure) => break failure,
        }
    };
    assert!(matches!(failure, Error::Sink(_)), "{failure}");
    assert!(world.is_pending().await?, "the position was stored before the target had answered");
    world.owner.batch_execute("UPDATE item SET n = 2").await?;
    world.drain(&mut drainer).await?;
    let versions: Vec<i64> = world.target.state().written.iter().map(|(_, version)| *version).collect();
    assert!(versions.len() >= 2, "{versions:?}");
    world.versions_never_fall();
    assert_eq!(world.target.documents(), world.source().await?);
    Ok(())
}

/// SEED repeats it.
#[tokio::test]
async fn whatever_becomes_of_steps_the_target_ends_as_the_source() -> Result<()> {
    let seed = localstack::parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    converge(&mut Rng::with_seed(seed)).await.with_context(|| format!("repeat with SEED={seed}"))
}

async fn converge(random: &mut Rng) -> Result<()> {
    let world = World::create().await?;
    let mut drainers = [world.drainer()?, world.drainer()?];
    let fates = [Fate::Pass, Fate::Reject, Fate::Break, Fate::FailAfterWrite, Fate::Hold];
    for round in 0..60 {
        for _ in 0..random.u8(1..8) {
            let (id, n) = (random.u8(..KEYS), random.u16(..));
            let write = match random.u8(..3) {
                0 => format!("DELETE FROM item WHERE id = {id}"),
                _ => format!("INSERT INTO item VALUES ({id}, {n}) ON CONFLICT (id) DO UPDATE SET n = {n}"),
            };
            world.owner.batch_execute(&write).await?;
        }
        let fate = fates[round % fates.len()];
        world.target.state().fates.push_back(fate);
        let chosen = random.usize(..drainers.len());
        tokio::select! {
            // What failed is drained with what comes next.
            _ = world.step(&mut drainers[chosen]) => {}
            // Its process ends, and its session with it.
            () = world.target.held.notified() => drainers[chosen] = world.drainer()?,
        }
    }
    world.target.state().fates.clear();
    let [mut last, other] = drainers;
    drop(other);
    world.drain(&mut last).await?;
    world.versions_never_fall();
    assert_eq!(world.target.documents(), world.source().await?);
    drop(world.database);
    Ok(())
}

#[tokio::test]
async fn changes_of_a_stream_that_goes_elsewhere_are_passed_over_and_the_others_arrive() -> Result<()> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute(
            "CREATE TABLE elsewhere (id int PRIMARY KEY);
             SELECT sluice.define_stream('elsewhere', source => 'public.elsewhere', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
             SELECT sluice.track('elsewhere', stream => 'elsewhere', key => 'id');
             UPDATE sluice.target SET subscription = 'other' WHERE stream = 'elsewhere';
             INSERT INTO elsewhere VALUES (100);
             INSERT INTO item VALUES (1, 1);
             INSERT INTO elsewhere VALUES (101)",
        )
        .await?;
    let mut drainer = world.drainer()?;
    world.drain(&mut drainer).await?;
    assert_eq!(world.target.documents(), world.source().await?);
    let waiting = "SELECT count(*) FROM sluice.waiting";
    assert_eq!(world.owner.query_one(waiting, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}
