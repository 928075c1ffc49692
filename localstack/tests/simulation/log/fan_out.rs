//! The fan-out of the model: which documents show a row that changed, and walks of a whole source. As `4_fan_out.sql` has it.

use std::collections::{BTreeMap, BTreeSet};

use message::Operation;

use super::{Event, FAN_OUT, Log, NOBODY, Row, SessionId, Snapshot};

/// Rows that are logged at once. A page of the log is two of them.
const SLICE: usize = 5000;

/// What is still to be logged.
#[derive(Clone, Debug)]
enum Work {
    /// The projects that show these persons.
    People(BTreeSet<i64>),
    /// All keys of the source.
    Source,
    /// The keys that the log has between these ids, and the source has not.
    Log { after: i64, upto: i64 },
}

#[derive(Clone, Debug)]
pub(super) struct Expansion {
    stream: &'static str,
    work: Work,
    only_for: Option<&'static str>,
    pub seen: Snapshot,
    /// Since when it is its turn, in the order of the clock.
    due: u64,
}

/// An expansion that is done.
#[derive(Clone, Debug)]
pub(super) struct Expanded {
    pub stream: &'static str,
    pub seen: Snapshot,
    pub logged: Option<Snapshot>,
}

impl Expansion {
    /// Whose turn it takes.
    fn origin(&self) -> (&'static str, bool) {
        (self.stream, matches!(self.work, Work::People(_)))
    }
}

impl Log {
    /// One page: how many expansions were begun, and whether there may be more.
    pub fn collect(&mut self, session: SessionId) -> (i64, bool) {
        self.note_logged();
        if !self.is_pending(session, FAN_OUT) {
            return (0, false);
        }
        self.statement(session, |log, session| {
            let rows = log.page(session, FAN_OUT, log.subscriptions[FAN_OUT].after_id, 1000);
            let Some(last) = rows.last() else {
                log.finish(FAN_OUT);
                return (0, true); // an interval has an end, what is pending perhaps not
            };
            log.advance(FAN_OUT, last.id);
            let begun = log.begin_expansions(&rows);
            (i64::try_from(begun).unwrap(), true)
        })
    }

