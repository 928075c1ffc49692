//! What is done for a redrive of many, pass by pass: which letters are meant, and how far it is.

use std::time::Duration;

use database::letters::{self, RunningTask};
use database::refusals::Search;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;
use tracing::{error, info, warn};
use utoipa::ToSchema;

use crate::access::{Caller, Role};
use crate::letters::direct;
use crate::letters::lease::{Lease, PATIENCE};
use crate::letters::listed::Target;
use crate::letters::pass::Pass;
use crate::letters::queue::Letter;
use crate::letters::redrive::{Fate, Redrive};
use crate::problem::Problem;
use crate::services::{Admin, Queues};

/// How long after its time what it does with the letters in its hands may take.
const GRACE: Duration = Duration::from_secs(5);
/// A shorter look at the queue says nothing about it.
const SHORTEST_PASS: Duration = Duration::from_secs(5);
/// For so long a task waits for letters that are in other hands; nobody should hold one for longer.
const IN_OTHER_HANDS_MS: i64 = 10 * 60 * 1000;
/// A pass over a long queue: what it holds stays hidden until its end.
const HIDDEN_FOR: Duration = Duration::from_secs(60);
/// Tasks that one invocation looks at.
const TASKS: i64 = 100;

/// Which letters; all, if nothing is said.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Of this target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    /// Of this stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    /// With this word for the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_type: Option<String>,
    /// Of this document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// These.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_ids: Option<Vec<String>>,
    /// Only tells how many would be redriven.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl Selection {
    /// How many letters of the queue it may mean; `None`: any number.
    fn of_queue(&self) -> Option<usize> {
        if self.target.is_some_and(|target| target != Target::Elasticsearch) {
            return Some(0);
        }
        self.message_ids.as_ref().map(|ids| ids.len() - direct::named(ids).len())
    }

    /// Whether it may mean letters of the queue.
    pub fn is_of_queue(&self) -> bool {
        self.of_queue() != Some(0)
    }

    /// Which letters of direct targets it means, of those that were there when the task began. `None`: it means none.
    pub fn direct(&self, task: Option<i64>) -> Option<Search<'_>> {
        let ids = self.message_ids.as_ref().map(|ids| direct::named(ids));
        if ids.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        Some(Search {
            target: self.target.map(Target::name),
            stream: self.stream.as_deref(),
            error_type: self.error_type.as_deref(),
            key: self.key.as_deref(),
            ids,
            task,
        })
    }

    /// Whether this letter of the queue is one of them.
    pub fn has(&self, letter: &Letter) -> bool {
        letter.matches(self.stream.as_deref(), self.error_type.as_deref())
            && (self.key.is_none() || letter.key() == self.key.as_deref())
            && self.message_ids.as_ref().is_none_or(|ids| ids.contains(&letter.message_id))
    }
}

/// A task as it is stored.
pub struct Stored {
    pub id: i64,
    pub selection: Selection,
    pub started_ms: i64,
    pub age_ms: i64,
    pub caller: Caller,
}

/// The tasks that run, or this one if it does; the one that has waited for longest comes first.
pub async fn running(database: &Client, id: Option<i64>) -> Result<Vec<Stored>, Problem> {
    let stored = |task: RunningTask| {
        let RunningTask { id, selection, started_ms, age_ms, actor, source_ip } = task;
        // One that a later version has written may say what this one does not know; it must never mean all.
        let selection = serde_json::from_value(selection)
            .inspect_err(|error| error!(task = id, %error, "the selection of a redrive cannot be read"))
            .ok()?;
        Some(Stored { id, selection, started_ms, age_ms, caller: Caller { actor, role: Role::Operator, source_ip } })
    };
    let tasks = letters::list_running_tasks(database, id, TASKS).await?;
    Ok(tasks.into_iter().filter_map(stored).collect())
}

/// Works on a task until it is done or it is time to stop. What goes wrong is noted in the task: it is tried again.
pub async fn go_on(admin: &Admin, database: &Client, stored: &Stored, until: Instant) -> Result<(), Problem> {
    // Those of direct targets first, which take no turn.
    let direct =
        timeout_at(until + GRACE, redrive_direct(database, stored, until)).await.unwrap_or_else(|_| Err(late()));
    let outcome = match direct {
        Ok(true) => match admin.services().await.queues.as_ref().filter(|_| stored.selection.is_of_queue()) {
            Some(queues) => {
                let Some(outcome) = go_through_queue(queues, database, stored, until).await? else { return Ok(()) };
                outcome
            }
            None => Ok(Pause::Done(None)),
        },
        Ok(false) => Ok(Pause::Running(None)),
        Err(problem) => Err(problem),
    };
    let (state, error) = match outcome {
        Ok(Pause::Done(left_over)) => ("done", left_over),
        Ok(Pause::Running(failed)) => ("running", failed),
        Err(problem) => {
            warn!(task = stored.id, error = problem.detail(), "a redrive was stopped, and is tried again");
            ("running", Some(problem.detail().to_owned()))
        }
    };
    letters::store_task(database, stored.id, state, error.as_deref()).await?;
    info!(task = stored.id, state, "redrive");
    Ok(())
}

