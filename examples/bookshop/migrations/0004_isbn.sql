-- A new field: the column, the view, the mapping, in this order. The next `make migrate` adds the field to the index in
-- place and reads every book again; until then documents go on without it.

ALTER TABLE shop.books ADD COLUMN isbn text;

CREATE OR REPLACE VIEW shop.book_documents AS
SELECT b.id, b.title, b.published,
    ARRAY(
        SELECT a.name
        FROM shop.authorship AS w
        JOIN shop.authors AS a ON a.id = w.author_id
        WHERE w.book_id = b.id
        ORDER BY a.name) AS authors,
    b.isbn
FROM shop.books AS b;

SELECT sluice.define_stream('books', source => 'shop.book_documents', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "long"},
        "title": {"type": "text"},
        "published": {"type": "date"},
        "authors": {"type": "text", "fields": {"exact": {"type": "keyword"}}},
        "isbn": {"type": "keyword"}
    }}');
SELECT sluice.track('shop.books', stream => 'books', key => 'id', columns => '{title, published, isbn}');
