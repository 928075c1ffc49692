//! The database's password changes in the middle of everything.

use std::time::SystemTime;

use anyhow::{Result, ensure};
use localstack::{eventually, variable};
use serde_json::Value;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::pipeline::alone;
use crate::stack::superuser;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_password_that_is_rotated_under_load_loses_nothing() -> Result<()> {
    alone("fault_password", async |pipeline| {
        let load = pipeline.load().await?;
        let old = pipeline.secret("DATABASE").await?;
        let mut secret: Value = serde_json::from_str(&old)?;
        secret["password"] = Value::from("rotated");
        let superuser = superuser().await?;
        superuser.batch_execute("ALTER ROLE sluice_functions PASSWORD 'rotated'").await?;
        ensure!(refuses(&old).await?, "the server takes an old password");
        let rotated_at = SystemTime::now();
        // Who is logged in stays so; now everybody has to knock again, while the secret still has the old password.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sluice_functions'";
        superuser.execute(end, &[]).await?;
        load.goes_on(100).await;
        pipeline.put_secret("DATABASE", &secret.to_string()).await?;
        eventually("a function to log in by the new password", async || {
            match pipeline.sessions_since(rotated_at).await {
                Ok(0) => Err("no session".to_owned()),
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        pipeline.converges(load).await
    })
    .await
}

/// Whether the server refuses what a DATABASE secret says.
async fn refuses(secret: &str) -> Result<bool> {
    let secret: Value = serde_json::from_str(secret)?;
    let mut config: tokio_postgres::Config = variable("DATABASE_URL").parse()?;
    config.user(secret["username"].as_str().unwrap_or_default());
    config.password(secret["password"].as_str().unwrap_or_default());
    Ok(config.connect(NoTls).await.err().is_some_and(|error| error.code() == Some(&SqlState::INVALID_PASSWORD)))
}