/// Whether it came to the end of those of direct targets.
async fn redrive_direct(database: &Client, stored: &Stored, until: Instant) -> Result<bool, Problem> {
    let Some(search) = stored.selection.direct(Some(stored.id)) else { return Ok(true) };
    Ok(direct::redrive_all(database, &stored.caller, stored.id, &search, until).await?)
}

/// One pass through the queue. `None`: it had no turn, or no time.
async fn go_through_queue(
    queues: &Queues,
    database: &Client,
    stored: &Stored,
    until: Instant,
) -> Result<Option<Result<Pause, Problem>>, Problem> {
    let left = || until.saturating_duration_since(Instant::now());
    let Some(mut lease) = Lease::take(database, PATIENCE.min(left())).await? else { return Ok(None) };
    if left() < SHORTEST_PASS {
        lease.release(database).await;
        return Ok(None);
    }
    let mut pass = Pass::new(&queues.letters, HIDDEN_FOR, until);
    let outcome = timeout_at(until + GRACE, work(queues, database, stored, &mut lease, &mut pass)).await;
    pass.end().await;
    lease.release(database).await;
    Ok(Some(outcome.unwrap_or_else(|_| Err(late()))))
}

fn late() -> Problem {
    Problem::unavailable("PostgreSQL or SQS did not answer in time")
}

/// How a pass ended for its task, and what is to be told.
enum Pause {
    /// There is more to do.
    Running(Option<String>),
    Done(Option<String>),
}

/// One pass. Each that is not the task's last takes letters out of the queue that were there when it began, so there is a
/// last one.
async fn work(
    queues: &Queues,
    database: &Client,
    stored: &Stored,
    lease: &mut Lease,
    pass: &mut Pass<'_>,
) -> Result<Pause, Problem> {
    let redrive = Redrive::new(queues, database, &stored.caller, Some(stored.id)).await?;
    let (mut redriven, mut deleted, mut failed) = (0, 0, None);
    while let Some(letters) = pass.next().await? {
        // One that came later has failed again.
        let (chosen, others): (Vec<Letter>, Vec<Letter>) =
            letters.into_iter().partition(|letter| letter.sent_ms <= stored.started_ms && stored.selection.has(letter));
        others.iter().for_each(|letter| pass.hold(letter));
        if !lease.renew(database).await? || !letters::is_task_running(database, stored.id).await? {
            chosen.iter().for_each(|letter| pass.hold(letter));
            return Ok(Pause::Running(None));
        }
        let done = match redrive.letters(&chosen).await {
            Ok(done) => done,
            Err(problem) => {
                chosen.iter().for_each(|letter| pass.hold(letter));
                return Err(problem);
            }
        };
        deleted += done.deleted;
        for (letter, fate) in chosen.iter().zip(done.fates) {
            match fate {
                Ok(fate) => redriven += usize::from(fate != Fate::AlreadyRedriven),
                Err(problem) => {
                    pass.hold(letter);
                    failed = Some(format!("{}: {}", letter.message_id, problem.detail()));
                }
            }
        }
        if stored.selection.of_queue().is_some_and(|ids| ids <= redriven) {
            return Ok(Pause::Done(failed));
        }
    }
    if pass.has_seen_all().await? {
        return Ok(Pause::Done(failed));
    }
    let waits_for_others = pass.is_complete() && stored.age_ms < IN_OTHER_HANDS_MS;
    if deleted > 0 || waits_for_others {
        return Ok(Pause::Running(failed));
    }
    let unseen =
        "the last pass found none of these letters, and did not see the whole queue: begin anew if some are left";
    Ok(Pause::Done(Some(failed.unwrap_or_else(|| unseen.to_owned()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_word_in_a_selection_is_refused_and_never_means_all() {
        assert!(serde_json::from_str::<Selection>(r#"{"strem": "users"}"#).is_err());
        assert!(serde_json::from_str::<Selection>("{}").is_ok());
    }
}
