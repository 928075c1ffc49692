//! The ingest, from its source to the index, and as operators see it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use elasticsearch::http::Method as Verb;
use localstack::{eventually_within, variable};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::client::Admin;
use crate::stack::{ARRIVAL, Stack};

/// The deployed ingest, which goes on with rounds for a minute. What it did before stays.
async fn ingesting(schema: &str) -> Result<Stack> {
    let stack = Stack::connect(schema).await?;
    stack.start(&variable("INGEST_FUNCTION")).await?;
    Ok(stack)
}

/// The stored profiles that are as the source gave them last: id to time, as documents have it.
async fn stored(stack: &Stack) -> Result<BTreeMap<String, String>, String> {
    let query = "SELECT id::text, to_json(last_updated_at) #>> '{}' FROM profiles.users WHERE sync_status = 'synced'";
    let rows = stack.owner.query(query, &[]).await.map_err(|error| error.to_string())?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Waits until the index has this profile, of this time or a later one.
async fn is_indexed(stack: &Stack, id: &str, at: &str) {
    eventually_within(ARRIVAL, &format!("the profile {id} of {at} in its index"), async || {
        let path = format!("/profiles/_doc/{id}");
        let (_, text) = stack.search(Verb::Get, &path, None).await.map_err(|error| format!("{error:#}"))?;
        let document: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match document["_source"]["last_updated_at"].as_str() {
            Some(indexed) if indexed >= at => Ok(()),
            _ => Err(text),
        }
    })
    .await;
}

/// How far the source that was read last is.
async fn position(admin: &Admin) -> Result<Value, String> {
    let mut status = admin.get("/api/ingest").await.map_err(|error| format!("{error:#}"))?;
    match status["positions"][0].take() {
        Value::Null => Err("no round has begun".to_owned()),
        position => Ok(position),
    }
}

#[tokio::test]
async fn a_profile_of_the_source_is_in_the_index_its_update_follows_and_a_rejected_one_is_on_the_list() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = ingesting("admin_ingest").await?;
    let first = eventually_within(ARRIVAL, "profiles of the source", async || {
        let stored = stored(&stack).await?;
        if stored.is_empty() { Err("none".to_owned()) } else { Ok(stored) }
    })
    .await;
    let (id, at) = first.first_key_value().context("there are some")?;
    is_indexed(&stack, id, at).await;

    let (id, at) = eventually_within(ARRIVAL, "an update of one of them", async || {
        let changed =
            stored(&stack).await?.into_iter().find(|(id, at)| first.get(id).is_some_and(|before| before < at));
        changed.ok_or_else(|| format!("{} as they were", first.len()))
    })
    .await;
    is_indexed(&stack, &id, &at).await;

    let rejects = eventually_within(ARRIVAL, "rejects", async || {
        let list = admin.get("/api/ingest/rejects?open=true&limit=2").await.map_err(|error| format!("{error:#}"))?;
        let rejects = list["rejects"].as_array().cloned().unwrap_or_default();
        if rejects.len() == 2 { Ok((rejects, list["next_before"].clone())) } else { Err(list.to_string()) }
    })
    .await;
    let ((newest, older), next) = ((&rejects.0[0], &rejects.0[1]), &rejects.1);
    assert!(newest["id"].as_i64() > older["id"].as_i64(), "the newest comes first: {newest} {older}");
    assert_eq!(next, &older["id"], "there are perhaps older ones");
    let reason = newest["reason"].as_str().context("a reject has a reason")?;
    for told in ["message", "payload", "first_at", "last_at"] {
        assert!(newest[told].as_str().is_some_and(|text| !text.is_empty()), "{told} is not told: {newest}");
    }
    let same = admin.get(&format!("/api/ingest/rejects?reason={reason}")).await?;
    let same = same["rejects"].as_array().context("a list")?;
    assert!(!same.is_empty() && same.iter().all(|reject| reject["reason"] == reason), "{same:?}");

    let text = admin.get("/metrics").await?;
    let text = text.as_str().context("metrics are text")?;
    for counted in ["profiles_fetched_total ", "profiles_synced_total ", "sync_batch_duration_seconds_count "] {
        let value = text.lines().find_map(|line| line.strip_prefix(counted)).with_context(|| counted.to_owned())?;
        assert!(value.parse::<i64>()? > 0, "{counted}{value}");
    }
    Ok(())
}

#[tokio::test]
async fn a_round_that_is_asked_for_begins_and_is_on_record() -> Result<()> {
    let admin = Admin::alone().await?;
    let _stack = ingesting("admin_ingest_run").await?;
    eventually_within(ARRIVAL, "the first round", async || position(&admin).await).await;
    let (status, requested) = admin.call(Method::POST, "/api/ingest/run", None).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{requested}");
    let asked_at = requested["requested_at"].as_str().context("when it was asked for is told")?;
    eventually_within(ARRIVAL, "a round that was asked for", async || {
        let position = position(&admin).await?;
        let has_begun = position["requested_at"].is_null() && position["last_run_at"].as_str() >= Some(asked_at);
        if has_begun { Ok(()) } else { Err(position.to_string()) }
    })
    .await;
    let audit = admin.audit("ingest").await?;
    let entry = audit.first().context("it is on record")?;
    assert_eq!((&entry["subject"], &entry["actor"]), (&requested["source"], &Value::from("operator")));
    Ok(())
}
