use serde_json::Value;

use crate::fixture::{Fixture, Ingesting, id, profile, with};
use crate::wire::{Reply, Wire};

async fn fixture_with(pages: Vec<Vec<Value>>) -> (Fixture, Ingesting, Wire) {
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
        fixture.value::<String>("SELECT key FROM sluice.ingest_rejects WHERE reason = 'too_large'").await,
        id(9)
    );
}

const KEPT: &str = "SELECT count(*) FROM sluice.ingest_rejects";

#[tokio::test]
async fn rejects_that_nobody_has_sent_for_thirty_days_are_forgotten() {
    let (fixture, ingest, _wire) = fixture_with(vec![vec![Value::Null], vec![Value::from(7)]]).await;
    fixture.round(&ingest).await;
    fixture.owner.batch_execute("UPDATE sluice.ingest_rejects SET last_at = now() - interval '31 days'").await.unwrap();
    fixture.round(&ingest).await;
    assert_eq!(fixture.value::<String>("SELECT string_agg(payload::text, ' ') FROM sluice.ingest_rejects").await, "7");
}

#[tokio::test]
async fn rejects_that_are_old_go_while_the_origin_is_away_and_without_any_ingest() {
    let fixture = Fixture::new().await;
    let old = "
        INSERT INTO sluice.ingest_rejects (source, reason, message, payload, payload_bytes, digest, last_at)
        SELECT 'gone', 'id', '', '7', 1, int8send(n), now() - make_interval(days => 29 + n % 2, secs => 60) FROM generate_series(1, 12000) AS n";
    fixture.owner.batch_execute(old).await.unwrap();
    let wire = Wire::start(|_, _| Reply::status("404 Not Found")).await;
    let ingest = fixture.ingest(&wire.url);
    for left in [7000, 6000] {
        assert_eq!(fixture.round(&ingest).await.failures, 1);
        assert_eq!(fixture.value::<i64>(KEPT).await, left, "some at a time, and none that is younger");
    }
    // As the trigger does it, as its own login, where `OriginUrl` was taken away.
    fixture.owner.batch_execute("UPDATE sluice.ingest_rejects SET last_at = last_at - interval '1 day'").await.unwrap();
    fixture.owner.batch_execute(&format!("SET ROLE {}", localstack::APP_ROLE)).await.unwrap();
    for forgotten in [4000, 2000, 0] {
        assert_eq!(fixture.value::<i64>("SELECT sluice.forget_rejects(4000)").await, forgotten);
    }
    fixture.owner.batch_execute("RESET ROLE").await.unwrap();
    assert_eq!(fixture.value::<i64>(KEPT).await, 0);
}

#[tokio::test]
async fn a_profile_that_is_rejected_again_and_again_with_one_other_field_is_kept_once() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|number, _| {
        let fetched_at = |profile| with(profile, "fetched_at", number);
        Reply::page(&[
            fetched_at(profile(9, 1, 10)),                                        // the owner of e1
            fetched_at(with(profile(1, 1, 20), "mobile", "none")),                // a time that stays
            fetched_at(with(profile(2, 2, 20), "last_updated_at", "yesterday")),  // none
            fetched_at(with(profile(3, 3, 20 + number as u32), "email", "none")), // a time that rises
            fetched_at(profile(4, 1, 20)),                                        // wants e1
        ])
    })
    .await;
    let ingest = fixture.ingest(&wire.url);
    for number in 0..20 {
        let tally = fixture.round(&ingest).await.tally;
        let news = if number == 0 { 4 } else { 1 };
        assert_eq!(tally.rejected(), news, "in round {number} only what is newer is news");
    }
    let all = "SELECT string_agg(concat_ws(' ', reason, times, payload->>'fetched_at'), ', ' ORDER BY reason) FROM sluice.ingest_rejects";
    assert_eq!(
        fixture.value::<String>(all).await,
        "email 20 19, email_taken 20 19, last_updated_at 20 19, mobile 20 19",
        "each once, as it came last"
    );
}

