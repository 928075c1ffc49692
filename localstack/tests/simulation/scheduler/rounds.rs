//! Rounds of the validator, and those who damage the index.

use anyhow::Result;
use tokio::task::spawn_local;

use super::Scheduler;
use crate::log::{DRAIN, Defined, STREAMS};
use crate::run::require_told;
use crate::validator::Validator;

impl Scheduler {
    /// In one of so many cases the validator goes on with a round of a stream; where there is none, somebody asks for one.
    pub(super) async fn validate(&mut self, cases: u8) -> Result<()> {
        let compared = self.compared();
        if compared.is_empty() || self.validator.is_at_work() {
            return Ok(());
        }
        let (is_its_turn, stream, repair) = {
            let random = &mut self.world.state().random;
            (random.u8(..cases) == 0, compared[random.usize(..compared.len())], random.bool())
        };
        if !is_its_turn {
            return Ok(());
        }
        if self.world.state().log.round(stream).is_none() {
            self.ask_round(stream, repair).await?;
        }
        self.go_on_with(stream, false);
        Ok(())
    }

    /// The streams that are compared: all that can be, or those alone that are to take over.
    fn compared(&self) -> Vec<&'static str> {
        let log = &self.world.state().log;
        let is_compared = |it: &&Defined| it.is_comparable() && (self.is_validated || log.round(it.name).is_some());
        log.streams().filter(is_compared).map(|it| it.name).collect()
    }

    /// All is at rest but for the rounds: whether one goes on.
    pub(super) fn finish_rounds(&mut self) -> bool {
        let open = {
            let log = &self.world.state().log;
            log.streams().find(|it| it.is_comparable() && log.round(it.name).is_some()).map(|it| it.name)
        };
        let Some(stream) = open else { return false };
        self.go_on_with(stream, true);
        true
    }

    fn go_on_with(&mut self, stream: &'static str, is_at_rest: bool) {
        self.is_unsettled = true;
        let postgres = self.postgres.clone();
        self.validator.task = Some(spawn_local(async move {
            // A failure ends the turn, and the next one goes on.
            let _ = Validator::work(postgres, stream, is_at_rest).await;
        }));
    }

    async fn ask_round(&mut self, stream: &'static str, repair: bool) -> Result<()> {
        self.world.state().log.ask_round(stream, repair);
        match &self.real {
            Some(real) => self.world.ask_without_rest(real.validate(stream, repair)).await,
            None => Ok(()),
        }
    }

    /// Somebody changes a document of an index, or one that should not be there.
    pub(super) fn damage(&mut self) {
        if !self.is_damaged {
            return;
        }
        let now_ms = self.world.now_ms();
        let state = &mut *self.world.state();
        let random = &mut state.random;
        let (stream, key) = (STREAMS[random.usize(..STREAMS.len())], random.u8(1..7).to_string());
        let alias = state.log.stream(stream).map(Defined::alias).unwrap_or_default();
        state.elastic.damage(&alias, &key, state.random.bool(), now_ms);
    }

    /// At rest a round confirms what differs and nothing else, and one that repairs leaves what a letter explains: an operator
    /// redrives that.
    pub async fn validate_at_rest(&mut self) -> Result<()> {
        if !self.is_damaged {
            return Ok(());
        }
        self.damage();
        self.damage();
        for repair in [false, true] {
            let compared: Vec<&'static str> = {
                let log = &self.world.state().log;
                log.streams().filter(|it| it.is_comparable()).map(|it| it.name).collect()
            };
            for stream in compared {
                self.ask_round(stream, repair).await?;
            }
            self.come_to_rest().await?;
            if !repair {
                require_told(&self.world.state())?;
            }
        }
        let streams: Vec<&'static str> = self.world.state().log.streams().map(|it| it.name).collect();
        for stream in streams {
            let left = self.world.state().log.differences(stream);
            for explained in left.iter().filter(|known| known.class == "dead_lettered") {
                if self.is_direct(DRAIN) {
                    self.redrive_letter(DRAIN, stream, &explained.key).await?;
                } else {
                    self.redrive_key(stream, &explained.key).await?;
                }
            }
        }
        self.come_to_rest().await
    }
}
