//! A redrive, however late, ends with index = source.

use anyhow::Result;
use elasticsearch::http::Method;
use localstack::{Service, eventually, eventually_within, variable};
use serde_json::json;

use crate::client::{Admin, days, is_drained};
use crate::stack::{ARRIVAL, Stack, mapping};

#[tokio::test]
async fn an_old_letter_of_a_row_that_was_changed_deleted_or_made_anew_leaves_index_and_source_equal() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_old").await?;
    stack.execute("INSERT INTO item SELECT i, 'no day' FROM generate_series(1, 4) AS i").await?;
    admin.has_letters("admin_old", 4).await;
    stack
        .execute(
            "UPDATE item SET day = '2026-01-01' WHERE id = 1;
             DELETE FROM item WHERE id = 2;
             DELETE FROM item WHERE id = 3; INSERT INTO item VALUES (3, '2026-03-03'), (5, '2026-05-05');
             UPDATE item SET day = '2026-04-04' WHERE id = 4; DELETE FROM item WHERE id = 4",
        )
        .await?;
    assert_eq!(stack.converges("admin_old", "SELECT id::text FROM item").await?, 3);
    assert_eq!(admin.redrive_all(json!({"stream": "admin_old"})).await?, 4);
    is_drained(&stack).await;
    assert_eq!(stack.converges("admin_old", "SELECT id::text FROM item").await?, 3);
    admin.has_letters("admin_old", 0).await;
    Ok(())
}

#[tokio::test]
async fn a_letter_of_an_emitted_document_never_overwrites_a_newer_one() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = Stack::connect("admin_emit").await?;
    let define = async |fields: &[(&str, &str)]| {
        let mapping = mapping(fields);
        stack.execute(&format!("SELECT sluice.define_stream('admin_emit', mapping => '{mapping}')")).await?;
        stack.migrate().await
    };
    define(&[("id", "integer")]).await?;
    stack.execute("SELECT sluice.emit('admin_emit', 'k', payload => '{\"word\": \"old\"}')").await?;
    admin.has_letters("admin_emit", 1).await;
    define(&[("id", "integer"), ("word", "keyword")]).await?;
    stack.execute("SELECT sluice.emit('admin_emit', 'k', payload => '{\"word\": \"new\"}')").await?;
    let is_new = async || match stack.indexed("admin_emit").await {
        Ok(indexed) if indexed.get("k").is_some_and(|text| text.contains("new")) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("the newer document", is_new).await;
    let stale = async || -> Result<i64> {
        let query = "SELECT coalesce(sum(value), 0)::bigint FROM sluice.delivery_stats
             WHERE stream = 'admin_emit' AND measure = 'stale'";
        Ok(stack.owner.query_one(query, &[]).await?.get(0))
    };
    let before = stale().await?;
    assert_eq!(admin.redrive_all(json!({"stream": "admin_emit"})).await?, 1);
    eventually("the old one to be found stale", async || {
        let now = stale().await.map_err(|error| format!("{error:#}"))?;
        if now > before { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
    eventually("the newer document", is_new).await;
    admin.has_letters("admin_emit", 0).await;
    Ok(())
}

#[tokio::test]
async fn a_letter_that_a_change_of_the_mapping_mends_comes_in_by_the_redrive_alone() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = Stack::connect("admin_mapping").await?;
    let narrow = json!({"properties": {"id": {"type": "integer"}, "word": {"type": "object"}}});
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, word text);
             SELECT sluice.define_stream('admin_mapping', source => 'admin_mapping.item', key => 'id', mapping => '{narrow}');
             SELECT sluice.track('item', stream => 'admin_mapping', key => 'id')"
        ))
        .await?;
    stack.migrate().await?;
    stack.execute("INSERT INTO item VALUES (1, 'a word')").await?;
    let letter = admin.has_letters("admin_mapping", 1).await.remove(0);
    admin.post("/api/subscriptions/elasticsearch/pause", json!({})).await?;
    // A change of a field's type takes a new index.
    let index: String =
        stack.owner.query_one("SELECT live_index FROM sluice.target WHERE stream = 'admin_mapping'", &[]).await?.get(0);
    stack.search(Method::Delete, &format!("/{index}"), None).await?;
    let wide = mapping(&[("id", "integer"), ("word", "keyword")]);
    stack
        .execute(&format!(
            "SELECT sluice.drop_stream('admin_mapping');
             SELECT sluice.define_stream('admin_mapping', source => 'admin_mapping.item', key => 'id', mapping => '{wide}');
             SELECT sluice.track('item', stream => 'admin_mapping', key => 'id')"
        ))
        .await?;
    stack.migrate().await?;
    assert!(stack.indexed("admin_mapping").await?.is_empty());
    let path = format!("/api/dlq/{}/redrive", letter["message_id"].as_str().unwrap_or_default());
    assert_eq!(admin.post(&path, json!({})).await?["result"], "redriven");
    admin.post("/api/subscriptions/elasticsearch/resume", json!({})).await?;
    assert_eq!(stack.converges("admin_mapping", "SELECT id::text FROM item").await?, 1);
    let waiting: i64 = stack.owner.query_one("SELECT count(*) FROM sluice.expansion", &[]).await?.get(0);
    assert_eq!(waiting, 0, "nothing else was read again");
    Ok(())
}

