//! What an operator wants of the generations of a stream's index.

use ::generations::{Keeper, Settings};
use database::audit::Actor;
use database::generations::{self, Status};
use search::Server;
use serde::Deserialize;
use tokio_postgres::Client;

use crate::error::query;
use crate::{APPLICATION_NAME, Error, Report, indexes};

/// A stream, and what is to be done with its generations.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Reindex {
    /// Its name; `None`: all, whose state is told.
    pub stream: Option<String>,
    /// What is to be done.
    #[serde(default)]
    pub action: Action,
    /// It takes over without the documents that its index refuses.
    #[serde(default)]
    pub accept_dead_letters: bool,
}

/// What is done with the generations of a stream.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Begins another one.
    #[default]
    Begin,
    /// Tells which there are.
    Status,
    /// Lets the one that is being built take over as soon as it can.
    Takeover,
    /// Goes back to the one that was live before.
    Rollback,
    /// Gives up the one that is being built, or else the way back.
    Abort,
}

impl Reindex {
    pub(crate) async fn run(
        &self,
        client: &mut Client,
        elasticsearch: &Server,
        prefix: &str,
        settings: Settings,
        report: &mut Report,
    ) -> Result<(), Error> {
        let actor = Actor { name: APPLICATION_NAME, source_ip: None };
        let Some(stream) = self.stream.as_deref() else {
            if self.action == Action::Status {
                return tell(client, None, report).await;
            }
            return Err(Error::Reindex("which stream? STREAM=name, or --stream name".to_owned()));
        };
        let nothing = |what: &str| Error::Reindex(format!("stream {stream} {what}"));
        match self.action {
            Action::Status => {}
            Action::Begin => {
                generations::reindex(client, stream).await.map_err(query("asking for another generation"))?;
                indexes::make(client, elasticsearch, prefix, settings, report).await?;
            }
            Action::Takeover => {
                let approved = generations::approve(client, stream, self.accept_dead_letters, actor).await;
                if !approved.map_err(query("approving a generation"))? {
                    return Err(nothing("is building no generation"));
                }
            }
            Action::Rollback => {
                let wanted = generations::roll_back(client, stream, actor).await;
                if !wanted.map_err(query("going back"))? {
                    return Err(nothing("keeps no generation that it could go back to"));
                }
            }
            Action::Abort => {
                let given_up = generations::abort(client, stream, actor).await.map_err(query("giving up"))?;
                if given_up == 0 {
                    return Err(nothing("has no generation beside the live one"));
                }
            }
        }
        // What begins one has led them all.
        if !matches!(self.action, Action::Status | Action::Begin) {
            let keeper = Keeper { client, elasticsearch, prefix, settings };
            for what in keeper.keep().await? {
                report.say(what);
            }
        }
        tell(client, Some(stream), report).await
    }
}

async fn tell(client: &Client, stream: Option<&str>, report: &mut Report) -> Result<(), Error> {
    for status in generations::list_status(client, stream).await.map_err(query("reading the generations"))? {
        let Status { stream, number, state, index, logged, waits, .. } = status;
        let keys = if logged > 0 { format!(", {logged} keys read so far") } else { String::new() };
        let waits = waits.map(|waits| format!(": {waits}")).unwrap_or_default();
        report.say(format!("stream {stream}: generation {number}, {state}, index {index}{keys}{waits}"));
    }
    Ok(())
}
