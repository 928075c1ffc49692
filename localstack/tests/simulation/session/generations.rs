//! What the keeper asks of PostgreSQL.

use database::Session as _;
use database::audit::Actor;
use database::generations::{self, Generation};
use tokio_postgres::{Client, Error};

use super::{REST, SimulatedSession};
use crate::log::{Defined, Stage};
use crate::world::State;

const ACTOR: Actor<'static> = Actor { name: "keeper", source_ip: None };

/// What is compared of a generation: its name, its number, its stage, and whether it is filled, checked and approved.
pub type Known = (String, i32, Stage, [bool; 3]);

pub fn known(generation: &Defined) -> Option<Known> {
    let beside = generation.beside.as_ref()?;
    let is = [beside.filled.is_some(), beside.is_checked, beside.is_approved];
    Some((generation.name.to_owned(), generation.number, beside.stage, is))
}

fn known_of(generation: Generation) -> Known {
    let stage = match generation.state {
        generations::State::Building => Stage::Building,
        generations::State::Kept => Stage::Kept,
        generations::State::Dropped => Stage::Dropped,
    };
    let is = [generation.is_filled, generation.is_checked, generation.is_approved];
    (generation.name, generation.number, stage, is)
}

impl SimulatedSession {
    /// The same where another transaction has generations locked: who would have to wait gives up.
    async fn begin_change(&self) -> Result<(), Error> {
        self.begin_request().await?;
        if self.world.state().log.are_generations_locked() { Err(Error::__private_api_timeout()) } else { Ok(()) }
    }

    /// All that are beside the live ones.
    pub async fn generations(&self) -> Result<Vec<Defined>, Error> {
        self.begin_request().await?;
        let all: Vec<Defined> = self.world.state().log.streams().filter(|it| it.beside.is_some()).cloned().collect();
        let told = all.iter().filter_map(known).collect();
        let twin = async |client: &Client| Ok(generations::list(client).await?.into_iter().map(known_of).collect());
        self.compare::<Vec<Known>>("generations", told, twin).await?;
        Ok(all)
    }

    /// Whether nothing is left to be logged for it.
    pub async fn note_filled(&self, name: &str) -> Result<bool, Error> {
        self.begin_change().await?;
        let model = self.world.state().log.note_filled(name);
        let twin = async |client: &Client| {
            generations::note_filled(client, name, false).await?;
            Ok(())
        };
        self.compare("note_filled", (), twin).await?;
        // PostgreSQL may know sooner or later than the model that all is logged.
        self.agree(async |real| real.note_filled(name, model).await).await;
        Ok(model)
    }

    pub async fn has_filled(&self, name: &str) -> Result<bool, Error> {
        self.begin_request().await?;
        let model = self.world.state().log.has_filled(name);
        if model {
            self.agree(async |real| real.settle_filled(name).await).await;
        }
        let twin = async |client: &Client| Ok(!model || generations::has_filled(client, name).await?);
        self.compare("has_filled", true, twin).await?;
        Ok(model)
    }

    pub async fn check_generation(&self, name: &'static str) -> Result<(), Error> {
        self.begin_change().await?;
        self.world.state().log.check_generation(name);
        self.compare("check_generation", (), async |client| generations::check(client, name).await).await
    }

    /// Whether anything is in the way of its takeover.
    pub async fn generation_waits(&self, name: &str) -> Result<bool, Error> {
        self.begin_request().await?;
        let model = self.world.state().log.generation_waits(name);
        let twin = async |client: &Client| {
            let real = generations::waits(client, name, false).await?;
            Ok(real.filter(|_| model.is_none()))
        };
        self.compare("generation_waits", None, twin).await?;
        Ok(model.is_some())
    }

    /// Begins a transaction that keeps the drain from sending more.
    pub async fn lock_generations(&self, name: &str) -> Result<(), Error> {
        self.begin_change().await?;
        if !self.world.state().log.lock_generations(self.id) {
            return Err(Error::__private_api_timeout());
        }
        let twin = async |client: &Client| {
            client.begin().await?;
            generations::lock(client, name).await
        };
        self.compare("lock_generations", (), twin).await
    }

    pub async fn has_caught_up(&self, name: &str) -> Result<bool, Error> {
        self.begin_request().await?;
        let model = self.world.state().log.has_caught_up(name);
        self.compare("has_caught_up", model, async |client| generations::has_caught_up(client, name).await).await
    }

    pub async fn is_level(&self, name: &str) -> Result<bool, Error> {
        self.begin_request().await?;
        let model = self.world.state().log.is_level(name);
        self.compare("is_level", model, async |client| generations::is_level(client, name).await).await
    }

    /// Changes places and commits: whether it could.
    pub async fn change_places(&self, name: &'static str) -> Result<bool, Error> {
        self.begin_request().await?;
        let now_ms = self.world.now_ms();
        let is_done = {
            let State { log, told_generations, .. } = &mut *self.world.state();
            let is_rollback = log.stream(name).and_then(Defined::stage) == Some(Stage::Kept);
            let is_done = log.change_places(name, now_ms);
            if is_done {
                log.commit(self.id);
            } else {
                log.rollback(self.id);
            }
            told_generations.taken_over += usize::from(is_done && !is_rollback);
            told_generations.rolled_back += usize::from(is_done && is_rollback);
            is_done
        };
        let twin = async |client: &Client| {
            let done = generations::change_places(client, name, REST, "takeover", ACTOR).await;
            if done.is_ok() {
                client.commit().await?;
            } else {
                client.rollback().await?;
            }
            let refusal = done.as_ref().err().map(database::describe);
            assert!(
                is_done == refusal.is_none(),
                "change_places of {name}: the model says {is_done}, PostgreSQL {refusal:?}"
            );
            Ok(is_done)
        };
        self.compare("change_places", is_done, twin).await
    }

    pub async fn drop_generation(&self, name: &str) -> Result<(), Error> {
        self.begin_change().await?;
        self.world.state().log.drop_generation(name);
        self.compare("drop_generation", (), async |client| generations::drop_generation(client, name).await).await
    }

    /// Whether nothing is left of it.
    pub async fn forget_generation(&self, name: &'static str) -> Result<bool, Error> {
        self.begin_change().await?;
        let model = {
            let State { log, told_generations, .. } = &mut *self.world.state();
            let is_gone = log.forget_generation(name);
            told_generations.gone += usize::from(is_gone);
            is_gone
        };
        self.compare("forget_generation", model, async |client| generations::forget(client, name).await).await
    }
}
