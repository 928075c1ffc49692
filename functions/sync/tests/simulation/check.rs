//! What must be true when all is quiet.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::edits::Edit;
use crate::place::Place;
use crate::replica::{Name, Replica, sums};

type Documents = BTreeMap<String, Value>;

/// Of each bucket what the source says.
const SOURCE: &str = "
    SELECT DISTINCT 'note' AS stream, b.name, n.id::text AS key, (SELECT row_to_json(f) FROM (SELECT n.id, n.rev, n.text, n.tenant) AS f)::text
    FROM note AS n CROSS JOIN LATERAL (SELECT n.tenant UNION SELECT s.tenant FROM share AS s WHERE s.note = n.id) AS b(name) WHERE b.name IS NOT NULL
    UNION ALL
    SELECT 'task', t.tenant, t.id, (SELECT row_to_json(f) FROM (SELECT t.id, t.rev, t.title, t.tenant) AS f)::text FROM task AS t WHERE t.tenant IS NOT NULL";

pub async fn source(place: &Place) -> Result<BTreeMap<Name, Documents>> {
    let mut source: BTreeMap<Name, Documents> = BTreeMap::new();
    for row in place.world.owner.query(SOURCE, &[]).await? {
        let document: String = row.get(3);
        source.entry((row.get(0), row.get(1))).or_default().insert(row.get(2), serde_json::from_str(&document)?);
    }
    Ok(source)
}

/// A client has its buckets, whole, and what the server says of them.
pub async fn is_whole(
    place: &Place,
    replica: &Replica,
    may_read: &BTreeSet<&str>,
    source: &BTreeMap<Name, Documents>,
) -> Result<()> {
    let names: BTreeSet<Name> = may_read
        .iter()
        .flat_map(|tenant| ["note", "task"].map(|stream| (stream.to_owned(), (*tenant).to_owned())))
        .collect();
    ensure!(replica.buckets.keys().eq(names.iter()), "it has {:?}, and may read {names:?}", replica.buckets.keys());
    for (name, items) in &replica.buckets {
        let has: Documents =
            items.iter().filter_map(|(key, held)| Some((key.clone(), held.document.clone()?))).collect();
        let wanted = source.get(name).cloned().unwrap_or_default();
        ensure!(has == wanted, "of {name:?} it has {has:?}\nand wants {wanted:?}");
        let query = "SELECT count, checksum FROM sluice.bucket WHERE stream = $1 AND name = $2";
        let row = place.superuser.query_opt(query, &[&name.0, &name.1]).await?;
        let told = row.map_or((0, 0), |row| (row.get(0), row.get(1)));
        ensure!(sums(items) == told, "of {name:?} it has {:?}, and the store says {told:?}", sums(items));
    }
    Ok(())
}

/// What a client's change did to a task.
struct Written {
    op: String,
    key: String,
    title: Option<String>,
    before: Option<i64>,
}

struct Conflict {
    fields: Option<Value>,
    before: Option<i64>,
    is_applied: bool,
}

/// Each change of a person was applied once, or not at all, as its answer says; and what was not applied as it was sent, or overwrote what its
/// client had not seen, has its row with both sides.
pub async fn are_accounted_for(place: &Place, person: &str, edits: &BTreeMap<String, Edit>) -> Result<usize> {
    let history = "SELECT op, key, title, before FROM history WHERE person = $1 ORDER BY number";
    let history: Vec<Written> = place
        .superuser
        .query(history, &[&person])
        .await?
        .iter()
        .map(|row| Written { op: row.get(0), key: row.get(1), title: row.get(2), before: row.get(3) })
        .collect();
    let conflicts = "SELECT id::text, fields, document, is_applied FROM sluice.conflict WHERE subject = $1";
    let mut rows: BTreeMap<String, Conflict> = BTreeMap::new();
    for row in place.superuser.query(conflicts, &[&person]).await? {
        let json =
            |index| row.get::<_, Option<String>>(index).map(|text| serde_json::from_str::<Value>(&text)).transpose();
        let before = json(2)?.map(|document| document["rev"].as_i64().context("rev")).transpose()?;
        let conflict = Conflict { fields: json(1)?, before, is_applied: row.get(3) };
        ensure!(rows.insert(row.get(0), conflict).is_none(), "two rows of one conflict");
    }
    let mut deleted: BTreeMap<(&str, Option<i64>), i64> = BTreeMap::new();
    for edit in edits.values() {
        let (result, is_applied) = edit.answer.as_ref().with_context(|| format!("{edit:?} has no answer"))?;
        let conflict = rows.get(&edit.id);
        if let Some(conflict) = conflict {
            ensure!(conflict.fields == edit.fields(), "{edit:?}: the row has {:?} of the client's", conflict.fields);
            ensure!(conflict.is_applied == *is_applied, "{edit:?}: the row says otherwise");
        }
        ensure!(result != "conflict" || conflict.is_some(), "{edit:?}: its conflict has no row");
        ensure!(
            *is_applied || result == "rejected" || conflict.is_some(),
            "{edit:?}: it was not applied, and there is no row of it"
        );
        // What was there when it was applied, as far as its client was told.
        let known = conflict.map_or(edit.base.map(|(_, rev)| rev), |conflict| conflict.before);
        if edit.op == "delete" {
            if *is_applied {
                *deleted.entry((&edit.key, known)).or_default() += 1;
            }
            continue;
        }
        let done: Vec<&Written> = history.iter().filter(|it| it.title.as_deref() == Some(&edit.id)).collect();
        ensure!(done.len() == usize::from(*is_applied), "{edit:?} was applied {} times", done.len());
        for it in done {
            ensure!(it.op == edit.op && it.key == edit.key, "{edit:?}: what was written is another one");
            ensure!(
                it.before == known,
                "{edit:?} has overwritten the version {:?}, and its client was told of {known:?}",
                it.before
            );
        }
    }
    for it in history.iter().filter(|it| it.op == "delete") {
        let left = deleted.entry((&it.key, it.before)).or_default();
        *left -= 1;
        ensure!(
            *left >= 0,
            "the version {:?} of {} was deleted, and no client that had it was told so",
            it.before,
            it.key
        );
    }
    Ok(rows.len())
}
