//! The table of refusals, against the real server.

use elasticsearch::http::Method;
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};

use crate::{
    batch::{Message, batch, message},
    fixture::{Fixture, Letter},
    table::{self, Row},
    wire::Reply,
};

#[tokio::test]
async fn elasticsearch_answers_as_recorded_and_the_indexer_decides_as_recorded() {
    let fixture = Fixture::new().await;
    let server = server(&fixture).await;
    let rows: Vec<Row> = table::rows().into_iter().filter_map(|row| row.on(&server)).collect();
    let (at_the_wire, rows): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(Row::is_at_the_wire);
    let (documents, states): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.made_by.is_empty());
    assert!(!at_the_wire.is_empty() && !documents.is_empty() && !states.is_empty());

    LocalSet::new().run_until(play(&fixture, &server, &documents, &states, at_the_wire)).await;
}

/// Side by side, since one of them waits for a shard.
async fn play(fixture: &Fixture, server: &str, documents: &[Row], states: &[Row], at_the_wire: Vec<Row>) {
    let mut tests = JoinSet::new();
    for rows in states.chunk_by(|one, next| one.made_by == next.made_by) {
        tests.spawn_local(play_state(rows.to_vec()));
    }
    for row in at_the_wire {
        tests.spawn_local(play_at_the_wire(row));
    }
    play_documents(fixture, server, documents).await;
    while let Some(done) = tests.join_next().await {
        done.unwrap();
    }
}

/// All documents to one index: first each by itself, as a probe, then all of them to the indexer in one message.
async fn play_documents(fixture: &Fixture, server: &str, rows: &[Row]) {
    let (settings, properties) = table::index(server);
    fixture.index_with("cities", properties, settings).await;
    let mut all = message("cities");
    for (position, row) in rows.iter().enumerate() {
        let (key, version) = (key(row, &position.to_string()), row.version.unwrap_or(1));
        probe(fixture, row, &key, version).await;
        all = push(all, row, &key, version + 1);
    }
    assert_eq!(fixture.handle(&batch([all])).await, [""; 0]);

    let letters = fixture.dead_letters.letters();
    for (position, row) in rows.iter().enumerate() {
        // The only thing that no two of them share is the id, which counts from 1.
        let id = format!("{{\"id\":{},", position + 1);
        let letters: Vec<&Letter> = letters.iter().filter(|letter| letter.body.contains(&id)).collect();
        let (key, version) = (key(row, &position.to_string()), row.version.unwrap_or(1) + 1);
        check(fixture, row, &key, version, &letters).await;
    }
}

