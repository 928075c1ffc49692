//! What is stored in one transaction.

use std::collections::HashMap;

use uuid::Uuid;

use crate::profile::{Profile, Reject};

/// Profiles of a batch, unless more than that belong together. Larger ones store no faster, and hold their locks longer.
const SIZE: usize = 500;
/// Those with something in common stay together up to this number. How long it takes to decide about them grows with its square,
/// and a page may be made so that all of it has something in common.
const TOGETHER: usize = 1000;

/// Profiles and rejects that are stored together.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    pub profiles: Vec<Profile<'a>>,
    pub rejects: Vec<Reject<'a>>,
}

impl Batch<'_> {
    /// Every id that it is about.
    pub fn ids(&self) -> Vec<Uuid> {
        let rejected = self.rejects.iter().filter_map(|reject| reject.profile_id);
        let mut ids: Vec<Uuid> = self.profiles.iter().map(|profile| profile.id).chain(rejected).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Key<'p> {
    Id(Uuid),
    Email(&'p str),
    Mobile(&'p str),
}

/// Splits a page so that those with an id, an email or a mobile in common are in one batch: what becomes of them is
/// decided at once, whichever batch is stored first. Of very many that have, it is decided in parts.
pub fn split<'a>(judged: Vec<Result<Profile<'a>, Reject<'a>>>) -> Vec<Batch<'a>> {
    let groups = groups(&judged);
    let mut batches = vec![];
    let mut batch = Batch::default();
    let mut judged: Vec<_> = judged.into_iter().map(Some).collect();
    for group in groups.iter().flat_map(|group| group.chunks(TOGETHER)) {
        let size = batch.profiles.len() + batch.rejects.len();
        if size > 0 && size + group.len() > SIZE {
            batches.push(std::mem::take(&mut batch));
        }
        for &index in group {
            match judged[index].take() {
                Some(Ok(profile)) => batch.profiles.push(profile),
                Some(Err(reject)) => batch.rejects.push(reject),
                None => unreachable!("each is in one group"),
            }
        }
    }
    if !batch.profiles.is_empty() || !batch.rejects.is_empty() {
        batches.push(batch);
    }
    batches
}

/// The indexes of those that belong together.
fn groups(judged: &[Result<Profile<'_>, Reject<'_>>]) -> Vec<Vec<usize>> {
    let mut parents: Vec<usize> = (0..judged.len()).collect();
    let mut seen: HashMap<Key<'_>, usize> = HashMap::with_capacity(3 * judged.len());
    for (index, one) in judged.iter().enumerate() {
        let keys = match one {
            Ok(profile) => {
                [Some(Key::Id(profile.id)), Some(Key::Email(&profile.email)), Some(Key::Mobile(&profile.mobile))]
            }
            Err(reject) => [reject.profile_id.map(Key::Id), None, None],
        };
        for key in keys.into_iter().flatten() {
            let first = *seen.entry(key).or_insert(index);
            let (one, other) = (root(&mut parents, first), root(&mut parents, index));
            parents[one.max(other)] = one.min(other);
        }
    }
    let mut groups: Vec<Vec<usize>> = vec![vec![]; judged.len()];
    for index in 0..judged.len() {
        groups[root(&mut parents, index)].push(index);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// The first of those that belong together with this one; the way there is halved for the next who goes it.
fn root(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn payload(id: usize, email: usize, mobile: usize) -> String {
        format!(
            r#"{{"id": "{}", "name": "n", "email": "e{email}@example.com", "mobile": "+4915{mobile:08}", "status": "active",
            "last_updated_at": "2026-01-01T00:00:00Z"}}"#,
            Uuid::from_u128(id as u128)
        )
    }

    fn sizes(payloads: &[String]) -> Vec<usize> {
        let judged = payloads.iter().map(|payload| Profile::parse(payload, OffsetDateTime::now_utc())).collect();
        split(judged).iter().map(|batch| batch.profiles.len() + batch.rejects.len()).collect()
    }

    #[test]
    fn a_page_is_split_into_batches_of_a_size() {
        let payloads: Vec<String> = (0..1200).map(|n| payload(n, n, n)).collect();
        assert_eq!(sizes(&payloads), [500, 500, 200]);
        assert_eq!(sizes(&[]), [0usize; 0]);
    }

    #[test]
    fn those_with_something_in_common_stay_together_up_to_a_thousand() {
        // Each has its email in common with the one before, and its mobile with the one after.
        let mut payloads: Vec<String> = (0..700).map(|n| payload(n, n / 2, n.div_ceil(2))).collect();
        payloads.extend((1000..1100).map(|n| payload(n, n, n)));
        assert_eq!(sizes(&payloads), [700, 100]);
        let payloads: Vec<String> = (0..5300).map(|n| payload(n, n / 2, n.div_ceil(2))).collect();
        assert_eq!(sizes(&payloads), [1000, 1000, 1000, 1000, 1000, 300]);
        // A profile that is none stays with those of its id.
        let mut payloads: Vec<String> = (0..600).map(|n| payload(n, n, n)).collect();
        payloads.push(payload(0, 9999, 9999).replace("active", "gone"));
        let judged: Vec<_> = payloads.iter().map(|it| Profile::parse(it, OffsetDateTime::now_utc())).collect();
        let batches = split(judged);
        let with_reject = batches.iter().find(|batch| !batch.rejects.is_empty()).unwrap();
        assert!(with_reject.profiles.iter().any(|profile| profile.id == Uuid::from_u128(0)));
    }
}
