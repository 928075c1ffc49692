"""How the demo tells what it does: chapters, lines, and waiting until something is as it should be."""

import itertools
import time
from collections.abc import Callable

from clients import Failure

STALL_S = 90  # longer than the minute in which the trigger is woken, if it was not running
_chapters = [("make up", time.monotonic())]


def title(words: str) -> None:
    """A chapter."""
    _chapters.append((words, time.monotonic()))
    print(f"\n{words}", flush=True)


def line(subject: str, words: str) -> None:
    """A line of it."""
    print(f"  {subject:<27}{words}", flush=True)


def show_times() -> None:
    """The chapters, and how long each was."""
    title("What took how long")
    for (words, began), (_, ended) in itertools.pairwise(_chapters):
        print(f"  {ended - began:5.0f} s   {words}")
    print(f"  {_chapters[-1][1] - _chapters[0][1]:5.0f} s   in all")


def wait_for(what: str, wanted, look: Callable, pause_s: float = 0.1) -> None:
    """Looks until it sees what is wanted; a Failure where nothing moves any more."""
    last, moved = None, time.monotonic()
    while (seen := look()) != wanted:
        if seen != last:
            last, moved = seen, time.monotonic()
        elif time.monotonic() - moved > STALL_S:
            raise Failure(f"{what}: {wanted!r} was expected, and for {STALL_S} s it has been {seen!r}; see sluice.status() and make logs")
        time.sleep(pause_s)


def wait_for_each(what: str, wanted, looks: dict[str, Callable]) -> dict[str, float]:
    """Waits for the same in several places at once; after how many seconds each had it."""
    began, seen, took = time.monotonic(), {}, {}

    def look() -> dict:
        for place, one in looks.items():
            if place not in took:
                seen[place] = one()
                if seen[place] == wanted:
                    took[place] = time.monotonic() - began
        return dict(seen)

    wait_for(what, dict.fromkeys(looks, wanted), look, pause_s=0.02)
    return took
