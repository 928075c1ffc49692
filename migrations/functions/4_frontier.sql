-- The frontier: what has arrived. The position of a subscription says what was sent; a message may be on its way for long, or
-- lost. So each step of the drain leaves its flights, and whoever carries a message out its landing.

-- Does this snapshot see all that the other one sees? Where there are many of them, ask first whether the xmin of this is below the
-- xmax of the other: mostly it is not, and then it does.
CREATE OR REPLACE FUNCTION sluice.covers(later pg_snapshot, earlier pg_snapshot) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_snapshot_xmin(later) >= pg_snapshot_xmax(earlier)
        OR pg_snapshot_xmax(later) >= pg_snapshot_xmax(earlier)
            AND NOT EXISTS (SELECT FROM pg_snapshot_xip(later) AS running WHERE pg_visible_in_snapshot(running, earlier))
$$;

-- Notes what a step sent, `parts` messages of each of `streams`, in the transaction that stores the position, and before the
-- position moves. What had waited for its index was passed long ago: of it, any snapshot may see something.
CREATE OR REPLACE FUNCTION sluice.depart(reader text, base bigint, waited boolean, streams text[], parts integer[], first_ids bigint[], last_ids bigint[], since timestamptz[])
RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.flight (subscription, stream, base, parts, first_id, last_id, seen, since, later)
    SELECT s.name, f.stream, depart.base, f.parts, f.first_id, f.last_id, CASE WHEN waited THEN '1:1:' ELSE coalesce(s.began, s.seen) END, f.since, depart.base
    FROM sluice.subscription AS s, unnest(streams, parts, first_ids, last_ids, depart.since) AS f(stream, parts, first_id, last_id, since)
    WHERE s.name = reader
$$;

-- Has each part landed, or been looked at once more?
CREATE OR REPLACE FUNCTION sluice.is_complete(flight sluice.flight, finally boolean) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT flight.parts <= (
        SELECT count(*) FROM sluice.landed AS l
        WHERE l.subscription = flight.subscription AND l.stream = flight.stream AND l.base = flight.base
          AND l.part BETWEEN 1 AND flight.parts AND (l.is_final OR NOT finally))
$$;

