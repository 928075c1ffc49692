"""container/compose.yaml, as far as it can be read without Docker."""

import re
import unittest
from pathlib import Path

import prometheus_rule
import yaml
from variables import read_by_code

FILE = Path(__file__).parent / "container" / "compose.yaml"
PAGE = Path(__file__).parents[1] / "docs" / "anywhere.md"  # where `.env` is described
TEXT = FILE.read_text()
WHOLE = yaml.safe_load(TEXT)
SERVICES = WHOLE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("${SLUICE_IMAGE")}


class Compose(unittest.TestCase):
    def test_each_variable_of_ours_is_one_that_the_binary_knows(self):
        self.assertEqual(OURS.keys(), {"migrate", "sluice"})
        for name, service in OURS.items():
            with self.subTest(name):
                self.assertEqual(service["environment"].keys() - read_by_code(), set())

    def test_ours_may_write_nothing_and_have_time_to_end(self):
        for name, service in OURS.items():
            with self.subTest(name):
                self.assertTrue(service["read_only"])
                self.assertEqual(service["cap_drop"], ["ALL"])
        self.assertGreater(int(SERVICES["sluice"]["stop_grace_period"].removesuffix("s")), 30)

    def test_each_file_and_each_configuration_that_is_mounted_exists(self):
        for name, service in SERVICES.items():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                with self.subTest(name, source=source):
                    self.assertTrue((FILE.parent / source).is_file() if source.startswith(".") else source.startswith("/") or source in WHOLE["volumes"])
            self.assertLessEqual({config["source"] for config in service.get("configs", [])}, WHOLE["configs"].keys())

    def test_each_image_has_a_version(self):
        for name, service in SERVICES.items():
            with self.subTest(name):
                self.assertRegex(service["image"].removesuffix("}"), r":v?\d+(\.\d+)+$")

    def test_nothing_listens_beyond_this_machine(self):
        for name, service in SERVICES.items():
            for port in service.get("ports", []):
                with self.subTest(name, port=port):
                    self.assertRegex(port, r"^127\.0\.0\.1:\d+:\d+$")

    def test_each_variable_of_the_file_is_told_in_the_page(self):
        told = set(re.findall(r"[A-Z_]{2,}", PAGE.read_text()))
        self.assertLessEqual(set(re.findall(r"\$\{([A-Z_]+)", TEXT)), told)

    def test_prometheus_scrapes_sluice_under_the_name_that_the_rules_ask_for(self):
        scraped = yaml.safe_load(WHOLE["configs"]["prometheus"]["content"])["scrape_configs"]
        self.assertEqual([(one["job_name"], one["static_configs"]) for one in scraped], [("sluice", [{"targets": ["sluice:8080"]}])])
        self.assertIn('up{job="sluice"}', prometheus_rule.RULES.read_text())
        self.assertEqual(SERVICES["sluice"]["environment"]["HEALTH_ADDRESS"], "0.0.0.0:8080")


if __name__ == "__main__":
    unittest.main()
