//! Writers whose transactions overlap in any way, and never wait for each other.

use std::collections::HashSet;

use anyhow::Result;
use fastrand::Rng;
use localstack::Database;
use tokio_postgres::Client;

const WRITERS: usize = 4;
pub const PERSONS: u64 = 3;
pub const PROJECTS: u64 = 12;

struct Writer {
    client: Client,
    /// `None` between transactions; else how likely it ends at a turn, as one in so many.
    ends: Option<u8>,
    /// Rows that nobody else can write now.
    locks: HashSet<(&'static str, u64)>,
}

pub struct Writers(Vec<Writer>);

impl Writers {
    pub async fn connect(database: &Database) -> Result<Self> {
        let mut writers = vec![];
        for _ in 0..WRITERS {
            writers.push(Writer { client: database.app().await?, ends: None, locks: HashSet::new() });
        }
        Ok(Self(writers))
    }

    /// One of them does something.
    pub async fn turn(&mut self, random: &mut Rng) -> Result<()> {
        let at = random.usize(..WRITERS);
        let Some(ends) = self.0[at].ends else {
            if random.u8(..3) == 0 {
                // A transaction of one statement.
                self.write(at, random).await?;
                self.0[at].locks.clear();
                return Ok(());
            }
            // Some have an old transaction id by the time they write.
            let begin = if random.u8(..4) == 0 { "BEGIN; SELECT pg_current_xact_id()" } else { "BEGIN" };
            self.0[at].client.batch_execute(begin).await?;
            self.0[at].ends = Some(if random.bool() { 3 } else { 12 });
            return Ok(());
        };
        if random.u8(..ends) == 0 {
            return self.end(at, if random.u8(..6) == 0 { "ROLLBACK" } else { "COMMIT" }).await;
        }
        self.write(at, random).await
    }

    /// All of them end.
    pub async fn end_all(&mut self) -> Result<()> {
        for at in 0..WRITERS {
            if self.0[at].ends.is_some() {
                self.end(at, "COMMIT").await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, at: usize, random: &mut Rng) -> Result<()> {
        let row = match random.u8(..3) {
            0 => ("person", random.u64(..PERSONS)),
            _ => ("project", random.u64(..PROJECTS)),
        };
        if self.0.iter().enumerate().any(|(other, writer)| other != at && writer.locks.contains(&row)) {
            return Ok(());
        }
        let (table, id) = row;
        let (owner, text) = (random.u64(..PERSONS), random.u32(..));
        let statement = match (table, random.u8(..8)) {
            (_, 0) => format!("DELETE FROM demo.{table} WHERE id = {id}"),
            ("person", _) => format!(
                "INSERT INTO demo.person VALUES ({id}, '{text}') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
            ),
            (_, 1..3) => format!("UPDATE demo.project SET title = '{text}' WHERE id = {id}"),
            _ => format!(
                "INSERT INTO demo.project VALUES ({id}, {owner}, '{text}')
                 ON CONFLICT (id) DO UPDATE SET owner_id = excluded.owner_id"
            ),
        };
        let statement = match random.u8(..10) {
            0 if self.0[at].ends.is_some() => format!("SAVEPOINT a; {statement}; ROLLBACK TO a"),
            1 if self.0[at].ends.is_some() => format!("SAVEPOINT a; {statement}; RELEASE a"),
            _ => statement,
        };
        self.0[at].locks.insert(row);
        Ok(self.0[at].client.batch_execute(&statement).await?)
    }

    async fn end(&mut self, at: usize, how: &str) -> Result<()> {
        let writer = &mut self.0[at];
        writer.client.batch_execute(how).await?;
        writer.ends = None;
        writer.locks.clear();
        Ok(())
    }
}
