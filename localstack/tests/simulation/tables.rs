//! The tables that the log is about.

use std::collections::BTreeMap;

use crate::log::base_of;

/// A change of one row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The table that is the stream `items`.
    Item {
        key: i64,
        n: Option<i64>,
    },
    /// The stream `projects` shows these, with the name of their owner.
    Project {
        key: i64,
        row: Option<(i64, i64)>,
    },
    Person {
        key: i64,
        name: Option<i64>,
    },
}

/// Which row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Item(i64),
    Project(i64),
    Person(i64),
}

impl Change {
    /// One row of few, so that they meet.
    pub fn random(random: &mut fastrand::Rng, delete_share: f32) -> Self {
        let is_delete = random.f32() < delete_share;
        let value = random.i64(1..1_000_000);
        match random.u8(..3) {
            0 => Self::Item { key: random.i64(1..5), n: (!is_delete).then_some(value) },
            1 => Self::Project { key: random.i64(1..5), row: (!is_delete).then_some((random.i64(1..3), value)) },
            _ => Self::Person { key: random.i64(1..3), name: (!is_delete).then_some(value) },
        }
    }

    pub fn place(self) -> Place {
        match self {
            Self::Item { key, .. } => Place::Item(key),
            Self::Project { key, .. } => Place::Project(key),
            Self::Person { key, .. } => Place::Person(key),
        }
    }
}

/// What is committed, or what one transaction sees.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    items: BTreeMap<i64, i64>,
    projects: BTreeMap<i64, (i64, i64)>,
    people: BTreeMap<i64, i64>,
}

impl Tables {
    /// Whether there was such a row before.
    pub fn apply(&mut self, change: Change) -> bool {
        fn put<T>(table: &mut BTreeMap<i64, T>, key: i64, row: Option<T>) -> bool {
            match row {
                Some(row) => table.insert(key, row).is_some(),
                None => table.remove(&key).is_some(),
            }
        }
        match change {
            Change::Item { key, n } => put(&mut self.items, key, n),
            Change::Project { key, row } => put(&mut self.projects, key, row),
            Change::Person { key, name } => put(&mut self.people, key, name),
        }
    }

    /// A document as it is now.
    pub fn document(&self, stream: &str, key: &str) -> Option<String> {
        let id: i64 = key.parse().unwrap();
        if base_of(stream) == "items" {
            return self.items.get(&id).map(|n| format!(r#"{{"id":{id},"n":{n}}}"#));
        }
        let (owner, n) = self.projects.get(&id)?;
        let name = self.people.get(owner).map_or("null".to_owned(), i64::to_string);
        Some(format!(r#"{{"id":{id},"n":{n},"owner":{name}}}"#))
    }

    /// Of a stream's source, in their order.
    pub fn keys(&self, stream: &str) -> Vec<String> {
        let keys: Vec<&i64> =
            if base_of(stream) == "items" { self.items.keys().collect() } else { self.projects.keys().collect() };
        keys.into_iter().map(i64::to_string).collect()
    }

    /// The `affects` query of a person.
    pub fn owned_by(&self, person: i64) -> Vec<String> {
        self.projects.iter().filter(|(_, (owner, _))| *owner == person).map(|(key, _)| key.to_string()).collect()
    }
}
