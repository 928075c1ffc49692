//! The way into Elasticsearch without a queue: bulk requests straight from the log, some of them under way at once.
//!
//! A request may be carried out when its drainer is gone, and the delete that a later one sent is forgotten.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Weak};
use std::time::Duration;

use database::Stream;
use drain::{Outcome, Sink, Step};
use message::Change;
use search::{Answer, Bulk, Cluster, Deadline, Outcome as Written, names};
use serde_json::Value;
use telemetry::Trace;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::defects::Defect;
use crate::elastic::SimulatedCluster;
use crate::log::DRAIN;
use crate::targets::{Failed, Write, set_aside};
use crate::world::World;

/// So many writes are sent at once, before the step ends.
const MOST_WRITES: usize = 3;
const MOST_REQUESTS: usize = 2;
const BULK_BYTES: usize = 150;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than a step, and a request that stays under way behind it.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(15 * 60);

/// The way to it.
pub struct ElasticSink {
    pub world: Arc<World>,
}

/// Documents on their way.
pub struct Writing {
    world: Arc<World>,
    /// By the alias of a generation, since each has its index.
    writes: BTreeMap<String, Vec<Write>>,
    requests: JoinSet<Vec<(Write, Written)>>,
    outcome: Outcome,
}

impl Sink for ElasticSink {
    type Step = Writing;

    const DOCUMENT_BYTES: i32 = 20 << 20;

    const READS_AGAIN: bool = false;

    fn looks_again_after(&self) -> Option<Duration> {
        (self.world.state().defect != Some(Defect::NoSecondLookOfATarget)).then_some(SECOND_LOOK_AFTER)
    }

    async fn has_room(&mut self) -> Result<bool, Failed> {
        Ok(true)
    }

    fn begin(&mut self, _: &Trace, _: i64) -> Writing {
        let world = self.world.clone();
        Writing { world, writes: BTreeMap::new(), requests: JoinSet::new(), outcome: Outcome::default() }
    }
}

impl Step for Writing {
    type Error = Failed;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), Failed> {
        let write = self.world.state().targets.admit(DRAIN, &mut self.outcome, stream, change, document);
        let alias = names::write_alias(stream.base(), stream.generation);
        self.writes.entry(alias).or_default().extend(write);
        if self.writes.values().map(Vec::len).sum::<usize>() >= MOST_WRITES {
            self.send().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Outcome, Failed> {
        self.send().await?;
        while self.take().await? {}
        Ok(self.outcome)
    }
}

impl Writing {
    async fn send(&mut self) -> Result<(), Failed> {
        for (alias, writes) in mem::take(&mut self.writes) {
            if self.requests.len() >= MOST_REQUESTS {
                self.take().await?;
            }
            self.requests.spawn_local(write(self.world.clone(), alias, writes));
        }
        Ok(())
    }

    /// Waits for one of the answers: whether there was any to wait for.
    async fn take(&mut self) -> Result<bool, Failed> {
        let Some(answers) = self.requests.join_next().await else { return Ok(false) };
        for (write, answer) in answers.unwrap() {
            match answer {
                Written::Done(..) => {}
                Written::Permanent(reason) => {
                    self.outcome.refused.push(write.into_refusal(&reason.error_type, &reason.text));
                }
                Written::Retry(reason) | Written::Unread(reason) | Written::Configuration(reason)
                    if reason.is_general =>
                {
                    return Err(Failed);
                }
                Written::Retry(_)
                | Written::Unread(_)
                | Written::Configuration(_)
                | Written::NoIndex(_)
                | Written::NoStream => set_aside(&mut self.outcome, write),
            }
        }
        Ok(true)
    }
}

/// A way on which a request is held up now and then, or arrives once more, and late.
struct Unsteady(SimulatedCluster);

impl Cluster for Unsteady {
    async fn bulk(&self, alias: &str, lines: &[&str], deadline: Deadline) -> Answer {
        let world = &self.0.0;
        world.reach().await;
        {
            let (since_ms, state) = (world.now_ms(), &mut *world.state());
            if state.fails(150) {
                state.elastic.send(alias, lines, since_ms, Weak::new());
            }
        }
        self.0.bulk(alias, lines, deadline).await
    }

    async fn indexes_of(&self, alias: &str, deadline: Deadline) -> Answer {
        self.0.indexes_of(alias, deadline).await
    }
}

async fn write(world: Arc<World>, alias: String, writes: Vec<Write>) -> Vec<(Write, Written)> {
    let cluster = Unsteady(SimulatedCluster(world));
    let deadline = Deadline::at(Instant::now() + REQUEST_TIMEOUT);
    let documents: Vec<Option<String>> =
        writes.iter().map(|write| write.document.as_ref().map(Value::to_string)).collect();
    let lines: Vec<search::Write<'_>> = writes
        .iter()
        .zip(&documents)
        .map(|(write, document)| search::Write::new(&write.key, write.version, document.as_deref()))
        .collect();
    let bulk = Bulk { cluster: &cluster, alias: &alias, limit_bytes: BULK_BYTES, deadline };
    let answers = bulk.write(&lines).await;
    writes.into_iter().zip(answers).collect()
}
