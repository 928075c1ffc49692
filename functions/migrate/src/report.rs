//! The words of a run.

/// What was done, line by line, for the one who asked for it.
#[derive(Debug)]
pub struct Report {
    lines: Vec<String>,
    hear: fn(&str),
    is_finished: bool,
}

impl Report {
    /// `hear` gets each line at once: a run may take minutes.
    pub fn new(hear: fn(&str)) -> Self {
        Self { lines: Vec::new(), hear, is_finished: true }
    }

    pub(crate) fn say(&mut self, line: impl Into<String>) {
        let line = line.into();
        (self.hear)(&line);
        self.lines.push(line);
    }

    /// There was no time for all of it, and the same command goes on.
    pub(crate) fn break_off(&mut self, command: &str) {
        self.is_finished = false;
        self.say(format!("to be continued: call {command} again"));
    }

    /// Whether nothing is left for the same command to go on with.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// All lines so far.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}
