//! Which parts run, each with its configuration; or all that is wrong with it.

use std::net::SocketAddr;

use config::{Env, Error};

use crate::arguments::Part;
use crate::direct;
use crate::environment::Environment;

/// What one process is to do.
#[derive(Debug)]
pub struct Plan {
    pub parts: Vec<Planned>,
    /// Its metrics are served, whichever parts run.
    pub admin: admin::Config,
    /// HEALTH_ADDRESS: where `/live`, `/ready` and `/metrics` are.
    pub health_address: SocketAddr,
}

/// A part with its configuration.
#[derive(Debug)]
pub enum Planned {
    Elasticsearch(direct::Config),
    Trigger(trigger::Config),
    /// INDEXER_BATCHES: how many batches are written at once.
    Indexer(indexer::Config, usize),
    Clickhouse(sluice_clickhouse::Config),
    Kafka(kafka::Config),
    /// SYNC_ADDRESS: where clients ask.
    Sync(sluice_sync::Config, SocketAddr),
    Validate(validate::Config),
    Ingest(ingest::Config),
    /// ADMIN_ADDRESS: where the dashboard and the API are.
    Admin(SocketAddr),
}

const ALL: [Part; 9] = [
    Part::Elasticsearch,
    Part::Trigger,
    Part::Indexer,
    Part::Clickhouse,
    Part::Kafka,
    Part::Sync,
    Part::Validate,
    Part::Ingest,
    Part::Admin,
];

impl Plan {
    /// Of these parts, or of all that are configured.
    ///
    /// # Errors
    /// Everything that is missing or malformed, by name.
    pub fn of(environment: &Environment, wanted: &[Part]) -> Result<Self, Vec<String>> {
        let is_queued = environment.has("QUEUE_URL");
        let is_configured = |part: &Part| match part {
            Part::Elasticsearch => !is_queued,
            Part::Trigger | Part::Indexer => is_queued,
            Part::Clickhouse => environment.has("CLICKHOUSE_SECRET_ARN"),
            Part::Kafka => environment.has("KAFKA_BROKERS"),
            Part::Sync => environment.has("SYNC_ISSUER"),
            Part::Validate => true,
            Part::Ingest => environment.has("ORIGIN_URL"),
            Part::Admin => environment.has("ADMIN_SECRET_ARN"),
        };
        let mut wrong = Problems::default();
        if is_queued && wanted.contains(&Part::Elasticsearch) {
            wrong.0.push("QUEUE_URL is set, so Elasticsearch is written by way of the queue: run trigger and indexer, or take it away".to_owned());
        }
        let mut own = environment.env();
        let health_address = address(&mut own, "HEALTH_ADDRESS", SocketAddr::from(([0, 0, 0, 0], 8080)));
        let admin_address = address(&mut own, "ADMIN_ADDRESS", SocketAddr::from(([127, 0, 0, 1], 8081)));
        let sync_address = address(&mut own, "SYNC_ADDRESS", SocketAddr::from(([127, 0, 0, 1], 8082)));
        let batches = own.parsed("INDEXER_BATCHES", 4, "a number of batches from 1 to 64", |n| (1..=64).contains(n));
        wrong.note(own.finish());

        let planned = |part: Part, wrong: &mut Problems| match part {
            Part::Elasticsearch => wrong.note(direct::Config::from_env(environment.env())).map(Planned::Elasticsearch),
            Part::Trigger => wrong.note(trigger::Config::from_env(environment.env())).map(Planned::Trigger),
            Part::Indexer => {
                wrong.note(indexer::Config::from_env(environment.env())).map(|config| Planned::Indexer(config, batches))
            }
            Part::Clickhouse => {
                wrong.note(sluice_clickhouse::Config::from_env(environment.env())).map(Planned::Clickhouse)
            }
            Part::Kafka => wrong.note(kafka::Config::from_env(environment.env())).map(Planned::Kafka),
            Part::Sync => wrong
                .note(sluice_sync::Config::from_env(environment.env()))
                .map(|config| Planned::Sync(config, sync_address)),
            Part::Validate => wrong.note(validate::Config::from_env(environment.env())).map(Planned::Validate),
            Part::Ingest => wrong.note(ingest::Config::from_env(environment.env())).map(Planned::Ingest),
            Part::Admin => {
                if !environment.has("ADMIN_SECRET_ARN") {
                    wrong.0.push("ADMIN_SECRET_ARN is missing".to_owned());
                }
                Some(Planned::Admin(admin_address))
            }
        };
        let chosen: Vec<Part> = match wanted {
            [] => ALL.into_iter().filter(is_configured).collect(),
            wanted => wanted.to_vec(),
        };
        let parts: Vec<Planned> = chosen.into_iter().filter_map(|part| planned(part, &mut wrong)).collect();
        let admin = wrong.note(admin::Config::from_env(environment.with_tokens()));
        let problems = environment.problems(wrong.0);
        match admin {
            Some(admin) if problems.is_empty() => Ok(Self { parts, admin, health_address }),
            _ => Err(problems),
        }
    }
}

