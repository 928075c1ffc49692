//! Where the configuration comes from: the environment, a file of variables beside it, and credentials in any of their ways.
//!
//! The parts know one way, the name of a secret. So each of the others becomes one here: a file is a secret by its path, and what
//! a variable holds is a secret by the variable's name.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use config::Env;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use url::Url;

/// What has credentials, with the variable that may hold all of it.
const CREDENTIALS: [(&str, Option<&str>); 8] = [
    ("DATABASE", Some("DATABASE_URL")),
    ("MIGRATE_DATABASE", Some("MIGRATE_DATABASE_URL")),
    ("ELASTICSEARCH", Some("ELASTICSEARCH_URL")),
    ("CLICKHOUSE", Some("CLICKHOUSE_URL")),
    ("KAFKA", None),
    ("ORIGIN", None),
    ("ACCOUNTS", None),
    ("ADMIN", Some("ADMIN_TOKEN")),
];
/// What a certificate's variable may be given as: a file.
const AUTHORITIES: [&str; 2] = ["DATABASE_CA", "ELASTICSEARCH_CA"];
/// A server of one's own is asked more often than one that is paid for by the request.
const POLL_INTERVAL: (&str, &str) = ("POLL_INTERVAL", "20ms");
/// What a function is told that lives for a minute.
const OF_FUNCTIONS: [&str; 2] = ["DRAIN", "STACK_NAME"];
/// A secret whose tokens open nothing.
const NO_TOKENS: &str = "no tokens";
/// What is read when nobody names another.
const DEFAULT_FILE: &str = ".env";

/// The variables, as the parts know them.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    values: HashMap<String, String>,
    /// Credentials that a variable holds, by its name. Secret.
    given: HashMap<String, String>,
    problems: Vec<String>,
}

