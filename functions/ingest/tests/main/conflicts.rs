use serde_json::Value;

use crate::fixture::{Fixture, id, profile};
use crate::wire::{Reply, Wire};

const OPEN: &str = "SELECT count(*) FROM sluice.ingest_rejects WHERE resolved_at IS NULL";

/// A round for each page.
async fn stored(pages: Vec<Vec<Value>>) -> Fixture {
    let fixture = Fixture::new().await;
    let rounds = pages.len();
    let wire = Wire::start(move |number, _| Reply::page(&pages[number])).await;
    let ingest = fixture.ingest(&wire.url);
    for _ in 0..rounds {
        let summary = fixture.round(&ingest).await;
        assert_eq!((summary.rounds, summary.failures), (1, 0), "{}", fixture.errors().await);
    }
    fixture
}

#[tokio::test]
async fn of_two_that_want_an_email_in_one_batch_the_newest_gets_it_in_both_orders_and_the_batch_goes_on() {
    let (newer, older, other) = (profile(1, 7, 20), profile(2, 7, 10), profile(3, 3, 10));
    for batch in [vec![newer.clone(), older.clone(), other.clone()], vec![other, older, newer]] {
        let fixture = stored(vec![batch]).await;
        assert_eq!(fixture.profile(1).await, "e7@example.com +4915100000007 synced");
        assert_eq!(fixture.profile(2).await, "");
        assert_eq!(fixture.profile(3).await, "e3@example.com +4915100000003 synced");
        let rejects = fixture.rejects().await;
        let expected = format!("{} email_taken the email belongs to another item, {} {{", id(2), id(1));
        assert!(rejects.starts_with(&expected) && rejects.lines().count() == 1, "{rejects}");
        assert!(rejects.contains("e7@example.com"), "its payload is kept: {rejects}");
        assert_eq!(fixture.count("rejected_conflict").await, 1);
    }
}

#[tokio::test]
async fn an_email_that_is_stored_stays_with_its_owner_and_whoever_wants_it_keeps_what_it_has() {
    let fixture = stored(vec![vec![profile(1, 1, 10), profile(2, 2, 10)], vec![profile(2, 1, 20)]]).await;
    assert_eq!(fixture.profile(1).await, "e1@example.com +4915100000001 synced");
    let message = format!("the email belongs to another item, {}", id(1));
    assert_eq!(fixture.profile(2).await, format!("e2@example.com +4915100000002 rejected {message}"));
    assert_eq!(fixture.value::<i64>(OPEN).await, 1);
}

#[tokio::test]
async fn two_profiles_may_swap_their_emails_in_one_batch() {
    let fixture =
        stored(vec![vec![profile(1, 1, 10), profile(2, 2, 10)], vec![profile(1, 2, 20), profile(2, 1, 20)]]).await;
    assert_eq!(fixture.profile(1).await, "e2@example.com +4915100000002 synced");
    assert_eq!(fixture.profile(2).await, "e1@example.com +4915100000001 synced");
    assert_eq!(fixture.rejects().await, "");
}

#[tokio::test]
async fn and_over_two_batches_without_the_origins_help() {
    for reverse in [false, true] {
        let mut swap = vec![vec![profile(1, 2, 20)], vec![profile(2, 1, 20)]];
        if reverse {
            swap.reverse();
        }
        let pages = [vec![vec![profile(1, 1, 10), profile(2, 2, 10)]], swap].concat();
        let fixture = stored(pages).await;
        assert_eq!(fixture.profile(1).await, "e2@example.com +4915100000002 synced");
        assert_eq!(fixture.profile(2).await, "e1@example.com +4915100000001 synced");
        assert_eq!(fixture.value::<i64>(OPEN).await, 0, "both are resolved: {}", fixture.rejects().await);
        assert_eq!(fixture.count("synced").await, 4);
        assert_eq!(fixture.count("rejected_conflict").await, 2);
    }
}

#[tokio::test]
async fn an_email_that_is_given_free_later_goes_to_whoever_was_turned_away() {
    let pages = vec![vec![profile(1, 1, 10)], vec![profile(2, 1, 20)], vec![profile(1, 9, 30)]];
    let fixture = stored(pages).await;
    assert_eq!(fixture.profile(1).await, "e9@example.com +4915100000009 synced");
    assert_eq!(fixture.profile(2).await, "e1@example.com +4915100000001 synced");
    assert_eq!(fixture.value::<i64>(OPEN).await, 0);
}

#[tokio::test]
async fn what_was_turned_away_is_not_stored_over_something_newer() {
    let pages =
        vec![vec![profile(1, 1, 10)], vec![profile(2, 1, 20)], vec![profile(2, 2, 30)], vec![profile(1, 9, 40)]];
    let fixture = stored(pages).await;
    assert_eq!(fixture.profile(2).await, "e2@example.com +4915100000002 synced");
    assert_eq!(fixture.value::<i64>(OPEN).await, 0);
}
