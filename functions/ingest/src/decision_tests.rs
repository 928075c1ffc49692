use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use time::Duration;

use super::*;

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(second)
}

/// Of a profile: an email and a mobile are unique.
const UNIQUE: [usize; 2] = [0, 1];

fn row(id: u128, email: &str, mobile: &str, second: i64) -> Stored {
    let claims = vec![Some(email.to_owned()), Some(mobile.to_owned())];
    Stored { key: id.to_string(), claims, newer: at(second) }
}

fn profile(id: u128, email: &str, mobile: &str, second: i64) -> Item<'static> {
    let values = [email, mobile].map(|value| Some(value.to_owned().into())).to_vec();
    Item { key: id.to_string().into(), newer: at(second), values, is_gone: false, payload: "{}" }
}

fn decide<'a>(stored: &'a [Stored], items: &'a [Item<'_>]) -> Vec<Outcome<'a>> {
    super::decide(stored, items, &UNIQUE, false)
}

fn email_taken(by: &str) -> Outcome<'_> {
    Outcome::Taken { nth: 0, by }
}

fn mobile_taken(by: &str) -> Outcome<'_> {
    Outcome::Taken { nth: 1, by }
}

use Outcome::{Duplicate, Outdated, Synced};

#[test]
fn the_newest_of_an_id_counts_and_equal_ones_change_nothing() {
    let stored = [row(1, "a", "1", 5)];
    let batch = [profile(1, "b", "1", 4), profile(1, "c", "1", 7), profile(1, "d", "1", 6), profile(1, "c", "1", 7)];
    assert_eq!(decide(&stored, &batch), [Outdated, Synced, Outdated, Duplicate]);
    assert_eq!(decide(&stored, &[profile(1, "z", "9", 5)]), [Duplicate]);
    assert_eq!(
        decide(&[], &[profile(1, "b", "1", 5), profile(1, "a", "1", 5)]),
        [Duplicate, Synced],
        "by their content"
    );
}

#[test]
fn an_equal_one_is_stored_where_everything_is_read_anew_and_the_older_are_not() {
    let stored = [row(1, "a", "1", 5)];
    let batch = [profile(1, "b", "1", 5), profile(1, "c", "1", 4)];
    assert_eq!(super::decide(&stored, &batch, &UNIQUE, true), [Synced, Outdated]);
}

#[test]
fn what_nobody_has_is_nobodys() {
    let mut batch = [profile(1, "a", "1", 5), profile(2, "a", "2", 5)];
    batch.iter_mut().for_each(|item| item.values[0] = None);
    assert_eq!(decide(&[], &batch), [Synced, Synced]);
}

#[test]
fn an_email_of_another_id_stays_with_the_row_that_keeps_it() {
    assert_eq!(decide(&[row(1, "a", "1", 1)], &[profile(2, "a", "2", 9)]), [email_taken("1")]);
    assert_eq!(decide(&[row(1, "a", "1", 1)], &[profile(2, "b", "1", 9)]), [mobile_taken("1")]);
    // An older profile of its owner gives nothing free.
    let batch = [profile(2, "a", "2", 9), profile(1, "b", "1", 0)];
    assert_eq!(decide(&[row(1, "a", "1", 1)], &batch), [email_taken("1"), Outdated]);
}

#[test]
fn of_two_that_want_an_email_the_newest_gets_it_then_the_smaller_id() {
    assert_eq!(decide(&[], &[profile(1, "a", "1", 1), profile(2, "a", "2", 2)]), [email_taken("2"), Synced]);
    assert_eq!(decide(&[], &[profile(2, "a", "2", 1), profile(1, "a", "1", 1)]), [email_taken("1"), Synced]);
}

#[test]
fn what_is_given_free_may_be_taken_and_swapped_in_a_circle() {
    let stored = [row(1, "a", "1", 1), row(2, "b", "2", 1), row(3, "c", "3", 1)];
    let handed_over = [profile(1, "z", "1", 2), profile(2, "a", "2", 2)];
    assert_eq!(decide(&stored, &handed_over), [Synced, Synced]);
    let circle = [profile(1, "b", "2", 2), profile(2, "c", "3", 3), profile(3, "a", "1", 4)];
    assert_eq!(decide(&stored, &circle), [Synced, Synced, Synced]);
}

#[test]
fn a_loser_keeps_its_row_and_so_takes_from_others() {
    let stored = [row(1, "a", "1", 1), row(2, "b", "2", 1), row(3, "c", "3", 1)];
    // 3 keeps c; so 2 does not get it and keeps b; so 1 does not get that.
    let batch = [profile(1, "b", "1", 9), profile(2, "c", "2", 5)];
    assert_eq!(decide(&stored, &batch), [email_taken("2"), email_taken("3")]);
    // 2 loses z to 1, and keeps b, which 3 wanted.
    let batch = [profile(1, "z", "1", 9), profile(2, "z", "2", 5), profile(3, "b", "3", 9)];
    assert_eq!(decide(&stored, &batch), [Synced, email_taken("1"), email_taken("2")]);
}

