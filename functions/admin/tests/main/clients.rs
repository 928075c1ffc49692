//! Live sync, as an operator sees it.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, METRICS, OPERATOR, READER};

/// `item` goes to clients, in the buckets of its numbers.
async fn with_clients() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.item().await;
    fixture
        .owner
        .batch_execute(
            "CREATE FUNCTION readers(claims jsonb) RETURNS SETOF text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$ SELECT 'a' $$;
             SELECT sluice.define_bucket('item', bucket => 'n', readers => 'public.readers')",
        )
        .await
        .unwrap();
    fixture
}

/// Both sides of a change, `None`: it has none.
async fn conflict(fixture: &Fixture, stream: &str, key: &str, fields: Option<&str>, document: Option<&str>) {
    let insert = "INSERT INTO sluice.conflict (subject, id, stream, key, buckets, op, fields, document, is_applied)
        VALUES ('ada', gen_random_uuid(), $1, $2, '{a}', CASE WHEN $3::text IS NULL THEN 'delete' ELSE 'update' END, $3, $4, $4::text IS NOT NULL)";
    fixture.owner.execute(insert, &[&stream, &key, &fields, &document]).await.unwrap();
}

#[tokio::test]
async fn whether_clients_pull_how_many_are_connected_and_how_far_it_is_behind_is_told() {
    let fixture = Fixture::new().await;
    let unused = json!({"streams": [], "connected": 0, "buckets": 0, "items": 0, "is_estimate": false, "accounts": null,
        "conflicts": 0, "conflicts_of_day": 0, "paused": false, "pending_rows": 0, "lag_ms": 0});
    assert_eq!(fixture.get("/api/sync").await, unused);

    let fixture = with_clients().await;
    fixture
        .owner
        .batch_execute(
            "INSERT INTO sluice.bucket (stream, name, seq, count, checksum) VALUES ('item', '1', 5, 2, 7), ('item', '2', 9, 3, 8);
             INSERT INTO sluice.sync_process VALUES (gen_random_uuid(), 2, clock_timestamp()), (gen_random_uuid(), 3, clock_timestamp()), (gen_random_uuid(), 90, '-infinity');
             INSERT INTO sluice.connection VALUES ('c', '{}', NULL, NULL, now() + interval '1 hour', now(), now()), ('d', '{}', NULL, NULL, now() - interval '1 hour', now(), now());
             INSERT INTO sluice.account (email, password) VALUES ('ada@example.org', 'x');
             INSERT INTO sluice.conflict (subject, id, stream, key, buckets, op, is_applied, at) SELECT 'ada', gen_random_uuid(), 'item', '1', '{a}', 'delete', true, at
             FROM (VALUES (clock_timestamp()), (clock_timestamp() - interval '25 hours')) AS t (at);
             INSERT INTO sluice.delivery_stats VALUES ('sync', 'item', 'conflict', 4), ('sync', 'other', 'conflict', 3), ('sync', 'item', 'written', 11);
             INSERT INTO item VALUES ('1', 1), ('2', 2);
             SELECT sluice.pause('sync')",
        )
        .await
        .unwrap();
    let told = fixture.get("/api/sync").await;
    for (name, value) in [
        ("streams", json!(["item"])),
        ("connected", json!(6)),
        ("buckets", json!(2)),
        ("items", json!(5)),
        ("is_estimate", json!(false)),
        ("accounts", json!(1)),
        ("conflicts", json!(7)),
        ("conflicts_of_day", json!(1)),
        ("paused", json!(true)),
    ] {
        assert_eq!(told[name], value, "{name} of {told}");
    }
    // The resync that begins with a definition may be among them.
    assert!(told["pending_rows"].as_i64().unwrap() >= 2, "{told}");
    assert!(told["lag_ms"].as_i64().unwrap() > 0, "{told}");

    let metrics = fixture.send(Method::GET, "/metrics", Some(METRICS), None).await.1;
    let metrics = metrics.as_str().unwrap();
    for line in
        ["sync_clients 6", "sync_conflicts_total{stream=\"item\"} 4", "cdc_live_sync_writes_total{table=\"item\"} 11"]
    {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.contains("cdc_sync_lag_seconds{table=\"item\",target=\"sync\"}"), "{metrics}");
}

#[tokio::test]
async fn each_bucket_is_on_one_page_whatever_its_name_and_of_very_many_the_count_is_a_guess() {
    let fixture = with_clients().await;
    fixture
        .owner
        .batch_execute(
            r#"INSERT INTO sluice.bucket (stream, name, seq, count, checksum)
               SELECT s, n, 7, 2, 4294967295 FROM unnest('{item,other}'::text[]) AS s, unnest(ARRAY['a', 'A', 'a"]', 'ü\ %&', ' ', repeat('x', 256)]) AS n"#,
        )
        .await
        .unwrap();
    for (stream, expected) in [("", 12), ("&stream=item", 6), ("&stream=nobody", 0)] {
        let (mut seen, mut after) = (vec![], String::new());
        loop {
            let page = fixture.get(&format!("/api/sync/buckets?limit=4{stream}{after}")).await;
            let buckets = page["buckets"].as_array().unwrap();
            assert!(buckets.len() <= 4);
            seen.extend(buckets.iter().map(|it| (it["stream"].to_string(), it["bucket"].as_str().unwrap().to_owned())));
            let Some(next) = page["next_after"].as_str() else { break };
            let query: String = next.bytes().map(|byte| format!("%{byte:02X}")).collect();
            after = format!("&after={query}");
        }
        assert!(seen.is_sorted_by(|one, next| one < next), "by the bytes of their names, each once: {seen:?}");
        assert_eq!(seen.len(), expected, "{seen:?}");
    }
    let first = fixture.get("/api/sync/buckets?limit=1").await;
    assert_eq!(
        first["buckets"][0],
        json!({"stream": "item", "bucket": " ", "items": 2, "seq": 7, "checksum": 4_294_967_295_i64})
    );
    for wrong in ["x", "%5B%22item%22%5D", "%5B1%2C2%5D"] {
        let (status, problem) = fixture.call(Method::GET, &format!("/api/sync/buckets?after={wrong}"), None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains("next_after"), "{problem}");
    }
    fixture
        .owner
        .batch_execute(
            "INSERT INTO sluice.bucket (stream, name, seq, count, checksum) SELECT 'many', n, 1, 1, 1 FROM generate_series(1, 120000) AS n;
             ANALYZE sluice.bucket",
        )
        .await
        .unwrap();
    let told = fixture.get("/api/sync").await;
    assert_eq!(told["is_estimate"], json!(true), "{told}");
    assert!(told["buckets"].as_i64().unwrap() >= 100_000, "{told}");
}

