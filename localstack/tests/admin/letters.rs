//! Dead letters are seen, mended, redriven, discarded.

use anyhow::Result;
use localstack::variable;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::client::{Admin, days, is_drained};

#[tokio::test]
async fn a_poison_document_is_seen_mended_and_redriven_and_the_audit_says_by_whom() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_poison").await?;
    stack.execute("INSERT INTO item VALUES (1, 'no day'), (2, '2026-01-01')").await?;
    let letters = admin.has_letters("admin_poison", 1).await;
    let letter = &letters[0];
    assert_eq!(
        (&letter["key"], &letter["op"], &letter["document"]["day"]),
        (&json!("1"), &json!("upsert"), &json!("no day"))
    );
    assert!(letter["error_type"].as_str().is_some_and(|it| it.ends_with("parsing_exception")), "{letter}");
    assert!(letter["reason"].as_str().is_some_and(|it| it.contains("no day")), "{letter}");
    assert!(letter["version"].is_i64() && letter["attempts"] == 1 && letter["first_seen"].is_string(), "{letter}");

    // Without the trigger, so that the redrive alone can bring it.
    stack.execute("UPDATE item SET day = '2026-02-02' WHERE id = 1").await?;
    let id = letter["message_id"].as_str().unwrap_or_default();
    let redriven = admin.post(&format!("/api/dlq/{id}/redrive"), json!({})).await?;
    assert_eq!(
        (&redriven["result"], &redriven["key"], &redriven["by"]),
        (&json!("redriven"), &json!("1"), &json!("operator"))
    );
    assert_eq!(stack.converges("admin_poison", "SELECT id::text FROM item").await?, 2);
    assert!(admin.letters("admin_poison").await?.is_empty());
    let audited = admin.audit("redrive").await?;
    let entry = audited.iter().find(|entry| entry["subject"] == id);
    assert!(
        entry.is_some_and(|it| it["actor"] == "operator" && it["detail"]["change_id"] == redriven["change_id"]),
        "{entry:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_still_wrong_is_a_letter_again_and_what_is_discarded_is_on_record() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_again").await?;
    stack.execute("INSERT INTO item VALUES (1, 'no day')").await?;
    let first = admin.has_letters("admin_again", 1).await.remove(0);
    // By its change id, as clients of the older API do.
    let retried = admin.get(&format!("/api/retry/{}", first["change_id"])).await?;
    assert_eq!(retried["result"], "redriven");
    let second = admin.has_letters("admin_again", 1).await.remove(0);
    assert_ne!(first["message_id"], second["message_id"]);
    assert_eq!(second["change_id"], retried["change_id"], "the letter of the redrive's own event");

    let path = format!("/api/dlq/{}", second["message_id"].as_str().unwrap_or_default());
    for reason in [json!({"reason": " "}), json!({"reason": "x".repeat(501)})] {
        assert_eq!(admin.call(Method::DELETE, &path, Some(reason)).await?.0, StatusCode::BAD_REQUEST);
    }
    assert_eq!(admin.call(Method::DELETE, &path, None).await?.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, discarded) = admin.call(Method::DELETE, &path, Some(json!({"reason": "it was a test"}))).await?;
    assert_eq!((status, &discarded["result"], &discarded["key"]), (StatusCode::OK, &json!("discarded"), &json!("1")));
    assert_eq!(admin.call(Method::DELETE, &path, Some(json!({"reason": "twice"}))).await?.0, StatusCode::NOT_FOUND);
    let entry = admin.audit("discard").await?.into_iter().find(|entry| entry["subject"] == second["message_id"]);
    let detail = entry.map(|entry| entry["detail"].clone()).unwrap_or_default();
    assert_eq!((&detail["reason"], &detail["stream"]), (&json!("it was a test"), &json!("admin_again")));
    assert!(detail.get("document").is_none(), "the audit keeps no documents");
    Ok(())
}

