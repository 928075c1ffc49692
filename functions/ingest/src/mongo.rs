//! A source that is a collection of MongoDB: its change stream, and a copy of what was there before.
//!
//! The official driver does the talking. What it gives becomes pages of items in `page`, which knows no connection.

mod error;
mod json;
mod page;
mod place;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use config::is_this_machine;
use database::ingest::definition::Definition;
use futures_util::TryStreamExt as _;
use mongodb::bson::{Document, RawDocumentBuf, Timestamp, Uuid, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ChangeStreamEvent;
use mongodb::options::{ClientOptions, FullDocumentType, ServerAddress, Tls, TlsOptions};
use mongodb::{Client, Collection};
use secrets::Secrets;
use serde::Deserialize;
use telemetry::call;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::patience::Patience;

pub use error::Error;
pub use page::{ITEM_BYTES, Page, time};
pub use place::{Copy, From, Id, Place, Step};

/// In the spans of calls.
const PEER: &str = "mongodb";
/// Changes that come in one answer: their documents are of some kilobytes, and the server sends no more than 16 MiB in any case.
const BATCH: u32 = 250;
/// For so long the server waits for a change where there is none. A round ends then.
const AWAIT: Duration = Duration::from_millis(100);
/// One that reads, one that watches; more stand by for nothing.
const CONNECTIONS: u32 = 2;

/// Which collection.
#[derive(Clone, Debug, Deserialize)]
struct Options {
    database: String,
    collection: String,
}

/// The secret.
#[derive(Deserialize)]
struct Credentials {
    url: String,
    /// Of the authority that signed for the servers, in PEM; without it a public one must have.
    ca: Option<String>,
}

/// A collection, connected to when it is first read.
#[derive(Debug)]
pub struct Mongo {
    options: Options,
    url: Option<String>,
    secret_arn: Option<String>,
    secrets: Secrets,
    patience: Patience,
    client: Mutex<Option<(Client, Option<Authority>)>>,
    /// The server did not take the credentials: they may have been rotated.
    is_refused: AtomicBool,
}

/// A change stream that is open.
pub struct Changes(ChangeStream<ChangeStreamEvent<RawDocumentBuf>>);

impl Mongo {
    /// Connects to nothing yet; `None`: the definition is not of this kind.
    pub fn new(definition: &Definition, secrets: Secrets, patience: Patience) -> Option<Self> {
        Some(Self {
            options: Options::deserialize(&definition.options).ok()?,
            url: definition.url.clone(),
            secret_arn: definition.secret.clone(),
            secrets,
            patience,
            client: Mutex::default(),
            is_refused: AtomicBool::new(false),
        })
    }

    /// The time of the last operation that the server knows of: whatever is read after it, is not older.
    ///
    /// # Errors
    /// No server answers, or it is none of a replica set.
    pub async fn now(&self) -> Result<Timestamp, Error> {
        let ping = async {
            let answer = self.client().await?.database("admin").run_command(doc! { "ping": 1 }).await?;
            answer.get_timestamp("operationTime").map_err(|_| Error::Alone)
        };
        self.within("ping", ping).await
    }

    /// Opens the change stream where it was left.
    ///
    /// # Errors
    /// What happened since is not in the oplog any more, or no server answers.
    pub async fn watch(&self, from: &From) -> Result<Changes, Error> {
        let open = async {
            let collection = self.collection().await?;
            // What it would say of fields comes with the document, and makes large events larger than the server sends.
            let watch = collection
                .watch()
                .pipeline([doc! { "$unset": "updateDescription" }])
                .full_document(FullDocumentType::UpdateLookup)
                .batch_size(BATCH)
                .max_await_time(AWAIT);
            let watch = match from {
                From::Time(time) => watch.start_at_operation_time(*time),
                From::Token(token) => watch.resume_after(token.clone()),
            };
            Ok(watch.await?.with_type())
        };
        self.within("watch", open).await.map(Changes)
    }

    /// Some changes, in their order.
    ///
    /// # Errors
    /// As of `watch`.
    pub async fn changes(&self, Changes(stream): &mut Changes) -> Result<Page, Error> {
        let read = async {
            let mut page = Page::default();
            while !page.is_full() {
                let Some(event) = stream.next_if_any().await? else {
                    page.is_last = true;
                    page.token = stream.resume_token().or(page.token);
                    break;
                };
                page.change(event);
            }
            Ok(page)
        };
        self.within("changes", read).await
    }

    /// Documents behind this `_id`, in the order of those, as they are at this time or later. An empty page is the end.
    ///
    /// # Errors
    /// No server answers.
    pub async fn documents(&self, copy: &Copy, after: Option<&Id>) -> Result<Page, Error> {
        let find = doc! {
            "find": &self.options.collection,
            "filter": place::filter(after),
            "sort": { "_id": 1 },
            "limit": i64::from(page::ITEMS),
            "batchSize": i64::from(page::ITEMS),
            "singleBatch": true,
            // What was read at that time by most of them stays, whichever of them answers.
            "readConcern": { "level": "majority", "afterClusterTime": copy.since },
        };
        let read = async {
            let database = self.client().await?.database(&self.options.database);
            let mut documents = database.run_cursor_command(find).await?.with_type::<RawDocumentBuf>();
            let mut page = Page::default();
            while !page.is_full()
                && let Some(document) = documents.try_next().await?
            {
                page.document(&document, copy.since);
            }
            Ok(page)
        };
        self.within("documents", read).await
    }

    async fn within<T>(&self, what: &'static str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let outcome = timeout(self.patience.answer, call(PEER, what, work)).await.unwrap_or(Err(Error::Silent));
        if matches!(outcome, Err(Error::Unauthorized)) {
            *self.client.lock().await = None;
            self.is_refused.store(true, Ordering::Relaxed);
        }
        outcome
    }

    async fn collection(&self) -> Result<Collection<Document>, Error> {
        Ok(self.client().await?.database(&self.options.database).collection(&self.options.collection))
    }

    async fn client(&self) -> Result<Client, Error> {
        let mut client = self.client.lock().await;
        if let Some((client, _)) = &*client {
            return Ok(client.clone());
        }
        let Credentials { url, ca } = match (&self.secret_arn, &self.url) {
            (Some(arn), _) if self.is_refused.swap(false, Ordering::Relaxed) => self.secrets.refresh(arn).await?,
            (Some(arn), _) => self.secrets.get(arn).await?,
            (None, Some(url)) => Credentials { url: url.clone(), ca: None },
            (None, None) => return Err(Error::Url),
        };
        let authority = ca.as_deref().map(Authority::new).transpose()?;
        let options = self.client_options(&url, authority.as_ref()).await?;
        let made = Client::with_options(options).map_err(|_| Error::Url)?;
        Ok(client.insert((made, authority)).0.clone())
    }

    async fn client_options(&self, url: &str, authority: Option<&Authority>) -> Result<ClientOptions, Error> {
        if url.starts_with("mongodb+srv:") && !cfg!(feature = "srv") {
            return Err(Error::Srv);
        }
        // The driver's own words may have parts of it.
        let mut options = ClientOptions::parse(url).await.map_err(|error| Error::of_url(&error))?;
        if options.credential.is_some() && is_in_the_clear(&options) {
            return Err(Error::InTheClear);
        }
        if let Some(Authority(file)) = authority {
            let mut tls = match options.tls.take() {
                Some(Tls::Enabled(tls)) => tls,
                Some(Tls::Disabled) | None => TlsOptions::default(),
            };
            tls.ca_file_path = Some(file.clone());
            options.tls = Some(Tls::Enabled(tls));
        }
        options.app_name = Some("sluice ingest".to_owned());
        options.connect_timeout = Some(self.patience.connect);
        options.server_selection_timeout = Some(self.patience.silence);
        options.max_pool_size = Some(CONNECTIONS);
        Ok(options)
    }
}

/// Where a source is, as tables name it: hosts, database and collection; without the hosts, where they are in its secret.
pub fn origin(definition: &Definition) -> Option<String> {
    let Options { database, collection } = Options::deserialize(&definition.options).ok()?;
    let hosts = definition.url.as_deref().and_then(|url| url.split_once("://")).map_or("", |(_, rest)| rest);
    let hosts = hosts.split(['/', '?']).next().unwrap_or_default();
    Some(format!("{hosts}/{database}.{collection}"))
}

/// Whether what is sent leaves this machine, and without TLS.
fn is_in_the_clear(options: &ClientOptions) -> bool {
    let is_local = |host: &ServerAddress| {
        // What is no address of TCP is a socket of this machine.
        let ServerAddress::Tcp { host, .. } = host else { return true };
        is_this_machine(host)
    };
    !matches!(options.tls, Some(Tls::Enabled(_))) && !options.hosts.iter().all(is_local)
}

/// The driver reads an authority from a file alone, and with each server that it finds. It is there for as long as the client.
#[derive(Debug)]
struct Authority(PathBuf);

impl Authority {
    fn new(pem: &str) -> Result<Self, Error> {
        // The driver passes over what is none, and then trusts nobody.
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(Error::Authority);
        }
        let path = std::env::temp_dir().join(format!("sluice-mongodb-{}.pem", Uuid::new()));
        let written = File::create_new(&path).and_then(|mut file| file.write_all(pem.as_bytes()));
        written.map(|()| Self(path)).map_err(|_| Error::Authority)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // What is left there is public.
        let _ = std::fs::remove_file(&self.0);
    }
}
