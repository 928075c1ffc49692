-- What the ingest pulls: definitions, checked when they are made. And what it counts, and for how long it keeps what it could
-- not store.

-- Whether a text is a JSON pointer (RFC 6901) to something in a document.
CREATE OR REPLACE FUNCTION sluice.is_pointer(pointer text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT pointer ~ '^(/([^~/]|~[01])*)+$'
$$;

-- What the ingest knows of each column that a definition fills, in the table's order. The type is that below domains.
CREATE OR REPLACE FUNCTION sluice.ingest_columns(relation regclass, fields jsonb, rules jsonb)
RETURNS TABLE (pointer text, name text, attnum smallint, type text, base text, modifier integer, labels text[], is_required boolean, rules jsonb)
LANGUAGE sql STABLE AS $$
    SELECT f.key, f.value, a.attnum, format_type(a.atttypid, NULL),
        CASE WHEN b.typtype = 'e' THEN 'enum' ELSE b.typname::text END,
        CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END,
        CASE WHEN b.typtype = 'e' THEN ARRAY(SELECT e.enumlabel::text FROM pg_enum AS e WHERE e.enumtypid = b.oid ORDER BY e.enumsortorder) END,
        a.attnotnull OR coalesce(t.typnotnull, false),
        coalesce(ingest_columns.rules -> f.value, '[]')
    FROM jsonb_each_text(fields) AS f
    LEFT JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = f.value AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_type AS b ON b.oid = sluice.base_type(a.atttypid)
    ORDER BY a.attnum, f.key
$$;

-- A column of the table, or an error that says what it is for.
CREATE OR REPLACE FUNCTION sluice.check_column(ingest text, relation regclass, name text, what text) RETURNS void
LANGUAGE sql STABLE AS $$
    SELECT sluice.check_columns(relation, ARRAY[name], format('%s of the ingest %s', what, ingest))
$$;

-- Refuses rules that there are not, and those that do not go with the column's type.
CREATE OR REPLACE FUNCTION sluice.check_ingest_rules(ingest sluice.ingest) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    known CONSTANT text[] := '{required,email,phone,uuid,one_of,range,pattern,not_future,unique}';
    -- What each is about. Bounds of a range are numbers; a rule about text is about what is read as text.
    texts CONSTANT text[] := '{text,varchar}';
    numbers CONSTANT text[] := '{int2,int4,int8,numeric,float4,float8}';
    col record;
    rule jsonb;
    word text;
    value jsonb;
    allowed text[];
BEGIN
    FOR word IN SELECT r.name FROM jsonb_object_keys(ingest.rules) AS r(name) WHERE r.name NOT IN (SELECT f.value FROM jsonb_each_text(ingest.fields) AS f) LOOP
        RAISE EXCEPTION 'ingest %: there are rules for %, which no field fills', ingest.name, word USING HINT = 'Name a column that is in fields.';
    END LOOP;
    FOR col IN SELECT c.* FROM sluice.ingest_columns(ingest.relation, ingest.fields, ingest.rules) AS c LOOP
        IF jsonb_typeof(col.rules) <> 'array' THEN
            RAISE EXCEPTION 'ingest %: the rules for % are no array', ingest.name, col.name USING HINT = 'They look like ["required", {"one_of": ["new", "used"]}].';
        END IF;
        FOR rule IN SELECT * FROM jsonb_array_elements(col.rules) LOOP
            word := CASE jsonb_typeof(rule) WHEN 'string' THEN rule #>> '{}' WHEN 'object' THEN (SELECT min(k) FROM jsonb_object_keys(rule) AS k HAVING count(*) = 1) END;
            value := CASE jsonb_typeof(rule) WHEN 'object' THEN rule -> word END;
            IF word IS NULL OR word <> ALL (known) OR (value IS NOT NULL) <> (word IN ('one_of', 'range', 'pattern')) THEN
                RAISE EXCEPTION 'ingest %: % has the rule %, which there is not', ingest.name, col.name, rule
                    USING HINT = 'There are required, email, phone, uuid, not_future, unique, {"one_of": ["a", "b"]}, {"range": [0, 100]} and {"pattern": "^[A-Z]+$"}.';
            END IF;
            allowed := CASE
                WHEN word IN ('email', 'phone', 'pattern') THEN texts
                WHEN word = 'uuid' THEN texts || '{uuid}'
                WHEN word = 'one_of' THEN texts || numbers || '{enum,uuid,bool}'
                WHEN word = 'range' THEN numbers
                WHEN word = 'not_future' THEN '{timestamptz,date}'
                WHEN word = 'unique' THEN '{text,varchar,uuid,int2,int4,int8}' END;
            IF col.base <> ALL (allowed) THEN
                RAISE EXCEPTION 'ingest %: the rule % does not go with %, which is %', ingest.name, word, col.name, col.type
                    USING HINT = format('It is for columns of %s.', array_to_string(allowed, ', '));
            END IF;
            IF word = 'one_of' AND (jsonb_typeof(value) <> 'array' OR value = '[]' OR EXISTS (SELECT FROM jsonb_array_elements(value) AS v WHERE jsonb_typeof(v) <> 'string')) THEN
                RAISE EXCEPTION 'ingest %: one_of of % is no array of texts', ingest.name, col.name USING HINT = 'It looks like {"one_of": ["new", "used"]}; a number is written as a text, too.';
            END IF;
            IF word = 'range' AND (jsonb_typeof(value) <> 'array' OR jsonb_array_length(value) <> 2
                OR EXISTS (SELECT FROM jsonb_array_elements(value) AS v WHERE jsonb_typeof(v) NOT IN ('number', 'null')) OR (value ->> 0)::numeric > (value ->> 1)::numeric)
            THEN
                RAISE EXCEPTION 'ingest %: the range of % is not two numbers, the smaller one first', ingest.name, col.name USING HINT = 'It looks like {"range": [0, 100]}; null is no bound.';
            END IF;
            IF word = 'pattern' THEN
                PERFORM sluice.check_pattern(ingest.name, col.name, value);
            END IF;
        END LOOP;
    END LOOP;
END $$;

-- Refuses a pattern that PostgreSQL does not take, and what the ingest, which judges by it, reads in another way.
CREATE OR REPLACE FUNCTION sluice.check_pattern(ingest text, name text, pattern jsonb) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    expression CONSTANT text := pattern #>> '{}';
BEGIN
    IF jsonb_typeof(pattern) <> 'string' OR length(expression) > 500 THEN
        RAISE EXCEPTION 'ingest %: the pattern of % is no text of 500 characters at most', ingest, name USING HINT = 'It looks like {"pattern": "^[A-Z]{2}[0-9]+$"}.';
    END IF;
    PERFORM '' ~ expression;
    IF expression ~ '\(\?(?!:)|\\[^dDsSwW[:punct:]]|\[[^]]*\[' THEN
        RAISE EXCEPTION 'ingest %: the pattern of % has what is not the same everywhere', ingest, name
            USING HINT = 'Of what follows a backslash there are d, D, s, S, w, W and signs; there is no [[:class:]] and no (?…) but (?:…).';
    END IF;
EXCEPTION
    WHEN invalid_regular_expression THEN
        RAISE EXCEPTION 'ingest %: the pattern of % is no regular expression (%)', ingest, name, SQLERRM USING HINT = 'It looks like {"pattern": "^[A-Z]{2}[0-9]+$"}.';
END $$;

-- Refuses a table that does not take what the definition says: by the columns, and by what must be unique.
CREATE OR REPLACE FUNCTION sluice.check_ingest_table(ingest sluice.ingest) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    keys CONSTANT text[] := '{text,varchar,uuid,int2,int4,int8}';
    col record;
    mark record;
    found record;
    missing text;
BEGIN
    FOR col IN SELECT c.* FROM sluice.ingest_columns(ingest.relation, ingest.fields, ingest.rules) AS c LOOP
        IF NOT sluice.is_pointer(col.pointer) THEN
            RAISE EXCEPTION 'ingest %: the field % is no JSON pointer', ingest.name, quote_literal(col.pointer) USING HINT = 'It looks like /id, or /address/city where one is in another.';
        END IF;
        PERFORM sluice.check_column(ingest.name, ingest.relation, col.name, format('for the field %s', col.pointer));
        IF col.base <> ALL ('{text,varchar,bool,int2,int4,int8,numeric,float4,float8,uuid,date,timestamptz,json,jsonb,enum}') THEN
            RAISE EXCEPTION 'ingest %: the column %, which is %, does not take the field %', ingest.name, col.name, col.type, col.pointer
                USING HINT = 'Take text, varchar, boolean, a number, uuid, date, timestamptz, json, jsonb or an enum; jsonb takes any value.';
        END IF;
        IF EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = ingest.relation AND a.attnum = col.attnum AND (a.attgenerated <> '' OR a.attidentity = 'a')) THEN
            RAISE EXCEPTION 'ingest %: the column % is always generated', ingest.name, col.name USING HINT = format('Leave out the field %s, or name another column.', col.pointer);
        END IF;
    END LOOP;
    SELECT f.value INTO missing FROM jsonb_each_text(ingest.fields) AS f GROUP BY f.value HAVING count(*) > 1 LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'ingest %: two fields fill the column %', ingest.name, missing USING HINT = 'Leave one of them out.';
    END IF;
    FOR mark IN SELECT * FROM jsonb_each(ingest.marks) AS m(name, col) LOOP
        IF mark.name NOT IN ('status', 'message') OR jsonb_typeof(mark.col) <> 'string' THEN
            RAISE EXCEPTION 'ingest %: there is no mark %', ingest.name, mark.name USING HINT = 'It looks like {"status": "COLUMN", "message": "COLUMN"}, of which each may be left out.';
        END IF;
        PERFORM sluice.check_column(ingest.name, ingest.relation, mark.col #>> '{}', format('for the mark %s', mark.name));
    END LOOP;

    FOREACH missing IN ARRAY ARRAY[ingest.key, ingest.newer] LOOP
        PERFORM sluice.check_column(ingest.name, ingest.relation, missing, CASE missing WHEN ingest.key THEN 'the key' ELSE 'newer' END);
        IF NOT EXISTS (SELECT FROM jsonb_each_text(ingest.fields) AS f WHERE f.value = missing) THEN
            RAISE EXCEPTION 'ingest %: no field fills %', ingest.name, missing USING HINT = format('Add one to fields, as in {"/%s": "%s"}.', missing, missing);
        END IF;
    END LOOP;
    SELECT * INTO found FROM sluice.ingest_columns(ingest.relation, ingest.fields, ingest.rules) AS c WHERE c.name = ingest.newer;
    IF found.base <> 'timestamptz' THEN
        RAISE EXCEPTION 'ingest %: newer is %, which is %', ingest.name, ingest.newer, found.type
            USING HINT = 'Take a column of timestamptz: of two items of one key the one that is later by it counts.';
    END IF;
    SELECT * INTO found FROM sluice.ingest_columns(ingest.relation, ingest.fields, ingest.rules) AS c WHERE c.name = ingest.key;
    IF found.base <> ALL (keys) THEN
        RAISE EXCEPTION 'ingest %: the key is %, which is %', ingest.name, ingest.key, found.type USING HINT = format('Take a column of %s.', array_to_string(keys, ', '));
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index AS i
        WHERE i.indrelid = ingest.relation AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = found.attnum)
    THEN
        RAISE EXCEPTION 'ingest %: the key % of % is not unique', ingest.name, ingest.key, ingest.relation
            USING HINT = format('ALTER TABLE %s ADD PRIMARY KEY (%I);', ingest.relation, ingest.key);
    END IF;

    -- What must be unique is decided before it is stored, so that of two that want it one is told of.
    FOR col IN SELECT c.* FROM sluice.ingest_columns(ingest.relation, ingest.fields, ingest.rules) AS c WHERE c.rules ? 'unique' OR c.name = ingest.key LOOP
        IF col.name <> ingest.key AND NOT EXISTS (
            SELECT FROM pg_index AS i
            WHERE i.indrelid = ingest.relation AND i.indisunique AND NOT i.indimmediate AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = col.attnum)
        THEN
            RAISE EXCEPTION 'ingest %: the column % of % has no unique constraint that is looked at when a statement ends, so that two rows may swap theirs',
                ingest.name, col.name, ingest.relation
                USING HINT = format('ALTER TABLE %s ADD UNIQUE (%I) DEFERRABLE INITIALLY IMMEDIATE;', ingest.relation, col.name);
        END IF;
        IF EXISTS (
            SELECT FROM pg_attribute AS a JOIN pg_collation AS c ON c.oid = a.attcollation
            WHERE a.attrelid = ingest.relation AND a.attnum = col.attnum AND NOT c.collisdeterministic)
        THEN
            RAISE EXCEPTION 'ingest %: to the collation of the column % other texts are equal', ingest.name, col.name USING HINT = 'Take a column with a deterministic collation.';
        END IF;
    END LOOP;
    SELECT i.indexrelid::regclass AS index, i.indnkeyatts, a.attname INTO found
    FROM pg_index AS i
    LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = ingest.relation AND i.indisunique
      AND NOT (i.indnkeyatts = 1 AND i.indpred IS NULL AND (
          a.attname = ingest.key OR NOT i.indimmediate AND coalesce(ingest.rules -> a.attname::text ? 'unique', false)
          -- Filled by the table itself.
          OR i.indkey[0] <> 0 AND NOT EXISTS (SELECT FROM jsonb_each_text(ingest.fields) AS f WHERE f.value = a.attname)))
    LIMIT 1;
    IF found.index IS NOT NULL THEN
        RAISE EXCEPTION 'ingest %: the unique index % refuses items, and no rule says so', ingest.name, found.index
            USING HINT = 'Give its column the rule unique, and the constraint DEFERRABLE INITIALLY IMMEDIATE; an index of several columns, of an expression or of a part of the rows cannot stay.';
    END IF;

    SELECT string_agg(quote_ident(a.attname), ', ') INTO missing
    FROM pg_attribute AS a
    WHERE a.attrelid = ingest.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
      AND a.attname NOT IN (SELECT f.value FROM jsonb_each_text(ingest.fields) AS f) AND a.attname <> coalesce(ingest.marks ->> 'status', '');
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'ingest %: % must have a value in %, and no field fills it', ingest.name, missing, ingest.relation
            USING HINT = 'Name a field for it, or give the column a default.';
    END IF;
