//! Whatever is written, the tables end as the sources.

use anyhow::Result;
use fastrand::Rng;
use tokio::time::{Duration, timeout};

use crate::world::{World, each};

async fn define_all_types(world: &World) -> Result<()> {
    world
        .owner
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('fine', 'bad');
             CREATE DOMAIN price AS numeric(18, 4);
             CREATE TABLE thing (
                 id bigint PRIMARY KEY, small smallint NOT NULL, n integer, name text, code varchar(5), padded char(4),
                 amount price, ratio double precision, rough real, flag boolean, at timestamptz, local timestamp, day date,
                 uid uuid, doc jsonb, raw json, bytes bytea, mood mood, span int4range, tags text[] NOT NULL DEFAULT '{}',
                 address inet, took interval);
             SELECT sluice.define_stream('thing', source => 'public.thing', key => 'id');
             SELECT sluice.track('thing', stream => 'thing', key => 'id')",
        )
        .await?;
    // What the old server lacks is kept as text there.
    let settings = if world.is_new() {
        "{}"
    } else {
        r#"{"columns": {"flag": "Nullable(UInt8)", "at": "Nullable(String)", "local": "Nullable(String)", "day": "Nullable(String)"}}"#
    };
    let deliver = "SELECT sluice.deliver('thing', target => 'clickhouse', settings => $1::text::jsonb)";
    world.owner.execute(deliver, &[&settings]).await?;
    world.migrate().await?;
    Ok(())
}

