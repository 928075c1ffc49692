//! The log under many writers that sleep, roll back and hold transactions open, with a reader that crashes.
//!
//! The order of events is PostgreSQL's; the seed replays what each writer and the reader decide. SEED=<n> repeats a run,
//! PROPERTY_SECONDS=<n> makes it longer.

mod drainer;
pub mod schedule;
mod writers;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use database::log::Row;
use fastrand::Rng;
use localstack::parameter;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use crate::defects::{Defect, Violated};
use crate::support::{Drainer, World, one};

const WRITERS: u64 = 12;
const KEYS: i64 = 20;

/// Counts are written to rows whose lock orders their writers, so that each value of a key is greater than the last.
async fn write(app: Client, seed: u64, is_over: Arc<AtomicBool>) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    while !is_over.load(Ordering::Relaxed) {
        app.batch_execute("BEGIN").await?;
        if random.u8(..10) < 3 {
            // An old transaction id that writes late.
            app.batch_execute("SELECT pg_current_xact_id()").await?;
        }
        // In one order, against deadlocks.
        let mut keys: Vec<i64> = (0..random.u8(1..4)).map(|_| random.i64(1..=KEYS)).collect();
        keys.sort_unstable();
        for key in keys {
            sleep(Duration::from_millis(random.u64(..8))).await;
            let savepoint = random.u8(..10);
            if savepoint < 3 {
                app.batch_execute("SAVEPOINT a").await?;
            }
            app.execute("UPDATE demo.count SET n = n + 1 WHERE key = $1", &[&key]).await?;
            match savepoint {
                0 => app.batch_execute("ROLLBACK TO a").await?,
                1 => app.batch_execute("RELEASE a").await?,
                _ => {}
            }
        }
        let pause_ms = if random.u8(..100) == 0 { 1500 } else { random.u64(..25) };
        sleep(Duration::from_millis(pause_ms)).await;
        app.batch_execute(if random.u8(..100) < 15 { "ROLLBACK" } else { "COMMIT" }).await?;
    }
    Ok(())
}

/// Reads page by page, with crashes before and after it advances, and rows of its own. What it has seen more than once
/// is only what a crash repeats.
struct Reader {
    random: Rng,
    delivered: Vec<Row>,
    /// Of a transaction that is not committed: pages repeat after a crash.
    sent: Vec<Row>,
    crashes: u32,
}

impl Reader {
    /// A transaction's worth: whether it came to the end of its interval.
    async fn step(&mut self, drainer: &Drainer) -> Result<bool> {
        let mut after = drainer.begin().await?.context("the subscription is held")?;
        let mut is_over = false;
        for _ in 0..self.random.u8(1..4) {
            let rows = drainer.page(after, self.random.i32(1..9)).await?;
            let Some(last) = rows.last() else {
                drainer.finish().await?;
                is_over = true;
                break;
            };
            after = last.id;
            for row in &rows {
                if row.stream == "counts" && self.random.u8(..10) == 0 {
                    let own = "INSERT INTO sluice.outbox (stream, key, op) VALUES ('own', $1, 'upsert')";
                    drainer.client.execute(own, &[&row.id.to_string()]).await?;
                }
            }
            self.sent.extend(rows);
            if self.random.u8(..20) == 0 {
                return self.crash(drainer).await;
            }
            drainer.advance(after).await?;
        }
        if self.random.u8(..20) == 0 {
            return self.crash(drainer).await;
        }
        drainer.commit().await?;
        let came = !self.sent.is_empty();
        self.delivered.append(&mut self.sent);
        Ok(is_over && !came)
    }

