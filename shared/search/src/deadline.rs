use std::time::Duration;

use tokio::time::Instant;

/// Less than this is not worth a request: it would be cut off, and done again.
const WORTH_A_REQUEST: Duration = Duration::from_millis(200);

/// When work must have ended.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// At this instant.
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The same, sooner.
    pub fn less(self, margin: Duration) -> Self {
        Self(self.0.checked_sub(margin).unwrap_or_else(Instant::now))
    }

    /// The same, or sooner: after so much time.
    pub fn at_most(self, time: Duration) -> Self {
        Self(self.0.min(Instant::now() + time))
    }

    /// An equal share of the time until then, for one of so many.
    pub fn share(self, of: usize) -> Self {
        let now = Instant::now();
        let share = self.0.saturating_duration_since(now) / u32::try_from(of.max(1)).unwrap_or(u32::MAX);
        Self(now + share)
    }

    /// When a share of reading has to end, so that what was read last can still be written.
    pub fn to_read(self) -> Self {
        let now = Instant::now();
        Self(now + self.0.saturating_duration_since(now) * 3 / 4)
    }

    /// The instant.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time for one more request, or `None` where it is too little for one.
    pub fn remaining(self) -> Option<Duration> {
        let remaining = self.0.saturating_duration_since(Instant::now());
        (remaining >= WORTH_A_REQUEST).then_some(remaining)
    }
}
