//! Generations: those who begin them and lead them on, and operators.

use anyhow::{Result, ensure};
use tokio::task::spawn_local;

use super::{MINUTE, Scheduler};
use crate::keeper::Keeper;
use crate::log::{Defined, STREAMS, Stage};

impl Scheduler {
    pub(super) async fn happen_to_generations(&mut self) -> Result<()> {
        if !self.has_generations {
            return Ok(());
        }
        let (chance, stream) = {
            let random = &mut self.world.state().random;
            (random.u8(..20), STREAMS[random.usize(..STREAMS.len())])
        };
        match chance {
            0..2 => self.begin_generation(stream).await,
            2 => self.approve_generation(stream).await,
            3..7 => self.roll_back(stream).await,
            7 => self.abort_generation(stream).await,
            _ => {
                self.keep(usize::from(chance) % self.keepers.len());
                Ok(())
            }
        }
    }

    async fn begin_generation(&mut self, stream: &'static str) -> Result<()> {
        let index = {
            let state = &mut *self.world.state();
            let Some(number) = state.log.next_generation(stream) else { return Ok(()) };
            let name = state.log.begin_generation(stream, number);
            let Some(begun) = state.log.stream(name) else { return Ok(()) };
            state.elastic.create(begun.alias());
            state.told_generations.begun += 1;
            (number, begun.index())
        };
        match &self.real {
            Some(real) => self.world.ask_without_rest(real.begin_generation(stream, index.0, &index.1)).await,
            None => Ok(()),
        }
    }

    /// Lets it take over in spite of its letters, now and then.
    async fn approve_generation(&mut self, stream: &'static str) -> Result<()> {
        let (accept, is_there) = {
            let state = &mut *self.world.state();
            if state.log.are_generations_locked() {
                return Ok(());
            }
            let accept = state.random.bool();
            (accept, state.log.approve_generation(stream, accept))
        };
        if let Some(real) = &self.real {
            let twin = self.world.ask_without_rest(real.approve_generation(stream, accept)).await?;
            ensure!(twin == is_there, "approve_generation of {stream}: {twin} of PostgreSQL");
        }
        Ok(())
    }

    pub(super) async fn roll_back(&mut self, stream: &'static str) -> Result<()> {
        let is_there = {
            let state = &mut *self.world.state();
            if state.log.are_generations_locked() {
                return Ok(());
            }
            state.log.roll_back(stream)
        };
        if let Some(real) = &self.real {
            let twin = self.world.ask_without_rest(real.roll_back(stream)).await?;
            ensure!(twin == is_there, "roll_back of {stream}: {twin} of PostgreSQL");
        }
        Ok(())
    }

    async fn abort_generation(&mut self, stream: &'static str) -> Result<()> {
        let given_up = {
            let state = &mut *self.world.state();
            if state.log.are_generations_locked() {
                return Ok(());
            }
            let given_up = state.log.abort_generation(stream);
            state.told_generations.given_up += given_up;
            given_up
        };
        if let Some(real) = &self.real {
            let twin = self.world.ask_without_rest(real.abort_generation(stream)).await?;
            ensure!(twin == i64::try_from(given_up)?, "abort_generation of {stream}: {twin} of PostgreSQL");
        }
        Ok(())
    }

    fn keep(&mut self, chosen: usize) {
        let process = &mut self.keepers[chosen];
        if process.is_at_work() {
            return;
        }
        self.is_unsettled = true;
        let postgres = self.postgres.clone();
        process.task = Some(spawn_local(async move {
            // What fails is tried again by the next one.
            let _ = Keeper::keep(postgres).await;
        }));
    }

    /// All is at rest but for generations: whether one goes on.
    pub(super) async fn finish_generations(&mut self) -> bool {
        let now = {
            let state = self.world.state();
            (state.log.generations().clone(), STREAMS.map(|stream| state.elastic.public(stream).to_owned()))
        };
        if !self.has_generations || self.kept.as_ref() == Some(&now) {
            return false;
        }
        // Places are changed behind a drainer that is there, as one is each minute.
        if !STREAMS.iter().all(|stream| self.world.state().log.has_caught_up(stream)) {
            self.pass(MINUTE).await;
            self.drain();
            return true;
        }
        self.kept = Some(now);
        self.keep(0);
        true
    }

    /// At rest an operator goes back to the generation before, and forward again.
    pub async fn go_back_and_forth(&mut self) -> Result<()> {
        if !self.has_generations {
            return Ok(());
        }
        for _ in 0..2 {
            let before = STREAMS.map(|stream| self.live(stream));
            let has_way_back =
                STREAMS.map(|stream| !self.world.state().log.list_beside(stream, Stage::Kept).is_empty());
            for stream in STREAMS {
                self.roll_back(stream).await?;
            }
            self.come_to_rest().await?;
            let has_moved = STREAMS.map(|stream| self.live(stream));
            for (((before, after), has_way_back), stream) in
                before.iter().zip(&has_moved).zip(has_way_back).zip(STREAMS)
            {
                ensure!((before != after) == has_way_back, "{stream}: {before} was live, and {after} is");
            }
        }
        Ok(())
    }

    fn live(&self, stream: &str) -> String {
        self.world.state().log.stream(stream).map(Defined::alias).unwrap_or_default()
    }
}
