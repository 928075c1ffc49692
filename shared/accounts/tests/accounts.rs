//! Accounts on a real PostgreSQL, with the secrets at the wire.

use std::net::{IpAddr, Ipv4Addr};

use accounts::{Accounts, Error, JwkSet, Settings, Tokens};
use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use localstack::Database;
use secrets::Secrets;
use secrets::fake::SecretsManager;
use serde_json::{Value, json};
use tokio_postgres::Client;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const EMAIL: &str = "anna@example.com";
const PASSWORD: &str = "correct horse";

struct World {
    accounts: Accounts,
    /// The private key that is in the secret.
    key: String,
    secrets: SecretsManager,
    database: Client,
    superuser: Client,
}

impl World {
    async fn create() -> Result<Self> {
        let database = Database::create().await?;
        let secrets = SecretsManager::start().await?;
        let key = new_key()?;
        secrets.put("keys", &json!({ "private_key": key }));
        let settings = Settings {
            secret_arn: "keys".to_owned(),
            issuer: "https://sync.example.com".to_owned(),
            audience: "board".to_owned(),
        };
        // Nothing of a secret is kept: a rotation is seen at once.
        let cached = Secrets::with_times(secrets.client(), Default::default(), Default::default());
        let accounts = Accounts::new(settings, cached);
        let (functions, superuser) = (database.functions().await?, database.superuser().await?);
        Ok(Self { accounts, key, secrets, database: functions, superuser })
    }

    async fn registered() -> Result<Self> {
        let world = Self::create().await?;
        world.accounts.register(&world.database, HERE, EMAIL, PASSWORD).await?;
        Ok(world)
    }

    async fn login(&self, email: &str, password: &str) -> Result<Tokens, Error> {
        self.accounts.login(&self.database, HERE, email, password).await
    }

    async fn refresh(&self, tokens: &Tokens) -> Result<Tokens, Error> {
        self.accounts.refresh(&self.database, HERE, &tokens.refresh_token).await
    }

    /// As if so many seconds were over.
    async fn pass(&self, seconds: i32) -> Result<()> {
        let statement = format!(
            "UPDATE sluice.account_session SET replaced_at = replaced_at - interval '{seconds} s', expires_at = expires_at - interval '{seconds} s';
             UPDATE sluice.account_attempt SET begun_at = begun_at - interval '{seconds} s'"
        );
        Ok(self.superuser.batch_execute(&statement).await?)
    }

    async fn count(&self, table: &str) -> Result<i64> {
        Ok(self.superuser.query_one(&format!("SELECT count(*) FROM sluice.{table}"), &[]).await?.get(0))
    }
}

fn new_key() -> Result<String> {
    Ok(rcgen::KeyPair::generate()?.serialize_pem())
}

/// What a token says, by whoever has the public keys.
fn read(token: &str, keys: &JwkSet) -> Result<Value> {
    let id = decode_header(token)?.kid.context("the token names its key")?;
    let key = DecodingKey::from_jwk(keys.find(&id).context("its key is listed")?)?;
    let mut expected = Validation::new(Algorithm::ES256);
    expected.set_issuer(&["https://sync.example.com"]);
    expected.set_audience(&["board"]);
    expected.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    Ok(decode::<Value>(token, &key, &expected)?.claims)
}

#[tokio::test]
async fn whoever_registers_logs_in_and_anybody_can_check_the_token() -> Result<()> {
    let world = World::registered().await?;
    let statement = r#"UPDATE sluice.account SET claims = '{"team": 7, "sub": "somebody else", "exp": 99999999999}'"#;
    world.superuser.batch_execute(statement).await?;
    let tokens = world.login("ANNA@example.com", PASSWORD).await?;
    let public = world.accounts.jwks().await?;
    let claims = read(&tokens.access_token, &public)?;
    let id: String = world.superuser.query_one("SELECT id::text FROM sluice.account", &[]).await?.get(0);
    ensure!(claims["sub"] == id.as_str() && claims["email"] == EMAIL && claims["team"] == 7, "{claims}");
    let lives = claims["exp"].as_u64().context("it ends")? - claims["iat"].as_u64().context("it has begun")?;
    assert_eq!((lives, tokens.expires_in, tokens.token_type), (900, 900, "Bearer"));
    let told = serde_json::to_string(&public)?;
    ensure!(!told.contains("\"d\""), "a private key is told");
    let stored =
        world.superuser.query_one("SELECT password, s.token FROM sluice.account, sluice.account_session AS s", &[]);
    let stored = stored.await?;
    ensure!(stored.get::<_, String>(0).starts_with("$argon2id$") && stored.get::<_, Vec<u8>>(1).len() == 32);
    Ok(())
}

