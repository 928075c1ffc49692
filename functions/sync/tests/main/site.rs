//! The server on a port of this machine, and a client that does what `docs/live-sync.md` says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::header::HeaderMap;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sluice_sync::{Patience, Server, Settings, Verifier, router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::issuer::{AUDIENCE, Issuer, Signer};
use crate::world::{Buckets, World};

/// Each person is in the tenants that a table says.
const MEMBERS: &str = "
    CREATE TABLE member (person text, tenant text);
    CREATE FUNCTION tenants_of_person(claims jsonb) RETURNS SETOF text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
        AS $$ SELECT tenant FROM public.member WHERE person = claims ->> 'sub' $$";

pub struct Site {
    pub world: World,
    pub issuer: Issuer,
    pub signer: Signer,
    pub url: String,
    pub http: Client,
}

impl Site {
    /// Notes are in the buckets of their tenants, and whoever is a member may read them.
    pub async fn start() -> Result<Self> {
        Self::with(Patience { fresh: Duration::from_hours(1), pause: Duration::ZERO, answer: Duration::from_secs(30) })
            .await
    }

    pub async fn with(patience: Patience) -> Result<Self> {
        let world = World::create().await?;
        world.owner.batch_execute(MEMBERS).await?;
        let define = "SELECT sluice.define_bucket('note', bucket => $1, readers => 'public.tenants_of_person')";
        world.owner.execute(define, &[&crate::world::TENANTS]).await?;
        let signer = Signer::es256();
        let issuer = Issuer::start(vec![signer.jwk("first")]).await?;
        let url = Self::serve(&world, &issuer, patience).await?;
        Ok(Self { world, issuer, signer, url, http: Client::new() })
    }

