"""What the demo finds where the places differ. Needs no server."""

import unittest
from decimal import Decimal

from studio import SUMS, _facts, differences

SOURCE = {"studio_nfts": (2, Decimal("0.300000000000000001")), "studio_users": (3, Decimal())}


class Differences(unittest.TestCase):
    def test_places_that_agree_have_none(self):
        digits = {"studio_nfts": (2, Decimal("0.3000000000000000010")), "studio_users": (3, Decimal(0))}
        self.assertEqual(differences({"PostgreSQL": SOURCE, "Kafka": digits}), [])

    def test_a_count_or_a_digit_that_differs_is_told_with_its_place(self):
        found = {
            "PostgreSQL": SOURCE,
            "ClickHouse": SOURCE | {"studio_nfts": (2, Decimal("0.3"))},
            "Kafka": SOURCE | {"studio_users": (2, Decimal())},
        }
        told = differences(found)
        self.assertEqual(len(told), 2)
        self.assertRegex(told[0], "studio_nfts: .*0.300000000000000001.* ClickHouse has 2 with 0.3")
        self.assertRegex(told[1], "studio_users: PostgreSQL has 3 .* Kafka has 2")

    def test_documents_are_counted_and_added_up_to_the_last_digit(self):
        field = SUMS["studio_nfts"]
        self.assertEqual(_facts("studio_nfts", [{field: Decimal("0.1")}, {field: Decimal("0.200000000000000001")}]), SOURCE["studio_nfts"])
        self.assertEqual(_facts("studio_users", [{}, {}, {}]), SOURCE["studio_users"])


if __name__ == "__main__":
    unittest.main()
