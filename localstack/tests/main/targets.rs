//! What ClickHouse has.

use anyhow::{Result, ensure};
use localstack::variable;
use reqwest::{Client, Url};

/// What ClickHouse answers.
pub async fn ask(statement: &str) -> Result<String> {
    let url = Url::parse(&variable("CLICKHOUSE_URL"))?;
    let answer = Client::new().post(url).body(statement.to_owned()).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{statement}: {status} {text}");
    Ok(text)
}
