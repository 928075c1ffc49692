//! A stream's round, step by step. All that is to be remembered is in PostgreSQL, so that any other invocation can go on.

use std::collections::VecDeque;
use std::time::Duration;

use database::validation::{self, Finding, Index, Judged, Page, Phase, Round, Turn};
use database::{Read, Stream};
use search::Server;
use search::scan::{Found, Scan};
use sluice_clickhouse::{Connection, Failure, compare as table};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Client;

use crate::config::Settings;
use crate::error::Error;
use crate::examine::{Examined, Sides};
use crate::target::Target;

/// Documents of one page.
const PAGE: i32 = 1000;
/// Documents that are looked at again at once.
const AGAIN: i32 = 500;
/// Documents that are repaired at once, where there is a budget for them.
const REPAIRED: u32 = 100;

/// How fast: documents compared, and repaired.
pub(crate) struct Pace {
    rate: u32,
    repair_rate: u32,
    /// When the last page was begun, and when the next may be.
    page_begun: Instant,
    next_page: Instant,
    /// When the next document may be repaired.
    next_repair: Instant,
}

impl Pace {
    pub(crate) fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        Self {
            rate: settings.rate,
            repair_rate: settings.repair_rate,
            page_begun: now,
            next_page: now,
            next_repair: now,
        }
    }

    /// A page is at most half a second's.
    fn page(&self) -> i32 {
        i32::try_from(self.rate / 2).unwrap_or(PAGE).clamp(1, PAGE)
    }

    /// Waits until the next page may be read.
    async fn begin_page(&mut self) {
        sleep_until(self.next_page).await;
        self.page_begun = Instant::now();
    }

    /// So many were looked at. What that took itself is part of their time.
    fn looked_at(&mut self, documents: usize) {
        self.next_page = self.page_begun + Duration::from_secs_f64(documents as f64 / f64::from(self.rate));
    }

    /// How many may be repaired now: what was not used is not saved up, but for some seconds.
    fn repairs(&self) -> i32 {
        let saved = Instant::now().saturating_duration_since(self.next_repair).as_secs_f64().min(10.0);
        let most = (saved * f64::from(self.repair_rate) / 60.0) as u32 + 1;
        if Instant::now() < self.next_repair { 0 } else { i32::try_from(most.min(REPAIRED)).unwrap_or(1) }
    }

    fn repaired(&mut self, documents: i64) {
        let since = self.next_repair.max(Instant::now() - Duration::from_secs(10));
        self.next_repair = since + Duration::from_secs_f64(documents as f64 * 60.0 / f64::from(self.repair_rate));
    }
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is more to do at once.
    On,
    /// Until something has arrived, or may be repaired, there is nothing to do.
    Waits,
    /// The round is over.
    Done,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) checked: i64,
    pub(crate) repaired: i64,
}