impl Environment {
    /// Of this process, and of a file: `.env` of the working directory, if it is there and no other is named. Where both name a
    /// variable, the environment's counts.
    pub fn load(file: Option<&Path>) -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let mut environment = Self {
            values: std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect(),
            ..Self::default()
        };
        if file.is_some() || Path::new(DEFAULT_FILE).exists() {
            environment.read(file.unwrap_or(Path::new(DEFAULT_FILE)));
        }
        environment.prepare();
        environment
    }

    /// Variables given by hand.
    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let values = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut environment = Self { values, ..Self::default() };
        environment.prepare();
        environment
    }

    /// For a part that reads its configuration.
    pub fn env(&self) -> Env {
        Env::from_pairs(self.values.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// For the log of a command whose words are its answer: only what goes wrong.
    pub fn quiet(&self) -> Env {
        let mut values = self.values.clone();
        values.entry("LOG_LEVEL".to_owned()).or_insert_with(|| "warn".to_owned());
        Env::from_pairs(values)
    }

    /// The same for migrate, which is the owner where one is named.
    pub fn owners(&self) -> Env {
        let mut values = self.values.clone();
        if let Some(owner) = values.get("MIGRATE_DATABASE_SECRET_ARN").cloned() {
            values.insert("DATABASE_SECRET_ARN".to_owned(), owner);
        }
        Env::from_pairs(values)
    }

    /// The same for the admin's API. Its metrics are served where no token opens the rest, too.
    pub fn with_tokens(&self) -> Env {
        let mut values = self.values.clone();
        values.entry("ADMIN_SECRET_ARN".to_owned()).or_insert_with(|| NO_TOKENS.to_owned());
        Env::from_pairs(values)
    }

    /// Whether a variable says something.
    pub fn has(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| !value.trim().is_empty())
    }

    /// Whether AWS is asked for anything.
    pub fn needs_aws(&self) -> bool {
        let is_arn = |(name, value): (&String, &String)| name.ends_with("_SECRET_ARN") && value.starts_with("arn:");
        let is_signed = self.values.get("ELASTICSEARCH_AUTH").is_some_and(|auth| auth == "iam");
        self.has("QUEUE_URL") || self.has("AWS_REGION") || is_signed || self.values.iter().any(is_arn)
    }

    /// Credentials that were given by variables.
    pub fn given(&self) -> HashMap<String, String> {
        let mut given = self.given.clone();
        given.insert(NO_TOKENS.to_owned(), r#"{"operator": "", "reader": ""}"#.to_owned());
        given
    }

    /// What is wrong with how the variables were given, and with what a part says of them: in the words of who set them.
    pub fn problems(&self, of_parts: Vec<String>) -> Vec<String> {
        let mut told = self.problems.clone();
        for mut problem in of_parts {
            for (name, variable) in CREDENTIALS {
                if problem == format!("{name}_SECRET_ARN is missing")
                    && let Some(variable) = variable
                {
                    problem = format!("{variable} is missing, or in its place {name}_SECRET_FILE or {name}_SECRET_ARN");
                }
            }
            if !told.contains(&problem) {
                told.push(problem);
            }
        }
        told
    }

    /// What a command has read of it, if nothing is wrong.
    ///
    /// # Errors
    /// All that is, as [`problems`](Self::problems) tells it.
    pub fn checked<T>(&self, read: Result<T, config::Error>) -> Result<T, Vec<String>> {
        let (config, of_parts) = match read {
            Ok(config) => (Some(config), vec![]),
            Err(error) => (None, error.problems),
        };
        let problems = self.problems(of_parts);
        config.filter(|_| problems.is_empty()).ok_or(problems)
    }

    fn read(&mut self, file: &Path) {
        let Ok(variables) = dotenvy::from_path_iter(file) else {
            return self.problems.push(format!("the file {} cannot be read", file.display()));
        };
        for variable in variables {
            match variable {
                Ok((name, value)) => {
                    self.values.entry(name).or_insert(value);
                }
                // Its words quote the line, which may be a password.
                Err(_) => {
                    return self
                        .problems
                        .push(format!("the file {} has a line that is not NAME=value", file.display()));
                }
            }
        }
    }

    fn prepare(&mut self) {
        self.values.retain(|name, value| !value.trim().is_empty() && !OF_FUNCTIONS.contains(&name.as_str()));
        self.values.entry(POLL_INTERVAL.0.to_owned()).or_insert_with(|| POLL_INTERVAL.1.to_owned());
        for name in AUTHORITIES {
            self.read_authority(name);
        }
        for (name, variable) in CREDENTIALS {
            self.find_credentials(name, variable);
        }
    }

    fn read_authority(&mut self, name: &str) {
        let Some(path) = self.values.get(&format!("{name}_FILE")).cloned() else { return };
        if self.values.contains_key(name) {
            return self.problems.push(format!("{name} and {name}_FILE are both set: one of them is enough"));
        }
        match fs::read_to_string(&path) {
            Ok(pem) => {
                self.values.insert(name.to_owned(), pem);
            }
            Err(error) => self.problems.push(format!("{name}_FILE: {path} cannot be read: {error}")),
        }
    }

    fn find_credentials(&mut self, name: &str, variable: Option<&'static str>) {
        let (file, arn) = (format!("{name}_SECRET_FILE"), format!("{name}_SECRET_ARN"));
        let ways = [variable.unwrap_or_default(), &file, &arn].map(str::to_owned);
        let used: Vec<&String> = ways.iter().filter(|way| self.values.contains_key(*way)).collect();
        if used.len() > 1 {
            let used: Vec<&str> = used.into_iter().map(String::as_str).collect();
            self.problems.push(format!("{} are both set: one of them is enough", used.join(" and ")));
            // So that nobody says that there is none.
            self.values.insert(arn, name.to_owned());
            return;
        }
        if let Some(path) = self.values.get(&file) {
            let reference = format!("file:{path}");
            self.values.insert(arn, reference);
        } else if let Some(variable) = variable
            && let Some(value) = self.values.get(variable).cloned()
        {
            match self.credentials_of(variable, &value) {
                Ok(credentials) => {
                    self.given.insert(variable.to_owned(), credentials.to_string());
                    self.values.insert(arn, variable.to_owned());
                }
                Err(problem) => {
                    self.problems.push(format!("{variable} {problem}"));
                    self.values.insert(arn, variable.to_owned());
                }
            }
        }
    }

    /// As the secret has them.
    fn credentials_of(&mut self, variable: &str, value: &str) -> Result<Value, String> {
        match variable {
            "ADMIN_TOKEN" => {
                let token = |name: &str| self.values.get(name).cloned().unwrap_or_default();
                Ok(json!({"operator": value, "reader": token("READER_TOKEN"), "metrics": token("METRICS_TOKEN")}))
            }
            "ELASTICSEARCH_URL" => {
                let (mut url, user, password) = server(value, &["http", "https"], "https://user:password@host:9200")?;
                url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| "is no URL".to_owned())?;
                let mut credentials = Map::from_iter([("url".to_owned(), json!(url.as_str()))]);
                if let Some(key) = self.values.get("ELASTICSEARCH_API_KEY") {
                    credentials.insert("api_key".to_owned(), json!(key));
                } else if !user.is_empty() {
                    credentials
                        .extend([("username".to_owned(), json!(user)), ("password".to_owned(), json!(password))]);
                }
                Ok(Value::Object(credentials))
            }
            "CLICKHOUSE_URL" => {
                let (mut url, user, password) =
                    server(value, &["http", "https"], "https://user:password@host:8443/database")?;
                let database = decoded(url.path().trim_matches('/'));
                url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| "is no URL".to_owned())?;
                url.set_path("");
                let user = if user.is_empty() { "default".to_owned() } else { user };
                Ok(json!({"url": url.as_str(), "username": user, "password": password, "database": database}))
            }
            _ => self.database(value),
        }
    }

    fn database(&mut self, value: &str) -> Result<Value, String> {
        const FORM: &str = "postgres://user:password@host:5432/database?sslmode=verify-full";
        let (url, user, password) = server(value, &["postgres", "postgresql"], FORM)?;
        let name = decoded(url.path().trim_matches('/'));
        if user.is_empty() || name.is_empty() {
            return Err(format!("must name a user and a database, as in {FORM}"));
        }
        for (parameter, mode) in url.query_pairs() {
            if parameter != "sslmode" {
                return Err(format!("has a parameter {parameter}, and knows sslmode alone"));
            }
            // What is wrong with it, its reader says.
            self.values.entry("DATABASE_SSLMODE".to_owned()).or_insert_with(|| mode.into_owned());
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let mut login = json!({"username": user, "password": password, "host": host, "dbname": name});
        if let Some(port) = url.port() {
            login["port"] = port.into();
        }
        Ok(login)
    }
}

