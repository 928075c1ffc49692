//! Lists of whatever is stored.

use axum::http::Method;
use serde_json::Value;

use crate::fixture::{Fixture, OPERATOR};

/// Lambda's is 6 MB, within which the headers are, too.
const MOST: usize = 6_000_000;

/// All entries of a list, each of whose answers Lambda takes.
async fn all(fixture: &Fixture, path: &str, name: &str) -> usize {
    let mut count = 0;
    let mut before = String::new();
    loop {
        let (status, bytes) =
            fixture.bytes(Method::GET, &format!("{path}?limit=500{before}"), Some(OPERATOR), None).await;
        assert!(status.is_success(), "{path}: {status}");
        let text = String::from_utf8(bytes).unwrap();
        let given = serde_json::to_string(&text).unwrap().len();
        assert!(given < MOST, "{path}: {given} bytes");
        let answer: Value = serde_json::from_str(&text).unwrap();
        count += answer[name].as_array().unwrap().len();
        match answer["next_before"].as_i64() {
            Some(next) => before = format!("&before={next}"),
            None => return count,
        }
    }
}

#[tokio::test]
async fn no_answer_is_larger_than_lambda_takes_whatever_is_stored() {
    let fixture = Fixture::new().await;
    fixture
        .owner
        .batch_execute(
            r#"INSERT INTO sluice.ingest_rejects (source, reason, message, payload, digest)
               SELECT 'items', repeat('"', 300), repeat('\', 9000), to_json(repeat('"', 4000)), i::text::bytea FROM generate_series(1, 700) AS i;
               INSERT INTO sluice.audit (actor, action, subject, result, detail)
               SELECT repeat('"', 9000), repeat('\', 9000), repeat(E'\x01', 9000), repeat('"', 9000),
                   jsonb_build_object('key', repeat('"', 20000)) FROM generate_series(1, 700);
               INSERT INTO sluice.audit (actor, action, subject, result, detail)
               VALUES ('a', 'b', 'c', 'd', jsonb_build_object('key', repeat(E'\x01', 4000000)));
               INSERT INTO sluice.outbox (stream, key, op)
               SELECT 'item', i || repeat(E'\x01', 100000), 'delete' FROM generate_series(1, 700) AS i"#,
        )
        .await
        .unwrap();
    assert_eq!(all(&fixture, "/api/ingest/rejects", "rejects").await, 700);
    assert_eq!(all(&fixture, "/api/audit", "entries").await, 701);
    assert!(all(&fixture, "/api/outbox", "rows").await >= 700);
}

#[tokio::test]
async fn a_list_of_letters_is_no_larger_than_lambda_takes_whatever_is_in_them() {
    let fixture = Fixture::new().await;
    // More than an answer has room for, and so few that a list has the time to look at them.
    for _ in 0..30 {
        let quotes = "\\\"".repeat(60_000);
        fixture.letters.put_letter(
            &"\\u0001".repeat(2000),
            &"\\\\".repeat(2000),
            Some(&format!("{{\"a\": \"{quotes}\"}}")),
        );
    }
    let (_, bytes) = fixture.bytes(Method::GET, "/api/dlq", Some(OPERATOR), None).await;
    let text = String::from_utf8(bytes).unwrap();
    let given = serde_json::to_string(&text).unwrap().len();
    assert!(given < MOST, "{given} bytes");
    let list: Value = serde_json::from_str(&text).unwrap();
    let letters = list["letters"].as_array().unwrap();
    assert!(letters.len() >= 10, "{}", letters.len());
    assert!(letters.iter().any(|letter| letter["document"].is_object()), "as many documents as there is room for");
}

#[tokio::test]
async fn what_became_of_a_letter_is_found_by_an_index() {
    let fixture = Fixture::new().await;
    fixture
        .owner
        .batch_execute(
            "INSERT INTO sluice.audit (actor, action, subject, result, detail)
             SELECT 'a', 'redrive', 'message-' || i, 'redriven', jsonb_build_object('letter_change_id', i) FROM generate_series(1, 20000) AS i;
             ANALYZE sluice.audit",
        )
        .await
        .unwrap();
    let query = "EXPLAIN WITH found AS MATERIALIZED (
             SELECT * FROM sluice.audit
             WHERE action IN ('redrive', 'return') AND (subject = '7' OR detail ->> 'letter_change_id' = '7'))
         SELECT subject FROM found ORDER BY id DESC LIMIT 1";
    let plan = fixture.owner.query(query, &[]).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("audit_letter_change")), "{plan:#?}");
    assert!(!plan.iter().any(|line| line.contains("Seq Scan")), "{plan:#?}");
}
