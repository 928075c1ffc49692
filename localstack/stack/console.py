"""What the command says: short lines on stderr, so that stdout stays free for `env`."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue


_BEGAN = time.monotonic()
_took: dict[str, float] = {}  # by subject, in seconds
_programs: set[subprocess.Popen] = set()  # that `run` waits for
_guard, _is_ending = threading.Lock(), False


class Failure(Exception):
    """An error that the reader can mend: it names the thing and the remedy, and needs no traceback."""


class Ended(Exception):
    """For a part of what is done together: another part failed, and the command ends."""


def say(subject: str, words: str) -> None:
    """One line of progress."""
    print(f"{subject:<14} {words}\n", end="", file=sys.stderr, flush=True)  # at once, since threads speak, too


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented, for the end of an error."""
    try:
        text = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return "".join(f"\n    {line[:300]}" for line in text)


@contextmanager
def timed(subject: str) -> Iterator[None]:
    """Notes how long something takes."""
    began = time.monotonic()
    try:
        yield
    finally:
        _took[subject] = _took.get(subject, 0) + time.monotonic() - began


def say_times() -> None:
    """A line for each thing that took a second or more. What ran at the same time is in several of them."""
    for subject, seconds in _took.items():
        if seconds >= 1:
            say("took", f"{seconds:5.0f} s   {subject}")
    say("took", f"{time.monotonic() - _BEGAN:5.0f} s   in all")


def together(*parts: Callable[[], object]) -> None:
    """Does the parts at the same time. The first that fails, or Ctrl-C, ends the programs that the others run, and the command."""
    ends: SimpleQueue[BaseException | None] = SimpleQueue()

    def work(part: Callable[[], object]) -> None:
        try:
            part()
            ends.put(None)
        except BaseException as error:
            ends.put(error)

    for part in parts:  # in daemons: a download that nobody needs any more ends with the command
        threading.Thread(target=work, args=(part,), daemon=True).start()
    try:
        for _ in parts:
            error = ends.get()
            if error and not isinstance(error, Ended):  # whose cause is still to come
                raise error
    except BaseException:
        _end_programs()
        raise


def _end_programs() -> None:
    """Ends all that `run` has started, and lets it start nothing more."""
    global _is_ending
    with _guard:
        _is_ending = True
        programs = list(_programs)
    for program in programs:
        _end(program)
    for program in programs:
        program.wait()


def _end(program: subprocess.Popen) -> None:
    """It and what it has started: rustc would go on without cargo."""
    if program.poll() is None:
        os.killpg(program.pid, signal.SIGTERM)


def run(subject: str, words: str, command: list, log: Path, lines: int = 15, every_s: int = 15, **popen) -> None:
    """Runs a command that takes its time: output to the log, a sign of life now and then, the log's end if it fails."""
    say(subject, words)
    began = time.monotonic()
    with log.open("w") as out:
        with _guard:
            if _is_ending:
                raise Ended
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, process_group=0, **popen)
            _programs.add(process)
        try:
            while True:
                try:
                    code = process.wait(every_s)
                    break
                except subprocess.TimeoutExpired:
                    say(subject, f"  … {time.monotonic() - began:.0f} s")
        except BaseException:
            _end(process)
            raise
        finally:
            _programs.discard(process)
    if code and _is_ending:
        raise Ended
    if code:
        raise Failure(f"{subject}: `{Path(command[0]).name}` failed with status {code}; all of it is in {log}{tail(log, lines)}")
