//! Topics as migrate makes them.

use anyhow::Result;
use kafka::topics::{COMPACT, Ensured, Topics};
use krafka::admin::ConfigResource;

use crate::world::World;

#[tokio::test]
async fn a_missing_topic_is_made_compacted_and_one_that_is_there_is_left_and_told_of() -> Result<()> {
    let world = World::create().await?;
    let topics = Topics::connect(&world.connection(&[])?).await?;
    let name = world.topic("made");
    assert_eq!(topics.ensure(&name, Some(5), COMPACT).await?, Ensured { is_made: true, warning: None });
    let policy = world.topic_setting(&ConfigResource::topic(&name), "cleanup.policy").await;
    assert_eq!(policy.as_deref(), Some("compact"));
    assert_eq!(topics.ensure(&name, Some(5), COMPACT).await?, Ensured::default());
    assert_eq!(topics.ensure(&name, None, COMPACT).await?, Ensured::default());
    let warning = topics.ensure(&name, Some(6), COMPACT).await?.warning.unwrap_or_default();
    assert!(warning.contains("5 partitions, not 6"), "{warning}");
    world.set_topic("made", "cleanup.policy", "compact,delete").await?;
    assert_eq!(topics.ensure(&name, Some(5), COMPACT).await?, Ensured::default());
    world.set_topic("made", "cleanup.policy", "delete").await?;
    let warning = topics.ensure(&name, Some(5), COMPACT).await?.warning.unwrap_or_default();
    assert!(warning.contains("cleanup.policy=delete"), "{warning}");
    let events = world.topic("events");
    assert_eq!(topics.ensure(&events, None, "delete").await?, Ensured { is_made: true, warning: None });
    let policy = world.topic_setting(&ConfigResource::topic(&events), "cleanup.policy").await;
    assert_eq!(policy.as_deref(), Some("delete"));
    let warning = topics.ensure(&events, None, COMPACT).await?.warning.unwrap_or_default();
    assert!(warning.contains("give it compact"), "{warning}");
    Ok(())
}

#[tokio::test]
async fn why_there_is_no_topic_is_told_by_name() -> Result<()> {
    let world = World::create().await?;
    let topics = Topics::connect(&world.connection(&[])?).await?;
    let told = topics.ensure("no topic", None, COMPACT).await.unwrap_err().to_string();
    assert!(told.contains("no topic"), "{told}");
    let away = world.connection(&[("KAFKA_BROKERS", "127.0.0.1:1")])?;
    let told = Topics::connect(&away).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told.contains("127.0.0.1:1") && told.contains("KAFKA_BROKERS"), "{told}");
    Ok(())
}
