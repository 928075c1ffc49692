//! Who is let in.

use anyhow::{Context as _, Result};
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
        let told = loop {
            match world.step(&mut drainer).await {
                Ok(_) => assert!(world.is_pending().await?, "{mechanism}: a wrong password was let in"),
                Err(failure) => break failure.to_string(),
            }
        };
        assert!(told.contains("KAFKA_SECRET_ARN") && !told.contains("s3cret"), "{mechanism}: {told}");
        world.manager.put(KAFKA_SECRET, &secret(mechanism, &right));
        world.pass(&mut drainer).await?;
        world.is_whole().await.context(mechanism)?;
        drainer.release().await;
    }
    Ok(())
}
