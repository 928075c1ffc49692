//! What changes in a second: made up from its number.

use std::ops::RangeInclusive;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Builder;

use crate::Config;

const GIVEN_NAMES: [&str; 8] = ["Ada", "Alan", "Barbara", "Edsger", "Grace", "John", "Margaret", "Tony"];
const FAMILY_NAMES: [&str; 8] = ["Backus", "Dijkstra", "Hamilton", "Hoare", "Hopper", "Liskov", "Lovelace", "Turing"];

/// What came in these seconds of the epoch: one profile each, and here and there one more.
pub fn changes(config: &Config, seconds: RangeInclusive<u64>) -> Vec<Value> {
    let mut changes = vec![];
    for second in seconds {
        // By the second alone, so that the same one gives the same whenever it is asked for.
        let mut chance = fastrand::Rng::with_seed(config.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ second);
        let mut change = profile(config, second);
        if chance.f64() < config.invalid {
            spoil(config, &mut change, second, chance.u8(..8));
        }
        let is_twice = chance.f64() < config.duplicate;
        if chance.f64() < config.outdated {
            changes.push(profile(config, second.saturating_sub(config.profiles)));
        }
        if is_twice {
            changes.push(change.clone());
        }
        changes.push(change);
    }
    changes
}

/// The profile whose turn it is, as it is from then on.
fn profile(config: &Config, second: u64) -> Value {
    let number = second % config.profiles;
    let mut own = fastrand::Rng::with_seed(config.seed ^ (number << 20));
    let id = Builder::from_random_bytes(own.u128(..).to_be_bytes()).into_uuid();
    let given = GIVEN_NAMES[own.usize(..8)];
    // Something that changes each time: the family name, and the status.
    let turn = second / config.profiles;
    let family = FAMILY_NAMES[usize::try_from((turn + number) % 8).unwrap_or(0)];
    json!({
        "id": id.to_string(),
        "name": format!("{given} {family}"),
        "email": email(given, number),
        "mobile": format!("+4915{number:09}"),
        "status": if (turn + number).is_multiple_of(4) { "pending" } else { "active" },
        "last_updated_at": rfc3339(second),
    })
}

fn email(given: &str, number: u64) -> String {
    format!("{}.{number}@example.com", given.to_ascii_lowercase())
}

/// Makes it invalid in one of eight ways.
fn spoil(config: &Config, profile: &mut Value, second: u64, way: u8) {
    let (field, value) = match way {
        0 => ("id", json!(second)),
        1 => ("name", json!(" ")),
        2 => ("email", json!("at example.com")),
        3 => ("mobile", json!("0151 23456789")),
        4 => ("status", json!("deleted")),
        5 => ("last_updated_at", json!("yesterday")),
        6 => ("last_updated_at", json!(rfc3339(second + 365 * 24 * 3600))),
        // The neighbour's.
        _ => ("email", self::profile(config, second + 1)["email"].take()),
    };
    profile[field] = value;
}

fn rfc3339(second: u64) -> String {
    let at = i64::try_from(second).ok().and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use config::Env;

    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        Config::from_env(Env::from_pairs(pairs.iter().copied())).unwrap()
    }

    #[test]
    fn the_same_seconds_give_the_same_changes_and_another_seed_gives_others() {
        let one = changes(&config(&[]), 1000..=1200);
        assert_eq!(one, changes(&config(&[]), 1000..=1200));
        assert_eq!(one, [changes(&config(&[]), 1000..=1100), changes(&config(&[]), 1101..=1200)].concat());
        assert_ne!(one, changes(&config(&[("ORIGIN_SEED", "2")]), 1000..=1200));
    }

    #[test]
    fn without_shares_each_profile_has_its_turn_with_an_id_an_email_and_a_mobile_of_its_own() {
        let pure = config(&[
            ("ORIGIN_INVALID", "0"),
            ("ORIGIN_DUPLICATE", "0"),
            ("ORIGIN_OUTDATED", "0"),
            ("ORIGIN_PROFILES", "5000"),
        ]);
        let all = changes(&pure, 1_700_000_000..=1_700_004_999);
        for field in ["id", "email", "mobile"] {
            assert_eq!(
                all.iter().map(|change| change[field].to_string()).collect::<HashSet<_>>().len(),
                5000,
                "{field}"
            );
        }
        assert_eq!(all[0]["last_updated_at"], "2023-11-14T22:13:20Z");
        let next_turn = changes(&pure, 1_700_005_000..=1_700_005_000);
        assert_eq!(next_turn[0]["id"], all[0]["id"]);
        assert_ne!(next_turn[0]["name"], all[0]["name"]);
    }

    #[test]
    fn the_shares_are_kept() {
        let many = |name| {
            let pairs = [("ORIGIN_INVALID", "0"), ("ORIGIN_DUPLICATE", "0"), ("ORIGIN_OUTDATED", "0")];
            changes(
                &config(&pairs.map(|(known, share)| (known, if known == name { "0.5" } else { share }))),
                10_000..=19_999,
            )
        };
        assert!((14_500..15_500).contains(&many("ORIGIN_DUPLICATE").len()));
        assert!((14_500..15_500).contains(&many("ORIGIN_OUTDATED").len()));
        let (pure, spoiled) = (many(""), many("ORIGIN_INVALID"));
        let differ = pure.iter().zip(&spoiled).filter(|(one, other)| one != other).count();
        assert!((4500..5500).contains(&differ), "{differ}");
    }
}
