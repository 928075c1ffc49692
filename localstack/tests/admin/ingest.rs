//! The ingest, from its source to the index, and as operators see it.
//!
//! With each round the source gives the changes of the last minute anew. So a row that a test changes is soon met by the
//! profile that it was made of.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use elasticsearch::http::{Method as Verb, StatusCode as Status};
use localstack::{eventually_within, variable};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::client::Admin;
use crate::stack::{ARRIVAL, Stack, mapping};

/// The index's version of a profile, and the profile's own time.
type Indexed = BTreeMap<String, (i64, String)>;

/// The deployed ingest, which goes on with rounds for a minute.
async fn ingesting(schema: &str) -> Result<Stack> {
    let stack = Stack::connect(schema).await?;
    stack.start(&variable("INGEST_FUNCTION")).await?;
    Ok(stack)
}

async fn indexed(stack: &Stack) -> Result<Indexed> {
    stack.search(Verb::Post, "/profiles/_refresh", None).await?;
    let all = "/profiles/_search?version=true&size=10000&_source=last_updated_at";
    let (status, text) = stack.search(Verb::Get, all, None).await?;
    ensure!(status == Status::OK, "{text}");
    let found: Value = serde_json::from_str(&text)?;
    let hits = found["hits"]["hits"].as_array().context("a search has hits")?;
    let profile = |hit: &Value| {
        let at = hit["_source"]["last_updated_at"].as_str()?;
        Some((hit["_id"].as_str()?.to_owned(), (hit["_version"].as_i64()?, at.to_owned())))
    };
    hits.iter().map(|hit| profile(hit).with_context(|| hit.to_string())).collect()
}

/// How far the source that was read last is.
async fn position(admin: &Admin) -> Result<Value, String> {
    let status = admin.get("/api/ingest").await.map_err(|error| format!("{error:#}"))?;
    status["positions"].get(0).cloned().ok_or_else(|| format!("no round has begun: {status}"))
}

#[tokio::test]
async fn a_profile_of_the_origin_is_in_the_index_and_its_update_follows() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = ingesting("admin_ingest").await?;
    let before = eventually_within(ARRIVAL, "all profiles of the origin in their index", async || {
        let count = stack.owner.query_one("SELECT count(*) FROM profiles.users", &[]).await;
        let stored: i64 = count.map_err(|error| database::describe(&error))?.get(0);
        let found = indexed(&stack).await.map_err(|error| format!("{error:#}"))?;
        if stored > 0 && found.len() as i64 >= stored { Ok(found) } else { Err(format!("{} of {stored}", found.len())) }
    })
    .await;

    stack.execute("UPDATE profiles.users SET last_updated_at = last_updated_at - interval '1 day'").await?;
    admin.post("/api/ingest/run", Value::Null).await?;
    eventually_within(ARRIVAL, "a profile that is as new as before, and was written since", async || {
        let now = indexed(&stack).await.map_err(|error| format!("{error:#}"))?;
        let is_updated =
            |id: &String| now.get(id).zip(before.get(id)).is_some_and(|(now, was)| now.0 > was.0 && now.1 >= was.1);
        if now.keys().any(is_updated) { Ok(()) } else { Err(format!("{} profiles", now.len())) }
    })
    .await;

    let text = admin.get("/metrics").await?;
    let text = text.as_str().context("metrics are text")?;
    for counted in ["profiles_fetched_total ", "profiles_synced_total ", "sync_batch_duration_seconds_count "] {
        let value = text.lines().find_map(|line| line.strip_prefix(counted)).with_context(|| counted.to_owned())?;
        assert!(value.parse::<i64>()? > 0, "{counted}{value}");
    }
    Ok(())
}

