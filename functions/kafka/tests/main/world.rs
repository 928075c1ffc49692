use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use config::Env;
use database::{Postgres, streams};
use drain::{Drain, Drained, Expanded, FanOut, Sink};
use kafka::topics::{COMPACT, Topics};
use kafka::{Connection, KafkaSink, Krafka, Settings};
use krafka::ConsumerRecord;
use krafka::admin::{
    AdminClient, ConfigOp, ConfigResource, DeleteTopicsOptions, DescribeConfigsOptions, IncrementalAlterConfigsOptions,
    ListTopicsOptions,
};
use krafka::consumer::{AutoOffsetReset, IsolationLevel};
use localstack::{Database, PATIENCE, eventually};
use secrets::Secrets;
use secrets::fake::SecretsManager;
use serde_json::value::RawValue;
use telemetry::Trace;
use tokio::time::{Instant, sleep, timeout};

const SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:functions";
pub const KAFKA_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:kafka";

/// A stream `item`, of a table of that name.
pub const ITEM: &str = "
    CREATE TABLE item (id int PRIMARY KEY, n int, filler text);
    SELECT sluice.define_stream('item', source => 'public.item', key => 'id');
    SELECT sluice.track('item', stream => 'item', key => 'id')";

/// A database of PostgreSQL, and topics of its own: each has the stream's name behind the database's.
pub struct World {
    pub database: Database,
    pub owner: tokio_postgres::Client,
    pub manager: SecretsManager,
    pub secrets: Secrets,
    /// KAFKA_TRANSACTIONS.
    has_transactions: bool,
    kafka: krafka::Kafka,
}

/// Runs a test with transactions, and without them.
pub async fn both(test: impl AsyncFn(&World) -> Result<()>) -> Result<()> {
    for has_transactions in [true, false] {
        let world = World { has_transactions, ..World::create().await? };
        test(&world).await.with_context(|| format!("KAFKA_TRANSACTIONS={has_transactions}"))?;
    }
    Ok(())
}

impl World {
    pub async fn create() -> Result<Self> {
        secrets::install_crypto_provider();
        let database = Database::create().await?;
        let owner = database.owner().await?;
        owner.batch_execute("SELECT sluice.drop_stream('sluice_heartbeat')").await?;
        let manager = SecretsManager::start().await?;
        manager.put(SECRET, &database.secret("functions"));
        let kafka = krafka::Kafka::builder(localstack::variable("KAFKA_BROKERS")).connect().await?;
        Ok(Self { database, owner, secrets: Secrets::new(manager.client()), manager, has_transactions: true, kafka })
    }

    /// With the stream `item`, and its topic.
    pub async fn with_item() -> Result<Self> {
        let world = Self::create().await?;
        world.define_item().await?;
        Ok(world)
    }

    pub async fn define_item(&self) -> Result<()> {
        self.owner.batch_execute(ITEM).await?;
        self.deliver("item", "").await
    }

    pub fn topic(&self, stream: &str) -> String {
        format!("{}-{stream}", self.database.name)
    }

