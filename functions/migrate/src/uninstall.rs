//! Everything that Sluice made, and nothing else.

use database::schema;
use search::request::{self, answer};
use serde_json::Value;
use tokio_postgres::{Client, error::SqlState};

use crate::{
    Report,
    error::{Error, query},
    indexes::{is_made_by, template, template_name},
    schema::version,
};

/// PostgreSQL first: from then on no write touches Sluice. Then the indexes of this prefix, which know that they are ours.
pub(crate) async fn uninstall(
    client: &mut Client,
    elasticsearch: &search::Client,
    prefix: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let mut is_anything_done = false;
    if schema::exists(client).await.map_err(query("looking for the schema"))? {
        let roles = roles(client).await?;
        drop_schema(client, report).await?;
        drop_roles(client, &roles, report).await?;
        is_anything_done = true;
    }
    is_anything_done |= delete_indexes(elasticsearch, prefix, report).await?;
    is_anything_done |= delete_template(elasticsearch, prefix, report).await?;
    if !is_anything_done {
        report.say("nothing to remove");
    }
    Ok(())
}

async fn drop_schema(client: &mut Client, report: &mut Report) -> Result<(), Error> {
    let has_functions = version(client).await? > 0;
    let drop = async {
        let transaction = client.transaction().await?;
        if has_functions {
            schema::uninstall(&transaction).await?;
        }
        schema::drop_schema(&transaction).await?;
        transaction.commit().await
    };
    drop.await.map_err(query("removing the schema sluice and its triggers"))?;
    report.say("removed the triggers and the schema sluice");
    Ok(())
}

/// The two roles of this database, quoted; none where it was never migrated.
async fn roles(client: &Client) -> Result<Vec<String>, Error> {
    match schema::list_roles(client).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(vec![]),
        roles => roles.map_err(query("looking for the roles")),
    }
}

/// Roles belong to the whole cluster: a copy of this database may use them.
async fn drop_roles(client: &Client, roles: &[String], report: &mut Report) -> Result<(), Error> {
    for role in roles {
        match client.batch_execute(&format!("DROP ROLE {role}")).await {
            Ok(()) => report.say(format!("removed the role {role}")),
            Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                report.say(format!("left the role {role}: another database uses it"));
            }
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                report.say(format!("left the role {role}, which an administrator made: DROP ROLE {role}"));
            }
            Err(error) => return Err(query("dropping a role")(error)),
        }
    }
    Ok(())
}

async fn delete_indexes(
    elasticsearch: &search::Client,
    prefix: &str,
    report: &mut Report,
) -> Result<bool, request::Error> {
    let sent = elasticsearch.get(["_mapping"]).query("filter_path", "*.mappings._meta.sluice").send().await;
    let Value::Object(found) = answer(sent, "looking for the indexes").await? else { return Ok(false) };
    let mut is_anything_done = false;
    for (index, found) in found {
        // An index of another prefix is another installation's.
        if !is_made_by(prefix, &found["mappings"]["_meta"]["sluice"]) {
            continue;
        }
        let sent = elasticsearch.delete([index.as_str()]).send().await;
        answer(sent, format!("deleting the index {index}")).await?;
        report.say(format!("removed the index {index}"));
        is_anything_done = true;
    }
    Ok(is_anything_done)
}

async fn delete_template(
    elasticsearch: &search::Client,
    prefix: &str,
    report: &mut Report,
) -> Result<bool, request::Error> {
    let name = template_name(prefix);
    let is_ours = template(elasticsearch, &name).await?.is_some_and(|found| found["_meta"]["sluice"].is_object());
    if !is_ours {
        return Ok(false);
    }
    let sent = elasticsearch.delete(["_index_template", &name]).send().await;
    answer(sent, format!("deleting the index template {name}")).await?;
    report.say(format!("removed the index template {name}"));
    Ok(true)
}