/// Who works on a stream, for as long as it has the lease.
pub(crate) struct Worker<'a> {
    pub(crate) client: &'a Client,
    pub(crate) target: &'a Target,
    pub(crate) stream: &'a Stream,
    pub(crate) turn: Turn<'a>,
    scan: Option<Scan<'a>>,
    /// What the scan gave, and was not looked for yet.
    found: VecDeque<Found>,
    /// Documents that are looked at at once.
    page: i32,
    /// Of the index that the round is about.
    uuid: Option<String>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(client: &'a Client, target: &'a Target, stream: &'a Stream, turn: Turn<'a>) -> Self {
        Self { client, target, stream, turn, scan: None, found: VecDeque::new(), page: PAGE, uuid: None }
    }

    /// Does what can be done: what is to be found out of differences first, then a page, unless what was sent lags behind.
    pub(crate) async fn step(&mut self, pace: &mut Pace, lags: bool, done: &mut Done) -> Result<Step, Error> {
        let Some(round) = validation::find(self.client, self.turn.subscription, &self.stream.name).await? else {
            return Ok(Step::Done);
        };
        if round.phase == Phase::Done {
            return Ok(Step::Done);
        }
        if round.phase == Phase::Asked || round.index != self.stream.live_index {
            self.start().await?;
            return Ok(Step::On);
        }
        self.page = round.page;
        self.uuid.clone_from(&round.index_uuid);
        let stream: &'a Stream = self.stream;
        let Some(index) = stream.live_index.as_deref() else { return Ok(Step::Done) };
        let looked_again = self.look_again(index).await?;
        let (is_whole, confirmed) = validation::confirm(self.client, self.turn).await?;
        let repaired = match pace.repairs() {
            0 => 0,
            size => validation::repair(self.client, self.turn, size).await?,
        };
        pace.repaired(repaired);
        done.repaired += repaired;
        let has_moved = looked_again || !is_whole || confirmed > 0 || repaired > 0;
        if round.phase == Phase::Confirming {
            return if has_moved { Ok(Step::On) } else { self.end().await };
        }
        if lags || !validation::has_room(self.client, self.turn).await? {
            return Ok(if has_moved { Step::On } else { Step::Waits });
        }
        pace.begin_page().await;
        match (round.phase, self.target) {
            (Phase::Source, _) => self.compare_page(round, index, pace, done).await?,
            (_, Target::Elasticsearch(elasticsearch)) => self.walk_index(elasticsearch, round, index, pace).await?,
            (_, Target::ClickHouse(connection)) => self.walk_table(connection, round, pace).await?,
        }
        Ok(Step::On)
    }

    /// Ends the round where nothing is left to be found out of the index that is there.
    async fn end(&mut self) -> Result<Step, Error> {
        if !validation::is_over(self.client, self.turn.subscription, &self.stream.name).await? {
            return Ok(Step::Waits);
        }
        if !self.has_its_index().await? {
            self.start().await?;
            return Ok(Step::On);
        }
        Ok(if validation::end(self.client, self.turn).await? { Step::Done } else { Step::Waits })
    }

    /// Whether the index is the one that the round is about: not gone, nor made anew.
    async fn has_its_index(&self) -> Result<bool, Error> {
        let Some(index) = self.stream.live_index.as_deref() else { return Ok(false) };
        Ok(self.target.identity(index).await?.ok() == self.uuid)
    }

    /// What follows from a failure: no verdict, another beginning, smaller pages, or the failure itself.
    pub(crate) async fn recover(&mut self, failure: Error) -> Result<Step, Error> {
        if let Error::Late(_) = failure {
            // It may have been in the middle of a read.
            self.client.batch_execute("ROLLBACK").await?;
        }
        if failure.is_lasting() {
            validation::start(self.client, self.turn, Err(&failure.to_string())).await?;
            return Ok(Step::Done);
        }
        // What Elasticsearch does not find may be a point in time, too. And a table may have lost a column.
        if failure.is_unfound() && !self.has_its_index().await? {
            self.start().await?;
            return Ok(Step::On);
        }
        if failure.is_late() {
            validation::halve_page(self.client, self.turn, self.page).await?;
        }
        Err(failure)
    }

    /// Ends what is open. Elasticsearch would forget it by itself, later.
    pub(crate) async fn close(self) {
        if let Some(scan) = self.scan {
            scan.close().await;
        }
    }

    /// Begins, or gives the round up.
    async fn start(&mut self) -> Result<(), Error> {
        self.scan = None;
        self.found.clear();
        let Some(index) = self.stream.live_index.as_deref() else {
            let problem = match self.target {
                Target::Elasticsearch(_) => "it has no index yet: run migrate, which makes one",
                Target::ClickHouse(_) => "it has no table yet: run migrate, which makes one",
            };
            return Ok(validation::start(self.client, self.turn, Err(problem)).await?);
        };
        let uuid = if self.stream.source.is_none() {
            Err("it is fed by sluice.emit, and has no source to compare with".to_owned())
        } else if let (None, Some(problem)) = (&self.stream.query, &self.stream.problem) {
            Err(problem.clone())
        } else {
            self.target.identity(index).await?
        };
        let index = uuid.as_deref().map(|uuid| Index { name: index, uuid }).map_err(String::as_str);
        Ok(validation::start(self.client, self.turn, index).await?)
    }

    /// The source's next documents, and those of the same keys in the index.
    async fn compare_page(&mut self, round: Round, index: &str, pace: &mut Pace, done: &mut Done) -> Result<(), Error> {
        let size = pace.page().min(self.page);
        let keys = validation::read_keys(self.client, &self.stream.name, round.after.as_ref(), size).await?;
        let sides = self.sides(index);
        let is_last = i32::try_from(keys.keys.len()).unwrap_or(i32::MAX) < size;
        let mut page = Page::of(round, keys.seen, if is_last { Phase::Index } else { Phase::Source });
        page.after = if is_last { None } else { keys.last };
        page.checked = i64::try_from(keys.keys.len()).unwrap_or(i64::MAX);
        let examined = sides.examine(&keys.keys).await?;
        let (overtaken, versions): (Vec<&str>, Vec<i64>) =
            examined.iter().filter_map(|it| Some((keys.keys[it.position].as_str(), it.version?))).unzip();
        let (client, reader) = (self.client, self.turn.subscription);
        validation::forget_overtaken_letters(client, reader, &self.stream.name, &overtaken, &versions).await?;
        for examined in examined {
            page.printed_differently += i64::from(examined.is_printed_differently);
            let key = keys.keys[examined.position].as_str();
            page.candidates.extend(examined.finding(key));
        }
        validation::note_page(self.client, self.turn, self.stream, &page).await?;
        pace.looked_at(keys.keys.len());
        done.checked += page.checked;
        Ok(())
    }

    /// The index's next documents, by the order of their writes: those that the source has not, and those with versions that Sluice
    /// has not reached.
    async fn walk_index(
        &mut self,
        elasticsearch: &'a Server,
        round: Round,
        index: &'a str,
        pace: &mut Pace,
    ) -> Result<(), Error> {
        if self.scan.is_none() {
            let Some(scan) = Scan::open(elasticsearch, index, round.position).await? else {
                return self.start().await;
            };
            self.scan = Some(scan);
        }
        if let (true, Some(scan)) = (self.found.is_empty(), &mut self.scan) {
            self.found.extend(scan.next().await?.unwrap_or_default());
        }
        let (seen, reserved) = validation::look(self.client, self.turn.subscription).await?;
        let size = usize::try_from(self.page.min(pace.page())).unwrap_or(1).min(self.found.len());
        let mut page = Page::of(round, seen, if size == 0 { Phase::Confirming } else { Phase::Index });
        page.walked = i64::try_from(size).unwrap_or(i64::MAX);
        let keys: Vec<String> = self.found.iter().take(size).map(|it| it.key.clone()).collect();
        // With no bytes allowed, what exists is too large, and no document travels.
        let mut reads = self.stream.read(self.client, keys.clone(), 0, None).without_log();
        while let Some((position, read)) = reads.next().await? {
            let version = Some(self.found[position].version);
            let class = match read {
                _ if version > Some(reserved) => "version_ahead",
                Read::Missing => "extra",
                Read::Document(_) | Read::TooLarge { .. } | Read::Failed { .. } => continue,
            };
            page.candidates.push(Finding { key: keys[position].clone(), class, digest: None, version });
        }
        // The last number again: another shard may have it, too.
        page.position = self.found.iter().take(size).next_back().map_or(page.position, |last| last.seq_no);
        validation::note_page(self.client, self.turn, self.stream, &page).await?;
        self.found.drain(..size);
        pace.looked_at(size);
        Ok(())
    }

    /// The table's next documents, by their keys; the same is looked for.
    async fn walk_table(&mut self, connection: &Connection, round: Round, pace: &mut Pace) -> Result<(), Error> {
        let (seen, reserved) = validation::look(self.client, self.turn.subscription).await?;
        let size = usize::try_from(self.page.min(pace.page())).unwrap_or(1);
        let slice = table::walk(connection, self.stream, round.after.as_deref(), reserved, size).await?;
        if slice.last.is_some() && slice.last == round.after {
            return Err(
                Failure::Table("its key has another order than its text, and cannot be walked".to_owned()).into()
            );
        }
        let mut page = Page::of(round, seen, if slice.last.is_some() { Phase::Index } else { Phase::Confirming });
        page.walked = i64::try_from(slice.found.len()).unwrap_or(i64::MAX);
        page.after = slice.last;
        let keys: Vec<String> = slice.found.iter().map(|walked| walked.key.clone()).collect();
        // Where there are none, the source is not asked.
        let sources = if keys.is_empty() {
            vec![]
        } else {
            validation::source_keys(self.client, &self.stream.name, &keys).await?
        };
        for (walked, (key, is_in_source)) in slice.found.into_iter().zip(sources) {
            let class = match walked {
                _ if walked.version > reserved => "version_ahead",
                _ if walked.is_there && !is_in_source => "extra",
                _ => continue,
            };
            page.candidates.push(Finding { key, class, digest: None, version: Some(walked.version) });
        }
        validation::note_page(self.client, self.turn, self.stream, &page).await?;
        pace.looked_at(size);
        Ok(())
    }

    /// Looks again at differences of which all that was under way has arrived. Whether there were any.
    async fn look_again(&self, index: &str) -> Result<bool, Error> {
        let reader = self.turn.subscription;
        let size = AGAIN.min(self.page);
        let due = validation::list_differences_due(self.client, reader, &self.stream.name, size).await?;
        if due.is_empty() {
            return Ok(false);
        }
        let keys: Vec<String> = due.iter().map(|it| it.key.clone()).collect();
        let sides = self.sides(index);
        let mut found = Vec::with_capacity(due.len());
        for examined in sides.examine(&keys).await? {
            let before = &due[examined.position];
            // Since the snapshot it has changed: by a row of the log, or else this is to be told.
            let has_changed = before.digest.is_some() && before.digest != examined.digest;
            let class = examined.class.map(|class| if class == "stale" && has_changed { "untracked" } else { class });
            let Examined { digest, version, .. } = examined;
            found.push(Judged { id: before.id, class, digest, version });
        }
        validation::note_differences(self.client, self.turn, self.stream, &found).await?;
        Ok(true)
    }

    fn sides<'b>(&'b self, index: &'b str) -> Sides<'b> {
        Sides { client: self.client, target: self.target, stream: self.stream, index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_compared_and_repaired_stays_within_its_budget() {
        let settings = Settings {
            within: Duration::ZERO,
            rate: 1000,
            repair: true,
            repair_rate: 600,
            stay: Duration::from_secs(60),
        };
        let (begun, mut pace, mut repaired, mut compared) = (Instant::now(), Pace::new(&settings), 0, 0);
        while begun.elapsed() < Duration::from_secs(600) {
            pace.begin_page().await;
            // A page takes its time itself, and there is not always something to repair.
            tokio::time::sleep(Duration::from_millis(100)).await;
            compared += pace.page();
            pace.looked_at(usize::try_from(pace.page()).unwrap());
            if begun.elapsed() > Duration::from_secs(60) {
                let size = pace.repairs();
                pace.repaired(i64::from(size));
                repaired += size;
            }
        }
        assert!((599_000..=601_000).contains(&compared), "{compared}");
        // Of the minute in which there was nothing to repair, some seconds are saved up.
        assert!((5_300..=5_600).contains(&repaired), "{repaired}");
    }
}
