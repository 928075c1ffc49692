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
    "waiting": "wait for an index, or a table: make migrate",
}
NOTHING_TO_COMPARE = re.compile(r"\bemit\b|\bno (index|table) yet\b")  # a stream that is as it should be
HEAD = ("stream", "target", "verdict", "compared", "in the target", "class", "state", "count", "keys")
NUMBERS = (3, 4, 7)  # columns of HEAD


class Progress:
    """Says a line of each stream that has moved since the answer before."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self.last: dict[tuple[str, str], tuple] = {}

    def tell(self, rows: Iterable[dict]) -> None:
        for row in rows:
            now = (row["state"], row["checked"], row["walked"], sum(one["count"] for one in row["classes"]), row["problem"])
            which = (row["stream"], row["subscription"])
            if self.last.get(which) != now:
                self.last[which] = now
                state, checked, walked, differences, problem = now
                waits = f", and waits: {problem}" if problem and state != "done" else ""
                self.say(f"{_name(row)}: {state}, {checked:,} compared, {walked:,} of the target, {differences:,} differences so far{waits}")


def table(rows: Iterable[dict]) -> str:
    """A line for each stream, target, class and state; a stream without differences has one, too."""
    lines = [HEAD]
    for row in rows:
        about = (row["stream"], row["subscription"], row["verdict"] or "none yet", f"{row['checked']:,}", f"{row['walked']:,}")
        found = [(one["class"], one["state"], f"{one['count']:,}", _keys(one)) for one in row["classes"]] or [("",) * 4]
        lines += [(about if number == 0 else ("",) * 5) + one for number, one in enumerate(found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    aligned = (
        "  ".join(cell.rjust(width) if column in NUMBERS else cell.ljust(width) for column, (cell, width) in enumerate(zip(line, widths))) for line in lines
    )
    return "\n".join(line.rstrip() for line in aligned)


def _name(row: dict) -> str:
    """Elasticsearch goes without saying."""
    return row["stream"] if row["subscription"] == "elasticsearch" else f"{row['stream']} in {row['subscription']}"


def _keys(one: dict) -> str:
    """What an application wrote may hold anything, and a terminal obeys some of it."""
    keys = [key if key.isprintable() else ascii(key) for key in one["keys"]]
    return ", ".join(keys + ["…"] * (one["count"] > len(keys)))


def notes(rows: Iterable[dict]) -> list[str]:
    """Sentences about what is no fault."""
    found = []
    for row in rows:
        if row["printed_differently"]:
            found.append(f"{_name(row)}: {row['printed_differently']:,} documents are written in another way in the index, and say the same")
        found += [f"{_name(row)}: {count:,} {EXPLAINED[name]}" for name, count in _counts(row, tuple(EXPLAINED)).items()]
        if row["repaired"]:
            found.append(f"{_name(row)}: {row['repaired']:,} are repaired")
        would = _counts(row, REPAIRABLE, ("confirmed",))
        if row["repair"] and row["dry_run"] and would:
            found.append(f"{_name(row)}: would be repaired: {_listed(would)}. DRY_RUN=1, so nothing was written")
        if row["verdict"] == "not compared" and not _is_left_open(row):
            found.append(f"{_name(row)}: {row['problem'] or 'there is nothing to compare'}")
    return found


def faults(rows: Iterable[dict]) -> list[str]:
    """Sentences about what somebody has to do something about."""
    found = []
    for row in rows:
        if _is_left_open(row):
            found.append(f"{_name(row)} was not compared: {row['problem']}")
        if differ := _counts(row, FAULTS, OPEN):
            found.append(f"{_name(row)} differs from its source: {_listed(differ)}")
            found += [f"{_name(row)}: {row['problem']}"] if row["problem"] else []
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
