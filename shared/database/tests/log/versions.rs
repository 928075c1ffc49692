//! Versions never go back, and belong to the read.

use anyhow::{Context as _, Result};
use database::{Read, Session as _};
use serde_json::json;

use crate::support::{Drainer, Index, World, keys, one, read_rows};

const HOUR_MICROSECONDS: i64 = 3_600_000_000;

/// A project's document shows the name of its owner, and a project's row is written later than its owner's.
const JOINED: &str = "
    CREATE TABLE demo.person (id bigint PRIMARY KEY, name text);
    CREATE TABLE demo.project (id bigint PRIMARY KEY, owner_id bigint REFERENCES demo.person, title text);
    CREATE VIEW demo.project_document AS
        SELECT p.id, p.title, o.name AS owner FROM demo.project AS p JOIN demo.person AS o ON o.id = p.owner_id;
    INSERT INTO demo.person VALUES (1, 'Ann');
    INSERT INTO demo.project VALUES (7, 1, 'old title');
    SELECT sluice.define_stream('projects', source => 'demo.project_document', key => 'id',
        mapping => '{\"properties\": {\"id\": {}, \"title\": {}, \"owner\": {}}}');
    SELECT sluice.track('demo.project', stream => 'projects', key => 'id');
    SELECT sluice.track('demo.person', stream => 'projects', affects => 'SELECT id FROM demo.project WHERE owner_id = $1.id')";

#[tokio::test]
async fn versions_rise_over_a_crash_of_the_drain() -> Result<()> {
    let world = World::new().await?;
    let mut drawn = vec![];
    for _ in 0..3 {
        let mut drainer = world.drainer().await?;
        drainer.begin().await?;
        for _ in 0..5 {
            drawn.push(drainer.versions.draw().context("a version")?);
        }
        // Gone without a commit, in the middle of a transaction.
        drop(drainer);
    }
    assert!(drawn.is_sorted_by(|a, b| a < b), "{drawn:?}");
    Ok(())
}

#[tokio::test]
async fn versions_start_above_the_clock() -> Result<()> {
    let world = World::new().await?;
    let before: i64 = one(&world.owner, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").await?;
    let version = world.drainer().await?.versions.draw().context("a version")?;
    assert!(version > before);
    assert!(version < 1 << 53, "JSON's numbers are exact up to there");
    Ok(())
}

#[tokio::test]
async fn versions_rise_over_a_clock_that_was_set_back() -> Result<()> {
    let world = World::new().await?;
    let superuser = world.database.superuser().await?;
    // What an hour's work with a clock that went ahead by an hour left behind.
    let ahead = format!(
        "UPDATE sluice.subscription SET reserved = (extract(epoch FROM now()) * 1000000)::bigint + {HOUR_MICROSECONDS} WHERE name = 'elasticsearch' RETURNING reserved"
    );
    let reserved: i64 = one(&superuser, &ahead).await?;
    let mut drainer = world.drainer().await?;
    let first = drainer.versions.draw().context("a version")?;
    assert_eq!(first, reserved + 1);
    drainer.release().await?;
    let next = world.drainer().await?.versions.draw().context("a version")?;
    assert!(next > first + 999_000, "the second range follows the whole first one");
    Ok(())
}

#[tokio::test]
async fn a_range_that_is_used_up_gives_no_version() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let mut versions = client.take_over("elasticsearch", 2).await?.context("nobody holds it")?;
    let drawn = [versions.draw(), versions.draw(), versions.draw()];
    assert_eq!(drawn[1], drawn[0].map(|first| first + 1));
    assert_eq!(drawn[2], None);
    Ok(())
}

/// The title is changed by a transaction that draws its id first and commits last; meanwhile the owner's rename is
/// expanded, drained and indexed.
#[tokio::test]
async fn a_lower_id_that_commits_after_a_higher_one_gets_the_higher_version() -> Result<()> {
    let world = World::with(JOINED).await?;
    let (mut index, mut by_id) = (Index::default(), Index::default());
    let late = world.database.app().await?;
    late.batch_execute("BEGIN; UPDATE demo.project SET title = 'new title' WHERE id = 7").await?;
    world.app.batch_execute("UPDATE demo.person SET name = 'Anne' WHERE id = 1").await?;
    world.fan_out(100).await?;
    let mut drainer = world.drainer().await?;
    let first = drain_twice(&mut drainer, &mut index, &mut by_id).await?;
    late.batch_execute("COMMIT").await?;
    let second = drain_twice(&mut drainer, &mut index, &mut by_id).await?;

    assert!(second < first, "the change that came last has the lower id");
    let both = json!({"id": 7, "title": "new title", "owner": "Anne"});
    assert_eq!(index.get("projects", "7"), both);
    assert_ne!(by_id.get("projects", "7"), both, "the event's id as version loses the change: this test shows nothing");
    Ok(())
}

/// Drains one row into an index by the drain's version and into one by the row's id, which is returned.
async fn drain_twice(drainer: &mut Drainer, index: &mut Index, by_id: &mut Index) -> Result<i64> {
    let after = drainer.begin().await?.context("the subscription is held")?;
    let version = drainer.versions.draw().context("a version")?;
    let rows = drainer.page(after, 10).await?;
    assert_eq!(keys(&rows), ["7"]);
    for (stream, key, read) in read_rows(&drainer.client, &rows).await? {
        index.write(&stream, &key, version, read.clone());
        by_id.write(&stream, &key, rows[0].id, read);
    }
    drainer.advance(rows[0].id).await?;
    assert!(drainer.page(rows[0].id, 10).await?.is_empty());
    drainer.finish().await?;
    drainer.commit().await?;
    Ok(rows[0].id)
}

