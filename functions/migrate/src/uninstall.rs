//! Everything that Sluice made, and nothing else.

use elasticsearch::{
    Elasticsearch,
    indices::{IndicesDeleteIndexTemplateParts, IndicesDeleteParts, IndicesGetMappingParts},
};
use serde_json::Value;
use tokio_postgres::{Client, error::SqlState};

use crate::{
    Report,
    elastic::{self, answer},
    error::{Error, query},
    indexes::{is_made_by, template, template_name},
    schema,
};

/// PostgreSQL first: from then on no write touches Sluice. Then the indexes of this prefix, which know that they are ours.
pub(crate) async fn uninstall(
    client: &mut Client,
    elasticsearch: &Elasticsearch,
    prefix: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let mut is_anything_done = drop_schema(client, report).await?;
    is_anything_done |= drop_role(client, report).await?;
    is_anything_done |= delete_indexes(elasticsearch, prefix, report).await?;
    is_anything_done |= delete_template(elasticsearch, prefix, report).await?;
    if !is_anything_done {
        report.say("nothing to remove");
    }
    Ok(())
}

async fn drop_schema(client: &mut Client, report: &mut Report) -> Result<bool, Error> {
    if !schema::exists(client).await? {
        return Ok(false);
    }
    let has_functions = schema::version(client).await? > 0;
    let drop = async {
        let transaction = client.transaction().await?;
        if has_functions {
            transaction.batch_execute("SELECT sluice.uninstall()").await?;
        }
        transaction.batch_execute("DROP SCHEMA sluice CASCADE").await?;
        transaction.commit().await
    };
    drop.await.map_err(query("removing the schema sluice and its triggers"))?;
    report.say("removed the triggers and the schema sluice");
    Ok(true)
}

/// Roles belong to the whole cluster: another database may have a Sluice of its own.
async fn drop_role(client: &Client, report: &mut Report) -> Result<bool, Error> {
    let found = client.query_opt("SELECT FROM pg_roles WHERE rolname = 'sluice_app'", &[]).await;
    if found.map_err(query("looking for the role sluice_app"))?.is_none() {
        return Ok(false);
    }
    match client.batch_execute("DROP ROLE sluice_app").await {
        Ok(()) => {
            report.say("removed the role sluice_app");
            Ok(true)
        }
        Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
            report.say("left the role sluice_app: another database uses it");
            Ok(true)
        }
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            report.say("left the role sluice_app, which an administrator made: DROP ROLE sluice_app");
            Ok(true)
        }
        Err(error) => Err(query("dropping the role sluice_app")(error)),
    }
}

async fn delete_indexes(
    elasticsearch: &Elasticsearch,
    prefix: &str,
    report: &mut Report,
) -> Result<bool, elastic::Error> {
    let indices = elasticsearch.indices();
    let get_mapping = indices.get_mapping(IndicesGetMappingParts::None);
    let sent = get_mapping.filter_path(&["*.mappings._meta.sluice"]).send().await;
    let Value::Object(found) = answer(sent, "looking for the indexes").await? else { return Ok(false) };
    let mut is_anything_done = false;
    for (index, found) in found {
        // An index of another prefix is another installation's.
        if !is_made_by(prefix, &found["mappings"]["_meta"]["sluice"]) {
            continue;
        }
        let sent = elasticsearch.indices().delete(IndicesDeleteParts::Index(&[&index])).send().await;
        answer(sent, format!("deleting the index {index}")).await?;
        report.say(format!("removed the index {index}"));
        is_anything_done = true;
    }
    Ok(is_anything_done)
}

async fn delete_template(
    elasticsearch: &Elasticsearch,
    prefix: &str,
    report: &mut Report,
) -> Result<bool, elastic::Error> {
    let name = template_name(prefix);
    let is_ours = template(elasticsearch, &name).await?.is_some_and(|found| found["_meta"]["sluice"].is_object());
    if !is_ours {
        return Ok(false);
    }
    let parts = IndicesDeleteIndexTemplateParts::Name(&name);
    let sent = elasticsearch.indices().delete_index_template(parts).send().await;
    answer(sent, format!("deleting the index template {name}")).await?;
    report.say(format!("removed the index template {name}"));
    Ok(true)
}