/// A URL of one of these schemes, its user and its password.
fn server(value: &str, schemes: &[&str], form: &str) -> Result<(Url, String, String), String> {
    let url = Url::parse(value.trim()).ok().filter(|url| schemes.contains(&url.scheme()) && url.has_host());
    let url = url.ok_or_else(|| format!("must be a URL, as in {form}"))?;
    let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
    Ok((url, user, password))
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(variable: &str, environment: &Environment) -> Value {
        serde_json::from_str(&environment.given[variable]).unwrap()
    }

    #[test]
    fn a_url_is_the_secret_that_a_part_asks_for() {
        let environment = Environment::of(&[
            ("DATABASE_URL", "postgres://app:p%40ss@db.example.com:6432/shop?sslmode=require"),
            ("ELASTICSEARCH_URL", "https://elastic:p%2Fss@es.example.com:9200"),
            ("CLICKHOUSE_URL", "http://ch.example.com:8123/shop"),
            ("ADMIN_TOKEN", "an operator's"),
            ("READER_TOKEN", "a reader's"),
        ]);
        assert_eq!(environment.problems(vec![]), Vec::<String>::new());
        assert_eq!(environment.env().optional("DATABASE_SECRET_ARN").as_deref(), Some("DATABASE_URL"));
        assert_eq!(environment.env().optional("DATABASE_SSLMODE").as_deref(), Some("require"));
        assert_eq!(
            given("DATABASE_URL", &environment),
            json!({"username": "app", "password": "p@ss", "host": "db.example.com", "port": 6432, "dbname": "shop"})
        );
        assert_eq!(
            given("ELASTICSEARCH_URL", &environment),
            json!({"url": "https://es.example.com:9200/", "username": "elastic", "password": "p/ss"})
        );
        assert_eq!(
            given("CLICKHOUSE_URL", &environment),
            json!({"url": "http://ch.example.com:8123/", "username": "default", "password": "", "database": "shop"})
        );
        let tokens = json!({"operator": "an operator's", "reader": "a reader's", "metrics": ""});
        assert_eq!(given("ADMIN_TOKEN", &environment), tokens);
        assert!(!environment.needs_aws());
    }

    #[test]
    fn a_file_and_an_arn_are_secrets_by_their_names() {
        let environment = Environment::of(&[
            ("DATABASE_SECRET_FILE", "/run/secrets/database"),
            ("KAFKA_SECRET_ARN", "arn:aws:secretsmanager:eu-central-1:1:secret:kafka"),
        ]);
        let env = environment.env();
        assert_eq!(env.optional("DATABASE_SECRET_ARN").as_deref(), Some("file:/run/secrets/database"));
        assert!(environment.needs_aws());
    }

    #[test]
    fn whoever_signs_requests_asks_aws_for_credentials() {
        assert!(Environment::of(&[("ELASTICSEARCH_AUTH", "iam")]).needs_aws());
        assert!(!Environment::of(&[("ELASTICSEARCH_AUTH", "secret")]).needs_aws());
    }

    #[test]
    fn what_is_wrong_is_told_by_name_and_without_a_value() {
        let environment = Environment::of(&[
            ("DATABASE_URL", "mysql://me:s3cret@host/db"),
            ("ELASTICSEARCH_URL", "https://me:s3cret@host"),
            ("ELASTICSEARCH_SECRET_FILE", "/run/s3cret"),
            ("MIGRATE_DATABASE_URL", "postgres://me:s3cret@host"),
        ]);
        let told = environment.problems(vec!["CLICKHOUSE_SECRET_ARN is missing".to_owned()]).join("\n");
        for part in [
            "DATABASE_URL must be a URL, as in postgres://",
            "ELASTICSEARCH_URL and ELASTICSEARCH_SECRET_FILE are both set",
            "MIGRATE_DATABASE_URL must name a user and a database",
            "CLICKHOUSE_URL is missing, or in its place CLICKHOUSE_SECRET_FILE or CLICKHOUSE_SECRET_ARN",
        ] {
            assert!(told.contains(part), "{part} is not told in:\n{told}");
        }
        assert!(!told.contains("s3cret"), "{told}");
    }

    #[test]
    fn migrate_is_the_owner_where_one_is_named() {
        let app = ("DATABASE_URL", "postgres://app@host/db");
        let owner = ("MIGRATE_DATABASE_URL", "postgres://owner@host/db");
        let secret = |pairs: &[(&str, &str)]| Environment::of(pairs).owners().optional("DATABASE_SECRET_ARN");
        assert_eq!(secret(&[app, owner]).as_deref(), Some("MIGRATE_DATABASE_URL"));
        assert_eq!(secret(&[app]).as_deref(), Some("DATABASE_URL"));
    }
}
