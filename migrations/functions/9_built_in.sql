-- What is there from the beginning: the two subscriptions, and the heartbeat's stream.

SELECT sluice.subscribe('fan_out');
SELECT sluice.subscribe('elasticsearch');

SELECT sluice.define_stream('sluice_heartbeat', source => 'sluice.heartbeat', key => 'name',
    mapping => '{"properties": {"name": {"type": "keyword"}, "at": {"type": "date"}}}');
SELECT sluice.track('sluice.heartbeat', stream => 'sluice_heartbeat', key => 'name');