/// What is wrong so far.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn note<T>(&mut self, read: Result<T, Error>) -> Option<T> {
        read.map_err(|error| self.0.extend(error.problems)).ok()
    }
}

fn address(env: &mut Env, name: &str, default: SocketAddr) -> SocketAddr {
    env.parsed(name, default, "an address and a port, as in 0.0.0.0:8080", |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [(&str, &str); 2] =
        [("DATABASE_URL", "postgres://app@host/db"), ("ELASTICSEARCH_URL", "http://host:9200")];

    fn names(more: &[(&str, &str)], wanted: &[Part]) -> Vec<String> {
        let pairs: Vec<(&str, &str)> = NEEDED.iter().chain(more).copied().collect();
        let plan = Plan::of(&Environment::of(&pairs), wanted).unwrap();
        let name = |part: &Planned| format!("{part:?}").split('(').next().unwrap().to_owned();
        plan.parts.iter().map(name).collect()
    }

    #[test]
    fn what_is_configured_runs_and_a_queue_decides_how() {
        assert_eq!(names(&[], &[]), ["Elasticsearch", "Validate"]);
        let queues = [("QUEUE_URL", "http://queue"), ("DEAD_LETTER_QUEUE_URL", "http://letters")];
        assert_eq!(names(&queues, &[]), ["Trigger", "Indexer", "Validate"]);
        assert_eq!(names(&queues, &[Part::Indexer]), ["Indexer"]);
        let targets = [
            ("CLICKHOUSE_URL", "http://host:8123"),
            ("KAFKA_BROKERS", "host:9092"),
            ("SYNC_ISSUER", "https://issuer.example.com/"),
            ("SYNC_AUDIENCE", "app"),
            ("ORIGIN_URL", "https://origin.example.com/"),
            ("ADMIN_TOKEN", "an operator's token"),
        ];
        assert_eq!(
            names(&targets, &[]),
            ["Elasticsearch", "Clickhouse", "Kafka", "Sync", "Validate", "Ingest", "Admin"]
        );
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_and_once() {
        let wrong = [("HEALTH_ADDRESS", "8080"), ("PAGE_SIZE", "0"), ("INDEXER_BATCHES", "0")];
        let told = Plan::of(&Environment::of(&wrong), &[]).unwrap_err();
        for name in [
            "DATABASE_URL is missing",
            "ELASTICSEARCH_URL is missing",
            "HEALTH_ADDRESS",
            "PAGE_SIZE",
            "INDEXER_BATCHES",
        ] {
            assert_eq!(told.iter().filter(|problem| problem.contains(name)).count(), 1, "{name} in {told:?}");
        }
    }

    #[test]
    fn a_queue_and_a_direct_target_are_not_taken_together() {
        let pairs = [("QUEUE_URL", "http://queue"), ("DEAD_LETTER_QUEUE_URL", "http://letters")];
        let pairs: Vec<(&str, &str)> = NEEDED.iter().chain(&pairs).copied().collect();
        let told = Plan::of(&Environment::of(&pairs), &[Part::Elasticsearch]).unwrap_err().join("\n");
        assert!(told.contains("QUEUE_URL is set"), "{told}");
    }
}