#[test]
fn nobody_loses_to_one_that_is_itself_out() {
    // 1 is newer than 2, but gets nothing, since its mobile is kept by 3; in the end its email is 2's, too.
    let stored = [row(3, "c", "3", 1)];
    assert_eq!(decide(&stored, &[profile(1, "z", "3", 9), profile(2, "z", "2", 5)]), [email_taken("2"), Synced]);
}

fn name(number: u8) -> String {
    format!("v{number}")
}

/// A table whose emails and mobiles are unique, and profiles that want them.
fn worlds() -> impl Strategy<Value = (Vec<Stored>, Vec<Item<'static>>)> {
    let numbers = || Just((0..8u8).collect::<Vec<_>>()).prop_shuffle();
    let stored = (
        subsequence((0..8u128).collect::<Vec<_>>(), 0..=6),
        numbers(),
        numbers(),
        proptest::collection::vec(0..4i64, 8),
    );
    let stored = stored.prop_map(|(ids, emails, mobiles, times)| {
        ids.iter().enumerate().map(|(i, id)| row(*id, &name(emails[i]), &name(mobiles[i]), times[i])).collect()
    });
    let profiles = proptest::collection::vec((0..8u128, 0..8u8, 0..8u8, 0..6i64), 0..12);
    let profiles = profiles.prop_map(|them| {
        them.into_iter().map(|(id, email, mobile, second)| profile(id, &name(email), &name(mobile), second)).collect()
    });
    (stored, profiles)
}

/// The table afterwards.
fn apply(stored: &[Stored], profiles: &[Item<'_>], outcomes: &[Outcome<'_>]) -> Vec<Stored> {
    let mut rows: HashMap<String, Stored> = stored.iter().map(|row| (row.key.clone(), row.clone())).collect();
    for (profile, _) in profiles.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Synced) {
        let row = Stored {
            key: profile.key.to_string(),
            claims: profile.values.iter().map(|value| value.as_deref().map(str::to_owned)).collect(),
            newer: profile.newer,
        };
        let before = rows.insert(row.key.clone(), row);
        assert!(before.is_none_or(|before| before.newer < profile.newer), "only what is newer is stored");
    }
    let mut rows: Vec<Stored> = rows.into_values().collect();
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    rows
}

proptest! {
    #[test]
    fn property_the_order_of_a_batch_decides_nothing((stored, profiles) in worlds(), shuffled in any::<Index>()) {
        let mut other = profiles.clone();
        other.reverse();
        let middle = if other.is_empty() { 0 } else { shuffled.index(other.len()) };
        other.rotate_left(middle);
        let mut told: Vec<_> = decide(&stored, &profiles).into_iter().map(|outcome| format!("{outcome:?}")).collect();
        let mut told_other: Vec<_> = decide(&stored, &other).into_iter().map(|outcome| format!("{outcome:?}")).collect();
        told.sort();
        told_other.sort();
        prop_assert_eq!(told, told_other);
        let after = apply(&stored, &profiles, &decide(&stored, &profiles));
        prop_assert_eq!(&after, &apply(&stored, &other, &decide(&stored, &other)));
        prop_assert!(!decide(&after, &profiles).contains(&Synced), "the same again changes nothing");
    }

    #[test]
    fn property_the_table_stays_unique_and_whoever_is_turned_away_has_met_its_rival((stored, profiles) in worlds()) {
        let outcomes = decide(&stored, &profiles);
        let after = apply(&stored, &profiles, &outcomes);
        let [emails, mobiles] = UNIQUE.map(|nth| after.iter().map(|row| &row.claims[nth]).collect::<BTreeSet<_>>());
        prop_assert_eq!((emails.len(), mobiles.len()), (after.len(), after.len()));
        for (profile, outcome) in profiles.iter().zip(&outcomes) {
            let Outcome::Taken { nth, by } = outcome else { continue };
            prop_assert!(*by != profile.key);
            let wanted = profile.claims(&UNIQUE)[*nth];
            let is_rival = stored.iter().any(|row| row.key == *by && row.claims[*nth].as_deref() == wanted)
                || profiles.iter().any(|other| other.key == *by && other.claims(&UNIQUE)[*nth] == wanted);
            prop_assert!(is_rival, "{profile:?} {outcome:?}");
        }
    }

    #[test]
    fn property_the_newest_that_nobody_disputes_is_stored((stored, profiles) in worlds()) {
        let outcomes = decide(&stored, &profiles);
        for (index, profile) in profiles.iter().enumerate() {
            let wanted = profile.claims(&UNIQUE);
            let is_disputed = stored.iter().filter(|row| row.key != profile.key).any(|row| {
                row.claims.iter().zip(&wanted).any(|(claim, wanted)| claim.as_deref() == *wanted)
            }) || profiles.iter().filter(|other| other.key != profile.key).any(|other| {
                other.claims(&UNIQUE).iter().zip(&wanted).any(|(claim, wanted)| claim == wanted)
            });
            let is_newest = stored.iter().all(|row| row.key != profile.key || row.newer < profile.newer)
                && profiles.iter().all(|other| other.key != profile.key || other.newer < profile.newer || other == profile);
            if is_newest && !is_disputed {
                prop_assert!(profiles.iter().zip(&outcomes).any(|(other, outcome)| other == profile && *outcome == Synced), "{index}");
            }
        }
    }
}
