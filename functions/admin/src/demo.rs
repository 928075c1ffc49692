//! Mutations to play with, where the demo's tables are: what an application would do.

use axum::extract::State;
use axum::{Extension, Json};
use database::{audit, outbox};
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Client;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::problem::Problem;
use crate::services::{Admin, STATEMENT_TIMEOUT};

const GIVEN: [&str; 12] =
    ["Amara", "Bruno", "Chen", "Dalia", "Emre", "Freya", "Goran", "Hana", "Ines", "Jonas", "Kofi", "Lena"];
const FAMILY: [&str; 12] = [
    "Abara",
    "Berg",
    "Costa",
    "Dimitrov",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Horvat",
    "Ito",
    "Jansen",
    "Kaya",
    "Lindqvist",
];

/// What a mutation did.
#[derive(Debug, Serialize, ToSchema)]
pub struct Mutation {
    user: String,
    /// users
    stream: &'static str,
    key: String,
    name: String,
    /// Projects whose documents carry the name.
    projects: Vec<String>,
    /// Hackathons whose documents do.
    hackathons: Vec<String>,
    /// What the tables' triggers logged. A fan_out has no key: which documents it means is found out later.
    log_rows: Vec<LogRow>,
}

/// A row of the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogRow {
    id: i64,
    stream: String,
    key: Option<String>,
    op: String,
}

/// Creates a user of the demo.
#[utoipa::path(post, path = "/api/add-user", tag = "demo",
    responses((status = OK, body = Mutation), (status = NOT_FOUND, body = Problem)))]
pub async fn add_user(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Mutation>, Problem> {
    let statement =
        "INSERT INTO demo.users (name, email, role) VALUES ($1, $2, 'participant') RETURNING id::text, name";
    mutate(&admin, &caller, "add_user", statement, true).await
}

/// Renames some user of the demo, and with that changes the documents of all projects and hackathons that show the name.
#[utoipa::path(post, path = "/api/update-user", tag = "demo",
    responses((status = OK, body = Mutation), (status = NOT_FOUND, body = Problem), (status = CONFLICT, body = Problem)))]
pub async fn update_user(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Mutation>, Problem> {
    let statement = "UPDATE demo.users SET name = $1, updated_at = clock_timestamp()
         WHERE id = (SELECT id FROM demo.users ORDER BY random() LIMIT 1) RETURNING id::text, name";
    mutate(&admin, &caller, "update_user", statement, false).await
}

async fn mutate(
    admin: &Admin,
    caller: &Caller,
    action: &str,
    statement: &str,
    has_email: bool,
) -> Result<Json<Mutation>, Problem> {
    if !admin.config.is_demo {
        return Err(Problem::not_found("the demo is not enabled here (parameter Demo)"));
    }
    // A session of its own: what others do meanwhile is not in this transaction.
    let mut session = admin.own_session(STATEMENT_TIMEOUT).await?;
    let transaction = session.transaction().await?;
    let mutation = change(transaction.client(), statement, has_email).await?;
    let mutation = mutation.ok_or_else(|| Problem::conflict("there is no user yet: add one"))?;
    let detail = json!({"key": mutation.key, "log_rows": mutation.log_rows.len()});
    audit::note(transaction.client(), caller.as_actor(), action, &mutation.key, "done", &detail).await?;
    transaction.commit().await?;
    Ok(Json(mutation))
}

async fn change(
    database: &Client,
    statement: &str,
    has_email: bool,
) -> Result<Option<Mutation>, tokio_postgres::Error> {
    let pick = |names: [&'static str; 12]| fastrand::choice(names).unwrap_or_default();
    let name = format!("{} {}", pick(GIVEN), pick(FAMILY));
    let email = format!("{}.{:08x}@example.org", name.to_lowercase().replace(' ', "."), fastrand::u32(..));
    let row = if has_email {
        database.query_opt(statement, &[&name, &email]).await?
    } else {
        database.query_opt(statement, &[&name]).await?
    };
    let Some(row) = row else { return Ok(None) };
    let user: String = row.get(0);
    let texts = async |query: &str| -> Result<Vec<String>, tokio_postgres::Error> {
        Ok(database.query(query, &[&user]).await?.iter().map(|row| row.get(0)).collect())
    };
    let projects = texts("SELECT id::text FROM demo.projects WHERE owner_id::text = $1 ORDER BY id").await?;
    let hackathons = texts("SELECT id::text FROM demo.hackathons WHERE organizer_id::text = $1 ORDER BY id").await?;
    let logged = outbox::list_of_transaction(database).await?;
    let log_row = |outbox::Logged { id, stream, key, op }| LogRow { id, stream, key, op };
    let log_rows = logged.into_iter().map(log_row).collect();
    Ok(Some(Mutation { key: user.clone(), user, stream: "users", name: row.get(1), projects, hackathons, log_rows }))
}
