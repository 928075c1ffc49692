//! Accounts of our own, from their registration to a pull.

use std::sync::Arc;
use std::time::Duration;

use accounts::Accounts;
use anyhow::{Context as _, Result, ensure};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method, Response, StatusCode};
use secrets::Secrets;
use secrets::fake::SecretsManager;
use serde_json::{Value, json};
use sluice_sync::{Patience, Server, Settings, Verifier, router};
use tokio::net::TcpListener;

use crate::world::World;

const ISSUER: &str = "http://localhost/sync";
const AUDIENCE: &str = "board";
/// Whoever has an account reads what is in the bucket of its address.
const READERS: &str = "
    CREATE FUNCTION bucket_of(claims jsonb) RETURNS SETOF text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$ SELECT claims ->> 'email' $$;
    SELECT sluice.define_bucket('note', bucket => 'tenant', readers => 'public.bucket_of');
    INSERT INTO note VALUES (1, 'anna@example.com', 'hers'), (2, 'ben@example.com', 'his')";

struct Site {
    http: Client,
    url: String,
    world: World,
    _secrets: SecretsManager,
}

impl Site {
    /// Behind so many proxies.
    async fn start(proxies: usize) -> Result<Self> {
        let world = World::create().await?;
        world.owner.batch_execute(READERS).await?;
        world.drain().await?;
        let secrets = SecretsManager::start().await?;
        let key = rcgen::KeyPair::generate()?.serialize_pem();
        secrets.put("keys", &json!({ "private_key": key }));
        let settings = accounts::Settings {
            secret_arn: "keys".to_owned(),
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
        };
        let accounts = Arc::new(Accounts::new(settings, Secrets::new(secrets.client())));
        let settings = Settings { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned() };
        let patience = Patience { pause: Duration::ZERO, ..Patience::default() };
        let verifier = Verifier::of(Arc::clone(&accounts), settings, patience);
        let server = Server::new(world.settings()?.1, verifier, None);
        let router = router(server, vec![], Some((accounts, proxies)));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Ok(Self { http: Client::new(), url, world, _secrets: secrets })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Response> {
        Ok(self.http.post(format!("{}{path}", self.url)).json(body).send().await?)
    }

    async fn log_in(&self, email: &str) -> Result<Value> {
        let credentials = json!({"email": email, "password": "correct horse"});
        let answer = self.post("/auth/login", &credentials).await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.text().await?);
        Ok(answer.json().await?)
    }

    async fn ask(&self, method: Method, path: &str, token: &Value) -> Result<Response> {
        let token = token.as_str().context("a token")?;
        Ok(self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token).send().await?)
    }
}

#[tokio::test]
async fn whoever_registers_reads_what_the_account_may_and_nothing_else() -> Result<()> {
    let site = Site::start(0).await?;
    for email in ["anna@example.com", "ben@example.com"] {
        let made = site.post("/auth/register", &json!({"email": email, "password": "correct horse"})).await?;
        assert_eq!(made.status(), StatusCode::ACCEPTED);
        let tokens = site.log_in(email).await?;
        let page: Value = site.ask(Method::GET, "/sync?after=0", &tokens["access_token"]).await?.json().await?;
        let changes = page["changes"].as_array().context("changes")?;
        ensure!(changes.len() == 1 && changes[0]["bucket"] == email, "{page}");

        let next: Value =
            site.post("/auth/refresh", &json!({"refresh_token": tokens["refresh_token"]})).await?.json().await?;
        assert_eq!(site.ask(Method::GET, "/sync", &next["access_token"]).await?.status(), StatusCode::OK);
        let refreshed = json!({"refresh_token": next["refresh_token"]});
        assert_eq!(site.post("/auth/logout", &refreshed).await?.status(), StatusCode::NO_CONTENT);
        assert_eq!(site.post("/auth/refresh", &refreshed).await?.status(), StatusCode::UNAUTHORIZED);
        let gone = site.ask(Method::DELETE, "/auth/me", &next["access_token"]).await?;
        assert_eq!(gone.status(), StatusCode::NO_CONTENT);
        let again = json!({"email": email, "password": "correct horse"});
        assert_eq!(site.post("/auth/login", &again).await?.status(), StatusCode::UNAUTHORIZED);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_right_is_told_and_tells_nothing() -> Result<()> {
    let site = Site::start(0).await?;
    for (path, body) in [
        ("/auth/register", json!({"email": "anna", "password": "correct horse"})),
        ("/auth/register", json!({"email": "anna@example.com", "password": "short"})),
        ("/auth/register", json!({"email": "anna@example.com"})),
        ("/auth/login", json!([])),
        ("/auth/refresh", json!({"token": "x"})),
    ] {
        let answer = site.post(path, &body).await?;
        let (status, told) = (answer.status(), answer.text().await?);
        ensure!(status == StatusCode::BAD_REQUEST && !told.contains("correct horse"), "{path}: {status} {told}");
    }
    let nobody = site.http.delete(format!("{}/auth/me", site.url)).send().await?;
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    // An issuer of tokens somewhere else has no accounts here.
    let other = crate::site::Site::start().await?;
    let login = other.url.replace("/sync", "/auth/login");
    assert_eq!(site.http.post(login).json(&json!({})).send().await?.status(), StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn addresses_are_counted_as_the_proxies_in_front_tell_them() -> Result<()> {
    let guess = json!({"email": "nobody@example.com", "password": "wrong"});
    for (proxies, is_one) in [(0, true), (1, false)] {
        let site = Site::start(proxies).await?;
        let mut addresses = 0_i64;
        for n in 0..4 {
            // The first is what a client may write by itself.
            let told = format!("192.0.2.9, 198.51.100.{n}");
            let request = site.http.post(format!("{}/auth/login", site.url)).header("X-Forwarded-For", told);
            assert_eq!(request.json(&guess).send().await?.status(), StatusCode::UNAUTHORIZED);
            let counted = "SELECT count(*) FROM sluice.account_attempt WHERE kind = 'login_from'";
            let superuser = site.world.database.superuser().await?;
            addresses = superuser.query_one(counted, &[]).await?.get(0);
        }
        assert_eq!(addresses == 1, is_one, "{addresses} behind {proxies} proxies");
    }
    Ok(())
}

#[tokio::test]
async fn whoever_tries_too_often_is_told_when_to_try_again() -> Result<()> {
    let site = Site::start(0).await?;
    let guess = json!({"email": "nobody@example.com", "password": "wrong"});
    for _ in 0..10 {
        assert_eq!(site.post("/auth/login", &guess).await?.status(), StatusCode::UNAUTHORIZED);
    }
    let answer = site.post("/auth/login", &guess).await?;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    let after: u32 = answer.headers().get(RETRY_AFTER).context("it says when")?.to_str()?.parse()?;
    ensure!((1..=900).contains(&after), "{after}");
    Ok(())
}
