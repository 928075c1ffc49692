"""Tables of a page that a program writes. In the page each stands below a line `<!-- NAME -->`, up to the next blank line."""

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown; all columns but the first are numbers where their first row begins with a digit or `$`."""
    marks = ["---:" if position and rows[0][position].lstrip("< ")[:1] in "$0123456789" else "---" for position in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, marks, *rows])


def main(program: str, page: Path, blocks: dict[str, str]) -> None:
    """`--write` puts the blocks into the page; `--check` fails where the page has others."""
    found = page.read_text()
    wanted = found
    for name, block in blocks.items():
        mark = f"<!-- {name} -->\n"
        if found.count(mark) != 1:
            sys.exit(f"{program}: {page.relative_to(REPOSITORY)} needs one line `{mark.strip()}`")
        wanted = re.sub(re.escape(mark) + r"(?:.+\n)*", lambda _: f"{mark}{block}\n", wanted)
    if "--write" in sys.argv:
        page.write_text(wanted)
    elif wanted != found:
        sys.exit(f"{program}: {page.relative_to(REPOSITORY)} is not what the program says; write it anew: {program} --write")
    print(f"{page.relative_to(REPOSITORY)}: {len(blocks)} tables are what {program} says")
