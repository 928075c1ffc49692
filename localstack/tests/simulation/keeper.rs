//! Who leads generations to their end: what `shared/generations` does, step by step, on the models.

use std::sync::Arc;

use anyhow::{Result, ensure};
use database::{Connect, Session};

use crate::defects::Defect;
use crate::elastic::SimulatedCluster;
use crate::log::{Defined, STREAMS, Stage, base_of};
use crate::session::{Postgres, SimulatedSession};
use crate::world::World;

/// So often it is asked whether a generation is level before the lock is given up.
const POLLS: usize = 6;

pub struct Keeper {
    world: Arc<World>,
    session: SimulatedSession,
    cluster: SimulatedCluster,
}

impl Keeper {
    /// Does what can be done now, for each generation.
    pub async fn keep(postgres: Postgres) -> Result<()> {
        let world = postgres.world.clone();
        let session = postgres.connect("sluice-validate").await?;
        let keeper = Self { cluster: SimulatedCluster(world.clone()), world, session };
        for generation in keeper.session.generations().await? {
            // One that does not go on stops no other.
            let _ = keeper.lead(&generation).await;
        }
        for stream in STREAMS {
            let _ = keeper.align(stream).await;
        }
        Ok(())
    }

    fn live(&self, stream: &str) -> String {
        self.world.state().log.stream(stream).map(Defined::alias).unwrap_or_default()
    }

    async fn lead(&self, generation: &Defined) -> Result<()> {
        let Defined { name, beside: Some(beside), .. } = generation else { return Ok(()) };
        match beside.stage {
            Stage::Building if beside.filled.is_none() => {
                let is_filled = self.session.note_filled(name).await?;
                if is_filled && self.world.state().defect == Some(Defect::TakeoverBeforeItIsSettled) {
                    self.take_over(generation).await?;
                }
            }
            Stage::Building if !beside.is_checked => {
                if self.session.has_filled(name).await? {
                    self.session.check_generation(name).await?;
                }
            }
            Stage::Building => {
                if !self.session.generation_waits(name).await? {
                    self.take_over(generation).await?;
                }
            }
            Stage::Kept if beside.is_approved => self.take_over(generation).await?,
            Stage::Kept if generation.is_over(self.world.now_ms()) => self.session.drop_generation(name).await?,
            Stage::Kept => {}
            Stage::Dropped => {
                let (stream, alias) = (base_of(name), generation.alias());
                if self.cluster.public(stream).await? == alias {
                    self.align(stream).await?;
                }
                self.cluster.delete(&alias).await?;
                self.session.forget_generation(name).await?;
            }
        }
        Ok(())
    }

    /// In one transaction, which ends with the session where it fails.
    async fn take_over(&self, generation: &Defined) -> Result<()> {
        let changed = async {
            self.stand_still(generation.name).await?;
            self.cluster.refresh().await?;
            self.cluster.move_alias(base_of(generation.name), &generation.alias()).await?;
            self.session.change_places(generation.name).await?;
            Ok(())
        };
        self.or_rollback(changed).await
    }

    /// Brings the alias to the live index.
    async fn align(&self, stream: &'static str) -> Result<()> {
        if self.cluster.public(stream).await? == self.live(stream) {
            return Ok(());
        }
        let moved = async {
            self.stand_still(stream).await?;
            // Another keeper may have changed places by now.
            let live = self.live(stream);
            self.cluster.refresh().await?;
            self.cluster.move_alias(stream, &live).await?;
            Ok(self.session.commit().await?)
        };
        self.or_rollback(moved).await
    }

    async fn or_rollback(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        let outcome = work.await;
        if outcome.is_err() && !self.session.is_closed() {
            self.session.rollback().await?;
        }
        outcome
    }

    async fn stand_still(&self, name: &str) -> Result<()> {
        ensure!(self.session.has_caught_up(name).await?, "what {name} has not seen is not sent");
        self.session.lock_generations(name).await?;
        for _ in 0..POLLS {
            if self.session.is_level(name).await? {
                return Ok(());
            }
        }
        ensure!(false, "what was sent to {name} has not arrived");
        Ok(())
    }
}
