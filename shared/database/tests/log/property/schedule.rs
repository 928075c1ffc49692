//! Seeded schedules on the real log: writers, a drainer, the fan-out, the maintenance and a queue take turns, and
//! whatever can die does so at any of its steps. At the end the index must equal the source.
//!
//! Nothing runs at the same time as anything else, so a seed replays its whole schedule: SEED=<n> repeats a run,
//! PROPERTY_SECONDS=<n> makes it longer.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use database::Session as _;
use fastrand::Rng;
use localstack::parameter;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::drainer::{Drainer, Message};
use super::writers::{PERSONS, PROJECTS, Writers};
use crate::defects::{Defect, Violated, patch};
use crate::support::{Index, World, collect, expand, one, source};

/// After so many turns everything is worked off and compared, before later changes hide what went wrong.
const TURNS: usize = 40;
/// Of one seed.
const ROUNDS: usize = 10;
const STREAMS: [(&str, &str); 2] = [("people", "demo.person"), ("projects", "demo.project_document")];

/// A stream of a table, and one whose documents show rows of another. Partitions are small, and the first one is nearly
/// full.
const WORLD: &str = "
    CREATE TABLE demo.person (id bigint PRIMARY KEY, name text);
    CREATE TABLE demo.project (id bigint PRIMARY KEY, owner_id bigint, title text);
    CREATE VIEW demo.project_document AS
        SELECT p.id, o.name AS owner, p.title FROM demo.project AS p JOIN demo.person AS o ON o.id = p.owner_id;
    SELECT sluice.define_stream('people', source => 'demo.person', key => 'id', mapping => '{\"properties\": {\"id\": {}, \"name\": {}}}');
    SELECT sluice.define_stream('projects', source => 'demo.project_document', key => 'id',
        mapping => '{\"properties\": {\"id\": {}, \"owner\": {}, \"title\": {}}}');
    SELECT sluice.track('demo.person', stream => 'people', key => 'id');
    SELECT sluice.track('demo.project', stream => 'projects', key => 'id');
    SELECT sluice.track('demo.person', stream => 'projects', affects => 'SELECT id FROM demo.project WHERE owner_id = $1.id');
    ALTER FUNCTION sluice.maintain(bigint, interval, timestamptz) SET lock_timeout = '1ms';
    SELECT setval('sluice.outbox_id_seq', 999900)";

/// What runs went through, so that one which tried nothing is noticed.
#[derive(Debug, Default)]
pub struct Tally {
    late_rows: usize,
    crashes: usize,
    lost_messages: usize,
    rebases: usize,
    partitions_dropped: usize,
    partitions_moved: usize,
    replays: usize,
}

struct Schedule {
    random: Rng,
    world: World,
    writers: Writers,
    drainer: Drainer,
    fan_out: Client,
    is_fanning_out: bool,
    queue: Vec<Message>,
    index: Index,
    /// Copies of the index, by the checkpoints that were reached when they were made.
    backups: Vec<(String, Index)>,
    /// Rows stay in the log: then the queue may be lost, and the position. Otherwise they leave as early as they may.
    keeps_rows: bool,
    /// Older rows were passed over by a rebase.
    rebased_at: i64,
    tally: Tally,
}

/// One of the expansions fails, for its data, its time or its query.
const PUT_ASIDE: &str = "
    SELECT sluice.put_aside(e, (ARRAY['22012', '57014', '42P01'])[1 + e.id % 3], 'it died')
    FROM (SELECT * FROM sluice.expansion ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) AS e";

