//! PostgreSQL as the functions ask it: [`Postgres`] is the real one, the simulation has a model of it.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::time::Duration;

use secrets::Secrets;
use telemetry::call;
use tokio::task::AbortHandle;
use tokio_postgres::{Client, Error};

use crate::connect::connect_driven;
use crate::log::{self, Collected, Count, Row, Sample, Slice, Versions};
use crate::{ConnectError, Documents, Read, ReadError, Settings, Stream};

/// In the spans of calls.
pub(crate) const PEER: &str = "postgresql";

/// The way to a session.
#[allow(async_fn_in_trait, reason = "whoever needs its futures to be Send knows which one it is")]
pub trait Connect {
    /// What it leads to.
    type Session: Session;

    /// A new session; `name` says in `pg_stat_activity` whose it is.
    async fn connect(&self, name: &str) -> Result<Self::Session, ConnectError>;
}

/// One session. The questions are those of [`log`] and [`Stream::read`], where their contracts stand.
#[allow(async_fn_in_trait, missing_docs, reason = "whoever needs Send knows the type; each is documented in `log`")]
pub trait Session {
    /// Whether the connection is gone.
    fn is_closed(&self) -> bool;

    /// Begins a transaction. Dropping the session rolls it back.
    async fn begin(&self) -> Result<(), Error>;
    async fn commit(&self) -> Result<(), Error>;
    async fn rollback(&self) -> Result<(), Error>;

    async fn is_pending(&self, subscription: &str) -> Result<bool, Error>;
    async fn take_over(&self, subscription: &str, span: i32) -> Result<Option<Versions>, Error>;
    async fn release(&self, subscription: &str) -> Result<(), Error>;
    async fn hold(&self, subscription: &str, versions: &Versions) -> Result<Option<i64>, Error>;
    async fn page(&self, subscription: &str, after: i64, size: i32) -> Result<(Vec<Row>, i64), Error>;
    async fn advance(&self, subscription: &str, id: i64) -> Result<(), Error>;
    async fn finish(&self, subscription: &str) -> Result<(), Error>;
    async fn waited(&self, size: i32) -> Result<(Vec<Row>, i64), Error>;
    async fn wait(&self, ids: &[i64]) -> Result<(), Error>;
    async fn note_fault(&self, stream: &str, problem: Option<&str>) -> Result<(), Error>;

    async fn set_statement_timeout(&self, limit: Duration) -> Result<(), Error>;
    async fn collect(&self) -> Result<Collected, Error>;
    async fn expand(&self, slice: i32, is_slow: bool, is_unanswered: bool) -> Result<Slice, Error>;
    async fn maintain(&self, keep: Duration) -> Result<Option<String>, Error>;
    async fn forget_old(&self, keep: Duration) -> Result<i64, Error>;

    async fn count_deliveries(&self, counts: &[Count]) -> Result<(), Error>;
    async fn sample(&self, subscription: &str) -> Result<Option<Sample>, Error>;
    async fn beat(&self) -> Result<(), Error>;

    async fn streams(&self) -> Result<HashMap<String, Stream>, Error>;
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
        call(PEER, "is_pending", log::is_pending(self.borrow(), subscription)).await
    }

    async fn take_over(&self, subscription: &str, span: i32) -> Result<Option<Versions>, Error> {
        call(PEER, "take_over", log::take_over(self.borrow(), subscription, span)).await
    }

    async fn release(&self, subscription: &str) -> Result<(), Error> {
        call(PEER, "release", log::release(self.borrow(), subscription)).await
    }

    async fn hold(&self, subscription: &str, versions: &Versions) -> Result<Option<i64>, Error> {
        call(PEER, "hold", log::hold(self.borrow(), subscription, versions)).await
    }

    async fn page(&self, subscription: &str, after: i64, size: i32) -> Result<(Vec<Row>, i64), Error> {
        call(PEER, "page", log::page(self.borrow(), subscription, after, size)).await
    }

    async fn advance(&self, subscription: &str, id: i64) -> Result<(), Error> {
        call(PEER, "advance", log::advance(self.borrow(), subscription, id)).await
    }

    async fn finish(&self, subscription: &str) -> Result<(), Error> {
        call(PEER, "finish", log::finish(self.borrow(), subscription)).await
    }

    async fn waited(&self, size: i32) -> Result<(Vec<Row>, i64), Error> {
        call(PEER, "waited", log::waited(self.borrow(), size)).await
    }

    async fn wait(&self, ids: &[i64]) -> Result<(), Error> {
        call(PEER, "wait", log::wait(self.borrow(), ids)).await
    }

    async fn note_fault(&self, stream: &str, problem: Option<&str>) -> Result<(), Error> {
        call(PEER, "note_fault", log::note_fault(self.borrow(), stream, problem)).await
    }

    async fn set_statement_timeout(&self, limit: Duration) -> Result<(), Error> {
        call(PEER, "set_statement_timeout", log::set_statement_timeout(self.borrow(), limit)).await
    }

    async fn collect(&self) -> Result<Collected, Error> {
        call(PEER, "collect", log::collect(self.borrow())).await
    }

    async fn expand(&self, slice: i32, is_slow: bool, is_unanswered: bool) -> Result<Slice, Error> {
        call(PEER, "expand", log::expand(self.borrow(), slice, is_slow, is_unanswered)).await
    }

    async fn maintain(&self, keep: Duration) -> Result<Option<String>, Error> {
        call(PEER, "maintain", log::maintain(self.borrow(), keep)).await
    }

    async fn forget_old(&self, keep: Duration) -> Result<i64, Error> {
        call(PEER, "forget_old", log::forget_old(self.borrow(), keep)).await
    }

    async fn count_deliveries(&self, counts: &[Count]) -> Result<(), Error> {
        call(PEER, "count_deliveries", log::count_deliveries(self.borrow(), counts)).await
    }

    async fn sample(&self, subscription: &str) -> Result<Option<Sample>, Error> {
        call(PEER, "sample", log::sample(self.borrow(), subscription)).await
    }

    async fn beat(&self) -> Result<(), Error> {
        call(PEER, "beat", log::beat(self.borrow())).await
    }

    async fn streams(&self) -> Result<HashMap<String, Stream>, Error> {
        call(PEER, "streams", crate::streams(self.borrow())).await
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

impl Answers for Documents<'_> {
    async fn next(&mut self) -> Result<Option<(usize, Read)>, ReadError> {
        Documents::next(self).await
    }

    fn into_unanswered(self) -> Vec<usize> {
        Documents::into_unanswered(self)
    }
}
