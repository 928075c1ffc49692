-- What the ingest pulls, and what it remembers of each source: how far it has read it, what it could not store, and how much
-- it did.

-- A source of other people's data, and the table that is kept in step with it. Made by define_ingest, which checks all of it.
CREATE TABLE sluice.ingest (
    name text PRIMARY KEY CONSTRAINT ingest_name CHECK (name ~ '^[a-z][a-z0-9_-]{0,99}$'),
    kind text NOT NULL CONSTRAINT ingest_kind CHECK (kind IN ('http', 'mongodb')),
    url text,                                   -- NULL: the ORIGIN_URL of whoever pulls it, with ORIGIN_SECRET_ARN; of a MongoDB it is in the secret
    secret text,                                -- ARN of the secret with the header that the source asks for; of a MongoDB with its URL
    relation regclass NOT NULL,
    key text NOT NULL,                          -- the column
    newer text NOT NULL,                        -- the column: of two items of one key the one that is later by it counts
    fields jsonb NOT NULL,                      -- {"JSON pointer in an item": "column"}
    rules jsonb NOT NULL,                       -- {"column": ["required", {"one_of": […]}, …]}
    options jsonb NOT NULL,                     -- of the kind: how to page, and how to ask for changes; which collection
    marks jsonb NOT NULL,                       -- columns that say whether the row is the newest: {"status": …, "message": …}
    deletes jsonb,                              -- what says that an item is gone: {"field": "JSON pointer", "is": […]}, or {"listing": "24 hours"},
                                                -- a full listing so often, in which it is missing; NULL: nothing does
    every interval                              -- from the beginning of a round to that of the next; NULL: SYNC_INTERVAL
);

-- How far a source was read. What a position is past is stored, or is in ingest_rejects.
CREATE TABLE sluice.ingest_position (
    source text PRIMARY KEY,
    origin text,                                -- the URL's host and path, neither its query nor credentials; another is read from its beginning
    since timestamptz,                          -- what changed after this is asked for; NULL: everything
    etag text,                                  -- of the answer to `since`, where it was one page
    next text,                                  -- the page to go on with, where a chain of them was not read to its end, in the
                                                -- words of the source's kind; what of it is in the source's URL, too, may be secret
                                                -- and is not written out. Of a MongoDB where its change stream goes on, and its copy
    is_anew boolean NOT NULL DEFAULT false,     -- an item as old as the stored row is stored, too, until a chain was read to its end
    is_listing boolean NOT NULL DEFAULT false,  -- the chain is a full listing, and what it does not have is gone
    listings integer NOT NULL DEFAULT 0,        -- full listings that were read to their end
    listed_at timestamptz,                      -- when the last one was
    chain_newest timestamptz,                   -- the newest item of the chain so far
    chain_pages integer NOT NULL DEFAULT 0,
    last_run_at timestamptz,
    ends_by timestamptz,                        -- a round is under way that has ended by then; if that is past, it died
    last_success_at timestamptz,
    last_duration_ms bigint,
    last_counts jsonb,                          -- of the last round: {"fetched", "synced", "outdated", "duplicate", "rejected"}
    last_error text,
    last_error_at timestamptz,
    failures integer NOT NULL DEFAULT 0,        -- rounds that failed in a row
    not_before timestamptz,                     -- the source asked to be left alone until then
    requested_at timestamptz                    -- an operator wants a round now
) WITH (fillfactor = 50);

-- Items that are not in the table, and why.
CREATE TABLE sluice.ingest_rejects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    key text,                                   -- NULL: it has none that is valid
    newer timestamptz,                          -- the item's own time; NULL: it has none that is valid
    reason text NOT NULL,
    message text NOT NULL,                      -- without personal data
    is_retried boolean NOT NULL DEFAULT false,  -- it may be stored when something else has changed, and is tried again
    payload json NOT NULL,                      -- as it came; a text, cut, where it is too large or too deep for that
    payload_bytes integer NOT NULL DEFAULT 0,
    digest bytea NOT NULL,                      -- SHA-256 of the payload
    times integer NOT NULL DEFAULT 1,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at timestamptz NOT NULL DEFAULT now(),
    retried_at timestamptz,
    resolved_at timestamptz                     -- an item of this key that is not older was stored
);
-- An item is kept once for each reason, as it came last; what has no key, once as it came.
CREATE UNIQUE INDEX ingest_rejects_once ON sluice.ingest_rejects (source, coalesce('k' || key, encode(digest, 'hex')), reason);
-- What is open for a key, asked for with each batch.
CREATE INDEX ingest_rejects_open ON sluice.ingest_rejects (source, key) WHERE resolved_at IS NULL;
-- What is tried again, asked for with each round.
CREATE INDEX ingest_rejects_retried ON sluice.ingest_rejects (source, retried_at NULLS FIRST, id) WHERE resolved_at IS NULL AND is_retried;
-- What has grown old.
CREATE INDEX ingest_rejects_last_at ON sluice.ingest_rejects (last_at, id);
-- How much there is of a source.
CREATE INDEX ingest_rejects_source ON sluice.ingest_rejects (source, last_at, id) INCLUDE (payload_bytes);

-- Keys whose items are gone: nothing older is stored under them. As long as rejects are.
CREATE TABLE sluice.ingest_deleted (
    source text,
    key text,
    newer timestamptz NOT NULL,                 -- the time of the item that said so
    deleted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, key)
);
CREATE INDEX ingest_deleted_at ON sluice.ingest_deleted (deleted_at);

-- Where full listings say what is gone: the number of the last one, finished or not, that had the key.
CREATE TABLE sluice.ingest_listed (
    source text,
    key text,
    listing integer NOT NULL,
    PRIMARY KEY (source, key)
);
CREATE INDEX ingest_listed_last ON sluice.ingest_listed (source, listing);

-- Counters that only rise, added to in the transaction that they count.
CREATE TABLE sluice.ingest_stats (
    source text,
    measure text,
    value bigint NOT NULL,
    PRIMARY KEY (source, measure)
) WITH (fillfactor = 50);