    async fn crash(&mut self, drainer: &Drainer) -> Result<bool> {
        drainer.rollback().await?;
        self.sent.clear();
        self.crashes += 1;
        Ok(false)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_committed_row_comes_once_and_each_key_in_order_whatever_writers_and_readers_do() -> Result<()> {
    let seed = parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = parameter("PROPERTY_SECONDS").unwrap_or(10);
    run(seed, Duration::from_secs(seconds), &Defect::default())
        .await
        .with_context(|| format!("repeat with SEED={seed}"))
}

pub async fn run(seed: u64, budget: Duration, defect: &Defect) -> Result<()> {
    let world = World::with(&format!(
        "CREATE TABLE demo.count (key bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
         INSERT INTO demo.count SELECT n FROM generate_series(1, {KEYS}) AS n;
         SELECT sluice.define_stream('counts', source => 'demo.count', key => 'key', mapping => '{{\"properties\": {{\"n\": {{}}}}}}')"
    ))
    .await?;
    // A row that says which value it stands for, so that the order can be told.
    world
        .owner
        .batch_execute(
            "CREATE FUNCTION demo.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN
                 INSERT INTO sluice.outbox (stream, key, op, payload) VALUES ('counts', NEW.key::text, 'upsert', json_build_object('n', NEW.n));
                 RETURN NULL;
             END $$;
             CREATE TRIGGER note AFTER UPDATE ON demo.count FOR EACH ROW EXECUTE FUNCTION demo.note()",
        )
        .await?;
    defect.apply(&world.owner).await?;
    let until = Instant::now() + budget;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut random = Rng::with_seed(seed);
    let mut writers = vec![];
    for _ in 0..WRITERS {
        writers.push(tokio::spawn(write(world.database.app().await?, random.u64(..), Arc::clone(&is_over))));
    }
    let mut drainer = world.drainer().await?;
    let mut reader = Reader { random: random.fork(), delivered: vec![], sent: vec![], crashes: 0 };
    let mut empty_intervals = 0;
    loop {
        let has_ended = writers.iter().all(|writer| writer.is_finished());
        let is_empty = reader.step(&drainer).await?;
        // A busy machine may have no time for much; a run that tried nothing proves nothing.
        if Instant::now() >= until && reader.crashes > 0 && reader.delivered.iter().any(|row| row.stream != "counts") {
            is_over.store(true, Ordering::Relaxed);
        }
        // One empty interval may have begun before the last writer ended.
        empty_intervals = if is_empty && has_ended { empty_intervals + 1 } else { 0 };
        if empty_intervals == 2 {
            break;
        }
        if reader.random.u8(..50) == 0 {
            // Gone without a word; the next one takes over.
            drop(drainer);
            drainer = world.drainer().await?;
        }
    }
    for writer in writers {
        writer.await??;
    }
    check(&world, &reader).await
}

async fn check(world: &World, reader: &Reader) -> Result<()> {
    let committed = world.owner.query("SELECT id FROM sluice.outbox ORDER BY id", &[]).await?;
    let committed: Vec<i64> = committed.iter().map(|row| row.get(0)).collect();
    let mut ids: Vec<i64> = reader.delivered.iter().map(|row| row.id).collect();
    let after_a_higher = ids.windows(2).filter(|pair| pair[1] < pair[0]).count();
    ids.sort_unstable();
    if ids != committed {
        return Err(Violated(format!("of {} committed rows {} were delivered", committed.len(), ids.len())).into());
    }

    let mut latest: HashMap<&str, i64> = HashMap::new();
    for row in reader.delivered.iter().filter(|row| row.stream == "counts") {
        let payload: serde_json::Value = serde_json::from_str(row.payload.as_deref().context("a payload")?)?;
        let n = payload["n"].as_i64().context("a count")?;
        let before = latest.insert(&row.key, n).unwrap_or(0);
        if n <= before {
            return Err(Violated(format!("key {}: {n} came after {before}", row.key)).into());
        }
    }
    let counted: i64 = one(&world.owner, "SELECT sum(n)::bigint FROM demo.count").await?;
    let counts = reader.delivered.iter().filter(|row| row.stream == "counts").count();
    let own = reader.delivered.len() - counts;
    anyhow::ensure!(counted == i64::try_from(counts)?, "{counted} counts, {counts} rows");
    // A run that tried nothing proves nothing.
    anyhow::ensure!(
        after_a_higher > 0 && own > 0 && reader.crashes > 0,
        "{counts} rows, {after_a_higher} after a higher id, {own} of the drain's own, {} crashes",
        reader.crashes
    );
    Ok(())
}
