//! PostgreSQL as the functions ask it: [`Postgres`] is the real one, the simulation has a model of it.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secrets::Secrets;
use telemetry::call;
use tokio::task::AbortHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

use crate::connect::connect_driven;
use crate::delivery::{DeadLetter, Departure, Landing, LostFlight, Refusal};
use crate::log::{Collected, Count, Row, Sample, Slice, Versions, milliseconds};
use crate::source::PEER;
use crate::{ConnectError, Documents, Read, ReadError, Settings, Stream};

/// The way to a session.
#[allow(async_fn_in_trait, reason = "whoever needs its futures to be Send knows which one it is")]
pub trait Connect {
    /// What it leads to.
    type Session: Session;

    /// A new session; `name` says in `pg_stat_activity` whose it is.
    async fn connect(&self, name: &str) -> Result<Self::Session, ConnectError>;
}

/// One session of a function.
#[allow(async_fn_in_trait, reason = "whoever needs its futures to be Send knows which one it is")]
pub trait Session {
    /// Whether the connection is gone.
    fn is_closed(&self) -> bool;

    /// Begins a transaction. Dropping the session rolls it back.
    async fn begin(&self) -> Result<(), Error>;

    /// Commits it.
    async fn commit(&self) -> Result<(), Error>;

    /// Rolls it back.
    async fn rollback(&self) -> Result<(), Error>;

    /// Whether anything waits for the subscription. Takes no lock and no transaction id.
    async fn is_pending(&self, subscription: &str) -> Result<bool, Error>;

    /// Makes this session the one that drains, with a range of `span` versions. `None`: another one drains, or it is paused.
    async fn take_over(&self, subscription: &str, span: i32) -> Result<Option<Versions>, Error>;

    /// Tells that this session drains no more.
    async fn release(&self, subscription: &str) -> Result<(), Error>;

    /// Locks the subscription until the transaction ends: the id up to which its interval was passed. `None`: another
    /// session took over since.
    async fn hold(&self, subscription: &str, versions: &Versions) -> Result<Option<i64>, Error>;

    /// The next rows after an id, `size` at most, in order of id, and the database's clock in milliseconds since the epoch.
    /// Draw the version before: it must be older than what it is given to.
    async fn page(&self, subscription: &str, after: i64, size: i32) -> Result<(Vec<Row>, i64), Error>;

    /// Marks the interval as passed up to and including an id.
    async fn advance(&self, subscription: &str, id: i64) -> Result<(), Error>;

    /// Ends the interval, after an empty page and after nothing else.
    async fn finish(&self, subscription: &str) -> Result<(), Error>;

    /// Takes back rows that were set aside and whose streams have an index now, or deletes to be looked at again, `size` at most, and the database's clock as
    /// [`page`](Self::page) gives it. They are to be sent in this transaction, before any page.
    async fn waited(&self, subscription: &str, size: i32) -> Result<(Vec<Row>, i64), Error>;

    /// Has the keys of deletes read once more, so much later: streams and keys. `has_waited`: they were set aside before.
    async fn look_later(
        &self,
        subscription: &str,
        has_waited: bool,
        deletes: &[(String, String)],
        pause: Duration,
    ) -> Result<(), Error>;

    /// Sets rows aside for a stream: until it has an index, or its rest is over.
    async fn wait(&self, subscription: &str, stream: &str, ids: &[i64]) -> Result<(), Error>;

    /// Lets a stream rest: what is set aside of it is not given back for so long.
    async fn rest(&self, subscription: &str, stream: &str, pause: Duration) -> Result<(), Error>;

    /// Notes what a direct target refuses, in the transaction that passes it.
    async fn note_refusals(&self, subscription: &str, refusals: &[Refusal]) -> Result<(), Error>;

    /// Removes the letters of keys that have arrived.
    async fn forget_refusals(&self, subscription: &str, stream: &str, keys: &[String]) -> Result<(), Error>;

    /// Notes why a stream's documents could not be read for the subscription; `None`: they could.
    async fn note_fault(&self, subscription: &str, stream: &str, problem: Option<&str>) -> Result<(), Error>;

    /// Lets a statement of this session take so long.
    async fn set_statement_timeout(&self, limit: Duration) -> Result<(), Error>;

    /// Collects a page of what is to be fanned out.
    async fn collect(&self) -> Result<Collected, Error>;

    /// Works off one slice of the expansion whose turn it is. What fails is put aside, and is no error of this. One that did
    /// not answer, in another session, `is_unanswered`: it is put aside as one that took too long.
    async fn expand(&self, slice: i32, is_slow: bool, is_unanswered: bool) -> Result<Slice, Error>;

