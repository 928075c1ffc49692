//! The pipeline under a load, with one fault at a time.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::fs;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use aws_sdk_lambda::types::{Environment, InvocationType};
use aws_sdk_sqs::types::QueueAttributeName::{
    ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible, VisibilityTimeout,
};
use futures_util::FutureExt;
use localstack::{
    Proxy, Run, Service, elasticsearch_secret, eventually, parameter, rewrite_sluice_file, sluice_file, variable,
};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::load::{Load, PAUSE, TABLES};
use crate::stack::{Stack, attribute, aws, superuser};

/// The servers are everybody's.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How long a message of a function that was killed, or that could not give it back, stays away. The template's six
/// minutes would be the test's length.
const VISIBILITY_SECONDS: &str = "10";
/// Messages of the one batch that is always under way, and a few more.
const ALWAYS_UNDER_WAY: i64 = 20;

/// The pipeline, with two streams of the test's own.
pub struct Pipeline {
    /// Clients, and the test's schema.
    pub stack: Stack,
    /// Repeats what is random.
    pub seed: u64,
    lambda: aws_sdk_lambda::Client,
    secrets: aws_sdk_secretsmanager::Client,
    /// What is to be put back: secrets by their names, and environments by the name of the function.
    secret_before: HashMap<String, String>,
    environment_before: HashMap<String, HashMap<String, String>>,
    /// Of the one process, where there are no functions.
    variables_before: Option<String>,
    visibility_before: String,
}

/// Runs a test alone with the stack. `name` is the test's schema. Whatever comes of the test, all that it stopped or
/// changed is as it was before.
pub async fn alone(name: &str, test: impl AsyncFnOnce(&mut Pipeline) -> Result<()>) -> Result<()> {
    let _turn = ALONE.lock().await;
    let mut pipeline = Pipeline::connect(name).await?;
    let outcome = AssertUnwindSafe(test(&mut pipeline)).catch_unwind().await;
    let restored = pipeline.restore().await;
    let seed = pipeline.seed;
    outcome.unwrap_or_else(|panic| resume_unwind(panic)).with_context(|| format!("repeat with SEED={seed}"))?;
    restored.context("putting the stack back")
}

/// A fault that is felt goes on for as long as this variable says. It says so in a soak alone.
pub async fn lasts(variable_name: &str) {
    if let Some(seconds) = parameter(variable_name) {
        sleep(Duration::from_secs(seconds)).await;
    }
}

/// A line of progress.
fn say(name: &str, words: &str) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    eprintln!("{:02}:{:02} {name:<16} {words}", seconds / 60 % 60, seconds % 60);
}

impl Pipeline {
    async fn connect(name: &str) -> Result<Self> {
        let stack = Stack::connect(name).await?;
        stack.execute(&TABLES.replace("$.", &format!("{name}.")).replace("$_", &format!("{name}_"))).await?;
        stack.migrate().await?;
        let aws = aws(stack.run).await;
        let seed = parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
        say(name, &format!("SEED={seed}"));
        let mut pipeline = Self {
            stack,
            seed,
            lambda: aws_sdk_lambda::Client::new(&aws),
            secrets: aws_sdk_secretsmanager::Client::new(&aws),
            secret_before: HashMap::new(),
            environment_before: HashMap::new(),
            variables_before: None,
            visibility_before: String::new(),
        };
        if pipeline.stack.run.has_queue() {
            pipeline.visibility_before = pipeline.queue(&[VisibilityTimeout]).await?.remove(0);
            pipeline.set_visibility(VISIBILITY_SECONDS).await?;
        }
        // Of an earlier run.
        pipeline.letters().await?;
        Ok(pipeline)
    }

    /// Tells how far the test is.
    pub fn say(&self, words: &str) {
        say(&self.stack.schema, words);
    }

    /// Begins the load.
    pub async fn load(&self) -> Result<Load> {
        self.load_with(PAUSE).await
    }

    /// The same with another pause between two statements of a writer.
    pub async fn load_with(&self, pause: Duration) -> Result<Load> {
        let load = Load::start(&self.stack.schema, self.seed, pause).await?;
        load.goes_on(100).await;
        Ok(load)
    }

    /// Ends the load: when all has come to rest, index and source are equal, and there is no dead letter.
    pub async fn converges(&self, load: Load) -> Result<()> {
        let changes = load.stop().await?;
        self.say("the load has ended");
        self.is_converged().await?;
        self.say(&format!("converged after {changes} changes"));
        Ok(())
    }

    /// The same without a load.
    pub async fn is_converged(&self) -> Result<()> {
        let schema = &self.stack.schema;
        let streams = [
            (format!("{schema}_item"), "SELECT id::text FROM item"),
            (format!("{schema}_project"), "SELECT id::text FROM project"),
        ];
        self.comes_to_rest().await;
        for (stream, keys) in &streams {
            self.stack.converges(stream, keys).await?;
        }
        let letters = self.letters().await?;
        ensure!(letters.is_empty(), "dead letters: {letters:?}");
        Ok(())
    }

