-- The studio's streams go to ClickHouse, too. The local stack's server is of 2018: where it lacks a type, `columns` names
-- another one. A view's columns may all be NULL, as far as PostgreSQL knows, and an array of ClickHouse may not.

SELECT sluice.deliver('studio_users', target => 'clickhouse',
    settings => $${"columns": {"is_verified": "UInt8", "created_at": "DateTime('UTC')"}}$$);
SELECT sluice.deliver('studio_creators', target => 'clickhouse',
    settings => $${"columns": {"joined_at": "DateTime('UTC')"}}$$);
SELECT sluice.deliver('studio_contents', target => 'clickhouse',
    settings => $${"columns": {"tags": "Array(String)", "published_at": "Nullable(DateTime('UTC'))"}}$$);
SELECT sluice.deliver('studio_nfts', target => 'clickhouse',
    settings => $${"columns": {"minted_at": "DateTime('UTC')"}}$$);
SELECT sluice.deliver('studio_transactions', target => 'clickhouse',
    settings => $${"columns": {"created_at": "DateTime('UTC')", "settled_at": "Nullable(DateTime('UTC'))"}}$$);
SELECT sluice.deliver('studio_royalty_payments', target => 'clickhouse',
    settings => $${"columns": {"paid_at": "DateTime('UTC')"}}$$);
