use futures_util::future::{join, join_all, join3};
use localstack::{eventually, parameter, variable};
use mongodb::Collection;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Binary, Bson, DateTime, Decimal128, Document, Timestamp, doc, serialize_to_vec};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

use crate::fixture::{Ingesting, ORIGIN_SECRET};
use crate::shop::{SHOP, Shop};

#[tokio::test]
async fn a_collection_is_copied_and_what_changes_in_it_follows() {
    let shop = Shop::new().await;
    let orders = shop.orders();
    orders.insert_many((0..3).map(|n| doc! { "_id": format!("o{n}"), "n": n })).await.unwrap();
    shop.round().await;
    assert_eq!(
        shop.table().await,
        "o0 {\"n\": 0, \"_id\": \"o0\"}\no1 {\"n\": 1, \"_id\": \"o1\"}\no2 {\"n\": 2, \"_id\": \"o2\"}"
    );
    orders.update_one(doc! { "_id": "o1" }, doc! { "$set": { "n": 10 } }).await.unwrap();
    orders.delete_one(doc! { "_id": "o0" }).await.unwrap();
    orders.replace_one(doc! { "_id": "o2" }, doc! { "m": 7 }).await.unwrap();
    orders.insert_one(doc! { "_id": "o3" }).await.unwrap();
    let tally = shop.round().await.tally;
    assert_eq!((tally.fetched, tally.synced, tally.deleted), (4, 3, 1));
    assert_eq!(
        shop.table().await,
        "o1 {\"n\": 10, \"_id\": \"o1\"}\no2 {\"m\": 7, \"_id\": \"o2\"}\no3 {\"_id\": \"o3\"}"
    );
    assert_eq!(shop.round().await.tally, ingest::Tally::default());
}

#[tokio::test]
async fn a_large_collection_is_copied_page_by_page_and_goes_on_where_it_was() {
    let shop = Shop::new().await;
    let ids: Vec<i32> = (0..1200).collect();
    shop.orders().insert_many(ids.iter().map(|n| doc! { "_id": format!("o{n:04}"), "n": n })).await.unwrap();
    // A round that has no time reads one page.
    let mut pages = 0;
    while shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders").await < 1200 {
        shop.glance().await;
        pages += 1;
        // What is in front of the copy, and behind it.
        for n in [0, 1199 - pages] {
            shop.orders()
                .update_one(doc! { "_id": format!("o{n:04}") }, doc! { "$set": { "n": pages } })
                .await
                .unwrap();
        }
        shop.orders().delete_one(doc! { "_id": format!("o{:04}", 600 + pages) }).await.unwrap();
        if pages > 10 {
            break;
        }
    }
    shop.round().await;
    shop.assert_equal().await;
    assert!(
        shop.fixture
            .value::<bool>("SELECT chain_pages = 0 AND NOT is_anew AND since IS NOT NULL FROM sluice.ingest_position")
            .await
    );
}