    /// Waits until nothing is in the log or in the queue; second looks may be on their way.
    pub async fn comes_to_rest(&self) {
        eventually("log and queue to be empty", async || {
            let has_changes = self.stack.has_changes_in_the_log().await.map_err(|error| format!("{error:#}"))?;
            let messages = self.messages().await.map_err(|error| format!("{error:#}"))?;
            if !has_changes && messages == 0 {
                return Ok(());
            }
            Err(format!("the log has changes: {has_changes}; messages visible or in flight: {messages}"))
        })
        .await;
    }

    /// Waits until messages are in the queue that could not be delivered, or changes wait in the log, so that the fault is felt.
    pub async fn is_felt(&self) {
        eventually("the fault to be felt", async || {
            let is_felt = if self.stack.run.has_queue() {
                self.messages().await.map(|messages| messages > ALWAYS_UNDER_WAY)
            } else {
                self.has_changes_that_wait().await
            };
            if is_felt.map_err(|error| format!("{error:#}"))? { Ok(()) } else { Err("all is delivered".to_owned()) }
        })
        .await;
    }

    /// Messages in the queue, visible or in flight; none where there is no queue.
    async fn messages(&self) -> Result<i64> {
        if !self.stack.run.has_queue() {
            return Ok(0);
        }
        let counts = self.queue(&[ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible]).await?;
        Ok(counts.iter().filter_map(|count| count.parse::<i64>().ok()).sum())
    }