/// By the minute's own invocation, without waiting for the minute.
async fn tick(stack: &Stack) -> Result<()> {
    stack.invoke(&variable("ADMIN_FUNCTION"), r#"{"source": "aws.events"}"#).await.map(drop)
}

#[tokio::test]
async fn a_redrive_that_is_killed_again_and_again_redrives_each_letter_once() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_killed").await?;
    stack.execute("INSERT INTO item SELECT i, 'no day' FROM generate_series(1, 300) AS i").await?;
    admin.has_depth(300).await;
    stack.execute("UPDATE item SET day = '2026-01-01'").await?;
    let redriven = async || -> Result<i64> {
        let query =
            "SELECT count(*) FROM sluice.audit WHERE action = 'redrive' AND detail ->> 'stream' = 'admin_killed'";
        Ok(stack.owner.query_one(query, &[]).await?.get(0))
    };
    let before = redriven().await?;
    for (kills, wanted) in [40, 120, 200].into_iter().enumerate() {
        let request = async {
            // Cut off by the kill, most often.
            let begun = if kills == 0 { admin.post("/api/dlq/redrive", json!({})).await } else { Ok(json!(null)) };
            tick(&stack).await.and(begun.map(drop))
        };
        let kill = async {
            eventually(&format!("{wanted} letters to be redriven"), async || {
                let now = redriven().await.map_err(|error| format!("{error:#}"))?;
                if now - before >= wanted { Ok(()) } else { Err(format!("{}", now - before)) }
            })
            .await;
            Service::Admin.signal("KILL")
        };
        let (_, killed) = tokio::join!(request, kill);
        killed?;
        // The lease of the dead runs out, and the letters that it held come back.
        stack.execute("UPDATE sluice.lease SET expires_at = clock_timestamp() - interval '1 s'").await?;
    }
    eventually_within(ARRIVAL * 2, "the redrive to be done", async || {
        tick(&stack).await.map_err(|error| format!("{error:#}"))?;
        let query = "SELECT state, redriven + already_redriven FROM sluice.redrive_task ORDER BY id DESC LIMIT 1";
        let row = stack.owner.query_one(query, &[]).await.map_err(|error| error.to_string())?;
        let (state, count): (String, i64) = (row.get(0), row.get(1));
        if state == "done" { Ok(()) } else { Err(format!("{state} after {count}")) }
    })
    .await;
    assert_eq!(redriven().await? - before, 300, "each letter once");
    assert_eq!(stack.converges("admin_killed", "SELECT id::text FROM item").await?, 300);
    admin.has_letters("admin_killed", 0).await;
    Ok(())
}

#[tokio::test]
async fn the_consoles_own_redrive_works_too() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = days("admin_console").await?;
    stack.execute("INSERT INTO item VALUES (1, 'no day')").await?;
    admin.has_letters("admin_console", 1).await;
    stack.execute("UPDATE item SET day = '2026-01-01'").await?;
    // What the console does, which this stack's SQS does not do for letters that were sent to it: the message as it is,
    // attributes and all, from one queue to the other.
    let (from, to) = (variable("DEAD_LETTER_QUEUE_URL"), variable("QUEUE_URL"));
    let letter = stack.hide_letter(600).await;
    let send = stack.sqs.send_message().queue_url(to).message_body(letter.body.unwrap_or_default());
    send.set_message_attributes(letter.message_attributes).send().await?;
    let handle = letter.receipt_handle.unwrap_or_default();
    stack.sqs.delete_message().queue_url(from).receipt_handle(handle).send().await?;
    assert_eq!(stack.converges("admin_console", "SELECT id::text FROM item").await?, 1);
    admin.has_letters("admin_console", 0).await;
    Ok(())
}
