//! The topics of streams: what is missing is made, what is there is left as it is.

use krafka::KrafkaError;
use krafka::admin::{
    AdminClient, ConfigResource, CreateTopicsOptions, DescribeConfigsOptions, DescribeTopicsOptions, NewTopic,
};
use krafka::error::ErrorCode;
use thiserror::Error;

use crate::connection::{ConnectError, Connection, REQUEST_TIMEOUT};

const CLEANUP: &str = "cleanup.policy";
/// By which the last message of each key is kept for good: what a topic has unless its stream says otherwise.
pub const COMPACT: &str = "compact";
/// What the brokers decide.
const DEFAULT: i32 = -1;

/// Makes topics.
pub struct Topics {
    admin: AdminClient,
}

/// What became of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ensured {
    /// It was not there.
    pub is_made: bool,
    /// What it has that Sluice would not have given it, with what to do: a sentence.
    pub warning: Option<String>,
}

/// Why a stream has no topic.
#[derive(Debug, Error)]
pub enum TopicError {
    /// It is to be made by somebody else.
    #[error(
        "there is no topic {topic}, and this user may not make it: make it with cleanup.policy={cleanup}, or grant the user CREATE \
         on it"
    )]
    Forbidden {
        /// Its name.
        topic: String,
        /// What is to become of its messages.
        cleanup: String,
    },
    /// Kafka does not say whether it is there, or does not make it.
    #[error("the topic {topic} could not be {doing}: {source}")]
    Failed {
        /// Its name.
        topic: String,
        /// `found` or `made`.
        doing: &'static str,
        /// Kafka's words.
        #[source]
        source: Box<KrafkaError>,
    },
}

impl Topics {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers, or lets us in.
    pub async fn connect(connection: &Connection) -> Result<Self, ConnectError> {
        let kafka = connection.connect().await?;
        Ok(Self { admin: kafka.admin().default_api_timeout(3 * REQUEST_TIMEOUT).metrics_push(false) })
    }

    /// Makes a topic that is missing: with this `cleanup.policy`, so many partitions (the brokers' default), and replicated as the
    /// brokers have it by default. One that is there is never changed.
    ///
    /// # Errors
    /// It is missing, and stays so.
    pub async fn ensure(&self, topic: &str, partitions: Option<i32>, cleanup: &str) -> Result<Ensured, TopicError> {
        let failed =
            |doing| move |source| TopicError::Failed { topic: topic.to_owned(), doing, source: Box::new(source) };
        let mut found =
            self.admin.describe_topics([topic], DescribeTopicsOptions::default()).await.map_err(failed("found"))?;
        match found.remove(topic) {
            Some(Ok(description)) => {
                let warning = self.warning(topic, description.partitions.len(), partitions, cleanup).await;
                return Ok(Ensured { is_made: false, warning });
            }
            Some(Err(KrafkaError::Broker { code: ErrorCode::UnknownTopicOrPartition, .. })) | None => {}
            Some(Err(error)) => return Err(failed("found")(error)),
        }
        let wanted = NewTopic::new(topic, partitions.unwrap_or(DEFAULT), DEFAULT as i16)
            .map_err(failed("made"))?
            .with_config(CLEANUP, cleanup);
        let mut made =
            self.admin.create_topics([wanted], CreateTopicsOptions::default()).await.map_err(failed("made"))?;
        match made.remove(topic) {
            Some(Ok(())) | None => Ok(Ensured { is_made: true, warning: None }),
            Some(Err(KrafkaError::Broker { code, .. })) if is_forbidden(code) => {
                Err(TopicError::Forbidden { topic: topic.to_owned(), cleanup: cleanup.to_owned() })
            }
            // Somebody else has just made it, and the next run looks at its settings.
            Some(Err(KrafkaError::Broker { code: ErrorCode::TopicAlreadyExists, .. })) => Ok(Ensured::default()),
            Some(Err(error)) => Err(failed("made")(error)),
        }
    }

    async fn warning(&self, topic: &str, has: usize, wanted: Option<i32>, cleanup: &str) -> Option<String> {
        let mut told = Vec::new();
        match self.cleanup(topic).await {
            Some(policy) if policy.split(',').any(|word| word.trim() == cleanup) => {}
            Some(policy) if cleanup == COMPACT => told.push(format!(
                "it has cleanup.policy={policy}, by which documents leave it that nobody changes: give it compact"
            )),
            Some(policy) => {
                told.push(format!(
                    "it has cleanup.policy={policy}, by which its messages stay for good: give it {cleanup}"
                ));
            }
            None => told.push(format!("its cleanup.policy may not be read by this user, and is to be {cleanup}")),
        }
        if let Some(wanted) = wanted.and_then(|wanted| usize::try_from(wanted).ok()).filter(|wanted| *wanted != has) {
            told.push(format!("it has {has} partitions, not {wanted}: more would send keys to others than before"));
        }
        (!told.is_empty()).then(|| format!("the topic {topic} is left as it is: {}", told.join("; ")))
    }

    /// `None`: nobody tells.
    async fn cleanup(&self, topic: &str) -> Option<String> {
        let resource = ConfigResource::topic(topic);
        let options = DescribeConfigsOptions::default().config_names(vec![CLEANUP.to_owned()]);
        let mut described = self.admin.describe_configs([resource.clone()], options).await.ok()?;
        described.remove(&resource)?.ok()?.into_iter().find(|entry| entry.name == CLEANUP)?.value
    }
}

fn is_forbidden(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::TopicAuthorizationFailed | ErrorCode::ClusterAuthorizationFailed)
}
