//! A steady load of inserts, updates, deletes and changed keys, on a plain stream and on a joined one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;
use localstack::eventually;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use crate::stack::connect;

/// Few enough for keys to come back, and to meet themselves on the way.
const ITEMS: u32 = 400;
const PROJECTS: u32 = 300;
const OWNERS: u32 = 15;
/// Between two statements of a writer.
pub const PAUSE: Duration = Duration::from_millis(8);

/// The load's tables and streams: `$` stands for the schema, by which the streams' names begin.
pub const TABLES: &str = r#"
    CREATE TABLE item (id int PRIMARY KEY, name text, n int NOT NULL DEFAULT 0);
    SELECT sluice.define_stream('$_item', source => '$.item', key => 'id', mapping =>
        '{"properties": {"id": {"type": "integer"}, "name": {"type": "keyword"}, "n": {"type": "integer"}}}');
    SELECT sluice.track('item', stream => '$_item', key => 'id');

    CREATE TABLE owner (id int PRIMARY KEY, name text);
    CREATE TABLE project (id int PRIMARY KEY, owner_id int, title text);
    CREATE INDEX ON project (owner_id);
    CREATE VIEW project_document AS
        SELECT p.id, p.title, o.name AS owner FROM project AS p LEFT JOIN owner AS o ON o.id = p.owner_id;
    SELECT sluice.define_stream('$_project', source => '$.project_document', key => 'id', mapping =>
        '{"properties": {"id": {"type": "integer"}, "title": {"type": "keyword"}, "owner": {"type": "keyword"}}}');
    SELECT sluice.track('project', stream => '$_project', key => 'id');
    SELECT sluice.track('owner', stream => '$_project', columns => '{name}',
        affects => 'SELECT id FROM $.project WHERE owner_id = $1.id')"#;

/// Two writers, one for each stream, until they are told to stop.
pub struct Load {
    schema: String,
    pause: Duration,
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    changes: AtomicU64,
    refused: AtomicU64,
}

impl Load {
    /// Begins, in the tables of this schema; each writer pauses so long between two statements.
    pub async fn start(schema: &str, seed: u64, pause: Duration) -> Result<Self> {
        let mut random = Rng::with_seed(seed);
        let mut load = Self { schema: schema.to_owned(), pause, shared: Arc::default(), writers: vec![] };
        for change in [change_item, change_project] {
            load.add(random.fork(), change).await?;
        }
        Ok(load)
    }

    /// Another writer, of these changes.
    pub async fn add(&mut self, random: Rng, change: fn(&mut Rng) -> String) -> Result<()> {
        let client = writer(&self.schema).await?;
        let task = write(Arc::clone(&self.shared), self.schema.clone(), self.pause, client, random, change);
        self.writers.push(tokio::spawn(task));
        Ok(())
    }

    /// How many rows it has changed by now.
    pub fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Relaxed)
    }

    /// Waits until it has changed so many rows more.
    pub async fn goes_on(&self, changes: u64) {
        let wanted = self.changes() + changes;
        eventually(&format!("{changes} more changes"), async || {
            let made = self.changes();
            if made >= wanted { Ok(()) } else { Err(format!("{} are missing", wanted - made)) }
        })
        .await;
    }

    /// Ends it; none of its writes may have failed.
    pub async fn stop(self) -> Result<u64> {
        let (changes, refused) = self.stop_after_refusals().await?;
        ensure!(refused == 0, "{refused} writes failed");
        Ok(changes)
    }

    /// Ends it: rows changed, and statements that failed since the database was away.
    pub async fn stop_after_refusals(self) -> Result<(u64, u64)> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await??;
        }
        Ok((self.shared.changes.load(Ordering::Relaxed), self.shared.refused.load(Ordering::Relaxed)))
    }
}

async fn writer(schema: &str) -> Result<Client> {
    let client = connect().await?;
    client.batch_execute(&format!("SET search_path = {schema}")).await?;
    Ok(client)
}

async fn write(
    shared: Arc<Shared>,
    schema: String,
    pause: Duration,
    client: Client,
    mut random: Rng,
    change: fn(&mut Rng) -> String,
) -> Result<()> {
    let mut client = Some(client);
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !shared.is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let Some(session) = &client else {
            client = writer(&schema).await.ok();
            continue;
        };
        match session.execute(&change(&mut random), &[]).await {
            Ok(rows) => {
                shared.changes.fetch_add(rows, Ordering::Relaxed);
            }
            Err(_) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                client = None;
            }
        }
    }
    Ok(())
}

fn change_item(random: &mut Rng) -> String {
    let (id, name) = (random.u32(1..=ITEMS), random.u32(..));
    match random.u8(..10) {
        0..4 => format!("INSERT INTO item VALUES ({id}, '{name}') ON CONFLICT (id) DO UPDATE SET n = item.n + 1"),
        4..7 => format!("UPDATE item SET name = '{name}' WHERE id BETWEEN {id} AND {id} + 3"),
        7 => change_key("item", id, random.u32(1..=ITEMS)),
        _ => format!("DELETE FROM item WHERE id BETWEEN {id} AND {id} + 1"),
    }
}

fn change_project(random: &mut Rng) -> String {
    let (id, owner, name) = (random.u32(1..=PROJECTS), random.u32(1..=OWNERS), random.u32(..));
    match random.u8(..20) {
        0..8 => format!(
            "INSERT INTO project VALUES ({id}, {owner}, '{name}') ON CONFLICT (id) DO UPDATE SET title = '{name}'"
        ),
        8..11 => format!("UPDATE project SET owner_id = {owner} WHERE id = {id}"),
        11..14 => format!("DELETE FROM project WHERE id = {id}"),
        14 => change_key("project", id, random.u32(1..=PROJECTS)),
        15..19 => {
            format!("INSERT INTO owner VALUES ({owner}, '{name}') ON CONFLICT (id) DO UPDATE SET name = '{name}'")
        }
        _ => format!("DELETE FROM owner WHERE id = {owner}"),
    }
}

/// To one that no row has; nobody else changes these rows meanwhile.
fn change_key(table: &str, id: u32, other: u32) -> String {
    format!("UPDATE {table} SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT FROM {table} WHERE id = {other})")
}