    /// Does the next thing that the partitions need, and says what; `None`: nothing. Rows that were passed stay for `keep`.
    /// `lock_not_available`: somebody writes, later will do.
    async fn maintain(&self, keep: Duration) -> Result<Option<String>, Error>;

    /// Removes some of what has grown old: how many rows; none: all of it is removed.
    async fn forget_old(&self, keep: Duration) -> Result<i64, Error>;

    /// Keeps the checkpoints: reaches those that can be, begins one, and removes most of the old ones.
    async fn keep_checkpoints(&self) -> Result<(), Error>;

    /// Adds to the counters of what was delivered, and notes what the step sent. In the transaction that stores the position,
    /// before the position moves.
    async fn depart(&self, subscription: &str, counts: &[Count], departure: &Departure) -> Result<(), Error>;

    /// Adds to the counters, and notes what became of messages.
    async fn land(&self, subscription: &str, counts: &[Count], landings: &[Landing]) -> Result<(), Error>;

    /// Notes which changes are in the dead-letter queue.
    async fn note_letters(&self, subscription: &str, letters: &[DeadLetter]) -> Result<(), Error>;

    /// Keeps the flights: those that were found lost, which are logged again.
    async fn watch_flights(&self) -> Result<Vec<LostFlight>, Error>;

    /// Notes how far the subscription is and what was delivered until now, for the charts of the last hour. `None`: somebody
    /// else has just done so.
    async fn sample(&self, subscription: &str) -> Result<Option<Sample>, Error>;

    /// Changes the heartbeat's document, once a minute at most.
    async fn beat(&self) -> Result<(), Error>;

    /// All streams, by name, as the subscription delivers them.
    async fn streams(&self, subscription: &str) -> Result<HashMap<String, Stream>, Error>;

    /// Reads the documents of these keys: see [`Stream::read`].
    fn read<'a>(
        &'a self,
        stream: &'a Stream,
        keys: Vec<String>,
        limit_bytes: i32,
        in_transaction: Option<Duration>,
    ) -> impl Answers + 'a;
}

/// The documents of many keys as they come: [`Documents`], or the simulation's.
#[allow(
    async_fn_in_trait,
    missing_docs,
    reason = "whoever needs Send knows the type; each is documented in `Documents`"
)]
pub trait Answers {
    async fn next(&mut self) -> Result<Option<(usize, Read)>, ReadError>;
    fn into_unanswered(self) -> Vec<usize>;
}

/// A PostgreSQL server, with the credentials of a secret.
#[derive(Clone, Debug)]
pub struct Postgres {
    settings: Settings,
    secrets: Secrets,
}

impl Postgres {
    /// Connects to nothing yet.
    pub fn new(settings: Settings, secrets: Secrets) -> Self {
        Self { settings, secrets }
    }
}

impl Connect for Postgres {
    type Session = Connection;

    async fn connect(&self, name: &str) -> Result<Connection, ConnectError> {
        let connecting = connect_driven(&self.settings, &self.secrets, name);
        let (client, driver) = call(PEER, "connect", connecting).await?;
        Ok(Connection { client, driver })
    }
}

/// A client whose connection ends with it at once, even where a query has not been answered: PostgreSQL notices, and ends
/// the query, which may go on in spite of every time-out.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Borrow<Client> for Connection {
    fn borrow(&self) -> &Client {
        &self.client
    }
}

impl<C: Borrow<Client>> Session for C {
    fn is_closed(&self) -> bool {
        self.borrow().is_closed()
    }

    async fn begin(&self) -> Result<(), Error> {
        call(PEER, "begin", self.borrow().batch_execute("BEGIN")).await
    }

    async fn commit(&self) -> Result<(), Error> {
        call(PEER, "commit", self.borrow().batch_execute("COMMIT")).await
    }

    async fn rollback(&self) -> Result<(), Error> {
        call(PEER, "rollback", self.borrow().batch_execute("ROLLBACK")).await
    }

    async fn is_pending(&self, subscription: &str) -> Result<bool, Error> {
        Ok(call(PEER, "is_pending", self.borrow().query_one("SELECT sluice.pending($1)", &[&subscription]))
            .await?
            .get(0))
    }

    async fn take_over(&self, subscription: &str, span: i32) -> Result<Option<Versions>, Error> {
        let query = "SELECT first, last, timeline_changed FROM sluice.take_over($1, $2)";
        let row = call(PEER, "take_over", self.borrow().query_opt(query, &[&subscription, &span])).await?;
        Ok(row.map(|row| Versions::new(row.get(0), row.get(1), row.get(2))))
    }