#[tokio::test]
async fn the_index_ends_as_the_source_whatever_dies_at_whichever_step() -> Result<()> {
    let mut seen = Tally::default();
    if let Some(seed) = parameter("SEED") {
        return run(seed, &Defect::default(), &mut seen).await;
    }
    let until = Instant::now() + Duration::from_secs(parameter("PROPERTY_SECONDS").unwrap_or(10));
    let mut seeds = 0;
    // A busy machine may have no time for much; what tries nothing proves nothing.
    while Instant::now() < until || seen.late_rows == 0 || seen.crashes == 0 {
        let seed = fastrand::u64(..);
        run(seed, &Defect::default(), &mut seen).await.with_context(|| format!("repeat with SEED={seed}"))?;
        seeds += 1;
    }
    println!("{seeds} seeds: {seen:?}");
    // A seed either loses its queue or drops partitions.
    let Tally { lost_messages, rebases, partitions_dropped, partitions_moved, replays, .. } = seen;
    let rarer = [lost_messages, rebases, partitions_dropped, partitions_moved, replays];
    assert!(seeds < 20 || !rarer.contains(&0), "none of {seeds} seeds had one of them");
    Ok(())
}

pub async fn run(seed: u64, defect: &Defect, tally: &mut Tally) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let world = World::with(WORLD).await?;
    // For the sessions that begin from here on; a crash of the server is not tried.
    let database = &world.database.name;
    world.owner.batch_execute(&format!("ALTER DATABASE {database} SET synchronous_commit = off")).await?;
    world.owner.batch_execute("SET synchronous_commit = off").await?;
    // The clock stands still: nothing but what is committed keeps the versions from going back.
    let clock = "microseconds bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    patch(&world.owner, "sluice.take_over(text, integer, interval)", clock, "microseconds bigint := 1000").await?;
    defect.apply(&world.owner).await?;
    world
        .app
        .batch_execute(&format!(
            "INSERT INTO demo.person SELECT n, 'first' FROM generate_series(0, {PERSONS} - 1) AS n;
             INSERT INTO demo.project SELECT n, n % {PERSONS}, 'first' FROM generate_series(0, {PROJECTS} - 1) AS n"
        ))
        .await?;
    let mut schedule = Schedule {
        keeps_rows: random.bool(),
        random,
        writers: Writers::connect(&world.database).await?,
        drainer: Drainer::connect(&world, defect.reader).await?,
        fan_out: world.database.functions().await?,
        is_fanning_out: false,
        world,
        queue: vec![],
        rebased_at: 0,
        index: Index::default(),
        backups: vec![],
        tally: Tally::default(),
    };
    for _ in 0..ROUNDS {
        for _ in 0..TURNS {
            schedule.turn().await?;
        }
        schedule.settle().await?;
        schedule.check().await?;
        schedule.restore().await?;
        schedule.back_up().await?;
    }
    tally.late_rows += schedule.drainer.late_rows;
    tally.crashes += schedule.drainer.crashes + schedule.tally.crashes;
    tally.lost_messages += schedule.tally.lost_messages;
    tally.rebases += schedule.tally.rebases;
    tally.partitions_dropped += schedule.tally.partitions_dropped;
    tally.partitions_moved += schedule.tally.partitions_moved;
    tally.replays += schedule.tally.replays;
    Ok(())
}

impl Schedule {
    async fn turn(&mut self) -> Result<()> {
        match self.random.u16(..1000) {
            0..500 => self.writers.turn(&mut self.random).await?,
            500..700 => {
                for _ in 0..self.random.u8(1..16) {
                    if self.random.u8(..8) == 0 {
                        return self.drainer.crash(&self.world, &mut self.random, &mut self.queue).await;
                    }
                    self.drainer.step(&mut self.random, &mut self.queue).await?;
                    if self.drainer.is_idle() || self.drainer.has_just_begun() && self.random.bool() {
                        break;
                    }
                }
            }
            700..820 => {
                for _ in 0..self.random.u8(1..5) {
                    self.fan_out().await?;
                }
            }
            820..900 => {
                for _ in 0..self.random.u8(1..10) {
                    self.deliver();
                }
            }
            900..940 => {
                self.pause_readers().await?;
                self.catch_up().await?;
            }
            940..980 => self.maintain().await?,
            980..990 if self.keeps_rows => self.lose_the_queue().await?,
            990..1000 if self.keeps_rows => self.rebase().await?,
            _ => {}
        }
        Ok(())
    }

