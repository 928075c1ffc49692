//! A client that does what `docs/live-sync.md` says, a request at a time.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::StatusCode;
use axum::response::Response;
use fastrand::Rng;
use futures_util::StreamExt as _;
use serde_json::Value;

use crate::defects::Defect;
use crate::place::Front;

/// A stream and a bucket.
pub type Name = (String, String);

/// An item, or a delete that it knows of.
#[derive(Clone, Debug)]
pub struct Held {
    pub seq: i64,
    pub checksum: i64,
    pub document: Option<Value>,
}

type Items = BTreeMap<String, Held>;

/// A snapshot that is under way.
struct Fetching {
    name: Name,
    body: BodyDataStream,
    unread: Vec<u8>,
    seq: Option<i64>,
    items: Items,
}

/// What a step of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Pulled,
    PulledAll,
    AnswerLost,
    BeganAnew,
    Fetching,
    Fetched,
    /// The membership ended meanwhile.
    Refused,
    /// The server was gone in the middle of a snapshot.
    Cut,
}

#[derive(Default)]
pub struct Replica {
    pub cursor: Option<i64>,
    pub buckets: BTreeMap<Name, Items>,
    to_fetch: Vec<Name>,
    fetching: Option<Fetching>,
    /// What it has to compare with the sums of the next answer, by a defect.
    compares_later: bool,
    /// Of each key the highest source version that it has read, whatever it forgot since.
    read: BTreeMap<(Name, String), i64>,
}

impl Replica {
    /// Has nothing more to ask, as far as it knows.
    pub fn is_at_rest(&self) -> bool {
        self.cursor.is_some() && self.to_fetch.is_empty() && self.fetching.is_none() && !self.compares_later
    }

    pub fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    /// Its connection is cut.
    pub fn cut(&mut self) {
        if let Some(Fetching { name, .. }) = self.fetching.take() {
            self.to_fetch.push(name);
        }
    }

    /// It is told that a bucket has changed: whether it is to pull.
    pub fn hear(&mut self, seq: i64, defect: Option<Defect>) -> bool {
        let is_behind = self.cursor.is_none_or(|cursor| cursor < seq);
        if is_behind && defect == Some(Defect::CursorFromThePoke) && self.cursor.is_some() {
            self.cursor = Some(seq);
        }
        is_behind
    }

    /// Its next request, or the next part of a snapshot. `may_read`: the tenants of its person now.
    pub async fn step(
        &mut self,
        front: &Front,
        token: &str,
        may_read: &BTreeSet<&str>,
        rng: &mut Rng,
        defect: Option<Defect>,
    ) -> Result<Done> {
        if self.fetching.is_some() {
            return self.fetch_on(may_read).await;
        }
        if let Some(name) = self.to_fetch.pop() {
            let path = format!("/sync/snapshot?stream={}&bucket={}", name.0, name.1);
            let answer = front.get(token, &path).await?;
            if answer.status() == StatusCode::FORBIDDEN {
                ensure!(!may_read.contains(name.1.as_str()), "{name:?} is refused, and may be read");
                return Ok(Done::Refused);
            }
            ensure!(answer.status() == StatusCode::OK, "{path}: {}", answer.status());
            let body = answer.into_body().into_data_stream();
            self.fetching = Some(Fetching { name, body, unread: vec![], seq: None, items: Items::new() });
            return self.fetch_on(may_read).await;
        }
        self.pull(front, token, may_read, rng, defect).await
    }

    async fn pull(
        &mut self,
        front: &Front,
        token: &str,
        may_read: &BTreeSet<&str>,
        rng: &mut Rng,
        defect: Option<Defect>,
    ) -> Result<Done> {
        let after =
            self.cursor.filter(|_| !self.compares_later).map(|cursor| format!("&after={cursor}")).unwrap_or_default();
        let answer = front.get(token, &format!("/sync?limit={}{after}", rng.u8(1..6))).await?;
        let (status, page) = read(answer).await?;
        if rng.u8(..8) == 0 {
            return Ok(Done::AnswerLost);
        }
        if status == StatusCode::GONE {
            let read = std::mem::take(&mut self.read);
            *self = Self { read, ..Self::default() };
            return Ok(Done::BeganAnew);
        }
        ensure!(status == StatusCode::OK, "{status} {page}");
        if self.compares_later {
            self.compares_later = false;
            self.compare(&page, may_read)?;
            return Ok(Done::PulledAll);
        }
        let mut last = self.cursor.unwrap_or_default();
        for change in page["changes"].as_array().context("changes")? {
            let seq = change["seq"].as_i64().context("seq")?;
            ensure!(seq > last, "a page goes from {last} to {seq}");
            last = seq;
            self.take(change, may_read)?;
        }
        let upto = page["upto"].as_i64().context("upto")?;
        ensure!(upto >= last, "upto {upto} is below {last}");
        self.cursor = Some(upto);
        if page["more"].as_bool().context("more")? {
            ensure!(page.get("buckets").is_none(), "only the last page has buckets: {page}");
            return Ok(Done::Pulled);
        }
        if defect == Some(Defect::SumsOfAnotherMoment) && !after.is_empty() {
            self.compares_later = true;
        } else {
            self.compare(&page, may_read)?;
        }
        Ok(Done::PulledAll)
    }

