//! What this user may not do, by ACLs of the broker.

use anyhow::Result;
use kafka::topics::{COMPACT, Topics};
use krafka::admin::{
    AclBinding, AclFilter, AclOperation, AclPatternType, AclPermissionType, AclResourceType, CreateAclsOptions,
    DeleteAclsOptions, DescribeAclsOptions,
};
use localstack::eventually;

use crate::logins::secret;
use crate::world::{KAFKA_SECRET, World};

const EVERYBODY: &str = "User:*";

/// Forbids this, and nothing else; the answer is to be given back.
async fn forbid(
    world: &World,
    whom: &str,
    (kind, name): (AclResourceType, &str),
    operation: AclOperation,
) -> Result<AclFilter> {
    // krafka 0.28.1 numbers these one too low: what it calls prefixed is what Kafka calls literal.
    let literal = AclPatternType::Prefixed;
    let acl = |whom, operation, permission| {
        AclBinding::new(kind, name, whom, "*", operation, permission).with_pattern_type(literal)
    };
    let acls = vec![
        acl(EVERYBODY, AclOperation::All, AclPermissionType::Allow),
        acl(whom, operation, AclPermissionType::Deny),
    ];
    for (_, made) in world.admin().create_acls(acls, CreateAclsOptions::default()).await? {
        made?;
    }
    let filter = AclFilter::for_resource(kind, name);
    are_known(world, &filter, 2).await;
    Ok(filter)
}

/// The controller has them; the broker learns of them a little later.
async fn are_known(world: &World, filter: &AclFilter, number: usize) {
    eventually("the broker's ACLs", async || {
        let found = world.admin().describe_acls(filter.clone(), DescribeAclsOptions::default()).await;
        let found = found.map_err(|error| error.to_string())?.len();
        if found == number { Ok(()) } else { Err(format!("{found} of {number}")) }
    })
    .await;
}

async fn allow(world: &World, forbidden: AclFilter) -> Result<()> {
    for (_, deleted) in world.admin().delete_acls(vec![forbidden.clone()], DeleteAclsOptions::default()).await? {
        deleted?;
    }
    are_known(world, &forbidden, 0).await;
    Ok(())
}

#[tokio::test]
async fn a_topic_that_may_not_be_written_to_rests_and_the_others_go_on() -> Result<()> {
    let world = World::with_item().await?;
    world.owner.batch_execute("SELECT sluice.define_stream('event')").await?;
    world.deliver("event", "").await?;
    let topic = world.topic("event");
    let forbidden = forbid(&world, EVERYBODY, (AclResourceType::Topic, &topic), AclOperation::Write).await?;
    world
        .owner
        .batch_execute("INSERT INTO item VALUES (1, 1); SELECT sluice.emit('event', '1', payload => '{\"n\": 1}')")
        .await?;
    world.pass(&mut world.drainer()?).await?;
    world.is_whole().await?;
    let fault = "SELECT string_agg(problem, '; ') FROM sluice.stream_fault WHERE subscription = 'kafka'";
    let told = world.text(fault).await?;
    assert!(told.contains(&topic) && told.contains("may not be written to"), "{told}");
    allow(&world, forbidden).await?;
    world.owner.batch_execute("UPDATE sluice.target SET rests_until = NULL").await?;
    world.pass(&mut world.drainer()?).await?;
    assert_eq!(world.read("event").await?.len(), 1);
    assert_eq!((world.text(fault).await?, world.letters().await?), (String::new(), String::new()));
    Ok(())
}

#[tokio::test]
async fn a_transactional_id_that_may_not_be_used_is_waited_for() -> Result<()> {
    let world = World::with_item().await?;
    let name = database::subscriptions::drainer_name(&world.owner, "kafka").await?;
    assert!(name.starts_with("sluice-") && name.ends_with(&format!("-{}-kafka", world.database.name)), "{name}");
    let forbidden = forbid(&world, EVERYBODY, (AclResourceType::TransactionalId, &name), AclOperation::Write).await?;
    world.owner.batch_execute("INSERT INTO item VALUES (1, 1)").await?;
    let mut drainer = world.drainer()?;
    let told = loop {
        match world.step(&mut drainer).await {
            Ok(_) => assert!(world.is_pending().await?, "it was used"),
            Err(failure) => break failure.to_string(),
        }
    };
    assert!(told.contains("TransactionalIdAuthorizationFailed"), "{told}");
    allow(&world, forbidden).await?;
    world.pass(&mut drainer).await?;
    assert_eq!(world.letters().await?, "");
    world.is_whole().await
}

#[tokio::test]
async fn a_topic_that_may_not_be_made_or_looked_into_is_told_by_name() -> Result<()> {
    let world = World::create().await?;
    let brokers = localstack::variable("KAFKA_SASL_BROKERS");
    world.manager.put(KAFKA_SECRET, &secret("PLAIN", &localstack::variable("KAFKA_SASL_PASSWORD")));
    let connection = world.connection(&[("KAFKA_BROKERS", &brokers), ("KAFKA_SECRET_ARN", KAFKA_SECRET)])?;
    let topics = Topics::connect(&connection).await?;
    let user = format!("User:{}", localstack::variable("KAFKA_SASL_USER"));
    let name = world.topic("made");
    // Who may make any topic may make this one.
    let cluster = (AclResourceType::Cluster, "kafka-cluster");
    let forbidden = forbid(&world, &user, cluster, AclOperation::Create).await?;
    let also_forbidden = forbid(&world, &user, (AclResourceType::Topic, &name), AclOperation::Create).await?;
    let told = topics.ensure(&name, None, COMPACT).await.map_err(|error| error.to_string());
    allow(&world, forbidden).await?;
    allow(&world, also_forbidden).await?;
    let told = told.unwrap_err();
    assert!(told.contains(&name) && told.contains("CREATE"), "{told}");
    assert!(topics.ensure(&name, None, COMPACT).await?.is_made);
    let forbidden = forbid(&world, &user, (AclResourceType::Topic, &name), AclOperation::DescribeConfigs).await?;
    let told = topics.ensure(&name, None, COMPACT).await?.warning.unwrap_or_default();
    assert!(told.contains("may not be read"), "{told}");
    allow(&world, forbidden).await
}