    async fn release(&self, subscription: &str) -> Result<(), Error> {
        call(PEER, "release", self.borrow().execute("SELECT sluice.release($1)", &[&subscription])).await.map(drop)
    }

    async fn hold(&self, subscription: &str, versions: &Versions) -> Result<Option<i64>, Error> {
        Ok(call(
            PEER,
            "hold",
            self.borrow().query_one("SELECT sluice.hold($1, $2)", &[&subscription, &versions.last()]),
        )
        .await?
        .get(0))
    }

    async fn page(&self, subscription: &str, after: i64, size: i32) -> Result<(Vec<Row>, i64), Error> {
        let query = "SELECT id, stream, key, op, payload::text, clock_timestamp(), created_at, traceparent \
                     FROM sluice.page($1, $2, $3)";
        let rows = call(
            PEER,
            "page",
            self.borrow().query_typed(query, &[(&subscription, Type::TEXT), (&after, Type::INT8), (&size, Type::INT4)]),
        )
        .await?;
        let read_at_ms = rows.first().map_or(0, |row| milliseconds(row.get(5)));
        Ok((rows.iter().map(Row::of).collect::<Result<_, _>>()?, read_at_ms))
    }

    async fn advance(&self, subscription: &str, id: i64) -> Result<(), Error> {
        call(PEER, "advance", self.borrow().execute("SELECT sluice.advance($1, $2)", &[&subscription, &id]))
            .await
            .map(drop)
    }

    async fn finish(&self, subscription: &str) -> Result<(), Error> {
        call(PEER, "finish", self.borrow().execute("SELECT sluice.finish($1)", &[&subscription])).await.map(drop)
    }

    async fn waited(&self, subscription: &str, size: i32) -> Result<(Vec<Row>, i64), Error> {
        let query = "SELECT id, stream, key, op, payload::text, clock_timestamp(), clock_timestamp(), NULL::text \
                     FROM sluice.waited($1, $2)";
        let rows =
            call(PEER, "waited", self.borrow().query_typed(query, &[(&subscription, Type::TEXT), (&size, Type::INT4)]))
                .await?;
        let read_at_ms = rows.first().map_or(0, |row| milliseconds(row.get(5)));
        Ok((rows.iter().map(Row::of).collect::<Result<_, _>>()?, read_at_ms))
    }

    async fn look_later(
        &self,
        subscription: &str,
        has_waited: bool,
        deletes: &[(String, String)],
        pause: Duration,
    ) -> Result<(), Error> {
        let (streams, keys): (Vec<&str>, Vec<&str>) =
            deletes.iter().map(|(stream, key)| (stream.as_str(), key.as_str())).unzip();
        let statement = "SELECT sluice.look_later($1, $2, $3, $4, make_interval(secs => $5))";
        let parameters: [&(dyn ToSql + Sync); 5] = [&subscription, &has_waited, &streams, &keys, &pause.as_secs_f64()];
        call(PEER, "look_later", self.borrow().execute(statement, &parameters)).await.map(drop)
    }

    async fn wait(&self, subscription: &str, stream: &str, ids: &[i64]) -> Result<(), Error> {
        let statement = "SELECT sluice.wait($1, $2, $3)";
        call(PEER, "wait", self.borrow().execute(statement, &[&subscription, &stream, &ids])).await.map(drop)
    }

    async fn rest(&self, subscription: &str, stream: &str, pause: Duration) -> Result<(), Error> {
        let statement = "SELECT sluice.rest($1, $2, make_interval(secs => $3))";
        call(PEER, "rest", self.borrow().execute(statement, &[&subscription, &stream, &pause.as_secs_f64()]))
            .await
            .map(drop)
    }

    async fn note_refusals(&self, subscription: &str, refusals: &[Refusal]) -> Result<(), Error> {
        let ids: Vec<i64> = refusals.iter().map(|refusal| refusal.change_id).collect();
        let streams: Vec<&str> = refusals.iter().map(|refusal| refusal.stream.as_str()).collect();
        let keys: Vec<&str> = refusals.iter().map(|refusal| refusal.key.as_str()).collect();
        let versions: Vec<i64> = refusals.iter().map(|refusal| refusal.version).collect();
        let error_types: Vec<&str> = refusals.iter().map(|refusal| refusal.error_type.as_str()).collect();
        // What a target says may hold what PostgreSQL's text cannot.
        let reasons: Vec<String> = refusals.iter().map(|refusal| refusal.reason.replace('\0', "")).collect();
        let statement = "SELECT sluice.note_refusals($1, $2, $3, $4, $5, $6, $7)";
        let parameters: &[&(dyn ToSql + Sync)] =
            &[&subscription, &ids, &streams, &keys, &versions, &error_types, &reasons];
        call(PEER, "note_refusals", self.borrow().execute(statement, parameters)).await.map(drop)
    }