#[tokio::test]
async fn a_rejected_profile_is_on_the_list_until_what_it_wants_is_free() -> Result<()> {
    let admin = Admin::alone().await?;
    let stack = ingesting("admin_ingest_rejects").await?;
    let list = async |query: &str| -> Result<Vec<Value>, String> {
        let path = format!("/api/ingest/rejects?{query}");
        let mut list = admin.get(&path).await.map_err(|error| format!("{error:#}"))?;
        serde_json::from_value(list["rejects"].take()).map_err(|error| error.to_string())
    };
    eventually_within(ARRIVAL, "stored profiles", async || {
        position(&admin).await?["since"].as_str().map(drop).ok_or("none yet".to_owned())
    })
    .await;

    // Their emails and mobiles are others' now.
    stack.execute("UPDATE profiles.users SET id = gen_random_uuid()").await?;
    admin.post("/api/ingest/run", Value::Null).await?;
    let rejects = eventually_within(ARRIVAL, "two profiles whose email is taken", async || {
        let rejects = list("open=true&reason=email_taken&limit=2").await?;
        if rejects.len() == 2 { Ok(rejects) } else { Err(format!("{rejects:?}")) }
    })
    .await;
    let ids: Vec<i64> = rejects.iter().filter_map(|reject| reject["id"].as_i64()).collect();
    assert!(ids.is_sorted_by(|newer, older| newer > older), "the newest comes first: {ids:?}");
    let older = list(&format!("reason=email_taken&limit=1&before={}", ids[0])).await.map_err(anyhow::Error::msg)?;
    assert_eq!(older[0]["id"], ids[1]);
    let profile = rejects[1]["key"].as_str().context("it has an id")?;
    let payload: Value = serde_json::from_str(rejects[1]["payload"].as_str().context("it is there as it came")?)?;
    assert_eq!(payload["id"], profile);
    let message = rejects[1]["message"].as_str().context("it says what is wrong")?;
    assert!(!message.contains(payload["email"].as_str().context("an email")?), "personal data in: {message}");

    stack.execute("DELETE FROM profiles.users").await?;
    admin.post("/api/ingest/run", Value::Null).await?;
    eventually_within(ARRIVAL, "the reject to be resolved", async || {
        let resolved = list("open=false&reason=email_taken&limit=500").await?;
        if resolved.iter().any(|reject| reject["id"] == ids[1]) {
            Ok(())
        } else {
            Err(format!("{} others", resolved.len()))
        }
    })
    .await;
    let query = "SELECT sync_status FROM profiles.users WHERE id::text = $1";
    assert_eq!(stack.owner.query_one(query, &[&profile]).await?.get::<_, String>(0), "synced");
    Ok(())
}

#[tokio::test]
async fn a_round_that_is_asked_for_begins_and_is_on_record() -> Result<()> {
    let admin = Admin::alone().await?;
    let _stack = ingesting("admin_ingest_run").await?;
    eventually_within(ARRIVAL, "the first round", async || {
        position(&admin).await?["last_run_at"].as_str().map(drop).ok_or("none yet".to_owned())
    })
    .await;
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

#[tokio::test]
async fn a_collection_of_mongodb_is_in_the_index_and_its_changes_follow() -> Result<()> {
    let _admin = Admin::alone().await?;
    let stack = Stack::connect("admin_ingest_mongodb").await?;
    let url = variable("MONGODB_URL");
    let shop = Client::with_uri_str(&url).await?.database(&format!("shop{}", fastrand::u64(..)));
    let orders = shop.collection::<Document>("orders");
    orders.insert_many((0..1200).map(|n| doc! { "_id": format!("o{n}"), "n": n })).await?;
    stack
        .execute(&format!(
            "CREATE TABLE orders (id text PRIMARY KEY, n bigint, at timestamptz NOT NULL);
             SELECT sluice.define_stream('admin_ingest_mongodb', source => 'admin_ingest_mongodb.orders', key => 'id', mapping => '{}');
             SELECT sluice.track('orders', stream => 'admin_ingest_mongodb', key => 'id')",
            mapping(&[("id", "keyword"), ("n", "long"), ("at", "date")])
        ))
        .await?;
    stack.migrate().await?;
    stack
        .execute(&format!(
            "SELECT sluice.define_ingest('admin-mongodb', kind => 'mongodb', to_table => 'admin_ingest_mongodb.orders', url => '{url}',
                every => '1 second', fields => '{{\"/_id\": \"id\", \"/n\": \"n\"}}', options => '{{\"database\": \"{}\", \"collection\": \"orders\"}}')",
            shop.name()
        ))
        .await?;
    stack.start(&variable("INGEST_FUNCTION")).await?;
    orders.delete_many(doc! { "n": { "$lt": 100 } }).await?;
    orders.update_many(doc! { "n": { "$lt": 200 } }, doc! { "$inc": { "n": 10_000 } }).await?;
    eventually_within(ARRIVAL, "the collection in its table", async || {
        let stored = "SELECT count(*), coalesce(sum(n), 0)::bigint FROM orders";
        let row = stack.owner.query_one(stored, &[]).await.map_err(|error| database::describe(&error))?;
        let found: (i64, i64) = (row.get(0), row.get(1));
        // 1,100 orders from 100 to 1,199, a hundred of them with 10,000 more.
        if found == (1100, 714_450 + 1_000_000) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(stack.converges("admin_ingest_mongodb", "SELECT id FROM orders").await?, 1100);
    stack.execute("SELECT sluice.drop_ingest('admin-mongodb')").await
}
