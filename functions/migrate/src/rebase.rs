//! After a restore or a copy: the position in the log means nothing, and the index may have what the source has not.

use std::time::{Duration, Instant};

use database::rebase::{self, Walk};
use database::streams::resync_keys;
use database::subscriptions::ELASTICSEARCH;
use database::{Read, Stream};
use search::Server;
use search::scan::{Found, Scan, highest_version};
use tokio_postgres::Client;

use crate::{
    Report,
    error::{Error, query},
};

/// Versions end at 2^53 - 1 (`subscription_reserved`), and the drain goes on above those of the indexes. By the clock this
/// is the year 2255.
const HIGHEST_VERSION: i64 = 9_000_000_000_000_000;
/// Of how many keys the source is asked at a time. After each of these it is stored how far the walk is.
const CHUNK: usize = 1_000;
/// What is left of a run's time for its last chunk and its answer.
const RESERVE: Duration = Duration::from_secs(60);

/// How far one run goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// When the run must have ended; `None`: when it is done.
    pub deadline: Option<Instant>,
}

/// Begins anew from what the source is now, or goes on with that. The drain does the work: every row is read and written
/// again, with a version above any in the indexes; keys that only an index has are read too, found missing, and deleted.
/// For these the indexes are walked for as long as there is time.
pub(crate) async fn rebase(
    client: &Client,
    elasticsearch: &Server,
    limits: Limits,
    report: &mut Report,
) -> Result<(), Error> {
    let streams = database::streams(client, ELASTICSEARCH).await.map_err(query("reading the streams"))?;
    let resumed = rebase::resume(client).await.map_err(query("looking for a rebase to go on with"))?;
    if let Some(begun_at) = resumed {
        report.say(format!("goes on with the rebase that was begun at {begun_at}"));
    } else {
        let mut streams: Vec<&Stream> = streams.values().collect();
        streams.sort_by_key(|stream| &stream.name);
        begin(client, elasticsearch, &streams, report).await?;
    }

    let walks = rebase::list_walks(client).await.map_err(query("reading what is to be walked"))?;
    let mut run = Run { client, elasticsearch, limits, report, has_advanced: false };
    let (mut failures, mut is_cut) = (Vec::new(), false);
    for walk in walks {
        let Some(stream) = streams.get(&walk.stream) else { continue };
        match run.walk(stream, walk).await {
            Ok(true) => {}
            Ok(false) => {
                is_cut = true;
                break;
            }
            Err(error) => failures.push(format!("stream {}: {error}", stream.name)),
        }
    }
    // A run that came nowhere, and is to be mended, is not called again.
    if is_cut && (run.has_advanced || failures.is_empty()) {
        for failure in failures {
            report.say(failure);
        }
        report.break_off("rebase");
        return Ok(());
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Streams(failures)) }
}

/// What comes before any walk, and takes a moment: positions, versions, a resync of each stream.
async fn begin(client: &Client, elasticsearch: &Server, streams: &[&Stream], report: &mut Report) -> Result<(), Error> {
    let mut highest = 0;
    for index in streams.iter().filter_map(|stream| stream.live_index.as_deref()) {
        highest = highest.max(possible(highest_version(elasticsearch, index).await?, index)?);
    }
    rebase::begin(client, highest).await.map_err(query("setting the position to now"))?;
    report.say(format!("the position is now, versions go on above {highest}"));
    for stream in streams.iter().filter(|stream| stream.source.is_none() && stream.live_index.is_some()) {
        report.say(format!("stream {}: fed by sluice.emit, left as it is", stream.name));
    }
    Ok(())
}

/// Whether the drain can go on above a version of this index.
fn possible(version: i64, index: &str) -> Result<i64, Error> {
    if version > HIGHEST_VERSION {
        return Err(Error::Version { index: index.to_owned(), version });
    }
    Ok(version)
}

/// One run over the indexes.
struct Run<'a> {
    client: &'a Client,
    elasticsearch: &'a Server,
    limits: Limits,
    report: &'a mut Report,
    /// It has stored that a walk is further, so that the next run has less to do.
    has_advanced: bool,
}

