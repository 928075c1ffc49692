//! Drainers of direct targets, and those who interfere with them.

use std::time::Duration;

use anyhow::Result;
use drain::{Drain, Drained, Settings, Sink};
use telemetry::Trace;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::{MINUTE, Scheduler};
use crate::direct::ElasticSink;
use crate::log::{NOBODY, STREAMS, TABLE, TOPIC, name_of};
use crate::process::Process;
use crate::session::Postgres;
use crate::table::TableSink;
use crate::targets::check_targets;
use crate::topic::TopicSink;
use crate::world::State;

/// In so many of a thousand and these cases something becomes of the targets, where there are any.
pub(super) const CHANCES: u32 = 1500;

/// The drainers of each target: any of them may take over.
pub(super) struct Drainers {
    tables: Vec<Process<Drain<Postgres, TableSink>>>,
    topics: Vec<Process<Drain<Postgres, TopicSink>>>,
    indexes: Vec<Process<Drain<Postgres, ElasticSink>>>,
}

impl Drainers {
    pub fn new() -> Self {
        Self {
            tables: (0..2).map(|_| Process::new()).collect(),
            topics: (0..2).map(|_| Process::new()).collect(),
            indexes: (0..2).map(|_| Process::new()).collect(),
        }
    }

    pub fn is_at_work(&self) -> bool {
        self.tables.iter().any(Process::is_at_work)
            || self.topics.iter().any(Process::is_at_work)
            || self.indexes.iter().any(Process::is_at_work)
    }

    /// Ends the steps whose time is over, as each loop over the log does. A table and a topic take them later than that, too.
    pub fn end_late(&mut self) {
        for process in self.indexes.iter_mut().filter(|process| process.deadline <= Instant::now()) {
            process.kill_if_at_work();
        }
    }

    pub async fn reap(&mut self) {
        for process in &mut self.tables {
            process.resting = process.finished().await.or(process.resting.take());
        }
        for process in &mut self.topics {
            process.resting = process.finished().await.or(process.resting.take());
        }
        for process in &mut self.indexes {
            process.resting = process.finished().await.or(process.resting.take());
        }
    }
}

impl Scheduler {
    pub(super) async fn happen_to_targets(&mut self, chance: u32) -> Result<()> {
        match chance {
            0..150 => self.drain_into(TABLE),
            150..300 => self.drain_into(TOPIC),
            300..320 => self.kill_a_drainer(),
            320..350 => self.cut_off().await?,
            350..370 => self.redrive_refusal().await?,
            370..380 => self.mend_or_break(),
            380..400 => drop(self.carry_out_orphans_of_targets(1)),
            _ => {
                if !self.world.give_a_turn().await {
                    self.pass(Duration::from_millis(200)).await;
                }
            }
        }
        Ok(())
    }

    pub(super) fn drain_targets(&mut self) {
        if self.has_targets {
            self.drain_into(TABLE);
            self.drain_into(TOPIC);
        }
    }

    pub(super) fn drain_into(&mut self, target: &'static str) {
        let chosen = self.world.state().random.usize(..2);
        let settings = Settings { subscription: target.to_owned(), ..self.config.drain.clone() };
        let (world, postgres) = (self.world.clone(), self.postgres.clone());
        self.is_unsettled = true;
        let Drainers { tables, topics, indexes } = &mut self.targets;
        match target {
            TABLE => step(&mut tables[chosen], &settings, postgres, || TableSink { world }),
            TOPIC => step(&mut topics[chosen], &settings, postgres, || TopicSink::new(world)),
            _ => step(&mut indexes[chosen], &settings, postgres, || ElasticSink { world }),
        }
    }

    fn kill_a_drainer(&mut self) {
        self.is_unsettled = true;
        let (target, chosen) = (self.choose_target(), self.world.state().random.usize(..2));
        match target {
            TABLE => self.targets.tables[chosen].kill(),
            TOPIC => self.targets.topics[chosen].kill(),
            _ => self.targets.indexes[chosen].kill(),
        }
    }

    /// The server disconnects whoever drains, as it does with one that is frozen. What that one has under way goes on.
    async fn cut_off(&mut self) -> Result<()> {
        let target = self.choose_target();
        {
            let state = &mut *self.world.state();
            if !state.log.cut_off(target) {
                return Ok(());
            }
            state.targets.told.cut_off += 1;
        }
        match &self.real {
            Some(real) => self.world.ask_without_rest(real.cut_off(target)).await,
            None => Ok(()),
        }
    }

