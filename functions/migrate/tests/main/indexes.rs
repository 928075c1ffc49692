use migrate::{Command, Error};
use serde_json::{Value, json};

use crate::fixture::{Fixture, action};

const LIVE: &str = "SELECT live_mapping FROM sluice.target WHERE stream = 'cities'";
const RESYNCS: &str = "SELECT count(*) FROM sluice.outbox WHERE stream = 'cities' AND op = 'fan_out'";

#[tokio::test]
async fn every_stream_gets_a_strict_index_behind_its_alias() {
    let fixture = Fixture::with_streams().await;
    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines.len() == 2 && lines[0].starts_with("stream cities: made the index"), "{lines:?}");

    let alias = fixture.alias("cities");
    let (name, index) = fixture.index(&alias).await.unwrap();
    assert!(search::names::is_index_of(&alias, 1, &name), "{name}");
    assert_eq!(index["mappings"]["dynamic"], "strict");
    assert_eq!(index["mappings"]["properties"]["name"]["type"], "text");
    assert_eq!(index["settings"]["index.gc_deletes"], "1h");
    assert_eq!(index["aliases"][&alias]["is_write_index"], true);
    let live: String = fixture.value("SELECT live_index FROM sluice.target WHERE stream = 'cities'").await;
    assert_eq!(live, name);

    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines.len() == 1 && lines[0].starts_with("nothing to do"), "{lines:?}");
    fixture.remove().await;
}

#[tokio::test]
async fn new_fields_are_added_in_place_and_resynced() {
    let fixture = Fixture::with_streams().await;
    fixture.run(Command::Migrate).await.unwrap();
    let before = fixture.index_name("cities").await;
    fixture.define_cities(&[("id", "long"), ("name", "text"), ("people", "long")]).await;

    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines.len() == 1 && lines[0].starts_with("stream cities: added people to the index"), "{lines:?}");
    let (after, index) = fixture.index(&fixture.alias("cities")).await.unwrap();
    assert_eq!(after, before);
    assert_eq!(index["mappings"]["properties"]["people"]["type"], "long");
    assert_eq!(index["mappings"]["dynamic"], "strict");
    assert_eq!(fixture.value::<Value>(LIVE).await["properties"]["people"]["type"], "long");
    assert_eq!(fixture.value::<i64>(RESYNCS).await, 1);

    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do"));
    assert_eq!(fixture.value::<i64>(RESYNCS).await, 1);
    fixture.remove().await;
}

#[tokio::test]
async fn any_other_change_begins_a_generation_and_the_other_streams_are_done() {
    let fixture = Fixture::with_streams().await;
    fixture.run(Command::Migrate).await.unwrap();
    let live = fixture.value::<Value>(LIVE).await;
    fixture.define_cities(&[("id", "long"), ("name", "keyword")]).await;
    let widen = "SELECT sluice.define_stream('countries', source => 'demo.countries', key => 'id', mapping => $1)";
    let wider = json!({"properties": {"id": {"type": "keyword"}, "name": {"type": "text", "fields": {"raw": {"type": "keyword"}}}}});
    fixture.owner.execute(widen, &[&wider]).await.unwrap();

    let lines = fixture.run(Command::Migrate).await.unwrap();
    let told = r#"stream cities: the field name has type "keyword", which was "text": began generation 2"#;
    assert!(lines[0].starts_with(told) && lines[1].starts_with("stream countries: added name.raw"), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "stream cities: generation 2 does not take over yet: it is being filled");
    assert_eq!(fixture.value::<Value>(LIVE).await, live, "the drain goes on with the mapping that the index has");
    let (name, next) = fixture.index(&format!("{}.g2", fixture.alias("cities"))).await.unwrap();
    assert_eq!(next["mappings"]["properties"]["name"]["type"], "keyword");
    assert_eq!(
        (&next["settings"]["index.number_of_replicas"], &next["settings"]["index.refresh_interval"]),
        (&json!("0"), &json!("-1"))
    );
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM sluice.outbox WHERE stream = 'cities.g2' AND op = 'fan_out' AND only_for = 'elasticsearch'").await, 1);
    let again = fixture.run(Command::Migrate).await.unwrap();
    assert!(!again.iter().any(|line| line.contains("began")), "{again:?}");
    // Nobody has to know that it is there.
    let unknown = format!("{}.g7", fixture.alias("cities"));
    let answer = fixture.bulk(&unknown, &[json!({"index": {"_id": "1"}}), json!({"id": 1})]).await;
    assert!(answer["items"][0]["index"]["error"].is_object(), "{answer}");

    // Without its live index there is nothing to wait for.
    fixture.delete_index(&fixture.index_name("cities").await).await;
    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines[0].contains("being filled from the source"), "{lines:?}");
    let (live, index) = fixture.index(&fixture.alias("cities")).await.unwrap();
    assert_eq!(index["mappings"]["properties"]["name"]["type"], "keyword");
    assert_ne!(live, name);
    assert_eq!(fixture.value::<i64>(RESYNCS).await, 1);
    fixture.remove().await;
}

