//! Pokes by way of API Gateway: who is connected is told which of its buckets have changed. What each was told of is in PostgreSQL, so any
//! process goes on where another ended, and two at once do no harm.

use std::borrow::Borrow as _;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use database::connections::{self, Taken};
use database::sync::{self, Name};
use database::{Connect as _, Connection, Postgres, describe};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use secrets::Secrets;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::gateway::{Gateway, Outcome};
use crate::config::Config;
use crate::messages::{NAMED, PACE, Poke};
use crate::problem::Problem;
use crate::server::Server;
use crate::sessions::Sessions;

/// Between two looks at what changed and who is due.
const LOOKS: Duration = Duration::from_millis(250);
/// After a look that failed, and for one.
const PAUSE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(5);
/// Buckets of one look. Others are found by the next one.
const CHANGED: i64 = 1000;
/// Connections in hand at once. One that hangs has its place until the request is given up, and the others go on.
const HANDS: usize = 64;
/// For so long nobody else takes one in hand. It is told of so many buckets, in so much time at most; then others have their turn.
const HOLD: Duration = Duration::from_secs(30);
const PORTION: usize = 100;
const TURN: Duration = Duration::from_secs(10);
/// Where API Gateway takes no more just now, and where it fails.
const THROTTLED: Duration = Duration::from_secs(2);
const FAILED: Duration = Duration::from_secs(10);

/// Tells whoever is connected.
pub struct Poker {
    database: Postgres,
    sessions: Arc<Sessions>,
    gateway: Gateway,
    state: Mutex<State>,
}

/// Kept from one invocation to the next.
#[derive(Default)]
struct State {
    session: Option<Arc<Connection>>,
    /// The seq up to which it was seen what changed.
    last: Option<i64>,
}

impl Poker {
    /// Connects to nothing yet.
    pub fn new(config: &Config, secrets: &Secrets, server: &Server, gateway: Gateway) -> Self {
        let database = Postgres::new(config.database.clone(), secrets.clone());
        Self { database, sessions: Arc::clone(&server.sessions), gateway, state: Mutex::default() }
    }

    /// Whatever changes behind this is told of by [`stay`](Self::stay). Where it fails, each connection is looked at within a minute.
    pub async fn begin(&self) {
        let mut state = self.state.lock().await;
        if state.last.is_none()
            && let Err(failure) = self.look_at_changes(&mut state).await
        {
            warn!(error = failure, "nobody is poked until PostgreSQL answers again");
        }
    }

    /// Pokes until it `is_over`, and then whoever is due still; until `until` at most.
    pub async fn stay(&self, is_over: &CancellationToken, until: Instant) {
        let mut state = self.state.lock().await;
        let mut in_hand = FuturesUnordered::new();
        while Instant::now() < until {
            let is_last = is_over.is_cancelled();
            let room = HANDS - in_hand.len();
            let (pause, taken) = match self.look(&mut state, room).await {
                Ok((session, taken)) => {
                    let count = taken.len();
                    in_hand.extend(taken.into_iter().map(|taken| self.attend(Arc::clone(&session), taken)));
                    (LOOKS, count)
                }
                Err(failure) => {
                    warn!(error = failure, "nobody is poked until PostgreSQL answers again");
                    state.session = None;
                    if is_last {
                        return;
                    }
                    (PAUSE, 0)
                }
            };
            if is_last && in_hand.is_empty() {
                return;
            }
            let look_at = until.min(Instant::now() + pause);
            while let Ok(Some(())) = timeout_at(look_at, in_hand.next()).await {}
            // Where there was no room for all, the next ones have waited.
            if in_hand.is_empty() && taken < room && !is_last {
                is_over.run_until_cancelled(sleep_until(look_at)).await;
            }
        }
        if !in_hand.is_empty() {
            info!(connections = in_hand.len(), "there was no time to tell all: they are told later");
        }
    }

