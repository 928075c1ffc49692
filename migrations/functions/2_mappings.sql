-- Mappings, the body of Elasticsearch's `mappings`: which fields a document has by them, and what cannot work.

-- Every field of a mapping by its path: those of objects, and each further way in which a field is indexed (`is_way`), too. `top` is the one of the
-- mapping's properties that it is in, `dynamic` what an object does with a field that the mapping does not have.
CREATE OR REPLACE FUNCTION sluice.mapped_fields(mapping jsonb)
RETURNS TABLE (path text, top text, field jsonb, type text, is_way boolean, dynamic text)
LANGUAGE sql IMMUTABLE AS $$
    WITH RECURSIVE found AS (
        SELECT NULL::text AS path, NULL::text AS top, mapping AS field, false AS is_way, 'strict' AS dynamic
        UNION ALL
        SELECT concat_ws('.', f.path, p.key), coalesce(f.top, p.key), p.value, f.is_way OR m.is_way, coalesce(p.value ->> 'dynamic', f.dynamic)
        FROM found AS f
        CROSS JOIN LATERAL (VALUES (f.field -> 'properties', false), (f.field -> 'fields', true)) AS m(members, is_way)
        CROSS JOIN LATERAL jsonb_each(CASE jsonb_typeof(m.members) WHEN 'object' THEN m.members END) AS p
    )
    SELECT f.path, f.top, f.field, coalesce(f.field ->> 'type', 'object'), f.is_way, f.dynamic FROM found AS f WHERE f.path IS NOT NULL
$$;

-- What is copied where: the path of the field, and that of the one to which Elasticsearch adds what the document has in it.
CREATE OR REPLACE FUNCTION sluice.copied_fields(mapping jsonb) RETURNS TABLE (path text, copy_to text)
LANGUAGE sql IMMUTABLE AS $$
    SELECT f.path, c.copy_to
    FROM sluice.mapped_fields(mapping) AS f
    CROSS JOIN LATERAL jsonb_array_elements_text(
        CASE jsonb_typeof(f.field -> 'copy_to') WHEN 'array' THEN f.field -> 'copy_to' WHEN 'string' THEN jsonb_build_array(f.field -> 'copy_to') END) AS c(copy_to)
$$;

-- The fields that documents have by a mapping, each a column of the source. An alias is none, and neither is a field that has no column and all of which
-- is aliases, or is filled by `copy_to`.
CREATE OR REPLACE FUNCTION sluice.document_fields(mapping jsonb, relation regclass) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT ARRAY(
        SELECT p.key
        FROM jsonb_each(mapping -> 'properties') AS p
        WHERE p.value ->> 'type' IS DISTINCT FROM 'alias' AND (
            EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = p.key AND a.attnum > 0 AND NOT a.attisdropped)
            OR EXISTS (
                SELECT FROM sluice.mapped_fields(mapping) AS f
                WHERE f.top = p.key AND NOT f.is_way AND f.type <> 'alias' AND coalesce(f.field -> 'properties', '{}') = '{}'
                  AND NOT EXISTS (SELECT FROM sluice.copied_fields(mapping) AS c WHERE c.copy_to = f.path))))
$$;

-- Why no document could be written to an index, or nothing be found by a field of it, though Elasticsearch may make it; `remedy`: what to do. NULL: nothing is in the way.
CREATE OR REPLACE FUNCTION sluice.mapping_problem(mapping jsonb, settings jsonb, OUT problem text, OUT remedy text)
LANGUAGE sql IMMUTABLE AS $$
    WITH field AS MATERIALIZED (SELECT * FROM sluice.mapped_fields(mapping))
    SELECT 'its mapping asks for a routing, and documents have none', 'Leave _routing out.'
    WHERE mapping #>> '{_routing,required}' = 'true'
    UNION ALL
    SELECT format('an index of the mode %s takes no document again', m.mode), 'Leave index.mode out.'
    FROM (SELECT coalesce(settings #>> '{index,mode}', settings ->> 'index.mode', settings ->> 'mode')) AS m(mode)
    WHERE m.mode IN ('time_series', 'logsdb')
    UNION ALL
    SELECT format('its field %s is a join, whose children need a routing, and documents have none', f.path),
        'Put the children into the document, as a nested field, or define a stream of each.'
    FROM field AS f WHERE f.type = 'join'
    UNION ALL
    SELECT format('its field %s is an alias of %s, which is no field of the mapping that has values', f.path, coalesce(f.field ->> 'path', 'nothing')),
        'Name the field by its whole path, as in {"type": "alias", "path": "owner.name"}.'
    FROM field AS f
    WHERE f.type = 'alias' AND NOT EXISTS (SELECT FROM field AS o WHERE o.path = f.field ->> 'path' AND o.type NOT IN ('alias', 'object', 'nested'))
    UNION ALL
    SELECT format('its field %s is copied to %s, %s', c.path, c.copy_to, CASE WHEN o.type = 'alias' THEN 'an alias, to which nothing is written' ELSE 'which is no field of the mapping' END),
        'Add a field of that name to the properties; it needs no column.'
    FROM sluice.copied_fields(mapping) AS c
    LEFT JOIN field AS o ON o.path = c.copy_to
    WHERE o.type = 'alias' OR o.path IS NULL AND coalesce((
        SELECT f.dynamic FROM field AS f WHERE starts_with(c.copy_to, f.path || '.') ORDER BY length(f.path) DESC LIMIT 1), 'strict') IN ('strict', 'false')
    LIMIT 1
$$;
