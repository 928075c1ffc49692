//! Rounds: while everything moves, when they are interrupted, and when nobody asks.

use std::time::Duration;

use serde_json::json;

use crate::fixture::Fixture;

const A_MINUTE: Duration = Duration::from_secs(60);

/// Changes rows of `demo.item` for as long as it is polled.
async fn keep_writing(fixture: &Fixture) {
    let client = fixture.database.owner().await.unwrap();
    loop {
        let id = fastrand::i64(1..=2000);
        let statement = match fastrand::u8(0..4) {
            0 => format!("DELETE FROM demo.item WHERE id = {id}"),
            1 => format!(
                "BEGIN; UPDATE demo.item SET value = value || '.' WHERE id < 2000 AND id % 50 = {}; SELECT pg_sleep(0.05); COMMIT",
                id % 50
            ),
            _ => format!(
                "INSERT INTO demo.item VALUES ({id}, 'written') ON CONFLICT (id) DO UPDATE SET value = 'at ' || clock_timestamp()"
            ),
        };
        client.batch_execute(&statement).await.unwrap();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..4))).await;
    }
}

#[tokio::test]
async fn while_everything_moves_nothing_is_confirmed_that_does_not_differ_and_what_does_is() {
    let fixture = Fixture::with_items(2000).await;
    // Nobody changes these.
    fixture.execute("INSERT INTO demo.item SELECT n, 'quiet' FROM generate_series(3001, 3100) AS n").await;
    fixture.drain().await;
    fixture.write("items", "3010", Some(r#"{"id":3010,"value":"altered"}"#)).await;
    fixture.write("items", "3020", None).await;
    fixture.write("items", "4000", Some("{}")).await;
    let rounds = async {
        for _ in 0..3 {
            fixture.validate("items", false).await;
            assert_eq!(
                fixture.differences("items").await,
                "extra confirmed 4000, missing confirmed 3020, stale confirmed 3010"
            );
        }
        fixture.validate("items", true).await
    };
    let row = tokio::select! {
        row = rounds => row,
        () = keep_writing(&fixture) => unreachable!("it does not end"),
    };
    assert_eq!((&row["verdict"], &row["repaired"]), (&json!("equal"), &json!(3)), "{row}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_round_that_is_killed_again_and_again_comes_to_its_end() {
    let fixture = Fixture::with_items(2000).await;
    for key in ["7", "1900"] {
        fixture.write("items", key, Some(r#"{"id":0,"value":"altered"}"#)).await;
    }
    fixture.write("items", "9999", Some("{}")).await;
    let validator = fixture.validator(&[]);
    let event = json!({"command": "begin", "stream": "items", "repair": true, "actor": "a test"});
    fixture.handle(&validator, event, A_MINUTE).await.unwrap();
    for kill in 0..40 {
        let event = json!({"command": "go_on", "streams": ["items"]});
        let work = fixture.handle(&validator, event, A_MINUTE);
        // Dropped at any point; the lease of the dead runs out.
        let killed = tokio::time::timeout(Duration::from_millis(5 + 9 * kill), work).await;
        fixture.execute("UPDATE sluice.lease SET expires_at = clock_timestamp() - interval '1 s'").await;
        if killed.is_ok_and(|answer| answer.unwrap()["finished"] == true) {
            break;
        }
        fixture.drain().await;
    }
    let row = fixture.go_on(&validator, "items").await;
    assert_eq!(row["verdict"], "equal", "{row}");
    assert_eq!(fixture.differences("items").await, "extra repaired 9999, stale repaired 1900 7");
    let logged: i64 = fixture.value("SELECT count(*) FROM sluice.outbox WHERE only_for = 'elasticsearch'").await;
    assert_eq!(logged, 3, "each once");
    fixture.remove().await;
}

#[tokio::test]
async fn two_at_once_do_not_work_on_one_stream() {
    let fixture = Fixture::with_items(500).await;
    fixture.write("items", "7", None).await;
    let validator = fixture.validator(&[]);
    let event = json!({"command": "begin", "stream": "items", "repair": true, "actor": "a test"});
    fixture.handle(&validator, event, A_MINUTE).await.unwrap();
    fixture.execute("INSERT INTO sluice.lease VALUES ('validate elasticsearch items', 'another', clock_timestamp() + interval '1 hour')").await;
    let event = json!({"command": "go_on", "streams": ["items"]});
    let answer = fixture.handle(&validator, event, Duration::from_secs(6)).await.unwrap();
    assert_eq!((&answer["finished"], &answer["streams"][0]["state"]), (&json!(false), &json!("asked")));
    // Whoever was frozen finds that its turn is over.
    let stale = "SELECT sluice.note_page('elasticsearch', 'items', 'frozen', 'i', 'q', 'index', NULL, 0, 1, 0, 0, pg_current_snapshot(), '{}', '{}', '{}', '{}')";
    let refused = fixture.owner.batch_execute(stale).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "SL003");
    fixture.execute("DELETE FROM sluice.lease").await;
    fixture.go_on(&validator, "items").await;
    assert_eq!(fixture.differences("items").await, "missing repaired 7");
    fixture.remove().await;
}

#[tokio::test]
async fn a_scrub_begins_what_is_due_and_leaves_the_rest() {
    let fixture = Fixture::with_items(10).await;
    let validator = fixture.validator(&[("VALIDATE_WITHIN", "0s"), ("STAY", "5s")]);
    fixture.handle(&validator, json!({"source": "aws.events"}), A_MINUTE).await.unwrap();
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM sluice.validation").await, 0);

    fixture.write("items", "7", None).await;
    let validator = fixture.validator(&[("STAY", "30s"), ("REPAIR_CONFIRMED", "true")]);
    let scrub = async || {
        let work = fixture.handle(&validator, json!({"source": "aws.events"}), A_MINUTE);
        tokio::select! {
            answer = work => answer.unwrap(),
            () = fixture.keep_draining() => unreachable!("it does not end"),
        }
    };
    assert_eq!(scrub().await["repaired"], 1);
    let rounds = "SELECT string_agg(format('%s %s %s %s', stream, actor, state, verdict), ', ' ORDER BY stream) FROM sluice.validation";
    assert_eq!(fixture.value::<String>(rounds).await, "items scrub done equal, sluice_heartbeat scrub done equal");
    let begun = "SELECT max(begun_at)::text FROM sluice.validation";
    let first: String = fixture.value(begun).await;
    assert_eq!(scrub().await, json!({"checked": 0, "repaired": 0}));
    assert_eq!(fixture.value::<String>(begun).await, first, "it is not due");
    fixture
        .execute("UPDATE sluice.validation SET begun_at = begun_at - interval '13 hours' WHERE stream = 'items'")
        .await;
    assert_eq!(scrub().await["checked"], 10);
    fixture.remove().await;
}

#[tokio::test]
async fn a_round_waits_while_what_is_sent_lags_behind_and_confirms_nothing_before_it_has_arrived() {
    let fixture = Fixture::with_items(10).await;
    fixture.execute("UPDATE demo.item SET value = 'not drained' WHERE id = 3").await;
    let validator = fixture.validator(&[]);
    // However slow this machine is: it does not lag behind yet.
    fixture.execute("UPDATE sluice.outbox SET created_at = created_at + interval '1 hour'").await;
    let event = json!({"command": "begin", "stream": "items", "actor": "a test"});
    fixture.handle(&validator, event, A_MINUTE).await.unwrap();
    fixture.go_on_until(&validator, "items", |row| row["state"] == "confirming").await;
    let event = json!({"command": "go_on", "streams": ["items"]});
    let answer = fixture.handle(&validator, event, Duration::from_secs(6)).await.unwrap();
    assert_eq!(answer["finished"], json!(false), "{answer}");
    assert_eq!(fixture.differences("items").await, "stale candidate 3");

    let begin = json!({"command": "begin", "stream": "items", "actor": "a test"});
    fixture.handle(&validator, begin, A_MINUTE).await.unwrap();
    fixture.execute("UPDATE sluice.outbox SET created_at = created_at - interval '2 hours'").await;
    let waits = json!("it waits until what is on its way has arrived");
    fixture.go_on_until(&validator, "items", |row| row["state"] == "source" && row["problem"] == waits).await;
    let row = fixture.go_on(&validator, "items").await;
    assert_eq!((&row["verdict"], &row["problem"]), (&json!("equal"), &json!(null)), "{row}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_round_with_too_many_differences_is_given_up_and_says_what_to_do() {
    let fixture = Fixture::with_items(12_000).await;
    for ids in (1..=12_000).collect::<Vec<i64>>().chunks(2000) {
        fixture.delete_all("items", ids).await;
    }
    let row = fixture.validate("items", false).await;
    assert_eq!(row["verdict"], "different");
    assert!(
        row["problem"].as_str().is_some_and(|it| it.contains("sluice.resync('items', target => 'elasticsearch')")),
        "{row}"
    );
    let row = fixture.validate("items", true).await;
    assert_eq!(
        (&row["verdict"], &row["repaired"], &row["problem"]),
        (&json!("equal"), &json!(12_000), &json!(null)),
        "{row}"
    );
    fixture.remove().await;
}
