//! The functions' processes.

use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A process of a function: resting, at work, or not there.
pub struct Process<T, Done = T> {
    pub resting: Option<T>,
    pub task: Option<JoinHandle<Done>>,
    /// When Lambda ends it.
    pub deadline: Instant,
}

impl<T, Done> Process<T, Done> {
    pub fn new() -> Self {
        Self { resting: None, task: None, deadline: Instant::now() }
    }

    pub fn is_at_work(&self) -> bool {
        self.task.is_some()
    }

    /// What it holds, and what it has asked for and not got, is gone.
    pub fn kill(&mut self) {
        self.resting = None;
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    pub async fn finished(&mut self) -> Option<Done> {
        let task = self.task.take_if(|task| task.is_finished())?;
        match task.await {
            Ok(done) => Some(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => None,
        }
    }

    pub fn kill_if_at_work(&mut self) {
        if self.is_at_work() {
            self.kill();
        }
    }
}
