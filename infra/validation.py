"""What `make validate` tells of the validate function's answers: progress, a table in the end, and what is left to do."""

import re
from collections.abc import Callable, Iterable

# Differences that somebody has to do something about, and in which states nobody has.
FAULTS = ("missing", "stale", "extra", "unreadable", "version_ahead", "untracked")
OPEN = ("confirmed", "repairing", "stuck")
REPAIRABLE = ("missing", "stale", "extra", "version_ahead")
# What is no fault of its own.
EXPLAINED = {
    "dead_lettered": "cannot be written: each has a dead letter with the reason, on the dashboard",
    "waiting": "wait for an index: make migrate",
}
NOTHING_TO_COMPARE = re.compile(r"\bemit\b|\bno index\b")  # a stream that is as it should be
HEAD = ("stream", "verdict", "compared", "in the index", "class", "state", "count", "keys")
NUMBERS = (2, 3, 6)  # columns of HEAD


class Progress:
    """Says a line of each stream that has moved since the answer before."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self.last: dict[str, tuple] = {}

    def tell(self, rows: Iterable[dict]) -> None:
        for row in rows:
            now = (row["state"], row["checked"], row["walked"], sum(one["count"] for one in row["classes"]), row["problem"])
            if self.last.get(row["stream"]) != now:
                self.last[row["stream"]] = now
                state, checked, walked, differences, problem = now
                waits = f", and waits: {problem}" if problem and state != "done" else ""
                self.say(f"{row['stream']}: {state}, {checked:,} compared, {walked:,} of the index, {differences:,} differences so far{waits}")


def table(rows: Iterable[dict]) -> str:
    """A line for each stream, class and state; a stream without differences has one, too."""
    lines = [HEAD]
    for row in rows:
        about = (row["stream"], row["verdict"] or "none yet", f"{row['checked']:,}", f"{row['walked']:,}")
        found = [(one["class"], one["state"], f"{one['count']:,}", _keys(one)) for one in row["classes"]] or [("",) * 4]
        lines += [(about if number == 0 else ("",) * 4) + one for number, one in enumerate(found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    aligned = (
        "  ".join(cell.rjust(width) if column in NUMBERS else cell.ljust(width) for column, (cell, width) in enumerate(zip(line, widths))) for line in lines
    )
    return "\n".join(line.rstrip() for line in aligned)


def _keys(one: dict) -> str:
    """What an application wrote may hold anything, and a terminal obeys some of it."""
    keys = [key if key.isprintable() else ascii(key) for key in one["keys"]]
    return ", ".join(keys + ["…"] * (one["count"] > len(keys)))


def notes(rows: Iterable[dict]) -> list[str]:
    """Sentences about what is no fault."""
    found = []
    for row in rows:
        if row["printed_differently"]:
            found.append(f"{row['stream']}: {row['printed_differently']:,} documents are written in another way in the index, and say the same")
        found += [f"{row['stream']}: {count:,} {EXPLAINED[name]}" for name, count in _counts(row, tuple(EXPLAINED)).items()]
        if row["repaired"]:
            found.append(f"{row['stream']}: {row['repaired']:,} are repaired")
        would = _counts(row, REPAIRABLE, ("confirmed",))
        if row["repair"] and row["dry_run"] and would:
            found.append(f"{row['stream']}: would be repaired: {_listed(would)}. DRY_RUN=1, so nothing was written")
        if row["verdict"] == "not compared" and not _is_left_open(row):
            found.append(f"{row['stream']}: {row['problem'] or 'there is nothing to compare'}")
    return found


def faults(rows: Iterable[dict]) -> list[str]:
    """Sentences about what somebody has to do something about."""
    found = []
    for row in rows:
        if _is_left_open(row):
            found.append(f"{row['stream']} was not compared: {row['problem']}")
        if differ := _counts(row, FAULTS, OPEN):
            found.append(f"{row['stream']} differs from its source: {_listed(differ)}")
            found += [f"{row['stream']}: {row['problem']}"] if row["problem"] else []
    return found


def _is_left_open(row: dict) -> bool:
    return row["verdict"] == "not compared" and bool(row["problem"]) and not NOTHING_TO_COMPARE.search(row["problem"])


def _counts(row: dict, classes: tuple[str, ...], states: tuple[str, ...] | None = None) -> dict[str, int]:
    """How many of each of these classes, in any of these states."""
    found: dict[str, int] = {}
    for one in row["classes"]:
        if one["class"] in classes and (states is None or one["state"] in states):
            found[one["class"]] = found.get(one["class"], 0) + one["count"]
    return found


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
