//! How many documents of a stream are read at a time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The first query of a stream asks for so many documents, and each further one for twice as many.
const FIRST: usize = 64;
/// Where not even one of those came in time.
const FEWER: usize = 8;

/// A query that is cut off may lose what it had read and not sent yet. So none asks for very much more than was read in
/// time before, and of a stream that was cut off even the first asks for less.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<HashMap<String, usize>>);

impl Pace {
    /// How many documents the first query of a batch asks for.
    pub(crate) fn first(&self, stream: &str) -> usize {
        self.lock().get(stream).copied().unwrap_or(FIRST)
    }

    /// Whether it was cut off the last time.
    pub(crate) fn is_slow(&self, stream: &str) -> bool {
        self.lock().contains_key(stream)
    }

    /// So many were asked for, and only so many came in time.
    pub(crate) fn was_cut_off(&self, stream: &str, asked: usize, came: usize) {
        let fewer = if came > 0 { came } else { asked / FEWER };
        self.lock().insert(stream.to_owned(), fewer.clamp(1, FIRST));
    }

    /// All of a batch came in time.
    pub(crate) fn went_well(&self, stream: &str) {
        self.lock().remove(stream);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_cut_off_is_asked_for_fewer_until_it_goes_well() {
        let pace = Pace::default();
        let mut seen = vec![];
        for (asked, came) in [(512, 300), (64, 40), (40, 0), (5, 0), (1, 0)] {
            pace.was_cut_off("slow", asked, came);
            seen.push(pace.first("slow"));
        }
        assert_eq!(seen, [64, 40, 5, 1, 1]);
        assert!(pace.is_slow("slow") && !pace.is_slow("other"));
        pace.went_well("slow");
        assert_eq!(pace.first("slow"), FIRST);
    }
}
