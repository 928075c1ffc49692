//! Each recipe of docs/changing-your-schema.md is run as it stands there: afterwards the index is what the source is.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{Index, World, one, set_live};

const PAGE: &str = include_str!("../../../../docs/changing-your-schema.md");
const ROWS: &str = "
    INSERT INTO shop.books SELECT n, 'book ' || n FROM generate_series(1, 4) AS n;
    INSERT INTO shop.authors VALUES (1, 'Ada'), (2, 'Bo');
    INSERT INTO shop.authorship SELECT n, 1 + n % 2 FROM generate_series(1, 4) AS n";
const WRITES: &str = "
    UPDATE shop.authors SET name = name || '!';
    UPDATE shop.books SET title = title || '?' WHERE id = 3;
    INSERT INTO shop.books (id, title) VALUES (9, 'nine');
    INSERT INTO shop.authorship VALUES (9, 1);
    DELETE FROM shop.authorship WHERE book_id = 4;
    DELETE FROM shop.books WHERE id = 4";

/// A heading and its blocks of SQL.
struct Recipe {
    title: &'static str,
    blocks: Vec<&'static str>,
}

/// The first has the tables.
fn recipes() -> Vec<Recipe> {
    let recipe = |text: &'static str| Recipe {
        title: text.lines().next().unwrap_or_default(),
        blocks: text.split("```sql\n").skip(1).filter_map(|block| block.split("```").next()).collect(),
    };
    PAGE.split("\n## ").map(recipe).collect()
}

/// The page's tables with rows, in a world whose index has their documents; some changes are on the way.
async fn shop() -> Result<(World, Index)> {
    let recipes = recipes();
    let tables = recipes.first().and_then(|recipe| recipe.blocks.first()).context("the page begins with its tables")?;
    let world = World::with(tables).await?;
    let mut index = Index::default();
    world.owner.batch_execute(ROWS).await?;
    world.settle(&mut index).await?;
    ensure!(index.documents("books").len() == 4, "{:?}", index.documents("books"));
    world
        .owner
        .batch_execute("UPDATE shop.authors SET name = upper(name); UPDATE shop.books SET title = 'one' WHERE id = 1")
        .await?;
    Ok((world, index))
}

/// Runs the recipe, then these writes; each stream's documents must be its source's rows.
async fn holds(title: &str, writes: &str) -> Result<()> {
    let recipes = recipes();
    let recipe = recipes.iter().find(|recipe| recipe.title == title).with_context(|| format!("no recipe: {title}"))?;
    let (world, mut index) = shop().await?;
    for block in &recipe.blocks {
        world.owner.batch_execute(block).await.with_context(|| format!("{title}: {block}"))?;
    }
    set_live(&world.owner).await?;
    world.owner.batch_execute(writes).await.with_context(|| format!("{title}: {writes}"))?;
    for _ in 0..3 {
        world.settle(&mut index).await?;
    }
    is_source(&world.owner, &index).await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.expansion").await?, 0, "{title}");
    let untracked = "SELECT coalesce(string_agg(stream || ' ' || untracked_tables::text, ', '), '') FROM sluice.stream_status() WHERE untracked_tables <> '{}'";
    assert_eq!(one::<String>(&world.owner, untracked).await?, "", "{title}");
    Ok(())
}

async fn is_source(owner: &Client, index: &Index) -> Result<()> {
    for row in owner.query("SELECT s.name, s.source, s.key[1], t.mapping FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name", &[]).await? {
        let (stream, source, key, mapping): (String, String, String, Value) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let fields = mapping["properties"].as_object().context("properties")?;
        let rows = owner.query(&format!("SELECT \"{key}\"::text, to_json(s) FROM {source} AS s"), &[]).await?;
        let mut wanted = std::collections::BTreeMap::new();
        for row in rows {
            let mut document: Value = row.get(1);
            document.as_object_mut().context("a row")?.retain(|field, _| fields.contains_key(field));
            wanted.insert(row.get::<_, String>(0), document);
        }
        let mut found = std::collections::BTreeMap::new();
        for (key, document) in index.documents(&stream) {
            found.insert(key, serde_json::from_str(&document)?);
        }
        assert_eq!(found, wanted, "{stream}");
    }
    Ok(())
}

/// One test for each heading, and no heading without.
macro_rules! recipes_hold {
    ($($name:ident: $title:literal, $writes:expr;)*) => {
        $(#[tokio::test]
        async fn $name() -> Result<()> {
            holds($title, $writes).await
        })*

        #[test]
        fn each_recipe_of_the_page_is_tested() {
            let tested = [$($title),*];
            let told: Vec<&str> = recipes().iter().skip(1).map(|recipe| recipe.title).collect();
            assert_eq!(told, tested);
        }
    };
}

recipes_hold! {
    a_changed_type_of_a_column_loses_nothing: "The type of a column", WRITES;
    a_column_that_takes_the_keys_name_is_noted: "The type of a key, without a long lock", WRITES;
    a_renamed_column_is_followed: "A column is renamed", &WRITES.replace("book_id", "volume");
    a_renamed_schema_is_followed: "A table or a schema is renamed", &WRITES.replace("shop.", "store.");
    a_new_column_is_shown: "A new column", &format!("SELECT sluice.resync('books'); UPDATE shop.books SET pages = 7 WHERE id = 2; {WRITES}");
    a_dropped_column_is_let_go: "A column is dropped", WRITES;
    a_table_that_was_swapped_by_its_name_is_noted: "A table is made anew, or swapped by its name", WRITES;
    partitions_come_and_go: "Partitions", "INSERT INTO shop.orders VALUES (3, 2027); DELETE FROM shop.orders WHERE id = 2";
    children_of_an_inheritance_are_noted: "Inheritance", "UPDATE shop.payments SET amount = 9; INSERT INTO shop.payments VALUES (3, 3); DELETE FROM shop.payments WHERE id = 1";
    replicated_rows_are_noted: "Rows that are replicated", WRITES;
    a_changed_view_shows_after_a_resync: "A changed view", WRITES;
    changed_keys_replace_those_before: "Changed `affects`", WRITES;
    changed_settings_hold_nothing_up: "Changed settings", WRITES;
    a_label_of_an_enum_that_is_a_key_is_replaced: "A label of an enum is renamed", WRITES;
    a_view_over_a_table_with_policies_goes_on: "Row-level security", WRITES;
    a_truncate_arrives: "TRUNCATE", WRITES;
    generated_columns_are_seen: "Generated columns", WRITES;
    a_materialized_view_is_resynced: "Materialized views", "UPDATE shop.authors SET name = 'x'";
    a_restored_schema_is_tracked_anew: "One schema is restored", WRITES;
}
