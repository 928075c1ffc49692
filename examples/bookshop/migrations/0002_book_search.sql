-- Search for books by title and author. A document is a row of this view; its fields are those of the mapping.

CREATE OR REPLACE VIEW shop.book_documents AS
SELECT b.id, b.title, b.published,
    ARRAY(
        SELECT a.name
        FROM shop.authorship AS w
        JOIN shop.authors AS a ON a.id = w.author_id
        WHERE w.book_id = b.id
        ORDER BY a.name) AS authors
FROM shop.books AS b;

SELECT sluice.define_stream('books', source => 'shop.book_documents', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "long"},
        "title": {"type": "text"},
        "published": {"type": "date"},
        "authors": {"type": "text", "fields": {"exact": {"type": "keyword"}}}
    }}');

-- Each table that the view reads. `key`: the columns that are the document's key, or a foreign key to it.
SELECT sluice.track('shop.books', stream => 'books', key => 'id', columns => '{title, published}');
SELECT sluice.track('shop.authorship', stream => 'books', key => 'book_id');
-- `affects`: the documents that show a row of this table, $1. Asked when the change is delivered, not when it is made.
SELECT sluice.track('shop.authors', stream => 'books', columns => '{name}',
    affects => 'SELECT book_id FROM shop.authorship WHERE author_id = $1.id');

-- Books that were there before. They are read in the background, beside all other changes.
SELECT sluice.resync('books');
