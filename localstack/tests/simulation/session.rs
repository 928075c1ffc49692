//! Sessions of the model, and of a real PostgreSQL beside it: what one answers, the other must answer, too.

mod generations;
mod reading;
mod validation;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use database::delivery::{DeadLetter, Departure, Landing, LostFlight, Refusal};
use database::log::{Collected, Count, Row, Sample, Slice, Versions};
use database::{Answers, Connect, ConnectError, Session, Stream};
use search::names;
use serde_json::json;
use tokio_postgres::{Client, Error};

use self::reading::Reading;
use crate::defects::Defect;
use crate::log::{DRAIN, Defined, Event, FAN_OUT, Letter, SessionId, TARGETS, Waiting, base_of, stream_names};
use crate::real::Real;
use crate::world::World;

/// The way to PostgreSQL.
#[derive(Clone)]
pub struct Postgres {
    pub world: Arc<World>,
    pub real: Option<Arc<Real>>,
}

/// One session of the model, and its twin.
pub struct SimulatedSession {
    world: Arc<World>,
    id: SessionId,
    twin: Option<Client>,
    real: Option<Arc<Real>>,
    is_lost: Cell<bool>,
    /// Of the defect that notes letters behind the transaction.
    late_letters: Cell<Option<(&'static str, Vec<Refusal>)>>,
    /// Of the defect that notes looks with the next transaction.
    late_looks: Cell<Option<Looks>>,
}

/// What is compared of a stream: whether it has letters, its number, what it follows, whether it is delivered, its index.
type Told = (bool, i32, Option<String>, bool, Option<String>);

/// Deletes to be looked at again: whose they are, whether they had waited, their streams and keys, and when.
type Looks = (&'static str, bool, Vec<(String, String)>, i64);

impl Connect for Postgres {
    type Session = SimulatedSession;

    async fn connect(&self, _name: &str) -> Result<SimulatedSession, ConnectError> {
        self.world.turn().await;
        let (is_away, id) = {
            let state = &mut *self.world.state();
            let is_away = state.is_postgres_away || state.fails(10);
            (is_away, state.log.connect())
        };
        if is_away {
            self.world.state().log.disconnect(id);
            let (host, reason) = ("model".to_owned(), "it is away".to_owned());
            return Err(ConnectError::Unreachable { host, port: 0, reason, source: None });
        }
        let twin = match &self.real {
            Some(real) => Some(self.world.ask(real.functions()).await),
            None => None,
        };
        Ok(SimulatedSession {
            world: self.world.clone(),
            id,
            twin,
            real: self.real.clone(),
            is_lost: Cell::new(false),
            late_letters: Cell::default(),
            late_looks: Cell::default(),
        })
    }
}

impl Drop for SimulatedSession {
    fn drop(&mut self) {
        self.world.state().log.disconnect(self.id);
        if let (Some(real), Some(twin)) = (&self.real, self.twin.take()) {
            real.leave(twin);
        }
    }
}

impl SimulatedSession {
    /// Waits for its turn; a session that is lost answers nothing, now or later.
    async fn begin_request(&self) -> Result<(), Error> {
        self.world.turn().await;
        let state = &mut *self.world.state();
        if state.fails(5) || state.is_postgres_away || !state.log.is_connected(self.id) {
            self.is_lost.set(true);
        }
        if self.is_lost.get() { Err(Error::__private_api_timeout()) } else { Ok(()) }
    }

    /// The answer may be lost when the work is done.
    fn end_request<T>(&self, answer: T) -> Result<T, Error> {
        if self.world.state().fails(5) {
            self.is_lost.set(true);
            return Err(Error::__private_api_timeout());
        }
        Ok(answer)
    }

    /// The twin's answer must be the model's.
    async fn compare<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        model: T,
        twin: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if let Some(client) = &self.twin {
            let real = self
                .world
                .ask(twin(client))
                .await
                .unwrap_or_else(|error| panic!("{what}: {}", database::describe(&error)));
            assert_eq!(real, model, "{what}: PostgreSQL's answer and the model's");
        }
        self.end_request(model)
    }
}

impl SimulatedSession {
    /// Has PostgreSQL agree with the model about what depends on the numbers that it gives to other transactions.
    async fn agree(&self, force: impl AsyncFnOnce(&Real) -> anyhow::Result<()>) {
        if let Some(real) = &self.real {
            self.world.ask(force(real)).await.unwrap();
        }
    }
}

/// What is known of a reader by its name.
fn reader(name: &str) -> &'static str {
    [FAN_OUT].iter().chain(&TARGETS).find(|reader| **reader == name).unwrap()
}

