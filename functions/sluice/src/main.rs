//! `sluice`: all functions' libraries in one binary, for whoever does not run them on AWS.

mod arguments;
mod check;
mod direct;
mod environment;
mod migration;
mod plan;
mod run;
mod serve;
mod validation;
mod worker;

use std::process::ExitCode;

use clap::Parser as _;
use migrate::{Command as Migration, Reindex, Replay};
use tokio::runtime;

use crate::arguments::{Action, Arguments, Command};
use crate::environment::Environment;

/// The arguments or the configuration are wrong.
const WRONG: u8 = 2;

/// How a command ended.
pub enum Ended {
    /// All was done, and is so.
    Well,
    /// It failed, or what was asked is not so. It was told.
    Badly,
    /// The configuration is wrong: sentences that say how.
    Wrong(Vec<String>),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = Environment::load(arguments.env_file.as_deref());
    secrets::install_crypto_provider();
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(&format!("the runtime does not start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // Boxed: nested as they are, their types are too deep for the compiler.
    let ended = runtime.block_on(async {
        match arguments.command {
            Command::Run { parts } => Box::pin(run::run(&environment, &parts)).await,
            Command::Check => Box::pin(check::check(&environment)).await,
            Command::Validate { stream, target, repair, dry_run } => {
                Box::pin(validation::validate(&environment, stream, target, repair, dry_run)).await
            }
            Command::Migrate => Box::pin(migration::run(&environment, Migration::Migrate)).await,
            Command::Replay { from, target, stream, dry_run } => {
                let replay = Replay { from, target: Some(target), stream, dry_run };
                Box::pin(migration::run(&environment, Migration::Replay(replay))).await
            }
            Command::Reindex { stream, action, accept_dead_letters } => {
                let action = match action {
                    Action::Begin => migrate::Action::Begin,
                    Action::Status => migrate::Action::Status,
                    Action::Takeover => migrate::Action::Takeover,
                    Action::Rollback => migrate::Action::Rollback,
                    Action::Abort => migrate::Action::Abort,
                };
                let reindex = Reindex { stream, action, accept_dead_letters };
                Box::pin(migration::run(&environment, Migration::Reindex(reindex))).await
            }
            Command::Rebase => Box::pin(migration::run(&environment, Migration::Rebase)).await,
            Command::Uninstall => Box::pin(migration::run(&environment, Migration::Uninstall)).await,
        }
    });
    // What is still under way has nobody who waits for it.
    runtime.shutdown_background();
    match ended {
        Ended::Well => ExitCode::SUCCESS,
        Ended::Badly => ExitCode::FAILURE,
        Ended::Wrong(problems) => {
            tell("the configuration is wrong:");
            problems.iter().for_each(|problem| tell(&format!("  {problem}")));
            ExitCode::from(WRONG)
        }
    }
}

/// A line for whoever typed the command.
#[allow(clippy::print_stdout, reason = "the words of a command belong there")]
pub fn say(line: &str) {
    println!("{line}");
}

/// What went wrong.
#[allow(clippy::print_stderr, reason = "the failure of a command belongs there")]
pub fn tell(line: &str) {
    eprintln!("{line}");
}
