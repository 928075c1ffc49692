-- The studio, a creators' platform: six tables, sample data where they are empty, and a stream for each. Run by the owner of the
-- schema `sluice`, in one transaction; it may be run again, and leaves alone what is there already.

CREATE SCHEMA IF NOT EXISTS studio;

CREATE TABLE IF NOT EXISTS studio.users (
    id bigint PRIMARY KEY,
    handle text NOT NULL UNIQUE,
    email text,                                         -- not everybody gives one
    is_verified boolean NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS studio.creators (
    id uuid PRIMARY KEY,
    user_id bigint NOT NULL UNIQUE REFERENCES studio.users,
    name text NOT NULL,
    bio text,
    royalty_share numeric(9, 8) NOT NULL CHECK (royalty_share BETWEEN 0 AND 1),
    tags text[] NOT NULL DEFAULT '{}',
    joined_at timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS studio.contents (
    id uuid PRIMARY KEY,
    creator_id uuid NOT NULL REFERENCES studio.creators,
    title text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('image', 'audio', 'video', 'text')),
    tags text[] NOT NULL DEFAULT '{}',
    attributes jsonb NOT NULL DEFAULT '{}',
    published_at timestamptz                            -- NULL: a draft
);
CREATE INDEX IF NOT EXISTS contents_creator ON studio.contents (creator_id);    -- asked by `affects` when a creator changes

CREATE TABLE IF NOT EXISTS studio.nfts (
    id bigint PRIMARY KEY,
    content_id uuid NOT NULL REFERENCES studio.contents,
    owner_id bigint REFERENCES studio.users,            -- NULL: not sold yet
    price numeric(38, 18) NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{}',
    minted_at timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS studio.transactions (
    id uuid PRIMARY KEY,
    nft_id bigint NOT NULL REFERENCES studio.nfts,
    seller_id bigint REFERENCES studio.users,           -- NULL: the first sale
    buyer_id bigint NOT NULL REFERENCES studio.users,
    amount numeric(38, 18) NOT NULL,
    fee numeric(38, 18) NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    settled_at timestamptz                              -- NULL: under way
);

CREATE TABLE IF NOT EXISTS studio.royalty_payments (
    id bigint PRIMARY KEY,
    transaction_id uuid NOT NULL REFERENCES studio.transactions,
    creator_id uuid NOT NULL REFERENCES studio.creators,
    amount numeric(38, 18) NOT NULL,
    note text,
    paid_at timestamptz NOT NULL
);

-- What a content's document is: it shows the name of its creator.
CREATE OR REPLACE VIEW studio.content_documents AS
SELECT c.id, c.creator_id, k.name AS creator_name, c.title, c.kind, c.tags, c.attributes, c.published_at
FROM studio.contents AS c
JOIN studio.creators AS k ON k.id = c.creator_id;

-- Made-up data, the same each time.
INSERT INTO studio.users (id, handle, email, is_verified, attributes, created_at)
SELECT n, 'user-' || n, CASE WHEN n % 4 > 0 THEN 'user-' || n || '@example.com' END, n % 3 = 0,
    jsonb_build_object('language', (ARRAY['en', 'de', 'fr', 'ja'])[1 + n % 4], 'logins', n * 7 % 100),
    timestamptz '2025-01-01 00:00+00' + n * interval '7 hours 13 minutes'
FROM generate_series(1, 600) AS n
WHERE NOT EXISTS (SELECT FROM studio.users);

INSERT INTO studio.creators (id, user_id, name, bio, royalty_share, tags, joined_at)
SELECT md5('creator ' || n)::uuid, n * 10, 'Creator ' || n, CASE WHEN n % 2 = 0 THEN 'Makes things since ' || 2000 + n % 20 END,
    0.025 + (n % 40) * 0.00123457, ARRAY['tag-' || n % 5, 'tag-' || n % 7], timestamptz '2025-02-01 00:00+00' + n * interval '31 hours'
FROM generate_series(1, 60) AS n
WHERE NOT EXISTS (SELECT FROM studio.creators);

INSERT INTO studio.contents (id, creator_id, title, kind, tags, attributes, published_at)
SELECT md5('content ' || n)::uuid, md5('creator ' || 1 + n * n / 13501)::uuid, 'Content ' || n, (ARRAY['image', 'audio', 'video', 'text'])[1 + n % 4],
    ARRAY['tag-' || n % 5, 'tag-' || n % 11], jsonb_build_object('bytes', n * 7919, 'licence', jsonb_build_object('days', n % 365)),
    CASE WHEN n % 10 > 0 THEN timestamptz '2025-06-01 00:00+00' + n * interval '3 hours' END
FROM generate_series(1, 900) AS n
WHERE NOT EXISTS (SELECT FROM studio.contents);

INSERT INTO studio.nfts (id, content_id, owner_id, price, attributes, minted_at)
SELECT n, md5('content ' || 1 + n % 900)::uuid, CASE WHEN n % 3 > 0 THEN 1 + n * 17 % 600 END, n * 0.000123456789012345 + 0.01,
    jsonb_build_object('edition', n % 10, 'of', 10), timestamptz '2025-10-01 00:00+00' + n * interval '1 hour'
FROM generate_series(1, 1200) AS n
WHERE NOT EXISTS (SELECT FROM studio.nfts);

INSERT INTO studio.transactions (id, nft_id, seller_id, buyer_id, amount, fee, attributes, created_at, settled_at)
SELECT md5('transaction ' || n)::uuid, 1 + n * 7919 % 1200, CASE WHEN n > 1200 THEN 1 + n * 13 % 600 END, 1 + n * 17 % 600,
    n * 0.001000000000000001 + 0.5, n * 0.000025000000000001, jsonb_build_object('channel', (ARRAY['web', 'app'])[1 + n % 2]),
    timestamptz '2026-01-01 00:00+00' + n * interval '1 hour', CASE WHEN n % 50 > 0 THEN timestamptz '2026-01-01 00:05+00' + n * interval '1 hour' END
FROM generate_series(1, 2000) AS n
WHERE NOT EXISTS (SELECT FROM studio.transactions);

INSERT INTO studio.royalty_payments (id, transaction_id, creator_id, amount, note, paid_at)
SELECT row_number() OVER (ORDER BY t.created_at), t.id, k.id, t.amount * k.royalty_share, CASE WHEN t.seller_id IS NULL THEN 'first sale' END, t.settled_at
FROM studio.transactions AS t
JOIN studio.nfts AS n ON n.id = t.nft_id
JOIN studio.contents AS c ON c.id = n.content_id
JOIN studio.creators AS k ON k.id = c.creator_id
WHERE t.settled_at IS NOT NULL AND NOT EXISTS (SELECT FROM studio.royalty_payments);

-- The application writes to its tables; it has no right on anything of Sluice's.
GRANT USAGE ON SCHEMA studio TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA studio TO app;

-- In a document an amount has all its digits; the index searches and sorts by a double.
SELECT sluice.define_stream('studio_users', source => 'studio.users', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "long"},
        "handle": {"type": "keyword"},
        "email": {"type": "keyword"},
        "is_verified": {"type": "boolean"},
        "attributes": {"type": "object", "enabled": false},
        "created_at": {"type": "date"}
    }}');

