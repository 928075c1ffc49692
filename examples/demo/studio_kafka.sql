-- The studio's streams go to Kafka, too: a compacted topic for each, by the name of the stream.

SELECT sluice.deliver('studio_users', target => 'kafka', settings => '{"partitions": 3}');
SELECT sluice.deliver('studio_creators', target => 'kafka', settings => '{"partitions": 3}');
SELECT sluice.deliver('studio_contents', target => 'kafka', settings => '{"partitions": 3}');
SELECT sluice.deliver('studio_nfts', target => 'kafka', settings => '{"partitions": 3}');
SELECT sluice.deliver('studio_transactions', target => 'kafka', settings => '{"partitions": 3}');
SELECT sluice.deliver('studio_royalty_payments', target => 'kafka', settings => '{"partitions": 3}');