#[tokio::test]
async fn an_older_profile_that_is_rejected_for_the_same_reason_is_counted_and_nothing_else() {
    let newer = with(profile(1, 1, 20), "email", "newer");
    let older = with(profile(1, 1, 10), "email", "older");
    for pages in [vec![vec![newer.clone(), older.clone()]], vec![vec![newer.clone()], vec![older.clone()]]] {
        let rounds = pages.len();
        let (fixture, ingest, _wire) = fixture_with(pages).await;
        for _ in 0..rounds {
            fixture.round(&ingest).await;
        }
        assert_eq!((fixture.count("rejected_invalid").await, fixture.count("skipped_duplicate").await), (1, 1));
        let kept = "SELECT concat_ws(' ', payload->>'email', times, payload_bytes = octet_length(payload::text)) FROM sluice.ingest_rejects";
        assert_eq!(fixture.value::<String>(kept).await, "newer 2 t");
    }
}

#[tokio::test]
async fn there_are_no_more_rejects_than_are_kept_the_oldest_go_and_that_is_counted() {
    // By their number, and by their bytes.
    for (before, bytes, left) in [(27_000, 10, 20_000), (200, 1 << 20, 65)] {
        let fixture = Fixture::new().await;
        let wire = Wire::start(|number, _| Reply::page(&[Value::from(number), Value::Null])).await;
        let ingest = fixture.ingest(&wire.url);
        fixture.define(&ingest).await;
        // Of another source, too, which loses none.
        let many = format!(
            "INSERT INTO sluice.ingest_rejects (source, reason, message, payload, payload_bytes, digest, last_at)
             SELECT s, 'id', '', '\"old\"', {bytes}, int8send(n), now() - make_interval(mins => 1 + n)
             FROM generate_series(1, {before}) AS n, unnest('{{{0},other}}'::text[]) AS s
             WHERE s <> 'other' OR n <= 10",
            ingest.source
        );
        fixture.owner.batch_execute(&many).await.unwrap();
        let tally = fixture.round(&ingest).await.tally;
        assert_eq!(i64::try_from(tally.dropped).unwrap(), before + 2 - left, "{}", fixture.errors().await);
        assert_eq!(fixture.value::<i64>(KEPT).await, left + 10);
        assert_eq!(fixture.count("rejects_dropped").await, before + 2 - left);
        let newest = "SELECT string_agg(payload::text, ' ' ORDER BY payload::text) FROM sluice.ingest_rejects WHERE payload::text <> '\"old\"'";
        assert_eq!(fixture.value::<String>(newest).await, "0 null");
        let oldest = "SELECT floor(extract(epoch FROM now() - min(last_at)) / 60)::bigint FROM sluice.ingest_rejects";
        assert!(fixture.value::<i64>(oldest).await < left, "those that were sent the longest ago are gone");
    }
}

#[tokio::test]
async fn conflicts_that_are_large_are_tried_in_turns() {
    let fixture = Fixture::new().await;
    // Each wants what another keeps, in 60 KB.
    let padding = "x".repeat(60_000);
    let large = |number: u32, contact: u32| with(profile(number.into(), contact, 10), "padding", padding.as_str());
    let first: Vec<Value> = (0..100).map(|n| profile(n, u32::try_from(n).unwrap(), 1)).collect();
    let second: Vec<Value> = (0..100).map(|n| large(1000 + n, n)).collect();
    let free: Vec<Value> = (0..100).map(|n| profile(n, 5000 + u32::try_from(n).unwrap(), 20)).collect();
    let pages = [first, second, free, vec![]];
    let wire = Wire::start(move |number, _| Reply::page(&pages[number.min(3)])).await;
    let ingest = fixture.ingest(&wire.url);
    for (synced, open) in [(100, 0), (0, 100), (170, 30), (30, 0)] {
        assert_eq!(fixture.round(&ingest).await.tally.synced, synced, "{}", fixture.errors().await);
        let found = "SELECT count(*) FROM sluice.ingest_rejects WHERE resolved_at IS NULL";
        assert_eq!(fixture.value::<i64>(found).await, open);
    }
}
