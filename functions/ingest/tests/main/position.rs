use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::fixture::{Fixture, ORIGIN_SECRET, profile, with};
use crate::wire::{Reply, Wire};

const POSITION: &str = "
    SELECT concat_ws(' ', coalesce(to_char(since, 'HH24:MI:SS'), '-'), coalesce(etag, '-'), substring(next FROM '[?].*'), chain_pages)
    FROM sluice.ingest_position";

/// The first line of a request.
fn line(head: &str) -> &str {
    head.lines().next().unwrap().trim_end_matches(" HTTP/1.1")
}

#[tokio::test]
async fn pages_are_followed_and_the_next_round_asks_from_a_little_before_the_newest() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|_, head| match line(head) {
        "GET /changes?tenant=5" => Reply::page_before(&[profile(1, 1, 3700)], "/changes?page=2"),
        "GET /changes?page=2" => Reply::page(&[profile(2, 2, 3600)]),
        _ => Reply::page(&[]),
    })
    .await;
    let ingest = fixture.ingest(&format!("{}/changes?tenant=5", wire.url));
    assert_eq!(fixture.round(&ingest).await.tally.synced, 2);
    assert_eq!(fixture.value::<String>(POSITION).await, "01:00:40 - 0", "a minute before 01:01:40");
    fixture.round(&ingest).await;
    assert_eq!(line(&wire.requests()[2]), "GET /changes?tenant=5&since=2026-01-01T01%3A00%3A40Z");
    assert_eq!(fixture.value::<String>(POSITION).await, "01:00:40 - 0", "nothing new moves nothing");
    let counts = "SELECT last_counts::text FROM sluice.ingest_position";
    assert_eq!(
        fixture.value::<String>(counts).await,
        r#"{"synced": 0, "fetched": 0, "outdated": 0, "rejected": 0, "duplicate": 0}"#
    );
}

#[tokio::test]
async fn a_chain_that_breaks_is_read_on_where_it_broke() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|number, head| match (number, line(head)) {
        (0, _) => Reply::page_before(&[profile(1, 1, 3700)], "?page=2"),
        (1, _) => Reply::json("[", &[]),
        (_, "GET /?page=2") => Reply::page(&[profile(2, 2, 3600)]),
        _ => Reply::status("500 Internal Server Error"),
    })
    .await;
    let ingest = fixture.ingest(&wire.url);
    assert_eq!(fixture.round(&ingest).await.failures, 1);
    assert_eq!(fixture.value::<String>(POSITION).await, "- - ?page=2 1");
    assert_eq!(fixture.profile(1).await, "e1@example.com +4915100000001 synced");
    assert_eq!(fixture.round(&ingest).await.tally.synced, 1);
    assert_eq!(fixture.value::<String>(POSITION).await, "01:00:40 - 0", "by the newest of the whole chain");
    assert_eq!(fixture.value::<i32>("SELECT failures FROM sluice.ingest_position").await, 0);
}

#[tokio::test]
async fn a_next_page_is_remembered_without_the_secret_that_its_query_repeats() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|number, head| match (number, line(head)) {
        (0, _) => Reply::page_before(&[profile(1, 1, 3700)], "?page=2&key=%733cret!"),
        (1, _) => Reply::json("[", &[]),
        (_, "GET /?page=2&key=s3cret!") => Reply::page(&[profile(2, 2, 3600)]),
        _ => Reply::status("500 Internal Server Error"),
    })
    .await;
    let ingest = fixture.ingest(&format!("{}/?key=s3cret!", wire.url));
    assert_eq!(fixture.round(&ingest).await.failures, 1);
    assert_eq!(fixture.value::<String>(POSITION).await, "- - ?page=2&$0 1");
    let everything = "SELECT p::text FROM sluice.ingest_position AS p";
    assert!(!fixture.value::<String>(everything).await.contains("3cret"), "the secret is nowhere");
    assert_eq!(fixture.round(&ingest).await.tally.synced, 1);
}

#[tokio::test]
async fn a_chain_whose_next_page_is_gone_is_begun_anew() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|number, head| match (number, line(head)) {
        (0, _) => Reply::page_before(&[profile(1, 1, 3700)], "?page=2"),
        (_, "GET /?page=2") => Reply::status("410 Gone"),
        _ => Reply::page(&[profile(1, 1, 3700)]),
    })
    .await;
    let ingest = fixture.ingest(&wire.url);
    assert_eq!(fixture.round(&ingest).await.failures, 1);
    assert_eq!(fixture.value::<String>(POSITION).await, "- - 0");
    assert_eq!(fixture.round(&ingest).await.rounds, 1);
    assert_eq!(line(&wire.requests()[2]), "GET /");
}

