//! The topics of streams that go to Kafka.

use config::Env;
use migrate::{Command, Error};

use crate::fixture::Fixture;

/// With Kafka, and names that nobody else has.
async fn fixture() -> Fixture {
    let mut fixture = Fixture::with_streams().await;
    let mut env = Env::from_pairs([("KAFKA_BROKERS", localstack::variable("KAFKA_BROKERS"))]);
    fixture.config.kafka = kafka::Settings::from_env_if_any(&mut env);
    env.finish().unwrap();
    fixture.run(Command::Migrate).await.unwrap();
    fixture
}

impl Fixture {
    async fn deliver(&self, stream: &str, topic: &str, more: &str) {
        let settings = format!(r#"{{"topic": "{topic}"{more}}}"#);
        let deliver = "SELECT sluice.deliver($1, target => 'kafka', settings => $2::text::jsonb)";
        self.owner.execute(deliver, &[&stream, &settings]).await.unwrap();
    }
}

#[tokio::test]
async fn a_topic_is_made_once_and_a_stream_that_fails_holds_no_other_up() {
    let fixture = fixture().await;
    let name = &fixture.database.name;
    fixture.deliver("countries", &format!("{name}.countries"), r#", "partitions": 2"#).await;
    let made = format!("stream countries: made the topic {name}.countries in Kafka");
    assert_eq!(fixture.run(Command::Migrate).await.unwrap(), [made]);

    // Kafka takes a dot and an underscore for the same.
    fixture.deliver("cities", &format!("{name}_countries"), "").await;
    fixture.deliver("countries", &format!("{name}.countries"), r#", "envelope": "debezium", "partitions": 3"#).await;
    let (result, lines) = fixture.run_told(Command::Migrate).await;
    let failed = result.unwrap_err();
    assert!(
        matches!(failed, Error::Streams(_)) && failed.to_string().starts_with("stream cities: the topic"),
        "{failed}"
    );
    let [warning, goes_on] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(warning.contains("2 partitions, not 3"), "{warning}");
    assert_eq!(*goes_on, format!("stream countries: goes on with the topic {name}.countries in Kafka"));
    let live = "SELECT count(*) FROM sluice.target WHERE subscription = 'kafka' AND live_mapping = mapping";
    assert_eq!(fixture.owner.query_one(live, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn without_an_address_migrate_says_that_changes_wait() {
    let fixture = Fixture::with_streams().await;
    fixture.deliver("countries", "countries", "").await;
    let lines = fixture.run(Command::Migrate).await.unwrap().join("\n");
    assert!(lines.contains("KAFKA_BROKERS is missing"), "{lines}");
}
