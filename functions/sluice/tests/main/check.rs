//! `sluice check` names what is wrong, and what to do.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use elasticsearch::http::Method;
use localstack::variable;

use crate::world::World;

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// It fails, and says all of this.
fn finds(world: &World, variables: &[(&str, &str)], words: &[&str]) {
    let output = world.output(&["check"], variables);
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for word in words {
        assert!(told.lines().any(|line| line.starts_with("wrong") && line.contains(word)), "{word} is not in:\n{told}");
    }
}

#[tokio::test]
async fn what_is_as_it_should_be_is_told_and_changes_nothing() {
    let world = World::create().await;
    let output = world.output(&["check"], &[]);
    let told = told(&output);
    assert!(output.status.success() && told.lines().all(|line| line.starts_with("ok")), "{told}");
    assert_eq!(world.holder().await, None);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_told_by_name_with_exit_code_2() {
    let world = World::create_empty().await;
    let output = world.output(&["check"], &[("PAGE_SIZE", "many"), ("DATABASE_URL", "postgres://me:s3cret@host/db")]);
    let told = told(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for name in ["PAGE_SIZE must be", "DATABASE_URL and DATABASE_SECRET_FILE are both set"] {
        assert!(told.contains(name), "{name} is not in:\n{told}");
    }
    assert!(!told.contains("s3cret"), "{told}");
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_or_lets_nobody_in_is_named() {
    let world = World::create().await;
    let secret = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut secret = serde_json::from_str(&world.database.secret("functions")).unwrap();
        change(&mut secret);
        let path = std::env::temp_dir().join(format!("{}{}.json", world.prefix, fastrand::u64(..)));
        fs::write(&path, secret.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let wrong_password = secret(&|secret| secret["password"] = "s3cret".into());
    finds(
        &world,
        &[("DATABASE_SECRET_FILE", &wrong_password)],
        &["refuses the user test_functions", "correct the username and password"],
    );
    let unreachable = secret(&|secret| secret["port"] = 1.into());
    finds(&world, &[("DATABASE_SECRET_FILE", &unreachable)], &["cannot be reached", "check DATABASE_HOST"]);
    finds(
        &world,
        &[("ELASTICSEARCH_URL", "http://127.0.0.1:1")],
        &["Elasticsearch at http://127.0.0.1:1/ cannot be reached"],
    );
    let output = world.output(&["check"], &[("DATABASE_SECRET_FILE", &wrong_password)]);
    assert!(!told(&output).contains("s3cret"));
    for file in [wrong_password, unreachable] {
        fs::remove_file(file).unwrap();
    }
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_is_not_known_is_named() {
    let world = World::create().await;
    let ca = variable("DATABASE_CA_FILE");
    let server = TlsServer::start(Path::new(&ca).parent().unwrap());
    let url = format!("https://localhost:{}", server.port);
    finds(&world, &[("ELASTICSEARCH_URL", &url)], &["the certificate of Elasticsearch", "is refused"]);
    // Whom it is by is known then; that it is no Elasticsearch, too.
    let output = world.output(&["check"], &[("ELASTICSEARCH_URL", &url), ("ELASTICSEARCH_CA_FILE", &ca)]);
    let told = told(&output);
    assert!(!told.contains("the certificate of Elasticsearch") && told.contains("wrong"), "{told}");
}

/// With a certificate of the stack's own authority, which no machine knows.
struct TlsServer {
    process: Child,
    port: String,
}

impl TlsServer {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", "-accept", "127.0.0.1:0", "-cert"]).arg(folder.join("server.pem"));
        command.arg("-key").arg(folder.join("server.key")).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut told = lines.map_while(Result::ok).filter(|line| line.starts_with("ACCEPT"));
        let port = told.next().and_then(|line| Some(line.rsplit_once(':')?.1.to_owned())).unwrap();
        Self { process, port }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_missing_schema_role_or_right_is_named() {
    let world = World::create_empty().await;
    finds(&world, &[], &["the schema sluice in the database", "run migrate"]);
    world.migrate();
    finds(&world, &[], &["may not read the schema sluice", "GRANT sluice_app_"]);
    world.database.let_functions_in().await.unwrap();
    world.execute("CREATE TABLE item (id bigint PRIMARY KEY, name text)").await;
    world.define("items", "keyword").await;
    world.execute("SELECT sluice.track('item', stream => 'items', key => 'id')").await;
    world.migrate();
    world.execute("REVOKE ALL ON item FROM PUBLIC; DO $$ BEGIN EXECUTE (SELECT format('REVOKE ALL ON item FROM %s', app) FROM sluice.roles); END $$").await;
    finds(&world, &[], &["stream items for elasticsearch", "may not read its source", "GRANT SELECT ON"]);
}

#[tokio::test]
async fn a_schema_of_another_version_and_a_clock_that_was_set_back_are_named() {
    let world = World::create().await;
    world.execute("UPDATE sluice.schema_history SET checksum = 'another' WHERE version = 0").await;
    finds(&world, &[], &["the schema's functions are of another version"]);
    world.execute("INSERT INTO sluice.schema_history (version, name, checksum) VALUES (99, 'V99__later', '')").await;
    finds(&world, &[], &["the schema sluice has version 99", "run the sluice that migrated it"]);
    world.migrate();
    world.execute("DELETE FROM sluice.schema_history WHERE version = 99; UPDATE sluice.subscription SET reserved = reserved + 3600000000 + (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").await;
    finds(&world, &[], &["the clock of PostgreSQL was set back"]);
}

#[tokio::test]
async fn an_index_of_somebody_else_and_missing_privileges_are_named() {
    let world = World::create().await;
    world.define("taken", "keyword").await;
    let (status, told) = world.search(Method::Put, "/$taken", None).await;
    assert!(status.is_success(), "{told}");
    finds(&world, &[], &["there is an index", "taken that Sluice did not make"]);
    world.search(Method::Delete, "/$taken", None).await;
}