END $$;

-- Refuses options that the kind has not.
CREATE OR REPLACE FUNCTION sluice.check_ingest_options(ingest sluice.ingest) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    page CONSTANT jsonb := coalesce(ingest.options -> 'page', '{"by": "link"}');
    unknown text;
BEGIN
    IF ingest.kind = 'mongodb' THEN
        IF ingest.options - '{database,collection}'::text[] <> '{}' OR NOT coalesce(ingest.options ->> 'database' ~ '^[^/\\. "$*<>:|?]{1,63}$' AND ingest.options ->> 'database' <> ALL ('{admin,config,local}')
            AND ingest.options ->> 'collection' ~ '^[^$]{1,200}$' AND NOT starts_with(ingest.options ->> 'collection', 'system.'), false)
        THEN
            RAISE EXCEPTION 'ingest %: its options name no collection that has a change stream: %', ingest.name, ingest.options
                USING HINT = 'They are {"database": "shop", "collection": "orders"}.';
        END IF;
        RETURN;
    END IF;
    SELECT string_agg(k, ', ') INTO unknown FROM jsonb_object_keys(ingest.options) AS k WHERE k <> ALL ('{items,page,since,since_as}');
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'ingest %: http has no option %', ingest.name, unknown USING HINT = 'It has items, page, since and since_as.';
    END IF;
    IF ingest.options ? 'items' AND NOT coalesce(ingest.options ->> 'items' = '' OR sluice.is_pointer(ingest.options ->> 'items'), false) THEN
        RAISE EXCEPTION 'ingest %: items is no JSON pointer', ingest.name USING HINT = 'It says where in an answer the array is, as in /data/items; leave it out where the answer is the array.';
    END IF;
    IF ingest.options ? 'since' AND (jsonb_typeof(ingest.options -> 'since') <> 'string' OR ingest.options ->> 'since' = '') THEN
        RAISE EXCEPTION 'ingest %: since is no name of a parameter', ingest.name USING HINT = 'It looks like updated_since. Leave it out where everything is read in each round.';
    END IF;
    IF ingest.options ? 'since_as' AND coalesce(ingest.options ->> 'since_as' NOT IN ('rfc3339', 'seconds', 'milliseconds'), true) THEN
        RAISE EXCEPTION 'ingest %: since_as is %', ingest.name, ingest.options -> 'since_as' USING HINT = 'A time is sent as rfc3339, or since 1970 in seconds or in milliseconds.';
    END IF;
    IF NOT coalesce(CASE page ->> 'by'
        WHEN 'link' THEN page = '{"by": "link"}'
        WHEN 'url' THEN page - '{by,at}'::text[] = '{}' AND sluice.is_pointer(page ->> 'at')
        WHEN 'cursor' THEN page - '{by,at,header,parameter}'::text[] = '{}' AND (page ? 'at') <> (page ? 'header') AND page ->> 'parameter' <> ''
            AND (sluice.is_pointer(page ->> 'at') OR page ->> 'header' ~ '^[A-Za-z0-9-]+$')
        WHEN 'number' THEN page - '{by,parameter,first}'::text[] = '{}' AND page ->> 'parameter' <> '' AND coalesce(page ->> 'first', '1') ~ '^[0-9]{1,9}$'
        END, false)
    THEN
        RAISE EXCEPTION 'ingest %: the option page is %', ingest.name, page
            USING HINT = 'It is {"by": "link"}; {"by": "url", "at": "/next"}; {"by": "cursor", "parameter": "cursor", "at": "/next_cursor"}, or "header" for "at"; or {"by": "number", "parameter": "page", "first": 1}.';
    END IF;