    /// By the stream's name, and of a resync the walk of the log last. There is one in a page at most.
    fn begin_expansions(&mut self, rows: &[Row]) -> usize {
        let seen = self.subscriptions[FAN_OUT].began.clone();
        let mut works: BTreeMap<(&'static str, bool), Vec<&Row>> = BTreeMap::new();
        for row in rows.iter().filter(|row| self.is_defined(row.stream)) {
            works.entry((row.stream, row.event == Event::Resync)).or_default().push(row);
        }
        let mut begun: Vec<(&'static str, Option<&'static str>, Work)> = vec![];
        let mut walks = vec![];
        for ((stream, is_resync), rows) in works {
            if is_resync {
                let upto = rows.iter().map(|row| row.id).max().unwrap_or_default();
                begun.push((stream, rows[0].only_for, Work::Source));
                walks.push((stream, rows[0].only_for, Work::Log { after: 0, upto }));
            } else {
                let person = |row: &&Row| if let Event::FanOut(person) = row.event { Some(person) } else { None };
                begun.push((stream, None, Work::People(rows.iter().filter_map(person).collect())));
            }
        }
        begun.extend(walks);
        let count = begun.len();
        for (stream, only_for, work) in begun {
            self.clock += 1;
            let expansion = Expansion { stream, work, only_for, seen: seen.clone(), due: self.clock };
            self.expansions.insert(self.next_expansion, expansion);
            self.next_expansion += 1;
        }
        count
    }

    /// The expansion of which a slice was worked off, and how many rows that logged.
    pub fn expand(&mut self, session: SessionId) -> Option<(i64, i64)> {
        let mut heads: BTreeMap<(&'static str, bool), (u64, i64)> = BTreeMap::new();
        for (id, expansion) in &self.expansions {
            let head = heads.entry(expansion.origin()).or_insert((expansion.due, *id));
            *head = (expansion.due, *id).min(*head);
        }
        let turn = |origin: &(&'static str, bool)| self.turns.get(origin).copied();
        let (origin, (_, id)) = heads.into_iter().min_by_key(|(origin, head)| (turn(origin), *head))?;
        if !self.is_defined(origin.0) {
            self.expansions.remove(&id);
            self.turns.remove(&origin);
            return Some((id, 0));
        }
        self.clock += 1;
        self.turns.insert(origin, self.clock);
        let Expansion { stream, work, only_for, .. } = self.expansions[&id].clone();
        let (keys, is_walk) = match &work {
            Work::People(people) => (people.iter().flat_map(|person| self.tables.owned_by(*person)).collect(), false),
            Work::Source => (self.tables.keys(stream).into_iter().collect(), false),
            Work::Log { after, upto } => {
                let page: Vec<&Row> = self.rows.range(after + 1..*upto).map(|(_, row)| row).collect();
                let page: Vec<&Row> =
                    page.into_iter().filter(|row| self.is_visible(row, NOBODY)).take(2 * SLICE).collect();
                let last = page.last().map(|row| row.id);
                let keys = page.into_iter().filter(|row| row.stream == stream && !row.is_walked);
                let is_gone = |key: &String| self.tables.document(stream, key).is_none();
                let keys: BTreeSet<String> = keys.filter_map(Row::key).filter(is_gone).collect();
                if let Some(last) = last {
                    let (due, work) = (self.clock, Work::Log { after: last, upto: *upto });
                    self.expansions.get_mut(&id).into_iter().for_each(|it| (it.due, it.work) = (due, work.clone()));
                } else {
                    self.end_expansion(id);
                }
                (keys, true)
            }
        };
        if !is_walk {
            self.end_expansion(id);
        }
        let count = keys.len();
        self.statement(session, |log, session| {
            for key in keys {
                let id = log.add_for(only_for, session, stream, Event::Change(Operation::Upsert, key));
                log.rows.get_mut(&id).into_iter().for_each(|row| row.is_walked = is_walk);
            }
        });
        Some((id, i64::try_from(count).unwrap()))
    }

    fn end_expansion(&mut self, id: i64) {
        if let Some(Expansion { stream, seen, .. }) = self.expansions.remove(&id) {
            self.expanded.push(Expanded { stream, seen, logged: None });
        }
    }

    fn note_logged(&mut self) {
        let snapshot = self.snapshot();
        for expanded in &mut self.expanded {
            expanded.logged.get_or_insert_with(|| snapshot.clone());
        }
    }

    /// Whether a resync of this stream, or of any, is not worked off.
    pub(super) fn has_expansions(&self, stream: &str) -> bool {
        self.expansions.values().any(|expansion| expansion.stream == stream)
    }

    /// Whether somebody wants a stream resynced, and nobody has begun with it.
    pub fn has_resyncs(&self) -> bool {
        let seen = &self.subscriptions[FAN_OUT].seen;
        self.rows.values().any(|row| row.event == Event::Resync && !seen.sees(row.xid))
    }

    /// What is known of a stream's expansions is gone.
    pub(super) fn forget_expansions(&mut self, stream: &str) {
        self.expansions.retain(|_, expansion| expansion.stream != stream);
        self.expanded.retain(|expanded| expanded.stream != stream);
        self.turns.retain(|(other, _), _| *other != stream);
    }

    /// Whether it is found out, and logged, which documents show whatever rows this snapshot sees: of one stream, or of all but
    /// the generations beside the live ones.
    pub(super) fn has_fanned_out(&self, stream: Option<&str>, snapshot: &Snapshot) -> bool {
        let is_open = |expansion: &Expansion| {
            super::generations::is_asked(stream, expansion.stream) && !expansion.seen.covers(snapshot)
        };
        self.has_passed(FAN_OUT, snapshot) && !self.expansions.values().any(is_open)
    }
}
