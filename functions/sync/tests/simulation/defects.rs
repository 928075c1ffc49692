//! What the simulation must catch.

/// A mistake that somebody could make, in the SQL or in a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A client takes what a poke says for its cursor.
    CursorFromThePoke,
    /// A client compares what it has after one pull with the sums of another one.
    SumsOfAnotherMoment,
    /// The last seq is read without the lock, so that two writers draw the same ones.
    SeqWithoutTheLock,
    /// A delete leaves no row.
    DeleteIsNotKept,
    /// A document that left a bucket, and is in others, stays in it.
    MoveWithoutADelete,
    /// A drainer that was overtaken writes on.
    NotFenced,
    /// It does, and what it has read before its successor is taken for new.
    LowerVersionIsTaken,
    /// Where two wrote the same, one of them is gone without a trace.
    NoRowOfAConflict,
    /// The same change again is another one.
    RepeatsAreNotRecognised,
}

impl Defect {
    pub const ALL: [Self; 9] = [
        Self::CursorFromThePoke,
        Self::SumsOfAnotherMoment,
        Self::SeqWithoutTheLock,
        Self::DeleteIsNotKept,
        Self::MoveWithoutADelete,
        Self::NotFenced,
        Self::LowerVersionIsTaken,
        Self::NoRowOfAConflict,
        Self::RepeatsAreNotRecognised,
    ];

    /// Where the search for a seed that catches it begins. Where the stories are others by now, it goes on through all.
    pub fn first_seed(self) -> u64 {
        let rare = [(Self::SeqWithoutTheLock, 71), (Self::NotFenced, 151), (Self::LowerVersionIsTaken, 151)];
        rare.iter().find(|(defect, _)| *defect == self).map_or(0, |(_, seed)| *seed)
    }

    /// The function of the schema `sluice` that it changes, with texts of it and what stands in their place.
    pub fn in_sql(self) -> Option<(&'static str, &'static [(&'static str, &'static str)])> {
        const FENCE: (&str, &str) = ("WHERE h.epoch = store_documents.epoch FOR UPDATE", "FOR UPDATE");
        match self {
            Self::CursorFromThePoke | Self::SumsOfAnotherMoment => None,
            Self::SeqWithoutTheLock => Some((
                "store_documents",
                &[("WHERE h.epoch = store_documents.epoch FOR UPDATE", "WHERE h.epoch = store_documents.epoch")],
            )),
            Self::DeleteIsNotKept => Some((
                "store_documents",
                &[(
                    "WHERE drawn > 0;",
                    "WHERE drawn > 0; DELETE FROM sluice.bucket_item AS i WHERE i.document IS NULL;",
                )],
            )),
            Self::MoveWithoutADelete => Some((
                "store_documents",
                &[(
                    "i.stream = store_documents.stream AND i.key = n.key)",
                    "n.document IS NULL AND i.stream = store_documents.stream AND i.key = n.key)",
                )],
            )),
            Self::NotFenced => Some(("store_documents", &[FENCE])),
            // Behind the fence alone no lower version comes.
            Self::LowerVersionIsTaken => Some((
                "store_documents",
                &[FENCE, ("i.key = n.key AND i.version >= n.version)", "i.key = n.key AND false)")],
            )),
            Self::NoRowOfAConflict => Some((
                "apply_change",
                &[(
                    "fields, there -> 'document', applied);",
                    "fields, there -> 'document', applied); DELETE FROM sluice.conflict AS c WHERE c.id = apply_change.id;",
                )],
            )),
            Self::RepeatsAreNotRecognised => Some((
                "apply_change",
                &[(
                    "ON CONFLICT ON CONSTRAINT sync_write_pkey DO NOTHING;\n    IF NOT FOUND THEN",
                    "ON CONFLICT ON CONSTRAINT sync_write_pkey DO NOTHING;\n    IF false THEN",
                )],
            )),
        }
    }
}