END $$;

-- Refuses what cannot be of a MongoDB.
CREATE OR REPLACE FUNCTION sluice.check_ingest_mongodb(name text, url text, secret text, key text, newer text, fields jsonb, deletes jsonb) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- Said without the URL, whose credentials are secret.
    IF url !~* '^mongodb(\+srv)?://[^@\s]+$' THEN
        RAISE EXCEPTION 'ingest %: its url is no connection string that begins with mongodb:// or mongodb+srv://, without credentials', name
            USING HINT = 'With credentials it belongs into a secret, {"url": "mongodb+srv://user:password@host"}: secret => ''ARN''.';
    END IF;
    IF (url IS NULL) = (secret IS NULL) THEN
        RAISE EXCEPTION 'ingest %: it needs either a url or a secret that has it', name
            USING HINT = 'Where nobody is asked who he is, url => ''mongodb://host''; else secret => ''ARN'' of {"url": "mongodb+srv://user:password@host"}.';
    END IF;
    IF deletes IS NOT NULL THEN
        RAISE EXCEPTION 'ingest %: deletes is given', name USING HINT = 'Leave it out: a change stream says itself what is gone.';
    END IF;
    IF fields ->> '/_id' IS DISTINCT FROM key THEN
        RAISE EXCEPTION 'ingest %: the key % is not filled by /_id', name, key USING HINT = format('Have {"/_id": "%s"} in fields: what is deleted is known by its _id alone.', key);
    END IF;
    IF EXISTS (SELECT FROM jsonb_each_text(fields) AS f WHERE f.value = newer) THEN
        RAISE EXCEPTION 'ingest %: a field fills %, which has the time of the change', name, newer USING HINT = 'Leave the field out, or name another column as newer.';
    END IF;
