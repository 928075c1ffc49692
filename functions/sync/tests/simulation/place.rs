//! A database for one seed after the other, and the server in front of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use database::Postgres;
use serde_json::json;
use sluice_sync::{Patience, Server, Settings, Verifier, router};
use tokio_postgres::Client;
use tower_service::Service as _;

use crate::defects::Defect;
use crate::issuer::{AUDIENCE, Issuer, Signer};
use crate::world::{TENANTS, World};

pub const PEOPLE: [&str; 3] = ["ada", "bob", "cy"];
pub const TENANTS_NAMED: [&str; 3] = ["a", "b", "c"];

/// Each row has a number that rises with each change of it, drawn while it is locked: what a client reads by it never goes back. Notes go by
/// a query into buckets, tasks by a column; clients write tasks, whose history is kept. A step of the store waits within its transaction
/// while the scheduler holds (7401, 2): the first that comes there, and no other.
const SCHEMA: &str = r#"
    CREATE SEQUENCE rev;
    CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
        AS $$ BEGIN NEW.rev := nextval('public.rev'); RETURN NEW; END $$;
    ALTER TABLE note ADD COLUMN rev bigint;
    CREATE TRIGGER number BEFORE INSERT OR UPDATE ON note FOR EACH ROW EXECUTE FUNCTION number();
    CREATE TABLE member (person text, tenant text);
    CREATE FUNCTION tenants_of_person(claims jsonb) RETURNS SETOF text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
        AS $$ SELECT tenant FROM public.member WHERE person = claims ->> 'sub' $$;
    CREATE TABLE task (id text PRIMARY KEY, tenant text, title text, rev bigint);
    CREATE TABLE history (number bigint GENERATED ALWAYS AS IDENTITY, person text, op text, key text, title text, before bigint);
    CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DECLARE
        person CONSTANT text := nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';
    BEGIN
        IF person IS NOT NULL THEN
            INSERT INTO public.history (person, op, key, title, before)
            VALUES (person, lower(TG_OP), CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END, NEW.title, OLD.rev);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER number BEFORE INSERT OR UPDATE ON task FOR EACH ROW EXECUTE FUNCTION number();
    CREATE TRIGGER remember AFTER INSERT OR UPDATE OR DELETE ON task FOR EACH ROW EXECUTE FUNCTION remember();
    GRANT SELECT, INSERT, UPDATE, DELETE ON task TO CLIENTS;
    CREATE FUNCTION write_task(op text, key text, fields jsonb) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
    BEGIN
        IF op = 'insert' THEN
            INSERT INTO public.task (id, tenant, title) VALUES (key, fields ->> 'tenant', fields ->> 'title');
        ELSIF op = 'update' THEN
            UPDATE public.task AS t SET title = fields ->> 'title' WHERE t.id = key;
        ELSE
            DELETE FROM public.task AS t WHERE t.id = key;
        END IF;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no task %', key;
        END IF;
    END $$;
    SELECT sluice.define_stream('task', source => 'public.task', key => 'id');
    SELECT sluice.track('task', stream => 'task', key => 'id');
    SELECT sluice.define_bucket('task', 'tenant', 'public.tenants_of_person');
    SELECT sluice.accept_writes('task', by => 'public.write_task', role => 'CLIENTS')"#;
const PAUSE: &str = "
    CREATE FUNCTION public.pause() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
    BEGIN
        IF pg_try_advisory_xact_lock(7401, 1) THEN
            PERFORM pg_advisory_xact_lock_shared(7401, 2);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER pause BEFORE INSERT OR UPDATE ON sluice.bucket_item FOR EACH STATEMENT EXECUTE FUNCTION public.pause()";

pub struct Place {
    pub world: World,
    pub defect: Option<Defect>,
    pub superuser: Client,
    /// Two applications.
    pub apps: [Client; 2],
    /// The session that asks whose buckets have changed, as the hub does.
    pub hub: Client,
    pub settings: drain::Settings,
    pub database: Postgres,
    issuer: Issuer,
    signer: Signer,
}

