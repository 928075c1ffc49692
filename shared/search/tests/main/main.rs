//! Connecting to a real Elasticsearch (ELASTICSEARCH_URL), and to ones that should be refused.

mod iam;
mod scan;
mod tls;

use anyhow::Result;
use config::Env;
use search::{ConnectError, Engine, Server, Settings, connect};
use secrets::{Secrets, fake::SecretsManager};
use serde_json::{Value, json};

use crate::tls::Authority;

const ARN: &str = "arn:elasticsearch";

fn settings(ca: &str) -> Result<Settings> {
    let mut env = Env::from_pairs([("ELASTICSEARCH_SECRET_ARN", ARN), ("ELASTICSEARCH_CA", ca)]);
    let settings = Settings::from_env(&mut env);
    env.finish()?;
    Ok(settings)
}

async fn secrets(secret: &Value) -> Result<(SecretsManager, Secrets)> {
    secrets::install_crypto_provider();
    let manager = SecretsManager::start().await?;
    manager.put(ARN, secret);
    let secrets = Secrets::new(manager.client());
    Ok((manager, secrets))
}

/// The real one.
async fn connected() -> Result<Server> {
    let (_manager, secrets) = secrets(&localstack::elasticsearch_secret()?).await?;
    Ok(connect(&settings("")?, &secrets).await?)
}

#[tokio::test]
async fn an_elasticsearch_that_answers_is_connected() -> Result<()> {
    connected().await?;
    Ok(())
}

#[tokio::test]
async fn a_server_is_what_it_says_that_it_is_unless_it_is_named() -> Result<()> {
    const ELASTICSEARCH: &str =
        r#"{"version":{"number":"9.4.3","build_flavor":"default"},"tagline":"You Know, for Search"}"#;
    const OPENSEARCH: &str = r#"{"version":{"distribution":"opensearch","number":"2.19.6"},
        "tagline":"The OpenSearch Project: https://opensearch.org/"}"#;
    // One that is to be taken for Elasticsearch 7.10 by its clients.
    const DISGUISED: &str =
        r#"{"version":{"number":"7.10.2"},"tagline":"The OpenSearch Project: https://opensearch.org/"}"#;
    for (said, named, expected) in [
        ((200, ELASTICSEARCH), "", Engine::Elasticsearch),
        ((200, OPENSEARCH), "", Engine::OpenSearch),
        ((200, DISGUISED), "", Engine::OpenSearch),
        ((403, r#"{"error":"closed"}"#), "", Engine::Elasticsearch),
        ((200, "<html>"), "", Engine::Elasticsearch),
        ((403, r#"{"error":"closed"}"#), "opensearch", Engine::OpenSearch),
        ((200, OPENSEARCH), "elasticsearch", Engine::Elasticsearch),
    ] {
        let authority = Authority::new()?;
        let url = authority
            .serve(move |request| if request.starts_with("GET / ") { said } else { (200, r#"{"status":"green"}"#) })
            .await?;
        let (_manager, secrets) = secrets(&json!({ "url": url, "ca": authority.pem() })).await?;
        let mut env = Env::from_pairs([("ELASTICSEARCH_SECRET_ARN", ARN), ("SEARCH_ENGINE", named)]);
        let settings = Settings::from_env(&mut env);
        env.finish()?;
        assert_eq!(connect(&settings, &secrets).await?.engine(), expected, "{said:?} {named}");
    }
    Ok(())
}

#[test]
fn a_server_that_is_neither_is_a_problem_of_the_configuration() {
    let mut env = Env::from_pairs([("ELASTICSEARCH_SECRET_ARN", ARN), ("SEARCH_ENGINE", "solr")]);
    let _ = Settings::from_env(&mut env);
    assert_eq!(env.finish().unwrap_err().problems, ["SEARCH_ENGINE must be elasticsearch or opensearch"]);
}

#[tokio::test]
async fn an_elasticsearch_that_nobody_runs_is_told_by_name() -> Result<()> {
    let (_manager, secrets) = secrets(&json!({"url": "http://127.0.0.1:1"})).await?;
    let error = connect(&settings("")?, &secrets).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("http://127.0.0.1:1/ cannot be reached"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_it_is_configured() -> Result<()> {
    let authority = Authority::new()?;
    let url = authority.serve(|_| (200, r#"{"status":"green"}"#)).await?;
    let (_manager, secrets) = secrets(&json!({ "url": url })).await?;
    connect(&settings(&authority.pem())?, &secrets).await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_authority_is_told_by_name() -> Result<()> {
    let url = Authority::new()?.serve(|_| (200, r#"{"status":"green"}"#)).await?;
    let (_manager, secrets) = secrets(&json!({ "url": url })).await?;
    for ca in [Authority::new()?.pem(), String::new()] {
        let error = connect(&settings(&ca)?, &secrets).await.unwrap_err();
        assert!(matches!(error, ConnectError::Certificate { .. }), "{error:?}");
        assert!(error.to_string().contains("into the secret, as its field `ca`"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn the_secret_may_name_the_authority() -> Result<()> {
    let authority = Authority::new()?;
    let url = authority.serve(|_| (200, r#"{"status":"green"}"#)).await?;
    let (manager, secrets) = secrets(&json!({ "url": url, "ca": Authority::new()?.pem() })).await?;
    let connection = search::Connection::new(settings("")?, secrets.clone());
    let error = connection.probe().await.unwrap_err();
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error:?}");

    // Renewed with the secret, without a deploy.
    manager.put(ARN, &json!({ "url": url, "ca": authority.pem() }));
    connection.renew().await?;
    connection.probe().await?;

    for ca in ["s3cret", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"] {
        manager.put(ARN, &json!({ "url": url, "ca": ca }));
        let told = connection.renew().await.unwrap_err().to_string();
        assert!(told.contains(ARN) && told.contains("its ca is not") && !told.contains("s3cret"), "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn refused_credentials_are_looked_up_once_more() -> Result<()> {
    // Basic authentication of u:new.
    let server = |request: &str| match request.contains("Basic dTpuZXc=") {
        true => (200, r#"{"status":"green"}"#),
        false => (401, r#"{"error":{"type":"security_exception"},"status":401}"#),
    };
    let authority = Authority::new()?;
    let url = authority.serve(server).await?;
    let (manager, secrets) = secrets(&json!({"url": url, "username": "u", "password": "old"})).await?;

    let error = connect(&settings(&authority.pem())?, &secrets).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains(ARN), "{error}");
    assert!(!error.to_string().contains("old"), "{error}");

    manager.put(ARN, &json!({"url": url, "username": "u", "password": "new"}));
    connect(&settings(&authority.pem())?, &secrets).await?;
    Ok(())
}

#[tokio::test]
async fn an_authority_that_is_no_certificate_is_a_problem_of_the_configuration() {
    for ca in ["garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"] {
        let mut env = Env::from_pairs([("ELASTICSEARCH_SECRET_ARN", ARN), ("ELASTICSEARCH_CA", ca)]);
        let settings = Settings::from_env(&mut env);
        let told = match env.finish() {
            Err(error) => error.to_string(),
            // Well-formed PEM around bytes that are no certificate shows when the client is made.
            Ok(()) => {
                let (_manager, secrets) = secrets(&json!({"url": "https://127.0.0.1:1"})).await.unwrap();
                connect(&settings, &secrets).await.unwrap_err().to_string()
            }
        };
        assert!(told.contains("ELASTICSEARCH_CA"), "{told}");
    }
}
