//! What holds for profiles holds for any definition.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Ingesting, shop};
use crate::wire::{Reply, Wire};

/// Types of columns, and for each values that it takes and some that it does not.
fn values(kind: &str, random: &mut fastrand::Rng) -> Value {
    let good = random.u8(..) > 20;
    let n = random.i32(0..1000);
    match kind {
        "text" if good => json!(["", "x", " y ", "é\u{1F600}\"\\", "NULL", "{}"][random.usize(..6)]),
        "varchar(3)" if good => json!(["a", "bc", "dé3"][random.usize(..3)]),
        "varchar(3)" => json!("four"),
        "smallint" if good => json!(n),
        "smallint" => json!([40_000, -40_000][random.usize(..2)]),
        "bigint" if good => [json!(i64::MAX), json!(i64::MIN), json!(n.to_string())][random.usize(..3)].clone(),
        "bigint" => serde_json::from_str("9223372036854775808").unwrap(),
        "numeric(6,2)" if good => json!([0.5, 19.999, -7.0][random.usize(..3)]),
        "double precision" if good => json!(f64::from(n) / 7.0),
        "boolean" if good => json!(n % 2 == 0),
        "date" if good => json!(format!("2026-01-{:02}", 1 + n % 28)),
        "date" => json!("2026-02-30"),
        "timestamptz" if good => {
            [json!("2026-01-01T12:00:00.1234567+02:00"), json!(1_700_000_000), json!(1_700_000_000_123_i64)]
                [random.usize(..3)]
            .clone()
        }
        "jsonb" if good => json!({"a": [1, null, {"b": "é"}], "n": n}),
        "jsonb" => json!("\u{0}"),
        "shop.state" if good => json!(["new", "it's used"][random.usize(..2)]),
        "uuid" if good => json!(format!("0B8F7A2E-1d52-4f7c-9e0a-{n:012}")),
        _ => [json!([]), json!({}), json!("nonsense")][random.usize(..3)].clone(),
    }
}

/// A definition by chance, its table twice, and items for it.
struct Drawn {
    tables: String,
    fields: Value,
    rules: Value,
    options: Value,
    items: Vec<Value>,
    page_size: usize,
}

fn set(item: &mut Value, pointer: &[&str], value: Value) {
    match pointer {
        [name] => item[name] = value,
        [name, rest @ ..] => set(&mut item[name], rest, value),
        [] => {}
    }
}

impl Drawn {
    fn new(random: &mut fastrand::Rng) -> Self {
        const KINDS: [&str; 12] = [
            "text",
            "varchar(3)",
            "smallint",
            "bigint",
            "numeric(6,2)",
            "double precision",
            "boolean",
            "date",
            "timestamptz",
            "jsonb",
            "shop.state",
            "uuid",
        ];
        const POINTERS: [&[&str]; 12] = [
            &["c0"],
            &["a", "b"],
            &["a", "c"],
            &["c1", "", "d"],
            &["é"],
            &["c4", "x"],
            &["c2"],
            &["c3", "deep", "er"],
            &["c5"],
            &["c6"],
            &["c7"],
            &["c8"],
        ];
        let (key_type, keys): (&str, Vec<Value>) = match random.usize(..3) {
            0 => ("bigint", (0..60).map(|n| json!(n - 30)).collect()),
            1 => ("uuid", (0..60).map(|n| json!(format!("0B8f7a2e-1d52-4f7c-9e0a-{n:012x}"))).collect()),
            _ => ("text", (0..60).map(|n| json!(format!("k/{n}'\""))).collect()),
        };
        let mut kinds = KINDS;
        random.shuffle(&mut kinds);
        let columns = &kinds[..random.usize(1..6)];
        let unique = random.usize(..3);
        let mut fields = json!({"/key~1": "id", "/meta/at": "newer at"});
        let mut rules = json!({});
        let mut ddl = format!("id {key_type} PRIMARY KEY, \"newer at\" timestamptz");
        for (number, kind) in columns.iter().enumerate() {
            ddl += &format!(", \"c{number}\"\"\" {kind}");
            fields[format!("/{}", POINTERS[number].join("/"))] = json!(format!("c{number}\""));
        }
        for number in 0..unique {
            ddl += &format!(", u{number} text UNIQUE DEFERRABLE");
            fields[format!("/u/{number}")] = json!(format!("u{number}"));
            rules[format!("u{number}")] = json!(["unique"]);
        }
        // Each time is of one item, but for those that come again.
        let items = (0..400u32).map(|n| {
            let mut item = json!({"key/": keys[random.usize(..60)], "meta": {"at": format!("2026-01-01T00:{:02}:{:02}Z", n / 60, n % 60)}, "other": [1]});
            if random.u8(..) < 10 {
                item["key/"] = [json!(null), json!(true), json!("x".repeat(600))][random.usize(..3)].clone();
            }
            for (number, kind) in columns.iter().enumerate() {
                if random.u8(..) > 30 {
                    set(&mut item, POINTERS[number], values(kind, random));
                }
            }
            item["u"] = (0..unique).map(|_| json!(format!("w{}", random.u8(..80)))).collect();
            item
        });
        let items: Vec<Value> = items.collect();
        let page = [
            json!({"by": "link"}),
            json!({"by": "url", "at": "/next"}),
            json!({"by": "cursor", "parameter": "page", "at": "/next"}),
            json!({"by": "cursor", "parameter": "page", "header": "x-next"}),
            json!({"by": "number", "parameter": "page", "first": 0}),
        ];
        let table = |schema: &str| format!("CREATE TABLE {schema}.items ({ddl}); ");
        Self {
            tables: format!(
                "CREATE SCHEMA shop; CREATE SCHEMA many; CREATE TYPE shop.state AS ENUM ('new', 'it''s used'); {}{}",
                table("shop"),
                table("many")
            ),
            fields,
            rules,
            options: json!({"items": "/data/items", "page": page[random.usize(..5)]}),
            items,
            // Who gets what two pages want depends on which comes first, so where something is unique there is but one.
            page_size: if unique > 0 { 400 } else { 70 },
        }
    }

