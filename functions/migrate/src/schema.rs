//! The schema: numbered files of tables, each applied once, and the functions, each as it is now.

use std::borrow::Cow;

use database::schema;
use tokio_postgres::{Client, error::SqlState};

use crate::{
    Report,
    error::{Error, query},
};

const MIGRATIONS: [(i32, &str, &str); 7] = [
    (1, "log", include_str!("../../../migrations/V1__log.sql")),
    (2, "streams", include_str!("../../../migrations/V2__streams.sql")),
    (3, "operations", include_str!("../../../migrations/V3__operations.sql")),
    (4, "ingest", include_str!("../../../migrations/V4__ingest.sql")),
    (5, "sync", include_str!("../../../migrations/V5__sync.sql")),
    (6, "accounts", include_str!("../../../migrations/V6__accounts.sql")),
    (7, "connections", include_str!("../../../migrations/V7__connections.sql")),
];

/// In the order in which one needs the other.
static FUNCTIONS: [(&str, &str); 23] = [
    ("1_log", include_str!("../../../migrations/functions/1_log.sql")),
    ("2_mappings", include_str!("../../../migrations/functions/2_mappings.sql")),
    ("2_sources", include_str!("../../../migrations/functions/2_sources.sql")),
    ("2_streams", include_str!("../../../migrations/functions/2_streams.sql")),
    ("3_capture", include_str!("../../../migrations/functions/3_capture.sql")),
    ("3_targets", include_str!("../../../migrations/functions/3_targets.sql")),
    ("3_track", include_str!("../../../migrations/functions/3_track.sql")),
    ("4_fan_out", include_str!("../../../migrations/functions/4_fan_out.sql")),
    ("4_frontier", include_str!("../../../migrations/functions/4_frontier.sql")),
    ("4_rebase", include_str!("../../../migrations/functions/4_rebase.sql")),
    ("4_replay", include_str!("../../../migrations/functions/4_replay.sql")),
    ("5_operations", include_str!("../../../migrations/functions/5_operations.sql")),
    ("6_admin", include_str!("../../../migrations/functions/6_admin.sql")),
    ("6_events", include_str!("../../../migrations/functions/6_events.sql")),
    ("6_generations", include_str!("../../../migrations/functions/6_generations.sql")),
    ("6_sync", include_str!("../../../migrations/functions/6_sync.sql")),
    ("6_validation", include_str!("../../../migrations/functions/6_validation.sql")),
    ("7_accounts", include_str!("../../../migrations/functions/7_accounts.sql")),
    ("7_connections", include_str!("../../../migrations/functions/7_connections.sql")),
    ("7_ingest", include_str!("../../../migrations/functions/7_ingest.sql")),
    ("7_writes", include_str!("../../../migrations/functions/7_writes.sql")),
    ("8_grants", include_str!("../../../migrations/functions/8_grants.sql")),
    ("9_built_in", include_str!("../../../migrations/functions/9_built_in.sql")),
];

const COMPARING: &str = "comparing the schema with this release";

/// A numbered file.
#[derive(Clone, Debug)]
pub struct Migration {
    /// They are applied in the order of these, from 1 on.
    pub version: i32,
    /// What it is about.
    pub name: Cow<'static, str>,
    /// Its statements.
    pub sql: Cow<'static, str>,
}

/// The migrations of this release.
pub fn migrations() -> Vec<Migration> {
    MIGRATIONS.iter().map(|&(version, name, sql)| Migration { version, name: name.into(), sql: sql.into() }).collect()
}

/// The functions of this release, whose checksum is that of version 0.
pub fn functions() -> String {
    FUNCTIONS.iter().map(|(_, sql)| *sql).collect()
}

/// Keeps other runs of migrate out until the session ends.
pub(crate) async fn lock(client: &Client) -> Result<(), Error> {
    schema::lock(client).await.map_err(query("waiting for another run of migrate"))
}

/// Brings the schema to the newest of these migrations, and its functions to what they are in this release. Whether it
/// did anything.
///
/// One transaction: a failure leaves the schema as it was, the old version or none. A schema that is newer than this
/// code serves it as well, and is left alone: that is how a release is taken back.
pub async fn migrate(client: &mut Client, migrations: &[Migration], report: &mut Report) -> Result<bool, Error> {
    let newest = migrations.iter().map(|migration| migration.version).max().unwrap_or_default();
    let encoding = client.query_one("SHOW server_encoding", &[]).await.map_err(query("asking for the encoding"))?;
    let encoding: String = encoding.get(0);
    if encoding != "UTF8" {
        return Err(Error::Encoding(encoding));
    }
    let transaction = client.transaction().await.map_err(query("beginning to migrate"))?;
    schema::make_history(&transaction).await.map_err(query("creating the schema sluice"))?;
    let applied = schema::list_applied(&transaction).await.map_err(query("reading the schema's version"))?;
    let mut done = vec![];
    for migration in migrations {
        let Migration { version, name, sql } = migration;
        match applied.iter().find(|(number, _)| number == version) {
            None => {
                let file = format!("V{version}__{name}");
                let apply = async {
                    transaction.batch_execute(sql).await?;
                    schema::note_applied(&transaction, *version, name, sql).await
                };
                apply.await.map_err(|source| Error::schema(&file, source))?;
                done.push(file);
            }
            Some((_, checksum))
                if *checksum == schema::compute_checksum(&transaction, sql).await.map_err(query(COMPARING))? => {}
            Some(_) => return Err(Error::OtherSchema { version: *version }),
        }
    }
    let is_newer = applied.iter().any(|(version, _)| *version > newest);
    let all = functions();
    let checksum = schema::compute_checksum(&transaction, &all).await.map_err(query(COMPARING))?;
    // Version 0 is the functions.
    if !is_newer && !applied.contains(&(0, checksum)) {
        for (file, sql) in &FUNCTIONS {
            transaction.batch_execute(sql).await.map_err(|source| Error::schema(file, source))?;
        }
        schema::note_applied(&transaction, 0, "functions", &all).await.map_err(query("noting the functions"))?;
        done.push("the functions".to_owned());
    }
    transaction.commit().await.map_err(query("committing the schema"))?;
    if !done.is_empty() {
        report.say(format!("schema: applied {}", done.join(", ")));
    }
    Ok(!done.is_empty())
}

/// The schema's version, 0 where there is none.
pub(crate) async fn version(client: &Client) -> Result<i32, Error> {
    match schema::read_version(client).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(0),
        version => version.map_err(query("reading the schema's version")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_need_no_schema_that_this_release_does_not_make() {
        let newest = migrations().iter().map(|migration| migration.version).max();
        assert!(newest >= Some(database::REQUIRED_SCHEMA), "{newest:?}");
    }

    #[test]
    fn each_file_of_the_migrations_is_applied_in_the_order_of_its_number() {
        let folder = std::path::PathBuf::from("../../migrations"); // of the folder in which cargo runs a test
        let files = |folder: std::path::PathBuf| {
            let names =
                std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|name| name.ends_with(".sql")).collect();
            names.sort();
            names
        };
        let numbered: Vec<String> =
            MIGRATIONS.iter().map(|(version, name, _)| format!("V{version}__{name}.sql")).collect();
        assert_eq!(numbered, files(folder.clone()));
        let functions: Vec<String> = FUNCTIONS.iter().map(|(name, _)| format!("{name}.sql")).collect();
        assert_eq!(functions, files(folder.join("functions")));
    }
}
