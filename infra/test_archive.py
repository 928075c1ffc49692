"""What a function's zip is, and what is read in its binary. Needs nothing."""

import io
import unittest
import zipfile

from archive import architecture, needed_glibc, pack


class Archive(unittest.TestCase):
    def test_the_same_binary_gives_the_same_zip(self):
        self.assertEqual(pack(b"binary", level=9), pack(b"binary", level=9))

    def test_lambda_finds_a_program_in_it(self):
        entry, *others = zipfile.ZipFile(io.BytesIO(pack(b"binary", level=9))).infolist()
        self.assertEqual((entry.filename, others), ("bootstrap", []))
        self.assertEqual(entry.external_attr >> 16, 0o755)

    def test_the_machine_is_read_in_the_header(self):
        header = b"\x7fELF" + bytes(14)
        self.assertEqual(architecture(header + b"\xb7\0"), "arm64")
        self.assertEqual(architecture(header + b"\x3e\0"), "x86_64")
        self.assertIsNone(architecture(header + b"\x28\0"), "32 bits of ARM")
        self.assertIsNone(architecture(b"#!/bin/sh"))

    def test_the_newest_glibc_is_the_greatest_number(self):
        self.assertEqual(needed_glibc(b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0malloc\0"), (2, 34))
        self.assertEqual(needed_glibc(b"no names"), ())


if __name__ == "__main__":
    unittest.main()
