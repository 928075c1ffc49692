//! What is done and what is on record are one thing.

use axum::http::{Method, StatusCode};
use database::describe;
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::fixture::Fixture;

/// All that a mutation may change.
const STATE: &str = "SELECT concat(
    (SELECT string_agg(s::text, ',' ORDER BY name) FROM sluice.subscription AS s),
    (SELECT string_agg(c::text, ',' ORDER BY id) FROM sluice.checkpoint AS c),
    (SELECT string_agg(p::text, ',' ORDER BY source) FROM sluice.ingest_position AS p),
    (SELECT string_agg(t::text, ',' ORDER BY id) FROM sluice.redrive_task AS t),
    (SELECT string_agg(u::text, ',' ORDER BY id) FROM demo.users AS u),
    (SELECT string_agg(v::text, ',' ORDER BY stream) FROM sluice.validation AS v),
    (SELECT string_agg(d::text, ',' ORDER BY id) FROM sluice.difference AS d),
    (SELECT string_agg(l::text, ',' ORDER BY id) FROM sluice.dead_letter AS l),
    (SELECT string_agg(g::text, ',' ORDER BY stream) FROM sluice.generation AS g),
    (SELECT count(*) FROM sluice.outbox))";
const BEGIN_TASK: &str =
    "INSERT INTO sluice.redrive_task (selection, actor, total) VALUES ('{}', 'operator', 1) RETURNING id::text";

