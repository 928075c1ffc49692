//! All in which Elasticsearch and OpenSearch differ.
//!
//! What both say of a document is told apart nowhere: the lists of `cause.rs` have the words of both. OpenSearch began as
//! Elasticsearch 7.10, and has kept its API where nothing here says otherwise.

use std::ops::Deref;
use std::str::FromStr;

use elasticsearch::http::response::Response;
use serde_json::{Value, json};

use crate::client::Client;

/// OpenSearch says this wherever it runs, while `version.distribution` is left out by a cluster that is set to be taken for
/// Elasticsearch 7.10 (`compatibility.override_main_response_version`).
const TAGLINE: &str = "The OpenSearch Project";

/// A setting of the template that OpenSearch cannot carry out: no mapping has a field of this name.
const SORT_FIELD: &str = "index.sort.field";
/// It is also what somebody is told who would make an index by writing to it.
const NO_FIELD: &str = "only sluice migrate makes this index";

/// Which server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Of the major versions 8 and 9.
    Elasticsearch,
    /// Of the major version 2.
    OpenSearch,
}

impl FromStr for Engine {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "elasticsearch" => Ok(Self::Elasticsearch),
            "opensearch" => Ok(Self::OpenSearch),
            _ => Err(()),
        }
    }
}

/// A client of a server that has answered, and what that server is.
#[derive(Clone, Debug)]
pub struct Server {
    client: Client,
    engine: Engine,
}

impl Deref for Server {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Server {
    pub(crate) fn new(client: Client, engine: Engine) -> Self {
        Self { client, engine }
    }

    /// Which one it is.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Lets an index template forbid that anybody makes an index of its names by writing to it.
    ///
    /// OpenSearch knows no `allow_auto_create`, and a bulk delete with an external version makes an index there, too, even
    /// where it requires an alias. So its template has a setting with which no index can be made, and [`Self::allow_creation`]
    /// takes it back. `action.auto_create_index` would do, but it is one text for the whole cluster, which is not ours.
    pub fn forbid_creation(&self, template: &mut Value) {
        match self.engine {
            Engine::Elasticsearch => template["allow_auto_create"] = json!(false),
            Engine::OpenSearch => template["template"] = json!({"settings": {SORT_FIELD: NO_FIELD}}),
        }
    }

    /// Completes the settings of an index that is made on purpose, under such a template.
    pub fn allow_creation(&self, settings: &mut Value) {
        if self.engine == Engine::OpenSearch && settings.get(SORT_FIELD).is_none() {
            settings[SORT_FIELD] = Value::Null;
        }
    }

    pub(crate) async fn open_point_in_time(
        &self,
        index: &str,
        keep_alive: &str,
    ) -> Result<Response, elasticsearch::Error> {
        let request = match self.engine {
            Engine::Elasticsearch => self.client.post([index, "_pit"]),
            Engine::OpenSearch => self.client.post([index, "_search", "point_in_time"]),
        };
        request.query("keep_alive", keep_alive).send().await
    }

    /// Its id, in the answer to the request that opened it.
    pub(crate) fn point_in_time(&self, opened: &Value) -> String {
        let field = match self.engine {
            Engine::Elasticsearch => "id",
            Engine::OpenSearch => "pit_id",
        };
        opened[field].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) async fn close_point_in_time(&self, id: &str) -> Result<Response, elasticsearch::Error> {
        let request = match self.engine {
            Engine::Elasticsearch => self.client.delete(["_pit"]).json(&json!({"id": id})),
            Engine::OpenSearch => self.client.delete(["_search", "point_in_time"]).json(&json!({"pit_id": [id]})),
        };
        request.send().await
    }
}

/// What `GET /` says of the server. One that says nothing of it is taken for Elasticsearch.
pub(crate) fn engine_of(answer: &Value) -> Engine {
    match answer["tagline"].as_str() {
        Some(tagline) if tagline.starts_with(TAGLINE) => Engine::OpenSearch,
        _ => Engine::Elasticsearch,
    }
}

/// Whether this sentence is what OpenSearch says where a template of ours forbids to make an index.
pub(crate) fn is_of_forbidden_creation(sentence: &str) -> bool {
    sentence.strip_prefix("unknown index sort field:[").is_some_and(|field| field.starts_with(NO_FIELD))
}
