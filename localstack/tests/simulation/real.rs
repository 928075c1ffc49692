//! A real PostgreSQL, to hold the model against.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use localstack::Database;
use search::names;
use serde_json::json;
use tokio_postgres::Client;

use crate::log::{STREAMS, SessionId, TABLE, TOPIC, stream_names};
use crate::tables::Change;

/// The tables, streams and triggers that the model has.
const TABLES: &str = r#"
    CREATE SCHEMA demo;
    SET search_path = demo;
    CREATE TABLE item (id bigint PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE person (id bigint PRIMARY KEY, name bigint NOT NULL);
    CREATE TABLE project (id bigint PRIMARY KEY, owner bigint NOT NULL, n bigint NOT NULL);
    CREATE VIEW project_document AS
        SELECT p.id, p.n, o.name AS owner FROM project AS p LEFT JOIN person AS o ON o.id = p.owner;
    SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{"properties": {"id": {}, "n": {}}}');
    SELECT sluice.define_stream('projects', source => 'demo.project_document', key => 'id',
        mapping => '{"properties": {"id": {}, "n": {}, "owner": {}}}');
    SELECT sluice.track('demo.item', stream => 'items', key => 'id');
    SELECT sluice.track('demo.project', stream => 'projects', key => 'id');
    SELECT sluice.track('demo.person', stream => 'projects', affects => 'SELECT id FROM demo.project WHERE owner = $1.id');
"#;

/// Who validates, whichever session it has.
pub const VALIDATOR: &str = "validator";

/// A database of one simulation's own.
pub struct Real {
    database: Database,
    owner: Client,
    writers: Mutex<BTreeMap<SessionId, Client>>,
    /// Sessions that ended, whose backends may still be at it.
    leaving: Mutex<Vec<Client>>,
}

/// A holder that is silent for some seconds loses its place. The model has no such clock, and this machine may stand still.
async fn forget_the_clock(owner: &Client) -> Result<()> {
    let query = "SELECT pg_get_functiondef('sluice.take_over(text, integer, interval)'::regprocedure)";
    let definition: String = owner.query_one(query, &[]).await?.get(0);
    let patient = definition.replace("interval '10 s'", "interval '1 day'");
    ensure!(patient != definition, "sluice.take_over has another clock");
    Ok(owner.batch_execute(&patient).await?)
}

impl Real {
    pub async fn create(has_targets: bool) -> Result<Self> {
        let database = Database::create().await?;
        let owner = database.owner().await?;
        owner.batch_execute(TABLES).await?;
        forget_the_clock(&owner).await?;
        for stream in STREAMS {
            for target in [TABLE, TOPIC].iter().filter(|_| has_targets) {
                owner.execute("SELECT sluice.deliver($1, $2)", &[&stream, target]).await?;
            }
            let index = names::index(stream, 1, &json!({}));
            let live = "SELECT sluice.set_live(subscription, stream, $2, mapping) FROM sluice.target WHERE stream = $1";
            owner.execute(live, &[&stream, &index]).await?;
        }
        for stream in stream_names() {
            let lease = "INSERT INTO sluice.lease (name, holder, expires_at) VALUES ($1, $2, 'infinity')";
            owner.execute(lease, &[&format!("validate elasticsearch {stream}"), &VALIDATOR]).await?;
        }
        Ok(Self { database, owner, writers: Mutex::default(), leaving: Mutex::default() })
    }

    pub async fn functions(&self) -> Client {
        self.database.functions().await.unwrap()
    }

    /// Its connection is closed by the next [`Self::wait`].
    pub fn leave(&self, client: Client) {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }

    /// Closes what was left, and waits until the server has noticed.
    pub async fn wait(&self) -> Result<()> {
        let leaving = std::mem::take(&mut *self.leaving.lock().unwrap_or_else(PoisonError::into_inner));
        for client in leaving {
            // It answers when all that it was asked before is done; not at all after a restart.
            let Ok(row) = client.query_one("SELECT pg_backend_pid()", &[]).await else { continue };
            let pid: i32 = row.get(0);
            drop(client);
            let is_there = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
            while self.owner.query_one(is_there, &[&pid]).await?.get(0) {}
        }
        Ok(())
    }

    /// Ends every session, as a restart of the server does.
    pub async fn restart(&self) -> Result<()> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let others = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> $1";
        let own: i32 = self.owner.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        self.database.superuser().await?.query(others, &[&own]).await?;
        Ok(())
    }

    /// Ends the session of whoever drains.
    pub async fn cut_off(&self, target: &str) -> Result<()> {
        let holder = "SELECT pg_terminate_backend(s.holder_pid, 10000) FROM sluice.subscription AS s \
                      JOIN pg_stat_activity AS a ON (a.pid, a.backend_start) = (s.holder_pid, s.holder_start) WHERE s.name = $1";
        self.database.superuser().await?.query(holder, &[&target]).await?;
        Ok(())
    }

    pub async fn end_rest(&self, target: &str, stream: &str) -> Result<()> {
        let over = "UPDATE sluice.target SET rests_until = NULL WHERE subscription = $1 AND stream = $2";
        self.owner.execute(over, &[&target, &stream]).await?;
        Ok(())
    }

    pub async fn begin_looks(&self, looks: &[i64]) -> Result<()> {
        self.owner.execute("UPDATE sluice.look SET due_at = '-infinity' WHERE id = ANY ($1)", &[&looks]).await?;
        Ok(())
    }

    pub async fn redrive_refusal(&self, target: &str, stream: &str, key: &str) -> Result<()> {
        let query = "SELECT sluice.redrive_refusals(array_agg(id), 'operator', NULL) FROM sluice.dead_letter \
                     WHERE subscription = $1 AND stream = $2 AND key = $3";
        self.owner.execute(query, &[&target, &stream, &key]).await?;
        Ok(())
    }

    pub async fn begin(&self, session: SessionId) -> Result<()> {
        let client = self.database.owner().await?;
        client.batch_execute("SET search_path = demo; BEGIN").await?;
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).insert(session, client);
        Ok(())
    }

    pub async fn write(&self, session: SessionId, change: Change) -> Result<()> {
        let sql = match change {
            Change::Item { key, n: Some(n) } => {
                format!("INSERT INTO item VALUES ({key}, {n}) ON CONFLICT (id) DO UPDATE SET n = excluded.n")
            }
            Change::Item { key, n: None } => format!("DELETE FROM item WHERE id = {key}"),
            Change::Project { key, row: Some((owner, n)) } => format!(
                "INSERT INTO project VALUES ({key}, {owner}, {n}) ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, n = excluded.n"
            ),
            Change::Project { key, row: None } => format!("DELETE FROM project WHERE id = {key}"),
            Change::Person { key, name: Some(name) } => {
                format!("INSERT INTO person VALUES ({key}, {name}) ON CONFLICT (id) DO UPDATE SET name = excluded.name")
            }
            Change::Person { key, name: None } => format!("DELETE FROM person WHERE id = {key}"),
        };
        self.run(session, &sql).await
    }

    pub async fn end(&self, session: SessionId, is_committed: bool) -> Result<()> {
        self.run(session, if is_committed { "COMMIT" } else { "ROLLBACK" }).await?;
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
        Ok(())
    }

    /// A snapshot, as text.
    pub async fn snapshot(&self) -> Result<String> {
        Ok(self.owner.query_one("SELECT pg_current_snapshot()::text", &[]).await?.get(0))
    }

    pub async fn settled(&self, snapshot: &str, looked: bool) -> Result<bool> {
        let query = "SELECT sluice.settled('elasticsearch', $1::text::pg_snapshot, looked => $2)";
        Ok(self.owner.query_one(query, &[&snapshot, &looked]).await?.get(0))
    }

    /// As if the last time had been long ago; the ids of what was found lost.
    pub async fn watch_flights(&self, patience: u32, time: u32) -> Result<Vec<(i64, i64)>> {
        let query =
            "SELECT first_id, last_id FROM sluice.watch_flights($1, clock_timestamp() + make_interval(days => $2))";
        let rows = self.owner.query(query, &[&i32::try_from(patience)?, &i32::try_from(time)?]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Asks for a round.
    pub async fn validate(&self, stream: &str, repair: bool) -> Result<()> {
        self.owner.execute("SELECT sluice.validate($1, repair => $2)", &[&stream, &repair]).await?;
        Ok(())
    }

    pub async fn begin_generation(&self, stream: &str, number: i32, index: &str) -> Result<()> {
        self.owner.execute("SELECT sluice.begin_generation($1, $2, $3)", &[&stream, &number, &index]).await?;
        Ok(())
    }

    pub async fn approve_generation(&self, stream: &str, accept_letters: bool) -> Result<bool> {
        let query = "SELECT sluice.approve_generation($1, $2)";
        Ok(self.owner.query_one(query, &[&stream, &accept_letters]).await?.get(0))
    }

    pub async fn roll_back(&self, stream: &str) -> Result<bool> {
        Ok(self.owner.query_one("SELECT sluice.roll_back($1)", &[&stream]).await?.get(0))
    }

    pub async fn abort_generation(&self, stream: &str) -> Result<i64> {
        Ok(self.owner.query_one("SELECT sluice.abort_generation($1)", &[&stream]).await?.get(0))
    }

    /// A generation is filled, or not yet.
    pub async fn note_filled(&self, generation: &str, is_filled: bool) -> Result<()> {
        let told = "UPDATE sluice.generation SET filled = CASE WHEN $2 THEN coalesce(filled, sluice.snapshot()) END WHERE stream = $1";
        self.owner.execute(told, &[&generation, &is_filled]).await?;
        Ok(())
    }

    /// What was to fill a generation has settled.
    pub async fn settle_filled(&self, generation: &str) -> Result<()> {
        self.owner.execute("UPDATE sluice.generation SET filled = '1:1:' WHERE stream = $1", &[&generation]).await?;
        Ok(())
    }

    pub async fn emit(&self, stream: &str, key: &str) -> Result<()> {
        self.owner.execute("SELECT sluice.resync($1, ARRAY[$2])", &[&stream, &key]).await?;
        Ok(())
    }

    pub async fn redrive(&self, stream: &str, key: &str) -> Result<()> {
        let query = "SELECT sluice.redrive('elasticsearch', gen_random_uuid()::text, $1, $2, 'operator', NULL, '{}')";
        self.owner.execute(query, &[&stream, &key]).await?;
        Ok(())
    }

    async fn run(&self, session: SessionId, sql: &str) -> Result<()> {
        let client = self.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(&session).expect("a writer");
        client.batch_execute(sql).await?;
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).insert(session, client);
        Ok(())
    }
}