    /// Another process of it: where it is.
    pub async fn serve(world: &World, issuer: &Issuer, patience: Patience) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Self::serve_at(listener, world, issuer, patience, 2000, &CancellationToken::new())
    }

    /// The same for so many clients, until it is cancelled.
    pub fn serve_at(
        listener: TcpListener,
        world: &World,
        issuer: &Issuer,
        patience: Patience,
        most: usize,
        stop: &CancellationToken,
    ) -> Result<String> {
        let server = Self::server(world, issuer, patience, most, stop)?;
        let url = format!("http://{}/sync", listener.local_addr()?);
        let router = router(server, vec!["https://app.example.com".parse()?], None);
        let ended = stop.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(ended).await });
        Ok(url)
    }

    pub fn server(
        world: &World,
        issuer: &Issuer,
        patience: Patience,
        most: usize,
        stop: &CancellationToken,
    ) -> Result<Server> {
        let settings = Settings { issuer: issuer.url.clone(), audience: AUDIENCE.to_owned() };
        let live = Some((most, stop.clone()));
        Ok(Server::new(world.settings()?.1, Verifier::new(settings, patience)?, live))
    }

    pub fn token(&self, person: &str) -> String {
        let header = json!({"alg": self.signer.algorithm(), "kid": "first", "typ": "JWT"});
        self.signer.sign(&header, &self.issuer.claims(json!({"sub": person})))
    }

    /// Status, headers and body of a request.
    pub async fn ask(&self, token: &str, path: &str) -> Result<(StatusCode, HeaderMap, String)> {
        let answer = self.http.get(format!("{}{path}", self.url)).bearer_auth(token).send().await?;
        Ok((answer.status(), answer.headers().clone(), answer.text().await?))
    }

    pub async fn get(&self, token: &str, path: &str) -> Result<Value> {
        let (status, _, body) = self.ask(token, path).await?;
        ensure!(status == StatusCode::OK, "{path}: {status} {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// What a person may read just now.
    pub async fn tenants(&self, person: &str) -> Result<BTreeSet<String>> {
        let rows = self.world.owner.query("SELECT DISTINCT tenant FROM member WHERE person = $1", &[&person]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// What a person should have.
    pub async fn wanted(&self, person: &str) -> Result<Buckets> {
        let tenants = self.tenants(person).await?;
        let stored = self.world.stored().await?;
        let read = |(key, document): (String, String)| Ok((key, serde_json::from_str::<Value>(&document)?.to_string()));
        let items = |name: String| {
            let items = stored.get(&name).cloned().unwrap_or_default();
            Ok((name, items.into_iter().map(read).collect::<Result<_>>()?))
        };
        tenants.into_iter().map(items).collect()
    }
}

/// Of a stream, what a client has.
#[derive(Debug, Default)]
pub struct Replica {
    pub cursor: Option<i64>,
    pub buckets: BTreeMap<String, BTreeMap<String, Held>>,
    /// How many snapshots it fetched, and how often it began anew.
    pub snapshots: u32,
    pub beginnings: u32,
}

/// An item.
#[derive(Clone, Debug)]
pub struct Held {
    seq: i64,
    checksum: i64,
    document: String,
}

impl Replica {
    /// Pulls until there is nothing more. `is_lost` says of each page whether its answer comes.
    pub async fn sync(
        &mut self,
        site: &Site,
        token: &str,
        mut limit: impl FnMut() -> u32,
        mut is_lost: impl FnMut() -> bool,
    ) -> Result<()> {
        loop {
            let after = self.cursor.map(|cursor| format!("&after={cursor}")).unwrap_or_default();
            let (status, _, body) = site.ask(token, &format!("?limit={}{after}", limit())).await?;
            if is_lost() {
                continue;
            }
            let page: Value = serde_json::from_str(&body)?;
            if status == StatusCode::GONE {
                *self = Self { snapshots: self.snapshots, beginnings: self.beginnings + 1, ..Self::default() };
                continue;
            }
            ensure!(status == StatusCode::OK, "{status} {body}");
            for change in page["changes"].as_array().context("changes")? {
                self.take(change)?;
            }
            self.cursor = page["upto"].as_i64();
            if page["more"] == json!(true) {
                ensure!(page.get("buckets").is_none(), "only the last page has buckets: {page}");
                continue;
            }
            if self.compare(site, token, &page).await? {
                return Ok(());
            }
        }
    }

    fn take(&mut self, change: &Value) -> Result<()> {
        let text = |name: &str| change[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {change}"));
        let Some(items) = self.buckets.get_mut(&text("bucket")?) else { return Ok(()) };
        let (key, seq) = (text("key")?, change["seq"].as_i64().context("seq")?);
        if items.get(&key).is_some_and(|held| held.seq > seq) {
            return Ok(());
        }
        match change["op"].as_str() {
            Some("upsert") => {
                let checksum = change["checksum"].as_i64().context("checksum")?;
                items.insert(key, Held { seq, checksum, document: change["document"].to_string() });
            }
            Some("delete") => drop(items.remove(&key)),
            _ => bail!("what is {change}"),
        }
        Ok(())
    }

    /// Drops, fetches, and compares: whether nothing was fetched.
    async fn compare(&mut self, site: &Site, token: &str, page: &Value) -> Result<bool> {
        let listed = page["buckets"].as_array().context("buckets")?;
        let names: BTreeSet<&str> = listed.iter().filter_map(|bucket| bucket["bucket"].as_str()).collect();
        self.buckets.retain(|name, _| names.contains(name.as_str()));
        let mut is_done = true;
        for bucket in listed {
            let name = bucket["bucket"].as_str().context("bucket")?;
            let has = self
                .buckets
                .get(name)
                .map(|items| (items.len() as i64, items.values().map(|held| held.checksum).sum::<i64>() % (1 << 32)));
            if has
                != Some((bucket["count"].as_i64().context("count")?, bucket["checksum"].as_i64().context("checksum")?))
            {
                self.fetch(site, token, name).await?;
                is_done = false;
            }
        }
        Ok(is_done)
    }

    async fn fetch(&mut self, site: &Site, token: &str, name: &str) -> Result<()> {
        let query = reqwest::Url::parse_with_params("http://x", [("stream", "note"), ("bucket", name)])?;
        let (status, _, body) = site.ask(token, &format!("/snapshot?{}", query.query().unwrap_or_default())).await?;
        if status == StatusCode::FORBIDDEN {
            self.buckets.remove(name);
            return Ok(());
        }
        ensure!(status == StatusCode::OK, "{status} {body}");
        self.snapshots += 1;
        let (seq, items) = snapshot(&body)?;
        self.cursor = self.cursor.map(|cursor| cursor.min(seq));
        self.buckets.insert(name.to_owned(), items);
        Ok(())
    }

    /// What it shows.
    pub fn documents(&self) -> Buckets {
        let shown = |items: &BTreeMap<String, Held>| {
            items.iter().map(|(key, held)| (key.clone(), held.document.clone())).collect()
        };
        self.buckets.iter().map(|(name, items)| (name.clone(), shown(items))).collect()
    }
}

/// The seq and the items of a snapshot that is whole.
pub fn snapshot(body: &str) -> Result<(i64, BTreeMap<String, Held>)> {
    let lines: Vec<Value> = body.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [first, items @ .., last] = lines.as_slice() else { bail!("{body}") };
    ensure!(last["items"].as_u64() == Some(items.len() as u64), "it is not whole: {last}");
    let held = |line: &Value| {
        let held = Held {
            seq: line["seq"].as_i64().context("seq")?,
            checksum: line["checksum"].as_i64().context("checksum")?,
            document: line["document"].to_string(),
        };
        Ok((line["key"].as_str().context("key")?.to_owned(), held))
    };
    Ok((first["seq"].as_i64().context("seq")?, items.iter().map(held).collect::<Result<_>>()?))
}