END $$;

-- Refuses a table in which there is, or may be, what the collection has not: such rows are deleted when a copy has ended.
CREATE OR REPLACE FUNCTION sluice.check_ingest_alone(ingest sluice.ingest, was regclass) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    other text;
    has_rows boolean;
BEGIN
    SELECT i.name INTO other FROM sluice.ingest AS i WHERE i.relation = ingest.relation AND i.name <> ingest.name AND 'mongodb' IN (i.kind, ingest.kind) LIMIT 1;
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'ingest %: the ingest % fills % already', ingest.name, other, ingest.relation USING HINT = 'A collection has a table of its own. Take another one.';
    END IF;
    IF ingest.kind = 'mongodb' AND was IS DISTINCT FROM ingest.relation THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', ingest.relation) INTO has_rows;
        IF has_rows THEN
            RAISE EXCEPTION 'ingest %: there are rows in % already, and those that the collection has not would be deleted', ingest.name, ingest.relation
                USING HINT = format('Take another table, or TRUNCATE %s; if that is what you want.', ingest.relation);
        END IF;
    END IF;
END $$;

-- Where in what a MongoDB's change comes as the fields are: its time, whether its document is gone, and the document.
CREATE OR REPLACE FUNCTION sluice.ingest_fields(newer text, fields jsonb) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_object_agg(CASE WHEN f.key = '' OR f.key LIKE '/%' THEN '/document' || f.key ELSE f.key END, f.value) || jsonb_build_object('/at', newer)
    FROM jsonb_each(fields) AS f
