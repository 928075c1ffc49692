use serde_json::{Value, json};

use crate::fixture::{Fixture, shop};
use crate::wire::{Reply, Wire};

/// A table of each kind of trouble.
const SHOP: &str = r#"
    CREATE SCHEMA shop;
    CREATE TYPE shop.state AS ENUM ('new', 'used');
    CREATE TABLE shop.products (
        id bigint PRIMARY KEY, sku text UNIQUE DEFERRABLE, ean text UNIQUE,
        price numeric CHECK (price < 1000), state shop.state, updated_at timestamptz, at timestamp, tags text[],
        twice numeric GENERATED ALWAYS AS (price * 2) STORED, part text, note text
    );
    CREATE TABLE shop.strict (id bigint PRIMARY KEY, updated_at timestamptz, must text NOT NULL);
    CREATE TABLE shop.pairs (id bigint PRIMARY KEY, updated_at timestamptz, a text, b text, UNIQUE (a, b));
    CREATE TABLE shop.loose (id text PRIMARY KEY DEFERRABLE, updated_at timestamptz);
    CREATE VIEW shop.seen AS SELECT * FROM shop.strict;
    CREATE UNIQUE INDEX products_part ON shop.products (part) WHERE part <> '';
"#;

/// What the definition of the default arguments with these is refused with.
async fn refused(fixture: &Fixture, changed: &[(&str, &str)]) -> String {
    let error = fixture
        .owner
        .batch_execute(&shop("products", "http://127.0.0.1:1/", changed))
        .await
        .expect_err(&format!("{changed:?}"));
    let error = error.as_db_error().unwrap();
    let hint = error.hint().unwrap_or_else(|| panic!("it does not say what to do: {}", error.message()));
    format!("{} | {hint}", error.message())
}