#[tokio::test]
async fn a_mapping_that_elasticsearch_refuses_is_named_by_its_stream_and_nothing_is_half_made() {
    let fixture = Fixture::with_streams().await;
    fixture.define_cities(&[("id", "long"), ("name", "no_such_type")]).await;
    let (result, lines) = fixture.run_told(Command::Migrate).await;
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Streams(_)), "{error}");
    let told = error.to_string();
    assert!(told.starts_with("stream cities: creating the index") && told.contains("no_such_type"), "{told}");
    assert!(lines.len() == 1 && lines[0].starts_with("stream countries: made"), "{lines:?}");
    assert_eq!(fixture.index(&format!("{}*", fixture.alias("cities"))).await, None);
    assert!(fixture.value::<bool>("SELECT live_index IS NULL FROM sluice.target WHERE stream = 'cities'").await);
    fixture.remove().await;
}

#[tokio::test]
async fn settings_that_contradict_what_must_hold_are_refused() {
    let fixture = Fixture::with_streams().await;
    let set = "UPDATE sluice.target SET settings = $1 WHERE stream = 'cities'";
    fixture.owner.execute(set, &[&json!({"index": {"gc_deletes": "60s"}, "number_of_replicas": 0})]).await.unwrap();
    let told = fixture.run(Command::Migrate).await.unwrap_err().to_string();
    assert!(told.contains("stream cities: the settings have index.gc_deletes"), "{told}");

    fixture.owner.execute(set, &[&json!({"index": {"number_of_replicas": 0}})]).await.unwrap();
    fixture.run(Command::Migrate).await.unwrap();
    let (_, index) = fixture.index(&fixture.alias("cities")).await.unwrap();
    assert_eq!(index["settings"]["index.number_of_replicas"], "0");
    fixture.remove().await;
}

