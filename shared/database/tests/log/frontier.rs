//! What has arrived: flights, landings, and when a snapshot has settled.

use std::time::Duration;

use anyhow::{Context as _, Result};
use database::Session as _;
use database::delivery::{Departure, Flight, Landed, Landing};
use tokio_postgres::Client;

use crate::support::{Drainer, World, collect, one, set_live};

const PARTS: i32 = 2;

/// A person is shown by items.
const JOINED: &str = "
    CREATE TABLE demo.person (id bigint PRIMARY KEY, name text);
    CREATE TABLE demo.item (id bigint PRIMARY KEY, person bigint);
    CREATE TABLE demo.other (id bigint PRIMARY KEY);
    CREATE VIEW demo.shown AS SELECT i.id, p.name FROM demo.item AS i LEFT JOIN demo.person AS p ON p.id = i.person;
    SELECT sluice.define_stream('items', source => 'demo.shown', key => 'id', mapping => '{\"properties\": {\"id\": {}, \"name\": {}}}');
    SELECT sluice.track('demo.item', stream => 'items', key => 'id');
    SELECT sluice.track('demo.person', stream => 'items', affects => 'SELECT id FROM demo.item WHERE person = $1.id');
    SELECT sluice.define_stream('others', source => 'demo.other', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
    SELECT sluice.track('demo.other', stream => 'others', key => 'id')";

/// Drains what is there in one step, whose messages are of two parts for each stream: the step's first version.
async fn send(drainer: &mut Drainer) -> Result<i64> {
    let base = step(drainer).await?;
    drainer.commit().await?;
    Ok(base)
}

/// The same, not committed.
async fn step(drainer: &mut Drainer) -> Result<i64> {
    let after = drainer.begin().await?.context("the subscription is not held")?;
    let base = drainer.versions.draw().context("the versions are used up")?;
    let rows = drainer.page(after, 10_000).await?;
    let mut flights: Vec<Flight> = vec![];
    for row in rows {
        let known = flights.iter_mut().find(|flight| flight.stream == row.stream);
        match known {
            Some(flight) => flight.last_id = row.id,
            None => flights.push(Flight {
                stream: row.stream,
                parts: PARTS,
                first_id: row.id,
                last_id: row.id,
                since_ms: row.logged_ms,
            }),
        }
    }
    let departure = Departure { base, has_waited: false, flights };
    drainer.client.depart("elasticsearch", &[], &departure).await?;
    drainer.finish().await?;
    Ok(base)
}

async fn land(client: &Client, stream: &str, flight: i64, parts: &[i32], became: Landed) -> Result<()> {
    let landing = |part: &i32| Landing { stream: stream.to_owned(), flight, part: *part, became };
    Ok(client.land("elasticsearch", &[], &parts.iter().map(landing).collect::<Vec<_>>()).await?)
}

async fn snapshot(client: &Client) -> Result<String> {
    one(client, "SELECT pg_current_snapshot()::text").await
}

async fn settled(client: &Client, snapshot: &str) -> Result<bool> {
    one(client, &format!("SELECT sluice.settled('elasticsearch', '{snapshot}')")).await
}

async fn looked(client: &Client, snapshot: &str) -> Result<bool> {
    one(client, &format!("SELECT sluice.settled('elasticsearch', '{snapshot}', looked => true)")).await
}

/// Minutes later, so many times: the ids of what was found lost.
async fn minutes(client: &Client, minutes: std::ops::Range<i32>) -> Result<Vec<(i64, i64, bool)>> {
    let mut lost = vec![];
    for minute in minutes {
        let query = "SELECT first_id, last_id, is_logged_again FROM sluice.watch_flights(3, clock_timestamp() + make_interval(mins => $1))";
        let rows = client.query(query, &[&minute]).await?;
        lost.extend(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))));
    }
    Ok(lost)
}

async fn left(client: &Client) -> Result<String> {
    one(client, "SELECT (SELECT count(*) FROM sluice.flight) || ' ' || (SELECT count(*) FROM sluice.landed)").await
}

