//! What the tests stand on: the servers that `make up` started, and a database of one's own on them.
//!
//! The servers' addresses come from the environment (`make env`, which `make test` sets). Without them a test fails; it
//! never skips.

mod control;
mod database;
mod elasticsearch;
mod proxy;
mod run;
mod searcher;
mod server;
mod wait;

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result};

pub use control::Service;
pub use database::{APP_ROLE, Database, migrations};
pub use elasticsearch::elasticsearch_secret;
pub use proxy::{Fate, Proxy};
pub use run::{Run, rewrite_sluice_file, sluice, sluice_file};
pub use searcher::{Measure, Searcher, Sought};
pub use server::Server;
pub use wait::{PATIENCE, eventually, eventually_within};

/// A variable that `make test` sets.
///
/// # Panics
/// Where it is missing, with what to do.
pub fn variable(name: &str) -> String {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!(
            "{name} is not set: the tests need the local stack. Run `make test`, or `eval \"$(make -s env STACK=test)\"`."
        ),
    }
}

/// Where the repository is, of the folder in which cargo runs a test. Not where it was compiled: two clones may share what cargo
/// builds.
fn repository() -> Result<PathBuf> {
    let folder = std::env::current_dir()?;
    let root = folder.ancestors().find(|folder| folder.join("Cargo.lock").exists());
    root.map(PathBuf::from).with_context(|| format!("{} is in no clone of the repository", folder.display()))
}

/// A variable that repeats a test or makes it longer, such as SEED. `None`: it is not set.
///
/// # Panics
/// Where its value is none of this type.
pub fn parameter<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no {}", std::any::type_name::<T>())))
}
