//! A drainer that takes one step at a time and may die before each of them.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use database::Read;
use database::Session as _;
use database::log::{Row, Versions};
use fastrand::Rng;
use localstack::eventually;
use tokio_postgres::Client;

use crate::defects::Mistake;
use crate::support::{World, one, read_rows};

const SUBSCRIPTION: &str = "elasticsearch";

/// A document on its way.
#[derive(Clone)]
pub struct Message {
    pub stream: String,
    pub key: String,
    pub version: i64,
    pub read: Read,
}

/// Where it is in its transaction.
enum Phase {
    Idle,
    Held {
        after: i64,
    },
    Paged {
        rows: Vec<Row>,
        version: i64,
        is_short: bool,
    },
    Read {
        messages: Vec<Message>,
        last: i64,
        is_short: bool,
    },
    Sent {
        last: i64,
        is_short: bool,
    },
    Done,
    /// By the mistake alone: the position is stored, and nothing was sent.
    Unsent {
        messages: Vec<Message>,
    },
}

pub struct Drainer {
    client: Client,
    mistake: Mistake,
    versions: Option<Versions>,
    phase: Phase,
    /// Of this transaction's pages.
    size: i32,
    /// Rows of pages whose transaction is open.
    paged: Vec<i64>,
    /// Rows of those that were committed.
    pub passed: HashSet<i64>,
    highest_id: i64,
    pub late_rows: usize,
    pub crashes: usize,
}

impl Drainer {
    pub async fn connect(world: &World, mistake: Mistake) -> Result<Self> {
        Ok(Self {
            client: world.database.functions().await?,
            mistake,
            versions: None,
            phase: Phase::Idle,
            size: 1,
            paged: vec![],
            passed: HashSet::new(),
            highest_id: 0,
            late_rows: 0,
            crashes: 0,
        })
    }

    /// Nothing of its transaction was read yet.
    pub fn has_just_begun(&self) -> bool {
        matches!(self.phase, Phase::Held { .. })
    }

    /// Between two transactions.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Takes the next step.
    pub async fn step(&mut self, random: &mut Rng, queue: &mut Vec<Message>) -> Result<()> {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle) {
            // Some intervals find nothing.
            Phase::Idle if random.u8(..4) > 0 && !self.client.is_pending(SUBSCRIPTION).await? => Phase::Idle,
            Phase::Idle => {
                self.size = if random.bool() { 100 } else { random.i32(1..4) };
                self.hold().await?
            }
            Phase::Held { after } => self.page(after).await?,
            Phase::Paged { rows, version, is_short } => self.read(&rows, version, is_short).await?,
            Phase::Read { messages, last, .. } if self.mistake == Mistake::AdvancesBeforeItSends => {
                self.client.advance(SUBSCRIPTION, last).await?;
                self.commit().await?;
                Phase::Unsent { messages }
            }
            Phase::Read { mut messages, last, is_short } => {
                queue.append(&mut messages);
                Phase::Sent { last, is_short }
            }
            Phase::Sent { last, is_short } => self.advance(last, is_short, random).await?,
            Phase::Unsent { mut messages } => {
                queue.append(&mut messages);
                Phase::Idle
            }
            Phase::Done => {
                self.commit().await?;
                Phase::Idle
            }
        };
        Ok(())
    }

    /// It dies, perhaps in the middle of the next step, and some of the time its session with it. Whoever is next takes
    /// over anew.
    pub async fn crash(&mut self, world: &World, random: &mut Rng, queue: &mut Vec<Message>) -> Result<()> {
        self.crashes += 1;
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        if matches!(phase, Phase::Idle) {
            self.client.batch_execute("BEGIN").await?;
            self.client.take_over(SUBSCRIPTION, 100).await?;
        } else if let Phase::Read { mut messages, .. } = phase
            && self.mistake != Mistake::AdvancesBeforeItSends
        {
            messages.truncate(random.usize(..=messages.len()));
            queue.append(&mut messages);
        }
        self.versions = None;
        self.paged.clear();
        if random.bool() {
            return Ok(self.client.batch_execute("ROLLBACK").await?);
        }
        let pid: i32 = one(&self.client, "SELECT pg_backend_pid()").await?;
        self.client = world.database.functions().await?;
        let is_gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
        eventually("the session to be gone", async || match one(&world.owner, &is_gone).await {
            Ok(true) => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;
        Ok(())
    }

    async fn hold(&mut self) -> Result<Phase> {
        if self.versions.is_none() && self.mistake != Mistake::UsesItsRangeUncommitted {
            self.versions = self.client.take_over(SUBSCRIPTION, 100).await?;
        }
        self.client.batch_execute("BEGIN").await?;
        if self.versions.is_none() {
            self.versions = self.client.take_over(SUBSCRIPTION, 100).await?;
        }
        let held = match &self.versions {
            Some(versions) => self.client.hold(SUBSCRIPTION, versions).await?,
            None => None,
        };
        if let Some(after) = held {
            return Ok(Phase::Held { after });
        }
        self.client.batch_execute("ROLLBACK").await?;
        self.versions = None;
        Ok(Phase::Idle)
    }

    async fn page(&mut self, after: i64) -> Result<Phase> {
        let Some(version) = self.versions.as_mut().and_then(Versions::draw) else {
            self.client.batch_execute("COMMIT").await?;
            self.versions = None;
            return Ok(Phase::Idle);
        };
        let (rows, _) = self.client.page(SUBSCRIPTION, after, self.size).await?;
        if rows.is_empty() {
            self.client.finish(SUBSCRIPTION).await?;
            return Ok(Phase::Done);
        }
        let is_short = rows.len() < usize::try_from(self.size)?;
        Ok(Phase::Paged { rows, version, is_short })
    }

    async fn read(&mut self, rows: &[Row], version: i64, is_short: bool) -> Result<Phase> {
        let mut messages = vec![];
        for (stream, key, read) in read_rows(&self.client, rows).await? {
            let of_key = rows.iter().filter(|row| row.stream == stream && row.key == key);
            let version = if self.mistake == Mistake::TakesTheIdForTheVersion {
                of_key.map(|row| row.id).max().context("a row for each read")?
            } else {
                version
            };
            messages.push(Message { stream, key, version, read });
        }
        self.paged.extend(rows.iter().map(|row| row.id));
        self.late_rows += rows.iter().filter(|row| row.id < self.highest_id).count();
        let last = rows.last().context("a page that is not empty")?.id;
        self.highest_id = self.highest_id.max(last);
        Ok(Phase::Read { messages, last, is_short })
    }

    async fn advance(&mut self, last: i64, is_short: bool, random: &mut Rng) -> Result<Phase> {
        if random.u8(..3) == 0 {
            // A row of the drain's own, of a key that is nowhere.
            let own = "INSERT INTO sluice.outbox (stream, key, op) VALUES ('people', '-1', 'upsert')";
            self.client.batch_execute(own).await?;
        }
        self.client.advance(SUBSCRIPTION, last).await?;
        if is_short && self.mistake == Mistake::EndsWithAShortPage {
            self.client.finish(SUBSCRIPTION).await?;
            return Ok(Phase::Done);
        }
        Ok(if random.u8(..4) > 0 { Phase::Held { after: last } } else { Phase::Done })
    }

    async fn commit(&mut self) -> Result<()> {
        self.client.batch_execute("COMMIT").await?;
        self.passed.extend(self.paged.drain(..));
        if self.mistake == Mistake::UsesItsRangeUncommitted {
            self.versions = None;
        }
        Ok(())
    }
}
