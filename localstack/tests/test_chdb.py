"""The HTTP interface that chDB gets, in a stack of its own. By hand, since it is large: make fetch TARGETS=chdb."""

import socket
import sys
import unittest
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stack"))

import chdb  # noqa: E402
import commands  # noqa: E402
from choices import made, targets  # noqa: E402
from layout import Stack  # noqa: E402

NAME = "test-chdb"
INSERT = {"query": "INSERT INTO rows FORMAT JSONEachRow"}
# As ClickHouse compresses them: a row with the key 3, and the answer `3`.
ROW = bytes.fromhex("6c7b3de5cb4d595c730f64122d1a7c4882150000000b000000b07b226b6579223a20337d0a")
ANSWER = bytes.fromhex("d4c3bb818d1dc75f885f146cadcb8cbd820c0000000200000020330a")


class Chdb(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        commands.clean({"STACK": NAME})
        cls.addClassCleanup(commands.clean, {"STACK": NAME})
        with made({"STACK": NAME, "TARGETS": "chdb"}) as stack:
            commands.start_servers(stack, targets(stack))

    def setUp(self) -> None:
        self.must("DROP TABLE IF EXISTS rows")
        self.must("CREATE TABLE rows (key UInt64, at DateTime64(6)) ENGINE = MergeTree ORDER BY key")

    def call(self, parameters: dict[str, str], body=b"", **headers: str) -> tuple[int, bytes, str | None]:
        """Status, answer and the code of the exception; the body in chunks, if it is a list."""
        connection = HTTPConnection("127.0.0.1", Stack(NAME).port(chdb.CHDB_PORT), timeout=60)
        headers = {"X-ClickHouse-User": "sluice", "X-ClickHouse-Key": Stack(NAME).password("chdb")} | headers
        connection.request("POST", "/?" + urlencode(parameters), body, headers, encode_chunked=isinstance(body, list))
        answer = connection.getresponse()
        with closing(connection):
            return answer.status, answer.read(), answer.headers["X-ClickHouse-Exception-Code"]

    def must(self, statement: str, **parameters: str) -> bytes:
        """The answer of a statement that succeeds."""
        status, answer, _ = self.call(parameters, statement.encode())
        self.assertEqual(status, 200, answer)
        return answer

    def test_rows_arrive_in_one_piece_in_chunks_and_compressed(self) -> None:
        for parameters, body in ((INSERT, b'{"key": 1}'), (INSERT, [b'{"key"', b": 2}\n"]), (INSERT | {"decompress": "1"}, ROW), (INSERT, b"")):
            self.assertEqual(self.call(parameters, body), (200, b"", None))
        self.assertEqual(self.must("SELECT key FROM rows ORDER BY key"), b"1\n2\n3\n")
        self.assertEqual(self.must("SELECT count() FROM rows", compress="1"), ANSWER)

    def test_a_row_that_cannot_be_read_stores_none(self) -> None:
        status, answer, code = self.call(INSERT, b'{"key": 1}\n{"key": "one"}\n')
        self.assertEqual((status, code), (400, "27"))
        self.assertTrue(answer.startswith(b"Code: 27. DB::Exception: "), answer)
        self.assertEqual(self.must("SELECT count() FROM rows"), b"0\n")

    def test_binary_rows_may_have_any_byte(self) -> None:
        row = b";\n\0'\\\xff\xfe\n" + bytes(8)
        self.assertEqual(self.call({"query": "INSERT INTO rows SETTINGS max_threads = '1' FORMAT RowBinary"}, row), (200, b"", None))
        self.assertEqual(self.must("SELECT * FROM rows", default_format="RowBinary"), row)

    def test_a_body_that_breaks_off_is_not_executed(self) -> None:
        with socket.create_connection(("127.0.0.1", Stack(NAME).port(chdb.CHDB_PORT))) as connection:
            login = f"X-ClickHouse-User: sluice\r\nX-ClickHouse-Key: {Stack(NAME).password('chdb')}"
            connection.sendall(f"POST /?{urlencode(INSERT)} HTTP/1.1\r\nHost: x\r\n{login}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            connection.sendall(b'a\r\n{"key": 9}\r\n')
            connection.shutdown(socket.SHUT_WR)
            self.assertEqual(connection.recv(1), b"")
        self.assertEqual(self.must("SELECT count() FROM rows"), b"0\n")

    def test_settings_and_the_database_are_of_one_request(self) -> None:
        read = "SELECT getSetting('max_block_size'), currentDatabase()"
        usual = self.must(read)
        self.assertEqual(self.must(read, max_block_size="7", database="system"), b"7\tsystem\n")
        self.assertEqual(self.must(read), usual)
        self.assertEqual(self.must("SELECT {what:String}", param_what="one, two"), b"one, two\n")

    def test_errors_have_the_status_that_clickhouse_gives_them(self) -> None:
        cases = {"SELEC": (400, "62"), "SELECT * FROM nowhere": (404, "60"), "SELECT throwIf(1)": (500, "395")}
        for statement, expected in cases.items():
            status, _, code = self.call({}, statement.encode())
            self.assertEqual((status, code), expected, statement)
        self.assertEqual(self.call({"no_such_setting": "1"}, b"SELECT 1")[::2], (404, "115"))
        self.assertEqual(self.call(INSERT, ROW, **{"Content-Encoding": "gzip"})[::2], (400, "36"))
        self.assertEqual(self.call({}, b"SELECT 1", **{"X-ClickHouse-Key": "wrong"})[::2], (403, "516"))


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # the server outlives the test that has started it
