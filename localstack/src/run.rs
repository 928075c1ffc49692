use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::variable;

/// How Sluice runs in the stack that the tests share: SLUICE_RUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// As functions that are deployed.
    Functions,
    /// As one process, which writes straight to Elasticsearch.
    Direct,
    /// As one process, which goes through a queue.
    Queue,
}

impl Run {
    /// What `make up` was told.
    ///
    /// # Panics
    /// Where SLUICE_RUN says something else.
    pub fn of_the_stack() -> Self {
        match variable("SLUICE_RUN").as_str() {
            "functions" => Self::Functions,
            "direct" => Self::Direct,
            "queue" => Self::Queue,
            other => panic!("SLUICE_RUN={other} is none of functions, direct and queue"),
        }
    }

    /// Whether changes go through SQS.
    pub fn has_queue(self) -> bool {
        self != Self::Direct
    }
}

/// `sluice` with these words, configured as the stack's own process, and by nothing of this shell.
pub fn sluice(words: &[&str]) -> Command {
    let mut command = Command::new(variable("SLUICE_BINARY"));
    command.env_clear().arg("--env-file").arg(sluice_file("variables")).args(words);
    command
}

/// A file that the stack's process reads, or its log.
pub fn sluice_file(name: &str) -> PathBuf {
    PathBuf::from(variable("SLUICE_FOLDER")).join(name)
}

/// Puts another text into such a file; whoever reads it meanwhile gets all of the old one, or of the new one.
pub fn rewrite_sluice_file(name: &str, text: &str) -> Result<()> {
    let (file, scratch) = (sluice_file(name), sluice_file(&format!("{name}.new")));
    fs::write(&scratch, text).and_then(|()| fs::rename(&scratch, &file)).with_context(|| file.display().to_string())
}