/// So long that only the scheduler ends it: PostgreSQL's clock is another one.
const REST: Duration = Duration::from_secs(365 * 24 * 3600);

impl SimulatedSession {
    /// The letters of a target after a statement.
    async fn compare_letters(
        &self,
        what: &str,
        subscription: &str,
        twin: impl AsyncFnOnce(&Client) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let model = if self.twin.is_some() { self.letters(subscription) } else { vec![] };
        let twin = async |client: &Client| {
            twin(client).await?;
            let query = "SELECT stream, key, version, change_id FROM sluice.dead_letter WHERE subscription = $1 AND error_type IS NOT NULL ORDER BY 1, 2";
            let rows = client.query(query, &[&subscription]).await?;
            Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
        };
        self.compare(what, model, twin).await.map(drop)
    }

    /// What the model knows of the streams, by their names.
    fn model_streams(&self, subscription: &str) -> HashMap<String, Stream> {
        let log = &self.world.state().log;
        // A generation beside the live one is one of an index, and goes to no other target.
        let is_known = |it: &Defined| subscription == DRAIN || it.beside.is_none();
        let stream = |it: &Defined| Stream {
            name: it.name.to_owned(),
            generation: it.number,
            follows: it.beside.is_some().then(|| base_of(it.name).to_owned()),
            subscription: subscription.to_owned(),
            is_delivered: is_known(it) && log.is_delivered(it),
            source: Some(format!("demo.{}", base_of(it.name))),
            live_index: match subscription {
                DRAIN => Some(it.index()),
                _ => is_known(it).then(|| names::index(it.name, 1, &json!({}))),
            },
            has_refusals: log.has_letters(self.id, reader(subscription), it.name),
            ..Stream::default()
        };
        log.streams().map(|it| (it.name.to_owned(), stream(it))).collect()
    }

    fn letters(&self, subscription: &str) -> Vec<Letter> {
        self.world.state().log.refusals(self.id, reader(subscription))
    }
}

impl Session for SimulatedSession {
    fn is_closed(&self) -> bool {
        self.is_lost.get()
    }

    async fn begin(&self) -> Result<(), Error> {
        self.begin_request().await?;
        if let Some((subscription, has_waited, deletes, due_ms)) = self.late_looks.take() {
            self.world.state().log.look_later(subscription, has_waited, &deletes, due_ms);
        }
        self.compare("BEGIN", (), async |client| client.begin().await).await
    }

