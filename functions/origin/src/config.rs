use config::{Env, Error};

/// What the environment says, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// ORIGIN_SEED: another one gives other profiles.
    pub seed: u64,
    /// ORIGIN_PROFILES: how many there are. Each changes once in as many seconds.
    pub profiles: u64,
    /// ORIGIN_BATCH: changes in an answer, and in a page.
    pub batch: u64,
    /// ORIGIN_INVALID: the share of changes that are no valid profile, from 0 to 1.
    pub invalid: f64,
    /// ORIGIN_DUPLICATE: the share of changes that come twice.
    pub duplicate: f64,
    /// ORIGIN_OUTDATED: the share of changes behind which the profile's one before comes again.
    pub outdated: f64,
    /// ORIGIN_TOKEN: the bearer token that is asked for, if any.
    pub token: Option<String>,
}

impl Config {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is malformed, by name.
    pub fn from_env(mut env: Env) -> Result<Self, Error> {
        let (share, is_share) = ("a share from 0 to 1", |share: &f64| (0.0..=1.0).contains(share));
        let config = Self {
            seed: env.parsed("ORIGIN_SEED", 1, "a whole number", |_| true),
            profiles: env
                .parsed("ORIGIN_PROFILES", 1000, "a number from 1 to 1000000", |n| (1..=1_000_000).contains(n)),
            batch: env.parsed("ORIGIN_BATCH", 100, "a number from 1 to 10000", |n| (1..=10_000).contains(n)),
            invalid: env.parsed("ORIGIN_INVALID", 0.02, share, is_share),
            duplicate: env.parsed("ORIGIN_DUPLICATE", 0.02, share, is_share),
            outdated: env.parsed("ORIGIN_OUTDATED", 0.02, share, is_share),
            token: env.optional("ORIGIN_TOKEN"),
        };
        env.finish()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let pairs = [("ORIGIN_PROFILES", "0"), ("ORIGIN_BATCH", "many"), ("ORIGIN_INVALID", "1.5")];
        let text = Config::from_env(Env::from_pairs(pairs)).unwrap_err().to_string();
        for (name, _) in pairs {
            assert!(text.contains(name), "{name} is not named in: {text}");
        }
    }
}
