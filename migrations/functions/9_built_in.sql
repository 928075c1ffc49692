-- What is there from the beginning: the two subscriptions, and the heartbeat's stream.

SELECT sluice.subscribe('fan_out');
SELECT sluice.subscribe('elasticsearch');

CREATE OR REPLACE VIEW sluice.heartbeat_document AS
    SELECT h.name, b.at FROM sluice.heart AS h JOIN sluice.heartbeat AS b ON b.name = h.name;
SELECT sluice.define_stream('sluice_heartbeat', source => 'sluice.heartbeat_document', key => 'name',
    mapping => '{"properties": {"name": {"type": "keyword"}, "at": {"type": "date"}}}');
SELECT sluice.track('sluice.heart', stream => 'sluice_heartbeat', key => 'name');
SELECT sluice.track('sluice.heartbeat', stream => 'sluice_heartbeat', columns => '{at}',
    affects => 'SELECT h.name FROM sluice.heart AS h WHERE h.name = $1.name');
-- Tracked from the first row on, so that the index has it.
INSERT INTO sluice.heartbeat (name, at) VALUES ('heartbeat', clock_timestamp()) ON CONFLICT DO NOTHING;
INSERT INTO sluice.heart (name) VALUES ('heartbeat') ON CONFLICT DO NOTHING;