#[tokio::test]
async fn a_snapshot_has_settled_when_each_part_of_what_it_sees_has_landed() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    let before = snapshot(&world.owner).await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    let after = snapshot(&world.owner).await?;
    assert!(settled(&client, &before).await? && !settled(&client, &after).await?, "it was not drained");
    let base = send(&mut drainer).await?;
    assert!(settled(&client, &before).await? && !settled(&client, &after).await?, "it is under way");
    assert_eq!(
        client.query_one("SELECT sluice.frontier('elasticsearch')", &[]).await?.get::<_, Option<i64>>(0),
        Some(base)
    );
    land(&client, "items", base, &[1, 1], Landed::Final).await?;
    land(&client, "items", base, &[2], Landed::Retried).await?;
    assert!(!settled(&client, &after).await?, "a part is missing");
    land(&client, "items", base, &[2], Landed::Landed).await?;
    assert!(settled(&client, &after).await? && !looked(&client, &after).await?, "its deletes are still looked at");
    assert_eq!(client.query_one("SELECT sluice.frontier('elasticsearch')", &[]).await?.get::<_, Option<i64>>(0), None);
    land(&client, "items", base, &[2], Landed::Final).await?;
    assert!(looked(&client, &after).await?);

    // A later step holds up nothing of what was before.
    world.app.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    let later = send(&mut drainer).await?;
    let last = snapshot(&world.owner).await?;
    assert!(settled(&client, &before).await? && !settled(&client, &last).await?);
    land(&client, "items", later, &[1, 2], Landed::Final).await?;
    assert!(settled(&client, &last).await?);
    minutes(&client, 1..3).await?;
    assert_eq!(left(&world.owner).await?, "1 2", "the newest flight stays");
    Ok(())
}

#[tokio::test]
async fn a_message_that_lands_before_its_flight_is_there_and_one_of_a_step_that_was_rolled_back_leave_nothing()
-> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    let undone = step(&mut drainer).await?;
    land(&client, "items", undone, &[1, 2], Landed::Final).await?;
    drainer.rollback().await?;
    let seen = snapshot(&world.owner).await?;
    let base = step(&mut drainer).await?;
    land(&client, "items", base, &[1, 2], Landed::Final).await?;
    assert!(!settled(&client, &seen).await?, "what is not committed may be repeated");
    drainer.commit().await?;
    assert!(looked(&client, &seen).await?);
    world.app.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    let newest = send(&mut drainer).await?;
    land(&client, "items", newest, &[1, 2], Landed::Final).await?;
    land(&client, "items", base, &[1], Landed::Final).await?;
    land(&client, "items", i64::MAX, &[1], Landed::Final).await?;
    assert_eq!(minutes(&client, 1..9).await?, []);
    assert_eq!(left(&world.owner).await?, "1 2", "the newest flight stays, and nothing of the others");
    Ok(())
}

#[tokio::test]
async fn a_change_of_another_row_has_settled_when_its_fan_out_has_landed() -> Result<()> {
    let world = World::with(JOINED).await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 7), (2, 7)").await?;
    let first = send(&mut drainer).await?;
    land(&client, "items", first, &[1, 2], Landed::Final).await?;
    world.app.batch_execute("INSERT INTO demo.person VALUES (7, 'Ada')").await?;
    let renamed = snapshot(&world.owner).await?;
    assert!(!settled(&client, &renamed).await?, "it was not collected");
    collect(&client).await?;
    assert!(!settled(&client, &renamed).await?, "it was not expanded");
    client.expand(1, false, false).await?;
    assert!(!settled(&client, &renamed).await?, "it was expanded in part");
    client.expand(1000, false, false).await?;
    assert!(!settled(&client, &renamed).await?, "what was logged was not drained");
    let base = send(&mut drainer).await?;
    assert!(!settled(&client, &renamed).await?, "it is under way");
    land(&client, "items", base, &[1, 2], Landed::Final).await?;
    assert!(settled(&client, &renamed).await? && looked(&client, &renamed).await?);
    collect(&client).await?;
    minutes(&client, 1..3).await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.expanded").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_change_whose_table_is_untracked_before_it_was_fanned_out_has_settled_when_all_of_the_stream_has_landed()
-> Result<()> {
    let world = World::with(JOINED).await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 7); INSERT INTO demo.person VALUES (7, 'Ada')").await?;
    let base = send(&mut drainer).await?;
    land(&client, "items", base, &[1, 2], Landed::Final).await?;
    let seen = snapshot(&world.owner).await?;
    world.owner.batch_execute("SELECT sluice.untrack('demo.person', stream => 'items')").await?;
    collect(&client).await?;
    assert!(!settled(&client, &seen).await?, "nobody knows any more which documents it was");
    while client.expand(1000, false, false).await?.expansion.is_some() {}
    assert!(!settled(&client, &seen).await?, "what was logged was not drained");
    let base = send(&mut drainer).await?;
    land(&client, "items", base, &[1, 2], Landed::Final).await?;
    collect(&client).await?;
    assert!(settled(&client, &seen).await?);
    Ok(())
}

