use std::time::Duration;

/// How long a source is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until it takes the connection.
    pub connect: Duration,
    /// For its next bytes.
    pub silence: Duration,
    /// For a whole answer.
    pub answer: Duration,
    /// How often one that speaks HTTP is asked for a page before the round fails.
    pub tries: u32,
    /// The first pause between two tries is of up to this time, each further one of up to twice as much.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            tries: 4,
            pause: Duration::from_secs(1),
        }
    }
}
