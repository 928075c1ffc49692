-- What the ingest remembers: how far it has read its origin, what it could not store, and how much it did.

-- How far the origin was read. What a position is past is stored, or is in ingest_rejects.
CREATE TABLE sluice.ingest_position (
    origin text PRIMARY KEY,                    -- the URL's host and path: neither its query nor credentials
    since timestamptz,                          -- what changed after this is asked for; NULL: everything
    etag text,                                  -- of the answer to `since`, where it was one page
    next_url text,                              -- the page to go on with, where a chain of them was not read to its end; what of
                                                -- its query is in the origin's URL, too, may be secret and is not written out
    chain_newest timestamptz,                   -- the newest last_updated_at of the chain so far
    chain_pages integer NOT NULL DEFAULT 0,
    last_run_at timestamptz,
    ends_by timestamptz,                        -- a round is under way that has ended by then; if that is past, it died
    last_success_at timestamptz,
    last_duration_ms bigint,
    last_counts jsonb,                          -- of the last round: {"fetched", "synced", "outdated", "duplicate", "rejected"}
    last_error text,
    last_error_at timestamptz,
    failures integer NOT NULL DEFAULT 0,        -- rounds that failed in a row
    not_before timestamptz,                     -- the origin asked to be left alone until then
    requested_at timestamptz                    -- an operator wants a round now
) WITH (fillfactor = 50);

-- Profiles that are not in the table, and why.
CREATE TABLE sluice.ingest_rejects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    profile_id uuid,                            -- NULL: it has none that is valid
    last_updated_at timestamptz,                -- the profile's; NULL: it has none that is valid
    reason text NOT NULL,
    message text NOT NULL,                      -- without personal data
    payload json NOT NULL,                      -- as it came; a text, cut, where it is too large or too deep for that
    payload_bytes integer NOT NULL DEFAULT 0,
    digest bytea NOT NULL,                      -- SHA-256 of the payload
    times integer NOT NULL DEFAULT 1,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at timestamptz NOT NULL DEFAULT now(),
    retried_at timestamptz,                     -- one whose email or mobile was taken is tried again
    resolved_at timestamptz                     -- a profile of this id that is not older was stored
);
-- A profile is kept once for each reason, as it came last; what has no id, once as it came.
CREATE UNIQUE INDEX ingest_rejects_once ON sluice.ingest_rejects (coalesce(uuid_send(profile_id), digest), reason);
-- What is open for a profile, asked for with each batch.
CREATE INDEX ingest_rejects_open ON sluice.ingest_rejects (profile_id) WHERE resolved_at IS NULL;
-- What is tried again, asked for with each round.
CREATE INDEX ingest_rejects_retried ON sluice.ingest_rejects (retried_at NULLS FIRST, id)
    WHERE resolved_at IS NULL AND reason IN ('email_taken', 'mobile_taken');
-- What has grown old, and how much there is.
CREATE INDEX ingest_rejects_last_at ON sluice.ingest_rejects (last_at, id) INCLUDE (payload_bytes);

-- Counters that only rise, added to in the transaction that they count.
CREATE TABLE sluice.ingest_stats (
    measure text PRIMARY KEY,
    value bigint NOT NULL
) WITH (fillfactor = 50);
