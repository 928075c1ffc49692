//! Names of any kind, in every statement that is generated.

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::support::{Index, World};

/// What ends a quote of some kind, what a format takes for a parameter, what the generated functions call their own.
const NAMES: [&str; 28] = [
    "a$t$ x", "$do$", "it's", "a\"b", "\"q\"", "a\\b", "100%", "%I %L %s", "%1$s", "$1", "{}", "a,b", "a.b", "a;b",
    "--", "/*", " ", "Größe", "ключ", "select", "user", "was", "becomes", "tg_op", "new", "OLD", "found", "noted",
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[tokio::test]
async fn a_column_of_any_name_is_noted_as_key_and_as_image() -> Result<()> {
    let long = "é".repeat(31) + "x";
    let names: Vec<&str> = NAMES.iter().copied().chain([long.as_str()]).collect();
    let mut sql = String::new();
    for (n, name) in names.iter().enumerate() {
        let (column, key) = (quoted(name), literal(&quoted(name)));
        let mapping = literal(&json!({"properties": {*name: {}, "value": {}}}).to_string());
        sql += &format!(
            "CREATE TABLE demo.t{n} ({column} bigint PRIMARY KEY, value text);
             CREATE TABLE demo.u{n} (other int, {column} bigint);
             SELECT sluice.define_stream('t{n}', source => 'demo.t{n}', key => {key}, mapping => {mapping});
             SELECT sluice.track('demo.t{n}', stream => 't{n}', key => {key});
             SELECT sluice.track('demo.u{n}', stream => 't{n}', columns => ARRAY[{text}], affects => {keys});",
            text = literal(name),
            keys = literal(&format!("SELECT {column} FROM demo.t{n} WHERE {column} = $1.{column}")),
        );
    }
    let world = World::with(&sql).await?;
    let mut index = Index::default();
    for (n, name) in names.iter().enumerate() {
        let column = quoted(name);
        let writes = format!(
            "INSERT INTO demo.t{n} VALUES (1, 'a'), (2, 'b'); UPDATE demo.t{n} SET {column} = 3 WHERE {column} = 2;
             INSERT INTO demo.u{n} VALUES (0, 1); UPDATE demo.u{n} SET {column} = 3"
        );
        world.app.batch_execute(&writes).await.with_context(|| format!("{name:?}"))?;
    }
    world.settle(&mut index).await?;
    for (n, name) in names.iter().enumerate() {
        let stream = format!("t{n}");
        assert_eq!(index.get(&stream, "1"), json!({*name: 1, "value": "a"}), "{name:?}");
        assert_eq!(index.get(&stream, "3"), json!({*name: 3, "value": "b"}), "{name:?}");
        assert_eq!(index.documents(&stream).len(), 2, "{name:?}");
        // Under another name, and back again; then without rows.
        let column = quoted(name);
        world.owner.batch_execute(&format!("ALTER TABLE demo.t{n} RENAME {column} TO given_away")).await?;
        world.app.batch_execute(&format!("INSERT INTO demo.t{n} VALUES (4, 'd')")).await?;
        world.owner.batch_execute(&format!("ALTER TABLE demo.t{n} RENAME given_away TO {column}")).await?;
        world.app.batch_execute(&format!("DELETE FROM demo.t{n} WHERE {column} = 1")).await?;
    }
    world.settle(&mut index).await?;
    for (n, name) in names.iter().enumerate() {
        assert_eq!(index.documents(&format!("t{n}")).into_keys().collect::<Vec<_>>(), ["3", "4"], "{name:?}");
        world.app.batch_execute(&format!("TRUNCATE demo.t{n}; TRUNCATE demo.u{n}")).await?;
    }
    world.settle(&mut index).await?;
    for (n, name) in names.iter().enumerate() {
        assert!(index.documents(&format!("t{n}")).is_empty(), "{name:?}");
    }
    Ok(())
}

#[tokio::test]
async fn tables_schemas_and_types_of_any_name_are_tracked() -> Result<()> {
    let mut sql = String::new();
    for (n, name) in NAMES.iter().enumerate() {
        let (schema, plain) = (quoted(&format!("{name} s")), quoted(name));
        sql += &format!(
            "CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO test_app;
             CREATE TYPE {schema}.{type_name} AS ENUM ('a', 'b');
             CREATE TABLE {schema}.{plain} (id {schema}.{type_name}, part int, PRIMARY KEY (id, part));
             CREATE TABLE {schema}.image (id {schema}.{type_name});
             GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO test_app;
             SELECT sluice.define_stream('t{n}', source => {source}, key => 'id, part', mapping => '{{\"properties\": {{\"part\": {{}}}}}}');
             SELECT sluice.track({source}, stream => 't{n}', key => 'id, part');
             SELECT sluice.track({image}, stream => 't{n}', affects => {keys});",
            type_name = quoted(&format!("{name} t")),
            source = literal(&format!("{schema}.{plain}")),
            image = literal(&format!("{schema}.image")),
            keys = literal(&format!("SELECT id, part FROM {schema}.{plain} WHERE id = $1.id")),
        );
    }
    let world = World::with(&sql).await?;
    let mut index = Index::default();
    for name in NAMES {
        let (schema, plain) = (quoted(&format!("{name} s")), quoted(name));
        let writes = format!(
            "INSERT INTO {schema}.{plain} VALUES ('a', 1), ('b', 2); DELETE FROM {schema}.{plain} WHERE part = 2; INSERT INTO {schema}.image VALUES ('a')"
        );
        world.app.batch_execute(&writes).await.with_context(|| format!("{name:?}"))?;
    }
    world.settle(&mut index).await?;
    for (n, name) in NAMES.iter().enumerate() {
        assert_eq!(index.documents(&format!("t{n}")).into_keys().collect::<Vec<_>>(), [r#"["a", "1"]"#], "{name:?}");
        world.app.batch_execute(&format!("TRUNCATE {}.{}", quoted(&format!("{name} s")), quoted(name))).await?;
    }
    world.settle(&mut index).await?;
    for (n, name) in NAMES.iter().enumerate() {
        assert!(index.documents(&format!("t{n}")).is_empty(), "{name:?}");
        world
            .owner
            .batch_execute(&format!("SELECT sluice.drop_stream('t{n}')"))
            .await
            .with_context(|| format!("{name:?}"))?;
    }
    Ok(())
}
