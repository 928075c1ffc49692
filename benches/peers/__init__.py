"""Others that bring the same table into the same Elasticsearch, each configured as its own documentation advises."""

from dataclasses import dataclass


class NotRun(Exception):
    """A contestant that could not be run, or did not come to its end: the words say why."""


@dataclass
class Running:
    """A contestant at work."""

    index: str
    """Where its documents arrive."""
    pids: list[int]
    """All of its own processes."""