#[tokio::test]
async fn every_type_arrives_whole() -> Result<()> {
    each(async |world| {
        define_all_types(world).await?;
        world
            .owner
            .batch_execute(
                r#"INSERT INTO thing VALUES
                 (9223372036854775807, -32768, 2147483647, E'a"b\\c\n\u00e9\U0001F600', 'x', 'ab', 12345678901234.5678, 1e-300, 1.5, true,
                  '2024-02-29 23:59:59.123456+02', '1999-12-31 00:00:00', '2024-02-29', '00000000-0000-0000-0000-00000000000a',
                  '{"b": [1, "1", null], "a": 1.50}', '{"b" : 1,  "a": 2}', '\xdeadbeef', 'fine', '[1,5)', '{a,"b,c",NULL}', '10.0.0.0/8', '1 day 2 hours'),
                 (-9223372036854775808, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{}', NULL, NULL),
                 (0, 1, 0, '', '', '', 0, 'NaN', 0, false, '1900-01-01 00:00:00+00', '2299-12-31 23:59:59.999999', '1900-01-01', NULL,
                  '"1"', 'null', '', 'bad', 'empty', '{NULL}', '::1', '0')"#,
            )
            .await?;
        world.drain().await?;
        assert_eq!(world.letters().await?, "");
        // Each as text of hexadecimal digits, so that nothing is escaped; NULL is a dash.
        let columns = ["name", "code", "padded", "doc", "raw", "bytes", "mood", "span", "address", "took"];
        let target: Vec<String> = columns.iter().map(|it| format!("ifNull(hex({it}), '-')")).collect();
        let source: Vec<String> = columns
            .iter()
            .map(|it| format!("CASE WHEN {it} IS NULL THEN '-' ELSE upper(encode(convert_to(concat({it}), 'UTF8'), 'hex')) END"))
            .collect();
        assert_eq!(
            world.rows(&format!("SELECT toString(id), {} FROM thing", target.join(", "))).await?,
            world.source(&format!("SELECT concat_ws('|', id, {}) FROM thing", source.join(", "))).await?
        );
        let numbers = "SELECT small, n, toString(amount), toString(ratio), toString(rough), toString(uid) FROM thing";
        let none = r"0|\N|\N|\N|\N|\N";
        let of_new = ["1|0|0|nan|0|\\N", "-32768|2147483647|12345678901234.5678|1e-300|1.5|00000000-0000-0000-0000-00000000000a", none];
        let mut wanted = of_new.map(|row| if world.is_new() { row.to_owned() } else { row.replace("|0|nan", "|0.0000|nan") });
        wanted.sort_unstable();
        assert_eq!(world.rows(numbers).await?, wanted);
        assert_eq!(world.rows("SELECT tags FROM thing WHERE id > 1").await?, ["['a','b,c',NULL]"]);
        if world.is_new() {
            let times = "SELECT flag, at, local, day FROM thing WHERE id >= 0";
            assert_eq!(
                world.rows(times).await?,
                [
                    "false|1900-01-01 00:00:00.000000|2299-12-31 23:59:59.999999|1900-01-01",
                    "true|2024-02-29 21:59:59.123456|1999-12-31 00:00:00.000000|2024-02-29",
                ]
            );
        }
        Ok(())
    })
    .await
}

/// Keys of several columns, and of each kind; delete, delete and insert again, key changes, TRUNCATE.
#[tokio::test]
async fn every_kind_of_write_ends_equal() -> Result<()> {
    each(async |world| {
        world
            .owner
            .batch_execute(
                "CREATE TABLE stay (room int, guest text, price numeric(10, 2), PRIMARY KEY (room, guest));
                 CREATE TABLE coin (worth numeric(6, 2) PRIMARY KEY, name text);
                 CREATE TABLE word (word text PRIMARY KEY);
                 CREATE TABLE id (id uuid PRIMARY KEY, n int);
                 SELECT sluice.define_stream('stay', source => 'public.stay', key => 'room, guest');
                 SELECT sluice.define_stream('coin', source => 'public.coin', key => 'worth');
                 SELECT sluice.define_stream('word', source => 'public.word', key => 'word');
                 SELECT sluice.define_stream('id', source => 'public.id', key => 'id');
                 SELECT sluice.track('stay', stream => 'stay', key => 'room, guest');
                 SELECT sluice.track('coin', stream => 'coin', key => 'worth');
                 SELECT sluice.track('word', stream => 'word', key => 'word');
                 SELECT sluice.track('id', stream => 'id', key => 'id');
                 SELECT sluice.deliver(name, target => 'clickhouse') FROM sluice.stream",
            )
            .await?;
        world.migrate().await?;
        let insert = r#"INSERT INTO stay VALUES (1, 'a"b', 1), (1, 'c', 2), (2, E'\\ \n', 3) ON CONFLICT DO NOTHING;
            INSERT INTO coin VALUES (1.0, 'one'), (2.50, 'two'), (3, 'three') ON CONFLICT DO NOTHING;
            INSERT INTO word VALUES (''), ('null'), (E'tab\t'), ('🚀'), ('{"a": 1}') ON CONFLICT DO NOTHING;
            INSERT INTO id VALUES ('00000000-0000-0000-0000-00000000000A', 1), ('ffffffff-0000-0000-0000-000000000000', 2) ON CONFLICT DO NOTHING"#;
        let writes = [
            insert,
            "UPDATE stay SET price = 9.99 WHERE room = 1; DELETE FROM coin WHERE worth = 3; UPDATE id SET n = NULL",
            "DELETE FROM stay WHERE guest = 'c'; INSERT INTO stay VALUES (1, 'c', 77); UPDATE coin SET worth = 4 WHERE worth = 1;
             DELETE FROM word WHERE word = ''",
            "DELETE FROM id; INSERT INTO id VALUES ('ffffffff-0000-0000-0000-000000000000', 3); TRUNCATE word; INSERT INTO word VALUES ('last')",
            "UPDATE stay SET room = 7, guest = 'moved' WHERE room = 2; UPDATE coin SET worth = 2.5 WHERE worth = 2.50",
            insert,
        ];
        for write in writes {
            world.owner.batch_execute(write).await?;
            world.drain().await?;
            is_equal(world).await?;
        }
        for write in ["TRUNCATE stay, coin, word, id", insert, writes[1], writes[2], writes[3], writes[4]] {
            world.owner.batch_execute(write).await?;
        }
        world.drain().await?;
        is_equal(world).await
    })
    .await
}

async fn is_equal(world: &World) -> Result<()> {
    assert_eq!(world.letters().await?, "");
    for (of_target, of_source) in [
        (
            "SELECT room, hex(guest), toString(price) FROM stay",
            "SELECT concat_ws('|', room, upper(encode(convert_to(guest, 'UTF8'), 'hex')), price) FROM stay",
        ),
        ("SELECT toString(worth), name FROM coin", "SELECT concat_ws('|', worth, name) FROM coin"),
        ("SELECT hex(word) FROM word", "SELECT upper(encode(convert_to(word, 'UTF8'), 'hex')) FROM word"),
        ("SELECT toString(id), n FROM id", r"SELECT concat_ws('|', id, coalesce(n::text, '\N')) FROM id"),
    ] {
        let (mut found, mut wanted) = (world.rows(of_target).await?, world.source(of_source).await?);
        for row in found.iter_mut().chain(&mut wanted) {
            *row = row.split('|').map(without_zeros).collect::<Vec<_>>().join("|");
        }
        assert_eq!(found, wanted, "{of_target}");
    }
    assert_eq!(world.validate(false).await?, "");
    Ok(())
}

/// Decimals have no zeros at their ends there.
fn without_zeros(part: &str) -> &str {
    if part.contains('.') { part.trim_end_matches('0').trim_end_matches('.') } else { part }
}

/// A joined document whose other row changes, a document of 3 MB, payloads that are emitted.
#[tokio::test]
async fn joins_large_documents_and_payloads_arrive() -> Result<()> {
    each(async |world| {
        world
            .owner
            .batch_execute(
                "CREATE TABLE author (id int PRIMARY KEY, name text);
                 CREATE TABLE book (id int PRIMARY KEY, author_id int, title text);
                 CREATE VIEW books AS SELECT b.id, b.title, a.name AS author FROM book AS b LEFT JOIN author AS a ON a.id = b.author_id;
                 SELECT sluice.define_stream('books', source => 'public.books', key => 'id');
                 SELECT sluice.track('book', stream => 'books', key => 'id');
                 SELECT sluice.track('author', stream => 'books', affects => 'SELECT id FROM public.book WHERE author_id = $1.id');
                 SELECT sluice.deliver('books', target => 'clickhouse');
                 SELECT sluice.define_stream('event');
                 SELECT sluice.deliver('event', target => 'clickhouse', settings => '{\"columns\": {\"id\": \"String\", \"n\": \"Int32\"}, \"key\": \"id\"}')",
            )
            .await?;
        world.migrate().await?;
        world
            .owner
            .batch_execute(
                "INSERT INTO author VALUES (1, 'Ann');
                 INSERT INTO book SELECT n, 1, repeat('é', CASE n WHEN 3 THEN 1500000 ELSE n END) FROM generate_series(1, 50) AS n;
                 SELECT sluice.emit('event', 'a', payload => '{\"id\": \"a\", \"n\": 1}'), sluice.emit('event', 'b', payload => '{\"id\": \"b\", \"n\": 2}')",
            )
            .await?;
        world.drain().await?;
        world
            .owner
            .batch_execute(
                "UPDATE author SET name = 'Beth';
                 SELECT sluice.emit('event', 'a', 'delete'), sluice.emit('event', 'b', payload => '{\"id\": \"b\", \"n\": 3}')",
            )
            .await?;
        world.drain().await?;
        assert_eq!(world.letters().await?, "");
        let summary = "SELECT count(), min(author), max(author), max(length(title)) FROM books";
        assert_eq!(world.rows(summary).await?, ["50|Beth|Beth|3000000"]);
        assert_eq!(world.rows("SELECT id, n FROM event").await?, ["b|3"]);
        Ok(())
    })
    .await
}

/// Steps that are dropped wherever they are, with writers between them; SEED repeats it.
#[tokio::test]
async fn whatever_is_interrupted_the_table_ends_as_the_source() -> Result<()> {
    let seed = localstack::parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    each(async |world| {
        let mut random = Rng::with_seed(seed);
        world
            .owner
            .batch_execute(
                "CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL);
                 SELECT sluice.define_stream('item', source => 'public.item', key => 'id');
                 SELECT sluice.track('item', stream => 'item', key => 'id');
                 SELECT sluice.deliver('item', target => 'clickhouse', settings => '{\"history\": true}')",
            )
            .await?;
        world.migrate().await?;
        for _ in 0..25 {
            for _ in 0..random.u8(1..6) {
                let (id, n) = (random.u8(..12), random.u16(..));
                let write = match random.u8(..3) {
                    0 => format!("DELETE FROM item WHERE id = {id}"),
                    _ => format!("INSERT INTO item VALUES ({id}, {n}) ON CONFLICT (id) DO UPDATE SET n = {n}"),
                };
                world.owner.batch_execute(&write).await?;
            }
            let mut drainer = world.drainer()?;
            // Wherever it is by then; its session ends with it.
            drop(timeout(Duration::from_millis(random.u64(..60)), world.step(&mut drainer)).await);
        }
        world.drain().await?;
        assert_eq!(world.letters().await?, "");
        let source = world.source("SELECT concat_ws('|', id, n) FROM item").await?;
        assert_eq!(world.rows("SELECT id, n FROM item").await?, source);
        // The newest version of each that was delivered.
        let history = "SELECT id, argMax(n, _sluice_version) FROM item_history GROUP BY id HAVING argMax(_sluice_deleted, _sluice_version) = 0";
        assert_eq!(world.rows(history).await?, source);
        Ok(())
    })
    .await
}