/// Why a version is drawn before its page is read: of two reads, the one with the higher version has seen more.
#[tokio::test]
async fn what_commits_between_the_page_and_its_read_is_in_the_document() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'first')").await?;
    let drainer = world.drainer().await?;
    drainer.begin().await?;
    let rows = drainer.page(0, 10).await?;
    world.app.batch_execute("UPDATE demo.item SET value = 'second' WHERE id = 1").await?;
    let read = read_rows(&drainer.client, &rows).await?;
    assert!(format!("{read:?}").contains("second"), "{read:?}");
    Ok(())
}

#[tokio::test]
async fn a_database_from_another_cluster_is_refused_until_it_is_rebased() -> Result<()> {
    let world = World::new().await?;
    let superuser = world.database.superuser().await?;
    let mut index = Index::default();
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a'), (2, 'b')").await?;
    world.settle(&mut index).await?;
    // What a dump from a cluster with far higher transaction ids brings along.
    superuser
        .batch_execute(
            "UPDATE sluice.subscription SET system_identifier = 42, seen = '900000000:900000000:', reserved = 1;
             INSERT INTO sluice.outbox (xid, stream, key, op) VALUES ('900000007', 'items', 'of the other cluster', 'upsert');
             ALTER TABLE demo.item DISABLE TRIGGER USER;
             UPDATE demo.item SET value = 'older' WHERE id = 1;
             ALTER TABLE demo.item ENABLE TRIGGER USER",
        )
        .await?;
    let client = world.database.functions().await?;
    let error = client.take_over("elasticsearch", 10).await.expect_err("another cluster");
    assert_eq!(error.code().map(|code| code.code()), Some("SL001"));
    let message = database::describe(&error);
    assert!(message.contains("another cluster") && message.contains("rebase"), "{message}");

    let highest: i64 = 5_000_000_000_000_000;
    world.owner.execute("SELECT sluice.rebase($1)", &[&highest]).await?;
    let mut drainer = world.drainer().await?;
    assert!(drainer.versions.draw() > Some(highest), "versions are above all that the index holds");
    drainer.release().await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("items", "1"), json!({"id": 1, "value": "older"}), "every stream is read anew");
    world.app.batch_execute("INSERT INTO demo.item VALUES (3, 'c')").await?;
    assert_eq!(keys(&world.drain().await?), ["3"], "the position is now");
    assert!(!client.is_pending("elasticsearch").await?, "rows of the other cluster are not waited for");
    let pending: i64 = one(&world.owner, "SELECT sum(pending_rows)::bigint FROM sluice.status()").await?;
    assert_eq!(pending, 0);
    Ok(())
}

#[tokio::test]
async fn a_drainer_goes_on_above_a_version_that_was_ahead() -> Result<()> {
    let world = World::new().await?;
    let mut index = Index::default();
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    let mut drainer = world.drainer().await?;
    let ahead = drainer.versions.last() + HOUR_MICROSECONDS;
    index.write("items", "1", ahead, Read::Document(json!({"id": 1, "value": "of another cluster"}).to_string()));
    drainer.drain_into(&mut index).await?;
    assert_eq!(index.get("items", "1"), json!({"id": 1, "value": "of another cluster"}), "its versions are lower");

    // The second one is no longer ahead; the range ends all the same, since a part of it may be below.
    for version in [ahead, 1] {
        world.owner.execute("SELECT sluice.overtake('items', '{1}', $1)", &[&version]).await?;
        assert_eq!(drainer.begin().await?, None, "it is overtaken");
        drainer.rollback().await?;
        drainer = Drainer::take_over(drainer.client, "elasticsearch").await;
    }
    drainer.drain_into(&mut index).await?;
    assert_eq!(index.get("items", "1"), json!({"id": 1, "value": "a"}));
    Ok(())
}

#[tokio::test]
async fn what_is_open_during_a_rebase_is_delivered_after_it() -> Result<()> {
    let world = World::new().await?;
    let open = world.database.app().await?;
    open.batch_execute("BEGIN; INSERT INTO demo.item VALUES (1, 'a')").await?;
    world.owner.batch_execute("SELECT sluice.rebase()").await?;
    let mut index = Index::default();
    world.settle(&mut index).await?;
    assert_eq!(index.get("items", "1"), json!(null));
    open.batch_execute("COMMIT").await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("items", "1"), json!({"id": 1, "value": "a"}));
    Ok(())
}

#[tokio::test]
async fn a_new_timeline_goes_on_at_once_and_is_told_once() -> Result<()> {
    let world = World::new().await?;
    let superuser = world.database.superuser().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    superuser.batch_execute("UPDATE sluice.subscription SET timeline = timeline + 1").await?;
    let mut drainer = world.drainer().await?;
    assert!(drainer.versions.timeline_changed);
    assert_eq!(keys(&drainer.drain().await?), ["1"]);
    drainer.release().await?;
    assert!(!world.drainer().await?.versions.timeline_changed);
    Ok(())
}