#[tokio::test]
async fn a_collection_that_was_dropped_or_renamed_is_told_and_is_read_anew_when_it_is_asked_for() {
    for how in ["dropped", "renamed"] {
        let shop = Shop::new().await;
        shop.orders().insert_many((0..5).map(|n| doc! { "_id": format!("o{n}") })).await.unwrap();
        shop.round().await;
        shop.orders().update_one(doc! { "_id": "o1" }, doc! { "$set": { "n": 1 } }).await.unwrap();
        match how {
            "dropped" => shop.orders().drop().await.unwrap(),
            _ => {
                let name = |name: &str| format!("{}.{name}", shop.mongo.name());
                let rename = doc! { "renameCollection": name("orders"), "to": name("older") };
                shop.client.database("admin").run_command(rename).await.map(drop).unwrap();
            }
        }
        shop.orders().insert_one(doc! { "_id": "new" }).await.unwrap();
        for _ in 0..2 {
            let told = shop.failure().await;
            assert!(
                told.contains(&format!("the collection was {how}")) && told.contains("sluice.resync_ingest"),
                "{told}"
            );
        }
        assert_eq!(shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders").await, 5, "its rows stay");
        let told: String = shop.fixture.value("SELECT last_error FROM sluice.ingest_status() WHERE failures = 2").await;
        assert!(told.contains(how), "{told}");
        shop.fixture.owner.batch_execute("SELECT sluice.resync_ingest('orders')").await.unwrap();
        shop.round().await;
        assert_eq!(shop.table().await, "new {\"_id\": \"new\"}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_in_the_oplog_any_more_is_told_and_a_new_copy_heals() {
    let shop = Shop::new().await;
    shop.orders().insert_many((0..5).map(|n| doc! { "_id": format!("o{n}") })).await.unwrap();
    shop.round().await;
    shop.orders().delete_one(doc! { "_id": "o2" }).await.unwrap();
    // Of a time before the server's first entry.
    let token = serialize_to_vec(&doc! { "": { "_data": "0000000100000001" } }).unwrap();
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    let older = "UPDATE sluice.ingest_position SET next = replace(next, next::json #>> '{from,token}', $1)";
    assert_eq!(shop.fixture.owner.execute(older, &[&token]).await.unwrap(), 1);
    let told = shop.failure().await;
    assert!(told.contains("oplog any more (code 286)") && told.contains("sluice.resync_ingest"), "{told}");
    shop.orders().insert_one(doc! { "_id": "o9" }).await.unwrap();
    shop.failure().await;
    assert_eq!(shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders").await, 5);
    shop.fixture.owner.batch_execute("SELECT sluice.resync_ingest('orders')").await.unwrap();
    assert_eq!(shop.round().await.tally.deleted, 1, "what the new copy does not have");
    shop.assert_equal().await;
    assert_eq!(shop.fixture.value::<i32>("SELECT failures FROM sluice.ingest_position").await, 0);
}

#[tokio::test]
async fn a_delete_that_comes_late_is_not_undone_by_an_older_copy() {
    let shop = Shop::new().await;
    shop.orders().insert_many((0..600).map(|n| doc! { "_id": format!("o{n:03}") })).await.unwrap();
    shop.glance().await;
    shop.orders().delete_one(doc! { "_id": "o599" }).await.unwrap();
    // The change is read, and of the copy one page.
    shop.glance().await;
    let known = "SELECT count(*) FROM sluice.ingest_deleted WHERE source = 'orders' AND key = 'o599'";
    assert_eq!(shop.fixture.value::<i64>(known).await, 1);
    // The copy finds it as it was before, as a server might that is behind the others.
    let database = shop.client.database(shop.mongo.name());
    shop.unlogged_insert(&database, doc! { "_id": "o599" }).await;
    shop.round().await;
    assert_eq!(shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders WHERE id = 'o599'").await, 0);
    assert_eq!(shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders").await, 599);
}

#[tokio::test]
async fn ids_of_all_types_are_copied_in_pages_and_followed() {
    let tables = "CREATE SCHEMA shop; CREATE TABLE shop.orders (id text PRIMARY KEY, document jsonb, at timestamptz)";
    let shop = Shop::with(tables, &[("rules", "{}")]).await;
    let decimal: Decimal128 = "7.5".parse().unwrap();
    let binary = Binary { subtype: mongodb::bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] };
    // As many texts as a page has, in the middle of the others.
    let mut ids: Vec<Bson> = (0..700).map(|n| Bson::String(format!("t{n:03}"))).collect();
    ids.extend((0..700).map(Bson::Int32));
    ids.extend([Bson::Int64(i64::MAX), Bson::Double(0.5), Bson::Decimal128(decimal), doc! { "a": 1 }.into()]);
    ids.extend((0..700).map(|_| Bson::ObjectId(ObjectId::new())));
    ids.extend([binary.into(), Bson::Boolean(true), Bson::DateTime(DateTime::from_millis(7))]);
    ids.push(Bson::Timestamp(Timestamp { time: 7, increment: 7 }));
    fastrand::shuffle(&mut ids);
    let documents = ids.iter().map(|id| doc! { "_id": id.clone() });
    shop.orders().insert_many(documents).await.unwrap();
    shop.round().await;
    // Those that are no text in our JSON have no key in a column of text.
    let counts =
        "SELECT (SELECT count(*) FROM shop.orders), (SELECT count(*) FROM sluice.ingest_rejects WHERE reason = 'id')";
    let row = shop.fixture.owner.query_one(counts, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (700 + 700 + 2, 700 + 3 + 3));
}

#[tokio::test]
async fn fields_of_each_type_fill_a_column_that_fits_and_what_does_not_fit_is_a_reject() {
    let tables = "CREATE SCHEMA shop; CREATE TABLE shop.orders (id text PRIMARY KEY, long bigint, price numeric(40, 10), at_ timestamptz,
        ref text, uuid uuid, is_paid boolean, rate float8, whole jsonb, city text, at timestamptz NOT NULL)";
    let fields = r#"{"/_id": "id", "/long": "long", "/price": "price", "/at": "at_", "/ref": "ref", "/uuid": "uuid", "/paid": "is_paid",
        "/rate": "rate", "": "whole", "/address/city": "city"}"#;
    let shop = Shop::with(tables, &[("fields", fields), ("rules", r#"{"price": [{"range": [0, null]}]}"#)]).await;
    let price: Decimal128 = "123456789012345678901234.5678901234".parse().unwrap();
    let uuid = Binary { subtype: mongodb::bson::spec::BinarySubtype::Uuid, bytes: vec![0xAB; 16] };
    let id = ObjectId::parse_str("65f0c0ffee0123456789abcd").unwrap();
    let order = doc! {
        "_id": id, "long": i64::MAX, "price": price, "at": DateTime::from_millis(1_772_366_400_123_i64), "ref": id, "uuid": uuid,
        "paid": true, "rate": 0.1, "address": { "city": "Ulm" },
    };
    shop.orders().insert_one(&order).await.unwrap();
    shop.round().await;
    let row = "SELECT concat_ws(' ', id, long, price, at_ AT TIME ZONE 'UTC', ref, uuid, is_paid, rate, city, whole ->> 'price', whole ->> 'long') FROM shop.orders";
    let all = "65f0c0ffee0123456789abcd 9223372036854775807 123456789012345678901234.5678901234 2026-03-01 12:00:00.123 \
        65f0c0ffee0123456789abcd abababab-abab-abab-abab-abababababab t 0.1 Ulm 123456789012345678901234.5678901234 9223372036854775807";
    assert_eq!(shop.fixture.value::<String>(row).await, all);
    for (field, value, reason) in [
        ("long", Bson::String("seven".to_owned()), "long"),
        ("price", Bson::Double(f64::NAN), "price"),
        ("price", Bson::Int32(-1), "price"),
        ("at", Bson::DateTime(DateTime::MAX), "at_"),
        ("uuid", Bson::ObjectId(id), "uuid"),
        ("ref", Bson::String("a\0b".to_owned()), "ref"),
        ("text", Bson::String("x".repeat(1 << 20)), "too_large"),
    ] {
        shop.orders().update_one(doc! { "_id": id }, doc! { "$set": { field: value } }).await.unwrap();
        assert_eq!(shop.round().await.tally.invalid, 1);
        let known = "SELECT reason FROM sluice.ingest_rejects ORDER BY last_at DESC, id DESC LIMIT 1";
        assert_eq!(shop.fixture.value::<String>(known).await, reason);
        shop.orders().replace_one(doc! { "_id": id }, &order).await.unwrap();
        shop.round().await;
        assert_eq!(shop.fixture.value::<String>(row).await, all);
    }
    let open = "SELECT count(*) FROM sluice.ingest_rejects WHERE resolved_at IS NULL";
    assert_eq!(shop.fixture.value::<i64>(open).await, 0, "the document is right again");
}

#[tokio::test]
async fn a_new_copy_keeps_the_row_of_a_document_that_is_a_reject_and_what_the_table_does_not_let_go() {
    let tables = format!("{SHOP} CREATE TABLE shop.lines (order_id text REFERENCES shop.orders)");
    let shop = Shop::with(&tables, &[("rules", "{}")]).await;
    shop.orders().insert_many((1..=4).map(|n| doc! { "_id": format!("o{n}") })).await.unwrap();
    shop.round().await;
    shop.fixture.owner.batch_execute("INSERT INTO shop.lines VALUES ('o2')").await.unwrap();
    let none = || doc! { "comment": "unlogged" };
    for id in ["o2", "o3"] {
        let mut delete = doc! { "delete": "orders", "deletes": [{ "q": { "_id": id }, "limit": 1 }] };
        delete.extend(none());
        shop.mongo.run_command(delete).await.unwrap();
    }
    shop.orders().update_one(doc! { "_id": "o4" }, doc! { "$set": { "text": "a\0b" } }).await.unwrap();
    shop.fixture.owner.batch_execute("SELECT sluice.resync_ingest('orders')").await.unwrap();
    shop.round().await;
    let ids = "SELECT string_agg(id, ' ' ORDER BY id) FROM shop.orders";
    assert_eq!(shop.fixture.value::<String>(ids).await, "o1 o2 o4");
}

#[tokio::test]
async fn two_ingests_at_once_and_one_that_was_told_to_begin_anew_store_nothing_twice_and_lose_nothing() {
    let shop = Shop::new().await;
    shop.orders().insert_many((0..1500).map(|n| doc! { "_id": format!("o{n:04}") })).await.unwrap();
    let others = [shop.fixture.ingest_of_source("orders"), shop.fixture.ingest_of_source("orders")];
    let resync = async {
        for _ in 0..3 {
            shop.fixture.owner.batch_execute("SELECT sluice.resync_ingest('orders')").await.unwrap();
            shop.fixture.round_of(&shop.ingest).await;
        }
    };
    join3(resync, shop.fixture.round_of(&others[0]), shop.fixture.round_of(&others[1])).await;
    assert_eq!(
        shop.fixture.value::<i32>("SELECT failures FROM sluice.ingest_position").await,
        0,
        "{}",
        shop.fixture.errors().await
    );
    shop.round().await;
    shop.assert_equal().await;
}

#[tokio::test]
async fn a_page_that_was_read_before_all_is_to_be_read_anew_is_not_stored_and_moves_no_position() {
    let shop = Shop::new().await;
    shop.orders().insert_one(doc! { "_id": "o1" }).await.unwrap();
    shop.round().await;
    shop.orders().insert_one(doc! { "_id": "o2" }).await.unwrap();
    for statements in ["UPDATE sluice.ingest_position SET requested_at = now()", "BEGIN; LOCK TABLE shop.orders"] {
        shop.fixture.owner.batch_execute(statements).await.unwrap();
    }
    let round = async {
        let end_at = Instant::now() + Duration::from_secs(60);
        let mut summary = ingest::Summary::default();
        Box::pin(shop.ingest.ingest.round("orders", end_at, end_at, &mut summary)).await.unwrap();
        summary
    };
    let resync = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'shop.orders'::regclass)";
        while !shop.fixture.value::<bool>(waits).await {
            sleep(Duration::from_millis(10)).await;
        }
        shop.fixture.owner.batch_execute("SELECT sluice.resync_ingest('orders'); COMMIT").await.unwrap();
    };
    let (summary, ()) = join(round, resync).await;
    assert_eq!((summary.rounds, summary.tally.synced), (1, 0), "{}", shop.fixture.errors().await);
    assert!(shop.fixture.value::<bool>("SELECT next IS NULL AND is_anew FROM sluice.ingest_position").await);
    shop.round().await;
    shop.assert_equal().await;
}

async fn write(orders: Collection<Document>, operations: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..operations {
        let id = format!("o{:03}", random.u32(0..400));
        let (found, value) = (doc! { "_id": &id }, format!("{seed} {number}"));
        match random.u8(0..4) {
            // Another may have inserted it first.
            0 => drop(orders.insert_one(doc! { "_id": id, "v": value }).await),
            1 => drop(
                orders.update_one(found, doc! { "$set": { "v": value, "n": random.i64(..) >> 12 } }).await.unwrap(),
            ),
            2 => drop(orders.replace_one(found, doc! { "r": value }).await.unwrap()),
            _ => drop(orders.delete_one(found).await.unwrap()),
        }
    }
}

/// With OPERATIONS=20000 for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_writers_and_an_ingest_that_is_killed_at_random_leave_the_table_equal_to_the_collection_property() {
    let operations: usize = parameter("OPERATIONS").unwrap_or(2000);
    let seed = fastrand::u64(0..1 << 32);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let shop = Shop::new().await;
    // For a copy of some pages beside them.
    shop.orders().insert_many((0..1800).map(|n| doc! { "_id": format!("o{n:04}x") })).await.unwrap();
    shop.orders().insert_many((0..400).map(|n| doc! { "_id": format!("o{n:03}") })).await.unwrap();
    let writers = (0..4).map(|n| tokio::spawn(write(shop.orders(), operations / 4, seed + n)));
    let writers = tokio::spawn(join_all(writers));
    let mut killed = 0;
    while !writers.is_finished() || killed < 10 {
        let ask = "UPDATE sluice.ingest_position SET requested_at = now()";
        shop.fixture.owner.batch_execute(ask).await.unwrap();
        if killed == 5 {
            shop.fixture.owner.batch_execute("SELECT sluice.resync_ingest('orders')").await.unwrap();
        }
        let another = shop.fixture.ingest_of_source("orders");
        let end_at = Instant::now() + Duration::from_secs(300);
        let mut summary = ingest::Summary::default();
        let round = Box::pin(another.ingest.round("orders", end_at, end_at, &mut summary));
        // Killed wherever it is by then; or it was the faster.
        if timeout(Duration::from_millis(random.u64(5..200)), round).await.is_err() {
            killed += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    for written in writers.await.unwrap() {
        written.unwrap();
    }
    shop.fixture.owner.batch_execute("UPDATE sluice.ingest_position SET ends_by = NULL").await.unwrap();
    shop.round().await;
    shop.assert_equal().await;
    println!("killed {killed} times; {} rejects", shop.fixture.rejects().await.len());
}

#[tokio::test]
async fn a_definition_of_a_collection_that_cannot_work_is_refused_by_name_with_what_to_do() {
    let tables = format!(
        "{SHOP} CREATE TABLE shop.stale (id text PRIMARY KEY, document jsonb, at timestamptz);
        INSERT INTO shop.stale VALUES ('a', '{{}}', now());"
    );
    let shop = Shop::with(&tables, &[("rules", "{}")]).await;
    for (argument, value, expected) in [
        ("kind", "mongo", "there is no kind 'mongo' | There are http and mongodb"),
        ("url", "", "it needs either a url or a secret that has it | Where nobody is asked"),
        ("url", "https://example.com", "its url is no connection string"),
        ("url", "mongodb://me:s3cret@host/", "without credentials | With credentials it belongs into a secret"),
        ("secret", "arn:secret", "it needs either a url or a secret"),
        ("options", "{}", "its options name no collection that has a change stream: {} | They are"),
        ("options", r#"{"database": "shop"}"#, "its options name no collection"),
        ("options", r#"{"database": "admin", "collection": "a"}"#, "its options name no collection"),
        ("options", r#"{"database": "a.b", "collection": "a"}"#, "its options name no collection"),
        ("options", r#"{"database": "a", "collection": "system.views"}"#, "its options name no collection"),
        ("options", r#"{"database": "a", "collection": "b", "since": "c"}"#, "its options name no collection"),
        ("deletes", r#"{"field": "/gone"}"#, "deletes is given | Leave it out"),
        ("fields", r#"{"/id": "id"}"#, "the key id is not filled by /_id | Have {\"/_id\": \"id\"} in fields"),
        ("fields", r#"{"/_id": "id", "/at": "at"}"#, "a field fills at, which has the time of the change"),
        ("fields", r#"{"/_id": "id", "x": "document"}"#, "the field 'x' is no JSON pointer"),
        ("fields", r#"{"/_id": "id", "": "documents"}"#, "shop.orders has no column documents"),
        ("newer", "document", "a field fills document"),
        ("key", "key", "has no column key"),
        ("to_table", "shop.stale", "there are rows in shop.stale already"),
        ("name", "others", "the ingest orders fills shop.orders already | A collection has a table of its own"),
    ] {
        let error = shop.fixture.owner.batch_execute(&shop.define(&[(argument, value)])).await;
        let error = error.expect_err(&format!("{argument} => {value}"));
        let error = error.as_db_error().unwrap();
        let told = format!("{} | {}", error.message(), error.hint().expect("what to do"));
        assert!(told.contains(expected), "{argument} => {value}: {told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
    let http = crate::fixture::shop(
        "web",
        "https://example.com",
        &[
            ("to_table", "shop.orders"),
            ("newer", "at"),
            ("fields", r#"{"/id": "id", "/at": "at", "/d": "document"}"#),
            ("rules", "{}"),
        ],
    );
    let told = shop.fixture.owner.batch_execute(&http).await.unwrap_err();
    assert!(told.as_db_error().unwrap().message().contains("the ingest orders fills shop.orders already"));
    shop.fixture.owner.batch_execute(&shop.define(&[("rules", "{}")])).await.expect("the same again");
}

#[tokio::test]
async fn a_collection_is_read_by_tls_with_the_authority_of_its_secret_and_no_error_has_a_credential() {
    let shop = Shop::with(SHOP, &[("url", ""), ("secret", ORIGIN_SECRET)]).await;
    shop.orders().insert_one(doc! { "_id": "o1" }).await.unwrap();
    let ca = std::fs::read_to_string(variable("DATABASE_CA_FILE")).unwrap();
    let (plain, tls) = (variable("MONGODB_URL"), variable("MONGODB_TLS_URL"));
    let with_user = |url: &str| url.replace("mongodb://", "mongodb://me:s3cret@");
    for (secret, expected) in [
        (serde_json::json!({ "uri": plain }), ""),
        (serde_json::json!({ "url": "mongodb://me:s3cret@" }), "no connection string"),
        (serde_json::json!({ "url": "mongodb://me:s3cret@192.0.2.1/" }), "credentials and no TLS"),
        (serde_json::json!({ "url": tls }), "its certificate is not one that is trusted"),
        (serde_json::json!({ "url": tls, "ca": "s3cret" }), "ca must have certificates in PEM"),
        // It knows nobody, whoever he is.
        (serde_json::json!({ "url": with_user(&plain) }), "credentials"),
    ] {
        shop.fixture.manager.put(ORIGIN_SECRET, &secret);
        // Soon tired of a server that it does not trust.
        let another = shop.fixture.impatient_ingest("http://127.0.0.1:1/");
        let another = Ingesting { source: "orders".to_owned(), ..another };
        // A slow machine may give the server up before it has shown its certificate.
        let told = eventually("what is wrong", async || {
            let summary = shop.fixture.round_of(&another).await;
            let told = shop.fixture.errors().await;
            if summary.failures == 1 && told.contains(expected) { Ok(told) } else { Err(told) }
        })
        .await;
        assert!(!told.contains("s3cret") && !told.contains("192.0.2.1"), "{told}");
    }
    shop.fixture.manager.put(ORIGIN_SECRET, &serde_json::json!({ "url": tls, "ca": ca }));
    let another = shop.fixture.ingest_of_source("orders");
    assert_eq!(shop.fixture.round_of(&another).await.rounds, 1, "{}", shop.fixture.errors().await);
    shop.assert_equal().await;
}

#[tokio::test]
async fn a_collection_whose_server_is_away_holds_up_no_other() {
    let shop = Shop::new().await;
    shop.orders().insert_one(doc! { "_id": "o1" }).await.unwrap();
    let more = "CREATE TABLE shop.away (id text PRIMARY KEY, document jsonb, at timestamptz)";
    shop.fixture.owner.batch_execute(more).await.unwrap();
    let away = shop.define(&[("name", "away"), ("to_table", "shop.away"), ("url", "mongodb://127.0.0.1:1/")]);
    shop.fixture.owner.batch_execute(&away).await.unwrap();
    let both = shop.fixture.impatient_ingest("http://127.0.0.1:1/");
    let deadline = std::time::SystemTime::now() + Duration::from_secs(8);
    let summary = Box::pin(both.ingest.handle(deadline)).await.unwrap();
    assert!(summary.rounds > 0 && summary.failures > 0, "{summary:?}");
    shop.assert_equal().await;
    let told: String = shop.fixture.value("SELECT last_error FROM sluice.ingest_position WHERE source = 'away'").await;
    assert!(told.contains("no server of MongoDB answers"), "{told}");
}