#[tokio::test]
async fn conflicts_are_listed_with_both_sides_for_operators_alone_and_each_is_on_one_page() {
    let fixture = with_clients().await;
    conflict(&fixture, "item", "1", Some(r#"{"n": 1.10, "why": "secret"}"#), Some(r#"{"n":9007199254740993}"#)).await;
    conflict(&fixture, "item", "2", None, None).await;
    conflict(&fixture, "other", "3", Some(&format!("\"{}\"", "x".repeat(300_000))), Some("{}")).await;
    let all = |list: &Value| -> Vec<i64> {
        list["conflicts"].as_array().unwrap().iter().map(|it| it["number"].as_i64().unwrap()).collect()
    };
    let list = fixture.get("/api/sync/conflicts").await;
    assert_eq!((all(&list), &list["next_before"]), (vec![3, 2, 1], &json!(null)));
    let [long, gone, first] = [0, 1, 2].map(|n| list["conflicts"][n].clone());
    for (name, value) in [
        ("stream", json!("item")),
        ("key", json!("1")),
        ("subject", json!("ada")),
        ("op", json!("update")),
        ("applied", json!(true)),
        ("fields", json!(r#"{"n": 1.10, "why": "secret"}"#)),
        ("fields_bytes", json!(28)),
        ("document", json!(r#"{"n":9007199254740993}"#)),
        ("document_bytes", json!(22)),
    ] {
        assert_eq!(first[name], value, "{name} of {first}");
    }
    assert_eq!((&gone["op"], &gone["applied"]), (&json!("delete"), &json!(false)));
    assert_eq!(
        (&gone["fields"], &gone["fields_bytes"], &gone["document_bytes"]),
        (&json!(null), &json!(null), &json!(null))
    );
    assert_eq!((&long["fields"], &long["fields_bytes"]), (&json!(null), &json!(300_002)), "too long to be listed");
    assert_eq!(all(&fixture.get("/api/sync/conflicts?stream=item&limit=1").await), [2]);
    let rest = fixture.get("/api/sync/conflicts?stream=item&limit=1&before=2").await;
    assert_eq!((all(&rest), &rest["next_before"]), (vec![1], &json!(1)));
    assert_eq!(all(&fixture.get("/api/sync/conflicts?stream=item&before=1").await), Vec::<i64>::new());

    let (status, told) = fixture.send(Method::GET, "/api/sync/conflicts", Some(READER), None).await;
    assert!(
        status.is_success() && !told.to_string().contains("secret") && !told.to_string().contains("9007"),
        "{told}"
    );
    assert_eq!((all(&told), &told["conflicts"][2]["fields_bytes"]), (vec![3, 2, 1], &json!(28)));
    assert_eq!(fixture.send(Method::GET, "/api/sync/conflicts", Some(METRICS), None).await.0, StatusCode::FORBIDDEN);
}

/// Each page within what Lambda takes, and all of them together whole.
#[tokio::test]
async fn pages_of_conflicts_end_where_an_answer_is_full_and_a_readers_do_not() {
    let fixture = with_clients().await;
    fixture
        .owner
        .batch_execute(
            r#"INSERT INTO sluice.conflict (subject, id, stream, key, buckets, op, fields, document, is_applied)
               SELECT repeat(E'\x01', 2000), gen_random_uuid(), 'item', repeat('"', 2000), '{a}', 'update', to_json(repeat('\', 60000)), to_json(repeat('x', 150000)), true
               FROM generate_series(1, 60)"#,
        )
        .await
        .unwrap();
    let (mut count, mut pages, mut before) = (0, 0, String::new());
    loop {
        let path = format!("/api/sync/conflicts?limit=500{before}");
        let (_, bytes) = fixture.bytes(Method::GET, &path, Some(OPERATOR), None).await;
        let text = String::from_utf8(bytes).unwrap();
        assert!(serde_json::to_string(&text).unwrap().len() < 6_000_000);
        let list: Value = serde_json::from_str(&text).unwrap();
        let conflicts = list["conflicts"].as_array().unwrap();
        assert!(conflicts.iter().all(|it| it["fields"].is_string() && it["document"].is_string()));
        (count, pages) = (count + conflicts.len(), pages + 1);
        let Some(next) = list["next_before"].as_i64() else { break };
        before = format!("&before={next}");
    }
    assert_eq!(count, 60);
    assert!(pages > 3, "{pages}");
    let told = fixture.send(Method::GET, "/api/sync/conflicts?limit=60", Some(READER), None).await.1;
    assert_eq!(told["conflicts"].as_array().unwrap().len(), 60);
}
