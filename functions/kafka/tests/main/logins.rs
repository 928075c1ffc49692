//! Who is let in.

use anyhow::{Context as _, Result};
use database::Postgres;
use drain::{Drain, Sink};
use kafka::KafkaSink;
use secrets::Secrets;
use serde_json::{Value, json};

use crate::world::{KAFKA_SECRET, World};

pub fn secret(mechanism: &str, password: &str) -> Value {
    let username = localstack::variable("KAFKA_SASL_USER");
    json!({"username": username, "password": password, "mechanism": mechanism, "tls": false})
}

#[tokio::test]
async fn each_mechanism_is_let_in_and_a_rotated_password_is_read_again() -> Result<()> {
    let mut world = World::with_item().await?;
    let brokers = localstack::variable("KAFKA_SASL_BROKERS");
    let right = localstack::variable("KAFKA_SASL_PASSWORD");
    let variables = [("KAFKA_BROKERS", brokers.as_str()), ("KAFKA_SECRET_ARN", KAFKA_SECRET)];
    for (n, mechanism) in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].into_iter().enumerate() {
        world.manager.put(KAFKA_SECRET, &secret(mechanism, "s3cret"));
        world.secrets = Secrets::new(world.manager.client());
        let mut drainer = world.drainer_into(KafkaSink::new(world.client(&variables)?))?;
        world.owner.execute("INSERT INTO item VALUES ($1)", &[&i32::try_from(n)?]).await?;
        let told = refused(&world, &mut drainer).await?;
        assert!(told.contains("KAFKA_SECRET_ARN") && !told.contains("s3cret"), "{mechanism}: {told}");
        world.manager.put(KAFKA_SECRET, &secret(mechanism, &right));
        world.pass(&mut drainer).await?;
        world.is_whole().await.context(mechanism)?;
        drainer.release().await;
    }
    Ok(())
}

/// With a login, in TLS.
#[tokio::test]
async fn a_broker_is_trusted_by_the_authority_of_its_secret_and_by_no_other() -> Result<()> {
    let mut world = World::with_item().await?;
    let brokers = localstack::variable("KAFKA_TLS_BROKERS");
    let authority = std::fs::read_to_string(localstack::variable("KAFKA_CA_FILE"))?;
    let right = localstack::variable("KAFKA_SASL_PASSWORD");
    let variables = [("KAFKA_BROKERS", brokers.as_str()), ("KAFKA_SECRET_ARN", KAFKA_SECRET)];
    for (n, mechanism) in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].into_iter().enumerate() {
        let mut secret = secret(mechanism, &right);
        secret["tls"] = true.into();
        world.owner.execute("INSERT INTO item VALUES ($1)", &[&i32::try_from(n)?]).await?;
        for ca in [None, Some(&authority)] {
            secret["ca"] = ca.map(String::as_str).into();
            world.manager.put(KAFKA_SECRET, &secret);
            world.secrets = Secrets::new(world.manager.client());
            let mut drainer = world.drainer_into(KafkaSink::new(world.client(&variables)?))?;
            if ca.is_none() {
                let told = refused(&world, &mut drainer).await?;
                assert!(!told.contains(&right), "{mechanism}: {told}");
            } else {
                world.pass(&mut drainer).await?;
                world.is_whole().await.context(mechanism)?;
            }
            drainer.release().await;
        }
    }
    Ok(())
}

/// Why a step is not done; one that has nothing to do before it is known that nobody is let in, passes nothing.
async fn refused<S: Sink>(world: &World, drainer: &mut Drain<Postgres, S>) -> Result<String> {
    loop {
        // Boxed: the compiler gives up on the layout of so deep a future.
        match Box::pin(world.step(drainer)).await {
            Ok(_) => assert!(world.is_pending().await?, "somebody was let in"),
            Err(failure) => return Ok(failure.to_string()),
        }
    }
}
