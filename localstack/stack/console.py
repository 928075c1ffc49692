"""What the command says: short lines on stderr, so that stdout stays free for `env`."""

import subprocess
import sys
import time
from pathlib import Path


class Failure(Exception):
    """An error that the reader can mend: it names the thing and the remedy, and needs no traceback."""


def say(subject: str, words: str) -> None:
    """One line of progress."""
    print(f"{subject:<15}{words}", file=sys.stderr, flush=True)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented, for the end of an error."""
    try:
        text = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return "".join(f"\n    {line[:300]}" for line in text)


def run(subject: str, words: str, command: list, log: Path, lines: int = 15, **popen) -> None:
    """Runs a command that takes its time: output to the log, a sign of life every 15 s, the log's end if it fails."""
    say(subject, words)
    began = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **popen)
        try:
            while True:
                try:
                    code = process.wait(15)
                    break
                except subprocess.TimeoutExpired:
                    say(subject, f"  … {time.monotonic() - began:.0f} s")
        except BaseException:
            process.terminate()
            raise
    if code:
        raise Failure(f"{subject}: `{Path(command[0]).name}` failed with status {code}; all of it is in {log}{tail(log, lines)}")
