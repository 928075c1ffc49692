//! One round: every page of what changed, each stored before the next is asked for.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use database::ingest::position::{self, Position};
use futures_util::future::try_join_all;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::batch::{Batch, split};
use crate::elements;
use crate::http::{Answer, Http, Page};
use crate::item::{Item, Reject};
use crate::source::Source;
use crate::store::{How, Listing};
use crate::tally::Tally;
use crate::{Error, Sessions};

/// What a chain has at most, over all rounds that read it: an origin that has more never ends.
const PAGES: i32 = 10_000;
/// An origin may commit an item some time after the time that it gave it, and so behind items that were read already. What
/// is read twice changes nothing.
const OVERLAP: Duration = Duration::from_secs(60);

/// A round under way.
pub(crate) struct Round<'a> {
    pub source: &'a Source,
    pub http: &'a Http,
    pub sessions: &'a Sessions,
    pub position: Position,
    pub stop_at: Instant,
    pub tally: &'a mut Tally,
}

impl Round<'_> {
    /// Reads and stores until the chain's end, or until it is time to stop; the next round goes on from there.
    pub async fn run(mut self) -> Result<(), Error> {
        let (name, http) = (self.source.name(), self.http);
        let is_resumed = self.position.next.is_some();
        if !is_resumed {
            self.position.is_listing = self.position.is_listing_due;
        }
        let since = self.position.since.filter(|_| !self.position.is_listing);
        let no_first = || Error::Definition { reason: "no time can be asked for".to_owned() };
        let first = http.page(since, None).ok_or_else(no_first)?;
        let unfinished = self.position.next.as_deref().and_then(|place| http.page(since, Some(place)));
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
            let etag = self.position.etag.as_deref().filter(|_| url == first && !self.position.is_listing);
            let page = match http.fetch(&url, etag, self.stop_at, &self.sessions.room).await? {
                Answer::NotModified => break,
                Answer::Page(page) => page,
            };
            let is_empty = self.store(&page).await?;
            self.position.chain_pages += 1;
            let Page { etag, next, ends_without_items, .. } = page;
            let Some(next) = next.filter(|_| !(ends_without_items && is_empty)) else {
                // Of a chain of pages the first one's ETag says nothing about the others.
                let etag = etag.as_deref().filter(|_| self.position.chain_pages == 1);
                let newest = self.position.chain_newest;
                let is_listing = self.position.is_listing;
                let finish = async |client: &_| {
                    Ok(position::finish_chain(client, name, newest, OVERLAP, etag, is_listing).await?)
                };
                self.sessions.run(finish).await?;
                break;
            };
            let url_of_next = http.page(since, Some(&next));
            self.position.next = Some(next);
            let position = &self.position;
            self.sessions.run(async |client| Ok(position::go_on(client, name, position).await?)).await?;
            if Instant::now() >= self.stop_at {
                break;
            }
            url = url_of_next.ok_or(Error::Circle { pages: self.position.chain_pages })?;
        }
        let mut writers = self.sessions.writers().await;
        let writer = &mut writers[0];
        if self.source.definition.listing_s.is_some() {
            self.tally.deleted += writer.delete_missing(self.source).await?;
        }
        let retried = writer.retry(self.source, OffsetDateTime::now_utc(), self.listing()).await?;
        self.tally.add(retried);
        Ok(())
    }

    fn listing(&self) -> Listing {
        let number = self.position.listings + 1;
        match self.source.definition.listing_s {
            None => Listing::None,
            Some(_) if self.position.is_listing => Listing::UnderWay(number),
            Some(_) => Listing::Next(number),
        }
    }

    /// All of a page, by all writers; whether there was nothing.
    async fn store(&mut self, page: &Page) -> Result<bool, Error> {
        let Source { shape, .. } = self.source;
        let elements = elements::parse(page.items(), shape.columns.len())?;
        let now = OffsetDateTime::now_utc();
        let judged: Vec<_> = elements.iter().map(|element| Item::parse(element, shape, now)).collect();
        let newest = judged.iter().filter_map(known_time).max();
        let batches: Mutex<VecDeque<Batch<'_>>> = Mutex::new(split(judged, &shape.unique).into());
        let take = || batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let tally = Mutex::new(Tally::default());
        let how = How { takes_equal: self.position.is_anew, retried: None, listing: self.listing(), step: None };
        let mut writers = self.sessions.writers().await;
        let stored = try_join_all(writers.iter_mut().map(async |writer| {
            while let Some(batch) = take() {
                let stored = writer.store(self.source, batch, how).await?;
                tally.lock().unwrap_or_else(PoisonError::into_inner).add(stored);
            }
            Ok::<_, Error>(())
        }));
        let stored = stored.await;
        let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.tally.add(tally);
        stored?;
        if tally.fetched > 0 {
            self.tally.dropped += writers[0].drop_rejects(self.source.name()).await?;
        }
        self.position.chain_newest = self.position.chain_newest.max(newest);
        Ok(elements.is_empty())
    }
}

fn known_time(judged: &Result<Item<'_>, Reject<'_>>) -> Option<OffsetDateTime> {
    match judged {
        Ok(item) => Some(item.newer),
        Err(reject) => reject.newer,
    }
}
