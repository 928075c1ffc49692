//! Generations of an index: when they are level, and what they hold up.

use anyhow::{Context as _, Result, bail};
use database::Session as _;
use localstack::eventually;
use tokio_postgres::Client;

use crate::support::{World, collect, expand, one, set_live};

/// With a second generation that is being built.
async fn begun() -> Result<(World, Client)> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    set_live(&world.owner).await?;
    world.owner.execute("SELECT sluice.begin_generation('items', 2, 'items-2')", &[]).await?;
    let client = world.database.functions().await?;
    Ok((world, client))
}

/// The second one has everything, and is equal.
async fn can_take_over(world: &World, client: &Client) -> Result<()> {
    collect(client).await?;
    while one(client, "SELECT EXISTS (SELECT FROM sluice.expansion)").await? {
        // However long ago the last slice was logged.
        world.owner.batch_execute("UPDATE sluice.expansion_turn SET due_at = served_at").await?;
        expand(client, 1000).await?;
        collect(client).await?;
        world.drain().await?;
    }
    let filled = "UPDATE sluice.generation SET seen = sluice.snapshot(), filled = sluice.snapshot(), is_checked = true";
    world.owner.execute(filled, &[]).await?;
    Ok(())
}

async fn is_level(client: &Client, generation: &str) -> Result<bool> {
    one(client, &format!("SELECT sluice.is_level('{generation}')")).await
}

#[tokio::test]
async fn a_generation_that_is_filled_holds_up_nothing_of_what_has_settled_beside_it() -> Result<()> {
    let (world, client) = begun().await?;
    world.drain().await?;
    collect(&client).await?;
    let settled = async |stream: &str| -> Result<bool> {
        one(&client, &format!("SELECT sluice.settled('elasticsearch', pg_current_snapshot(), {stream})")).await
    };
    assert!(!settled("'items.g2'").await?, "its source is not read");
    assert!(settled("NULL").await? && settled("'items'").await?);
    expand(&client, 1000).await?;
    let snapshot: String = one(&client, "SELECT pg_current_snapshot()::text").await?;
    collect(&client).await?;
    world.drain().await?;
    let flight = "INSERT INTO sluice.flight (subscription, stream, base, parts, first_id, last_id, seen, since, later) \
                  VALUES ('elasticsearch', 'items.g2', 1, 1, 1, 100, '1:1:', now(), 1)";
    world.owner.execute(flight, &[]).await?;
    let settled = async |stream: &str| -> Result<bool> {
        one(&client, &format!("SELECT sluice.settled('elasticsearch', '{snapshot}', {stream})")).await
    };
    assert!(!settled("'items.g2'").await?, "what was read is on its way");
    assert!(settled("NULL").await? && settled("'items'").await?);
    Ok(())
}

/// A row for the newer one alone may have been read behind a change whose own row, which is for both, is still in the log.
#[tokio::test]
async fn there_is_no_way_back_before_what_could_be_seen_at_the_takeover_is_sent() -> Result<()> {
    let (world, client) = begun().await?;
    can_take_over(&world, &client).await?;
    assert!(is_level(&client, "items.g2").await?);
    world.app.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    world
        .owner
        .execute("SELECT sluice.change_places('items.g2', interval '1 day', 'takeover', 'somebody', NULL)", &[])
        .await?;
    assert!(!is_level(&client, "items.g1").await?, "the row of 2 is in the log");
    world.drain().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (3)").await?;
    assert!(is_level(&client, "items.g1").await?, "what came later is of both");
    Ok(())
}

/// What it sent may have arrived in one index, and nobody knows that it is under way to the other.
#[tokio::test]
async fn nothing_is_level_behind_a_drainer_that_ended_in_the_middle_of_a_step() -> Result<()> {
    let (world, client) = begun().await?;
    can_take_over(&world, &client).await?;
    let drainer = world.drainer().await?;
    assert!(is_level(&client, "items.g2").await?);
    world.app.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    assert!(is_level(&client, "items.g2").await?, "it is not sent yet, to either");
    let after = drainer.begin().await?.context("the subscription is not held")?;
    assert_eq!(drainer.page(after, 10).await?.len(), 1);
    drop(drainer);
    eventually(
        "nothing to be level",
        async || if is_level(&client, "items.g2").await? { bail!("it is") } else { Ok(()) },
    )
    .await;
    let mut next = world.drainer().await?;
    assert!(!is_level(&client, "items.g2").await?, "the next one has not sent it again");
    next.drain().await?;
    assert!(is_level(&client, "items.g2").await?);
    Ok(())
}

#[tokio::test]
async fn a_generation_that_is_given_up_takes_over_no_more_and_is_not_given_up_while_it_does() -> Result<()> {
    let (world, client) = begun().await?;
    can_take_over(&world, &client).await?;
    client.begin().await?;
    client.execute("SELECT sluice.lock_generations('items.g2')", &[]).await?;
    let abort = "SELECT sluice.abort_generation('items')";
    let refused = world.owner.batch_execute(&format!("SET lock_timeout = '50ms'; {abort}")).await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("55P03"));
    client.commit().await?;

    world
        .owner
        .execute("SELECT sluice.begin_validation('elasticsearch', 'items.g2', true, false, 'generation')", &[])
        .await?;
    let due = "SELECT count(*) FROM sluice.due_validations('elasticsearch', interval '0', false)";
    assert_eq!(one::<i64>(&client, due).await?, 1);
    assert_eq!(one::<i64>(&world.owner, abort).await?, 1);
    assert_eq!(one::<i64>(&client, due).await?, 0, "what gets nothing any more is not compared");
    for generation in ["items.g2", "items.g3"] {
        assert!(!is_level(&client, generation).await?, "{generation} has less than the live one");
    }
    assert!(is_level(&client, "items").await?);
    Ok(())
}