    async fn commit(&self) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.commit(self.id);
        self.compare("COMMIT", (), async |client| client.commit().await).await?;
        let late = self.late_letters.take();
        if let Some((subscription, refusals)) = late {
            self.begin_request().await?;
            self.world.state().log.note_refusals(subscription, &refusals);
        }
        Ok(())
    }

    async fn rollback(&self) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.rollback(self.id);
        self.compare("ROLLBACK", (), async |client| client.rollback().await).await
    }

    async fn is_pending(&self, subscription: &str) -> Result<bool, Error> {
        self.begin_request().await?;
        let model = self.world.state().log.is_pending(self.id, reader(subscription));
        self.compare("pending", model, async |client| client.is_pending(subscription).await).await
    }

    async fn take_over(&self, subscription: &str, span: i32) -> Result<Option<Versions>, Error> {
        self.begin_request().await?;
        let clock = self.world.now_ms() * 1000;
        let model = self.world.state().log.take_over(self.id, reader(subscription), span.into(), clock);
        let Some(client) = &self.twin else {
            return self.end_request(model.map(|(first, last)| Versions::new(first, last, false)));
        };
        let real = self.world.ask(client.take_over(subscription, span)).await.unwrap();
        assert_eq!(real.is_some(), model.is_some(), "take_over: PostgreSQL's answer and the model's");
        if let Some(versions) = &real {
            // The clocks differ, and with them the versions: from here on the model has PostgreSQL's.
            self.world.state().log.adopt(reader(subscription), versions.last());
        }
        self.end_request(real)
    }

    async fn release(&self, subscription: &str) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.release(self.id, reader(subscription));
        self.compare("release", (), async |client| client.release(subscription).await).await
    }

    async fn hold(&self, subscription: &str, versions: &Versions) -> Result<Option<i64>, Error> {
        self.begin_request().await?;
        let model = self.world.state().log.hold(self.id, reader(subscription), versions.last());
        self.compare("hold", model, async |client| client.hold(subscription, versions).await).await
    }

    async fn page(&self, subscription: &str, after: i64, size: i32) -> Result<(Vec<Row>, i64), Error> {
        self.begin_request().await?;
        let rows = self.world.state().log.page(self.id, reader(subscription), after, usize::try_from(size).unwrap());
        let rows: Vec<Waiting> = rows
            .into_iter()
            .map(|row| match row.event {
                Event::Change(operation, key) => (row.id, row.stream.to_owned(), key, operation),
                event @ (Event::FanOut(_) | Event::Resync) => panic!("the drain was given {event:?}"),
            })
            .collect();
        let twin = async |client: &Client| {
            let (rows, _) = client.page(subscription, after, size).await?;
            Ok(rows.into_iter().map(|row| (row.id, row.stream, row.key, row.operation)).collect())
        };
        let rows = self.compare("page", rows, twin).await?;
        Ok((rows.into_iter().map(row).collect(), self.world.now_ms()))
    }

    async fn advance(&self, subscription: &str, id: i64) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.advance(reader(subscription), id);
        self.compare("advance", (), async |client| client.advance(subscription, id).await).await
    }

    async fn finish(&self, subscription: &str) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.finish(reader(subscription));
        self.compare("finish", (), async |client| client.finish(subscription).await).await
    }

    async fn waited(&self, subscription: &str, size: i32) -> Result<(Vec<Row>, i64), Error> {
        self.begin_request().await?;
        let rows = self.world.state().log.waited(reader(subscription), usize::try_from(size).unwrap());
        let twin = async |client: &Client| {
            let (rows, _) = client.waited(subscription, size).await?;
            Ok(rows.into_iter().map(|row| (row.id, row.stream, row.key, row.operation)).collect())
        };
        let rows = self.compare("waited", rows, twin).await?;
        self.world.state().targets.told.looks += rows.iter().filter(|(id, ..)| *id < 0).count();
        Ok((rows.into_iter().map(row).collect(), self.world.now_ms()))
    }

    async fn look_later(
        &self,
        subscription: &str,
        has_waited: bool,
        deletes: &[(String, String)],
        pause: Duration,
    ) -> Result<(), Error> {
        self.begin_request().await?;
        let due_ms = self.world.now_ms() + i64::try_from(pause.as_millis()).unwrap();
        if self.world.state().defect == Some(Defect::LookWithTheNextTransaction) {
            self.late_looks.set(Some((reader(subscription), has_waited, deletes.to_vec(), due_ms)));
            return Ok(());
        }
        self.world.state().log.look_later(reader(subscription), has_waited, deletes, due_ms);
        let twin = async |client: &Client| client.look_later(subscription, has_waited, deletes, REST).await;
        self.compare("look_later", (), twin).await
    }

    async fn wait(&self, subscription: &str, stream: &str, ids: &[i64]) -> Result<(), Error> {
        self.begin_request().await?;
        {
            let state = &mut *self.world.state();
            state.log.wait(reader(subscription), stream, ids);
            state.targets.told.set_aside += ids.len();
        }
        self.compare("wait", (), async |client| client.wait(subscription, stream, ids).await).await
    }

    async fn rest(&self, subscription: &str, stream: &str, pause: Duration) -> Result<(), Error> {
        self.begin_request().await?;
        let until_ms = self.world.now_ms() + i64::try_from(pause.as_millis()).unwrap();
        {
            let state = &mut *self.world.state();
            state.log.rest(reader(subscription), stream, until_ms);
            state.targets.told.rests += 1;
        }
        self.compare("rest", (), async |client| client.rest(subscription, stream, REST).await).await
    }

    async fn note_refusals(&self, subscription: &str, refusals: &[Refusal]) -> Result<(), Error> {
        self.begin_request().await?;
        if self.world.state().defect == Some(Defect::LetterAfterTheTransaction) {
            self.late_letters.set(Some((reader(subscription), refusals.to_vec())));
            return Ok(());
        }
        {
            let state = &mut *self.world.state();
            state.log.note_refusals(reader(subscription), refusals);
            state.targets.told.letters += refusals.len();
        }
        let twin = async |client: &Client| client.note_refusals(subscription, refusals).await;
        self.compare_letters("note_refusals", subscription, twin).await
    }

    async fn forget_refusals(&self, subscription: &str, stream: &str, keys: &[String]) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.forget_refusals(reader(subscription), stream, keys);
        let twin = async |client: &Client| client.forget_refusals(subscription, stream, keys).await;
        self.compare_letters("forget_refusals", subscription, twin).await
    }

    async fn note_fault(&self, subscription: &str, stream: &str, problem: Option<&str>) -> Result<(), Error> {
        // No source fails. But a drainer that was frozen, or cut off, while it read cannot know that; and a target may tell.
        let is_direct = self.world.state().log.direct.contains(&subscription);
        assert!(
            is_direct || problem.is_none_or(|problem| problem.contains("did not answer")),
            "the stream {stream} has a fault: {problem:?}"
        );
        self.begin_request().await?;
        self.compare("note_fault", (), async |client| client.note_fault(subscription, stream, problem).await).await
    }

    async fn set_statement_timeout(&self, _limit: Duration) -> Result<(), Error> {
        Ok(())
    }

    async fn collect(&self) -> Result<Collected, Error> {
        self.begin_request().await?;
        let (begun, has_more) = self.world.state().log.collect(self.id);
        self.compare("collect", Collected { begun, has_more }, async |client| client.collect().await).await
    }

    async fn expand(&self, slice: i32, is_slow: bool, _is_unanswered: bool) -> Result<Slice, Error> {
        self.begin_request().await?;
        let done = self.world.state().log.expand(self.id);
        let model = done.map_or_else(Slice::default, |(expansion, rows)| Slice {
            expansion: Some(expansion),
            rows,
            ..Slice::default()
        });
        // What did not end at once has a session of its own, or is put aside, and what fills an index waits for what is on its
        // way; the model knows no time.
        let twin = async |client: &Client| {
            client.batch_execute("UPDATE sluice.expansion_turn SET due_at = served_at").await?;
            let slice = client.expand(slice, is_slow, false).await?;
            assert_eq!(slice.failure, None);
            Ok(Slice { slow_waits: false, ..slice })
        };
        self.compare("expand", model, twin).await
    }

    async fn maintain(&self, _keep: Duration) -> Result<Option<String>, Error> {
        Ok(None)
    }

    async fn forget_old(&self, _keep: Duration) -> Result<i64, Error> {
        Ok(0)
    }

    /// Nothing is replayed here.
    async fn keep_checkpoints(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn depart(&self, subscription: &str, _counts: &[Count], departure: &Departure) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.depart(self.id, reader(subscription), departure);
        self.compare("depart", (), async |client| client.depart(subscription, &[], departure).await).await
    }

    async fn land(&self, subscription: &str, _counts: &[Count], landings: &[Landing]) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.land(reader(subscription), landings);
        self.compare("land", (), async |client| client.land(subscription, &[], landings).await).await
    }

    async fn note_letters(&self, subscription: &str, letters: &[DeadLetter]) -> Result<(), Error> {
        self.begin_request().await?;
        self.world.state().log.note_letters(letters);
        self.compare("note_letters", (), async |client| client.note_letters(subscription, letters).await).await
    }

    /// Nobody does the chores here: the scheduler says when a minute is over.
    async fn watch_flights(&self) -> Result<Vec<LostFlight>, Error> {
        Ok(vec![])
    }

    async fn sample(&self, _subscription: &str) -> Result<Option<Sample>, Error> {
        Ok(None)
    }

    async fn beat(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn streams(&self, subscription: &str) -> Result<HashMap<String, Stream>, Error> {
        self.begin_request().await?;
        let model = self.model_streams(subscription);
        let streams: HashMap<String, Stream> = match &self.twin {
            // The model knows no faults, and would go on in another way.
            Some(client) => self
                .world
                .ask(client.streams(subscription))
                .await?
                .into_iter()
                .map(|(name, stream)| (name, Stream { has_fault: false, ..stream }))
                .collect(),
            None => model.clone(),
        };
        let told = |streams: &HashMap<String, Stream>| -> BTreeMap<String, Told> {
            let told = |it: &Stream| {
                (it.has_refusals, it.generation, it.follows.clone(), it.is_delivered, it.live_index.clone())
            };
            let known = streams.iter().filter(|(name, _)| stream_names().contains(&name.as_str()));
            known.map(|(name, stream)| (name.clone(), told(stream))).collect()
        };
        assert_eq!(told(&streams), told(&model), "the streams: PostgreSQL's and the model's");
        self.end_request(streams)
    }

    fn read<'a>(
        &'a self,
        stream: &'a Stream,
        keys: Vec<String>,
        limit_bytes: i32,
        in_transaction: Option<Duration>,
    ) -> impl Answers + 'a {
        Reading { session: self, stream, keys, limit_bytes, in_transaction, answers: None, answered: 0 }
    }
}

/// As the drain is given it.
fn row((id, stream, key, operation): Waiting) -> Row {
    Row { id, stream, key, operation, payload: None, logged_ms: 0, traceparent: None }
}