impl Run<'_> {
    /// Walks what is left of a stream's index. `false`: there is no time for all of it.
    async fn walk(&mut self, stream: &Stream, walk: Walk) -> Result<bool, Error> {
        let name = stream.name.as_str();
        let Some(mut scan) = Scan::open(self.elasticsearch, &walk.index, walk.position).await? else {
            self.forget(name).await?;
            let index = &walk.index;
            self.report
                .say(format!("stream {name}: its index {index} is gone: run migrate, which makes and fills one"));
            return Ok(true);
        };
        let mut surplus = walk.surplus;
        let compared = self.compare(stream, &walk.index, &mut scan, &mut surplus).await;
        scan.close().await;
        if !compared? {
            return Ok(false);
        }
        self.forget(name).await?;
        self.report.say(format!("stream {name}: reads every row again, and {surplus} keys that only its index has"));
        Ok(true)
    }

    /// Nothing is left to be walked of this stream.
    async fn forget(&mut self, stream: &str) -> Result<(), Error> {
        rebase::end_walk(self.client, stream).await.map_err(query("storing that an index was walked"))?;
        self.has_advanced = true;
        Ok(())
    }

    /// Compares what is left of an index with the source, and counts the keys that only the index has. `false`: there was no
    /// time for all of it. One chunk of each run is compared however late it is, so that the walk comes to its end.
    async fn compare(
        &mut self,
        stream: &Stream,
        index: &str,
        scan: &mut Scan<'_>,
        surplus: &mut i64,
    ) -> Result<bool, Error> {
        let (mut is_whole, mut overtaken) = (true, 0);
        'walk: while let Some(page) = scan.next().await? {
            let mut rest = page.as_slice();
            while !rest.is_empty() {
                if self.has_advanced && self.is_late() {
                    is_whole = false;
                    break 'walk;
                }
                let (chunk, following) = rest.split_at(rest.len().min(CHUNK));
                overtaken += self.overtake(stream, index, chunk).await?;
                *surplus += self.remove_surplus(stream, chunk).await?;
                // Of the page's last one it is not known whether another shard has that number, too.
                if let Some(next) = following.first().or(chunk.last()) {
                    let stored = rebase::advance_walk(self.client, &stream.name, next.seq_no, *surplus).await;
                    stored.map_err(query("storing how far an index was walked"))?;
                }
                self.has_advanced = true;
                rest = following;
            }
        }
        if overtaken > 0 {
            let name = &stream.name;
            self.report.say(format!(
                "stream {name}: versions go on above {overtaken} that were ahead, and their keys are read again"
            ));
        }
        Ok(is_whole)
    }

    /// Raises the versions above those of the chunk: how many were ahead. They came after the beginning, by what another
    /// cluster had sent whose clock was ahead.
    async fn overtake(&self, stream: &Stream, index: &str, chunk: &[Found]) -> Result<usize, Error> {
        let reserved = rebase::read_highest_version(self.client).await.map_err(query("comparing the versions"))?;
        let ahead: Vec<&Found> = chunk.iter().filter(|found| found.version > reserved).collect();
        let Some(highest) = ahead.iter().map(|found| found.version).max() else { return Ok(0) };
        let highest = possible(highest, index)?;
        let keys: Vec<&str> = ahead.iter().map(|found| found.key.as_str()).collect();
        let sent = rebase::overtake(self.client, &stream.name, &keys, highest).await;
        sent.map_err(query("raising the versions above those of an index"))?;
        Ok(keys.len())
    }

    /// Has the drain look at each key of the chunk that the source has not. How many there are.
    async fn remove_surplus(&self, stream: &Stream, chunk: &[Found]) -> Result<i64, Error> {
        let keys: Vec<String> = chunk.iter().map(|found| found.key.clone()).collect();
        // With no bytes allowed, what exists is too large, and no document travels.
        let mut reads = stream.read(self.client, keys.clone(), 0, None);
        let mut missing = Vec::new();
        while let Some((position, read)) = reads.next().await? {
            if !matches!(read, Read::TooLarge { .. } | Read::Document(_)) {
                missing.push(keys[position].as_str());
            }
        }
        if !missing.is_empty() {
            let sent = resync_keys(self.client, &stream.name, &missing).await;
            sent.map_err(query("logging the keys that only the index has"))?;
        }
        Ok(i64::try_from(missing.len()).unwrap_or(i64::MAX))
    }

    fn is_late(&self) -> bool {
        self.limits.deadline.is_some_and(|deadline| Instant::now() + RESERVE > deadline)
    }
}
