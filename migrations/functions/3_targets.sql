-- Direct targets: where a stream's documents go besides Elasticsearch, and as what. Each is drained straight into, by the
-- subscription of its name.

-- The settings that a target knows; others are refused by name.
CREATE OR REPLACE FUNCTION sluice.check_settings(stream text, target text, settings jsonb) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    known CONSTANT text[] := CASE target WHEN 'clickhouse' THEN '{fields,columns,key,table,history}' WHEN 'kafka' THEN '{fields,topic,partitions,envelope,cleanup}' ELSE '{fields,bucket,readers}' END;
    unknown text;
BEGIN
    IF jsonb_typeof(settings) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'stream %: the settings for % are not a JSON object', stream, target USING HINT = 'They look like {"fields": ["id", "name"]}.';
    END IF;
    SELECT string_agg(quote_ident(k), ', ') INTO unknown FROM jsonb_object_keys(settings) AS k WHERE k <> ALL (known);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'stream %: % has no setting %', stream, target, unknown USING HINT = format('It has %s.', array_to_string(known, ', '));
    END IF;
    IF settings ? 'fields' AND (jsonb_typeof(settings -> 'fields') <> 'array' OR EXISTS (SELECT FROM jsonb_array_elements(settings -> 'fields') AS f WHERE jsonb_typeof(f) <> 'string')) THEN
        RAISE EXCEPTION 'stream %: fields is not an array of columns', stream USING HINT = 'It looks like ["id", "name"].';
    END IF;
END $$;

-- The columns of a source that a target wants, in their order: all, or those that `fields` names; and the key's in any case, first.
CREATE OR REPLACE FUNCTION sluice.wanted_columns(stream sluice.stream, settings jsonb) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation CONSTANT regclass := sluice.relation_of(stream.source);
    fields CONSTANT text[] := CASE WHEN settings ? 'fields' THEN ARRAY(SELECT jsonb_array_elements_text(settings -> 'fields')) END;
BEGIN
    PERFORM sluice.check_columns(relation, fields, format('a field of stream %s', stream.name));
    RETURN stream.key || ARRAY(
        SELECT a.attname::text FROM pg_attribute AS a
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (stream.key) AND (fields IS NULL OR a.attname = ANY (fields))
        ORDER BY a.attnum);
END $$;

