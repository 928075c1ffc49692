use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ingest::Summary;
use tokio::time::{Instant, sleep, timeout};

use crate::fixture::{Fixture, Ingesting, PATIENCE, profile};
use crate::wire::{Reply, Wire};

const FAILURES: &str = "SELECT failures FROM sluice.ingest_position";
const IS_UNDER_WAY: &str = "SELECT ends_by > now() FROM sluice.ingest_position";
const PASSED: &str = "UPDATE sluice.ingest_position SET ends_by = now() - interval '1 s'";

/// A round whose invocation ends so soon.
async fn round_of(ingesting: &Ingesting, end_in: Duration) -> Summary {
    let mut summary = Summary::default();
    let end_at = Instant::now() + end_in;
    Box::pin(ingesting.ingest.round(&ingesting.source, end_at, end_at, &mut summary)).await.unwrap();
    summary
}

/// Begins a round, and lets nothing more happen in it once this is so.
async fn kill_when(is_so: &str, fixture: &Fixture, url: &str) {
    let ingest = fixture.ingest(url);
    fixture.define(&ingest).await;
    tokio::select! {
        summary = round_of(&ingest, Duration::from_secs(60)) => panic!("it came to its end: {summary:?}"),
        () = wait_until("the step", fixture, is_so) => {}
    }
}

async fn wait_until(what: &str, fixture: &Fixture, query: &str) {
    let wait = async {
        while !fixture.value::<bool>(query).await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

#[tokio::test]
async fn a_round_that_is_killed_at_any_step_is_told_of_by_the_next_one_and_by_no_earlier() {
    // While the origin is asked, and while a batch is stored.
    for (table, waits) in [
        (None, "SELECT EXISTS (SELECT FROM sluice.ingest_position WHERE ends_by IS NOT NULL)"),
        (
            Some("LOCK TABLE profiles.users"),
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'profiles.users'::regclass)",
        ),
    ] {
        let fixture = Fixture::new().await;
        let is_silent = Arc::new(AtomicBool::new(table.is_none()));
        let answers = Arc::clone(&is_silent);
        let wire = Wire::start(move |_, _| {
            let page = Reply::page(&[profile(1, 1, 1)]);
            if answers.load(Ordering::Relaxed) { page.cut_by(1).then_silent() } else { page }
        })
        .await;
        fixture.define(&fixture.ingest(&wire.url)).await;
        if let Some(lock) = table {
            fixture.owner.batch_execute(&format!("BEGIN; {lock}")).await.unwrap();
        }
        kill_when(waits, &fixture, &wire.url).await;
        is_silent.store(false, Ordering::Relaxed);
        fixture.owner.batch_execute("COMMIT").await.unwrap();

        // It may be under way still, for all that others know.
        let ingest = fixture.ingest(&wire.url);
        let summary = fixture.round(&ingest).await;
        assert_eq!((summary.rounds, summary.tally.synced), (1, 1));
        assert_eq!(fixture.value::<i32>(FAILURES).await, 0);
        assert!(fixture.value::<bool>(IS_UNDER_WAY).await, "another's end says nothing of it");

        fixture.owner.batch_execute(PASSED).await.unwrap();
        assert_eq!(fixture.round(&ingest).await.rounds, 1);
        let error = fixture.errors().await;
        assert!(error.starts_with("a round that was to end by 20") && error.contains("it was killed"), "{error}");
        assert_eq!(fixture.count("rounds_failed").await, 1);
        let ended = "SELECT ends_by IS NULL AND failures = 0 FROM sluice.ingest_position";
        assert!(fixture.value::<bool>(ended).await, "and the one that told of it has ended well");
        assert_eq!(fixture.round(&ingest).await.rounds, 1);
        assert_eq!(fixture.count("rounds_failed").await, 1, "it is told of once");
    }
}

#[tokio::test]
async fn rounds_that_are_killed_again_and_again_are_counted() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|_, _| Reply::raw("").then_silent()).await;
    for failures in 0..3 {
        let begun = format!(
            "SELECT coalesce((SELECT ends_by > now() AND failures = {failures} FROM sluice.ingest_position), false)"
        );
        kill_when(&begun, &fixture, &wire.url).await;
        fixture.owner.batch_execute(&format!("{PASSED}, requested_at = now()")).await.unwrap();
    }
}

#[tokio::test]
async fn a_round_that_panics_is_recorded_and_the_next_one_goes_on() {
    let fixture = Fixture::new().await;
    // More bytes than there are: room for them cannot even be asked for, and this configuration does not refuse them.
    let wire = Wire::start(|number, _| match number {
        0 => Reply::raw(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9223372036854775808\r\n\r\n",
        ),
        _ => Reply::page(&[profile(1, 1, 1)]),
    })
    .await;
    let mut config = Fixture::config(&wire.url, &[]);
    config.max_body_bytes = usize::MAX;
    let ingest = fixture.ingest_of(config, PATIENCE);
    let summary = fixture.round(&ingest).await;
    assert_eq!((summary.rounds, summary.failures), (0, 1));
    assert!(fixture.errors().await.starts_with("a round panicked"), "{}", fixture.errors().await);
    assert_eq!(fixture.count("rounds_failed").await, 1);
    assert_eq!(fixture.round(&ingest).await.tally.synced, 1);
    assert_eq!(fixture.value::<i32>(FAILURES).await, 0);
}

#[tokio::test]
async fn a_round_that_overruns_its_invocation_is_broken_off_and_recorded_and_the_next_one_goes_on() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|_, _| Reply::page(&[profile(1, 1, 1)])).await;
    let ingest = fixture.ingest(&wire.url);
    fixture.define(&ingest).await;
    fixture.owner.batch_execute("BEGIN; LOCK TABLE profiles.users").await.unwrap();
    let summary = round_of(&ingest, Duration::from_secs(1)).await;
    assert_eq!((summary.rounds, summary.failures), (0, 1));
    fixture.owner.batch_execute("COMMIT").await.unwrap();
    assert!(fixture.errors().await.starts_with("a round had not ended when"), "{}", fixture.errors().await);
    let position = "SELECT failures = 1 AND ends_by IS NULL FROM sluice.ingest_position";
    assert!(fixture.value::<bool>(position).await);
    assert_eq!(fixture.round(&fixture.ingest(&wire.url)).await.tally.synced, 1);
}

#[tokio::test]
async fn a_statement_that_does_not_end_is_ended_and_told_of() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|_, _| Reply::page(&[profile(1, 1, 1)])).await;
    let sleeps = "
        CREATE FUNCTION profiles.sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
        CREATE TRIGGER sleeps BEFORE INSERT ON profiles.users FOR EACH ROW EXECUTE FUNCTION profiles.sleep()";
    fixture.owner.batch_execute(sleeps).await.unwrap();
    let ingest = fixture.ingest(&wire.url);
    assert_eq!(fixture.round(&ingest).await.failures, 1);
    let error = fixture.errors().await;
    assert!(error.contains("canceling statement due to statement timeout [57014]"), "{error}");
    fixture.owner.batch_execute("DROP TRIGGER sleeps ON profiles.users").await.unwrap();
    assert_eq!(fixture.round(&ingest).await.tally.synced, 1);
}