    fn choose_target(&self) -> &'static str {
        let State { log, random, .. } = &mut *self.world.state();
        log.direct[random.usize(..log.direct.len())]
    }

    /// An operator has one letter delivered again.
    async fn redrive_refusal(&mut self) -> Result<()> {
        let target = self.choose_target();
        let letter = {
            let state = &mut *self.world.state();
            let letters = state.log.refusals(NOBODY, target);
            state.random.choice(letters)
        };
        match letter {
            Some((stream, key, ..)) => self.redrive_letter(target, &stream, &key).await,
            None => Ok(()),
        }
    }

    pub(super) async fn redrive_letter(&mut self, target: &'static str, stream: &str, key: &str) -> Result<()> {
        let stream = name_of(stream);
        {
            let state = &mut *self.world.state();
            if !state.log.redrive_refusal(target, stream, key) {
                return Ok(());
            }
            state.targets.told.redrives += 1;
        }
        match &self.real {
            Some(real) => self.world.ask_without_rest(real.redrive_refusal(target, stream, key)).await,
            None => Ok(()),
        }
    }

    /// A target gets columns that take everything, or loses them; or it has a stream's table no more, or again.
    fn mend_or_break(&mut self) {
        let state = &mut *self.world.state();
        if state.random.u8(..3) == 0 {
            state.targets.is_lenient = !state.targets.is_lenient;
            return;
        }
        let State { log, random, .. } = state;
        let place = (log.direct[random.usize(..log.direct.len())], STREAMS[random.usize(..STREAMS.len())]);
        if !state.targets.unfit.remove(&place) {
            state.targets.unfit.insert(place);
        }
    }

    /// Requests whose client is gone, as many as `limit` of each target: whether there were any.
    pub(super) fn carry_out_orphans_of_targets(&mut self, limit: usize) -> bool {
        let state = &mut *self.world.state();
        let (inserts, requests) = (state.table.orphans(), state.topic.orphans());
        if limit == usize::MAX {
            state.topic.abort_open();
        }
        let has_any = !inserts.is_empty() || !requests.is_empty();
        for insert in inserts.into_iter().take(limit) {
            state.table.carry_out(insert);
        }
        for request in requests.into_iter().take(limit) {
            state.topic.carry_out(request);
        }
        has_any
    }

    /// Streams whose time is over rest no more.
    pub(super) async fn end_rests(&mut self) -> Result<()> {
        if !self.has_targets {
            return Ok(());
        }
        let over = self.world.state().log.end_rests(self.world.now_ms());
        for (target, stream) in over {
            if let Some(real) = &self.real {
                self.world.ask_without_rest(real.end_rest(target, &stream)).await?;
            }
        }
        Ok(())
    }

    /// What was deleted a while ago is looked at again.
    pub(super) async fn begin_looks(&mut self) -> Result<()> {
        let begun = self.world.state().log.begin_looks(self.world.now_ms());
        match &self.real {
            Some(real) if !begun.is_empty() => self.world.ask_without_rest(real.begin_looks(&begun)).await,
            _ => Ok(()),
        }
    }

    /// At rest the targets have what the source has, before all letters are redriven and behind that.
    pub async fn redrive_at_rest(&mut self) -> Result<()> {
        if !self.has_targets {
            return Ok(());
        }
        check_targets(&self.world.state(), false)?;
        let direct = self.world.state().log.direct;
        for target in direct {
            let letters = self.world.state().log.refusals(NOBODY, target);
            for (stream, key, ..) in letters {
                self.redrive_letter(target, &stream, &key).await?;
            }
        }
        self.come_to_rest().await?;
        check_targets(&self.world.state(), true)
    }
}

/// One step of a drainer, which is not at work.
fn step<S: Sink + 'static>(
    process: &mut Process<Drain<Postgres, S>>,
    settings: &Settings,
    postgres: Postgres,
    sink: impl FnOnce() -> S,
) {
    if process.is_at_work() {
        return;
    }
    process.deadline = Instant::now() + MINUTE;
    let (world, deadline) = (postgres.world.clone(), process.deadline);
    let mut drain = process.resting.take().unwrap_or_else(|| Drain::new(settings, postgres, sink()));
    process.task = Some(spawn_local(async move {
        // Not a new one, which chance would be asked for.
        let Some(trace) = Trace::parse("00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00") else {
            return drain;
        };
        let mut drained = Drained::default();
        // A failure is logged, and the next step tries again.
        let outcome = drain.step(&trace, deadline, &mut drained).await;
        world.state().targets.told.steps += usize::from(outcome.is_ok() && drained.changes > 0);
        drain
    }));
}
