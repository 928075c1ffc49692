//! The cache over Secrets Manager, against one that the test rotates and takes away.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

use std::{collections::HashMap, time::Duration};

use aws_sdk_secretsmanager::{Client, config::Credentials};
use secrets::{SecretError, Secrets, fake::SecretsManager};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

const ARN: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:database";

#[derive(Deserialize, Debug)]
struct Login {
    password: String,
}

async fn manager_with(password: &str) -> SecretsManager {
    let manager = SecretsManager::start().await.unwrap();
    manager.put(ARN, &json!({"password": password}));
    manager
}

#[tokio::test]
async fn many_callers_cost_one_lookup() {
    let manager = manager_with("first").await;
    let secrets = Secrets::new(manager.client());
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let secrets = secrets.clone();
            tokio::spawn(async move { secrets.get::<Login>(ARN).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().password, "first");
    }
    assert_eq!(manager.lookups(), 1);
}

#[tokio::test]
async fn a_refresh_goes_past_the_cache_and_into_it() {
    let manager = manager_with("first").await;
    let secrets = Secrets::new(manager.client());
    secrets.get::<Login>(ARN).await.unwrap();
    manager.put(ARN, &json!({"password": "second"}));

    assert_eq!(secrets.get::<Login>(ARN).await.unwrap().password, "first");
    assert_eq!(secrets.refresh::<Login>(ARN).await.unwrap().password, "second");
    assert_eq!(secrets.get::<Login>(ARN).await.unwrap().password, "second");
    assert_eq!(manager.lookups(), 2);
}

#[tokio::test]
async fn an_expired_credential_is_looked_up_again() {
    let manager = manager_with("first").await;
    let secrets = Secrets::with_time_to_live(manager.client(), Duration::ZERO);
    secrets.get::<Login>(ARN).await.unwrap();
    manager.put(ARN, &json!({"password": "second"}));
    assert_eq!(secrets.get::<Login>(ARN).await.unwrap().password, "second");
}

#[tokio::test]
async fn an_expired_credential_serves_on_while_secrets_manager_is_away() {
    let manager = manager_with("first").await;
    let secrets = Secrets::with_time_to_live(manager.client(), Duration::ZERO);
    secrets.get::<Login>(ARN).await.unwrap();
    manager.set_away(true);
    assert_eq!(secrets.get::<Login>(ARN).await.unwrap().password, "first");
    assert_eq!(secrets.get::<Login>(ARN).await.unwrap().password, "first");
    assert_eq!(manager.lookups(), 2, "an outage is not asked about at every call");
}

#[tokio::test]
async fn a_refused_credential_is_not_served_again_during_an_outage() {
    let manager = manager_with("first").await;
    let secrets = Secrets::new(manager.client());
    secrets.get::<Login>(ARN).await.unwrap();
    manager.set_away(true);
    assert!(matches!(secrets.refresh::<Login>(ARN).await, Err(SecretError::Unreadable { .. })));
}

/// As long as a token serves in an outage; no test takes that long.
const LONG: Duration = Duration::from_secs(900);

