//! The words of a run.

/// What was done, line by line, for the one who asked for it.
#[derive(Debug)]
pub struct Report {
    lines: Vec<String>,
    hear: fn(&str),
}

impl Report {
    /// `hear` gets each line at once: a run may take minutes.
    pub fn new(hear: fn(&str)) -> Self {
        Self { lines: Vec::new(), hear }
    }

    pub(crate) fn say(&mut self, line: impl Into<String>) {
        let line = line.into();
        (self.hear)(&line);
        self.lines.push(line);
    }

    /// All lines so far.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}