#[tokio::test]
async fn what_was_lost_again_on_its_second_way_has_not_settled() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    // The second one carries what was logged again of the first, and is lost, too.
    let flights = "INSERT INTO sluice.flight (subscription, stream, base, parts, first_id, last_id, seen, since, later, looked_at, logged_to, logged)
        VALUES ('elasticsearch', 'items', 1, 1, 1, 1, '1:1:', now(), 9, '-infinity', 1, pg_current_snapshot()),
            ('elasticsearch', 'items', 5, 1, 2, 2, '1:1:', now(), 9, '-infinity', 2, pg_current_snapshot()),
            ('elasticsearch', 'items', 9, 1, 3, 3, pg_current_snapshot(), now(), 9, '-infinity', NULL, NULL)";
    world.owner.batch_execute(flights).await?;
    world.owner.batch_execute("UPDATE sluice.flight SET logged = NULL WHERE base = 5").await?;
    client.watch_flights().await?;
    let left = "SELECT string_agg(base::text, ' ' ORDER BY base) FROM sluice.flight";
    assert_eq!(one::<String>(&world.owner, left).await?, "1 5 9");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_held_up_holds_up_what_has_settled_of_no_other() -> Result<()> {
    let world = World::with(JOINED).await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 7); INSERT INTO demo.other VALUES (1); INSERT INTO demo.person VALUES (7)").await?;
    let seen = snapshot(&world.owner).await?;
    collect(&client).await?;
    let base = send(&mut drainer).await?;
    land(&client, "others", base, &[1, 2], Landed::Final).await?;
    let of = async |stream: &str| -> Result<bool> {
        one(&client, &format!("SELECT sluice.settled('elasticsearch', '{seen}', '{stream}')")).await
    };
    assert!(of("others").await? && !of("items").await? && !settled(&client, &seen).await?);
    Ok(())
}

#[tokio::test]
async fn what_waited_for_its_index_is_in_no_snapshot_before_it_has_landed() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("SELECT sluice.define_stream('late', source => 'demo.item', key => 'id', mapping => '{\"properties\": {}}'); SELECT sluice.resync('late', '{1}')").await?;
    let client = world.database.functions().await?;
    let drainer = world.drainer().await?;
    let seen = snapshot(&world.owner).await?;
    let after = drainer.begin().await?.context("held")?;
    let ids: Vec<i64> = drainer.page(after, 10).await?.iter().map(|row| row.id).collect();
    drainer.client.wait("elasticsearch", "late", &ids).await?;
    drainer.finish().await?;
    drainer.commit().await?;
    assert!(settled(&client, &seen).await?, "nobody made an index, and that holds up no other");
    set_live(&world.owner).await?;
    assert!(!settled(&client, &seen).await?, "it is to be sent");
    drainer.begin().await?;
    assert_eq!(drainer.client.waited("elasticsearch", 10).await?.0.len(), 1);
    let flight = Flight { stream: "late".to_owned(), parts: 1, first_id: ids[0], last_id: ids[0], since_ms: 0 };
    let departure = Departure { base: 7, has_waited: true, flights: vec![flight] };
    drainer.client.depart("elasticsearch", &[], &departure).await?;
    drainer.commit().await?;
    assert!(!settled(&client, &seen).await?, "it is under way");
    land(&client, "late", 7, &[1], Landed::Final).await?;
    assert!(settled(&client, &seen).await?);
    Ok(())
}

#[tokio::test]
async fn what_waited_and_is_deleted_has_settled_with_its_looks_when_it_was_looked_at() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1); DELETE FROM demo.item").await?;
    let seen = snapshot(&world.owner).await?;
    let after = drainer.begin().await?.context("held")?;
    let ids: Vec<i64> = drainer.page(after, 10).await?.iter().map(|row| row.id).collect();
    drainer.client.wait("elasticsearch", "items", &ids).await?;
    drainer.finish().await?;
    drainer.commit().await?;
    assert!(!settled(&client, &seen).await?, "it waits");
    drainer.begin().await?;
    let (waited, _) = drainer.client.waited("elasticsearch", 10).await?;
    let deletes: Vec<_> = waited.into_iter().map(|row| (row.stream, row.key)).collect();
    drainer.client.look_later("elasticsearch", true, &deletes, Duration::ZERO).await?;
    drainer.commit().await?;
    assert!(settled(&client, &seen).await? && !looked(&client, &seen).await?, "an older write may bring it back");
    drainer.begin().await?;
    let (looks, _) = drainer.client.waited("elasticsearch", 10).await?;
    assert!(looks.len() == 1 && looks[0].is_look(), "{looks:?}");
    drainer.commit().await?;
    assert!(looked(&client, &seen).await?);
    Ok(())
}

