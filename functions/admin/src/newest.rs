//! Lists that come newest first, answer by answer.

/// The entries of one answer, at most.
pub const LIMIT: i64 = 500;

/// As many entries as were asked for, within the bounds of an answer; 100 unless told.
pub fn limit(asked: Option<i64>) -> i64 {
    asked.unwrap_or(100).clamp(1, LIMIT)
}

/// The last entry of an answer that is full: before it there may be others.
pub fn last_of_full<T>(entries: &[T], limit: i64) -> Option<&T> {
    entries.last().filter(|_| i64::try_from(entries.len()).is_ok_and(|length| length == limit))
}
