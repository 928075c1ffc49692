//! What Kafka does not take: one message, one topic, or nothing at all for a while.

use anyhow::Result;

use crate::world::{ITEM, both};

const OTHER: &str = "
    CREATE TABLE other (id int PRIMARY KEY, n int);
    SELECT sluice.define_stream('other', source => 'public.other', key => 'id');
    SELECT sluice.track('other', stream => 'other', key => 'id')";

/// Text that nothing makes smaller.
const NOISE: &str = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 3000))";

#[tokio::test]
async fn a_message_that_is_too_large_is_one_letter_its_neighbours_arrive_and_a_redrive_brings_it_in() -> Result<()> {
    both(async |world| {
        world.define_item().await?;
        world.set_topic("item", "max.message.bytes", "50000").await?;
        let mut drainer = world.drainer()?;
        world
            .owner
            .batch_execute(&format!(
                "INSERT INTO item SELECT n, n FROM generate_series(1, 500) AS n;
             UPDATE item SET filler = {NOISE} WHERE id = 70;
             UPDATE item SET filler = {NOISE} WHERE id = 71"
            ))
            .await?;
        world.pass(&mut drainer).await?;
        assert_eq!(world.letters().await?, "item 70 message_too_large; item 71 message_too_large");
        let reason = world.text("SELECT reason FROM sluice.dead_letter WHERE key = '70'").await?;
        assert!(reason.contains(&world.topic("item")) && reason.contains("max.message.bytes"), "{reason}");
        let mut expected = world.items().await?;
        expected.0.retain(|key, _| key != "70" && key != "71");
        world.table("item").await?.is(&expected)?;

        // A smaller one arrives by itself, the other once the topic takes it.
        world.owner.batch_execute("UPDATE item SET filler = NULL WHERE id = 70").await?;
        world.pass(&mut drainer).await?;
        assert_eq!(world.letters().await?, "item 71 message_too_large");
        world.set_topic("item", "max.message.bytes", "1048588").await?;
        let redrive = "SELECT sluice.redrive_refusals(array_agg(id), 'operator', NULL)::text FROM sluice.dead_letter";
        assert_eq!(world.text(redrive).await?, "1");
        world.pass(&mut drainer).await?;
        world.is_whole().await?;
        assert_eq!(world.letters().await?, "");
        Ok(())
    })
    .await
}

/// With a limit below the size of the batches that the client makes.
#[tokio::test]
async fn small_messages_are_no_letters_only_because_they_were_sent_together() -> Result<()> {
    both(async |world| {
    world.define_item().await?;
    world.set_topic("item", "max.message.bytes", "20000").await?;
    world
        .owner
        .batch_execute(
            "INSERT INTO item SELECT n, n, (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 100) WHERE n > 0) FROM generate_series(1, 40) AS n",
        )
        .await?;
    world.pass(&mut world.drainer()?).await?;
    world.is_whole().await?;
    assert_eq!(world.letters().await?, "");
    Ok(())
    })
    .await
}

#[tokio::test]
async fn a_stream_whose_topic_is_missing_rests_and_the_others_go_on() -> Result<()> {
    both(async |world| {
        world.owner.batch_execute(&format!("{ITEM}; {OTHER}")).await?;
        world.deliver("item", "").await?;
        world.deliver("other", "").await?;
        world.delete_topic("other").await?;
        let mut drainer = world.drainer()?;
        world.owner.batch_execute("INSERT INTO other VALUES (11, 1), (12, 1); INSERT INTO item VALUES (1, 1)").await?;
        world.pass(&mut drainer).await?;
        world.is_whole().await?;
        let fault =
            "SELECT string_agg(stream || ': ' || problem, '; ') FROM sluice.stream_fault WHERE subscription = 'kafka'";
        let told = world.text(fault).await?;
        assert!(told.starts_with(&format!("other: there is no topic {}", world.topic("other"))), "{told}");
        world.owner.batch_execute("UPDATE other SET n = 2; INSERT INTO item VALUES (2, 1)").await?;
        world.pass(&mut drainer).await?;
        world.is_whole().await?;

        world.deliver("other", "").await?;
        world.owner.batch_execute("UPDATE sluice.target SET rests_until = NULL").await?;
        world.pass(&mut world.drainer()?).await?;
        let others = world.source("SELECT id::text, to_json(o)::text FROM public.other AS o").await?;
        world.table("other").await?.is(&others)?;
        assert_eq!((world.letters().await?, world.text(fault).await?), (String::new(), String::new()));
        Ok(())
    })
    .await
}