#[tokio::test]
async fn nobody_creates_an_index_by_writing_to_it() {
    let fixture = Fixture::with_streams().await;
    fixture.run(Command::Migrate).await.unwrap();
    let (alias, index) = (fixture.alias("cities"), fixture.index_name("cities").await);
    fixture.delete_index(&index).await;

    for name in [&alias, &index] {
        // As the indexer sends it: one without a version makes no index on any server.
        let answer = fixture.bulk(name, &[action("delete", "1", 1)]).await;
        assert!(answer["items"][0]["delete"]["error"].is_object(), "{answer}");
        let answer = fixture.bulk(name, &[json!({"index": {"_id": "1"}}), json!({"id": 1})]).await;
        assert!(answer["items"][0]["index"]["error"].is_object(), "{answer}");
        assert_eq!(fixture.index(name).await, None);
    }
    // Names that only look alike are none of Sluice's business.
    let other = format!("{alias}-of-somebody-else");
    let answer = fixture.bulk(&other, &[json!({"index": {"_id": "1"}}), json!({"id": 1})]).await;
    assert_eq!(answer["items"][0]["index"]["status"], 201, "{answer}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_run_that_did_not_come_to_its_end_is_finished_by_the_next() {
    let fixture = Fixture::with_streams().await;
    fixture.run(Command::Migrate).await.unwrap();
    let (alias, index) = (fixture.alias("cities"), fixture.index_name("cities").await);
    let forget = "UPDATE sluice.target SET live_index = NULL, live_mapping = NULL WHERE stream = 'cities'";

    // The index and its alias, but the database does not know.
    fixture.owner.batch_execute(forget).await.unwrap();
    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert_eq!(lines, [format!("stream cities: finished the index {index}")]);

    // The index without its alias, known or not.
    for forget in [forget, "SELECT 1"] {
        fixture.owner.batch_execute(forget).await.unwrap();
        fixture.elasticsearch.delete([&index, "_alias", &alias]).send().await.unwrap();
        fixture.run(Command::Migrate).await.unwrap();
        assert_eq!(fixture.index_name("cities").await, index);
    }
    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do"));

    // It holds documents that this database knows nothing of.
    fixture.owner.batch_execute(forget).await.unwrap();
    fixture.write(&alias, "1", 1, json!({"id": 1})).await;
    fixture.elasticsearch.post([&index, "_refresh"]).send().await.unwrap();
    let told = fixture.run(Command::Migrate).await.unwrap_err().to_string();
    assert!(told.contains(&format!("the index {index} holds 1 documents of an earlier definition")), "{told}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_name_that_somebody_else_has_taken_is_told() {
    let fixture = Fixture::with_streams().await;
    let (cities, countries) = (fixture.alias("cities"), fixture.alias("countries"));
    let other = format!("{}other", fixture.prefix);
    fixture.elasticsearch.put([cities.as_str()]).send().await.unwrap();
    let body = json!({"aliases": {&countries: {}}});
    fixture.elasticsearch.put([other.as_str()]).json(&body).send().await.unwrap();

    let told = fixture.run(Command::Migrate).await.unwrap_err().to_string();
    assert!(told.contains(&format!("stream cities: there is an index {cities}, where the stream's alias")), "{told}");
    assert!(told.contains(&format!("stream countries: the alias {countries} points at {other}")), "{told}");
    fixture.remove().await;
}

#[tokio::test]
async fn changed_settings_take_effect_in_place_or_by_a_generation() {
    let fixture = Fixture::with_streams().await;
    let define = async |settings: Value| {
        let mapping = json!({"properties": {"id": {"type": "long"}, "name": {"type": "text"}}});
        let define = "SELECT sluice.define_stream('cities', source => 'demo.cities', key => 'id', mapping => $1, settings => $2)";
        fixture.owner.execute(define, &[&mapping, &settings]).await.unwrap();
    };
    define(json!({"number_of_replicas": 0, "index": {"refresh_interval": "-1"}})).await;
    fixture.run(Command::Migrate).await.unwrap();
    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do"));

    define(json!({"number_of_replicas": 1, "index.refresh_interval": "5s"})).await;
    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines[0].contains("changed index.number_of_replicas, index.refresh_interval"), "{lines:?}");
    let settings = fixture.index(&fixture.alias("cities")).await.unwrap().1["settings"].clone();
    assert_eq!(
        (&settings["index.number_of_replicas"], &settings["index.refresh_interval"]),
        (&json!("1"), &json!("5s"))
    );
    assert!(fixture.run(Command::Migrate).await.unwrap()[0].starts_with("nothing to do"));

    define(json!({"number_of_shards": 3, "number_of_replicas": 0})).await;
    let lines = fixture.run(Command::Migrate).await.unwrap();
    assert!(lines[0].contains("index.number_of_shards 3: began generation 2"), "{lines:?}");
    assert!(!fixture.run(Command::Migrate).await.unwrap()[0].contains("began"));
    let next = fixture.index(&format!("{}.g2", fixture.alias("cities"))).await.unwrap().1["settings"].clone();
    assert_eq!(next["index.number_of_shards"], "3");
    let settings = fixture.index(&fixture.alias("cities")).await.unwrap().1["settings"].clone();
    assert_eq!(settings["index.number_of_replicas"], "0", "the other setting is applied");
    fixture.remove().await;
}

/// A template of somebody else's that goes before Sluice's.
#[tokio::test]
async fn a_template_of_data_streams_that_catches_the_name_is_told_with_what_to_do() {
    let fixture = Fixture::with_streams().await;
    let name = format!("{}metrics", fixture.prefix);
    let body =
        json!({"index_patterns": [format!("{}c*s-*", fixture.prefix)], "data_stream": {}, "priority": 2_000_000});
    let put = fixture.elasticsearch.put(["_index_template", &name]).json(&body).send().await;
    assert!(put.unwrap().status_code().is_success());
    let told = fixture.run(Command::Migrate).await.unwrap_err().to_string();
    let delete = fixture.elasticsearch.delete(["_index_template", &name]).send().await;
    assert!(delete.unwrap().status_code().is_success());
    for part in ["stream cities: ", name.as_str(), "lower its priority"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    fixture.run(Command::Migrate).await.unwrap();
    fixture.remove().await;
}

#[tokio::test]
async fn a_database_that_is_not_in_utf8_is_refused_by_name() {
    let fixture = Fixture::in_encoding("SQL_ASCII").await;
    let told = fixture.run(Command::Migrate).await.unwrap_err().to_string();
    assert!(told.contains("SQL_ASCII") && told.contains("UTF8"), "{told}");
    assert!(fixture.value::<bool>("SELECT to_regnamespace('sluice') IS NULL").await);
    fixture.remove().await;
}
