"""The metrics that the functions print, read in their code."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PRINTED = re.compile(r'\.(count|gauge|times)\(\s*"([A-Z]\w+)"')
NAMELESS = re.compile(r"\bline\s*\.(?:count|gauge|times)\(\s*[^\s\"]")


def printed() -> dict[str, str]:
    """Each metric's kind: a `count`, of which zeros are left out; a `gauge`, which has them; `times`."""
    found = {}
    for folder in ("functions", "shared"):
        for file in sorted((REPOSITORY / folder).glob("*/src/**/*.rs")):
            code = file.read_text().partition("#[cfg(test)]")[0]
            if NAMELESS.search(code):
                raise ValueError(f"{file.relative_to(REPOSITORY)}: name each metric in its call, so that it can be found: line.count(\"Written\", …)")
            for kind, name in PRINTED.findall(code):
                if found.setdefault(name, kind) != kind:
                    raise ValueError(f"{name} is printed as a {found[name]} and as a {kind}")
    return found
