//! What a direct target does not take: one row, or one stream, and never the others.

use anyhow::Result;
use database::Postgres;
use drain::{Drain, FanOut};
use tokio_postgres::Client;

use super::{Expanded, Target, World};

const TARGET: &str = "clickhouse";

/// `item` goes to the direct target, too, and with it `other`, of the same columns.
async fn world() -> Result<World> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute(
            "CREATE TABLE other (id int PRIMARY KEY, n int);
             SELECT sluice.define_stream('other', source => 'public.other', key => 'id');
             SELECT sluice.track('other', stream => 'other', key => 'id');
             SELECT sluice.deliver('item', target => 'clickhouse', settings => '{\"fields\": [\"n\"]}');
             SELECT sluice.deliver('other', target => 'clickhouse');
             SELECT sluice.set_live(subscription, stream, stream, mapping) FROM sluice.target WHERE subscription = 'clickhouse'",
        )
        .await?;
    Ok(world)
}

impl World {
    fn direct(&self) -> Result<Drain<Postgres, Target>> {
        self.drainer_of(TARGET)
    }

    /// So many steps that all that does not rest has passed.
    async fn pass(&self, drainer: &mut Drain<Postgres, Target>) -> Result<()> {
        while self.owner.query_one("SELECT sluice.pending('clickhouse')", &[]).await?.get(0) {
            self.step(drainer).await?;
        }
        Ok(())
    }

    /// Its rests are over: by the table, and by a drainer that knows of none.
    async fn rest_is_over(&self) -> Result<Drain<Postgres, Target>> {
        self.owner.batch_execute("UPDATE sluice.target SET rests_until = NULL").await?;
        self.direct()
    }

    /// What the target has, of both streams.
    fn keys(&self) -> String {
        self.target.documents().into_keys().collect::<Vec<_>>().join(" ")
    }
}

async fn text(client: &Client, query: &str) -> Result<String> {
    Ok(client.query_one(query, &[]).await?.get::<_, Option<String>>(0).unwrap_or_default())
}

const LETTERS: &str = "SELECT string_agg(format('%s %s %s %s: %s', subscription, stream, key, error_type, reason), '; ' ORDER BY id) FROM sluice.dead_letter";
const FAULT: &str = "SELECT string_agg(problem, '; ') FROM sluice.stream_fault WHERE subscription = 'clickhouse'";

#[tokio::test]
async fn a_change_that_a_direct_target_refuses_is_one_letter_and_its_neighbours_arrive() -> Result<()> {
    let world = world().await?;
    let mut drainer = world.direct()?;
    world.target.state().refused.insert("2".to_owned());
    world.owner.batch_execute("INSERT INTO item SELECT n, n FROM generate_series(1, 3) AS n").await?;
    world.pass(&mut drainer).await?;
    assert_eq!(world.keys(), "1 3");
    assert_eq!(text(&world.owner, LETTERS).await?, "clickhouse item 2 out_of_range: n is too large");
    let counted = "SELECT string_agg(measure || ' ' || value, ', ' ORDER BY measure) FROM sluice.delivery_stats
        WHERE subscription = 'clickhouse' AND measure IN ('published', 'written', 'dead_lettered')";
    assert_eq!(text(&world.owner, counted).await?, "dead_lettered 1, published 3, written 2");
    // Refused once more, it is the same letter.
    world.owner.batch_execute("UPDATE item SET n = 20 WHERE id = 2").await?;
    world.pass(&mut drainer).await?;
    assert_eq!(text(&world.owner, LETTERS).await?, "clickhouse item 2 out_of_range: n is too large");

    // A redrive is for that target alone, and on record.
    world.target.state().refused.clear();
    let redrive = "SELECT sluice.redrive_refusals(array_agg(id), 'operator', NULL)::text FROM sluice.dead_letter";
    assert_eq!(text(&world.owner, redrive).await?, "1");
    let logged = "SELECT format('%s %s for %s', stream, key, only_for) FROM sluice.outbox ORDER BY id DESC LIMIT 1";
    assert_eq!(text(&world.owner, logged).await?, "item 2 for clickhouse");
    let audit = "SELECT string_agg(action || ' ' || (detail ->> 'target') || ' ' || (detail ->> 'key'), '; ') FROM sluice.audit";
    assert_eq!(text(&world.owner, audit).await?, "redrive clickhouse 2");
    world.pass(&mut drainer).await?;
    assert_eq!((world.keys(), text(&world.owner, LETTERS).await?), ("1 2 3".to_owned(), String::new()));
    let counted = "SELECT string_agg(measure || ' ' || value, ', ' ORDER BY measure) FROM sluice.delivery_stats
        WHERE measure LIKE 'succeeded%' OR measure LIKE 'failed%'";
    let once = "failed_insert 1, failed_update 1, succeeded_insert 2, succeeded_upsert 1";
    assert_eq!(text(&world.owner, counted).await?, once, "the redrive is an upsert");
    Ok(())
}

