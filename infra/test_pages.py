"""The commands that the pages have people type: each parses, and begins with a program. Needs bash."""

import re
import subprocess
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/**/*.md"), *REPOSITORY.glob("benches/*.md")]
PROGRAMS = {
    "aws", "admin", "cargo", "createdb", "cd", "curl", "docker", "done", "echo", "eval", "export", "for", "git", "jq", "kubectl", "log", "make", "node", "openssl", "output", "pg_dump",
    "pg_restore", "promtool", "psql", "skopeo", "sleep", "sluice", "sudo", "python3", "tee",
}  # fmt: skip


def commands(block: str) -> list[str]:
    """The lines of a block that begin a command; what a line or a quoted text goes on with is not one."""
    block = re.sub(r"<<'(\w+)'\n.*?\n\1$", "", block, flags=re.S | re.M)
    block = re.sub(r"\\\n", " ", block)
    block = re.sub(r"'[^']*'", "''", block)
    block = re.sub(r'"[^"]*"', '""', block)
    block = re.sub(r"\s#.*$", "", block, flags=re.M)
    return [line.strip() for line in block.splitlines() if line.strip() and not line.lstrip().startswith("#")]


class Pages(unittest.TestCase):
    def test_each_command_parses_and_begins_with_a_program(self):
        seen = 0
        for page in PAGES:
            for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.S | re.M):
                with self.subTest(page.name, block=block):
                    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
                    self.assertEqual(done.stderr, "")
                    for line in commands(block):
                        seen += 1
                        line = re.sub(r"^\w+=(\$\(.*|\S+\s*)", "", line)
                        word = line.split(maxsplit=1)[0] if line else "="
                        self.assertTrue(word in PROGRAMS or word in ("=", '""') or re.match(r"\w+\(\)", word), f"{word} is no program")
        self.assertGreater(seen, 50)


if __name__ == "__main__":
    unittest.main()