impl Place {
    pub async fn create(defect: Option<Defect>) -> Result<Self> {
        let world = World::create().await?;
        let superuser = world.database.superuser().await?;
        let clients = format!("clients_{}", world.database.name);
        let role =
            format!("CREATE ROLE {clients}; GRANT {clients} TO test_owner; GRANT USAGE ON SCHEMA public TO {clients}");
        superuser.batch_execute(&role).await?;
        world.owner.batch_execute(&SCHEMA.replace("CLIENTS", &clients)).await?;
        let define = "SELECT sluice.define_bucket('note', bucket => $1, readers => 'public.tenants_of_person')";
        world.owner.execute(define, &[&TENANTS]).await?;
        superuser.batch_execute(PAUSE).await?;
        if let Some((function, changes)) = defect.and_then(Defect::in_sql) {
            let text = "SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p WHERE p.pronamespace = 'sluice'::regnamespace AND p.proname = $1";
            let mut text: String = superuser.query_one(text, &[&function]).await?.get(0);
            for (there, instead) in changes {
                text =
                    text.split_once(there).map(|(before, behind)| format!("{before}{instead}{behind}")).with_context(
                        || format!("{function} has no {there:?} any more: {defect:?} is to be written anew"),
                    )?;
            }
            superuser.batch_execute(&text).await?;
        }
        world.drain().await?;
        let apps = [world.database.owner().await?, world.database.owner().await?];
        let hub = world.functions().await?;
        let (settings, database) = world.settings()?;
        let signer = Signer::es256();
        let issuer = Issuer::start(vec![signer.jwk("first")]).await?;
        Ok(Self { world, defect, superuser, apps, hub, settings, database, issuer, signer })
    }

    /// Nothing of the seed before is left. It has come to rest.
    pub async fn clear(&self, on_conflict: &str) -> Result<()> {
        let clear = format!(
            "BEGIN; SET LOCAL session_replication_role = replica;
             DELETE FROM note; DELETE FROM share; DELETE FROM member; DELETE FROM task; DELETE FROM history;
             DELETE FROM sluice.bucket_item; DELETE FROM sluice.bucket; DELETE FROM sluice.sync_write; DELETE FROM sluice.conflict;
             UPDATE sluice.sync_head SET seq = 0; UPDATE sluice.writable SET on_conflict = '{on_conflict}';
             SELECT setval('rev', 1, false); COMMIT");
        Ok(self.superuser.batch_execute(&clear).await?)
    }

    /// What answers clients: another process of it each time.
    pub fn serve(&self) -> Result<Front> {
        let settings = Settings { issuer: self.issuer.url.clone(), audience: AUDIENCE.to_owned() };
        let patience =
            Patience { fresh: Duration::from_hours(1), pause: Duration::ZERO, answer: Duration::from_secs(30) };
        let server = Server::new(self.database.clone(), Verifier::new(settings, patience)?, None);
        Ok(Front(router(server, vec![], None)))
    }

    pub fn token(&self, person: &str) -> Arc<str> {
        let header = json!({"alg": self.signer.algorithm(), "kid": "first", "typ": "JWT"});
        self.signer.sign(&header, &self.issuer.claims(json!({"sub": person}))).into()
    }
}

/// The router.
#[derive(Clone)]
pub struct Front(Router);

impl Front {
    pub async fn get(&self, token: &str, path: &str) -> Result<Response> {
        let request = Request::get(path).header("authorization", format!("Bearer {token}")).body(Body::empty())?;
        Ok(self.0.clone().call(request).await?)
    }

    pub async fn post(&self, token: &str, path: &str, body: String) -> Result<Response> {
        let request = Request::post(path).header("authorization", format!("Bearer {token}"));
        let request = request.header("content-type", "application/json").body(Body::from(body))?;
        Ok(self.0.clone().call(request).await?)
    }
}