    async fn forget_refusals(&self, subscription: &str, stream: &str, keys: &[String]) -> Result<(), Error> {
        let statement = "SELECT sluice.forget_refusals($1, $2, $3)";
        call(PEER, "forget_refusals", self.borrow().execute(statement, &[&subscription, &stream, &keys]))
            .await
            .map(drop)
    }

    async fn note_fault(&self, subscription: &str, stream: &str, problem: Option<&str>) -> Result<(), Error> {
        let statement = "SELECT sluice.note_fault($1, $2, $3)";
        call(PEER, "note_fault", self.borrow().execute(statement, &[&subscription, &stream, &problem])).await.map(drop)
    }

    async fn set_statement_timeout(&self, limit: Duration) -> Result<(), Error> {
        call(
            PEER,
            "set_statement_timeout",
            self.borrow().batch_execute(&format!("SET statement_timeout = {}", limit.as_millis())),
        )
        .await
    }

    async fn collect(&self) -> Result<Collected, Error> {
        let row =
            call(PEER, "collect", self.borrow().query_one("SELECT begun, has_more FROM sluice.collect()", &[])).await?;
        Ok(Collected { begun: row.get(0), has_more: row.get(1) })
    }

    async fn expand(&self, slice: i32, is_slow: bool, is_unanswered: bool) -> Result<Slice, Error> {
        let query = "SELECT expansion, logged, failure, slow_waits FROM sluice.expand($1, $2, $3)";
        let row = call(PEER, "expand", self.borrow().query_one(query, &[&slice, &is_slow, &is_unanswered])).await?;
        Ok(Slice { expansion: row.get(0), rows: row.get(1), failure: row.get(2), slow_waits: row.get(3) })
    }

    async fn maintain(&self, keep: Duration) -> Result<Option<String>, Error> {
        let query = "SELECT sluice.maintain(keep => make_interval(secs => $1))";
        Ok(call(PEER, "maintain", self.borrow().query_one(query, &[&keep.as_secs_f64()])).await?.get(0))
    }

    async fn forget_old(&self, keep: Duration) -> Result<i64, Error> {
        let query = "SELECT sluice.forget_old(make_interval(secs => $1))";
        Ok(call(PEER, "forget_old", self.borrow().query_one(query, &[&keep.as_secs_f64()])).await?.get(0))
    }

    async fn keep_checkpoints(&self) -> Result<(), Error> {
        let query = "SELECT sluice.keep_checkpoints()";
        call(PEER, "keep_checkpoints", self.borrow().execute(query, &[])).await.map(drop)
    }

    async fn depart(&self, subscription: &str, counts: &[Count], departure: &Departure) -> Result<(), Error> {
        let (streams, measures, values) = columns(counts);
        let Departure { base, has_waited, flights } = departure;
        let sent: Vec<&str> = flights.iter().map(|flight| flight.stream.as_str()).collect();
        let parts: Vec<i32> = flights.iter().map(|flight| flight.parts).collect();
        let first_ids: Vec<i64> = flights.iter().map(|flight| flight.first_id).collect();
        let last_ids: Vec<i64> = flights.iter().map(|flight| flight.last_id).collect();
        let since =
            flights.iter().map(|flight| UNIX_EPOCH + Duration::from_millis(flight.since_ms.max(0).unsigned_abs()));
        let since: Vec<SystemTime> = since.collect();
        let statement =
            "SELECT sluice.count_deliveries($1, $2, $3, $4), sluice.depart($1, $5, $6, $7, $8, $9, $10, $11)";
        let parameters: &[&(dyn ToSql + Sync)] = &[
            &subscription,
            &streams,
            &measures,
            &values,
            base,
            has_waited,
            &sent,
            &parts,
            &first_ids,
            &last_ids,
            &since,
        ];
        call(PEER, "depart", self.borrow().execute(statement, parameters)).await.map(drop)
    }

