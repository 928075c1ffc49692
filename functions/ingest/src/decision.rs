//! What becomes of the items of a batch.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use time::OffsetDateTime;

use crate::item::Item;

/// A row of the table, as far as a decision depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: String,
    /// Of each unique column.
    pub claims: Vec<Option<String>>,
    pub newer: OffsetDateTime,
}

/// What becomes of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// It is stored.
    Synced,
    /// There is a newer one of its key, stored or in its batch.
    Outdated,
    /// There is one of its key and time, stored or in its batch.
    Duplicate,
    /// What it wants of a unique column is another's.
    Taken {
        /// Which of those columns.
        nth: usize,
        /// Whose it is.
        by: &'a str,
    },
}

/// Decides for each item, in their order; the order has no influence on what is decided.
///
/// `stored` has every row with a key or a unique value of the batch, and `unique` says which values those are. Of several items
/// of one key the newest counts. A unique value belongs first to the stored row that keeps it, then to the newest item that
/// wants it, then to the smaller key. Whoever does not get what it wants is not stored, so that its row keeps what it has;
/// which may take it from others. The same batch again changes nothing; unless `takes_equal`: then one as new as the stored
/// row is stored, too.
pub fn decide<'a>(
    stored: &'a [Stored],
    items: &'a [Item<'_>],
    unique: &[usize],
    takes_equal: bool,
) -> Vec<Outcome<'a>> {
    let rows: HashMap<&str, &Stored> = stored.iter().map(|row| (row.key.as_str(), row)).collect();
    let mut newest: HashMap<&str, usize> = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let best = newest.entry(&item.key).or_insert(index);
        if rank(item) > rank(&items[*best]) {
            *best = index;
        }
    }
    let known_time = |key: &str| rows.get(key).map(|row| row.newer);
    let mut outcomes: Vec<Outcome<'a>> = items
        .iter()
        .map(|item| {
            let newest = items[newest[&*item.key]].newer.max(known_time(&item.key).unwrap_or(item.newer));
            if item.newer < newest { Outcome::Outdated } else { Outcome::Duplicate }
        })
        .collect();

    let is_news =
        |item: &Item<'_>| known_time(&item.key).is_none_or(|at| at < item.newer || takes_equal && at == item.newer);
    let mut candidates: Vec<usize> = newest.into_values().filter(|index| is_news(&items[*index])).collect();
    candidates.sort_unstable_by_key(|index| (Reverse(items[*index].newer), &items[*index].key));
    let candidates: Vec<Candidate<'a>> = candidates
        .into_iter()
        .map(|index| {
            outcomes[index] = Outcome::Synced;
            Candidate { key: &items[index].key, claims: items[index].claims(unique) }
        })
        .collect();
    let taken = settle(&rows, candidates);
    for (outcome, item) in outcomes.iter_mut().zip(items) {
        if *outcome == Outcome::Synced
            && let Some((nth, by)) = taken.get(&*item.key)
        {
            *outcome = Outcome::Taken { nth: *nth, by };
        }
    }
    outcomes
}

/// Of items of one key the greatest counts: the newest and, where their times are equal, one that does not depend on
/// their order.
fn rank<'p>(item: &'p Item<'_>) -> impl Ord + use<'p> {
    (item.newer, item.is_gone, Reverse(item.values.as_slice()))
}

/// What one wants, or has, of each unique column.
type Claims<'a> = Vec<Option<&'a str>>;
/// Those that are not stored, by key.
type Taken<'a> = HashMap<&'a str, (usize, &'a str)>;

/// One that is to be stored.
struct Candidate<'a> {
    key: &'a str,
    claims: Claims<'a>,
}

/// Who owns each unique value.
#[derive(Default)]
struct Owners<'a>(HashMap<(usize, &'a str), &'a str>);

impl<'a> Owners<'a> {
    fn add(&mut self, key: &'a str, claims: &Claims<'a>) {
        let claims = claims.iter().enumerate().filter_map(|(nth, claim)| Some((nth, (*claim)?)));
        self.0.extend(claims.map(|claim| (claim, key)));
    }

    fn conflict(&self, candidate: &Candidate<'a>) -> Option<(usize, &'a str)> {
        candidate.claims.iter().enumerate().find_map(|(nth, claim)| {
            let owner = self.0.get(&(nth, (*claim)?))?;
            (*owner != candidate.key).then_some((nth, *owner))
        })
    }
}

/// Lets in whoever can be, until nobody is left who would be let in if the same batch came again.
fn settle<'a>(rows: &HashMap<&'a str, &'a Stored>, mut candidates: Vec<Candidate<'a>>) -> Taken<'a> {
    let claims = |row: &'a Stored| row.claims.iter().map(Option::as_deref).collect();
    let mut claims: HashMap<&'a str, Claims<'a>> = rows.iter().map(|(key, row)| (*key, claims(row))).collect();
    loop {
        let taken = conflicts(&claims, &candidates);
        let before = candidates.len();
        candidates.retain_mut(|candidate| {
            let is_taken = taken.contains_key(candidate.key);
            if !is_taken {
                claims.insert(candidate.key, std::mem::take(&mut candidate.claims));
            }
            is_taken
        });
        if candidates.len() == before {
            return taken;
        }
    }
}

/// The candidates that cannot be let in together with the others. They come with the first in line first.
fn conflicts<'a>(rows: &HashMap<&'a str, Claims<'a>>, candidates: &[Candidate<'a>]) -> Taken<'a> {
    let keys: BTreeSet<&str> = candidates.iter().map(|candidate| candidate.key).collect();
    // Those that want what a row keeps: out for good, so that this ends.
    let mut out = Taken::new();
    loop {
        let mut kept = Owners::default();
        for (key, claims) in rows.iter().filter(|(key, _)| !keys.contains(*key) || out.contains_key(*key)) {
            kept.add(key, claims);
        }
        let mut losers = Taken::new();
        let mut winners = vec![];
        let mut owners = Owners::default();
        let before = out.len();
        for candidate in candidates {
            if out.contains_key(candidate.key) {
                continue;
            }
            if let Some(conflict) = kept.conflict(candidate) {
                out.insert(candidate.key, conflict);
            } else if let Some(conflict) = owners.conflict(candidate) {
                losers.insert(candidate.key, conflict);
            } else {
                owners.add(candidate.key, &candidate.claims);
                winners.push(candidate);
            }
        }
        // The losers' rows stay as they are, too.
        for (key, claims) in losers.keys().filter_map(|key| rows.get_key_value(key)) {
            kept.add(key, claims);
        }
        for candidate in winners {
            if let Some(conflict) = kept.conflict(candidate) {
                out.insert(candidate.key, conflict);
            }
        }
        if out.len() == before {
            out.extend(losers);
            return out;
        }
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
