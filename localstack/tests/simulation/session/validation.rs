//! What the validator asks of PostgreSQL.

use database::Stream;
use database::validation::{self, Due, Index, Judged, Page, Round, Turn};
use tokio_postgres::{Client, Error, Row};

use super::SimulatedSession;
use crate::log::{DRAIN, Defined, Known, Snapshot};
use crate::real::VALIDATOR;

/// A snapshot of the model, and the one of PostgreSQL from the same moment, as text.
pub struct Seen {
    model: Snapshot,
    pub real: String,
}

fn turn(stream: &str) -> Turn<'_> {
    Turn { subscription: DRAIN, stream, holder: VALIDATOR }
}

/// As the model tells it.
async fn differences(client: &Client, stream: &str) -> Result<Vec<Known>, Error> {
    let query = "SELECT key, class, state, seen IS NOT NULL, until IS NOT NULL, has_landed FROM sluice.difference WHERE stream = $1 ORDER BY id";
    let rows = client.query(query, &[&stream]).await?;
    let known = |row: &Row| Known {
        key: row.get(0),
        class: row.get(1),
        state: row.get(2),
        is_open: row.get(3),
        is_looked_at: row.get(4),
        has_landed: row.get(5),
    };
    Ok(rows.iter().map(known).collect())
}

impl SimulatedSession {
    /// What PostgreSQL knows of the differences after a statement is what the model knows.
    async fn compare_differences(
        &self,
        what: &str,
        stream: &'static str,
        twin: impl AsyncFnOnce(&Client) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let model = if self.twin.is_some() { self.world.state().log.differences(stream) } else { vec![] };
        let twin = async |client: &Client| {
            twin(client).await?;
            differences(client, stream).await
        };
        self.compare(what, model, twin).await.map(drop)
    }

    /// What was read for an index that is another stream's by now is of no use, and refused.
    async fn check_reading(
        &self,
        read: &Stream,
        twin: impl AsyncFnOnce(&Client) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.world.state().log.is_read_for(read) {
            return Ok(());
        }
        let twin = async |client: &Client| Ok(twin(client).await.is_err());
        self.compare("what was read for another index is refused", true, twin).await?;
        Err(Error::__private_api_timeout())
    }

    pub async fn start_validation(&self, stream: &'static str, index: &str) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.start_validation(stream, index);
        let twin = async |client: &Client| {
            validation::start(client, turn(stream), Ok(Index { name: index, uuid: "the first" })).await
        };
        self.compare_differences("start_validation", stream, twin).await
    }

    /// A slice of the source's keys, and a snapshot from before.
    pub async fn validation_keys(
        &self,
        round: &Round,
        stream: &'static str,
        size: usize,
    ) -> Result<(Vec<String>, Seen), Error> {
        self.begin_request().await?;
        let after = round.after.as_ref();
        let (model, keys) = {
            let log = &self.world.state().log;
            (log.snapshot(), log.validation_keys(stream, after.map(|after| after[0].as_str()), size))
        };
        let mut real = String::new();
        let twin = async |client: &Client| {
            let slice = validation::read_keys(client, stream, after, i32::try_from(size).unwrap()).await?;
            real = slice.seen;
            Ok(slice.keys)
        };
        let keys = self.compare("validation_keys", keys, twin).await?;
        Ok((keys, Seen { model, real }))
    }

    /// A snapshot of now.
    pub async fn look(&self) -> Result<Seen, Error> {
        self.begin_request().await?;
        let model = self.world.state().log.snapshot();
        let mut real = String::new();
        let twin = async |client: &Client| {
            real = validation::look(client, DRAIN).await?.0;
            Ok(())
        };
        self.compare("look", (), twin).await?;
        Ok(Seen { model, real })
    }

    pub async fn note_page(&self, stream: &'static str, read: &Stream, page: &Page, seen: &Seen) -> Result<(), Error> {
        self.begin_request().await?;
        self.check_reading(read, async |client| validation::note_page(client, turn(stream), read, page).await).await?;
        let now_ms = self.world.now_ms();
        self.world.state().log.note_page(stream, page, &seen.model, now_ms);
        let twin = async |client: &Client| validation::note_page(client, turn(stream), read, page).await;
        self.compare_differences("note_page", stream, twin).await
    }

    /// PostgreSQL gives numbers to other transactions, too, and may know later than the model what has settled; at rest both
    /// know it.
    pub async fn due_differences(&self, stream: &str, size: usize, is_at_rest: bool) -> Result<Vec<Due>, Error> {
        self.begin_request().await?;
        let now_ms = self.world.now_ms();
        let due = self.world.state().log.due_differences(stream, size, now_ms);
        let twin = async |client: &Client| {
            let due = validation::list_differences_due(client, DRAIN, stream, i32::try_from(size).unwrap()).await?;
            Ok(is_at_rest.then_some(due.is_empty()))
        };
        self.compare("due_differences", is_at_rest.then_some(due.is_empty()), twin).await?;
        Ok(due)
    }

    pub async fn note_differences(&self, stream: &'static str, read: &Stream, found: &[Judged]) -> Result<(), Error> {
        self.begin_request().await?;
        let twin = async |client: &Client| validation::note_differences(client, turn(stream), read, found).await;
        self.check_reading(read, twin).await?;
        self.world.state().log.note_differences(stream, found);
        let twin = async |client: &Client| validation::note_differences(client, turn(stream), read, found).await;
        self.compare_differences("note_differences", stream, twin).await
    }

    /// How many were confirmed. PostgreSQL may know later than the model what is fanned out, too.
    pub async fn confirm_differences(&self, stream: &'static str, is_at_rest: bool) -> Result<usize, Error> {
        self.begin_request().await?;
        let confirmed = {
            let state = &mut *self.world.state();
            let confirmed = state.log.confirm_differences(stream);
            // Nothing is sent to one that was given up while it was compared.
            if state.log.stream(stream).is_some_and(Defined::is_delivered) {
                state.validated.confirm(stream, &confirmed);
            }
            confirmed
        };
        let late = "UPDATE sluice.difference SET state = CASE state WHEN 'candidate' THEN 'confirmed' WHEN 'repairing' THEN 'stuck' ELSE state END, \
                    seen = NULL, until = NULL WHERE stream = $1 AND key = ANY ($2) AND until IS NOT NULL";
        let twin = async |client: &Client| {
            validation::confirm(client, turn(stream)).await?;
            let late = client.execute(late, &[&stream, &confirmed]).await?;
            assert!(
                late == 0 || !is_at_rest,
                "PostgreSQL confirms {late} differences of {confirmed:?} later than the model"
            );
            Ok(())
        };
        self.compare_differences("confirm_differences", stream, twin).await?;
        Ok(confirmed.len())
    }

    /// How many are read and written again.
    pub async fn repair_differences(&self, stream: &'static str, size: usize) -> Result<usize, Error> {
        self.begin_request().await?;
        let repaired = {
            let state = &mut *self.world.state();
            let repaired = state.log.repair_differences(self.id, stream, size);
            state.validated.repaired += repaired;
            repaired
        };
        let twin = async |client: &Client| {
            validation::repair(client, turn(stream), i32::try_from(size).unwrap()).await.map(drop)
        };
        self.compare_differences("repair_differences", stream, twin).await?;
        Ok(repaired)
    }

    /// Whether the round is over.
    pub async fn end_validation(&self, stream: &'static str) -> Result<bool, Error> {
        self.begin_request().await?;
        let is_over = self.world.state().log.end_validation(stream);
        self.compare("end_validation", is_over, async |client| validation::end(client, turn(stream)).await).await
    }
}