$$;

-- Refuses what cannot say that an item is gone.
CREATE OR REPLACE FUNCTION sluice.check_ingest_deletes(ingest sluice.ingest) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    deletes CONSTANT jsonb := coalesce(ingest.deletes, '{"listing": "1 day"}');
BEGIN
    IF NOT coalesce(CASE
        WHEN deletes ? 'field' THEN deletes - '{field,is}'::text[] = '{}' AND sluice.is_pointer(deletes ->> 'field')
            AND jsonb_typeof(coalesce(deletes -> 'is', '[]')) = 'array'
        WHEN deletes ? 'listing' THEN deletes - 'listing' = '{}' AND (deletes ->> 'listing')::interval >= interval '1 s'
        END, false)
    THEN
        RAISE EXCEPTION 'ingest %: deletes is %', ingest.name, deletes
            USING HINT = 'It is {"field": "/deleted"}, perhaps with "is": ["gone", "sold"], or {"listing": "24 hours"}.';
    END IF;
EXCEPTION
    WHEN invalid_datetime_format OR datetime_field_overflow THEN
        RAISE EXCEPTION 'ingest %: deletes has no time between two listings: %', ingest.name, deletes USING HINT = 'It looks like {"listing": "24 hours"}.';
END $$;

-- Defines a source of items, and the table that the ingest keeps in step with it; or changes it. What is changed of what is read
-- or stored has everything read anew. The same again changes nothing.
CREATE OR REPLACE FUNCTION sluice.define_ingest(
    name text, to_table text, key text DEFAULT NULL, newer text DEFAULT NULL, fields jsonb DEFAULT NULL, rules jsonb DEFAULT '{}', kind text DEFAULT 'http', url text DEFAULT NULL, options jsonb DEFAULT '{}',
    secret text DEFAULT NULL, marks jsonb DEFAULT '{}', deletes jsonb DEFAULT NULL, every interval DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    given record;
    wanted sluice.ingest;
    known sluice.ingest;
    app CONSTANT regrole := (SELECT r.app FROM sluice.roles AS r);
BEGIN
    IF coalesce(name !~ '^[a-z][a-z0-9_-]{0,99}$', true) THEN
        RAISE EXCEPTION 'an ingest cannot be named %', quote_nullable(name) USING HINT = 'Use lower-case letters, digits, _ and -, beginning with a letter, 100 at most.';
    END IF;
    IF coalesce(kind <> ALL ('{http,mongodb}'), true) THEN
        RAISE EXCEPTION 'ingest %: there is no kind %', name, quote_nullable(kind) USING HINT = 'There are http and mongodb.';
    END IF;
    IF kind = 'mongodb' THEN
        key := coalesce(key, 'id');
        newer := coalesce(newer, 'at');
        fields := coalesce(fields, jsonb_build_object('/_id', key, '', 'document'));
    END IF;
    FOR given IN SELECT * FROM (VALUES ('key', key), ('newer', newer)) AS g(what, value) WHERE g.value IS NULL LOOP
        RAISE EXCEPTION 'ingest %: % is missing', name, given.what
            USING HINT = 'key is the column by which an item is found again, newer the one that says how new it is: key => ''id'', newer => ''updated_at''.';
    END LOOP;
    -- Said without the URL, whose query may be secret.
    IF kind = 'http' AND url !~* '^https?://[^/?#@\s]+([/?#]\S*)?$' THEN
        RAISE EXCEPTION 'ingest %: its url is no URL that begins with http:// or https://, without credentials', name
            USING HINT = 'Credentials belong into a secret, as a header: secret => ''ARN''.';
    END IF;
    IF kind = 'http' AND url IS NULL AND secret IS NOT NULL THEN
        RAISE EXCEPTION 'ingest %: there is a secret, and no url that it is for', name
            USING HINT = 'Give the url, too; or neither, and set ORIGIN_URL and ORIGIN_SECRET_ARN where the ingest runs.';
    END IF;
    IF secret IS NOT NULL AND url ~* '^http:' AND url !~* '^http://(([a-z0-9-]+\.)*localhost|127(\.\d+){3}|\[::1\])(:\d+)?([/?#]|$)' THEN
        RAISE EXCEPTION 'ingest %: its url must begin with https:// where there is a secret: anybody on the way could read its header', name
            USING HINT = 'Give the https URL, or leave the secret out.';
    END IF;
    IF every < interval '1 s' THEN
        RAISE EXCEPTION 'ingest %: a round every % is too often', name, every USING HINT = 'Take a second or more.';
    END IF;
    FOR given IN SELECT * FROM (VALUES ('fields', fields), ('rules', rules), ('options', options), ('marks', marks)) AS g(what, value) LOOP
        IF coalesce(jsonb_typeof(given.value) <> 'object', true) THEN
            RAISE EXCEPTION 'ingest %: % is no JSON object', name, given.what
                USING HINT = 'fields look like {"/id": "id"}, rules like {"id": ["required"]}, options like {"items": "/data"}.';
        END IF;
    END LOOP;
    IF (SELECT count(*) FROM jsonb_object_keys(fields)) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'ingest %: it has % fields', name, (SELECT count(*) FROM jsonb_object_keys(fields)) USING HINT = 'There may be 1 to 200.';
    END IF;
    IF kind = 'mongodb' THEN
        PERFORM sluice.check_ingest_mongodb(name, url, secret, key, newer, fields, deletes);
        fields := sluice.ingest_fields(newer, fields);
        deletes := '{"field": "/gone"}';
    END IF;
    wanted := ROW(name, kind, url, secret, sluice.ingest_table(name, to_table), key, newer, fields, rules, options, marks, deletes, every);
    PERFORM sluice.check_ingest_table(wanted);
    PERFORM sluice.check_ingest_rules(wanted);
    PERFORM sluice.check_ingest_options(wanted);
    PERFORM sluice.check_ingest_deletes(wanted);
    PERFORM sluice.refuse_ungranted(format('%s may not let the functions write %s', current_user, wanted.relation), array_agg(g.statement))
    FROM (
        SELECT sluice.try_grant('SCHEMA', (SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = wanted.relation), 'USAGE', app)
        UNION ALL SELECT sluice.try_grant('TABLE', wanted.relation, p.privilege, app) FROM unnest('{SELECT,INSERT,UPDATE}'::text[] || CASE WHEN deletes IS NOT NULL THEN '{DELETE}'::text[] END) AS p(privilege)) AS g(statement);

    SELECT * INTO known FROM sluice.ingest AS i WHERE i.name = define_ingest.name FOR UPDATE;
    IF known IS NOT DISTINCT FROM wanted THEN
        RETURN;
    END IF;
    PERFORM sluice.check_ingest_alone(wanted, CASE known.kind WHEN 'mongodb' THEN known.relation END);
    DELETE FROM sluice.ingest AS i WHERE i.name = define_ingest.name;
    INSERT INTO sluice.ingest SELECT wanted.*;
    INSERT INTO sluice.ingest_position (source) VALUES (name) ON CONFLICT DO NOTHING;
    IF known.name IS NOT NULL AND (known.kind, known.relation, known.key, known.newer, known.fields, known.rules, known.options, known.deletes)
        IS DISTINCT FROM (wanted.kind, wanted.relation, wanted.key, wanted.newer, wanted.fields, wanted.rules, wanted.options, wanted.deletes)
    THEN
        PERFORM sluice.resync_ingest(name);
    END IF;
    IF (known.relation, known.key) IS DISTINCT FROM (wanted.relation, wanted.key) THEN
        -- It was about other rows.
        PERFORM sluice.forget_ingest(name);
    END IF;
END $$;

-- The table of this name; an error if there is none that takes rows and stays.
CREATE OR REPLACE FUNCTION sluice.ingest_table(ingest text, name text) RETURNS regclass
LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation regclass;
BEGIN
    IF name IS NULL OR cardinality(parse_ident(name)) <> 2 THEN
        RAISE EXCEPTION 'ingest %: the table % is named without its schema', ingest, quote_nullable(name) USING HINT = 'It looks like to_table => ''shop.products''.';
    END IF;
    relation := to_regclass(name);
    IF relation IS NULL THEN
        RAISE EXCEPTION 'ingest %: there is no table %', ingest, name USING ERRCODE = 'undefined_table', HINT = 'Create it first.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = relation AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't') THEN
        RAISE EXCEPTION 'ingest %: % is no table that stays', ingest, relation USING ERRCODE = 'wrong_object_type', HINT = 'Items are stored in a table.';
    END IF;
    RETURN relation;
END $$;

CREATE OR REPLACE FUNCTION sluice.check_ingest(name text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM sluice.ingest AS i WHERE i.name = check_ingest.name) THEN
        RAISE EXCEPTION 'there is no ingest %', name USING ERRCODE = 'undefined_object', HINT = 'SELECT name FROM sluice.ingest; has those that there are.';
    END IF;
END $$;

-- Ends it. The table stays as it is; what is known of the source goes, its rejects with it.
CREATE OR REPLACE FUNCTION sluice.drop_ingest(name text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.check_ingest(name);
    DELETE FROM sluice.ingest AS i WHERE i.name = drop_ingest.name;
    DELETE FROM sluice.ingest_position AS p WHERE p.source = drop_ingest.name;
    PERFORM sluice.forget_ingest(name);
    DELETE FROM sluice.ingest_stats AS s WHERE s.source = drop_ingest.name;
END $$;

-- Forgets what is known of the items of a source.
CREATE OR REPLACE FUNCTION sluice.forget_ingest(name text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.ingest_rejects AS r WHERE r.source = name;
    DELETE FROM sluice.ingest_deleted AS d WHERE d.source = name;
    DELETE FROM sluice.ingest_listed AS l WHERE l.source = name;
$$;

-- Has everything read anew, in the next round. What is as new as the stored row is stored again.
CREATE OR REPLACE FUNCTION sluice.resync_ingest(name text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.check_ingest(name);
    UPDATE sluice.ingest_position AS p
    SET since = NULL, etag = NULL, next = NULL, chain_newest = NULL, chain_pages = 0, is_anew = true, requested_at = clock_timestamp()
    WHERE p.source = resync_ingest.name;
END $$;

-- Each source, how far it was read, and how its last round ended.
CREATE OR REPLACE FUNCTION sluice.ingest_status()
RETURNS TABLE (source text, relation regclass, since timestamptz, last_run_at timestamptz, last_success_at timestamptz, last_counts jsonb,
    failures integer, last_error text, open_rejects bigint)
LANGUAGE sql STABLE AS $$
    SELECT i.name, i.relation, p.since, p.last_run_at, p.last_success_at, p.last_counts, p.failures, p.last_error,
        -- As many as are kept.
        (SELECT count(*) FROM (SELECT FROM sluice.ingest_rejects AS r WHERE r.source = i.name AND r.resolved_at IS NULL LIMIT 20000) AS counted)
    FROM sluice.ingest AS i
    LEFT JOIN sluice.ingest_position AS p ON p.source = i.name
    ORDER BY 1
$$;

-- What the ingest asks for before each round: every source with all that it needs, names quoted.
CREATE OR REPLACE FUNCTION sluice.ingests() RETURNS SETOF jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'name', i.name, 'kind', i.kind, 'url', i.url, 'secret', i.secret, 'every_s', extract(epoch FROM i.every), 'options', i.options,
        'deletes', CASE WHEN i.deletes ? 'field' THEN i.deletes END, 'listing_s', extract(epoch FROM (i.deletes ->> 'listing')::interval),
        'relation', i.relation::text, 'key', i.key, 'newer', i.newer,
        'status', quote_ident(i.marks ->> 'status'), 'message', quote_ident(i.marks ->> 'message'),
        'columns', (
            SELECT jsonb_agg(jsonb_build_object(
                'pointer', c.pointer, 'name', c.name, 'quoted', quote_ident(c.name), 'type', c.type, 'base', c.base,
                'limit', CASE WHEN c.base = 'varchar' AND c.modifier > 4 THEN c.modifier - 4 END, 'labels', c.labels,
                'is_required', c.is_required OR c.name = i.key, 'rules', c.rules))
            FROM sluice.ingest_columns(i.relation, i.fields, i.rules) AS c))
    FROM sluice.ingest AS i
    ORDER BY i.name
$$;

CREATE OR REPLACE FUNCTION sluice.count_ingest(source text, measures text[], counts bigint[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.ingest_stats AS s (source, measure, value)
    SELECT count_ingest.source, c.measure, c.value
    FROM unnest(measures, counts) AS c (measure, value)
    ORDER BY 2                                  -- all take their locks in one order
    ON CONFLICT (source, measure) DO UPDATE SET value = s.value + excluded.value
$$;

-- Deletes rejects that nobody has sent for thirty days, and the keys of what went so long ago; `most` of each at most, and says how many. The trigger calls it, too:
-- they go when a source is away, and when there is no ingest any more.
CREATE OR REPLACE FUNCTION sluice.forget_rejects(most integer DEFAULT 5000, now timestamptz DEFAULT clock_timestamp()) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    WITH forgotten AS (
        DELETE FROM sluice.ingest_rejects AS r
        WHERE r.id = ANY (ARRAY(
            SELECT o.id
            FROM sluice.ingest_rejects AS o
            WHERE o.last_at < now - interval '30 days'
            ORDER BY o.last_at
            LIMIT most
            FOR UPDATE SKIP LOCKED))
        RETURNING r.id),
    gone AS (
        DELETE FROM sluice.ingest_deleted AS d
        WHERE (d.source, d.key) IN (
            SELECT o.source, o.key
            FROM sluice.ingest_deleted AS o
            WHERE o.deleted_at < now - interval '30 days'
            ORDER BY o.deleted_at
            LIMIT most
            FOR UPDATE SKIP LOCKED)
        RETURNING d.key)
    SELECT (SELECT count(*) FROM forgotten) + (SELECT count(*) FROM gone)
$$;
