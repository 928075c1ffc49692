//! An SQS that takes a request and never answers it.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_sqs::{Client, config::Credentials};
use queue::{Message, Queue as _, Sqs};
use tokio::time::timeout;

/// In the time of the test, which passes as soon as nothing else happens.
const WITHOUT_END: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn no_request_to_sqs_waits_without_end() -> Result<()> {
    let settings = secrets::aws()
        .region("us-east-1")
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(secrets::fake::silent_server().await?)
        .load()
        .await;
    let queue = Sqs::new(Client::new(&settings), "http://queue");
    let sent = timeout(WITHOUT_END, queue.send(&[Message::new("body")])).await.context("sending has an end")?;
    assert_eq!(sent.unwrap_err().request, "SendMessageBatch");
    let delayed =
        timeout(WITHOUT_END, queue.delay(&[("receipt", Duration::ZERO)])).await.context("delaying has an end")?;
    assert_eq!(delayed.unwrap_err().request, "ChangeMessageVisibilityBatch");
    let depth = timeout(WITHOUT_END, queue.depth()).await.context("asking for the depth has an end")?;
    assert_eq!(depth.unwrap_err().request, "GetQueueAttributes");
    Ok(())
}
