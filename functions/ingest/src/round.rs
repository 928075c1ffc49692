//! One round: every page of what changed, each stored before the next is asked for.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use database::ingest::position::{self, Position};
use futures_util::future::try_join_all;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::Error;
use crate::batch::{Batch, split};
use crate::elements;
use crate::origin::{Answer, Origin, Page};
use crate::profile::{Profile, Reject};
use crate::store::Writer;
use crate::tally::Tally;

/// What a chain has at most, over all rounds that read it: an origin that has more never ends.
const PAGES: i32 = 10_000;
/// An origin may commit a profile some time after the `last_updated_at` that it gave it, and so behind profiles that were
/// read already. What is read twice changes nothing.
const OVERLAP: Duration = Duration::from_secs(60);

/// A round under way.
pub(crate) struct Round<'a> {
    pub origin: &'a Origin,
    pub name: &'a str,
    pub writers: &'a mut [Writer],
    pub position: Position,
    pub stop_at: Instant,
    pub tally: &'a mut Tally,
}

impl Round<'_> {
    /// Reads and stores until the chain's end, or until it is time to stop; the next round goes on from there.
    pub async fn run(mut self) -> Result<(), Error> {
        // First: whatever the origin does, what is old goes.
        writer(self.writers).forget_rejects().await?;
        let since = self.position.since.and_then(|since| since.format(&Rfc3339).ok());
        let first = self.origin.first_page(since.as_deref());
        let unfinished = self.position.next_url.as_deref().and_then(|url| self.origin.stored_page(url));
        if unfinished.is_none() {
            self.position.chain_newest = None;
            self.position.chain_pages = 0;
        }
        let mut url = unfinished.unwrap_or_else(|| first.clone());
        let mut seen = HashSet::new();
        loop {
            if self.position.chain_pages >= PAGES {
                return Err(Error::EndlessChain { pages: PAGES });
            }
            if !seen.insert(url.clone()) {
                return Err(Error::Circle { pages: self.position.chain_pages });
            }
            let etag = self.position.etag.as_deref().filter(|_| url == first);
            let page = match self.origin.fetch(&url, etag, self.stop_at).await? {
                Answer::NotModified => break,
                Answer::Page(page) => page,
            };
            self.store(&page).await?;
            self.position.chain_pages += 1;
            let client = writer(self.writers).client().await?;
            let Some(next) = page.next else {
                // Of a chain of pages the first one's ETag says nothing about the others.
                let etag = page.etag.as_deref().filter(|_| self.position.chain_pages == 1);
                position::finish_chain(client, self.name, self.position.chain_newest, OVERLAP, etag).await?;
                break;
            };
            self.position.next_url = Some(self.origin.to_store(&next));
            position::go_on(client, self.name, &self.position).await?;
            if Instant::now() >= self.stop_at {
                break;
            }
            url = next;
        }
        let retried = writer(self.writers).retry_conflicts(OffsetDateTime::now_utc()).await?;
        self.tally.add(retried);
        Ok(())
    }

    /// All of a page, by all writers.
    async fn store(&mut self, page: &Page) -> Result<(), Error> {
        let elements = elements::parse(&page.body)?;
        let now = OffsetDateTime::now_utc();
        let judged: Vec<_> = elements.iter().map(|element| Profile::parse(element.get(), now)).collect();
        let newest = judged.iter().filter_map(known_time).max();
        let batches: Mutex<VecDeque<Batch<'_>>> = Mutex::new(split(judged).into());
        let take = || batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let tally = Mutex::new(Tally::default());
        let stored = try_join_all(self.writers.iter_mut().map(async |writer| {
            while let Some(batch) = take() {
                let stored = writer.store(&batch).await?;
                tally.lock().unwrap_or_else(PoisonError::into_inner).add(stored);
            }
            Ok::<_, Error>(())
        }));
        let stored = stored.await;
        let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.tally.add(tally);
        stored?;
        if tally.fetched > 0 {
            self.tally.dropped += writer(self.writers).drop_rejects().await?;
        }
        self.position.chain_newest = self.position.chain_newest.max(newest);
        Ok(())
    }
}

fn known_time(judged: &Result<Profile<'_>, Reject<'_>>) -> Option<OffsetDateTime> {
    match judged {
        Ok(profile) => Some(profile.last_updated_at),
        Err(reject) => reject.last_updated_at,
    }
}

fn writer(writers: &mut [Writer]) -> &mut Writer {
    // DB_WRITERS is 1 or more.
    &mut writers[0]
}
