//! `sluice check`: all that would be in the way, before anything runs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::SdkConfig;
use database::streams::{self, Definition};
use database::{REQUIRED_SCHEMA, schema};
use queue::{Queue as _, Sqs};
use search::{Aliases, Connection, Deadline, Elastic, Outcome, privileges};
use secrets::Secrets;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::environment::Environment;
use crate::plan::{Plan, Planned};
use crate::{Ended, run, say};

/// What `pg_stat_activity` shows.
const APPLICATION_NAME: &str = "sluice check";
/// Signatures for AWS are refused that are five minutes off, and certificates by the day.
const CLOCK_MS: i64 = 60_000;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Default)]
struct Findings {
    wrong: usize,
}

impl Findings {
    fn good(&self, what: &str) {
        say(&format!("ok     {what}"));
    }

    fn wrong(&mut self, what: &str) {
        self.wrong += 1;
        say(&format!("wrong  {what}"));
    }

    /// What it came to, or why it did not.
    fn note<T>(&mut self, asked: Result<T, impl ToString>) -> Option<T> {
        asked.map_err(|error| self.wrong(&error.to_string())).ok()
    }
}

/// Looks at everything that the configuration names, and changes nothing. A line for each thing; what is wrong says what to do.
pub async fn check(environment: &Environment) -> Ended {
    let plan = match Plan::of(environment, &[]) {
        Ok(plan) => plan,
        Err(problems) => return Ended::Wrong(problems),
    };
    let mut findings = Findings::default();
    findings.good("the configuration");
    let (aws, secrets) = run::clients(environment).await;
    let database = check_database(environment, &plan, &secrets, &mut findings).await;
    check_elasticsearch(&plan, &secrets, database.as_ref(), &mut findings).await;
    for part in &plan.parts {
        check_target(part, &aws, &secrets, &mut findings).await;
    }
    if findings.wrong == 0 { Ended::Well } else { Ended::Badly }
}

/// As the functions see it, and as its owner does. A session, if the schema is as it should be.
async fn check_database(
    environment: &Environment,
    plan: &Plan,
    secrets: &Secrets,
    findings: &mut Findings,
) -> Option<Client> {
    if environment.has("MIGRATE_DATABASE_SECRET_ARN")
        && let Some(config) = findings.note(migrate::Config::from_env(environment.owners()))
        && let Some(_) = findings.note(database::connect_unchecked(&config.database, secrets, APPLICATION_NAME).await)
    {
        findings.good("PostgreSQL lets the owner in");
    }
    let client = findings.note(database::connect(&plan.admin.database, secrets, APPLICATION_NAME).await)?;
    findings.good("PostgreSQL lets the functions in");
    if let Err(error) = check_schema(&client, findings).await {
        findings.wrong(&format!("PostgreSQL: {}", database::describe(&error)));
    }
    Some(client)
}

async fn check_schema(client: &Client, findings: &mut Findings) -> Result<(), tokio_postgres::Error> {
    let found = schema::read_version(client).await?;
    let are_functions_ours = schema::is_applied(client, 0, &migrate::schema::functions()).await?;
    if found > REQUIRED_SCHEMA {
        findings.wrong(&format!(
            "the schema sluice has version {found}, and this sluice was made for {REQUIRED_SCHEMA}: it serves, but nothing new \
             is used; run the sluice that migrated it"
        ));
    } else if are_functions_ours {
        findings.good("the schema is of this version");
    } else {
        findings.wrong(
            "the schema's functions are of another version of sluice: run migrate, or the sluice that migrated it",
        );
    }
    let (clock_ms, ahead_ms) = schema::read_clock(client).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let off_ms = i64::try_from(now).unwrap_or(i64::MAX) - clock_ms;
    if off_ms.abs() > CLOCK_MS {
        findings.wrong(&format!(
            "the clock of this machine and that of PostgreSQL are {} s apart: set them by NTP; latencies are wrong, and \
             certificates or signatures may be refused",
            off_ms.abs() / 1000
        ));
    } else if ahead_ms > CLOCK_MS {
        findings.wrong(&format!(
            "the clock of PostgreSQL was set back: versions were given for {} s to come; they go on from there, which is safe, \
             but set it by NTP",
            ahead_ms / 1000
        ));
    } else {
        findings.good("the clocks agree");
    }
    let problems = streams::list_problems(client).await?;
    for problem in &problems {
        findings.wrong(&format!("stream {} for {}: {}", problem.stream, problem.subscription, problem.reason));
    }
    if problems.is_empty() {
        findings.good("each stream can be read, and its changes are noted");
    }
    Ok(())
}

