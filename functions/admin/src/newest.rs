//! Lists that come newest first, answer by answer.

use serde::Serialize;

/// The entries of one answer, at most.
pub const LIMIT: i64 = 500;
/// And their bytes. Lambda takes 6 MB; compressed, an answer travels as base64, which is a third more.
pub const ANSWER_BYTES: usize = 4 << 20;

/// As many entries as were asked for, within the bounds of an answer; 100 unless told.
pub fn limit(asked: Option<i64>) -> i64 {
    asked.unwrap_or(100).clamp(1, LIMIT)
}

/// What it takes of an answer: JSON, which the function gives to Lambda within a string of JSON, so that its quotes and
/// backslashes are escaped twice.
pub fn bytes<T: Serialize>(entry: &T) -> usize {
    let json = serde_json::to_vec(entry).unwrap_or_default();
    json.len() + json.iter().filter(|byte| matches!(byte, b'"' | b'\\' | ..b' ')).count()
}

/// The entries that fit into one answer, and the id before which there may be others.
pub fn page<T: Serialize>(mut entries: Vec<T>, limit: i64, id: impl Fn(&T) -> i64) -> (Vec<T>, Option<i64>) {
    let is_full = i64::try_from(entries.len()).is_ok_and(|length| length == limit);
    let mut room = ANSWER_BYTES;
    let fitting = entries.iter().position(|entry| {
        let bytes = bytes(entry);
        let is_too_much = bytes > room;
        room = room.saturating_sub(bytes);
        is_too_much
    });
    let Some(fitting) = fitting else {
        let next = entries.last().filter(|_| is_full).map(id);
        return (entries, next);
    };
    // One that alone is too much is passed over, or nobody would get to those before it.
    let next = id(&entries[fitting.saturating_sub(1)]);
    entries.truncate(fitting);
    (entries, Some(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_the_answer_is_full_whatever_its_entries_are_made_of() {
        for text in ["\"".repeat(8 << 10), "\\\u{1}\n".repeat(3 << 10), "\u{1f600}x".repeat(8 << 10)] {
            let entries: Vec<(i64, String)> = (0..LIMIT).rev().map(|id| (id, text.clone())).collect();
            let mut seen = vec![];
            let mut rest = entries.clone();
            loop {
                let (page, next) = page(rest, LIMIT, |entry| entry.0);
                let answer = serde_json::to_string(&serde_json::to_string(&page).unwrap()).unwrap();
                assert!(answer.len() < 6_000_000, "{} bytes", answer.len());
                seen.extend(page);
                let Some(next) = next else { break };
                rest = entries.iter().filter(|entry| entry.0 < next).cloned().collect();
            }
            assert!(seen == entries, "each entry is in one answer");
        }
    }

    #[test]
    fn an_entry_that_is_too_large_for_an_answer_hides_none_before_it() {
        let entries = vec![(3, "x".repeat(ANSWER_BYTES)), (2, "y".to_owned())];
        let (page, next) = page(entries, 2, |entry| entry.0);
        assert_eq!((page.len(), next), (0, Some(3)));
    }
}