#[tokio::test]
async fn a_second_look_counts_nothing_also_where_it_is_refused() -> Result<()> {
    let world = world().await?;
    let mut drainer = world.direct()?;
    world.owner.batch_execute("INSERT INTO item VALUES (1, 1), (2, 2)").await?;
    world.pass(&mut drainer).await?;
    let counted = "SELECT string_agg(measure || ' ' || value, ', ' ORDER BY measure) FROM sluice.delivery_stats
        WHERE subscription = 'clickhouse' AND (measure IN ('written', 'published') OR measure LIKE 'succeeded%' OR measure LIKE 'failed%')";
    let before = text(&world.owner, counted).await?;
    assert_eq!(before, "published 2, succeeded_insert 2, written 2");

    world.target.state().refused.insert("2".to_owned());
    let look = "SELECT sluice.look_later('clickhouse', false, '{item,item}', '{1,2}', interval '0')::text";
    text(&world.owner, look).await?;
    world.pass(&mut drainer).await?;
    assert_eq!(text(&world.owner, LETTERS).await?, "clickhouse item 2 out_of_range: n is too large");
    assert_eq!(text(&world.owner, counted).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_letter_goes_when_its_key_arrives_later_and_stays_discarded_when_somebody_discards_it() -> Result<()> {
    let world = world().await?;
    let mut drainer = world.direct()?;
    world.target.state().refused.extend(["1".to_owned(), "2".to_owned()]);
    world.owner.batch_execute("INSERT INTO item VALUES (1, 1), (2, 2)").await?;
    world.pass(&mut drainer).await?;
    world.target.state().refused.clear();
    world.owner.batch_execute("UPDATE item SET n = 10 WHERE id = 1").await?;
    world.pass(&mut drainer).await?;
    assert_eq!(text(&world.owner, LETTERS).await?, "clickhouse item 2 out_of_range: n is too large");
    let discard =
        "SELECT sluice.discard_refusals(array_agg(id), 'operator', '127.0.0.1')::text FROM sluice.dead_letter";
    assert_eq!(text(&world.owner, discard).await?, "1");
    assert_eq!(text(&world.owner, LETTERS).await?, "");
    assert_eq!(text(&world.owner, "SELECT action || ' ' || subject FROM sluice.audit").await?, "discard clickhouse-2");
    assert_eq!(world.keys(), "1");
    Ok(())
}

/// What nobody can read of a row, or not whole, is its own letter; the stream goes on.
#[tokio::test]
async fn a_document_that_cannot_be_read_is_too_large_or_has_too_long_a_key_is_a_letter() -> Result<()> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute(
            "CREATE TABLE word (word text PRIMARY KEY, divisor int, filler text);
             CREATE VIEW words AS SELECT word, 1 / divisor AS n, filler FROM word;
             SELECT sluice.define_stream('words', source => 'public.words', key => 'word');
             SELECT sluice.track('word', stream => 'words', key => 'word');
             SELECT sluice.deliver('words', target => 'clickhouse');
             SELECT sluice.set_live(subscription, stream, stream, mapping) FROM sluice.target WHERE subscription = 'clickhouse';
             INSERT INTO word VALUES ('fine', 1, ''), ('zero', 0, ''), ('large', 1, repeat('x', 1000000)), ('too long: ' || repeat('k', 2048), 1, '')",
        )
        .await?;
    let mut drainer = world.direct()?;
    world.pass(&mut drainer).await?;
    assert_eq!(world.keys(), "fine");
    let letters = "SELECT string_agg(left(key, 8) || ' ' || error_type, '; ' ORDER BY key) FROM sluice.dead_letter";
    assert_eq!(text(&world.owner, letters).await?, "large document_too_large; too long key_too_long; zero unreadable");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_a_direct_target_does_not_take_rests_and_the_others_go_on() -> Result<()> {
    let world = world().await?;
    let mut drainer = world.direct()?;
    world.target.state().unfit.insert("other".to_owned());
    world.owner.batch_execute("INSERT INTO other VALUES (11, 1), (12, 1); INSERT INTO item VALUES (1, 1)").await?;
    world.pass(&mut drainer).await?;
    assert_eq!(world.keys(), "1");
    assert_eq!(text(&world.owner, FAULT).await?, "its table is gone");
    // What comes while it rests waits as well, of each key the newest; nobody is asked again.
    world.owner.batch_execute("UPDATE other SET n = 2; DELETE FROM other WHERE id = 12; UPDATE item SET n = 2").await?;
    world.pass(&mut drainer).await?;
    assert_eq!(text(&world.owner, "SELECT string_agg(key, ' ' ORDER BY key) FROM sluice.waiting").await?, "11 12");
    // The rest is over, and it is as it was: all goes on waiting, and the others do not.
    let mut drainer = world.rest_is_over().await?;
    world.owner.batch_execute("INSERT INTO item VALUES (2, 1)").await?;
    world.pass(&mut drainer).await?;
    assert_eq!(world.keys(), "1 2");
    assert_eq!(text(&world.owner, "SELECT string_agg(key, ' ' ORDER BY key) FROM sluice.waiting").await?, "11 12");
    // Mended.
    world.target.state().unfit.clear();
    let mut drainer = world.rest_is_over().await?;
    world.pass(&mut drainer).await?;
    assert_eq!((world.keys(), text(&world.owner, FAULT).await?), ("1 11 2".to_owned(), String::new()));
    assert_eq!(text(&world.owner, LETTERS).await?, "");
    Ok(())
}

#[tokio::test]
async fn a_stream_whose_source_cannot_be_read_rests_for_a_direct_target_and_nothing_is_lost() -> Result<()> {
    let world = world().await?;
    let mut drainer = world.direct()?;
    world
        .owner
        .batch_execute(
            "INSERT INTO other VALUES (11, 1); INSERT INTO item VALUES (1, 1); ALTER TABLE other RENAME TO hidden",
        )
        .await?;
    world.pass(&mut drainer).await?;
    assert_eq!(world.keys(), "1");
    world.owner.batch_execute("ALTER TABLE hidden RENAME TO other").await?;
    let mut drainer = world.rest_is_over().await?;
    world.pass(&mut drainer).await?;
    assert_eq!((world.keys(), text(&world.owner, LETTERS).await?), ("1 11".to_owned(), String::new()));
    Ok(())
}

/// Beside writers, for one target; the other one is told nothing.
#[tokio::test]
async fn a_target_that_is_added_later_is_filled_by_a_resync_of_its_own() -> Result<()> {
    let world = World::create().await?;
    world.owner.batch_execute("INSERT INTO item SELECT n, n FROM generate_series(1, 7) AS n").await?;
    let mut first = world.drainer()?;
    world.drain(&mut first).await?;
    let written = world.target.state().written.len();
    world
        .owner
        .batch_execute(
            "SELECT sluice.deliver('item', target => 'clickhouse');
             SELECT sluice.set_live(subscription, stream, stream, mapping) FROM sluice.target WHERE subscription = 'clickhouse';
             SELECT sluice.resync('item', target => 'clickhouse')",
        )
        .await?;
    let mut fan_out: FanOut<Postgres> = world.fan_out()?;
    while fan_out.step(&mut Expanded::default()).await? {}
    world.drain(&mut first).await?;
    assert_eq!(world.target.state().written.len(), written, "the first target was told of it");
    world.pass(&mut world.direct()?).await?;
    assert_eq!(world.target.state().written.len(), written + 7);
    world.owner.batch_execute("SELECT sluice.withhold('item', 'clickhouse'); UPDATE item SET n = 0").await?;
    world.pass(&mut world.direct()?).await?;
    assert_eq!(world.target.state().written.len(), written + 7, "what is withheld is left as it is");
    Ok(())
}

/// Payloads cannot be read again: they are set aside as they are, of each key the newest, and a letter keeps its own.
#[tokio::test]
async fn payloads_are_set_aside_and_kept_in_letters_and_none_overwrites_a_newer_one() -> Result<()> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute(
            "SELECT sluice.define_stream('event');
             SELECT sluice.deliver('event', target => 'clickhouse', settings => '{\"columns\": {\"id\": \"String\"}, \"key\": \"id\"}');
             SELECT sluice.set_live(subscription, stream, stream, mapping) FROM sluice.target WHERE subscription = 'clickhouse'",
        )
        .await?;
    let emit = async |key: &str, n: i32| -> Result<()> {
        let payload = format!("{{\"n\":{n}}}");
        world.owner.execute("SELECT sluice.emit('event', $1, payload => $2::text::json)", &[&key, &payload]).await?;
        Ok(())
    };
    let mut drainer = world.direct()?;
    world.target.state().refused.insert("a".to_owned());
    emit("a", 1).await?;
    world.pass(&mut drainer).await?;
    world.target.state().unfit.insert("event".to_owned());
    emit("b", 1).await?;
    world.pass(&mut drainer).await?;
    emit("b", 2).await?;
    emit("c", 1).await?;
    world.pass(&mut drainer).await?;
    assert_eq!((world.keys(), text(&world.owner, FAULT).await?), (String::new(), "its table is gone".to_owned()));
    assert_eq!(text(&world.owner, LETTERS).await?, "clickhouse event a out_of_range: n is too large");
    world.target.state().unfit.clear();
    let mut drainer = world.rest_is_over().await?;
    emit("b", 3).await?;
    world.pass(&mut drainer).await?;
    assert_eq!((world.keys(), text(&world.owner, FAULT).await?), ("b c".to_owned(), String::new()));

    world.target.state().refused.clear();
    let redrive = "SELECT sluice.redrive_refusals(array_agg(id), 'operator', NULL)::text FROM sluice.dead_letter";
    // What waits is newer, and would be overwritten.
    emit("d", 1).await?;
    assert_eq!(text(&world.owner, redrive).await?, "0");
    world.pass(&mut drainer).await?;
    assert_eq!(text(&world.owner, redrive).await?, "1");
    world.pass(&mut drainer).await?;
    let wanted = [("a", 1), ("b", 3), ("c", 1), ("d", 1)].map(|(key, n)| (key.to_owned(), format!("{{\"n\":{n}}}")));
    assert_eq!(world.target.documents().into_iter().collect::<Vec<_>>(), wanted);
    Ok(())
}

/// Of a row that had left the log nobody knows the payload.
#[tokio::test]
async fn a_letter_whose_payload_is_not_known_is_not_redriven_as_a_delete() -> Result<()> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute(
            "SELECT sluice.define_stream('event');
             SELECT sluice.note_refusals('clickhouse', '{999}', '{event}', '{a}', '{1}', '{refused}', '{too long}')",
        )
        .await?;
    let redrive = "SELECT sluice.redrive_refusals(array_agg(id), 'operator', NULL)::text FROM sluice.dead_letter";
    assert_eq!(text(&world.owner, redrive).await?, "0");
    assert_eq!(text(&world.owner, LETTERS).await?, "clickhouse event a refused: too long");
    Ok(())
}
