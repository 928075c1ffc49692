use serde_json::Value;

use crate::fixture::{Fixture, id, profile, with};
use crate::wire::{Reply, Wire};

async fn fixture_with(pages: Vec<Vec<Value>>) -> (Fixture, ingest::Ingest, Wire) {
    let fixture = Fixture::new().await;
    let wire = Wire::start(move |number, _| Reply::page(&pages[number.min(pages.len() - 1)])).await;
    let ingest = fixture.ingest(&wire.url);
    (fixture, ingest, wire)
}

#[tokio::test]
async fn a_stored_row_keeps_its_data_and_says_what_is_wrong_until_a_newer_profile_is_stored() {
    let bad = with(profile(1, 1, 20), "email", "none");
    let pages = vec![vec![profile(1, 1, 10)], vec![bad.clone()], vec![bad], vec![profile(1, 1, 30)]];
    let (fixture, ingest, _wire) = fixture_with(pages).await;
    fixture.round(&ingest).await;
    for (times, invalid, duplicate) in [(1, 1, 0), (2, 0, 1)] {
        let tally = fixture.round(&ingest).await.tally;
        assert_eq!((tally.invalid, tally.duplicate), (invalid, duplicate));
        let told = fixture.profile(1).await;
        assert!(told.starts_with("e1@example.com +4915100000001 rejected email must be an address"), "{told}");
        assert_eq!(fixture.value::<i32>("SELECT times FROM sluice.ingest_rejects").await, times);
    }
    fixture.round(&ingest).await;
    assert_eq!(fixture.profile(1).await, "e1@example.com +4915100000001 synced");
    assert!(fixture.value::<bool>("SELECT resolved_at IS NOT NULL FROM sluice.ingest_rejects").await);
}

#[tokio::test]
async fn one_that_is_older_than_what_is_stored_marks_nothing() {
    let bad = with(profile(1, 1, 5), "email", "none");
    let (fixture, ingest, _wire) = fixture_with(vec![vec![profile(1, 1, 10), bad.clone()], vec![bad]]).await;
    for invalid in [1, 0] {
        assert_eq!(fixture.round(&ingest).await.tally.invalid, invalid);
        assert_eq!(fixture.profile(1).await, "e1@example.com +4915100000001 synced");
        assert!(fixture.value::<bool>("SELECT resolved_at IS NOT NULL FROM sluice.ingest_rejects").await);
    }
}

#[tokio::test]
async fn a_newer_reject_that_came_first_is_told_by_the_row_that_is_stored_after_it() {
    let bad = with(profile(1, 1, 20), "email", "none");
    let (fixture, ingest, _wire) = fixture_with(vec![vec![bad], vec![profile(1, 1, 10)]]).await;
    fixture.round(&ingest).await;
    assert_eq!(fixture.profile(1).await, "");
    fixture.round(&ingest).await;
    assert!(fixture.profile(1).await.contains(" rejected email must"), "{}", fixture.profile(1).await);
}

#[tokio::test]
async fn one_without_a_time_marks_its_row_once_and_not_again_after_it_was_mended() {
    let bad = with(profile(1, 1, 20), "last_updated_at", "yesterday");
    let pages = vec![vec![profile(1, 1, 10)], vec![bad.clone()], vec![profile(1, 1, 30)], vec![bad]];
    let (fixture, ingest, _wire) = fixture_with(pages).await;
    fixture.round(&ingest).await;
    fixture.round(&ingest).await;
    assert!(fixture.profile(1).await.contains(" rejected last_updated_at must"), "{}", fixture.profile(1).await);
    for _ in 0..2 {
        fixture.round(&ingest).await;
        assert_eq!(fixture.profile(1).await, "e1@example.com +4915100000001 synced");
    }
}

#[tokio::test]
async fn whatever_an_element_is_the_others_are_stored() {
    let fixture = Fixture::new().await;
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let large = format!(r#"{{"id": "{}", "name": "{}"}}"#, id(9), "x".repeat(100_000));
    let odd = r#"{"id": "\ud800", "name": "\u0000", "number": 1e999, "number": -0}"#;
    let body = format!("[null, 7, \"\", {deep}, {large}, {odd}, {odd}, {}]", profile(1, 1, 10));
    let wire = Wire::start(move |_, _| Reply::json(&body, &[])).await;
    let ingest = fixture.ingest(&wire.url);
    let summary = fixture.round(&ingest).await;
    let tally = summary.tally;
    let outcome = (summary.rounds, tally.synced, tally.invalid, tally.duplicate);
    assert_eq!(outcome, (1, 1, 6, 1), "{}", fixture.errors().await);
    let reasons = "SELECT string_agg(reason || times, ' ' ORDER BY reason, times) FROM sluice.ingest_rejects";
    assert_eq!(
        fixture.value::<String>(reasons).await,
        "id2 not_an_object1 not_an_object1 not_an_object1 not_an_object1 too_large1"
    );
    assert_eq!(
        fixture.value::<String>("SELECT profile_id::text FROM sluice.ingest_rejects WHERE reason = 'too_large'").await,
        id(9)
    );
}

#[tokio::test]
async fn rejects_that_nobody_has_sent_for_thirty_days_are_forgotten() {
    let (fixture, ingest, _wire) = fixture_with(vec![vec![Value::Null], vec![Value::from(7)]]).await;
    fixture.round(&ingest).await;
    fixture.owner.batch_execute("UPDATE sluice.ingest_rejects SET last_at = now() - interval '31 days'").await.unwrap();
    fixture.round(&ingest).await;
    assert_eq!(fixture.value::<String>("SELECT string_agg(payload::text, ' ') FROM sluice.ingest_rejects").await, "7");
}