/// The changes of an index in one state, which is then mended.
async fn play_state(rows: Vec<Row>) {
    let fixture = Fixture::with_database().await;
    let owner = fixture.owner().await;
    owner.execute(r#"SELECT sluice.define_stream('cities', mapping => '{"properties": {}}')"#, &[]).await.unwrap();
    let index = fixture.index("cities", json!({"n": {"type": "long"}})).await;
    let alias = format!("{}cities.g1", fixture.prefix);
    let request = async |text: &String| {
        let text = text.replace("{index}", &index).replace("{alias}", &alias);
        let mut words = text.splitn(3, ' ');
        let (method, path, body) = (words.next().unwrap(), words.next().unwrap(), words.next());
        let method = match method {
            "PUT" => Method::Put,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            _ => panic!("{text} is no request"),
        };
        let body = body.map_or(Value::Null, |body| serde_json::from_str(body).unwrap());
        let answer = fixture.request(method, path, body).await;
        assert_ne!(answer["status"], 404, "{text}: {answer}");
    };

    for made_by in &rows[0].made_by {
        request(made_by).await;
    }
    let mut versions = (1..).step_by(2);
    for row in &rows {
        let version = row.version.unwrap_or(versions.next().unwrap());
        probe(&fixture, row, "a", version).await;
        let given_back = fixture.handle(&batch([push(message("cities"), row, "a", version + 1)])).await;
        let is_retried = ["retry", "configuration", "no index"].contains(&row.outcome.decision.as_str());
        assert_eq!(given_back.len(), usize::from(is_retried), "{row:?}");
        let letters = fixture.dead_letters.letters();
        check(&fixture, row, "a", version + 1, &letters.iter().collect::<Vec<_>>()).await;
    }
    for mended_by in &rows[0].mended_by {
        request(mended_by).await;
    }
    for row in rows.iter().filter(|row| !row.mended_by.is_empty()) {
        let version = versions.next().unwrap();
        let given_back = fixture.handle(&batch([push(message("cities"), row, "a", version)])).await;
        assert_eq!(given_back, [""; 0], "mended: {row:?}");
        let found = fixture.document("cities.g1", "a").await;
        assert_eq!(found, row.document.clone().map(|document| (version, document)), "mended: {row:?}");
    }
    assert!(fixture.dead_letters.letters().is_empty(), "{rows:?}");
}

async fn play_at_the_wire(row: Row) {
    let answer = row.answer.clone();
    let action = if row.document.is_some() { "index" } else { "delete" };
    let fixture = Fixture::with_wire(move |request| match answer.is_of_item {
        true => {
            let items = json!([{ action: answer.to_item(&request.keys()[0]) }]);
            Reply::Whole(200, "application/json", json!({ "items": items }).to_string())
        }
        false => Reply::Whole(answer.status, "application/json", answer.to_body()),
    })
    .await;
    let given_back = fixture.handle(&batch([push(message("cities"), &row, "a", 1)])).await;
    let is_retried = ["retry", "configuration"].contains(&row.outcome.decision.as_str());
    assert_eq!(given_back.len(), usize::from(is_retried), "{row:?}");
    check_letters(&row, &fixture.dead_letters.letters().iter().collect::<Vec<_>>());
}

/// Sends the change as the indexer would, but for its checks, and compares the answer with the recorded one.
async fn probe(fixture: &Fixture, row: &Row, key: &str, version: i64) {
    let action = if row.document.is_some() { "index" } else { "delete" };
    let facts = json!({action: {"_id": key, "version": version, "version_type": "external"}});
    let lines: String =
        [Some(facts.to_string()), row.document.clone()].into_iter().flatten().map(|l| l + "\n").collect();
    let path = format!("/{}cities.g1/_bulk?require_alias=true&timeout=10s", fixture.prefix);
    let (status, told) = fixture.bulk(&path, lines).await;
    let (status, told) = match row.answer.is_of_item {
        true => (told["items"][0][action]["status"].as_u64(), &told["items"][0][action]),
        false => (Some(status.into()), &told),
    };
    assert_eq!(status, Some(row.answer.status.into()), "{} was answered with {told}", row.case);
    assert_eq!(told["result"].as_str(), row.answer.result.as_deref(), "{} was answered with {told}", row.case);
    assert!(row.answer.is_error(&told["error"]), "{} was answered with {told}", row.case);
}

/// What is in the index, and in the dead-letter queue.
async fn check(fixture: &Fixture, row: &Row, key: &str, version: i64, letters: &[&Letter]) {
    check_letters(row, letters);
    if row.outcome.not_sent.is_some() {
        return;
    }
    match row.outcome.decision.as_str() {
        "written" => {
            let found = fixture.document("cities", key).await;
            assert_eq!(found, row.document.clone().map(|document| (version, document)), "{row:?}");
        }
        "stale" => assert!(fixture.document("cities", key).await.is_some_and(|(found, _)| found > version), "{row:?}"),
        "gone" => assert_eq!(fixture.document("cities", key).await, None, "{row:?}"),
        _ => {}
    }
}

fn check_letters(row: &Row, letters: &[&Letter]) {
    let outcome = &row.outcome;
    let error_type = match outcome.decision.as_str() {
        "dead letter" => outcome.error_type.as_ref().or(row.answer.causes.first()),
        _ => None,
    };
    let expected: Vec<&String> = outcome.not_sent.as_ref().or(error_type).into_iter().collect();
    let found: Vec<&str> = letters.iter().map(|letter| letter.attribute("error_type")).collect();
    assert_eq!(found, expected, "{row:?}");
}

fn key(row: &Row, otherwise: &str) -> String {
    row.key.as_deref().unwrap_or(otherwise).to_owned()
}

fn push(message: Message, row: &Row, key: &str, version: i64) -> Message {
    match &row.document {
        Some(document) => message.upsert(key, version, document),
        None => message.delete(key, version),
    }
}

/// By the name that the table has for it.
async fn server(fixture: &Fixture) -> String {
    let nodes = fixture.request(Method::Get, "/_nodes/_local?filter_path=nodes.*.version", Value::Null).await;
    let node = nodes["nodes"].as_object().unwrap().values().next().unwrap();
    match node["version"].as_str().unwrap().split('.').next().unwrap() {
        "2" => table::OPENSEARCH.to_owned(),
        major => major.to_owned(),
    }
}
