//! What becomes of the profiles of a batch.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::profile::{Profile, Reason};

/// A row of the table, as far as a decision depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub id: Uuid,
    pub email: String,
    pub mobile: String,
    pub last_updated_at: OffsetDateTime,
}

/// What becomes of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored.
    Synced,
    /// There is a newer one of its id, stored or in its batch.
    Outdated,
    /// There is one of its id and time, stored or in its batch.
    Duplicate,
    /// Its email or its mobile is another's.
    Taken {
        /// Which of them.
        reason: Reason,
        /// Whose it is.
        by: Uuid,
    },
}

/// Decides for each profile, in their order; the order has no influence on what is decided.
///
/// `stored` has every row with an id, an email or a mobile of the batch. Of several profiles of one id the newest counts.
/// An email or a mobile belongs first to the stored row that keeps it, then to the newest profile that wants it, then to
/// the smaller id. Whoever does not get what it wants is not stored, so that its row keeps what it has; which may take it
/// from others. The same batch again changes nothing.
pub fn decide(stored: &[Stored], profiles: &[Profile<'_>]) -> Vec<Outcome> {
    let rows: HashMap<Uuid, &Stored> = stored.iter().map(|row| (row.id, row)).collect();
    let mut newest: HashMap<Uuid, usize> = HashMap::new();
    for (index, profile) in profiles.iter().enumerate() {
        let best = newest.entry(profile.id).or_insert(index);
        if rank(profile) > rank(&profiles[*best]) {
            *best = index;
        }
    }
    let known_time = |id: Uuid| rows.get(&id).map(|row| row.last_updated_at);
    let mut outcomes: Vec<Outcome> = profiles
        .iter()
        .map(|profile| {
            let newest = profiles[newest[&profile.id]]
                .last_updated_at
                .max(known_time(profile.id).unwrap_or(profile.last_updated_at));
            if profile.last_updated_at < newest { Outcome::Outdated } else { Outcome::Duplicate }
        })
        .collect();

    let mut candidates: Vec<usize> = newest
        .into_iter()
        .filter(|(id, index)| known_time(*id).is_none_or(|at| at < profiles[*index].last_updated_at))
        .map(|(_, index)| index)
        .collect();
    candidates.sort_unstable_by_key(|index| (Reverse(profiles[*index].last_updated_at), profiles[*index].id));
    let candidates: Vec<&Profile<'_>> = candidates
        .into_iter()
        .map(|index| {
            outcomes[index] = Outcome::Synced;
            &profiles[index]
        })
        .collect();
    let taken = settle(&rows, candidates);
    for (outcome, profile) in outcomes.iter_mut().zip(profiles) {
        if *outcome == Outcome::Synced
            && let Some((reason, by)) = taken.get(&profile.id)
        {
            *outcome = Outcome::Taken { reason: *reason, by: *by };
        }
    }
    outcomes
}

/// Of profiles of one id the greatest counts: the newest and, where their times are equal, one that does not depend on
/// their order.
fn rank<'p>(profile: &'p Profile<'_>) -> (OffsetDateTime, Reverse<(&'p str, &'p str, &'p str, &'static str)>) {
    let content = (&*profile.name, &*profile.email, &*profile.mobile, profile.status.as_str());
    (profile.last_updated_at, Reverse(content))
}

/// Who owns each email and each mobile.
#[derive(Default)]
struct Owners<'a> {
    emails: HashMap<&'a str, Uuid>,
    mobiles: HashMap<&'a str, Uuid>,
}

impl<'a> Owners<'a> {
    fn add(&mut self, id: Uuid, email: &'a str, mobile: &'a str) {
        self.emails.insert(email, id);
        self.mobiles.insert(mobile, id);
    }

    fn conflict(&self, profile: &Profile<'_>) -> Option<(Reason, Uuid)> {
        let other = |owner: Option<&Uuid>| owner.copied().filter(|owner| *owner != profile.id);
        other(self.emails.get(&*profile.email))
            .map(|by| (Reason::EmailTaken, by))
            .or_else(|| other(self.mobiles.get(&*profile.mobile)).map(|by| (Reason::MobileTaken, by)))
    }
}

/// An email and a mobile.
type Claim<'a> = (&'a str, &'a str);
/// Those that are not stored, by id.
type Taken = HashMap<Uuid, (Reason, Uuid)>;

/// Lets in whoever can be, until nobody is left who would be let in if the same batch came again.
fn settle<'a>(rows: &HashMap<Uuid, &'a Stored>, mut candidates: Vec<&'a Profile<'_>>) -> Taken {
    let mut claims: HashMap<Uuid, Claim<'a>> =
        rows.iter().map(|(id, row)| (*id, (row.email.as_str(), row.mobile.as_str()))).collect();
    loop {
        let taken = conflicts(&claims, &candidates);
        let before = candidates.len();
        candidates.retain(|profile| {
            let is_taken = taken.contains_key(&profile.id);
            if !is_taken {
                claims.insert(profile.id, (&profile.email, &profile.mobile));
            }
            is_taken
        });
        if candidates.len() == before {
            return taken;
        }
    }
}

/// The candidates that cannot be let in together with the others. They come with the first in line first.
fn conflicts(rows: &HashMap<Uuid, Claim<'_>>, candidates: &[&Profile<'_>]) -> Taken {
    let ids: BTreeSet<Uuid> = candidates.iter().map(|profile| profile.id).collect();
    // Those that want what a row keeps: out for good, so that this ends.
    let mut out = Taken::new();
    loop {
        let mut kept = Owners::default();
        for (id, (email, mobile)) in rows.iter().filter(|(id, _)| !ids.contains(id) || out.contains_key(id)) {
            kept.add(*id, email, mobile);
        }
        let mut losers = Taken::new();
        let mut winners = vec![];
        let mut owners = Owners::default();
        let before = out.len();
        for profile in candidates {
            if out.contains_key(&profile.id) {
                continue;
            }
            if let Some(conflict) = kept.conflict(profile) {
                out.insert(profile.id, conflict);
            } else if let Some(conflict) = owners.conflict(profile) {
                losers.insert(profile.id, conflict);
            } else {
                owners.add(profile.id, &profile.email, &profile.mobile);
                winners.push(profile);
            }
        }
        // The losers' rows stay as they are, too.
        for (id, (email, mobile)) in losers.keys().filter_map(|id| rows.get_key_value(id)) {
            kept.add(*id, email, mobile);
        }
        for profile in winners {
            if let Some(conflict) = kept.conflict(profile) {
                out.insert(profile.id, conflict);
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