    /// Has the stream go to its topic, with more settings, and makes that, as migrate does.
    pub async fn deliver(&self, stream: &str, settings: &str) -> Result<()> {
        let settings = format!(r#"{{"topic": "{}", "partitions": 3{settings}}}"#, self.topic(stream));
        let deliver = "SELECT sluice.deliver($1, target => 'kafka', settings => $2::text::jsonb)";
        self.owner.execute(deliver, &[&stream, &settings]).await?;
        let topics = Topics::connect(&self.connection(&[])?).await?;
        for stream in streams::list_definitions(&self.owner, "kafka").await? {
            let topic = stream.mapping["topic"].as_str().context("a topic")?;
            let ensured = topics.ensure(topic, Some(3), COMPACT).await?;
            ensure!(ensured.warning.is_none(), "{ensured:?}");
            let set = "SELECT sluice.set_live('kafka', $1, $2, $3)";
            self.owner.execute(set, &[&stream.name, &topic, &stream.mapping]).await?;
        }
        Ok(())
    }

    pub fn connection(&self, variables: &[(&str, &str)]) -> Result<Connection> {
        let brokers = localstack::variable("KAFKA_BROKERS");
        let has_transactions = self.has_transactions.to_string();
        let mut all = HashMap::from([("KAFKA_BROKERS", &*brokers), ("KAFKA_TRANSACTIONS", &*has_transactions)]);
        all.extend(variables.iter().copied());
        let mut env = Env::from_pairs(all);
        let settings = Settings::from_env(&mut env);
        env.finish()?;
        Ok(Connection::new(settings, self.secrets.clone()))
    }

    pub fn client(&self, variables: &[(&str, &str)]) -> Result<Krafka> {
        Ok(Krafka::new(self.connection(variables)?, self.settings()?.1, self.secrets.clone()))
    }

    pub fn drainer(&self) -> Result<Drain<Postgres, KafkaSink<Krafka>>> {
        self.drainer_into(KafkaSink::new(self.client(&[])?))
    }

    pub fn drainer_into<S: Sink>(&self, sink: S) -> Result<Drain<Postgres, S>> {
        let (settings, database) = self.settings()?;
        Ok(Drain::new(&settings, Postgres::new(database, self.secrets.clone()), sink))
    }

    fn settings(&self) -> Result<(drain::Settings, database::Settings)> {
        let mut env = Env::from_pairs([("DATABASE_SECRET_ARN", SECRET), ("DATABASE_SSLMODE", "disable")]);
        let settings = (drain::Settings::from_env("kafka", &mut env), database::Settings::from_env(&mut env));
        env.finish()?;
        Ok(settings)
    }

    pub async fn step<S: Sink>(&self, drainer: &mut Drain<Postgres, S>) -> Result<bool, drain::Error> {
        step(drainer).await
    }

    pub async fn is_pending(&self) -> Result<bool> {
        Ok(self.owner.query_one("SELECT sluice.pending('kafka')", &[]).await?.get(0))
    }

    /// Until nothing is left but what rests.
    pub async fn pass<S: Sink>(&self, drainer: &mut Drain<Postgres, S>) -> Result<()> {
        let (settings, database) = self.settings()?;
        let mut fan_out = FanOut::new(&settings, Postgres::new(database, self.secrets.clone()));
        while fan_out.step(&mut Expanded::default()).await? {}
        while self.is_pending().await? {
            step(drainer).await?;
        }
        Ok(())
    }

    /// Ends the sessions of drainers, as PostgreSQL does with one that is frozen.
    pub async fn end_sessions(&self) -> Result<()> {
        let end = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sluice drain'";
        self.database.superuser().await?.execute(end, &[]).await?;
        Ok(())
    }

    /// All that a consumer of committed messages is given, of each partition in order, once no transaction is open: a commit is
    /// answered before Kafka has marked it in each partition.
    pub async fn read(&self, stream: &str) -> Result<Vec<ConsumerRecord>> {
        let topic = self.topic(stream);
        // Anew, since it does not find by itself that a broker was elected again.
        let kafka = krafka::Kafka::builder(localstack::variable("KAFKA_BROKERS")).connect().await?;
        let consumer = |isolation| {
            let builder = kafka.consumer_without_group().isolation_level(isolation);
            builder.auto_offset_reset(AutoOffsetReset::Earliest).build()
        };
        let everything = consumer(IsolationLevel::ReadUncommitted).await?;
        let consumer = consumer(IsolationLevel::ReadCommitted).await?;
        consumer.assign(&topic, vec![0, 1, 2]).await?;
        let read = async {
            let mut records = vec![];
            for partition in 0..3 {
                let end = everything.fetch_watermarks(&topic, partition).await?.1;
                while consumer.fetch_watermarks(&topic, partition).await?.1 < end {
                    sleep(Duration::from_millis(10)).await;
                }
                while consumer.position(&topic, partition).await.unwrap_or(0) < end {
                    records.extend(consumer.poll(Duration::from_millis(200)).await?);
                }
            }
            anyhow::Ok(records)
        };
        let records = timeout(PATIENCE, read).await.context("reading a topic to its end")??;
        consumer.close().await?;
        everything.close().await?;
        Ok(records)
    }

    /// What is left of a topic once it is compacted.
    pub async fn table(&self, stream: &str) -> Result<Table> {
        let mut table = Table::default();
        for record in self.read(stream).await? {
            let key = record.key_str().context("a key")?.to_owned();
            match record.value_str() {
                Some(value) => drop(table.0.insert(key, fields(value)?)),
                None => drop(table.0.remove(&key)),
            }
        }
        Ok(table)
    }

    /// What it should be: keys and documents, as the functions' own session prints them.
    pub async fn source(&self, query: &str) -> Result<Table> {
        let rows = self.database.functions().await?.query(query, &[]).await?;
        rows.iter().map(|row| Ok((row.get(0), fields(row.get(1))?))).collect::<Result<_>>().map(Table)
    }

    pub async fn items(&self) -> Result<Table> {
        self.source("SELECT id::text, to_json(i)::text FROM public.item AS i").await
    }

    /// The topic of `item` is what the source has.
    pub async fn is_whole(&self) -> Result<()> {
        self.table("item").await?.is(&self.items().await?)
    }

    pub fn admin(&self) -> AdminClient {
        self.kafka.admin()
    }

    /// Sets what a topic has by this name, and waits until the broker knows.
    pub async fn set_topic(&self, stream: &str, name: &str, value: &str) -> Result<()> {
        let topic = ConfigResource::topic(self.topic(stream));
        let change = (topic.clone(), vec![ConfigOp::set(name, value)]);
        let done = self.admin().incremental_alter_configs([change], IncrementalAlterConfigsOptions::default()).await?;
        done.into_values().collect::<Result<Vec<()>, _>>()?;
        eventually("the broker to know it", async || match self.find_setting(&topic, name).await {
            Ok(found) if found.as_deref() == Some(value) => Ok(()),
            other => Err(other),
        })
        .await;
        Ok(())
    }

    /// What a topic has by this name, once the broker knows the topic: it hears of it from the controller.
    pub async fn topic_setting(&self, topic: &ConfigResource, name: &str) -> Option<String> {
        eventually("the broker to know the topic", async || self.find_setting(topic, name).await).await
    }

    async fn find_setting(&self, topic: &ConfigResource, name: &str) -> Result<Option<String>> {
        let mut found = self.admin().describe_configs([topic.clone()], DescribeConfigsOptions::default()).await?;
        let settings = found.remove(topic).context("no answer")??;
        Ok(settings.into_iter().find(|entry| entry.name == name).and_then(|entry| entry.value))
    }

    pub async fn delete_topic(&self, stream: &str) -> Result<()> {
        let topic = self.topic(stream);
        let done = self.admin().delete_topics([topic.clone()], DeleteTopicsOptions::default()).await?;
        done.into_values().collect::<Result<Vec<()>, _>>()?;
        eventually("the topic's end", async || {
            let topics = self.admin().list_topics(ListTopicsOptions::default()).await;
            let topics = topics.map_err(|error| error.to_string())?;
            if topics.contains(&topic) { Err("it is there".to_owned()) } else { Ok(()) }
        })
        .await;
        Ok(())
    }

    pub async fn text(&self, query: &str) -> Result<String> {
        Ok(self.owner.query_one(query, &[]).await?.get::<_, Option<String>>(0).unwrap_or_default())
    }

    pub async fn letters(&self) -> Result<String> {
        let query = "SELECT string_agg(format('%s %s %s', stream, key, error_type), '; ' ORDER BY stream, key) FROM sluice.dead_letter";
        self.text(query).await
    }
}

pub async fn step<S: Sink>(drainer: &mut Drain<Postgres, S>) -> Result<bool, drain::Error> {
    let until = Instant::now() + Duration::from_mins(1);
    drainer.step(&Trace::of_invocation(None), until, &mut Drained::default()).await
}

/// Of each key, the fields of its document in the order of their names, with all digits.
#[derive(Debug, Default)]
pub struct Table(pub BTreeMap<String, String>);

impl Table {
    /// Whether it is the same, without telling all of it.
    pub fn is(&self, other: &Self) -> Result<()> {
        let short = |text: Option<&String>| text.map(|text| text.chars().take(100).collect::<String>());
        let different: Vec<_> = self
            .0
            .keys()
            .chain(other.0.keys())
            .filter(|key| self.0.get(*key) != other.0.get(*key))
            .map(|key| (short(Some(key)), short(self.0.get(key)), short(other.0.get(key))))
            .take(5)
            .collect();
        ensure!(different.is_empty(), "keys, what there is, what there should be: {different:?}");
        Ok(())
    }
}

pub fn fields(document: &str) -> Result<String> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(document)?;
    Ok(serde_json::to_string(&fields)?)
}

/// The version of each message of a key is higher than the one before it.
pub fn versions_never_fall(records: &[ConsumerRecord]) {
    let mut last: HashMap<&str, &str> = HashMap::new();
    for record in records {
        let (Some(key), Some(version)) = (record.key_str(), record.header_str("ce_sequence")) else {
            panic!("without a key or a version: {record:?}");
        };
        let before = last.insert(key, version);
        assert!(before.is_none_or(|before| before < version), "{key}: {version} after {before:?}");
    }
}