    /// The fan-out's next step: it begins and works, or it ends, in one of the two ways.
    async fn fan_out(&mut self) -> Result<()> {
        if self.is_fanning_out {
            let dies = self.random.u8(..6) == 0;
            self.tally.crashes += usize::from(dies);
            self.is_fanning_out = false;
            return Ok(self.fan_out.batch_execute(if dies { "ROLLBACK" } else { "COMMIT" }).await?);
        }
        self.fan_out.batch_execute("BEGIN").await?;
        self.is_fanning_out = true;
        match self.random.u8(..12) {
            0 => self.fan_out.batch_execute(PUT_ASIDE).await?,
            1..8 => {
                let slice = if self.random.bool() { 100 } else { self.random.i32(1..4) };
                self.fan_out.expand(slice, false, false).await?;
            }
            _ => {
                self.fan_out.collect().await?;
            }
        }
        Ok(())
    }

    /// A message of any age arrives, and some of them again later.
    fn deliver(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let at = self.random.usize(..self.queue.len());
        let again = self.random.u8(..5) == 0;
        let message = if again { self.queue[at].clone() } else { self.queue.swap_remove(at) };
        self.index.write(&message.stream, &message.key, message.version, message.read);
    }

    /// A step for the partitions, beside whatever is open or at a quiet moment.
    async fn maintain(&mut self) -> Result<()> {
        if self.random.bool() {
            self.writers.end_all().await?;
            self.pause_readers().await?;
        }
        let keep = if self.keeps_rows { "1 year" } else { "0" };
        let query = format!("SELECT sluice.maintain(64, '{keep}', clock_timestamp() + interval '1 month')");
        match self.world.owner.query_one(&query, &[]).await {
            Ok(row) => {
                let done = row.get::<_, Option<String>>(0).unwrap_or_default();
                self.tally.partitions_dropped += usize::from(done.starts_with("dropped"));
                self.tally.partitions_moved += usize::from(done.starts_with("made the default partition"));
                Ok(())
            }
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn pause_readers(&mut self) -> Result<()> {
        if self.is_fanning_out {
            self.is_fanning_out = false;
            self.fan_out.batch_execute("COMMIT").await?;
        }
        while !self.drainer.is_idle() {
            self.drainer.step(&mut self.random, &mut self.queue).await?;
        }
        Ok(())
    }

    async fn lose_the_queue(&mut self) -> Result<()> {
        self.tally.lost_messages += self.queue.len();
        self.queue.clear();
        Ok(self.world.owner.batch_execute("SELECT sluice.resync(name) FROM sluice.stream").await?)
    }

    /// The position becomes now; keys that only the index has are logged, as migrate does it.
    async fn rebase(&mut self) -> Result<()> {
        // It waits for the subscriptions, which are nobody's then.
        self.pause_readers().await?;
        self.tally.rebases += 1;
        // Others may commit between its transaction's beginning and its position.
        self.world.owner.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
        for _ in 0..20 {
            self.writers.turn(&mut self.random).await?;
        }
        self.world.owner.batch_execute("SELECT sluice.rebase(); COMMIT").await?;
        self.rebased_at = one(&self.world.owner, "SELECT last_value FROM sluice.outbox_id_seq").await?;
        for (stream, relation) in STREAMS {
            let has: BTreeSet<String> = source(&self.world.owner, relation, "id").await?.into_keys().collect();
            let surplus: Vec<String> =
                self.index.documents(stream).into_keys().filter(|key| !has.contains(key)).collect();
            self.world.owner.execute("SELECT sluice.resync($1, $2)", &[&stream, &surplus]).await?;
        }
        Ok(())
    }

    /// Everybody ends what they are at, and the rest is worked off.
    async fn settle(&mut self) -> Result<()> {
        self.writers.end_all().await?;
        self.pause_readers().await?;
        self.maintain().await?;
        let due = "UPDATE sluice.expansion SET due_at = now(); \
                   UPDATE sluice.expansion_turn SET due_at = now(), is_slow = false";
        self.world.owner.batch_execute(due).await?;
        self.catch_up().await?;
        self.random.shuffle(&mut self.queue);
        for Message { stream, key, version, read } in self.queue.drain(..) {
            self.index.write(&stream, &key, version, read);
        }
        Ok(())
    }

    /// What is committed is fanned out and drained, beside transactions that stay open.
    async fn catch_up(&mut self) -> Result<()> {
        for _ in 0..200 {
            collect(&self.fan_out).await?;
            expand(&self.fan_out, 1000).await?;
            while !self.drainer.is_idle() || self.fan_out.is_pending("elasticsearch").await? {
                self.drainer.step(&mut self.random, &mut self.queue).await?;
            }
            if !self.fan_out.is_pending("fan_out").await? {
                return Ok(());
            }
        }
        Err(Violated("it does not come to an end".to_owned()).into())
    }

    /// Nothing is under way: a checkpoint can be reached, and the index has all that it sees.
    async fn back_up(&mut self) -> Result<()> {
        let name = format!("round-{}", self.random.u64(..));
        self.fan_out.execute("SELECT sluice.checkpoint($1)", &[&name]).await?;
        // That of this minute may be before it.
        for _ in 0..2 {
            self.fan_out.keep_checkpoints().await?;
        }
        let query = "SELECT count(*) FROM sluice.checkpoint WHERE name = $1 AND at IS NOT NULL";
        if self.fan_out.query_one(query, &[&name]).await?.get::<_, i64>(0) != 1 {
            return Err(Violated("all has arrived, and the checkpoint is not reached".to_owned()).into());
        }
        self.backups.push((name, self.index.clone()));
        Ok(())
    }

    /// An older index comes back, and what changed since is delivered again, beside whatever goes on. Not from before a rebase, or
    /// where the log has less: then the checkpoint is gone.
    async fn restore(&mut self) -> Result<()> {
        if self.backups.is_empty() || self.random.bool() {
            return Ok(());
        }
        let at = self.random.usize(..self.backups.len());
        let (name, index) = self.backups.swap_remove(at);
        let streams = if self.random.bool() { vec![None] } else { STREAMS.map(|(stream, _)| Some(stream)).to_vec() };
        for stream in streams {
            let query = "SELECT FROM sluice.replay('elasticsearch', $1, $2)";
            match self.fan_out.execute(query, &[&name, &stream]).await {
                Ok(_) => self.tally.replays += 1,
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.index = index;
        for _ in 0..TURNS {
            self.turn().await?;
        }
        self.settle().await?;
        self.check().await
    }

    async fn check(&self) -> Result<()> {
        for (stream, relation) in STREAMS {
            let (has, wants) = (self.index.documents(stream), source(&self.world.owner, relation, "id").await?);
            if has != wants {
                let keys: BTreeSet<&String> = has.keys().chain(wants.keys()).collect();
                let differ: Vec<_> = keys.into_iter().filter(|key| has.get(*key) != wants.get(*key)).collect();
                return Err(Violated(format!(
                    "stream {stream}: the index differs from the source in the keys {differ:?}"
                ))
                .into());
            }
        }
        let query = "SELECT id FROM sluice.outbox WHERE op <> 'fan_out' AND id > $1";
        let rows = self.world.owner.query(query, &[&self.rebased_at]).await?;
        let missing = rows.iter().filter(|row| !self.drainer.passed.contains(&row.get(0))).count();
        if missing > 0 {
            return Err(Violated(format!("{missing} of {} rows of the log were never read", rows.len())).into());
        }
        Ok(())
    }
}