    /// Whether changes were set aside, or the oldest waits for longer than on a machine that is busy with other things.
    async fn has_changes_that_wait(&self) -> Result<bool> {
        let query = "SELECT EXISTS (SELECT FROM sluice.stream_status() WHERE waiting > 0) OR EXISTS (
             SELECT FROM sluice.status() WHERE subscription = 'elasticsearch' AND oldest_pending_age > '10 seconds')";
        Ok(self.stack.owner.query_one(query, &[]).await?.get(0))
    }

    /// Kills a function's processes, or the one process; the next one begins.
    pub async fn kill(&self, service: Service) -> Result<()> {
        service.signal("KILL")?;
        // The indexer's next message begins it.
        if service == Service::Indexer && self.stack.run == Run::Functions { Ok(()) } else { self.tick().await }
    }

    /// The next minute's invocation of the trigger, at once; or the one process, if it is away.
    pub async fn tick(&self) -> Result<()> {
        if self.stack.run != Run::Functions {
            return Service::Sluice.start();
        }
        let request = self.lambda.invoke().function_name(variable("TRIGGER_FUNCTION"));
        request.invocation_type(InvocationType::Event).send().await?;
        Ok(())
    }

    /// Lets whoever writes to Elasticsearch reach it by a proxy.
    pub async fn elasticsearch_by_proxy(&mut self) -> Result<Proxy> {
        let mut secret = elasticsearch_secret()?;
        let url = url::Url::parse(secret["url"].as_str().unwrap_or_default())?;
        let proxy = Proxy::start(&format!("127.0.0.1:{}", url.port_or_known_default().unwrap_or(9200))).await?;
        secret["url"] = Value::from(format!("http://{}", proxy.address));
        self.put_secret("ELASTICSEARCH", &secret.to_string()).await?;
        self.restart_indexer().await?;
        Ok(proxy)
    }

    /// A process that has not read the secret yet, when nothing is in the hands of the old one.
    pub async fn restart_indexer(&self) -> Result<()> {
        self.comes_to_rest().await;
        self.kill(Service::Indexer).await
    }

    /// The secret of DATABASE, or of ELASTICSEARCH.
    pub async fn secret(&self, name: &str) -> Result<String> {
        if self.stack.run != Run::Functions {
            return Ok(fs::read_to_string(sluice_file(&secret_file(name)))?);
        }
        let answer = self.secrets.get_secret_value().secret_id(secret_arn(name)).send().await?;
        answer.secret_string.context("a secret has a value")
    }

    /// Puts another value into it, until the test is over.
    pub async fn put_secret(&mut self, name: &str, value: &str) -> Result<()> {
        if !self.secret_before.contains_key(name) {
            self.secret_before.insert(name.to_owned(), self.secret(name).await?);
        }
        self.write_secret(name, value).await
    }

    async fn write_secret(&self, name: &str, value: &str) -> Result<()> {
        if self.stack.run != Run::Functions {
            return rewrite_sluice_file(&secret_file(name), value);
        }
        self.secrets.put_secret_value().secret_id(secret_arn(name)).secret_string(value).send().await?;
        Ok(())
    }

    /// Gives the function whose name is in this variable, or the one process, another setting, until the test is over.
    pub async fn configure(&mut self, function: &str, name: &str, value: impl Display) -> Result<()> {
        if self.stack.run != Run::Functions {
            let before = fs::read_to_string(sluice_file("variables"))?;
            self.comes_to_rest().await;
            // The first line of a name counts.
            rewrite_sluice_file("variables", &format!("{name}='{value}'\n{before}"))?;
            self.variables_before.get_or_insert(before);
            return self.restart().await;
        }
        let request = self.lambda.get_function_configuration().function_name(variable(function));
        let before = request.send().await?.environment.and_then(|found| found.variables).unwrap_or_default();
        let mut now = before.clone();
        now.insert(name.to_owned(), value.to_string());
        self.environment_before.entry(function.to_owned()).or_insert(before);
        self.comes_to_rest().await;
        self.write_environment(function, now).await?;
        // One of before may drain on for a minute.
        self.kill(Service::Trigger).await
    }

    /// The one process anew, with what its files say now.
    async fn restart(&self) -> Result<()> {
        Service::Sluice.signal("TERM")?;
        self.tick().await
    }

    async fn write_environment(&self, function: &str, variables: HashMap<String, String>) -> Result<()> {
        let request = self.lambda.update_function_configuration().function_name(variable(function));
        request.environment(Environment::builder().set_variables(Some(variables)).build()).send().await?;
        eventually("the function's new configuration", async || {
            let request = self.lambda.get_function_configuration().function_name(variable(function));
            let found = request.send().await.map_err(|error| format!("{error:?}"))?;
            let status = found.last_update_status.map(|status| status.as_str().to_owned());
            if status.as_deref() == Some("Successful") { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        Ok(())
    }

    /// Attributes of the queue, in this order.
    async fn queue(&self, names: &[aws_sdk_sqs::types::QueueAttributeName]) -> Result<Vec<String>> {
        let request = self.stack.sqs.get_queue_attributes().queue_url(variable("QUEUE_URL"));
        let found = request.set_attribute_names(Some(names.to_vec())).send().await?.attributes.unwrap_or_default();
        Ok(names.iter().map(|name| found.get(name).cloned().unwrap_or_default()).collect())
    }

    async fn set_visibility(&self, seconds: &str) -> Result<()> {
        let request = self.stack.sqs.set_queue_attributes().queue_url(variable("QUEUE_URL"));
        request.attributes(VisibilityTimeout, seconds).send().await?;
        Ok(())
    }

    /// Takes all dead letters of the test's streams out.
    pub async fn discard_letters(&self) -> Result<()> {
        self.letters().await.map(drop)
    }

    /// All dead letters of the test's streams, which are taken out: their keys and reasons.
    async fn letters(&self) -> Result<Vec<String>> {
        let (mut found, mut seen) = (vec![], BTreeSet::new());
        loop {
            // In the queue, those of others come back when this is over.
            let letters = self.stack.look_for_letters(30).await?;
            let known = seen.len();
            seen.extend(letters.iter().map(|letter| letter.message_id.clone()));
            if seen.len() == known {
                return Ok(found);
            }
            for letter in letters.iter().filter(|letter| attribute(letter, "stream").starts_with(&self.stack.schema)) {
                found.push(format!("{}: {}", attribute(letter, "key"), attribute(letter, "reason")));
                self.stack.take_out(letter).await?;
            }
        }
    }

    /// All servers run, and secrets, passwords and settings are the stack's own.
    async fn restore(&mut self) -> Result<()> {
        if self.stack.run.has_queue() {
            Service::LocalStack.signal("CONT")?;
        }
        Service::Elasticsearch.start()?;
        for (variable_name, target) in [("CLICKHOUSE_URL", Service::Clickhouse), ("KAFKA_BROKERS", Service::Kafka)] {
            if parameter::<String>(variable_name).is_some() {
                target.start()?;
            }
        }
        // This gives the roles their passwords again.
        Service::Postgres.start()?;
        let (secrets, environments) =
            (std::mem::take(&mut self.secret_before), std::mem::take(&mut self.environment_before));
        for (name, value) in &secrets {
            self.write_secret(name, value).await?;
        }
        for (function, variables) in &environments {
            self.write_environment(function, variables.clone()).await?;
        }
        let variables = self.variables_before.take();
        if let Some(variables) = &variables {
            rewrite_sluice_file("variables", variables)?;
        }
        if !secrets.is_empty() || !environments.is_empty() || variables.is_some() {
            for function in [Service::Indexer, Service::Trigger, Service::Validate] {
                function.signal("KILL")?;
            }
        }
        if self.stack.run.has_queue() {
            self.set_visibility(&self.visibility_before).await?;
        }
        // Whether it was killed, or waits for its next try: the next test begins with one that drains.
        self.tick().await
    }

    /// The stack's own session, anew.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.stack.owner = self.stack.session().await?;
        Ok(())
    }

    /// How many sessions of the functions have begun since the caller's own clock said so.
    pub async fn sessions_since(&self, began: SystemTime) -> Result<i64> {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'sluice_functions' AND backend_start > $1";
        Ok(superuser().await?.query_one(query, &[&began]).await?.get(0))
    }
}

fn secret_arn(name: &str) -> String {
    variable(&format!("{name}_SECRET_ARN"))
}

fn secret_file(name: &str) -> String {
    format!("{}.json", name.to_lowercase())
}