-- Notes what became of messages, each a part of a flight: `landed`, `final` (landed, and nothing of it is looked at once more), or
-- `retried`. It may come before the flight's own row, twice, or of a step that was rolled back. A flight that is complete is
-- removed, but for the newest; where two complete it at the same time, `watch_flights` does that. What a drain never sent, as
-- its number shows, is passed over.
CREATE OR REPLACE FUNCTION sluice.land(reader text, streams text[], bases bigint[], parts integer[], states text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    touched sluice.flight;
    has_landed boolean;
    newest bigint := (SELECT max(f.base) FROM sluice.flight AS f WHERE f.subscription = reader);
BEGIN
    INSERT INTO sluice.landed AS l (subscription, stream, base, part, is_final)
    SELECT reader, m.stream, m.base, m.part, bool_or(m.state = 'final')
    FROM unnest(streams, bases, parts, states) AS m(stream, base, part, state)
    WHERE m.state <> 'retried' AND octet_length(m.stream) <= 100 AND m.base <= (SELECT s.reserved FROM sluice.subscription AS s WHERE s.name = reader)
    GROUP BY m.stream, m.base, m.part
    ORDER BY m.stream, m.base, m.part                           -- all take their locks in one order
    ON CONFLICT (subscription, stream, base, part) DO UPDATE SET is_final = true WHERE excluded.is_final AND NOT l.is_final;
    FOR touched IN
        SELECT * FROM sluice.flight AS f
        WHERE f.subscription = reader AND (f.stream, f.base) IN (SELECT m.stream, m.base FROM unnest(streams, bases) AS m(stream, base))
        ORDER BY f.stream, f.base
        FOR UPDATE SKIP LOCKED
    LOOP
        IF touched.base < newest AND sluice.is_complete(touched, true) THEN
            PERFORM sluice.remove_flight(touched);
            CONTINUE;
        END IF;
        has_landed := touched.is_landed OR sluice.is_complete(touched, false);
        IF touched.overtaken > 0 OR has_landed <> touched.is_landed THEN
            UPDATE sluice.flight AS f SET overtaken = 0, is_landed = has_landed
            WHERE f.subscription = reader AND f.stream = touched.stream AND f.base = touched.base;
        END IF;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION sluice.remove_flight(flight sluice.flight) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.landed AS l WHERE l.subscription = flight.subscription AND l.stream = flight.stream AND l.base = flight.base;
    DELETE FROM sluice.flight AS f WHERE f.subscription = flight.subscription AND f.stream = flight.stream AND f.base = flight.base;
$$;

-- Flights of which not each part has landed, `most` at most, the oldest first.
CREATE OR REPLACE FUNCTION sluice.open_flights(reader text, most integer) RETURNS SETOF sluice.flight
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
    SELECT * FROM sluice.flight AS f
    WHERE f.subscription = reader AND NOT f.is_landed
      AND f.parts > (SELECT count(*) FROM sluice.landed AS l WHERE l.subscription = f.subscription AND l.stream = f.stream AND l.base = f.base AND l.part BETWEEN 1 AND f.parts)
    ORDER BY f.base LIMIT most
$$;

-- The first version of the oldest step that has not arrived whole. NULL: all that was sent has.
CREATE OR REPLACE FUNCTION sluice.frontier(reader text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT f.base FROM sluice.open_flights(reader, 1) AS f
$$;

-- Has a subscription passed each row of the log that this snapshot sees?
CREATE OR REPLACE FUNCTION sluice.has_passed(reader text, snapshot pg_snapshot) RETURNS boolean
LANGUAGE plpgsql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    seen pg_snapshot := (SELECT s.seen FROM sluice.subscription AS s WHERE s.name = reader);
    waits boolean;
BEGIN
    IF seen IS NULL THEN
        RAISE EXCEPTION 'there is no subscription %', quote_ident(reader);
    END IF;
    EXECUTE format(
        'SELECT EXISTS (SELECT FROM sluice.ended(%1$L, %2$L) AS e CROSS JOIN LATERAL (SELECT FROM sluice.outbox WHERE xid >= e.low AND xid < e.high AND %4$s LIMIT 1) AS o) '
            'OR EXISTS (SELECT FROM unnest(%3$L::xid8[]) AS late(xid) CROSS JOIN LATERAL (SELECT FROM sluice.outbox WHERE xid >= late.xid AND xid <= late.xid AND %4$s LIMIT 1) AS o)',
        pg_snapshot_xmax(seen), snapshot, ARRAY(SELECT x FROM pg_snapshot_xip(seen) AS x WHERE pg_visible_in_snapshot(x, snapshot)), sluice.reads(reader)) INTO waits;
    RETURN NOT waits;
END $$;

-- Has all that this snapshot sees in the log arrived, of one stream, or of all but the generations beside the live ones? `looked`: and each delete of it was looked at
-- once more. `but_for_lost`: of the steps up to this one, what was lost is left out.
CREATE OR REPLACE FUNCTION sluice.has_arrived(reader text, snapshot pg_snapshot, stream text, looked boolean, but_for_lost bigint) RETURNS boolean
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    flight text := sluice.flight_of(stream);
    beside text[] := ARRAY(SELECT sluice.flight_name(s) FROM sluice.stream AS s WHERE s.follows IS NOT NULL AND has_arrived.stream IS NULL);
BEGIN
    RETURN sluice.has_passed(reader, snapshot)
        AND NOT EXISTS (
            SELECT FROM sluice.target AS t JOIN sluice.waiting AS w ON w.stream = t.stream AND w.subscription = t.subscription
            WHERE t.subscription = reader AND t.live_index IS NOT NULL AND t.stream = coalesce(has_arrived.stream, sluice.base_of(t.stream)))
        AND NOT (looked AND EXISTS (
            SELECT FROM sluice.target AS t
            CROSS JOIN LATERAL unnest(sluice.feeds(t.stream)) AS n(name)
            JOIN sluice.look AS l ON l.subscription = t.subscription AND l.stream = n.name
            WHERE t.subscription = reader AND t.stream = coalesce(has_arrived.stream, sluice.base_of(t.stream)) AND l.seen IS NULL))
        -- Of the others the oldest stands for those after it.
        AND NOT (looked AND EXISTS (
            SELECT FROM sluice.target AS t
            CROSS JOIN LATERAL unnest(sluice.feeds(t.stream)) AS n(name)
            CROSS JOIN LATERAL (
                SELECT x.seen FROM sluice.look AS x
                WHERE x.subscription = t.subscription AND x.stream = n.name AND x.seen IS NOT NULL ORDER BY x.id LIMIT 1) AS l
            WHERE t.subscription = reader AND t.stream = coalesce(has_arrived.stream, sluice.base_of(t.stream))
              AND pg_snapshot_xmin(l.seen) < pg_snapshot_xmax(snapshot) AND NOT sluice.covers(l.seen, snapshot)))
        AND NOT EXISTS (
            SELECT FROM sluice.flight AS f
            WHERE f.subscription = reader AND f.stream = coalesce(flight, f.stream) AND (looked OR NOT f.is_landed)
              AND f.stream <> ALL (beside)
              AND (f.logged_to IS NULL OR f.base > but_for_lost) IS NOT FALSE
              AND pg_snapshot_xmin(f.seen) < pg_snapshot_xmax(snapshot) AND NOT sluice.covers(f.seen, snapshot) AND NOT sluice.is_complete(f, looked));
END $$;

-- Is it found out, and logged, which documents show whatever rows this snapshot sees? Of one stream, or of all but the generations
-- beside the live ones.
CREATE OR REPLACE FUNCTION sluice.has_fanned_out(stream text, snapshot pg_snapshot) RETURNS boolean
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    SELECT sluice.has_passed('fan_out', snapshot) AND NOT EXISTS (
        SELECT FROM sluice.expansion AS e
        WHERE CASE WHEN has_fanned_out.stream IS NULL THEN e.stream = sluice.base_of(e.stream) ELSE e.stream = ANY (sluice.feeds(has_fanned_out.stream)) END AND pg_snapshot_xmin(e.seen) < pg_snapshot_xmax(snapshot) AND NOT sluice.covers(e.seen, snapshot))
$$;

-- Has each change that this snapshot sees arrived at the subscription's target, or become a dead letter? Of one stream, or
-- of all but the generations beside the live ones. What a change of another row means for a joined document is among it: its fan-out is done, and has arrived, too.
-- What waits for an index that nobody has made is left out. `looked`: and no older write can bring back what was deleted.
--
-- No clock takes part. It may become false again where rows of transactions that ran at the snapshot are under way.
CREATE OR REPLACE FUNCTION sluice.settled(reader text, snapshot pg_snapshot, stream text DEFAULT NULL, looked boolean DEFAULT false, but_for_lost bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    fanned_out sluice.expanded;
BEGIN
    IF NOT sluice.has_fanned_out(stream, snapshot) OR NOT sluice.has_arrived(reader, snapshot, stream, looked, but_for_lost) THEN
        RETURN false;
    END IF;
    -- Of one stream the last one stands for the others, since it sees what they logged.
    FOR fanned_out IN
        SELECT DISTINCT ON (x.stream) x.* FROM sluice.expanded AS x
        WHERE CASE WHEN settled.stream IS NULL THEN x.stream = sluice.base_of(x.stream) ELSE x.stream = ANY (sluice.feeds(settled.stream)) END AND NOT sluice.covers(x.seen, snapshot)
        ORDER BY x.stream, x.logged IS NULL DESC, pg_snapshot_xmax(x.logged) DESC, pg_snapshot_xmin(x.logged) DESC
    LOOP
        IF NOT sluice.has_arrived(reader, coalesce(fanned_out.logged, pg_current_snapshot()), coalesce(stream, fanned_out.stream), looked, but_for_lost) THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END $$;

-- Removes the landings of steps that were rolled back, and those that came again of a flight that is gone.
CREATE OR REPLACE FUNCTION sluice.remove_stray_landings(reader text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.landed AS l
    WHERE (l.subscription, l.stream, l.base, l.part) IN (
        SELECT x.subscription, x.stream, x.base, x.part FROM sluice.landed AS x
        WHERE x.subscription = reader AND x.base < (SELECT max(f.base) FROM sluice.flight AS f WHERE f.subscription = reader)
          AND NOT EXISTS (SELECT FROM sluice.flight AS f WHERE f.subscription = x.subscription AND f.stream = x.stream AND f.base = x.base)
        LIMIT 1000)
$$;

-- Keeps the flights, 500 at a call and each once a minute at most: removes what is complete, and what is left of steps
-- that were rolled back; and has what was lost logged again. Lost is a flight of which nothing was heard for `patience` minutes
-- in which later ones landed: a queue was purged. Its keys go into the log once more, 5,000 ids of the log at a call, and it
-- stays until those have arrived. A line for each flight that was found lost: then call it again. Payloads of `emit` cannot
-- be read again (`is_logged_again`: false), and whoever emitted them has to do it anew.
CREATE OR REPLACE FUNCTION sluice.watch_flights(patience integer DEFAULT 30, now timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (subscription text, stream text, first_id bigint, last_id bigint, is_logged_again boolean)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    reader text;
    newest bigint;
    flight sluice.flight;
    known sluice.stream;
    budget bigint := 5000;
    ids bigint;
    upto bigint;
    done sluice.expanded;
BEGIN
    FOR reader, newest IN SELECT f.subscription, max(f.base) FROM sluice.flight AS f GROUP BY 1 ORDER BY 1 LOOP
        PERFORM sluice.remove_stray_landings(reader);
        FOR flight IN
            SELECT * FROM sluice.flight AS f WHERE f.subscription = reader AND f.base < newest AND f.looked_at < now - interval '50 s'
            ORDER BY f.base LIMIT 500 FOR UPDATE SKIP LOCKED
        LOOP
            EXIT WHEN budget <= 0;
            IF sluice.is_complete(flight, true) THEN
                PERFORM sluice.remove_flight(flight);
                CONTINUE;
            END IF;
            IF flight.logged IS NOT NULL THEN
                SELECT s.* INTO known FROM sluice.stream AS s WHERE sluice.flight_name(s) = flight.stream;
                IF known.name IS NULL OR sluice.settled(reader, flight.logged, known.name, false, flight.base) THEN
                    PERFORM sluice.remove_flight(flight);
                ELSE
                    UPDATE sluice.flight AS f SET looked_at = now WHERE f.subscription = reader AND f.stream = flight.stream AND f.base = flight.base;
                END IF;
                CONTINUE;
            END IF;
            IF flight.logged_to IS NULL THEN
                UPDATE sluice.flight AS f
                SET looked_at = now, is_landed = f.is_landed OR sluice.is_complete(f, false), later = newest,
                    overtaken = f.overtaken + (newest > f.later AND f.later > f.base AND (
                        NOT EXISTS (SELECT FROM sluice.flight AS g WHERE g.subscription = reader AND g.base = f.later)
                        OR EXISTS (SELECT FROM sluice.flight AS g WHERE g.subscription = reader AND g.base >= f.later AND sluice.is_complete(g, false))))::integer
                WHERE f.subscription = reader AND f.stream = flight.stream AND f.base = flight.base
                RETURNING * INTO flight;
                CONTINUE WHEN flight.overtaken < patience;
                SELECT s.* INTO known FROM sluice.stream AS s WHERE sluice.flight_name(s) = flight.stream;
                IF NOT FOUND THEN                               -- it was dropped
                    PERFORM sluice.remove_flight(flight);
                    CONTINUE;
                END IF;
                subscription := reader;
                stream := known.name;
                first_id := flight.first_id;
                last_id := flight.last_id;
                is_logged_again := known.source IS NOT NULL;
                PERFORM sluice.count_deliveries(reader, ARRAY[known.name], ARRAY['lost'], ARRAY[1::bigint]);
                RETURN NEXT;
                IF known.source IS NULL THEN
                    PERFORM sluice.remove_flight(flight);
                    CONTINUE;
                END IF;
                flight.logged_to := flight.first_id - 1;
                IF flight.first_id < (SELECT o.id FROM sluice.outbox AS o ORDER BY o.id LIMIT 1) THEN
                    INSERT INTO sluice.outbox (stream, op, only_for) VALUES (known.name, 'fan_out', reader);   -- its rows have left the log
                    flight.logged_to := flight.last_id;
                END IF;
            ELSIF flight.logged_to = flight.last_id THEN
                UPDATE sluice.flight AS f SET logged = pg_current_snapshot(), looked_at = now
                WHERE f.subscription = reader AND f.stream = flight.stream AND f.base = flight.base;
                CONTINUE;
            END IF;
            IF flight.logged_to < flight.last_id THEN
                SELECT s.* INTO known FROM sluice.stream AS s WHERE sluice.flight_name(s) = flight.stream;
                WITH page AS MATERIALIZED (
                    SELECT o.id, o.stream, o.key, o.op FROM sluice.outbox AS o
                    WHERE o.id > flight.logged_to AND o.id <= flight.last_id ORDER BY o.id LIMIT budget
                ),
                logged AS (
                    INSERT INTO sluice.outbox (stream, key, op, only_for)
                    SELECT known.name, p.key, 'upsert', reader FROM page AS p
                    WHERE p.stream IN (flight.stream, known.name, known.follows) AND p.op <> 'fan_out' AND p.key IS NOT NULL AND known.name IS NOT NULL
                    GROUP BY p.key ORDER BY min(p.id)
                )
                SELECT count(*), CASE WHEN count(*) < budget THEN flight.last_id ELSE max(p.id) END INTO ids, upto FROM page AS p;
                flight.logged_to := upto;
                budget := budget - ids;
            END IF;
            budget := budget - 100;                             -- it takes a while itself
            UPDATE sluice.flight AS f SET logged_to = flight.logged_to, looked_at = CASE WHEN flight.logged_to < flight.last_id THEN f.looked_at ELSE now END
            WHERE f.subscription = reader AND f.stream = flight.stream AND f.base = flight.base;
        END LOOP;
    END LOOP;
    -- Where what a later one logged has arrived, so has that of the earlier ones: of each stream the last and one in the middle
    -- are asked for.
    stream := NULL;
    FOR done IN
        SELECT DISTINCT ON (n.stream, n.part) n.id, n.stream, n.seen, n.logged
        FROM (
            SELECT x.*, ntile(2) OVER (PARTITION BY x.stream ORDER BY pg_snapshot_xmax(x.logged) DESC, x.id DESC) AS part
            FROM sluice.expanded AS x WHERE x.logged IS NOT NULL) AS n
        ORDER BY n.stream, n.part, pg_snapshot_xmax(n.logged) DESC, n.id DESC
    LOOP
        CONTINUE WHEN done.stream = stream;                     -- all of it has gone
        IF NOT EXISTS (SELECT FROM sluice.target AS t WHERE done.stream = ANY (sluice.feeds(t.stream)) AND NOT sluice.has_arrived(t.subscription, done.logged, t.stream, true, NULL)) THEN
            DELETE FROM sluice.expanded AS x WHERE x.stream = done.stream AND sluice.covers(done.logged, x.logged);
            stream := done.stream;
        END IF;
    END LOOP;
END $$;
