//! A stream's round, step by step. All that is to be remembered is in PostgreSQL, so that any other invocation can go on.

use std::time::Duration;

use database::subscriptions::ELASTICSEARCH;
use database::validation::{self, Finding, Judged, Page, Phase, Round, Turn};
use database::{Read, ReadError, Stream};
use elasticsearch::Elasticsearch;
use search::scan::Scan;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Client;

use crate::config::Settings;
use crate::error::Error;
use crate::examine::{Examined, Sides};
use crate::target;

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
    /// When the next page may be read.
    next_page: Instant,
    /// When the next document may be repaired.
    next_repair: Instant,
}

impl Pace {
    pub(crate) fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        Self { rate: settings.rate, repair_rate: settings.repair_rate, next_page: now, next_repair: now }
    }

    /// A page is at most half a second's.
    fn page(&self) -> i32 {
        i32::try_from(self.rate / 2).unwrap_or(PAGE).clamp(1, PAGE)
    }

    /// So many were looked at.
    fn looked_at(&mut self, documents: usize) {
        self.next_page =
            self.next_page.max(Instant::now()) + Duration::from_secs_f64(documents as f64 / f64::from(self.rate));
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
    pub(crate) elasticsearch: &'a Elasticsearch,
    pub(crate) stream: &'a Stream,
    pub(crate) turn: Turn<'a>,
    scan: Option<Scan<'a>>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(
        client: &'a Client,
        elasticsearch: &'a Elasticsearch,
        stream: &'a Stream,
        turn: Turn<'a>,
    ) -> Self {
        Self { client, elasticsearch, stream, turn, scan: None }
    }

    /// Does what can be done: what is to be found out of differences first, then a page, unless what was sent lags behind.
    pub(crate) async fn step(&mut self, pace: &mut Pace, lags: bool, done: &mut Done) -> Result<Step, Error> {
        let Some(round) = validation::find(self.client, ELASTICSEARCH, &self.stream.name).await? else {
            return Ok(Step::Done);
        };
        if round.phase == Phase::Done {
            return Ok(Step::Done);
        }
        if round.phase == Phase::Asked || round.index != self.stream.live_index {
            self.start().await?;
            return Ok(Step::On);
        }
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
            if !has_moved && validation::end(self.client, self.turn).await? {
                return Ok(Step::Done);
            }
            return Ok(if has_moved { Step::On } else { Step::Waits });
        }
        if lags || !validation::has_room(self.client, self.turn).await? {
            return Ok(if has_moved { Step::On } else { Step::Waits });
        }
        sleep_until(pace.next_page).await;
        if round.phase == Phase::Source {
            self.compare_page(round, index, pace, done).await?;
        } else {
            self.walk_page(round, index, pace).await?;
        }
        Ok(Step::On)
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
        let Some(index) = self.stream.live_index.as_deref() else {
            let problem = "it has no index yet: run migrate, which makes one";
            return Ok(validation::start(self.client, self.turn, Err(problem)).await?);
        };
        let problem = if self.stream.source.is_none() {
            Some("it is fed by sluice.emit, and has no source that its index could be compared with".to_owned())
        } else if let (None, Some(problem)) = (&self.stream.query, &self.stream.problem) {
            Some(problem.clone())
        } else {
            target::problem(self.elasticsearch, index).await?
        };
        Ok(validation::start(self.client, self.turn, problem.as_deref().map_or(Ok(index), Err)).await?)
    }

    /// The source's next documents, and those of the same keys in the index.
    async fn compare_page(&mut self, round: Round, index: &str, pace: &mut Pace, done: &mut Done) -> Result<(), Error> {
        let size = pace.page();
        let keys = validation::read_keys(self.client, &self.stream.name, round.after.as_ref(), size).await?;
        let sides = self.sides(index);
        let is_last = i32::try_from(keys.keys.len()).unwrap_or(i32::MAX) < size;
        let mut page = Page::of(round, keys.seen, if is_last { Phase::Index } else { Phase::Source });
        page.after = keys.last.or(page.after);
        page.checked = i64::try_from(keys.keys.len()).unwrap_or(i64::MAX);
        for examined in sides.examine(&keys.keys).await? {
            page.printed_differently += i64::from(examined.is_printed_differently);
            let key = keys.keys[examined.position].as_str();
            page.candidates.extend(examined.finding(key));
        }
        validation::note_page(self.client, self.turn, &page).await?;
        pace.looked_at(keys.keys.len());
        done.checked += page.checked;
        Ok(())
    }

    /// The index's next documents, by the order of their writes: those that the source has not, and those with versions that Sluice
    /// has not reached.
    async fn walk_page(&mut self, round: Round, index: &'a str, pace: &mut Pace) -> Result<(), Error> {
        if self.scan.is_none() {
            self.scan = Scan::open(self.elasticsearch, index, round.position).await?;
        }
        let found = match &mut self.scan {
            Some(scan) => scan.next().await?,
            None => None,
        };
        let (seen, reserved) = validation::look(self.client, ELASTICSEARCH).await?;
        let mut page = Page::of(round, seen, Phase::Confirming);
        if let Some(found) = found {
            page.phase = Phase::Index;
            page.walked = i64::try_from(found.len()).unwrap_or(i64::MAX);
            // The last number again: another shard may have it, too.
            page.position = found.last().map_or(page.position, |last| last.seq_no);
            let keys: Vec<String> = found.iter().map(|it| it.key.clone()).collect();
            // With no bytes allowed, what exists is too large, and no document travels.
            let mut reads = self.stream.read(self.client, keys.clone(), 0, None);
            while let Some((position, read)) = reads.next().await? {
                let version = Some(found[position].version);
                let class = match read {
                    _ if version > Some(reserved) => "version_ahead",
                    Read::Missing => "extra",
                    Read::Document(_) | Read::TooLarge { .. } | Read::Failed { .. } => continue,
                };
                page.candidates.push(Finding { key: keys[position].clone(), class, digest: None, version });
            }
            pace.looked_at(found.len());
        }
        validation::note_page(self.client, self.turn, &page).await?;
        Ok(())
    }

    /// Looks again at differences of which all that was under way has arrived. Whether there were any.
    async fn look_again(&self, index: &str) -> Result<bool, Error> {
        let due = validation::list_differences_due(self.client, ELASTICSEARCH, &self.stream.name, AGAIN).await?;
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
        validation::note_differences(self.client, self.turn, &found).await?;
        Ok(true)
    }

    fn sides<'b>(&'b self, index: &'b str) -> Sides<'b> {
        Sides { client: self.client, elasticsearch: self.elasticsearch, stream: self.stream, index }
    }
}

/// Whether whoever reads the source fares no better in a moment, whichever key is asked for.
pub(crate) fn is_lasting(error: &Error) -> bool {
    matches!(error, Error::Source(ReadError::NoSource(_) | ReadError::UnreadableSource { .. }))
}