#[tokio::test]
async fn an_unchanged_answer_is_not_sent_again() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|_, head| {
        if head.contains("if-none-match: \"v1\"") {
            Reply::status("304 Not Modified")
        } else {
            Reply::json(json!([profile(1, 1, 3700)]).to_string(), &[("etag", "\"v1\"")])
        }
    })
    .await;
    let ingest = fixture.ingest(&wire.url);
    for (fetched, position) in [(1, "01:00:40 - 0"), (1, "01:00:40 \"v1\" 0"), (0, "01:00:40 \"v1\" 0")] {
        let summary = fixture.round(&ingest).await;
        assert_eq!((summary.rounds, summary.tally.fetched), (1, fetched));
        assert_eq!(fixture.value::<String>(POSITION).await, position, "an ETag is of the same position alone");
    }
}

#[tokio::test]
async fn a_clock_that_is_ahead_moves_the_position_to_now_at_most() {
    let fixture = Fixture::new().await;
    let ahead: String = fixture.value("SELECT sluice.rfc3339(now() + interval '20 hours')").await;
    let wire = Wire::start(move |_, _| Reply::page(&[with(profile(1, 1, 1), "last_updated_at", ahead.as_str())])).await;
    assert_eq!(fixture.round(&fixture.ingest(&wire.url)).await.tally.synced, 1);
    assert!(fixture.value::<bool>("SELECT since <= now() - interval '60 s' FROM sluice.ingest_position").await);
}

#[tokio::test]
async fn the_origin_knows_us_by_a_header_which_may_be_rotated_and_is_for_it_alone() {
    let fixture = Fixture::new().await;
    let secret = |value: &str| json!({"header": "X-Api-Key", "value": value});
    let wire = Wire::start(|_, head| {
        if head.contains("x-api-key: second") {
            Reply::page(&[profile(1, 1, 1)])
        } else {
            Reply::status("403 Forbidden")
        }
    })
    .await;
    fixture.manager.put(ORIGIN_SECRET, &secret("first"));
    let ingest = || fixture.ingest_with(&wire.url, &[("ORIGIN_SECRET_ARN", ORIGIN_SECRET)]);
    let first = ingest();
    assert_eq!(fixture.round(&first).await.failures, 1);
    assert_eq!(wire.requests().len(), 2, "once more, with the secret as it is now");
    fixture.manager.put(ORIGIN_SECRET, &secret("second"));
    assert_eq!(fixture.round(&first).await.tally.synced, 1);
    fixture.manager.put(ORIGIN_SECRET, &secret("not\na header"));
    assert_eq!(fixture.round(&ingest()).await.failures, 1);
    let error = fixture.errors().await;
    assert!(error.contains("is no header") && error.contains(ORIGIN_SECRET) && !error.contains("not\na"), "{error}");
}

#[tokio::test]
async fn a_round_is_due_after_the_interval_or_when_somebody_asks_for_it() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|_, _| Reply::page(&[])).await;
    let an_hour = [("SYNC_INTERVAL", "1h")];
    let (one, other) = (fixture.ingest_with(&wire.url, &an_hour), fixture.ingest_with(&wire.url, &an_hour));
    assert_eq!(fixture.round_if_due(&one).await.rounds, 1);
    assert_eq!(fixture.round_if_due(&one).await.rounds, 0);
    assert_eq!(fixture.round_if_due(&other).await.rounds, 0, "whoever made the last one");
    fixture.owner.batch_execute("UPDATE sluice.ingest_position SET requested_at = now()").await.unwrap();
    assert_eq!(fixture.round_if_due(&other).await.rounds, 1);
    assert_eq!(fixture.round_if_due(&one).await.rounds, 0, "one was asked for");
    fixture
        .owner
        .batch_execute("UPDATE sluice.ingest_position SET last_run_at = last_run_at - interval '1 hour'")
        .await
        .unwrap();
    assert_eq!(fixture.round_if_due(&one).await.rounds, 1);
}

#[tokio::test]
async fn an_invocation_makes_the_round_that_is_due_and_ends_before_its_deadline() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|_, _| Reply::page(&[profile(1, 1, 1)])).await;
    let ingest = fixture.ingest_with(&wire.url, &[("STAY", "5s"), ("SYNC_INTERVAL", "1h")]);
    let deadline = SystemTime::now() + Duration::from_secs(60);
    fixture.define(&ingest).await;
    let summary = ingest.ingest.handle(deadline).await.unwrap();
    assert!(SystemTime::now() < deadline);
    assert_eq!((summary.rounds, summary.tally.synced), (1, 1));
}
