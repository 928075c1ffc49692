use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use time::Duration;

use super::*;
use crate::profile::Status;

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(second)
}

fn row(id: u128, email: &str, mobile: &str, second: i64) -> Stored {
    Stored { id: Uuid::from_u128(id), email: email.to_owned(), mobile: mobile.to_owned(), last_updated_at: at(second) }
}

fn profile(id: u128, email: &str, mobile: &str, second: i64) -> Profile<'static> {
    Profile {
        id: Uuid::from_u128(id),
        name: "name".into(),
        email: email.to_owned().into(),
        mobile: mobile.to_owned().into(),
        status: Status::Active,
        last_updated_at: at(second),
        payload: "{}",
    }
}

fn email_taken(by: u128) -> Outcome {
    Outcome::Taken { reason: Reason::EmailTaken, by: Uuid::from_u128(by) }
}

fn mobile_taken(by: u128) -> Outcome {
    Outcome::Taken { reason: Reason::MobileTaken, by: Uuid::from_u128(by) }
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
fn an_email_of_another_id_stays_with_the_row_that_keeps_it() {
    assert_eq!(decide(&[row(1, "a", "1", 1)], &[profile(2, "a", "2", 9)]), [email_taken(1)]);
    assert_eq!(decide(&[row(1, "a", "1", 1)], &[profile(2, "b", "1", 9)]), [mobile_taken(1)]);
    // An older profile of its owner gives nothing free.
    let batch = [profile(2, "a", "2", 9), profile(1, "b", "1", 0)];
    assert_eq!(decide(&[row(1, "a", "1", 1)], &batch), [email_taken(1), Outdated]);
}

#[test]
fn of_two_that_want_an_email_the_newest_gets_it_then_the_smaller_id() {
    assert_eq!(decide(&[], &[profile(1, "a", "1", 1), profile(2, "a", "2", 2)]), [email_taken(2), Synced]);
    assert_eq!(decide(&[], &[profile(2, "a", "2", 1), profile(1, "a", "1", 1)]), [email_taken(1), Synced]);
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
    assert_eq!(decide(&stored, &batch), [email_taken(2), email_taken(3)]);
    // 2 loses z to 1, and keeps b, which 3 wanted.
    let batch = [profile(1, "z", "1", 9), profile(2, "z", "2", 5), profile(3, "b", "3", 9)];
    assert_eq!(decide(&stored, &batch), [Synced, email_taken(1), email_taken(2)]);
}

#[test]
fn nobody_loses_to_one_that_is_itself_out() {
    // 1 is newer than 2, but gets nothing, since its mobile is kept by 3; in the end its email is 2's, too.
    let stored = [row(3, "c", "3", 1)];
    assert_eq!(decide(&stored, &[profile(1, "z", "3", 9), profile(2, "z", "2", 5)]), [email_taken(2), Synced]);
}

fn name(number: u8) -> String {
    format!("v{number}")
}

/// A table whose emails and mobiles are unique, and profiles that want them.
fn worlds() -> impl Strategy<Value = (Vec<Stored>, Vec<Profile<'static>>)> {
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
fn apply(stored: &[Stored], profiles: &[Profile<'_>], outcomes: &[Outcome]) -> Vec<Stored> {
    let mut rows: HashMap<Uuid, Stored> = stored.iter().map(|row| (row.id, row.clone())).collect();
    for (profile, _) in profiles.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Synced) {
        let row = Stored {
            id: profile.id,
            email: profile.email.to_string(),
            mobile: profile.mobile.to_string(),
            last_updated_at: profile.last_updated_at,
        };
        let before = rows.insert(row.id, row);
        assert!(
            before.is_none_or(|before| before.last_updated_at < profile.last_updated_at),
            "only what is newer is stored"
        );
    }
    let mut rows: Vec<Stored> = rows.into_values().collect();
    rows.sort_by_key(|row| row.id);
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
        let emails: BTreeSet<&str> = after.iter().map(|row| row.email.as_str()).collect();
        let mobiles: BTreeSet<&str> = after.iter().map(|row| row.mobile.as_str()).collect();
        prop_assert_eq!((emails.len(), mobiles.len()), (after.len(), after.len()));
        for (profile, outcome) in profiles.iter().zip(&outcomes) {
            let Outcome::Taken { reason, by } = outcome else { continue };
            prop_assert!(*by != profile.id);
            let wants = |email: &str, mobile: &str| if *reason == Reason::EmailTaken { email == profile.email } else { mobile == profile.mobile };
            let is_rival = stored.iter().any(|row| row.id == *by && wants(&row.email, &row.mobile))
                || profiles.iter().any(|other| other.id == *by && wants(&other.email, &other.mobile));
            prop_assert!(is_rival, "{profile:?} {outcome:?}");
        }
    }

    #[test]
    fn property_the_newest_that_nobody_disputes_is_stored((stored, profiles) in worlds()) {
        let outcomes = decide(&stored, &profiles);
        for (index, profile) in profiles.iter().enumerate() {
            let rows = || stored.iter().filter(|row| row.id != profile.id);
            let others = || profiles.iter().filter(|other| other.id != profile.id);
            let is_disputed = rows().any(|row| row.email == profile.email || row.mobile == profile.mobile)
                || others().any(|other| other.email == profile.email || other.mobile == profile.mobile);
            let is_newest = stored.iter().all(|row| row.id != profile.id || row.last_updated_at < profile.last_updated_at)
                && profiles.iter().all(|other| other.id != profile.id || other.last_updated_at < profile.last_updated_at || other == profile);
            if is_newest && !is_disputed {
                prop_assert!(profiles.iter().zip(&outcomes).any(|(other, outcome)| other == profile && *outcome == Synced), "{index}");
            }
        }
    }
}
