//! Each kind of mapping that documents can fill.

use elasticsearch::http::{Method, StatusCode};
use localstack::eventually;
use serde_json::{Value, json};

use crate::world::World;

/// A field, how it is mapped, and the value of its column, where it has one. Then a query by which the row is found that has it.
type Kind = (&'static str, &'static str, Option<&'static str>, &'static str);

// The build of Elasticsearch that the stack runs has no geo_shape, and no scripts.
const KINDS: [Kind; 8] = [
    (
        "title",
        r#"{"type": "text", "copy_to": ["everything", "found.by"], "fields": {"raw": {"type": "keyword"}}}"#,
        Some("'A Fall of Moondust'::text"),
        r#"{"term": {"title.raw": "A Fall of Moondust"}}"#,
    ),
    ("heading", r#"{"type": "alias", "path": "title"}"#, None, r#"{"match": {"heading": "moondust"}}"#),
    ("everything", r#"{"type": "text"}"#, None, r#"{"match": {"everything": "moondust"}}"#),
    (
        "found",
        r#"{"properties": {"by": {"type": "text"}, "raw": {"type": "alias", "path": "title.raw"}}}"#,
        None,
        r#"{"bool": {"must": [{"match": {"found.by": "fall"}}, {"term": {"found.raw": "A Fall of Moondust"}}]}}"#,
    ),
    (
        "parts",
        r#"{"type": "nested", "properties": {"name": {"type": "keyword"}, "size": {"type": "integer"}}}"#,
        Some(r#"'[{"name": "wheel", "size": 4}, {"name": "seat", "size": 1}]'::jsonb"#),
        r#"{"nested": {"path": "parts", "query": {"bool": {"must": [{"term": {"parts.name": "wheel"}}, {"term": {"parts.size": 4}}]}}}}"#,
    ),
    // Of what is not indexed, a runtime field finds it.
    (
        "more",
        r#"{"type": "object", "enabled": false}"#,
        Some(r#"'{"mood": "calm"}'::jsonb"#),
        r#"{"ids": {"values": ["1"]}}"#,
    ),
    (
        "place",
        r#"{"type": "geo_point"}"#,
        Some("json_build_object('lat', 51.34, 'lon', 12.37)"),
        r#"{"geo_distance": {"distance": "10km", "place": {"lat": 51.3, "lon": 12.4}}}"#,
    ),
    (
        "pages",
        r#"{"type": "integer_range"}"#,
        Some("json_build_object('gte', 1, 'lt', 224)"),
        r#"{"term": {"pages": 7}}"#,
    ),
];
/// OpenSearch has others in their place.
const OF_ELASTICSEARCH: [Kind; 2] = [
    (
        "labels",
        r#"{"type": "flattened"}"#,
        Some(r#"'{"colour": "red", "of": {"age": "1961"}}'::jsonb"#),
        r#"{"term": {"labels.of.age": "1961"}}"#,
    ),
    (
        "vector",
        r#"{"type": "dense_vector", "dims": 3, "index": true, "similarity": "cosine"}"#,
        Some("'{0.5, 0.25, 1}'::real[]"),
        r#"{"knn": {"field": "vector", "query_vector": [0.5, 0.25, 1], "num_candidates": 10}}"#,
    ),
];
const RUNTIME: &str = r#"{"more.mood": {"type": "keyword"}}"#;
const BY_RUNTIME: &str = r#"{"term": {"more.mood": "calm"}}"#;

#[tokio::test]
async fn each_kind_of_mapping_is_filled_and_found() {
    let world = World::create().await;
    let (_, server) = world.search(Method::Get, "/", None).await;
    let is_elasticsearch = server["version"]["distribution"] != "opensearch";
    let of_elasticsearch: &[Kind] = if is_elasticsearch { &OF_ELASTICSEARCH } else { &[] };
    let kinds = || KINDS.iter().chain(of_elasticsearch);
    let mut mapping = json!({"properties": {"id": {"type": "long"}}});
    let mut columns = String::new();
    for (field, mapped, column, _) in kinds() {
        mapping["properties"][*field] = mapped.parse().unwrap();
        columns.extend(column.map(|value| format!(", {value} AS {field}")));
    }
    let mut queries: Vec<&str> = kinds().map(|(_, _, _, query)| *query).collect();
    if is_elasticsearch {
        mapping["runtime"] = RUNTIME.parse().unwrap();
        queries.push(BY_RUNTIME);
    }
    let define = format!(
        "CREATE TABLE kind AS SELECT 1::bigint AS id {columns}; ALTER TABLE kind ADD PRIMARY KEY (id);
         GRANT SELECT ON kind TO PUBLIC; INSERT INTO kind (id, title) VALUES (2, 'another');
         SELECT sluice.define_stream('kinds', source => 'public.kind', key => 'id', mapping => '{mapping}');
         SELECT sluice.track('kind', stream => 'kinds', key => 'id'); SELECT sluice.resync('kinds')"
    );
    world.execute(&define).await;
    world.migrate();
    let _process = world.run(&[]);
    eventually("both rows to arrive", async || {
        let arrived = world.indexed("kinds").await.len();
        let letters = world.owner.query("SELECT key, reason FROM sluice.dead_letter", &[]).await.unwrap();
        if arrived == 2 { Ok(()) } else { Err(format!("{arrived} have, and refused are {letters:?}")) }
    })
    .await;
    for query in queries {
        let body = format!(r#"{{"query": {query}, "sort": ["id"]}}"#);
        let (status, found) = world.search(Method::Post, "/$kinds/_search", Some(&body)).await;
        assert_eq!(status, StatusCode::OK, "{query}: {found}");
        let keys: Vec<&Value> = found["hits"]["hits"].as_array().into_iter().flatten().map(|hit| &hit["_id"]).collect();
        assert_eq!(keys, ["1"], "{query}: {found}");
    }
    let validated = world.output(&["validate", "--stream", "kinds"], &[]);
    let told = String::from_utf8_lossy(&validated.stdout);
    assert!(validated.status.success() && told.contains("kinds in elasticsearch: equal, 2 compared"), "{told}");
}
