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
    /// The same where the page goes straight to a target: before the target has answered.
    PositionBeforeTheAnswer,
    /// The version of a row in a target's table is the id of its row of the log.
    VersionIsTheRowsId,
    /// It is drawn when the row is written, behind the read.
    VersionDrawnAfterTheRead,
    /// Nothing keeps a drainer that was frozen from the topic.
    NoFencing,
    /// A drainer shuts its predecessor out with its first write, and not before it reads.
    FencedByTheFirstWrite,
    /// A letter of a direct target is noted by another session, when the target refuses its change.
    LetterOutsideTheTransaction,
    /// It is noted behind the transaction that passes its change.
    LetterAfterTheTransaction,
    /// A letter stays when its key arrives.
    LetterOutlivesItsReason,
    /// What was set aside is taken back at once, whatever becomes of the transaction that sends it.
    LostWhenItsRestIsOver,
    /// What is deleted straight from the log is not looked at once more.
    NoSecondLookOfATarget,
    /// That it is to be looked at is noted by the transaction behind the one that passes the delete.
    LookWithTheNextTransaction,
    /// A snapshot has settled with its looks though some are left.
    SettledWithoutLooks,
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
    /// Messages name the alias that is searched, and not that of their generation: whatever is live is written.
    WrittenByThePublicAlias,
    /// A generation takes over as soon as everything is logged that is to fill it.
    TakeoverBeforeItIsSettled,
    /// What is deleted is looked at once more in the live index alone.
    SecondLookInOneGeneration,
    /// What was live before is not written any more.
    KeptIsNotWritten,
    /// A generation takes over though a drainer ended in the middle of a step, a part of which may have arrived.
    TakeoverBehindABrokenStep,
    /// Lambda stops what it takes for a loop: the template does not say that the indexer sends to its own queue. It takes
    /// hours of deletes until that is seen.
    LoopsAreStopped,
}

impl Defect {
    /// Those that one of many seeds shows. The others have a test of their own.
    pub const ALL: [Self; 33] = [
        Self::WrittenByThePublicAlias,
        Self::TakeoverBeforeItIsSettled,
        Self::TakeoverBehindABrokenStep,
        Self::SecondLookInOneGeneration,
        Self::KeptIsNotWritten,
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
        Self::PositionBeforeTheAnswer,
        Self::VersionIsTheRowsId,
        Self::VersionDrawnAfterTheRead,
        Self::NoFencing,
        Self::FencedByTheFirstWrite,
        Self::LetterOutsideTheTransaction,
        Self::LetterAfterTheTransaction,
        Self::LetterOutlivesItsReason,
        Self::LostWhenItsRestIsOver,
        Self::NoSecondLookOfATarget,
        Self::LookWithTheNextTransaction,
        Self::SettledWithoutLooks,
    ];

    /// Where the search for a seed that catches it begins: of those that few do, at one that did when it was last looked for.
    /// Where the stories are others by now, the search goes on through all.
    pub fn first_seed(self) -> u64 {
        let rare = [
            (Self::NoReRead, 18_369),
            (Self::ConfirmedBeforeTheFanOut, 10_744),
            (Self::NoVersionOnDelete, 4578),
            (Self::ResultsByPosition, 3761),
            (Self::TakeoverBehindABrokenStep, 1799),
            (Self::AcknowledgeBeforeTheLetterIsSent, 1226),
            (Self::SettledWithoutFanOut, 544),
            (Self::LetterAfterTheTransaction, 1170),
            (Self::VersionDrawnAfterTheRead, 539),
            (Self::LookWithTheNextTransaction, 806),
            (Self::SettledWithoutLooks, 717),
        ];
        rare.iter().find(|(defect, _)| *defect == self).map_or(0, |(_, seed)| *seed)
    }

    /// Whether it is one of the direct targets'.
    pub fn is_of_a_target(self) -> bool {
        matches!(
            self,
            Self::PositionBeforeTheAnswer
                | Self::VersionIsTheRowsId
                | Self::VersionDrawnAfterTheRead
                | Self::NoFencing
                | Self::FencedByTheFirstWrite
                | Self::LetterOutsideTheTransaction
                | Self::LetterAfterTheTransaction
                | Self::LetterOutlivesItsReason
                | Self::LostWhenItsRestIsOver
                | Self::NoSecondLookOfATarget
                | Self::LookWithTheNextTransaction
                | Self::SettledWithoutLooks
        )
    }
}