    fn define(&self, schema: &str, name: &str, url: &str) -> String {
        let table = format!("{schema}.items");
        let (fields, rules, options) = (self.fields.to_string(), self.rules.to_string(), self.options.to_string());
        let changed = [
            ("to_table", table.as_str()),
            ("newer", "newer at"),
            ("fields", &fields),
            ("rules", &rules),
            ("options", &options),
        ];
        shop(name, url, &changed)
    }
}

/// A page of these in whichever way it is asked for: `page` is a number.
fn page(items: &[Value], size: usize, head: &str) -> Reply {
    let number: usize =
        head.split_once("page=").map_or(0, |(_, rest)| rest.split([' ', '&']).next().unwrap().parse().unwrap());
    let from = (number * size).min(items.len());
    let upto = (from + size).min(items.len());
    let is_last = upto == items.len();
    let next = (number + 1).to_string();
    let url = format!("?page={next}");
    // Both a cursor and a URL: only one of them is asked for.
    let told = if is_last {
        Value::Null
    } else if head.starts_with("GET /url") {
        json!(url)
    } else {
        json!(next)
    };
    let body = json!({"next": told, "data": {"items": items[from..upto]}}).to_string();
    let link = format!("<{url}>; rel=next");
    let headers: &[(&str, &str)] = if is_last { &[] } else { &[("link", &link), ("x-next", &next)] };
    Reply::json(body, headers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_definition_gives_the_same_table_in_any_order_however_often_and_the_newest_wins() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(8);
    let first =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..1 << 40));
    for seed in first..first + seeds {
        println!("SEED={seed} SEEDS=1");
        let mut random = fastrand::Rng::with_seed(seed);
        let drawn = Drawn::new(&mut random);
        let fixture = Fixture::new().await;
        fixture.owner.batch_execute(&drawn.tables).await.unwrap();
        let path = if drawn.options["page"]["by"] == "url" { "/url" } else { "/" };

        let (items, size) = (drawn.items.clone(), drawn.page_size);
        let wire = Wire::start(move |_, head| page(&items, size, head)).await;
        fixture.owner.batch_execute(&drawn.define("shop", "once", &format!("{}{path}", wire.url))).await.unwrap();
        let once = fixture.ingest_of_source("once");
        let summary = fixture.round_of(&once).await;
        assert_eq!((summary.rounds, summary.tally.fetched), (1, 400), "{}", fixture.errors().await);

        // The same in other orders, some of them twice, by several at once.
        let orders = Arc::new(Mutex::new(random.fork()));
        let items = drawn.items.clone();
        let chains = Arc::new(Mutex::new(BTreeMap::<String, Vec<Value>>::new()));
        let wire = Wire::start(move |_, head| {
            let (chain, is_first) =
                (head.split(['?', ' ']).nth(1).unwrap().to_owned(), !head.contains("page=") || head.contains("page=0"));
            let mut chains = chains.lock().unwrap();
            let shuffled = chains.entry(chain).or_default();
            if is_first {
                let mut orders = orders.lock().unwrap();
                *shuffled = items.clone();
                orders.shuffle(shuffled);
                let again: Vec<Value> = shuffled.iter().filter(|_| orders.u8(..) < 30).cloned().collect();
                shuffled.extend(again);
            }
            page(shuffled, if size == 400 { 1000 } else { size }, head)
        })
        .await;
        let many: Vec<Ingesting> = (1..=3).map(|n| fixture.ingest_of_source(&format!("many{n}"))).collect();
        for ingest in &many {
            let url = format!("{}{path}{}", wire.url, ingest.source);
            fixture.owner.batch_execute(&drawn.define("many", &ingest.source, &url)).await.unwrap();
        }
        join_all(many.iter().map(async |ingest| {
            for _ in 0..3 {
                assert_eq!(fixture.round_of(ingest).await.rounds, 1, "SEED={seed}: {}", fixture.errors().await);
            }
        }))
        .await;
        let table = |schema: &str| {
            format!("SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY id), '') FROM {schema}.items AS t")
        };
        let stored: String = fixture.value(&table("shop")).await;
        assert!(stored.lines().count() > 10, "SEED={seed}: {stored}");
        assert_eq!(fixture.value::<String>(&table("many")).await, stored, "SEED={seed}");

        // Of each key the newest item that is not a reject; and nothing is both, or neither.
        let newest = "SELECT count(*) FROM sluice.ingest_rejects AS r JOIN shop.items AS i ON i.id::text = r.key
            WHERE r.source = 'once' AND (r.resolved_at IS NULL) <> (r.newer > i.\"newer at\" OR r.newer IS NULL)";
        assert_eq!(fixture.value::<i64>(newest).await, 0, "SEED={seed}");
        let mut known = BTreeMap::<String, String>::new();
        for item in &drawn.items {
            let key = &item["key/"];
            let key = key.as_str().map_or_else(|| key.to_string(), str::to_lowercase);
            let at = item["meta"]["at"].as_str().unwrap().to_owned();
            let newest = known.entry(key).or_default();
            *newest = at.max(newest.clone());
        }
        let told = "SELECT key, to_char(max(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM (
                SELECT id::text AS key, \"newer at\" AS at FROM shop.items
                UNION ALL SELECT key, newer FROM sluice.ingest_rejects WHERE source = 'once' AND key IS NOT NULL) AS k
            GROUP BY key";
        for row in fixture.owner.query(told, &[]).await.unwrap() {
            let (key, at): (String, String) = (row.get(0), row.get(1));
            assert_eq!(known.get(&key.to_lowercase()), Some(&at), "SEED={seed}: {key}");
        }
        assert!(
            fixture
                .value::<bool>(
                    "SELECT bool_and(next IS NULL AND since < '2026-01-01T00:07:00Z') FROM sluice.ingest_position"
                )
                .await
        );
    }
}

