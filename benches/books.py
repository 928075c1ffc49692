"""The table whose rows are brought into the index, and the index."""

# STORAGE EXTERNAL: documents of real life do not compress a hundredfold.
BOOKS = """
SET ROLE sluice_owner;
CREATE SCHEMA demo;
CREATE TABLE demo.author (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE demo.book (id bigint PRIMARY KEY, author bigint NOT NULL, title text NOT NULL, body text NOT NULL);
ALTER TABLE demo.book ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE VIEW demo.joined AS SELECT b.id, b.title, b.body, a.name AS author FROM demo.book AS b JOIN demo.author AS a ON a.id = b.author;
INSERT INTO demo.author SELECT a, 'Author ' || a FROM generate_series(1, 1000) AS a;
"""
MAPPING = '{"properties": {"id": {"type": "long"}, "title": {"type": "text"}, "body": {"type": "keyword", "index": false, "doc_values": false}}}'
ROWS = """
SET ROLE sluice_owner;
INSERT INTO demo.book SELECT b, 1 + b % 1000, 'Book ' || b, left(repeat(md5(b::text), {bytes} / 32 + 1), {bytes} - 60) FROM generate_series(1, {rows}) AS b;
"""