    /// Finds out what changed, wakes those who may read it, and takes whoever is due.
    async fn look(&self, state: &mut State, most: usize) -> Result<(Arc<Connection>, Vec<Taken>), String> {
        let looked = async {
            self.look_at_changes(state).await?;
            let session = self.session(state).await?;
            let client: &Client = (*session).borrow();
            let taken = connections::take(client, most, HOLD).await.map_err(|error| describe(&error))?;
            Ok((session, taken))
        };
        timeout(LOOK, looked).await.map_err(|_| format!("there was no answer within {} s", LOOK.as_secs()))?
    }

    async fn look_at_changes(&self, state: &mut State) -> Result<(), String> {
        let session = self.session(state).await?;
        let client: &Client = (*session).borrow();
        let failed = |error: tokio_postgres::Error| describe(&error);
        let Some(last) = state.last else {
            state.last = Some(sync::read_head(client).await.map_err(failed)?);
            return Ok(());
        };
        let (upto, changed) = sync::list_changed(client, last, CHANGED).await.map_err(failed)?;
        if !changed.is_empty() {
            let names: Vec<Name> = changed.into_iter().map(|(name, _)| name).collect();
            connections::wake(client, &names).await.map_err(failed)?;
        }
        state.last = Some(upto);
        Ok(())
    }

    async fn session(&self, state: &mut State) -> Result<Arc<Connection>, String> {
        let open = state.session.take().filter(|session| {
            let client: &Client = (**session).borrow();
            !client.is_closed()
        });
        let session = match open {
            Some(session) => session,
            None => Arc::new(self.database.connect("sluice pokes").await.map_err(|error| error.to_string())?),
        };
        Ok(Arc::clone(state.session.insert(session)))
    }

    /// What fails of one is the fault of no other: it is due again within a minute.
    async fn attend(&self, session: Arc<Connection>, taken: Taken) {
        if let Err(problem) = self.try_attend((*session).borrow(), &taken).await {
            warn!(status = problem.status(), "a connection could not be told, and is looked at again");
        }
    }

    /// Asks what it may read now, and tells it what of that has changed.
    async fn try_attend(&self, client: &Client, taken: &Taken) -> Result<(), Problem> {
        let Taken { id, claims, wanted, has_ended } = taken;
        if *has_ended {
            if matches!(self.gateway.end(id).await, Outcome::Done | Outcome::Gone) {
                connections::remove(client, id).await?;
            }
            return Ok(());
        }
        let reading = self.sessions.read().await?;
        let mut names = sync::list_readable(reading.client(), claims, None, None).await?;
        reading.end().await?;
        if let Some(wanted) = wanted {
            let wanted: HashSet<&Name> = wanted.iter().collect();
            names.retain(|name| wanted.contains(name));
        }
        names.truncate(NAMED);
        let pokes = connections::list_pokes(client, id, &names, PORTION).await?;
        let until = Instant::now() + TURN;
        let (mut told, mut outcome) = (0, Outcome::Done);
        for (name, seq) in &pokes {
            // A name is a text, and this cannot fail.
            let text = serde_json::to_string(&Poke::of(name, *seq)).unwrap_or_default();
            outcome = self.gateway.post(id, text).await;
            if outcome != Outcome::Done {
                break;
            }
            told += 1;
            if Instant::now() >= until {
                break;
            }
        }
        let has_more = told < pokes.len() || pokes.len() == PORTION;
        let pause = match outcome {
            Outcome::Gone => return Ok(connections::remove(client, id).await?),
            Outcome::Done if told == 0 => Duration::ZERO,
            Outcome::Done => PACE,
            // Else all of them would come again at once.
            Outcome::Throttled => THROTTLED.mul_f64(0.5 + fastrand::f64()),
            Outcome::Failed => FAILED.mul_f64(0.5 + fastrand::f64()),
        };
        Ok(connections::note_poked(client, id, &pokes[..told], pause, has_more).await?)
    }
}