#[tokio::test]
async fn what_changed_is_asked_for_in_the_way_that_the_origin_knows() {
    for (since_as, expected) in
        [("rfc3339", "2026-01-01T00%3A00%3A40Z"), ("seconds", "1767225640"), ("milliseconds", "1767225640000")]
    {
        let fixture = Fixture::new().await;
        fixture.owner.batch_execute("CREATE SCHEMA shop; CREATE TABLE shop.products (id bigint PRIMARY KEY, sku text UNIQUE DEFERRABLE, updated_at timestamptz)").await.unwrap();
        let wire =
            Wire::start(|_, _| Reply::page(&[json!({"id": 1, "sku": "a", "updated_at": "2026-01-01T00:01:40Z"})]))
                .await;
        let options = json!({"since": "after", "since_as": since_as}).to_string();
        fixture
            .owner
            .batch_execute(&shop("products", &format!("{}/?x=1", wire.url), &[("options", &options)]))
            .await
            .unwrap();
        let ingest = fixture.ingest_of_source("products");
        for _ in 0..2 {
            assert_eq!(fixture.round_of(&ingest).await.rounds, 1);
        }
        let lines: Vec<String> = wire.requests().iter().map(|head| head.lines().next().unwrap().to_owned()).collect();
        assert_eq!(lines, ["GET /?x=1 HTTP/1.1".to_owned(), format!("GET /?x=1&after={expected} HTTP/1.1")]);
    }
}