SELECT sluice.define_stream('studio_creators', source => 'studio.creators', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "keyword"},
        "user_id": {"type": "long"},
        "name": {"type": "keyword"},
        "bio": {"type": "text"},
        "royalty_share": {"type": "double"},
        "tags": {"type": "keyword"},
        "joined_at": {"type": "date"}
    }}');

SELECT sluice.define_stream('studio_contents', source => 'studio.content_documents', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "keyword"},
        "creator_id": {"type": "keyword"},
        "creator_name": {"type": "keyword"},
        "title": {"type": "text"},
        "kind": {"type": "keyword"},
        "tags": {"type": "keyword"},
        "attributes": {"type": "object", "enabled": false},
        "published_at": {"type": "date"}
    }}');

SELECT sluice.define_stream('studio_nfts', source => 'studio.nfts', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "long"},
        "content_id": {"type": "keyword"},
        "owner_id": {"type": "long"},
        "price": {"type": "double"},
        "attributes": {"type": "object", "enabled": false},
        "minted_at": {"type": "date"}
    }}');

SELECT sluice.define_stream('studio_transactions', source => 'studio.transactions', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "keyword"},
        "nft_id": {"type": "long"},
        "seller_id": {"type": "long"},
        "buyer_id": {"type": "long"},
        "amount": {"type": "double"},
        "fee": {"type": "double"},
        "attributes": {"type": "object", "enabled": false},
        "created_at": {"type": "date"},
        "settled_at": {"type": "date"}
    }}');

SELECT sluice.define_stream('studio_royalty_payments', source => 'studio.royalty_payments', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "long"},
        "transaction_id": {"type": "keyword"},
        "creator_id": {"type": "keyword"},
        "amount": {"type": "double"},
        "note": {"type": "text"},
        "paid_at": {"type": "date"}
    }}');

SELECT sluice.track('studio.users', stream => 'studio_users', key => 'id');
SELECT sluice.track('studio.creators', stream => 'studio_creators', key => 'id');
SELECT sluice.track('studio.contents', stream => 'studio_contents', key => 'id');
-- A content's document shows its creator, too.
SELECT sluice.track('studio.creators', stream => 'studio_contents', columns => '{name}',
    affects => 'SELECT id FROM studio.contents WHERE creator_id = $1.id');
SELECT sluice.track('studio.nfts', stream => 'studio_nfts', key => 'id');
SELECT sluice.track('studio.transactions', stream => 'studio_transactions', key => 'id');
SELECT sluice.track('studio.royalty_payments', stream => 'studio_royalty_payments', key => 'id');
