//! One round of a collection: what changed since the last one, each page stored together with the place behind it; and between the
//! pages of changes, as long as there is a copy under way, the next page of that.

use database::ingest::position::{Move, Position};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::info;

use crate::batch::Batch;
use crate::item::Item;
use crate::mongo::{self, Copy, From, Id, Mongo, Page, Place, Step};
use crate::source::Source;
use crate::store::{How, Listing};
use crate::tally::Tally;
use crate::{Error, Sessions};

/// Rows that are looked at in one transaction.
const ROWS: i64 = 1000;

/// A round under way.
pub(crate) struct Following<'a> {
    pub source: &'a Source,
    pub mongo: &'a Mongo,
    pub sessions: &'a Sessions,
    pub position: Position,
    pub stop_at: Instant,
    pub tally: &'a mut Tally,
}

impl Following<'_> {
    /// Reads and stores until nothing is new, or until it is time to stop; the next round goes on from there. Where another
    /// one has moved the position in the meantime, or it was asked to begin anew, this one ends.
    pub async fn run(mut self) -> Result<(), Error> {
        match self.read().await {
            Err(Error::Moved) => return Ok(()),
            outcome => outcome?,
        }
        let mut writers = self.sessions.writers().await;
        let retried = writers[0].retry(self.source, OffsetDateTime::now_utc(), Listing::None).await?;
        self.tally.add(retried);
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Error> {
        let mut place = match self.position.next.as_deref().and_then(Place::parse) {
            Some(place) => place,
            // Before anything is read: whatever happens from now on is in the stream.
            None => self.go_on(&Page::default(), Place::first(self.mongo.now().await?)).await?,
        };
        let mut changes = self.mongo.watch(&place.from).await?;
        loop {
            let page = self.mongo.changes(&mut changes).await?;
            if let Some(token) = page.token.clone().map(From::Token).filter(|token| *token != place.from) {
                place = self.go_on(&page, Place { from: token, ..place }).await?;
            }
            if let Some(how) = page.ended {
                return Err(mongo::Error::Ended { how }.into());
            }
            match &place.copy {
                None if page.is_last => return Ok(()),
                None => {}
                Some(copy) => {
                    let copy = copy.clone();
                    place = self.copy(&place.from, &copy).await?;
                }
            }
            if Instant::now() >= self.stop_at {
                return Ok(());
            }
        }
    }

    /// The next step of a copy.
    async fn copy(&mut self, from: &From, copy: &Copy) -> Result<Place, Error> {
        let place = |step| Place { from: from.clone(), copy: Some(Copy { step, ..copy.clone() }) };
        match &copy.step {
            Step::Documents(after) => {
                let page = self.mongo.documents(copy, after.as_ref()).await?;
                match page.last_id.clone() {
                    None => self.go_on(&page, place(Step::Rows(None))).await,
                    Some(id) => {
                        self.position.chain_pages = self.position.chain_pages.saturating_add(1);
                        self.go_on(&page, place(Step::Documents(Some(Id(id))))).await
                    }
                }
            }
            Step::Rows(after) => {
                // What was copied, and what has changed since, has its time or a later one.
                let since = mongo::time(copy.since);
                let mut writers = self.sessions.writers().await;
                let swept = writers[0].sweep(self.source, since, after.as_deref(), ROWS).await?;
                drop(writers);
                self.tally.deleted += swept.deleted;
                let next = match swept.last {
                    Some(last) => place(Step::Rows(Some(last))),
                    None => {
                        info!(source = self.source.name(), "the collection is copied");
                        self.position.chain_pages = 0;
                        Place { from: from.clone(), copy: None }
                    }
                };
                self.go_on(&Page::default(), next).await
            }
        }
    }

    /// Stores a page and the place behind it, in one transaction.
    async fn go_on(&mut self, page: &Page, place: Place) -> Result<Place, Error> {
        let next = place.to_store();
        let is_copied = place.copy.is_none();
        let step = Move {
            from: self.position.next.as_deref(),
            to: &next,
            since: page.newest.filter(|_| is_copied),
            pages: self.position.chain_pages,
        };
        let shape = &self.source.shape;
        let now = OffsetDateTime::now_utc();
        let mut batch = Batch::default();
        for item in page.items() {
            if item.is_cut {
                batch.rejects.extend(Item::too_large(&item.json, shape, now));
                continue;
            }
            match Item::parse(&item.json, shape, now) {
                Ok(item) => batch.items.push(item),
                Err(reject) => batch.rejects.push(reject),
            }
        }
        let has_rejects = !batch.rejects.is_empty();
        let mut writers = self.sessions.writers().await;
        let how = How { takes_equal: true, retried: None, listing: Listing::None, step: Some(step) };
        let stored = writers[0].store(self.source, batch, how).await?;
        if has_rejects || stored.conflicts > 0 {
            self.tally.dropped += writers[0].drop_rejects(self.source.name()).await?;
        }
        self.tally.add(stored);
        self.position.next = Some(next);
        Ok(place)
    }
}