#[tokio::test]
async fn what_was_lost_is_logged_again_once_and_settles_when_that_has_landed() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1), (2), (3); DELETE FROM demo.item WHERE id = 2").await?;
    let seen = snapshot(&world.owner).await?;
    send(&mut drainer).await?;
    let ids: (i64, i64) = {
        let row = world.owner.query_one("SELECT min(id), max(id) FROM sluice.outbox", &[]).await?;
        (row.get(0), row.get(1))
    };
    // Nobody's messages land: all may be well but for Elasticsearch.
    assert_eq!(minutes(&client, 1..20).await?, []);
    let mut lost = vec![];
    for minute in 20..30 {
        world.app.execute("INSERT INTO demo.item VALUES ($1)", &[&i64::from(minute)]).await?;
        let base = send(&mut drainer).await?;
        land(&client, "items", base, &[1, 2], Landed::Final).await?;
        lost.extend(minutes(&client, minute..minute + 1).await?);
        if !lost.is_empty() {
            break;
        }
    }
    assert_eq!(lost, [(ids.0, ids.1, true)]);
    let again = "SELECT string_agg(key || ' ' || op || ' ' || only_for, ', ' ORDER BY id) FROM sluice.outbox WHERE only_for IS NOT NULL";
    assert_eq!(
        one::<String>(&world.owner, again).await?,
        "1 upsert elasticsearch, 2 upsert elasticsearch, 3 upsert elasticsearch"
    );
    assert_eq!(one::<i64>(&world.owner, "SELECT value FROM sluice.delivery_stats WHERE measure = 'lost'").await?, 1);
    minutes(&client, 30..32).await?;
    assert!(!settled(&client, &seen).await?, "it is logged, and not drained");
    let base = send(&mut drainer).await?;
    minutes(&client, 32..34).await?;
    assert!(!settled(&client, &seen).await?, "it is under way again");
    land(&client, "items", base, &[1, 2], Landed::Final).await?;
    assert_eq!(minutes(&client, 34..40).await?, []);
    assert!(settled(&client, &seen).await? && looked(&client, &seen).await?);
    assert_eq!(
        one::<i64>(&world.owner, "SELECT count(*) FROM sluice.outbox WHERE only_for IS NOT NULL").await?,
        3,
        "once"
    );
    Ok(())
}

#[tokio::test]
async fn payloads_that_were_lost_are_told_by_their_ids_and_a_dropped_stream_is_not() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("SELECT sluice.define_stream('letters', mapping => '{\"properties\": {}}'); SELECT sluice.define_stream('gone', mapping => '{\"properties\": {}}')").await?;
    set_live(&world.owner).await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    world
        .owner
        .batch_execute(
            "SELECT sluice.emit('letters', 'a', payload => '{}'); SELECT sluice.emit('gone', 'a', payload => '{}')",
        )
        .await?;
    send(&mut drainer).await?;
    world.owner.batch_execute("SELECT sluice.drop_stream('gone')").await?;
    let id: i64 = one(&world.owner, "SELECT id FROM sluice.outbox WHERE stream = 'letters'").await?;
    let mut lost = vec![];
    for minute in 1..10 {
        world.app.execute("INSERT INTO demo.item VALUES ($1)", &[&i64::from(minute)]).await?;
        let base = send(&mut drainer).await?;
        land(&client, "items", base, &[1, 2], Landed::Final).await?;
        lost.extend(minutes(&client, minute..minute + 1).await?);
    }
    assert_eq!(lost, [(id, id, false)]);
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.flight WHERE stream <> 'items'").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_is_retried_is_not_lost() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (0)").await?;
    let slow = send(&mut drainer).await?;
    for minute in 1..20 {
        world.app.execute("INSERT INTO demo.item VALUES ($1)", &[&i64::from(minute)]).await?;
        let base = send(&mut drainer).await?;
        land(&client, "items", base, &[1, 2], Landed::Final).await?;
        land(&client, "items", slow, &[1], Landed::Retried).await?;
        assert_eq!(minutes(&client, minute..minute + 1).await?, []);
    }
    Ok(())
}
