//! What is stored in one transaction.

use std::collections::HashMap;

use crate::item::{Item, Reject};

/// Items of a batch, unless more than that belong together. Larger ones store no faster, and hold their locks longer.
const SIZE: usize = 500;
/// Those with something in common stay together up to this number. How long it takes to decide about them grows with its square,
/// and a page may be made so that all of it has something in common.
const TOGETHER: usize = 1000;

/// Items and rejects that are stored together.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    pub items: Vec<Item<'a>>,
    pub rejects: Vec<Reject<'a>>,
}

impl Batch<'_> {
    /// Whether something in it is gone.
    pub fn has_gone(&self) -> bool {
        self.items.iter().any(|item| item.is_gone)
    }

    /// Every key that it is about.
    pub fn keys(&self) -> Vec<&str> {
        let rejected = self.rejects.iter().filter_map(|reject| reject.key.as_deref());
        let mut keys: Vec<&str> = self.items.iter().map(|item| &*item.key).chain(rejected).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// What two may have in common: a key, or what they have of a unique column.
#[derive(PartialEq, Eq, Hash)]
enum Common<'p> {
    Key(&'p str),
    Claim(usize, &'p str),
}

/// Splits a page so that those with a key or something unique in common are in one batch: what becomes of them is
/// decided at once, whichever batch is stored first. Of very many that have, it is decided in parts.
pub fn split<'a>(judged: Vec<Result<Item<'a>, Reject<'a>>>, unique: &[usize]) -> Vec<Batch<'a>> {
    let groups = groups(&judged, unique);
    let mut batches = vec![];
    let mut batch = Batch::default();
    let mut judged: Vec<_> = judged.into_iter().map(Some).collect();
    for group in groups.iter().flat_map(|group| group.chunks(TOGETHER)) {
        let size = batch.items.len() + batch.rejects.len();
        if size > 0 && size + group.len() > SIZE {
            batches.push(std::mem::take(&mut batch));
        }
        for &index in group {
            match judged[index].take() {
                Some(Ok(item)) => batch.items.push(item),
                Some(Err(reject)) => batch.rejects.push(reject),
                None => unreachable!("each is in one group"),
            }
        }
    }
    if !batch.items.is_empty() || !batch.rejects.is_empty() {
        batches.push(batch);
    }
    batches
}

/// The indexes of those that belong together.
fn groups(judged: &[Result<Item<'_>, Reject<'_>>], unique: &[usize]) -> Vec<Vec<usize>> {
    let mut parents: Vec<usize> = (0..judged.len()).collect();
    let mut seen: HashMap<Common<'_>, usize> = HashMap::with_capacity((1 + unique.len()) * judged.len());
    for (index, one) in judged.iter().enumerate() {
        let (key, claims) = match one {
            Ok(item) => (Some(&*item.key), item.claims(unique)),
            Err(reject) => (reject.key.as_deref(), vec![]),
        };
        let claims = claims.into_iter().enumerate().filter_map(|(nth, claim)| Some(Common::Claim(nth, claim?)));
        for common in key.map(Common::Key).into_iter().chain(claims) {
            let first = *seen.entry(common).or_insert(index);
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

    /// With an email and a mobile.
    fn item(key: usize, email: usize, mobile: usize) -> Result<Item<'static>, Reject<'static>> {
        let values = vec![Some(format!("e{email}").into()), Some(format!("m{mobile}").into())];
        Ok(Item {
            key: key.to_string().into(),
            newer: OffsetDateTime::UNIX_EPOCH,
            values,
            is_gone: false,
            payload: "{}",
        })
    }

    fn sizes(items: Vec<Result<Item<'static>, Reject<'static>>>) -> Vec<usize> {
        split(items, &[0, 1]).iter().map(|batch| batch.items.len() + batch.rejects.len()).collect()
    }

    #[test]
    fn a_page_is_split_into_batches_of_a_size() {
        assert_eq!(sizes((0..1200).map(|n| item(n, n, n)).collect()), [500, 500, 200]);
        assert_eq!(sizes(vec![]), [0usize; 0]);
    }

    #[test]
    fn those_with_something_in_common_stay_together_up_to_a_thousand() {
        // Each has its email in common with the one before, and its mobile with the one after.
        let mut items: Vec<_> = (0..700).map(|n| item(n, n / 2, n.div_ceil(2))).collect();
        items.extend((1000..1100).map(|n| item(n, n, n)));
        assert_eq!(sizes(items), [700, 100]);
        let items: Vec<_> = (0..5300).map(|n| item(n, n / 2, n.div_ceil(2))).collect();
        assert_eq!(sizes(items), [1000, 1000, 1000, 1000, 1000, 300]);
        // An item that is none stays with those of its key.
        let mut items: Vec<_> = (0..600).map(|n| item(n, n, n)).collect();
        items.push(Err(item(0, 9999, 9999).unwrap().refused("gone".to_owned(), false)));
        let batches = split(items, &[0, 1]);
        let with_reject = batches.iter().find(|batch| !batch.rejects.is_empty()).unwrap();
        assert!(with_reject.items.iter().any(|item| item.key == "0"));
    }
}