#[tokio::test]
async fn a_message_that_nobody_can_read_is_shown_as_it_came_and_returned_as_it_came() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_garbage").await?;
    let body = "no message at all: admin_garbage";
    stack.sqs.send_message().queue_url(variable("QUEUE_URL")).message_body(body).send().await?;
    let found = async || -> Result<Option<serde_json::Value>> {
        let list = admin.get("/api/dlq").await?;
        Ok(list["letters"].as_array().into_iter().flatten().find(|letter| letter["body"] == body).cloned())
    };
    let mut letter = None;
    localstack::eventually("the letter", async || {
        letter = found().await.map_err(|error| format!("{error:#}"))?;
        if letter.is_some() { Ok(()) } else { Err("it is not there".to_owned()) }
    })
    .await;
    let letter = letter.unwrap_or_default();
    assert_eq!((&letter["error_type"], &letter["stream"]), (&json!("malformed_message"), &json!(null)));
    let id = letter["message_id"].as_str().unwrap_or_default();
    let returned = admin.post(&format!("/api/dlq/{id}/redrive"), json!({})).await?;
    assert_eq!(returned["result"], "returned");
    localstack::eventually("it to be refused again", async || {
        let again = found().await.map_err(|error| format!("{error:#}"))?;
        if again.is_some_and(|again| again["message_id"] != id) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    is_drained(&stack).await;
    Ok(())
}

#[tokio::test]
async fn two_operators_redrive_a_letter_once_and_both_are_told_what_happened() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_two").await?;
    stack.execute("INSERT INTO item VALUES (1, 'no day')").await?;
    let letter = admin.has_letters("admin_two", 1).await.remove(0);
    stack.execute("SELECT sluice.pause('elasticsearch'); UPDATE item SET day = '2026-01-01'").await?;
    let count = "SELECT count(*) FROM sluice.outbox WHERE stream = 'admin_two'";
    let before: i64 = stack.owner.query_one(count, &[]).await?.get(0);
    let path = format!("/api/dlq/{}/redrive", letter["message_id"].as_str().unwrap_or_default());
    let (one, other) = tokio::join!(admin.post(&path, json!({})), admin.post(&path, json!({})));
    let (one, other) = (one?, other?);
    let mut results = [&one["result"], &other["result"]].map(|result| result.as_str().unwrap_or_default());
    results.sort_unstable();
    assert_eq!(results, ["already_redriven", "redriven"]);
    assert_eq!((&one["change_id"], &one["by"]), (&other["change_id"], &other["by"]));
    let again = admin.post(&path, json!({})).await?;
    assert_eq!((&again["result"], &again["change_id"]), (&json!("already_redriven"), &one["change_id"]));
    let after: i64 = stack.owner.query_one(count, &[]).await?.get(0);
    assert_eq!(after - before, 1, "one change");
    admin.post("/api/subscriptions/elasticsearch/resume", json!({})).await?;
    assert_eq!(stack.converges("admin_two", "SELECT id::text FROM item").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_letter_in_other_hands_is_in_flight_and_not_unknown() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_flight").await?;
    stack.execute("INSERT INTO item VALUES (1, 'no day')").await?;
    let letter = admin.has_letters("admin_flight", 1).await.remove(0);
    let path = format!("/api/dlq/{}/redrive", letter["message_id"].as_str().unwrap_or_default());
    let queue = variable("DEAD_LETTER_QUEUE_URL");
    let taken = stack.hide_letter(600).await;
    let (status, problem) = admin.call(Method::POST, &path, None).await?;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("in flight")), "{problem}");
    let handle = taken.receipt_handle.unwrap_or_default();
    let release = stack.sqs.change_message_visibility().queue_url(&queue).receipt_handle(handle).visibility_timeout(0);
    release.send().await?;
    assert_eq!(admin.post(&path, json!({})).await?["result"], "redriven");
    Ok(())
}
