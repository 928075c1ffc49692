//! The letters of direct targets: rows of PostgreSQL, which take no turn and are hidden from nobody.

use std::fmt::{Display, Formatter};

use database::letters;
use database::refusals::{self, LOOKED_THROUGH, Search};
use tokio::time::Instant;
use tokio_postgres::{Client, Error};

use crate::access::Caller;
use crate::letters::listed::{List, Looked, Target};
use crate::letters::redrive::Fate;
use crate::problem::Problem;

/// What a letter is called: `clickhouse-7`, or `elasticsearch-7` where that is a direct target. No id of SQS looks like that, since those are of hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    target: Target,
    id: i64,
}

impl Name {
    /// `None`: it is called otherwise, and is the queue's.
    pub fn parse(text: &str) -> Option<Self> {
        let (target, id) = text.split_once('-')?;
        let target = [Target::Elasticsearch, Target::Clickhouse, Target::Kafka, Target::Sync]
            .into_iter()
            .find(|known| known.name() == target)?;
        // As it is written, and in no other way.
        let name = Self { target, id: id.parse().ok()? };
        (name.to_string() == text).then_some(name)
    }

    fn search(self) -> Search<'static> {
        Search { ids: Some(vec![(self.target.name(), self.id)]), ..Search::default() }
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.target.name(), self.id)
    }
}

/// Of several, those of direct targets.
pub fn named(ids: &[String]) -> Vec<(&'static str, i64)> {
    ids.iter().filter_map(|id| Name::parse(id)).map(|Name { target, id }| (target.name(), id)).collect()
}

/// How many there are of this target, or of all.
pub async fn depth(database: &Client, target: Option<&str>) -> Result<i64, Error> {
    let counts = refusals::count(database).await?;
    Ok(counts.iter().filter(|(name, _)| target.is_none_or(|target| target == *name)).map(|(_, count)| count).sum())
}

/// Puts the newest of those that are meant into the list, `places` at most.
pub async fn list(
    database: &Client,
    search: &Search<'_>,
    places: usize,
    document_bytes: usize,
    list: &mut List,
) -> Result<Looked, Error> {
    let depth = depth(database, search.target).await?;
    let limit = i64::try_from(places).unwrap_or(i64::MAX).saturating_add(1);
    let found = refusals::list(database, search, limit, i32::try_from(document_bytes).unwrap_or(i32::MAX)).await?;
    let is_cut = found.len() > places;
    let shown = i64::try_from(found.len().min(places)).unwrap_or(i64::MAX);
    found.into_iter().take(places).for_each(|letter| list.push(letter.into()));
    Ok(Looked { depth, is_sample: is_cut || (depth >= LOOKED_THROUGH && shown < depth) })
}

/// Redrives one. `None`: it is not there, or not any more.
pub async fn redrive(database: &Client, caller: &Caller, name: Name) -> Result<Option<Fate>, Problem> {
    let found = refusals::find(database, &name.search(), 0).await?;
    if refusals::redrive(database, caller.as_actor(), None, &found.ids).await? > 0 {
        return Ok(Some(Fate::Redriven));
    }
    if refusals::find(database, &name.search(), 0).await?.ids.is_empty() {
        return Ok(None);
    }
    Err(Problem::conflict(format!(
        "{name} was emitted, and something of its stream still waits for the target: try again when it has arrived; or \
         nobody knows its payload any more: then emit it again, or discard the letter"
    )))
}

/// Discards one: its stream and its key. `None`: it is not there, or not any more.
pub async fn discard(
    database: &Client,
    caller: &Caller,
    name: Name,
    reason: &str,
) -> Result<Option<(String, String)>, Error> {
    let Some(letter) = refusals::list(database, &name.search(), 1, 0).await?.pop() else { return Ok(None) };
    let is_discarded = refusals::discard(database, caller.as_actor(), letter.id, reason).await?;
    Ok(is_discarded.then_some((letter.stream, letter.key)))
}

/// Counts those that are meant: how many, and whether it came to the end.
pub async fn count(database: &Client, search: &Search<'_>, until: Instant) -> Result<(usize, bool), Error> {
    let (mut matched, mut after) = (0, 0);
    while Instant::now() < until {
        let page = refusals::find(database, search, after).await?;
        matched += page.ids.len();
        let Some(next) = page.next else { return Ok((matched, true)) };
        after = next;
    }
    Ok((matched, false))
}

/// Redrives those that are meant for a task, a page at once: whether it came to the end. What is refused again is a new
/// letter, which is not meant.
pub async fn redrive_all(
    database: &Client,
    caller: &Caller,
    task: i64,
    search: &Search<'_>,
    until: Instant,
) -> Result<bool, Error> {
    let mut after = 0;
    while Instant::now() < until && letters::is_task_running(database, task).await? {
        let page = refusals::find(database, search, after).await?;
        if !page.ids.is_empty() {
            refusals::redrive(database, caller.as_actor(), Some(task), &page.ids).await?;
        }
        let Some(next) = page.next else { return Ok(true) };
        after = next;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_of_a_direct_target_is_known_by_its_name_and_no_other_is_taken_for_one() {
        let name = Name::parse("clickhouse-7").unwrap();
        assert_eq!((name.target, name.id, name.to_string().as_str()), (Target::Clickhouse, 7, "clickhouse-7"));
        for other in [
            "7",
            "clickhouse",
            "clickhouse-",
            "clickhouse-07",
            "clickhouse-+7",
            "clickhouse-7x",
            "kafka-99999999999999999999",
            "message-000001",
            "5fea7756-0ea4-451a-a703-a558b933e274",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