#[tokio::test]
async fn a_token_that_the_service_refuses_has_ended_and_a_credential_serves_on() {
    for revoke in [SecretsManager::delete, SecretsManager::refuse] {
        let manager = manager_with("first").await;
        let secrets = Secrets::with_times(manager.client(), Duration::ZERO, LONG);
        secrets.tokens::<Login>(ARN).await.unwrap();
        revoke(&manager, ARN);
        assert_eq!(secrets.get::<Login>(ARN).await.unwrap().password, "first", "its own server looks at it");
        manager.put("token", &json!({"password": "second"}));
        secrets.tokens::<Login>("token").await.unwrap();
        revoke(&manager, "token");
        for _ in 0..2 {
            let answer = secrets.tokens::<Login>("token").await;
            assert!(matches!(answer, Err(SecretError::Unreadable { is_refused: true, .. })), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_token_serves_on_for_a_while_during_an_outage_and_then_ends() {
    let manager = manager_with("first").await;
    let secrets = Secrets::with_times(manager.client(), Duration::ZERO, LONG);
    secrets.tokens::<Login>(ARN).await.unwrap();
    let expired = Secrets::with_times(manager.client(), Duration::from_secs(300), Duration::ZERO);
    expired.tokens::<Login>(ARN).await.unwrap();
    manager.set_away(true);
    assert_eq!(secrets.tokens::<Login>(ARN).await.unwrap().password, "first");
    assert!(matches!(expired.tokens::<Login>(ARN).await, Err(SecretError::Unreadable { is_refused: false, .. })));
    manager.set_away(false);
    assert_eq!(expired.tokens::<Login>(ARN).await.unwrap().password, "first", "and serves again afterwards");
}

#[tokio::test]
async fn a_missing_secret_is_named_with_its_remedy() {
    let manager = SecretsManager::start().await.unwrap();
    let told = Secrets::new(manager.client()).get::<Login>(ARN).await.unwrap_err().to_string();
    assert!(told.contains(ARN) && told.contains("can't find the secret") && told.contains("GetSecretValue"), "{told}");
}

#[tokio::test]
async fn a_malformed_secret_is_named_without_its_content() {
    let manager = SecretsManager::start().await.unwrap();
    let secrets = Secrets::with_time_to_live(manager.client(), Duration::ZERO);
    for (value, problem) in [
        ("hunter2", "it is not JSON"),
        (r#"{"password": "hunter2"#, "it is not JSON"),
        (r#"{"passwort": "hunter2"}"#, "the field password is missing"),
        (r#"{"password": ["hunter2"]}"#, "a field has the wrong type"),
        (r#""hunter2""#, "a field has the wrong type"),
    ] {
        manager.put(ARN, value);
        let error = secrets.get::<Login>(ARN).await.unwrap_err();
        let (told, debug) = (error.to_string(), format!("{error:?}"));
        assert!(told.contains(ARN) && told.contains(problem), "{told}");
        assert!(!told.contains("hunter2") && !debug.contains("hunter2"), "the content is told in: {told} {debug}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_is_never_answered_ends_with_an_error() {
    let manager = manager_with("first").await;
    manager.fall_silent();
    let secrets = Secrets::new(manager.client());
    let lookup = timeout(Duration::from_secs(3600), secrets.get::<Login>(ARN)).await.expect("the lookup has an end");
    assert!(matches!(lookup, Err(SecretError::Unreadable { .. })), "{lookup:?}");
}

/// The clients that the functions make, each of which asks a server that takes its request and never answers.
#[tokio::test(start_paused = true)]
async fn a_client_of_aws_does_not_wait_without_end() {
    let settings = secrets::aws()
        .region("us-east-1")
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(secrets::fake::silent_server().await.unwrap())
        .load()
        .await;
    let request = Client::new(&settings).get_secret_value().secret_id(ARN).send();
    let answer = timeout(Duration::from_secs(3600), request).await.expect("the request has an end");
    assert!(answer.unwrap_err().as_service_error().is_none());
}

#[tokio::test]
async fn a_secret_is_a_file_or_a_folder_of_fields_and_a_new_one_is_seen() {
    let folder = std::env::temp_dir().join(format!("sluice-secrets-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("fields")).unwrap();
    let (file, fields) = (folder.join("database.json"), folder.join("fields"));
    std::fs::write(&file, r#"{"password": "first"}"#).unwrap();
    std::fs::write(fields.join("password"), "in a folder\n").unwrap();
    // As Kubernetes has the versions of a secret beside the links to their fields.
    std::fs::create_dir_all(fields.join("..data")).unwrap();
    let manager = SecretsManager::start().await.unwrap();
    let secrets = Secrets::new(manager.client());

    let (file, fields) = (format!("file:{}", file.display()), format!("file:{}", fields.display()));
    assert_eq!(secrets.get::<Login>(&file).await.unwrap().password, "first");
    assert_eq!(secrets.get::<Login>(&fields).await.unwrap().password, "in a folder");
    std::fs::write(folder.join("database.json"), r#"{"password": "second"}"#).unwrap();
    assert_eq!(secrets.refresh::<Login>(&file).await.unwrap().password, "second");
    std::fs::remove_dir_all(&folder).unwrap();
    let told = secrets.refresh::<Login>(&file).await.unwrap_err().to_string();
    assert!(told.contains(&file) && told.contains("check that it is there"), "{told}");
}

#[tokio::test]
async fn a_secret_that_was_given_is_asked_of_nobody() {
    let manager = SecretsManager::start().await.unwrap();
    let given = HashMap::from([("DATABASE_URL".to_owned(), r#"{"password": "given"}"#.to_owned())]);
    let secrets = Secrets::new(manager.client()).with_given(given);
    assert_eq!(secrets.get::<Login>("DATABASE_URL").await.unwrap().password, "given");
    assert_eq!(secrets.refresh::<Login>("DATABASE_URL").await.unwrap().password, "given");
}
