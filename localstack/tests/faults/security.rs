//! What needs Elasticsearch's security: its password changes in the middle of everything.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use elasticsearch::Elasticsearch;
use elasticsearch::cat::CatIndicesParts;
use elasticsearch::http::transport::Transport;
use elasticsearch::http::{Method, StatusCode};
use localstack::{elasticsearch_secret, eventually, variable};
use serde_json::Value;

use crate::pipeline::{Pipeline, alone};

const LOGIN: &str = "sluice_rotated";
/// And what it is in Elasticsearch's file of users (bcrypt).
type Password = (&'static str, &'static str);
const BEFORE: Password = ("before-the-rotation", "$2b$04$YwWhxj9LbiC2swFeTRDGy.udqPFV3E6iegEpcFdGWZ4DCN5N8doU2");
const AFTER: Password = ("after-the-rotation", "$2b$04$Nx3tBSVRm6sOgNBOzPUVK.ZGVI9QsFG70fQWHvx6u05V9wPfjaIBu");

/// Of a login of its own, since everybody uses the other one. In the file of users: the build of Elasticsearch 8 that the
/// stack runs cannot make the index in which users are kept otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_elasticsearch_password_that_is_rotated_under_load_loses_nothing() -> Result<()> {
    alone("fault_login", async |pipeline| {
        let users = users_file(pipeline).await?;
        fs::write(users.with_file_name("users_roles"), format!("superuser:{LOGIN}\n"))?;
        set_password(&users, BEFORE).await?;
        pipeline.put_secret("ELASTICSEARCH", &secret_of(BEFORE)?).await?;
        pipeline.restart_indexer().await?;
        let load = pipeline.load().await?;

        set_password(&users, AFTER).await?;
        // It forgets whom it knew a moment after it has read the file.
        eventually("Elasticsearch to refuse the old password", async || match is_accepted(BEFORE).await {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        pipeline.is_felt().await;
        pipeline.put_secret("ELASTICSEARCH", &secret_of(AFTER)?).await?;
        pipeline.converges(load).await
    })
    .await
}

async fn users_file(pipeline: &Pipeline) -> Result<PathBuf> {
    let path = "/_nodes/_local/settings?filter_path=nodes.*.settings.path.data";
    let answer: Value = serde_json::from_str(&pipeline.stack.search(Method::Get, path, None).await?.1)?;
    let node = answer["nodes"].as_object().and_then(|nodes| nodes.values().next()).context("a node")?;
    let data = node["settings"]["path"]["data"].as_str().context("the node's path.data")?;
    Ok(Path::new(data).with_file_name("config").join("users"))
}

/// Elasticsearch looks at the file every few seconds.
async fn set_password(users: &Path, password: Password) -> Result<()> {
    fs::write(users, format!("{LOGIN}:{}\n", password.1))?;
    eventually("Elasticsearch to take the password", async || match is_accepted(password).await {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    Ok(())
}

fn secret_of(password: Password) -> Result<String> {
    let mut secret = elasticsearch_secret()?;
    secret["username"] = Value::from(LOGIN);
    secret["password"] = Value::from(password.0);
    Ok(secret.to_string())
}

async fn is_accepted(password: Password) -> Result<bool> {
    let mut url = url::Url::parse(&variable("ELASTICSEARCH_URL"))?;
    url.set_username(LOGIN).ok().context("the URL's user name")?;
    url.set_password(Some(password.0)).ok().context("the URL's password")?;
    let client = Elasticsearch::new(Transport::single_node(url.as_str())?);
    Ok(client.cat().indices(CatIndicesParts::None).send().await?.status_code() != StatusCode::UNAUTHORIZED)
}