/// Whether it answers, what may be done there, and whether names of ours are taken.
async fn check_elasticsearch(plan: &Plan, secrets: &Secrets, database: Option<&Client>, findings: &mut Findings) {
    let settings = &plan.admin.search;
    let Some(client) = findings.note(search::connect(settings, secrets).await) else { return };
    findings.good("Elasticsearch lets us in");
    let Some(database) = database else { return };
    let listed = streams::list_definitions(database, database::subscriptions::ELASTICSEARCH).await;
    let Some(definitions) = findings.note(listed.map_err(|error| database::describe(&error))) else { return };
    let prefix = &settings.index_prefix;
    let aliases: Vec<(&Definition, String)> =
        definitions.iter().map(|definition| (definition, search::names::alias(prefix, &definition.name))).collect();
    let patterns = |alias: &String| [alias.clone(), format!("{alias}-*"), format!("{alias}.g*")];
    let names: Vec<String> = aliases.iter().flat_map(|(_, alias)| patterns(alias)).collect();
    match privileges::list_missing(&client, &names).await {
        Ok(None) => findings.good("it is OpenSearch, which does not tell what our credentials may do"),
        Ok(Some(missing)) if missing.is_empty() => findings.good("Elasticsearch grants all that is needed"),
        Ok(Some(missing)) => findings.wrong(&format!(
            "Elasticsearch does not grant {}: add these privileges to the role of the credentials",
            missing.join(", ")
        )),
        Err(error) => findings.wrong(&format!("Elasticsearch: {}", search::describe(&error))),
    }
    let cluster = Elastic::new(Connection::new(settings.clone(), secrets.clone()));
    let known = Aliases::new(prefix.clone());
    let before = findings.wrong;
    for (Definition { name: stream, generation, .. }, alias) in &aliases {
        let deadline = Deadline::at(Instant::now() + REQUEST_TIMEOUT);
        match known.of(stream, *generation, &cluster, deadline).await {
            Ok(_) => {}
            // It is still to be made, or somebody has taken its name.
            Err(Outcome::NoIndex(_) | Outcome::NoStream) => {
                if is_taken(&client, alias).await {
                    findings.wrong(&format!(
                        "stream {stream}: there is an index {alias} that Sluice did not make; rename it, or set INDEX_PREFIX"
                    ));
                }
            }
            Err(
                Outcome::Retry(reason)
                | Outcome::Configuration(reason)
                | Outcome::Permanent(reason)
                | Outcome::Unread(reason),
            ) => {
                findings.wrong(&format!("stream {stream}: {}", reason.text));
            }
            Err(Outcome::Done(..)) => {}
        }
    }
    if findings.wrong == before {
        findings.good("no index of somebody else has a name of ours");
    }
}

async fn is_taken(client: &search::Client, alias: &str) -> bool {
    let asked = client.head([alias]).timeout(REQUEST_TIMEOUT).send().await;
    asked.is_ok_and(|answer| answer.status_code().is_success())
}

async fn check_target(part: &Planned, aws: &SdkConfig, secrets: &Secrets, findings: &mut Findings) {
    match part {
        Planned::Clickhouse(config) => {
            let connection = sluice_clickhouse::Connection::new(config.clickhouse.clone(), secrets.clone());
            if findings.note(connection.probe().await).is_some() {
                findings.good("ClickHouse lets us in");
            }
        }
        Planned::Kafka(config) => {
            let connection = kafka::Connection::new(config.kafka.clone(), secrets.clone());
            if findings.note(connection.probe().await).is_some() {
                findings.good("Kafka lets us in");
            }
        }
        Planned::Indexer(config, _) => {
            let queues = [&config.settings.queue_url, &config.settings.dead_letter_queue_url];
            for url in queues {
                let queue = Sqs::new(aws_sdk_sqs::Client::new(aws), url.as_str());
                if findings.note(queue.depth().await).is_some() {
                    findings.good(&format!("SQS has the queue {url}"));
                }
            }
        }
        Planned::Elasticsearch(_)
        | Planned::Trigger(_)
        | Planned::Sync(..)
        | Planned::Validate(_)
        | Planned::Ingest(_)
        | Planned::Admin(_) => {}
    }
}
