//! Deliberate defects. Each is put in where the functions' code meets the world, so that the pipeline as a whole behaves
//! as if the code had it.

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The position in the log is the last id instead of a snapshot.
    PositionById,
    /// The version of a write is the id of its event.
    VersionIsTheEventsId,
    /// Versions come from a sequence, whose last numbers are given again after a crash of the server.
    VersionFromASequence,
    /// Deletes have no version.
    NoVersionOnDelete,
    /// What was received before, or is old, is written as it travelled.
    NoReRead,
    /// Deletes are not looked at once more.
    NoSecondLook,
    /// Which documents show a row is found out by the transaction that changes it.
    FanOutInTheWriter,
    /// A message is acknowledged although its dead letter was not taken.
    AcknowledgeBeforeTheLetterIsSent,
    /// An item of an answer is taken for that of the write at its position.
    ResultsByPosition,
    /// The position is stored before the page is sent.
    AdvanceBeforeSend,
    /// What was sent is taken for what has arrived.
    SettledWithoutLandings,
    /// What a change of another row means for a document is left out of account.
    SettledWithoutFanOut,
    /// What seemed to differ is confirmed without reading both sides once more.
    ConfirmedWithoutAFreshRead,
    /// It is confirmed after a while, whether everything has arrived or not.
    ConfirmedByAClock,
    /// It is confirmed whatever the log has of its key since.
    ConfirmedThoughTouched,
    /// It is confirmed before it is found out which documents show the rows that changed meanwhile.
    ConfirmedBeforeTheFanOut,
    /// Lambda stops what it takes for a loop: the template does not say that the indexer sends to its own queue. It takes
    /// hours of deletes until that is seen.
    LoopsAreStopped,
}

impl Defect {
    /// Those that one of many seeds shows. The others have a test of their own.
    pub const ALL: [Self; 16] = [
        Self::PositionById,
        Self::VersionIsTheEventsId,
        Self::VersionFromASequence,
        Self::NoVersionOnDelete,
        Self::NoReRead,
        Self::NoSecondLook,
        Self::FanOutInTheWriter,
        Self::AcknowledgeBeforeTheLetterIsSent,
        Self::ResultsByPosition,
        Self::AdvanceBeforeSend,
        Self::SettledWithoutLandings,
        Self::SettledWithoutFanOut,
        Self::ConfirmedWithoutAFreshRead,
        Self::ConfirmedByAClock,
        Self::ConfirmedThoughTouched,
        Self::ConfirmedBeforeTheFanOut,
    ];
}
