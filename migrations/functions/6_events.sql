-- What happens to clients of live sync, as streams that are fed by emit: they go wherever streams go.

-- The streams of events: each goes to a topic of its name, with a dot in place of the dash.
CREATE OR REPLACE FUNCTION sluice.events() RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT '{user-created,data-changed,sync-events,checkpoint-created,conflict-detected}'::text[]
$$;

-- Has all events go to Kafka. Whoever wants some of them, or to have them go elsewhere, defines their streams one by one, without a
-- source: define_stream('conflict-detected'). Events that have no stream are not kept.
CREATE OR REPLACE FUNCTION sluice.define_events() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    event text;
BEGIN
    FOREACH event IN ARRAY sluice.events() LOOP
        PERFORM sluice.define_stream(event);
        PERFORM sluice.deliver(event, target => 'kafka', settings => jsonb_build_object('topic', replace(event, '-', '.'), 'cleanup', 'delete'));
    END LOOP;
END $$;

-- Notes an event, in the transaction of what has happened. Each has a key of its own, so that no event takes another one's place.
CREATE OR REPLACE FUNCTION sluice.note_event(event text, payload jsonb) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.outbox (stream, key, op, payload)
    SELECT s.name, gen_random_uuid(), 'upsert', payload::json
    FROM sluice.stream AS s WHERE s.name = event AND s.source IS NULL AND event = ANY (sluice.events())
$$;