#[tokio::test]
async fn a_mutation_that_cannot_be_put_on_record_is_not_carried_out() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    fixture
        .owner
        .batch_execute(
            "INSERT INTO sluice.ingest VALUES ('profiles', 'http', 'https://example.org/profiles', NULL, 'sluice.audit', 'id', 'at', '{}', '{}', '{}', '{}');
             INSERT INTO sluice.ingest_position (source) VALUES ('profiles');
             INSERT INTO sluice.checkpoint (subscription, name, seen, at, system_identifier, timeline)
                 SELECT name, 'before', seen, now(), system_identifier, timeline FROM sluice.subscription;
             INSERT INTO sluice.difference (subscription, stream, key, class, state) VALUES ('elasticsearch', 'item', '1', 'missing', 'confirmed');
             SELECT sluice.set_live('elasticsearch', 'item', 'item-1', mapping) FROM sluice.target WHERE stream = 'item';
             SELECT sluice.begin_generation('item', 2, 'item.g2-1');
             UPDATE sluice.generation SET state = 'kept';
             SELECT sluice.begin_generation('item', 3, 'item.g3-1');
             SELECT sluice.note_refusals('kafka', '{1,2}', '{item,item}', '{1,2}', '{1,1}', '{strict,strict}', '{no,no}')",
        )
        .await
        .unwrap();
    let task: String = fixture.one(BEGIN_TASK).await;
    let letter = fixture.letters.put_letter("item", "1", None);
    let another = fixture.letters.put("no message", &[]);
    let discard = Some(json!({"reason": "a test"}));
    let mutations = [
        (Method::POST, "/api/streams/item/rollback".to_owned(), None),
        (Method::POST, "/api/streams/item/takeover".to_owned(), Some(json!({}))),
        (Method::POST, "/api/streams/item/abort".to_owned(), None),
        (Method::POST, "/api/subscriptions/elasticsearch/pause".to_owned(), None),
        (Method::POST, "/api/subscriptions/fan_out/resume".to_owned(), None),
        (Method::POST, "/api/checkpoints".to_owned(), Some(json!({"name": "one"}))),
        (Method::POST, "/api/subscriptions/elasticsearch/replay".to_owned(), Some(json!({"from": "before"}))),
        (Method::POST, "/api/ingest/run".to_owned(), None),
        (Method::POST, "/api/validation".to_owned(), Some(json!({"stream": "item"}))),
        (Method::POST, "/api/validation".to_owned(), Some(json!({"stream": "item", "repair": true, "keys": ["1"]}))),
        (Method::POST, "/api/add-user".to_owned(), None),
        (Method::POST, "/api/update-user".to_owned(), None),
        (Method::POST, "/api/dlq/redrive".to_owned(), None),
        (Method::DELETE, format!("/api/dlq/redrive/{task}"), None),
        (Method::POST, format!("/api/dlq/redrive/{task}"), None),
        (Method::POST, format!("/api/dlq/{letter}/redrive"), None),
        (Method::DELETE, format!("/api/dlq/{letter}"), discard.clone()),
        (Method::DELETE, format!("/api/dlq/{another}"), discard.clone()),
        (Method::POST, "/api/dlq/kafka-1/redrive".to_owned(), None),
        (Method::DELETE, "/api/dlq/kafka-2".to_owned(), discard),
    ];
    fixture
        .owner
        .batch_execute("ALTER TABLE sluice.audit ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
        .await
        .unwrap();
    let before: String = fixture.one(STATE).await;
    for (method, path, body) in &mutations {
        let (status, answer) = fixture.call(method.clone(), path, body.clone()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{method} {path}: {answer}");
        let after: String = fixture.one(STATE).await;
        assert_eq!(after, before, "{method} {path}");
    }
    assert_eq!(fixture.letters.with_queue(|queue| queue.messages.len()), 2, "both letters are where they were");

    // With the audit back each is done, and is on record: the redrive of all takes the letters, so it comes last.
    fixture.owner.batch_execute("ALTER TABLE sluice.audit DROP CONSTRAINT full_disk").await.unwrap();
    for (method, path, body) in &mutations {
        if path.starts_with("/api/dlq/") {
            continue;
        }
        let count: i64 = fixture.one("SELECT count(*) FROM sluice.audit").await;
        let (status, answer) = fixture.call(method.clone(), path, body.clone()).await;
        assert!(status.is_success(), "{method} {path}: {answer}");
        let now: i64 = fixture.one("SELECT count(*) FROM sluice.audit").await;
        assert_eq!(now - count, 1, "{method} {path}");
    }
}

#[tokio::test]
async fn going_on_with_a_redrive_and_cancelling_it_are_on_record() {
    let fixture = Fixture::new().await;
    let task: String = fixture.one(BEGIN_TASK).await;
    let path = format!("/api/dlq/redrive/{task}");
    let held = fixture.letters.put("somebody else's", &[]);
    fixture.letters.hide(&held);
    assert_eq!(fixture.call(Method::POST, &path, None).await.0, StatusCode::ACCEPTED);
    let (status, cancelled) = fixture.call(Method::DELETE, &path, None).await;
    assert_eq!((status, &cancelled["state"]), (StatusCode::OK, &json!("cancelled")));
    let results: Vec<String> = fixture
        .one("SELECT array_agg(result ORDER BY id) FROM sluice.audit WHERE action = 'redrive_all' AND actor = 'operator'")
        .await;
    assert_eq!(results, ["gone on", "cancelled"]);
}

#[tokio::test]
async fn the_functions_login_can_forge_no_entry_of_the_audit() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    let functions = fixture.database.functions().await.unwrap();
    for statement in [
        "INSERT INTO sluice.audit (actor, action, subject, result) VALUES ('alice', 'redrive', 'letter', 'redriven')",
        "INSERT INTO sluice.audit (at, actor, action, subject, result) VALUES ('2020-01-01', 'alice', 'pause', 'x', 'done')",
        "SELECT sluice.audit('alice', NULL, 'redrive', 'letter', 'redriven', '{}')",
        "UPDATE sluice.audit SET actor = 'alice'",
        "DELETE FROM sluice.audit",
        "TRUNCATE sluice.audit",
        "ALTER TABLE sluice.audit DISABLE TRIGGER ALL",
        "COPY sluice.audit (actor, action, subject, result) FROM PROGRAM 'echo'",
    ] {
        let error = functions.batch_execute(statement).await.expect_err(statement);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {}", describe(&error));
    }
    // A redrive of something else in the letter's name does not keep the letter from being redriven.
    let other =
        "SELECT sluice.redrive('elasticsearch', 'message-000001', 'item', 'other', 'alice', NULL, '{\"key\": \"1\"}')";
    functions.batch_execute(other).await.unwrap();
    let letter = fixture.letters.put_letter("item", "1", None);
    let (status, outcome) = fixture.call(Method::POST, &format!("/api/dlq/{letter}/redrive"), None).await;
    assert_eq!((status, &outcome["result"], &outcome["key"]), (StatusCode::OK, &json!("redriven"), &json!("1")));
    // The other subscriptions had delivered it.
    let event =
        "SELECT string_agg(coalesce(only_for, 'all'), ' ') FROM sluice.outbox WHERE stream = 'item' AND key = '1'";
    assert_eq!(fixture.one::<String>(event).await, "elasticsearch");
}

#[tokio::test]
async fn mutations_of_the_demo_that_overlap_do_not_mix() {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute("TRUNCATE demo.users CASCADE").await.unwrap();
    let (adds, updates) =
        tokio::join!(async { tokio::join!(add(&fixture), add(&fixture), add(&fixture), add(&fixture)) }, async {
            tokio::join!(update(&fixture), update(&fixture), update(&fixture), update(&fixture))
        },);
    assert_eq!(adds, (StatusCode::OK, StatusCode::OK, StatusCode::OK, StatusCode::OK));
    for status in [updates.0, updates.1, updates.2, updates.3] {
        assert!([StatusCode::OK, StatusCode::CONFLICT].contains(&status), "{status}");
    }
    assert_eq!(fixture.one::<i64>("SELECT count(*) FROM demo.users").await, 4);
    assert_eq!(fixture.one::<i64>("SELECT count(*) FROM sluice.audit WHERE action = 'add_user'").await, 4);
}

async fn add(fixture: &Fixture) -> StatusCode {
    fixture.call(Method::POST, "/api/add-user", None).await.0
}

async fn update(fixture: &Fixture) -> StatusCode {
    fixture.call(Method::POST, "/api/update-user", None).await.0
}
