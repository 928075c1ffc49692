-- A stream may read a table itself. With a key of two columns the _id is their JSON array: ["7", "Leipzig"].

SELECT sluice.define_stream('stock', source => 'shop.stock', key => 'book_id, warehouse',
    mapping => '{"properties": {
        "book_id": {"type": "long"},
        "warehouse": {"type": "keyword"},
        "copies": {"type": "integer"},
        "price": {"type": "double"}
    }}');
SELECT sluice.track('shop.stock', stream => 'stock', key => 'book_id, warehouse');
SELECT sluice.resync('stock');
