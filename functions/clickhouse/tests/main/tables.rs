//! What is made, extended and refused when a stream is delivered.

use anyhow::Result;

use crate::world::{World, each};

async fn refused(world: &World, statement: &str) -> String {
    let outcome = world.owner.batch_execute(statement).await;
    outcome.err().map(|error| database::describe(&error)).unwrap_or_default()
}

#[tokio::test]
async fn a_type_that_cannot_be_kept_whole_is_refused_by_name_with_what_to_do() -> Result<()> {
    each(async |world| {
        world
            .owner
            .batch_execute(
                "CREATE TABLE bad (id int PRIMARY KEY, price numeric, tags text[], huge numeric(80, 2), _sluice_version int, fine text);
                 SELECT sluice.define_stream('bad', source => 'public.bad', key => 'id')",
            )
            .await?;
        let deliver =
            |settings: &str| format!("SELECT sluice.deliver('bad', target => 'clickhouse', settings => '{settings}')");
        for (settings, words) in [
            ("{}", "price of type numeric, tags of type text[], huge of type numeric(80,2)"),
            ("{}", "Cast them to text in the source"),
            (r#"{"fields": ["id", "_sluice_version"]}"#, "cannot be named _sluice_version"),
            (r#"{"fields": "id"}"#, "fields is not an array"),
            (r#"{"fields": ["nobody"]}"#, "has no column nobody"),
            (r#"{"columns": {"price": "String) ENGINE = Log --"}}"#, "columns does not give each its type"),
            (r#"{"tabel": "x"}"#, "has no setting tabel"),
            (r#"{"table": "a b"}"#, "cannot be named"),
            (r#"{"history": 1}"#, "history is true or false"),
            (r#"{"key": "id"}"#, "it has a key"),
        ] {
            let told = refused(world, &deliver(settings)).await;
            assert!(told.contains(words), "{settings}: {told}");
        }
        let told = refused(world, "SELECT sluice.deliver('bad', target => 'oracle')").await;
        assert!(told.contains("no direct target") && told.contains("clickhouse, kafka"), "{told}");
        let told = refused(world, "SELECT sluice.deliver('nobody', target => 'clickhouse')").await;
        assert!(told.contains("there is no stream nobody"), "{told}");
        // By a type that somebody says.
        let said = r#"{"fields": ["price", "fine"], "columns": {"price": "Nullable(Decimal(18, 4))"}}"#;
        world.owner.batch_execute(&deliver(said)).await?;
        world.migrate().await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn new_columns_extend_the_table_and_a_changed_type_is_refused_with_nothing_half_made() -> Result<()> {
    each(async |world| {
        let deliver = |settings: &str| {
            format!("SELECT sluice.deliver('item', target => 'clickhouse', settings => '{{\"table\": \"things\", \"history\": true{settings}}}')")
        };
        world
            .owner
            .batch_execute(
                "CREATE TABLE item (id int PRIMARY KEY, a int, b text, c bigint NOT NULL DEFAULT 5);
                 SELECT sluice.define_stream('item', source => 'public.item', key => 'id');
                 SELECT sluice.track('item', stream => 'item', key => 'id')",
            )
            .await?;
        world.owner.batch_execute(&deliver(r#", "fields": ["a"]"#)).await?;
        assert_eq!(
            world.migrate().await?,
            ["made the table _sluice_things, made the table things_history, made the view things"]
        );
        assert!(world.migrate().await?.is_empty(), "the same again changes nothing");
        world.owner.batch_execute("INSERT INTO item VALUES (1, 1, 'x')").await?;
        world.drain().await?;
        world.owner.batch_execute(&deliver("")).await?;
        assert_eq!(
            world.migrate().await?,
            ["added the column b to _sluice_things, added the column c to _sluice_things, extended the table things_history, made the view things anew"]
        );
        assert!(world.migrate().await?.is_empty());
        world.owner.batch_execute("SELECT sluice.resync('item', target => 'clickhouse')").await?;
        world.drain().await?;
        assert_eq!(world.rows("SELECT id, a, b, c FROM things").await?, ["1|1|x|5"]);
        assert_eq!(world.rows("SELECT c FROM things_history").await?, ["0", "5"]);

        world.owner.batch_execute("ALTER TABLE item ALTER a TYPE bigint, ADD d int").await?;
        world.owner.batch_execute(&deliver(r#", "fields": ["d", "a"]"#)).await?;
        let error = world.migrate().await.unwrap_err().to_string();
        assert!(error.contains("column a is Nullable(Int32) in ClickHouse, and Nullable(Int64) is wanted"), "{error}");
        let added = "SELECT name FROM system.columns WHERE database = currentDatabase() AND name = 'd'";
        assert!(world.rows(added).await?.is_empty());
        // It goes on as it was.
        world.owner.batch_execute("INSERT INTO item VALUES (2, 2)").await?;
        world.drain().await?;
        assert_eq!(world.rows("SELECT id FROM things").await?, ["1", "2"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_table_of_somebody_elses_is_left_alone_and_told_of() -> Result<()> {
    each(async |world| {
        world
            .owner
            .batch_execute(
                "CREATE TABLE item (id int PRIMARY KEY);
                 SELECT sluice.define_stream('item', source => 'public.item', key => 'id');
                 SELECT sluice.deliver('item', target => 'clickhouse')",
            )
            .await?;
        for name in ["item", "_sluice_item"] {
            world.execute(&format!("CREATE TABLE {name} (mine String) ENGINE = MergeTree ORDER BY mine")).await?;
            let error = world.migrate().await.unwrap_err().to_string();
            assert!(error.contains(&format!("a table {name} that Sluice did not make")), "{error}");
            world.execute(&format!("DROP TABLE {name}")).await?;
        }
        Ok(())
    })
    .await
}
