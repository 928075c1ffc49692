//! `sluice validate`: a round of the validator, and what it found.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use validate::{Config, Validator};

use crate::environment::Environment;
use crate::{Ended, run, say, tell};

/// For one turn; it answers earlier.
const TURN: Duration = Duration::from_secs(60);
/// Differences that nobody has to do something about.
const EXPLAINED: [&str; 2] = ["dead_lettered", "waiting"];

/// Compares these streams, in these targets. Progress and the result are lines of words.
pub async fn validate(
    environment: &Environment,
    stream: Option<String>,
    target: Option<String>,
    repair: bool,
    dry_run: bool,
) -> Ended {
    let config = match environment.checked(Config::from_env(environment.env())) {
        Ok(config) => config,
        Err(problems) => return Ended::Wrong(problems),
    };
    telemetry::init_in("validate", &environment.quiet());
    let (_, secrets) = run::clients(environment).await;
    let validator = Validator::new(config, secrets);
    match compare(&validator, stream, target, repair, dry_run).await {
        Ok(rows) if rows.iter().map(tell_result).fold(true, |all, is_consistent| all & is_consistent) => Ended::Well,
        Ok(_) => Ended::Badly,
        Err(error) => {
            tell(&error.to_string());
            Ended::Badly
        }
    }
}

async fn compare(
    validator: &Validator,
    stream: Option<String>,
    target: Option<String>,
    repair: bool,
    dry_run: bool,
) -> Result<Vec<Value>, validate::Error> {
    let begin = json!({
        "command": "begin", "stream": stream, "target": target, "repair": repair, "dry_run": dry_run, "actor": "sluice validate",
    });
    let begun = Box::pin(validator.handle(begin, SystemTime::now() + TURN)).await?;
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let go_on = json!({"command": "go_on", "streams": begun["streams"], "target": target});
        let mut answer = Box::pin(validator.handle(go_on, SystemTime::now() + TURN)).await?;
        let Some(Value::Array(rows)) = answer.get_mut("streams").map(Value::take) else { return Ok(vec![]) };
        if answer["finished"] == true {
            return Ok(rows);
        }
        for row in &rows {
            let progress = format!(
                "{}: {}, {} compared, {} of the target{}",
                name(row),
                word(&row["state"]),
                row["checked"],
                row["walked"],
                row["problem"].as_str().map(|problem| format!(", and waits: {problem}")).unwrap_or_default()
            );
            if told.insert(name(row), progress.clone()).as_ref() != Some(&progress) {
                say(&progress);
            }
        }
    }
}

/// One stream in one target: whether it is as its source.
fn tell_result(row: &Value) -> bool {
    let mut is_consistent = true;
    let mut found = vec![];
    for class in row["classes"].as_array().into_iter().flatten() {
        let (kind, state) = (word(&class["class"]), word(&class["state"]));
        found.push(format!("{} {kind} ({state})", class["count"]));
        is_consistent &= EXPLAINED.contains(&kind) || state == "repaired";
    }
    // A stream that is fed by emit has no source to be compared with: that is as it should be.
    let verdict = row["verdict"].as_str().unwrap_or("none yet");
    let problem = row["problem"].as_str().map(|problem| format!(": {problem}")).unwrap_or_default();
    let found = if found.is_empty() { String::new() } else { format!(", {}", found.join(", ")) };
    say(&format!("{}: {verdict}, {} compared{found}{problem}", name(row), row["checked"]));
    is_consistent && (verdict == "equal" || verdict == "different" || is_without_source(row))
}

/// The validator's own words.
fn is_without_source(row: &Value) -> bool {
    let problem = row["problem"].as_str().unwrap_or_default();
    problem.is_empty() || ["emit", "no index yet", "no table yet"].iter().any(|word| problem.contains(word))
}

fn name(row: &Value) -> String {
    format!("{} in {}", word(&row["stream"]), word(&row["subscription"]))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
