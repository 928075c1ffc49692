use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use config::Env;
use database::Postgres;
use drain::{Drain, Drained, Expanded, FanOut};
use fastrand::Rng;
use localstack::Database;
use secrets::Secrets;
use secrets::fake::SecretsManager;
use sluice_sync::Store;
use telemetry::Trace;
use tokio::time::Instant;
use tokio_postgres::Client;

const SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:functions";

/// Notes of tenants, which are shared with others by a table beside them.
const NOTES: &str = "
    CREATE TABLE note (id int PRIMARY KEY, tenant text, text text);
    CREATE TABLE share (note int, tenant text);
    CREATE FUNCTION tenants_of(claims jsonb) RETURNS SETOF text LANGUAGE sql STABLE SET search_path = pg_catalog
        AS $$ SELECT jsonb_array_elements_text(claims -> 'tenants') $$;
    SELECT sluice.define_stream('note', source => 'public.note', key => 'id');
    SELECT sluice.track('note', stream => 'note', key => 'id');
    SELECT sluice.track('share', stream => 'note', key => 'note')";
/// Which tenants have a note, by the query of its buckets.
pub const TENANTS: &str = "SELECT $1.tenant UNION SELECT s.tenant FROM public.share AS s WHERE s.note = $1.id";

/// Some of them.
pub const TENANTS_NAMED: [&str; 4] = ["a", "b", "c", "ü \"'\\"];

/// What a bucket has: of each key the document.
pub type Buckets = BTreeMap<String, BTreeMap<String, String>>;

/// A database with the stream `note`.
pub struct World {
    pub database: Database,
    pub owner: Client,
    secrets: Secrets,
    manager: SecretsManager,
}

impl World {
    /// Nothing goes to clients yet.
    pub async fn create() -> Result<Self> {
        secrets::install_crypto_provider();
        let database = Database::create().await?;
        let owner = database.owner().await?;
        owner.batch_execute("SELECT sluice.drop_stream('sluice_heartbeat')").await?;
        owner.batch_execute(NOTES).await?;
        let manager = SecretsManager::start().await?;
        manager.put(SECRET, &database.secret("functions"));
        let secrets = Secrets::new(manager.client());
        Ok(Self { database, owner, secrets, manager })
    }

    /// Notes are in the buckets of their tenants.
    pub async fn with_buckets() -> Result<Self> {
        let world = Self::create().await?;
        let define = "SELECT sluice.define_bucket('note', bucket => $1, readers => 'public.tenants_of')";
        world.owner.execute(define, &[&TENANTS]).await?;
        Ok(world)
    }

