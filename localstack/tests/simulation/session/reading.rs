//! Documents as a session reads them.

use std::time::Duration;

use database::{Answers, Read, ReadError, Session, Stream};
use serde_json::Value;
use tokio_postgres::{Client, Error};

use super::SimulatedSession;

/// Documents, of which the last ones may be lost with the connection.
pub struct Reading<'a> {
    pub session: &'a SimulatedSession,
    pub stream: &'a Stream,
    pub keys: Vec<String>,
    pub limit_bytes: i32,
    pub in_transaction: Option<Duration>,
    pub answers: Option<Vec<Read>>,
    pub answered: usize,
}

impl Answers for Reading<'_> {
    async fn next(&mut self) -> Result<Option<(usize, Read)>, ReadError> {
        let lost = |source| ReadError::Query { name: self.stream.name.clone(), source };
        if self.answers.is_none() {
            self.session.begin_request().await.map_err(lost)?;
            // One statement, one snapshot.
            let read = |key: &String| {
                self.session.world.state().log.document(&self.stream.name, key).map_or(Read::Missing, Read::Document)
            };
            let model: Vec<Read> = self.keys.iter().map(read).collect();
            if let Some(client) = &self.session.twin {
                let real = self.session.world.ask(all(client, self)).await?;
                let parsed = |reads: &[Read]| reads.iter().map(parse).collect::<Vec<_>>();
                assert_eq!(
                    parsed(&real),
                    parsed(&model),
                    "documents of {}: PostgreSQL's and the model's",
                    self.stream.name
                );
            }
            self.answers = Some(model);
        }
        let index = self.answered;
        let Some(read) = self.answers.as_ref().and_then(|answers| answers.get(index)) else { return Ok(None) };
        if self.session.world.state().fails(1) {
            self.session.is_lost.set(true);
            return Err(lost(Error::__private_api_timeout()));
        }
        self.answered += 1;
        Ok(Some((index, read.clone())))
    }

    fn into_unanswered(self) -> Vec<usize> {
        (self.answered..self.keys.len()).collect()
    }
}

/// What the real one reads, in the order of the keys.
async fn all(client: &Client, reading: &Reading<'_>) -> Result<Vec<Read>, ReadError> {
    let mut documents = client.read(reading.stream, reading.keys.clone(), reading.limit_bytes, reading.in_transaction);
    let mut reads = vec![Read::Missing; reading.keys.len()];
    while let Some((index, read)) = documents.next().await? {
        reads[index] = read;
    }
    Ok(reads)
}

fn parse(read: &Read) -> Option<Value> {
    match read {
        Read::Document(text) => Some(serde_json::from_str(text).unwrap()),
        Read::Missing => None,
        Read::TooLarge { .. } | Read::Failed { .. } => panic!("{read:?}"),
    }
}