-- The type of ClickHouse that keeps whatever this one of PostgreSQL can hold, as it is printed in JSON. NULL: none does.
-- Dates and times have fewer years there: one that is outside is a dead letter. What has no type of its own is a String: its
-- JSON, or its text.
CREATE OR REPLACE FUNCTION sluice.clickhouse_type(type oid, modifier integer) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN 'Array(Nullable(' || sluice.clickhouse_type(t.typelem, m.modifier) || '))'
        WHEN t.oid = 'boolean'::regtype THEN 'Bool'
        WHEN t.oid = 'smallint'::regtype THEN 'Int16'
        WHEN t.oid = 'integer'::regtype THEN 'Int32'
        WHEN t.oid = 'bigint'::regtype THEN 'Int64'
        WHEN t.oid = 'real'::regtype THEN 'Float32'
        WHEN t.oid = 'double precision'::regtype THEN 'Float64'
        WHEN t.oid = 'numeric'::regtype THEN CASE
            WHEN m.modifier > 0 AND n.digits <= 76 AND n.scale BETWEEN 0 AND n.digits THEN format('Decimal(%s, %s)', n.digits, n.scale) END
        WHEN t.oid = 'uuid'::regtype THEN 'UUID'
        WHEN t.oid = 'date'::regtype THEN 'Date32'
        WHEN t.oid IN ('timestamp'::regtype, 'timestamptz'::regtype) THEN 'DateTime64(6, ''UTC'')'
        ELSE 'String'
    END
    FROM pg_type AS t
    JOIN pg_type AS named ON named.oid = clickhouse_type.type
    CROSS JOIN LATERAL (SELECT CASE named.typtype WHEN 'd' THEN named.typtypmod ELSE clickhouse_type.modifier END AS modifier) AS m
    CROSS JOIN LATERAL (SELECT ((m.modifier - 4) >> 16) & 65535 AS digits, (((m.modifier - 4) & 2047) # 1024) - 1024 AS scale) AS n
    WHERE t.oid = sluice.base_type(clickhouse_type.type)
$$;

-- What ClickHouse is to have of a stream: the columns in their order, the type of each in "properties", which of them are the key.
CREATE OR REPLACE FUNCTION sluice.clickhouse_definition(stream sluice.stream, settings jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation CONSTANT regclass := sluice.relation_of(stream.source);
    given CONSTANT jsonb := coalesce(settings -> 'columns', '{}');
    key_columns text[] := stream.key;
    columns text[];
    properties jsonb;
    wrong text;
BEGIN
    IF jsonb_typeof(given) <> 'object' OR EXISTS (SELECT FROM jsonb_each_text(given) AS c WHERE c.value !~ '^[A-Za-z][A-Za-z0-9_]*(\([A-Za-z0-9_(), ''/]*\))?$') THEN
        RAISE EXCEPTION 'stream %: columns does not give each its type of ClickHouse', stream.name USING HINT = 'It looks like {"price": "Decimal(18, 4)"}.';
    END IF;
    IF coalesce(settings ->> 'table', stream.name) !~ '^[A-Za-z_][A-Za-z0-9_-]{0,99}$' THEN
        RAISE EXCEPTION 'stream %: a table of ClickHouse cannot be named %', stream.name, quote_literal(settings ->> 'table')
            USING HINT = 'Use letters, digits, _ and -, 100 at most. Without one it has the stream''s name.';
    END IF;
    IF jsonb_typeof(coalesce(settings -> 'history', 'false')) <> 'boolean' THEN
        RAISE EXCEPTION 'stream %: history is true or false', stream.name;
    END IF;
    IF stream.source IS NULL THEN
        key_columns := ARRAY[settings ->> 'key'];
        columns := key_columns || ARRAY(SELECT k FROM jsonb_object_keys(given) AS k WHERE k <> settings ->> 'key');
        IF NOT given ? coalesce(settings ->> 'key', '') THEN
            RAISE EXCEPTION 'stream %: it is fed by sluice.emit, so that its columns are not known', stream.name
                USING HINT = 'Give each its type of ClickHouse, and say which is the key: {"columns": {"id": "String", "total": "Int64"}, "key": "id"}.';
        END IF;
        properties := given;
    ELSE
        IF settings ? 'key' THEN
            RAISE EXCEPTION 'stream %: it has a key, which is that of its table, too', stream.name USING HINT = 'Leave the key out of the settings.';
        END IF;
        PERFORM sluice.check_columns(relation, ARRAY(SELECT jsonb_object_keys(given)), format('a column of stream %s in ClickHouse', stream.name));
        columns := sluice.wanted_columns(stream, settings);
        SELECT jsonb_object_agg(a.attname, coalesce(given ->> a.attname, CASE
                WHEN a.attnotnull OR a.attname = ANY (key_columns) THEN d.type
                WHEN d.type LIKE 'Array%' THEN NULL
                ELSE 'Nullable(' || d.type || ')' END)),
            string_agg(format('%I of type %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum) FILTER (
                WHERE NOT given ? a.attname AND (d.type IS NULL OR d.type LIKE 'Array%' AND (NOT a.attnotnull OR a.attname = ANY (key_columns))))
        INTO properties, wrong
        FROM pg_attribute AS a CROSS JOIN LATERAL (SELECT sluice.clickhouse_type(a.atttypid, a.atttypmod) AS type) AS d
        WHERE a.attrelid = relation AND a.attname = ANY (columns);
        IF wrong IS NOT NULL THEN
            RAISE EXCEPTION 'stream %: ClickHouse has no type that keeps all that these may hold: %', stream.name, wrong
                USING ERRCODE = 'feature_not_supported',
                      HINT = 'A numeric wants a precision of 76 digits at most, an array NOT NULL. Cast them to text in the source, leave them out of "fields", or say what is to become of them: {"columns": {"price": "Decimal(18, 4)"}}.';
        END IF;
    END IF;
    SELECT string_agg(quote_ident(c), ', ') INTO wrong FROM unnest(columns) AS c WHERE starts_with(c, '_sluice_') OR c ~ '[`\\]';
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'stream %: a column of ClickHouse cannot be named %', stream.name, wrong USING HINT = 'Give it another name in the source, or leave it out of "fields".';
    END IF;
    RETURN jsonb_build_object('table', coalesce(settings ->> 'table', stream.name), 'columns', columns, 'key', key_columns,
        'properties', properties, 'history', coalesce(settings -> 'history', 'false'));
END $$;

-- What Kafka is to have of a stream.
CREATE OR REPLACE FUNCTION sluice.kafka_definition(stream sluice.stream, settings jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    topic CONSTANT text := coalesce(settings ->> 'topic', stream.name);
    partitions CONSTANT jsonb := settings -> 'partitions';
    envelope CONSTANT text := coalesce(settings ->> 'envelope', 'cloudevents');
    cleanup CONSTANT text := settings ->> 'cleanup';
BEGIN
    IF topic !~ '^[A-Za-z0-9._-]{1,249}$' OR topic IN ('.', '..') THEN
        RAISE EXCEPTION 'stream %: a topic cannot be named %', stream.name, quote_literal(topic)
            USING HINT = 'Use letters, digits, ., _ and -, 249 at most. Without one it has the stream''s name.';
    END IF;
    IF partitions IS NOT NULL AND (jsonb_typeof(partitions) <> 'number' OR partitions::text !~ '^[1-9][0-9]{0,4}$') THEN
        RAISE EXCEPTION 'stream %: partitions is a number from 1 to 99999', stream.name;
    END IF;
    IF envelope NOT IN ('cloudevents', 'debezium') THEN
        RAISE EXCEPTION 'stream %: there is no envelope %', stream.name, quote_literal(envelope) USING HINT = 'cloudevents or debezium.';
    END IF;
    IF cleanup NOT IN ('compact', 'delete') THEN
        RAISE EXCEPTION 'stream %: there is no cleanup %', stream.name, quote_literal(cleanup)
            USING HINT = 'compact, which keeps the last message of each key, or delete, which keeps all for a while.';
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object('topic', topic, 'partitions', partitions, 'envelope', envelope, 'cleanup', cleanup,
        'properties', (SELECT coalesce(jsonb_object_agg(c, '{}'::jsonb), '{}') FROM unnest(CASE WHEN stream.source IS NOT NULL THEN sluice.wanted_columns(stream, settings) END) AS c)));
END $$;

-- Has a stream go to a direct target, `clickhouse` or `kafka`, too, or changes what it has there; the same again changes
-- nothing. To clients it goes by define_bucket. What changes from now on arrives as soon as migrate has made the table or the topic; `resync(stream, target => …)`
-- brings what is there already.
--
-- Of ClickHouse: `fields`, the columns of the source (all); `columns`, types of ClickHouse for some, instead of those that follow
-- from PostgreSQL's; `table` (the stream's name); `history`, whether to keep every version that was delivered; `key`, a column of
-- `columns`, for a stream that is fed by emit. Of Kafka: `fields`; `topic` (the stream's name); `partitions`, where the topic is
-- to be made (the broker's default); `envelope`, cloudevents or debezium; `cleanup`, delete for a topic of events, of which none takes
-- another one's place, and compact (which is the default) else.
CREATE OR REPLACE FUNCTION sluice.deliver(stream text, target text, settings jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known sluice.stream;
    definition jsonb;
BEGIN
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = deliver.stream;
    IF known.name IS NULL THEN
        RAISE EXCEPTION 'there is no stream %', quote_ident(stream) USING HINT = 'Define it first: SELECT sluice.define_stream(…).';
    END IF;
    IF target IS NULL OR target <> ALL (sluice.direct_targets()) THEN
        RAISE EXCEPTION 'stream %: % is no direct target', stream, coalesce(quote_literal(target), 'NULL')
            USING HINT = format('Those are %s. To Elasticsearch a stream goes by the mapping that define_stream is given.', array_to_string(sluice.direct_targets(), ', '));
    END IF;
    PERFORM sluice.check_settings(stream, target, settings);
    IF known.source IS NOT NULL AND sluice.relation_of(known.source) IS NULL THEN
        RAISE EXCEPTION 'stream %: its source % does not exist', stream, known.source USING ERRCODE = 'undefined_table', HINT = 'Define the stream anew, with another source.';
    END IF;
    definition := CASE target
        WHEN 'clickhouse' THEN sluice.clickhouse_definition(known, settings)
        WHEN 'kafka' THEN sluice.kafka_definition(known, settings)
        ELSE sluice.sync_definition(known, settings) END;
    IF EXISTS (SELECT FROM sluice.target AS t WHERE (t.subscription, t.stream, t.mapping, t.settings) = (deliver.target, deliver.stream, definition, deliver.settings)) THEN
        RETURN;
    END IF;
    PERFORM sluice.lock_definitions();
    IF EXISTS (
        SELECT FROM sluice.target AS t
        WHERE t.subscription = deliver.target AND t.stream <> deliver.stream
          AND coalesce(t.mapping ->> 'table', t.mapping ->> 'topic') = coalesce(definition ->> 'table', definition ->> 'topic'))
    THEN
        RAISE EXCEPTION 'stream %: another one goes to % of %', stream, coalesce(definition ->> 'table', definition ->> 'topic'), target
            USING HINT = 'Give it another "table", or "topic".';
    END IF;
    PERFORM sluice.subscribe(target);
    INSERT INTO sluice.target AS t (subscription, stream, mapping, settings) VALUES (target, stream, definition, settings)
    ON CONFLICT ON CONSTRAINT target_pkey DO UPDATE SET mapping = excluded.mapping, settings = excluded.settings, rests_until = NULL;
END $$;

-- Has a stream go there no more. What the target has stays, and is left to whoever made it.
CREATE OR REPLACE FUNCTION sluice.withhold(stream text, target text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.lock_definitions();
    IF target = 'sync' THEN
        PERFORM sluice.forget_buckets(stream);
    END IF;
    DELETE FROM sluice.target AS t WHERE t.stream = withhold.stream AND t.subscription = withhold.target;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'stream % does not go to %', quote_ident(stream), quote_ident(target)
            USING ERRCODE = 'undefined_object', HINT = 'Where each goes: SELECT stream, subscription FROM sluice.target.';
    END IF;
    UPDATE sluice.generation AS g SET state = 'dropped'
    FROM sluice.stream AS s WHERE s.name = g.stream AND s.follows = withhold.stream AND withhold.target = 'elasticsearch';
    DELETE FROM sluice.waiting AS w WHERE w.stream = withhold.stream AND w.subscription = withhold.target;
    DELETE FROM sluice.look AS l WHERE l.stream = withhold.stream AND l.subscription = withhold.target;
    DELETE FROM sluice.stream_fault AS f WHERE f.stream = withhold.stream AND f.subscription = withhold.target;
    DELETE FROM sluice.validation AS v WHERE v.stream = withhold.stream AND v.subscription = withhold.target;
    DELETE FROM sluice.difference AS d WHERE d.stream = withhold.stream AND d.subscription = withhold.target;
    DELETE FROM sluice.dead_letter AS l WHERE l.stream = withhold.stream AND l.subscription = withhold.target;
END $$;

-- Sets a stream's changes aside for a while: it cannot be read, or the target does not take it as it is. The others go on.
CREATE OR REPLACE FUNCTION sluice.rest(reader text, stream text, pause interval) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE sluice.target AS t SET rests_until = clock_timestamp() + pause WHERE t.subscription = reader AND t.stream = rest.stream
$$;

-- Notes the changes that a direct target refuses, in the transaction that passes them: of each key the newest.
CREATE OR REPLACE FUNCTION sluice.note_refusals(reader text, change_ids bigint[], streams text[], keys text[], versions bigint[], error_types text[], reasons text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.dead_letter AS l (subscription, stream, key, version, change_id, error_type, reason, op, payload)
    SELECT DISTINCT ON (n.stream, md5(n.key)) note_refusals.reader, n.stream, n.key, n.version, n.change_id, n.error_type, left(n.reason, 2000), o.op, o.payload
    FROM unnest(change_ids, streams, keys, versions, error_types, reasons) AS n(change_id, stream, key, version, error_type, reason)
    JOIN sluice.stream AS s ON s.name = n.stream
    LEFT JOIN sluice.outbox AS o ON o.id = n.change_id
    ORDER BY n.stream, md5(n.key), n.version DESC
    ON CONFLICT (subscription, stream, md5(key)) DO UPDATE
    SET key = excluded.key, version = excluded.version, change_id = excluded.change_id, error_type = excluded.error_type, reason = excluded.reason,
        op = excluded.op, payload = excluded.payload, at = excluded.at
$$;

-- Removes the letters of keys that arrived later.
CREATE OR REPLACE FUNCTION sluice.forget_refusals(reader text, stream text, keys text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.dead_letter AS l USING unnest(keys) AS k(key)
    WHERE l.subscription = reader AND l.stream = forget_refusals.stream AND md5(l.key) = md5(k.key) AND l.key = k.key
$$;
