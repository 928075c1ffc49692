-- The demo's tables and streams, anew each time. Run by the owner of the schema `sluice`, in one transaction: what is
-- still under way from an earlier run finds its streams again.

SELECT sluice.drop_stream(name) FROM sluice.stream WHERE name IN ('cities', 'countries');
DROP SCHEMA IF EXISTS atlas CASCADE;

CREATE SCHEMA atlas;

CREATE TABLE atlas.countries (
    code text PRIMARY KEY,                      -- ISO 3166-1, two letters
    name text NOT NULL,
    region text NOT NULL,
    capital text[] NOT NULL,
    languages text[] NOT NULL
);

CREATE TABLE atlas.cities (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    country text NOT NULL REFERENCES atlas.countries,
    lat numeric(8, 5) NOT NULL,
    lng numeric(8, 5) NOT NULL
);
CREATE INDEX cities_country ON atlas.cities (country);   -- asked by `affects` when a country changes

CREATE VIEW atlas.city_documents AS
SELECT c.id, c.name, json_build_object('lat', c.lat, 'lon', c.lng) AS location,
    json_build_object('code', k.code, 'name', k.name, 'region', k.region, 'languages', k.languages) AS country
FROM atlas.cities AS c
JOIN atlas.countries AS k ON k.code = c.country;

-- The application writes to its tables; it has no right on anything of Sluice's.
GRANT USAGE ON SCHEMA atlas TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA atlas TO app;

SELECT sluice.define_stream('countries', source => 'atlas.countries', key => 'code',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "code": {"type": "keyword"},
        "name": {"type": "text"},
        "region": {"type": "keyword"},
        "capital": {"type": "text"},
        "languages": {"type": "keyword"}
    }}');

SELECT sluice.define_stream('cities', source => 'atlas.city_documents', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "long"},
        "name": {"type": "text"},
        "location": {"type": "geo_point"},
        "country": {"properties": {
            "code": {"type": "keyword"},
            "name": {"type": "keyword"},
            "region": {"type": "keyword"},
            "languages": {"type": "keyword"}
        }}
    }}');