#[tokio::test]
async fn a_definition_that_cannot_work_is_refused_by_name_with_what_to_do() {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute(SHOP).await.unwrap();
    fixture
        .owner
        .batch_execute("DROP INDEX shop.products_part; ALTER TABLE shop.products DROP COLUMN ean")
        .await
        .unwrap();
    fixture
        .owner
        .batch_execute(&shop("products", "http://127.0.0.1:1/", &[]))
        .await
        .expect("what the others differ from");
    let with = |field: &str| format!(r#"{{"/id": "id", "/sku": "sku", "/updated_at": "updated_at", {field}}}"#);
    for (argument, value, expected) in [
        ("name", "Products", "an ingest cannot be named 'Products'"),
        ("kind", "soap", "there is no kind 'soap' | There are http and mongodb"),
        ("url", "ftp://example.com", "its url is no URL"),
        ("url", "https://me:s3cret@example.com/", "Credentials belong into a secret"),
        ("url", "nonsense", "its url is no URL"),
        ("to_table", "products", "the table 'products' is named without its schema"),
        ("to_table", "shop.missing", "there is no table shop.missing"),
        ("to_table", "shop.seen", "shop.seen is no table that stays"),
        ("key", "idd", "shop.products has no column idd (the key of the ingest products) | Its columns: id, sku"),
        ("key", "sku", "the key sku of shop.products is not unique | ALTER TABLE shop.products ADD PRIMARY KEY (sku);"),
        ("key", "price", "no field fills price"),
        ("newer", "at", "no field fills at | Add one to fields, as in {\"/at\": \"at\"}"),
        ("newer", "sku", "newer is sku, which is text | Take a column of timestamptz"),
        ("fields", "[]", "fields is no JSON object"),
        ("fields", "{}", "it has 0 fields"),
        ("fields", &with(r#""/x": "xx""#), "has no column xx (for the field /x"),
        ("fields", &with(r#""x": "price""#), "the field 'x' is no JSON pointer"),
        ("fields", &with(r#""/~2": "price""#), "the field '/~2' is no JSON pointer"),
        ("fields", &with(r#""/x": "id""#), "two fields fill the column id"),
        ("fields", &with(r#""/tags": "tags""#), "the column tags, which is text[], does not take the field /tags"),
        ("fields", &with(r#""/at": "at""#), "the column at, which is timestamp without time zone, does not take"),
        ("fields", &with(r#""/twice": "twice""#), "the column twice is always generated"),
        ("rules", r#"{"nobody": ["required"], "sku": ["unique"]}"#, "there are rules for nobody, which no field fills"),
        ("rules", r#"{"sku": "unique"}"#, "the rules for sku are no array"),
        (
            "rules",
            r#"{"sku": ["unique", "e-mail"]}"#,
            "sku has the rule \"e-mail\", which there is not | There are required, email",
        ),
        ("rules", r#"{"sku": ["unique", {"email": true}]}"#, "which there is not"),
        ("rules", r#"{"sku": ["unique", "one_of"]}"#, "which there is not"),
        ("rules", r#"{"sku": ["unique", {"one_of": []}]}"#, "one_of of sku is no array of texts"),
        ("rules", r#"{"sku": ["unique", {"range": [0, 1]}]}"#, "the rule range does not go with sku, which is text"),
        ("rules", r#"{"sku": ["unique"], "id": [{"range": [5, 1]}]}"#, "the range of id is not two numbers"),
        ("rules", r#"{"sku": ["unique"], "id": ["email"]}"#, "the rule email does not go with id, which is bigint"),
        ("rules", r#"{"sku": ["unique", {"pattern": "("}]}"#, "the pattern of sku is no regular expression"),
        (
            "rules",
            r#"{"sku": ["unique", {"pattern": "(?=x)"}]}"#,
            "the pattern of sku has what is not the same everywhere",
        ),
        ("rules", r#"{"sku": ["unique", {"pattern": "(a)\\1"}]}"#, "what is not the same everywhere"),
        (
            "rules",
            "{}",
            "the unique index shop.products_sku_key refuses items, and no rule says so | Give its column the rule unique",
        ),
        ("options", r#"{"pages": 1}"#, "http has no option pages | It has items, page"),
        ("options", r#"{"items": "data"}"#, "items is no JSON pointer"),
        ("options", r#"{"since": 1}"#, "since is no name of a parameter"),
        ("options", r#"{"since_as": "epoch"}"#, "since_as is \"epoch\""),
        ("options", r#"{"page": {"by": "offset"}}"#, "the option page is {\"by\": \"offset\"} | It is"),
        ("options", r#"{"page": {"by": "cursor", "parameter": "c"}}"#, "the option page is"),
        ("options", r#"{"page": {"by": "cursor", "parameter": "c", "at": "/c", "header": "c"}}"#, "the option page is"),
        ("options", r#"{"page": {"by": "number"}}"#, "the option page is"),
        ("marks", r#"{"state": "note"}"#, "there is no mark state"),
        ("marks", r#"{"status": "no"}"#, "has no column no (for the mark status"),
        ("deletes", "[]", "deletes is []"),
        ("deletes", r#"{"field": "state"}"#, "deletes is {\"field\": \"state\"} | It is {\"field\": \"/deleted\"}"),
        ("deletes", r#"{"field": "/state", "listing": "1 day"}"#, "deletes is"),
        ("deletes", r#"{"listing": "0 s"}"#, "deletes is"),
        ("deletes", r#"{"listing": "often"}"#, "deletes has no time between two listings"),
        ("every", "100 ms", "a round every 00:00:00.1 is too often"),
    ] {
        let told = refused(&fixture, &[(argument, value)]).await;
        assert!(told.contains(expected), "{argument} => {value}: {told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
    for (table, fields, rules, expected) in [
        ("shop.strict", "{}", "{}", "must must have a value in shop.strict, and no field fills it"),
        ("shop.pairs", r#"{"/a": "a", "/b": "b"}"#, "{}", "the unique index shop.pairs_a_b_key refuses items"),
        ("shop.loose", "{}", "{}", "the key id of shop.loose is not unique"),
    ] {
        let mut all: Value = serde_json::from_str(fields).unwrap();
        all["/id"] = json!("id");
        all["/updated_at"] = json!("updated_at");
        let changed = [("to_table", table), ("fields", &all.to_string()), ("rules", rules)];
        let told = refused(&fixture, &changed).await;
        assert!(told.contains(expected), "{table}: {told}");
    }
    let secret = [("secret", "arn:secret"), ("url", "http://localhost.example.com/")];
    assert!(refused(&fixture, &secret).await.contains("its url must begin with https:// where there is a secret"));

    // What two rows could not swap.
    fixture.owner.batch_execute(&format!("DROP SCHEMA shop CASCADE; {SHOP}")).await.unwrap();
    let fields = |more: &str| with(&format!(r#""/{more}": "{more}""#));
    let rules = |more: &str| format!(r#"{{"sku": ["unique"], "{more}": ["unique"]}}"#);
    for (column, expected) in [
        ("ean", "ALTER TABLE shop.products ADD UNIQUE (ean) DEFERRABLE INITIALLY IMMEDIATE;"),
        ("part", "the column part of shop.products has no unique constraint"),
    ] {
        let told = refused(&fixture, &[("fields", &fields(column)), ("rules", &rules(column))]).await;
        assert!(told.contains(expected), "{column}: {told}");
    }
}

#[tokio::test]
async fn a_secret_header_leaves_this_machine_by_tls_alone() {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute("CREATE SCHEMA shop; CREATE TABLE shop.products (id bigint PRIMARY KEY, sku text UNIQUE DEFERRABLE, updated_at timestamptz)").await.unwrap();
    for url in [
        "http://example.com/",
        "HTTP://10.0.0.7:8080/",
        "http://localhost.example.com",
        "http://[::2]/",
        "http://127.0.0.1.example.com",
    ] {
        let told = refused(&fixture, &[("secret", "arn:origin"), ("url", url)]).await;
        assert!(told.contains("https://") && !told.contains("arn:origin"), "{told}");
        fixture
            .owner
            .batch_execute(&shop("products", url, &[]))
            .await
            .unwrap_or_else(|_| panic!("{url} without a secret"));
    }
    for url in [
        "https://example.com/",
        "http://localhost:80/",
        "http://origin.localhost:4566/",
        "http://127.0.0.2/",
        "http://[::1]:8080/",
    ] {
        fixture
            .owner
            .batch_execute(&shop("products", url, &[("secret", "arn:origin")]))
            .await
            .unwrap_or_else(|_| panic!("{url}"));
    }
    // Whatever stands in the table: the ingest looks itself.
    fixture.owner.batch_execute("UPDATE sluice.ingest SET url = 'http://example.com/'").await.unwrap();
    let ingest = fixture.ingest_of_source("products");
    assert_eq!(fixture.round_of(&ingest).await.failures, 1);
    let error = fixture.errors().await;
    assert!(error.contains("must begin with https://") && error.contains("define the ingest again"), "{error}");
}

#[tokio::test]
async fn another_definition_has_all_read_anew_and_the_same_changes_nothing() {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute("CREATE SCHEMA shop; CREATE TABLE shop.products (id bigint PRIMARY KEY, sku text UNIQUE DEFERRABLE, price numeric, updated_at timestamptz)").await.unwrap();
    let wire = Wire::start(|_, _| {
        Reply::page(&[json!({"id": 1, "sku": "a", "price": "7.50", "updated_at": "2026-01-01T00:00:00Z"})])
    })
    .await;
    let ingest = fixture.ingest_of_source("products");
    let row = "SELECT concat_ws(' ', xmin, sku, price) FROM shop.products";
    fixture.owner.batch_execute(&shop("products", &wire.url, &[])).await.unwrap();
    assert_eq!(fixture.round_of(&ingest).await.tally.synced, 1);
    let first: String = fixture.value(row).await;
    fixture.owner.batch_execute(&shop("products", &wire.url, &[])).await.unwrap();
    assert_eq!(fixture.round_of(&ingest).await.tally.duplicate, 1);
    assert_eq!(fixture.value::<String>(row).await, first);

    let fields = r#"{"/id": "id", "/sku": "sku", "/updated_at": "updated_at", "/price": "price"}"#;
    fixture.owner.batch_execute(&shop("products", &wire.url, &[("fields", fields)])).await.unwrap();
    assert_eq!(fixture.round_of(&ingest).await.tally.synced, 1, "as new as the stored one");
    assert!(fixture.value::<String>(row).await.ends_with(" a 7.50"), "with all its digits");
    assert_eq!(fixture.round_of(&ingest).await.tally.duplicate, 1, "once");
    fixture
        .owner
        .batch_execute("UPDATE shop.products SET price = 0; SELECT sluice.resync_ingest('products')")
        .await
        .unwrap();
    fixture.round_of(&ingest).await;
    assert!(fixture.value::<String>(row).await.ends_with(" a 7.50"));

    let status = "SELECT concat_ws(' ', source, relation, failures, open_rejects) FROM sluice.ingest_status()";
    assert_eq!(fixture.value::<String>(status).await, "products shop.products 0 0");
    fixture.owner.batch_execute("SELECT sluice.drop_ingest('products')").await.unwrap();
    assert_eq!(fixture.round_of(&ingest).await.rounds, 0);
    assert_eq!(fixture.value::<i64>("SELECT count(*) FROM sluice.ingest_position").await, 0);
    assert!(fixture.value::<String>(row).await.ends_with(" a 7.50"), "what was stored stays");
    let error = fixture.owner.batch_execute("SELECT sluice.resync_ingest('products')").await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().message(), "there is no ingest products");
}

#[tokio::test]
async fn what_the_table_does_not_take_is_a_reject_and_its_batch_goes_on() {
    let fixture = Fixture::new().await;
    let table = "
        CREATE SCHEMA shop;
        CREATE TABLE shop.shelf (id text PRIMARY KEY);
        CREATE TABLE shop.products (id bigint PRIMARY KEY, sku text UNIQUE DEFERRABLE, updated_at timestamptz, price numeric(5, 2) CHECK (price < 100),
            shelf text REFERENCES shop.shelf DEFERRABLE INITIALLY DEFERRED, note text);
        CREATE FUNCTION shop.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF NEW.note = 'bad' THEN RAISE EXCEPTION 'no, %', NEW.note; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON shop.products FOR EACH ROW EXECUTE FUNCTION shop.refuse()";
    fixture.owner.batch_execute(table).await.unwrap();
    let item = |id: u32, field: &str, value: Value| {
        let mut item = json!({"id": id, "sku": format!("s{id}"), "updated_at": "2026-01-01T00:00:00Z"});
        item[field] = value;
        item
    };
    let page = [
        item(1, "price", json!(500)),
        item(2, "price", json!(99.99)),
        item(3, "price", json!(1e30)),
        item(4, "shelf", json!("A")),
        item(5, "note", json!("bad")),
        item(6, "sku", json!((0..20_000).map(|_| fastrand::alphanumeric()).collect::<String>())),
    ];
    let pages = [page.to_vec(), vec![]];
    let wire = Wire::start(move |number, _| Reply::page(&pages[number.min(1)])).await;
    let fields = r#"{"/id": "id", "/sku": "sku", "/updated_at": "updated_at", "/price": "price", "/shelf": "shelf", "/note": "note"}"#;
    fixture.owner.batch_execute(&shop("products", &wire.url, &[("fields", fields)])).await.unwrap();
    let ingest = fixture.ingest_of_source("products");
    let tally = fixture.round_of(&ingest).await.tally;
    let rejects = "SELECT coalesce(string_agg(concat_ws(' ', key, reason, message), E'\\n' ORDER BY key), '') FROM sluice.ingest_rejects WHERE resolved_at IS NULL";
    let told: String = fixture.value(rejects).await;
    let because = |key: u32, rest: &str| format!("{key} refused the table does not take it: SQLSTATE {rest}");
    for line in [
        because(1, "23514, products_price_check"),
        because(3, "22003"),
        because(4, "23503, products_shelf_fkey"),
        because(5, "P0001"),
        because(6, "54000"),
    ] {
        assert!(told.lines().any(|it| it == line), "{line} is not in\n{told}\n{}", fixture.errors().await);
    }
    assert_eq!((tally.synced, tally.rejected(), told.lines().count()), (1, 5, 5));
    // What it refers to comes later, and it is tried again.
    fixture.owner.batch_execute("INSERT INTO shop.shelf VALUES ('A')").await.unwrap();
    assert_eq!(fixture.round_of(&ingest).await.tally.synced, 1);
    assert_eq!(fixture.value::<String>("SELECT string_agg(id::text, ' ' ORDER BY id) FROM shop.products").await, "2 4");
}
