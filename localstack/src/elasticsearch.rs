use anyhow::{Context, Result};
use serde_json::{Value, json};
use url::Url;

use crate::variable;

/// What an Elasticsearch secret says of the server at ELASTICSEARCH_URL: `url`, and `username` and `password` if the URL
/// has them.
pub fn elasticsearch_secret() -> Result<Value> {
    let mut url = Url::parse(&variable("ELASTICSEARCH_URL")).context("ELASTICSEARCH_URL")?;
    let (username, password) = (url.username().to_owned(), url.password().map(str::to_owned));
    url.set_username("").ok().context("the URL's user name")?;
    url.set_password(None).ok().context("the URL's password")?;
    Ok(match password {
        Some(password) => json!({"url": url.as_str(), "username": username, "password": password}),
        None => json!({"url": url.as_str()}),
    })
}