    /// What a function of its own has in its environment, and where its secrets are.
    pub fn environment(&self) -> (Vec<(&'static str, String)>, &Secrets, &SecretsManager) {
        let pairs = [("DATABASE_SECRET_ARN", SECRET), ("DATABASE_SSLMODE", "disable")];
        (pairs.map(|(name, value)| (name, value.to_owned())).to_vec(), &self.secrets, &self.manager)
    }

    /// The functions' login, as the store knows it.
    pub async fn functions(&self) -> Result<Client> {
        self.database.functions().await
    }

    pub fn drainer(&self) -> Result<Drain<Postgres, Store>> {
        let (settings, database) = self.settings()?;
        let store = Store::new(database.clone(), Duration::from_hours(24));
        Ok(Drain::new(&settings, database, store))
    }

    pub fn settings(&self) -> Result<(drain::Settings, Postgres)> {
        let mut env = Env::from_pairs([("DATABASE_SECRET_ARN", SECRET), ("DATABASE_SSLMODE", "disable")]);
        let settings = (drain::Settings::from_env("sync", &mut env), database::Settings::from_env(&mut env));
        env.finish()?;
        Ok((settings.0, Postgres::new(settings.1, self.secrets.clone())))
    }

    /// Until nothing is left.
    pub async fn drain(&self) -> Result<()> {
        let mut drainer = self.drainer()?;
        self.drain_by(&mut drainer).await?;
        drainer.release().await;
        Ok(())
    }

    pub async fn drain_by(&self, drainer: &mut Drain<Postgres, Store>) -> Result<()> {
        let (settings, database) = self.settings()?;
        let mut fan_out = FanOut::new(&settings, database);
        loop {
            // Boxed: the compiler gives up on the layout of so deep a future.
            while Box::pin(fan_out.step(&mut Expanded::default())).await? {}
            if !self.owner.query_one("SELECT sluice.pending('sync')", &[]).await?.get::<_, bool>(0) {
                return Ok(());
            }
            self.step(drainer).await?;
        }
    }

    pub async fn step(&self, drainer: &mut Drain<Postgres, Store>) -> Result<(), drain::Error> {
        let until = Instant::now() + Duration::from_mins(1);
        Box::pin(drainer.step(&Trace::of_invocation(None), until, &mut Drained::default())).await.map(drop)
    }

    pub async fn text(&self, query: &str) -> Result<String> {
        Ok(self.owner.query_one(query, &[]).await?.get::<_, Option<String>>(0).unwrap_or_default())
    }

    /// What the source says.
    pub async fn wanted(&self) -> Result<Buckets> {
        let query = "SELECT DISTINCT b.name, n.id::text, (SELECT row_to_json(f) FROM (SELECT n.id, n.text, n.tenant) AS f)::text
             FROM public.note AS n
             CROSS JOIN LATERAL (SELECT n.tenant UNION SELECT s.tenant FROM public.share AS s WHERE s.note = n.id) AS b(name)
             WHERE b.name IS NOT NULL";
        self.buckets(query).await
    }

    /// What the store has.
    pub async fn stored(&self) -> Result<Buckets> {
        self.buckets("SELECT bucket, key, document FROM sluice.bucket_item WHERE deleted_at IS NULL").await
    }

    async fn buckets(&self, query: &str) -> Result<Buckets> {
        let mut buckets = Buckets::new();
        for row in self.owner.query(query, &[]).await? {
            buckets.entry(row.get(0)).or_default().insert(row.get(1), row.get(2));
        }
        Ok(buckets)
    }

    /// The store has what the source says; its counts and sums are those of its items; each item has a seq of its own, the last of its
    /// bucket's is the bucket's, and none is above the last that was drawn.
    pub async fn is_whole(&self) -> Result<()> {
        let (stored, wanted) = (self.stored().await?, self.wanted().await?);
        ensure!(stored == wanted, "stored {stored:?}\nwanted {wanted:?}");
        self.is_sound().await
    }

    pub async fn is_sound(&self) -> Result<()> {
        let wrong = self
            .text(
                "SELECT string_agg(format('%s %s: %s', b.stream, b.name, to_json(b)), '; ')
                 FROM sluice.bucket AS b
                 CROSS JOIN LATERAL (
                     SELECT count(i.document) AS count, coalesce(mod(sum(i.checksum), 4294967296), 0) AS checksum, coalesce(max(i.seq), 0) AS seq
                     FROM sluice.bucket_item AS i WHERE i.stream = b.stream AND i.bucket = b.name) AS i
                 WHERE (b.count, b.checksum) IS DISTINCT FROM (i.count, i.checksum) OR b.seq < i.seq OR b.seq > greatest(i.seq, b.floor)
                    OR b.seq > (SELECT h.seq FROM sluice.sync_head AS h)",
            )
            .await?;
        ensure!(wrong.is_empty(), "{wrong}");
        let items = "SELECT array_agg(seq) FROM sluice.bucket_item";
        let seqs: Vec<i64> = self.owner.query_one(items, &[]).await?.get::<_, Option<_>>(0).unwrap_or_default();
        ensure!(seqs.iter().collect::<BTreeSet<_>>().len() == seqs.len(), "a seq was drawn twice");
        Ok(())
    }
}

/// A random change of the source.
pub fn change(random: &mut Rng) -> String {
    let (key, tenant) = (random.i32(1..=12), random.choice(TENANTS_NAMED).unwrap_or_default().replace('\'', "''"));
    let tenant = if random.u8(..5) == 0 { "NULL".to_owned() } else { format!("'{tenant}'") };
    match random.u8(..6) {
        0 | 1 => format!(
            "INSERT INTO note VALUES ({key}, {tenant}, '{}') ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, text = excluded.text",
            random.u8(..3)
        ),
        2 => format!("UPDATE note SET tenant = {tenant} WHERE id = {key}"),
        3 => format!("DELETE FROM note WHERE id = {key}"),
        4 => format!("INSERT INTO share VALUES ({key}, {tenant})"),
        _ => format!("DELETE FROM share WHERE note = {key}"),
    }
}
