-- The store of the direct target `sync`: what clients pull. A bucket is a named set of documents of one stream; a document may be in
-- several.

-- One row: the last seq that was drawn. Whoever changes the store locks it until its transaction ends, so that seqs rise in the order
-- of commits. No other state of the store is ever seen in between.
CREATE TABLE sluice.sync_head (
    one boolean PRIMARY KEY DEFAULT true CONSTRAINT sync_head_one CHECK (one),
    seq bigint NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,            -- of the drainer that took over last: others write no more
    keep interval NOT NULL DEFAULT '30 days'    -- how long deletes are kept; each drainer says so when it takes over
) WITH (fillfactor = 50);
INSERT INTO sluice.sync_head DEFAULT VALUES;

CREATE TABLE sluice.bucket (
    stream text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,                        -- of its last change
    count bigint NOT NULL,                      -- documents that are in it
    checksum bigint NOT NULL,                   -- the sum of theirs, modulo 2^32
    floor bigint NOT NULL DEFAULT 0,            -- deletes up to this seq may be forgotten
    PRIMARY KEY (stream, name)
);
CREATE INDEX bucket_seq ON sluice.bucket (seq);  -- what changed since

-- A row for each document in each bucket, and for each that was deleted or left it, until that is forgotten.
CREATE TABLE sluice.bucket_item (
    stream text COLLATE "C" NOT NULL,
    bucket text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    version bigint NOT NULL,                    -- of the newest write of this key, whichever buckets it was in
    deleted_at timestamptz,                     -- NULL: it is there
    document text,                              -- as it was read; NULL: deleted
    checksum bigint,                            -- of its key and its document, below 2^32
    PRIMARY KEY (stream, bucket, key),
    CONSTRAINT bucket_item_document CHECK ((document IS NULL) = (deleted_at IS NOT NULL) AND (document IS NULL) = (checksum IS NULL))
);
CREATE UNIQUE INDEX bucket_item_seq ON sluice.bucket_item (stream, bucket, seq);
CREATE INDEX bucket_item_key ON sluice.bucket_item (stream, key);
CREATE INDEX bucket_item_deleted ON sluice.bucket_item (deleted_at) WHERE deleted_at IS NOT NULL;

-- Both have an argument more.
DROP FUNCTION IF EXISTS sluice.read_query(sluice.stream, text[], text[]);
DROP FUNCTION IF EXISTS sluice.documents_query(sluice.stream, text[], text[]);

-- Streams whose documents clients may write to, and how.
CREATE TABLE sluice.writable (
    stream text PRIMARY KEY REFERENCES sluice.stream ON DELETE CASCADE,
    applied_by text NOT NULL,                   -- the function, quoted
    role regrole NOT NULL,                      -- with whose rights
    on_conflict text NOT NULL CONSTRAINT writable_on_conflict CHECK (on_conflict IN ('last_wins', 'reject'))
);

-- Changes of clients that were answered: the same again does nothing.
CREATE TABLE sluice.sync_write (
    subject text COLLATE "C" NOT NULL,          -- of the token: another client's ids are none of its own
    id uuid NOT NULL,
    is_applied boolean NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subject, id)
);
CREATE INDEX sync_write_at ON sluice.sync_write (at);

-- Changes of clients that had another document than there was: both sides.
CREATE TABLE sluice.conflict (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- rises in the order of commits
    subject text NOT NULL,
    id uuid NOT NULL,
    stream text NOT NULL,
    key text NOT NULL,
    buckets text[] NOT NULL,                    -- that the document was in: whoever may read one of them may read this
    op text NOT NULL,
    fields text,                                -- what the client sent, JSON; NULL: a delete
    document text,                              -- what there was, JSON; NULL: nothing
    is_applied boolean NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX conflict_at ON sluice.conflict (at);
CREATE INDEX conflict_key ON sluice.conflict (stream, key);
CREATE INDEX conflict_stream ON sluice.conflict (stream, number);

-- Processes that clients are connected to. One that has not said so for two minutes is gone.
CREATE TABLE sluice.sync_process (
    id uuid PRIMARY KEY,
    clients integer NOT NULL,
    seen_at timestamptz NOT NULL
);
