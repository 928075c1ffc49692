//! Streams whose sources are left alone for a while.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// After the first failure, doubled by each that follows it.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);

/// Which streams rest, and until when: their changes travel without documents, and delay nobody.
#[derive(Debug, Default)]
pub struct Rests(HashMap<String, (Instant, Duration)>);

impl Rests {
    /// Whether the stream's source is not to be asked now.
    pub fn is_resting(&self, stream: &str) -> bool {
        self.left(stream).is_some()
    }

    /// Its source failed, or took too long, or its target does not take it: for how long it rests.
    pub fn begin(&mut self, stream: &str) -> Duration {
        let pause = self.0.get(stream).map_or(SHORTEST, |(_, last)| (*last * 2).min(LONGEST));
        self.0.insert(stream.to_owned(), (Instant::now() + pause, pause));
        pause
    }

    /// How much longer it rests.
    pub fn left(&self, stream: &str) -> Option<Duration> {
        self.0
            .get(stream)
            .map(|(until, _)| until.saturating_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
    }

    /// Its source answered: whether it had failed before.
    pub fn end(&mut self, stream: &str) -> bool {
        self.0.remove(stream).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_rests_longer_with_each_failure_and_not_at_all_once_it_answers() {
        let mut rests = Rests::default();
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            rests.begin("slow");
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(rests.is_resting("slow") && !rests.is_resting("another"), "{seconds}");
            tokio::time::advance(Duration::from_millis(2)).await;
            assert!(!rests.is_resting("slow"), "{seconds}");
        }
        assert!(rests.end("slow") && !rests.end("slow"));
        rests.begin("slow");
        tokio::time::advance(SHORTEST).await;
        assert!(!rests.is_resting("slow"));
    }
}
