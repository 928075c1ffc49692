"""The units of systemd, as far as they can be read without it. `.ci/run` has systemd-analyze look them over, too."""

import re
import unittest
from pathlib import Path

from variables import read_by_code

FOLDER = Path(__file__).with_name("systemd")
UNITS = {file.name: file.read_text() for file in FOLDER.glob("*.service")}


class Units(unittest.TestCase):
    def test_each_variable_is_one_that_the_binary_knows(self):
        for name, text in UNITS.items():
            with self.subTest(name):
                self.assertEqual(set(re.findall(r"^Environment=(\w+)=", text, re.M)) - read_by_code(), set())

    def test_each_credential_that_is_loaded_is_read(self):
        for name, text in UNITS.items():
            with self.subTest(name):
                loaded = re.findall(r"^LoadCredential=([\w-]+):", text, re.M)
                self.assertTrue(loaded)
                self.assertEqual(sorted(loaded), sorted(re.findall(r"^Environment=\w+_SECRET_FILE=%d/([\w-]+)$", text, re.M)))

    def test_the_owners_login_is_the_migrations_alone(self):
        self.assertEqual([name for name, text in UNITS.items() if "database-owner" in text], ["sluice-migrate.service"])


if __name__ == "__main__":
    unittest.main()