    fn take(&mut self, change: &Value, may_read: &BTreeSet<&str>) -> Result<()> {
        let (name, key) = ((text(change, "stream")?, text(change, "bucket")?), text(change, "key")?);
        ensure!(may_read.contains(name.1.as_str()), "it is given what it may not read: {change}");
        let held = held(change)?;
        ensure!(held.document.is_some() == (change["op"] == "upsert"), "what is {change}");
        if self.buckets.get(&name).is_some_and(|items| items.get(&key).is_none_or(|has| has.seq <= held.seq)) {
            self.note(&name, &key, &held)?;
            self.buckets.entry(name).or_default().insert(key, held);
        }
        Ok(())
    }

    /// What it reads of a key never goes back.
    fn note(&mut self, name: &Name, key: &str, held: &Held) -> Result<()> {
        let Some(document) = &held.document else { return Ok(()) };
        let rev = document["rev"].as_i64().context("rev")?;
        let before = self.read.insert((name.clone(), key.to_owned()), rev).unwrap_or_default();
        ensure!(before <= rev, "{name:?} {key} goes back from {before} to {rev}");
        Ok(())
    }

    /// What the server says of its buckets is what it has; what it has not it is to fetch.
    fn compare(&mut self, page: &Value, may_read: &BTreeSet<&str>) -> Result<()> {
        let mut listed = BTreeSet::new();
        for bucket in page["buckets"].as_array().context("buckets")? {
            let name = (text(bucket, "stream")?, text(bucket, "bucket")?);
            ensure!(may_read.contains(name.1.as_str()), "it is told of what it may not read: {bucket}");
            if let Some(items) = self.buckets.get(&name) {
                let (count, sum) = sums(items);
                ensure!(
                    bucket["count"] == count && bucket["checksum"] == sum,
                    "it has {count} items with the sum {sum} of what the server says {bucket}, by the cursor {:?}: {items:?}",
                    self.cursor
                );
            } else if !self.to_fetch.contains(&name) {
                self.to_fetch.push(name.clone());
            }
            listed.insert(name);
        }
        self.buckets.retain(|name, _| listed.contains(name));
        Ok(())
    }

    /// The next part of a snapshot.
    async fn fetch_on(&mut self, may_read: &BTreeSet<&str>) -> Result<Done> {
        let fetching = self.fetching.as_mut().context("it fetches")?;
        match fetching.body.next().await {
            Some(Ok(part)) => fetching.unread.extend_from_slice(&part),
            Some(Err(_)) => {
                self.cut();
                return Ok(Done::Cut);
            }
            None => bail!("a snapshot ends without its last line and without an error"),
        }
        while let Some(end) = fetching.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = fetching.unread.drain(..=end).collect();
            let line: Value = serde_json::from_slice(&line)?;
            if let Some(count) = line["items"].as_u64() {
                ensure!(count == fetching.items.len() as u64, "{count} items are said to have come");
                return self.fetched();
            }
            if fetching.seq.is_none() {
                fetching.seq = line["seq"].as_i64();
                ensure!(fetching.seq.is_some(), "what is {line}");
                continue;
            }
            ensure!(may_read.contains(fetching.name.1.as_str()), "it is given what it may not read: {line}");
            fetching.items.insert(text(&line, "key")?, held(&line)?);
        }
        Ok(Done::Fetching)
    }

    fn fetched(&mut self) -> Result<Done> {
        let Fetching { name, seq, items, .. } = self.fetching.take().context("it fetches")?;
        for (key, held) in &items {
            self.note(&name, key, held)?;
        }
        let seq = seq.context("the first line")?;
        self.cursor = Some(self.cursor.map_or(seq, |cursor| cursor.min(seq)));
        self.buckets.insert(name, items);
        Ok(Done::Fetched)
    }
}

pub async fn read(answer: Response<Body>) -> Result<(StatusCode, Value)> {
    let status = answer.status();
    let body = to_bytes(answer.into_body(), usize::MAX).await?;
    Ok((status, serde_json::from_slice(&body).with_context(|| format!("{status}"))?))
}

/// How many documents there are, and the sum of their checksums.
pub fn sums(items: &Items) -> (i64, i64) {
    let there = || items.values().filter(|held| held.document.is_some());
    (there().count() as i64, there().map(|held| held.checksum).sum::<i64>() % (1 << 32))
}

fn held(of: &Value) -> Result<Held> {
    let document = of.get("document").filter(|document| !document.is_null()).cloned();
    let checksum = if document.is_some() { of["checksum"].as_i64().context("checksum")? } else { 0 };
    Ok(Held { seq: of["seq"].as_i64().context("seq")?, checksum, document })
}

fn text(of: &Value, name: &str) -> Result<String> {
    of[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {of}"))
}