#[tokio::test]
async fn whatever_an_origin_sends_is_recorded_and_the_next_page_is_stored() {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute("CREATE SCHEMA shop; CREATE TABLE shop.products (id text PRIMARY KEY, sku text UNIQUE DEFERRABLE, updated_at timestamptz, any jsonb)".replace("any", "\"any\"").as_str()).await.unwrap();
    let good = r#"{"id": "1", "sku": "a", "updated_at": "2026-01-01T00:01:40Z"}"#;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = "k".repeat(1 << 20);
    let page = |items: String| format!(r#"{{"data": {{"items": [{items}]}}}}"#);
    let cases: Vec<(Reply, &str)> = vec![
        (Reply::json(page("0,".repeat(999_999) + "0"), &[]), "a page of more than 50000 elements"),
        (
            Reply::new("429 Too Many Requests", &[("retry-after", "18446744073709551616")], ""),
            "asks to be left alone for 3600 s",
        ),
        (
            Reply::json(page(format!("{deep}, {good}")), &[]),
            r#"{"synced": 1, "fetched": 2, "outdated": 0, "rejected": 1, "duplicate": 0}"#,
        ),
        (
            Reply::json(page(format!(r#"{{"id": "2", "updated_at": "2026-01-01T00:01:41Z", "any": {deep}}}"#)), &[]),
            r#""rejected": 1"#,
        ),
        (Reply::json(deep.clone(), &[]), "has nothing at /data/items"),
        (Reply::json(format!(r#"{{"data": {{"items": {deep}}}}}"#), &[]), r#""duplicate": 1"#),
        (
            Reply::json(page(format!(r#"{{"{long}": 1, "id": "3", "updated_at": "2026-01-01T00:01:41Z"}}"#)), &[]),
            r#""rejected": 1"#,
        ),
        (
            Reply::json(page(format!(r#"{{"id": "{long}", "updated_at": "2026-01-01T00:01:41Z"}}"#)), &[]),
            r#""rejected": 1"#,
        ),
        (
            Reply::json(page(format!(r#"{{"id": "{}", "updated_at": "2026-01-01T00:01:41Z"}}"#, &long[..600])), &[]),
            r#""rejected": 1"#,
        ),
        (Reply::json(format!(r#"{{"{long}": 1, "data": {{"items": [{good}]}}}}"#), &[]), r#""duplicate": 1"#),
        (Reply::json("{\"data\": {\"items\": []}, \"data\": {}}", &[]), "no JSON array of items"),
        (Reply::json("{\"data\": {\"items\": {}}}", &[]), "no JSON array of items"),
    ];
    let (replies, expected): (Vec<Reply>, Vec<&str>) = cases.into_iter().unzip();
    let replies = Mutex::new(replies.into_iter());
    let wire = Wire::start(move |_, _| replies.lock().unwrap().next().unwrap()).await;
    let fields = r#"{"/id": "id", "/sku": "sku", "/updated_at": "updated_at", "/any": "any"}"#;
    let changed = [("fields", fields), ("options", r#"{"items": "/data/items"}"#)];
    fixture.owner.batch_execute(&shop("products", &wire.url, &changed)).await.unwrap();
    let ingest = fixture.ingest_of_source("products");
    let told = "SELECT concat_ws(' ', CASE WHEN failures > 0 THEN last_error END, last_counts) FROM sluice.ingest_position WHERE ends_by IS NULL";
    for (number, expected) in expected.iter().enumerate() {
        fixture.round_of(&ingest).await;
        let told: String = fixture.value(told).await;
        assert!(told.contains(expected), "{number}: {expected} is not in {told}");
    }
    assert_eq!(fixture.value::<String>("SELECT string_agg(id, ' ') FROM shop.products").await, "1");
}

#[tokio::test]
async fn a_source_that_does_not_answer_holds_up_no_other() {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute("CREATE SCHEMA shop; CREATE TABLE shop.products (id bigint PRIMARY KEY, sku text UNIQUE DEFERRABLE, updated_at timestamptz)").await.unwrap();
    let silent = Wire::start(|_, _| Reply::raw("").then_silent()).await;
    let wire =
        Wire::start(|_, _| Reply::page(&[json!({"id": 1, "sku": "a", "updated_at": "2026-01-01T00:01:40Z"})])).await;
    // The first by name, and more than there is room for pages.
    for name in ["a", "b", "c"] {
        fixture.owner.batch_execute(&shop(name, &silent.url, &[])).await.unwrap();
    }
    fixture.owner.batch_execute(&shop("d", &wire.url, &[("every", "1 s")])).await.unwrap();
    let ingest = fixture.ingest_of_source("d").ingest;
    let deadline = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    tokio::select! {
        summary = ingest.handle(deadline) => panic!("it ended: {summary:?}"),
        () = async {
            while fixture.count("fetched").await < 3 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        } => {}
    }
    let under_way = "SELECT string_agg(source, ' ' ORDER BY source) FROM sluice.ingest_position WHERE source < 'd' AND ends_by IS NOT NULL AND failures = 0";
    assert_eq!(fixture.value::<String>(under_way).await, "a b c");
}
