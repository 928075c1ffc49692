use std::time::Duration;

use config::Env;

/// What a drainer is told by its environment, wherever it drains to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose changes to drain: the position, and the streams.
    pub subscription: String,
    /// DRAIN=once: end as soon as nothing is left, for those who prefer the bill to the pace.
    pub is_once: bool,
    /// STAY: how long one invocation polls, at most; it ends in time before its deadline in any case.
    pub stay: Duration,
    /// POLL_INTERVAL: between two looks at a log that has nothing new. Where nothing comes for longer, it grows to a tenth of a
    /// second.
    pub poll_interval: Duration,
    /// PAGE_SIZE: rows of the log that are read at once, under one version.
    pub page_size: i32,
    /// RETENTION: how long rows stay in the log after every subscription has passed them.
    pub retention: Duration,
}

/// The longest pause between two looks, if POLL_INTERVAL is none.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The pause after this one, which found nothing, either.
pub(crate) fn longer(pause: Duration, poll_interval: Duration) -> Duration {
    (pause * 2).min(poll_interval.max(LONGEST_PAUSE))
}

impl Settings {
    /// Reads them for a subscription; what is wrong is noted in `env`.
    pub fn from_env(subscription: &str, env: &mut Env) -> Self {
        let settings = Self {
            subscription: subscription.to_owned(),
            is_once: env.parsed("DRAIN", "stay".to_owned(), "stay or once", |drain| drain == "stay" || drain == "once")
                == "once",
            stay: env.duration("STAY", Duration::from_secs(55)),
            poll_interval: env.duration("POLL_INTERVAL", Duration::from_millis(100)),
            page_size: env.parsed("PAGE_SIZE", 2000, "a number of rows from 1 to 10000", |n| (1..=10_000).contains(n)),
            retention: env.duration("RETENTION", Duration::from_secs(7 * 24 * 3600)),
        };
        // A holder that is silent for ten seconds counts as gone.
        if settings.poll_interval > Duration::from_secs(5) {
            env.problem("POLL_INTERVAL must be 5s or less: a longer silence looks like a drainer that is gone");
        }
        settings
    }
}