#[tokio::test]
async fn nobody_is_told_who_has_an_account() -> Result<()> {
    let world = World::registered().await?;
    // Again, by somebody else: nothing changes, and nothing is said.
    world.accounts.register(&world.database, HERE, "Anna@Example.com", "another password").await?;
    assert_eq!(world.count("account").await?, 1);
    let wrong = world.login(EMAIL, "another password").await.unwrap_err();
    let unknown = world.login("nobody@example.com", "another password").await.unwrap_err();
    let impossible = world.login("nobody\0", "another password").await.unwrap_err();
    assert_eq!(wrong.to_string(), unknown.to_string());
    assert_eq!(wrong.to_string(), impossible.to_string());
    world.login(EMAIL, PASSWORD).await?;
    // Whoever has not got an account is limited as whoever has.
    for email in [EMAIL, "nobody@example.com"] {
        let mut refused = 0;
        for _ in 0..12 {
            refused += u32::from(matches!(world.login(email, "wrong").await, Err(Error::TooMany(_))));
        }
        ensure!(refused >= 2, "{email}: {refused}");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_an_account_is_refused_with_what_to_do() -> Result<()> {
    let world = World::create().await?;
    let long = "x".repeat(1025);
    for (email, password) in [("anna", PASSWORD), ("a@b@c", PASSWORD), (EMAIL, "too short"), (EMAIL, long.as_str())] {
        let told = world.accounts.register(&world.database, HERE, email, password).await.unwrap_err();
        ensure!(matches!(told, Error::Invalid(_)), "{told}");
    }
    assert_eq!(world.count("account").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_refresh_token_is_used_once_and_who_uses_it_again_ends_the_session() -> Result<()> {
    let world = World::registered().await?;
    let first = world.login(EMAIL, PASSWORD).await?;
    let other_session = world.login(EMAIL, PASSWORD).await?;
    let second = world.refresh(&first).await?;
    let third = world.refresh(&second).await?;
    // Somebody has kept the first.
    assert!(matches!(world.refresh(&first).await, Err(Error::WrongToken)));
    assert!(matches!(world.refresh(&third).await, Err(Error::WrongToken)), "its session goes on");
    world.refresh(&other_session).await?;
    for text in ["", "x", &first.refresh_token[1..], &first.access_token] {
        let told = world.accounts.refresh(&world.database, HERE, text).await.unwrap_err();
        ensure!(matches!(told, Error::WrongToken), "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_did_not_hear_of_its_new_token_goes_on_with_the_one_before() -> Result<()> {
    let world = World::registered().await?;
    let first = world.login(EMAIL, PASSWORD).await?;
    world.refresh(&first).await?; // its answer is lost
    let second = world.refresh(&first).await?;
    let third = world.refresh(&second).await?;
    world.pass(11).await?;
    assert!(matches!(world.refresh(&second).await, Err(Error::WrongToken)), "it is too late");
    assert!(matches!(world.refresh(&third).await, Err(Error::WrongToken)));
    Ok(())
}

#[tokio::test]
async fn a_lost_token_does_not_serve_beside_the_one_that_is_used() -> Result<()> {
    let world = World::registered().await?;
    let first = world.login(EMAIL, PASSWORD).await?;
    let lost = world.refresh(&first).await?;
    let second = world.refresh(&first).await?;
    // Whoever found the lost one.
    assert!(matches!(world.refresh(&lost).await, Err(Error::WrongToken)));
    assert!(matches!(world.refresh(&second).await, Err(Error::WrongToken)), "two have had a token of this session");
    Ok(())
}

#[tokio::test]
async fn a_session_ends_by_logout_by_its_time_and_with_the_account() -> Result<()> {
    let world = World::registered().await?;
    let tokens = world.login(EMAIL, PASSWORD).await?;
    world.accounts.logout(&world.database, "no token").await?;
    world.accounts.logout(&world.database, &world.login(EMAIL, PASSWORD).await?.refresh_token).await?;
    let tokens = world.refresh(&tokens).await?;
    world.accounts.logout(&world.database, &tokens.refresh_token).await?;
    assert!(matches!(world.refresh(&tokens).await, Err(Error::WrongToken)));

    let tokens = world.login(EMAIL, PASSWORD).await?;
    world.pass(30 * 24 * 3600).await?;
    assert!(matches!(world.refresh(&tokens).await, Err(Error::WrongToken)));

    let tokens = world.login(EMAIL, PASSWORD).await?;
    let claims = read(&tokens.access_token, &world.accounts.jwks().await?)?;
    let subject = claims["sub"].as_str().context("it has one")?;
    assert!(world.accounts.remove(&world.database, subject).await?);
    assert!(!world.accounts.remove(&world.database, subject).await?);
    assert!(!world.accounts.remove(&world.database, "no uuid").await?);
    assert!(matches!(world.refresh(&tokens).await, Err(Error::WrongToken)));
    assert!(matches!(world.login(EMAIL, PASSWORD).await, Err(Error::WrongCredentials)));
    assert_eq!(world.count("account_session").await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_account_has_twenty_sessions_at_most() -> Result<()> {
    let world = World::registered().await?;
    let first = world.login(EMAIL, PASSWORD).await?;
    for _ in 0..20 {
        world.login(EMAIL, PASSWORD).await?;
    }
    assert_eq!(world.count("account_session").await?, 20);
    assert!(matches!(world.refresh(&first).await, Err(Error::WrongToken)), "the oldest has ended");
    Ok(())
}

#[tokio::test]
async fn whoever_guesses_is_stopped_by_account_and_by_address_until_the_period_is_over() -> Result<()> {
    let world = World::registered().await?;
    for _ in 0..10 {
        assert!(matches!(world.login(EMAIL, "wrong").await, Err(Error::WrongCredentials)));
    }
    let elsewhere = "2001:db8::1".parse()?;
    let Err(Error::TooMany(wait)) = world.accounts.login(&world.database, elsewhere, EMAIL, PASSWORD).await else {
        anyhow::bail!("the eleventh is let through, from another address");
    };
    ensure!((1..=900).contains(&wait), "{wait}");
    world.pass(900).await?;
    for _ in 0..15 {
        world.login(EMAIL, PASSWORD).await?; // who knows the password is not stopped
    }

    world.pass(900).await?;
    let mut refused = 0;
    for n in 0..102 {
        let guessed = world.login(&format!("nobody{n}@example.com"), "wrong").await;
        refused += u32::from(matches!(guessed, Err(Error::TooMany(_))));
    }
    assert_eq!(refused, 2, "an address has a hundred");
    let mut made = 0;
    for n in 0..22 {
        let email = format!("n{n}@example.com");
        made += u32::from(world.accounts.register(&world.database, elsewhere, &email, PASSWORD).await.is_ok());
    }
    assert_eq!(made, 20);
    // What is old is forgotten by those who come later.
    world.pass(2 * 24 * 3600).await?;
    for _ in 0..20 {
        world.login(EMAIL, PASSWORD).await?;
    }
    ensure!(world.count("account_attempt").await? <= 2);
    Ok(())
}

#[tokio::test]
async fn another_key_takes_over_and_tokens_of_the_one_before_go_on() -> Result<()> {
    let world = World::registered().await?;
    let before = world.login(EMAIL, PASSWORD).await?;
    let key = new_key()?;
    world.secrets.put("keys", &json!({ "private_key": key, "previous_key": world.key }));
    let after = world.refresh(&before).await?;
    let public = world.accounts.jwks().await?;
    assert_ne!(decode_header(&before.access_token)?.kid, decode_header(&after.access_token)?.kid);
    read(&before.access_token, &public)?;
    read(&after.access_token, &public)?;
    world.secrets.put("keys", &json!({ "private_key": key }));
    assert!(read(&before.access_token, &world.accounts.jwks().await?).is_err(), "its key is gone");

    world
        .secrets
        .put("keys", &json!({ "private_key": "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----" }));
    let told = world.refresh(&after).await.unwrap_err().to_string();
    ensure!(told.contains("openssl genpkey") && !told.contains("secret\n"), "{told}");
    world.secrets.put("keys", &json!({ "private_key": key }));
    world.refresh(&after).await.context("no token ended while there was nothing to give for it")?;
    Ok(())
}

#[tokio::test]
async fn the_functions_read_no_table_of_accounts() -> Result<()> {
    let world = World::registered().await?;
    for table in ["account", "account_session", "account_attempt"] {
        let read = world.database.query(&format!("SELECT FROM sluice.{table}"), &[]).await;
        let code = read.unwrap_err().code().cloned();
        assert_eq!(code, Some(tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{table}");
    }
    Ok(())
}
