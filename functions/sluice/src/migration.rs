//! `sluice migrate`, `replay`, `reindex`, `rebase` and `uninstall`.

use migrate::{Command, Config, Migrate, Report};

use crate::environment::Environment;
use crate::{Ended, run, say, tell};

/// Runs one of them, as the owner of the schema.
pub async fn run(environment: &Environment, command: Command) -> Ended {
    let config = match environment.checked(Config::from_env(environment.owners())) {
        Ok(config) => config,
        Err(problems) => return Ended::Wrong(problems),
    };
    telemetry::init_in("migrate", &environment.quiet());
    let (_, secrets) = run::clients(environment).await;
    match Migrate::new(config, secrets).run(command, &mut Report::new(say)).await {
        Ok(()) => Ended::Well,
        Err(error) => {
            tell(&error.to_string());
            Ended::Badly
        }
    }
}