    async fn land(&self, subscription: &str, counts: &[Count], landings: &[Landing]) -> Result<(), Error> {
        let (streams, measures, values) = columns(counts);
        let landings = || landings.iter().filter(|landing| !landing.stream.contains('\0'));
        let landed: Vec<&str> = landings().map(|landing| landing.stream.as_str()).collect();
        let flights: Vec<i64> = landings().map(|landing| landing.flight).collect();
        let parts: Vec<i32> = landings().map(|landing| landing.part).collect();
        let became: Vec<&str> = landings().map(|landing| landing.became.name()).collect();
        let statement = "SELECT sluice.count_deliveries($1, $2, $3, $4), sluice.land($1, $5, $6, $7, $8)";
        let parameters: &[&(dyn ToSql + Sync)] =
            &[&subscription, &streams, &measures, &values, &landed, &flights, &parts, &became];
        call(PEER, "land", self.borrow().execute(statement, parameters)).await.map(drop)
    }

    async fn note_letters(&self, subscription: &str, letters: &[DeadLetter]) -> Result<(), Error> {
        let is_text = |letter: &&DeadLetter| !letter.stream.contains('\0') && !letter.key.contains('\0');
        let letters: Vec<&DeadLetter> = letters.iter().filter(is_text).collect();
        let streams: Vec<&str> = letters.iter().map(|letter| letter.stream.as_str()).collect();
        let keys: Vec<&str> = letters.iter().map(|letter| letter.key.as_str()).collect();
        let versions: Vec<i64> = letters.iter().map(|letter| letter.version).collect();
        let statement = "SELECT sluice.note_letters($1, $2, $3, $4)";
        call(PEER, "note_letters", self.borrow().execute(statement, &[&subscription, &streams, &keys, &versions]))
            .await
            .map(drop)
    }

    async fn watch_flights(&self) -> Result<Vec<LostFlight>, Error> {
        let query = "SELECT subscription, stream, first_id, last_id, is_logged_again FROM sluice.watch_flights()";
        let rows = call(PEER, "watch_flights", self.borrow().query(query, &[])).await?;
        let lost = |row: &tokio_postgres::Row| LostFlight {
            subscription: row.get(0),
            stream: row.get(1),
            first_id: row.get(2),
            last_id: row.get(3),
            is_logged_again: row.get(4),
        };
        Ok(rows.iter().map(lost).collect())
    }

    async fn sample(&self, subscription: &str) -> Result<Option<Sample>, Error> {
        let query = "SELECT pending_rows, oldest_pending_ms, log_bytes, fan_out_rows, fan_out_oldest_ms, expansions_failing, \
                     waiting_rows, stream_problems, lag_ms FROM sluice.sample($1)";
        let row = call(PEER, "sample", self.borrow().query_opt(query, &[&subscription])).await?;
        Ok(row.map(|row| Sample {
            pending_rows: row.get(0),
            oldest_pending_ms: row.get(1),
            log_bytes: row.get(2),
            fan_out_rows: row.get(3),
            fan_out_oldest_ms: row.get(4),
            expansions_failing: row.get(5),
            waiting_rows: row.get(6),
            stream_problems: row.get(7),
            lag_ms: row.get(8),
        }))
    }

    async fn beat(&self) -> Result<(), Error> {
        call(PEER, "beat", self.borrow().execute("SELECT sluice.beat()", &[])).await.map(drop)
    }

    async fn streams(&self, subscription: &str) -> Result<HashMap<String, Stream>, Error> {
        call(PEER, "streams", crate::streams(self.borrow(), subscription)).await
    }

    fn read<'a>(
        &'a self,
        stream: &'a Stream,
        keys: Vec<String>,
        limit_bytes: i32,
        in_transaction: Option<Duration>,
    ) -> impl Answers + 'a {
        stream.read(self.borrow(), keys, limit_bytes, in_transaction)
    }
}

/// Of counts, as the database takes them. Of a name that PostgreSQL cannot hold there is no stream, and one such would keep
/// all others from being counted.
fn columns(counts: &[Count]) -> (Vec<&str>, Vec<&str>, Vec<i64>) {
    let streams = counts.iter().map(|count| if count.stream.contains('\0') { "" } else { &count.stream });
    (
        streams.collect(),
        counts.iter().map(|count| count.measure).collect(),
        counts.iter().map(|count| count.value).collect(),
    )
}

impl Answers for Documents<'_> {
    async fn next(&mut self) -> Result<Option<(usize, Read)>, ReadError> {
        Documents::next(self).await
    }

    fn into_unanswered(self) -> Vec<usize> {
        Documents::into_unanswered(self)
    }
}
