"""The board of `examples/board`: a page whose client keeps in step with PostgreSQL, for stacks with LIVE=1."""

import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import npm
import process
import sluice
from layout import BOARD_PORT, Stack

NAME = "board"
PORTS = {"the board": BOARD_PORT}
SERVER = Path(__file__).with_name("board_server.py")
PAGE = ("index.html", "board.css")


def url(stack: Stack) -> str:
    """Where the page is."""
    return f"http://127.0.0.1:{stack.port(BOARD_PORT)}"


def start(stack: Stack) -> subprocess.Popen | None:
    """Makes the page what the sources say; starts its server unless it runs."""
    npm.build_board()
    page = folder(stack) / "page"
    page.mkdir(parents=True, exist_ok=True)
    for script in (npm.BOARD / "dist").glob("*.js"):
        shutil.copyfile(script, page / script.name)
    for name in PAGE:
        shutil.copyfile(npm.BOARD / name, page / name)
    index = page / "index.html"
    index.write_text(re.sub('(name="sync-url" content=)""', rf'\1"{sluice.sync_url(stack)}"', index.read_text()))
    if process.find(stack, NAME):
        return None
    command = [sys.executable, "-B", SERVER, stack.port(BOARD_PORT), page, sluice.sync_url(stack)]
    return process.start(stack, NAME, command, {}, folder(stack), log(stack))


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits until it answers."""
    process.wait_until(lambda: is_healthy(stack), NAME, launched, log(stack), 60)


def stop(stack: Stack) -> bool:
    """True if it ran."""
    return process.stop(stack, NAME)


def is_healthy(stack: Stack) -> bool:
    """True when the page can be had."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url(stack), timeout=5):
            return True
    except OSError:
        return False


def folder(stack: Stack) -> Path:
    """The page and the log."""
    return stack.folder / NAME


def log(stack: Stack) -> Path:
    """What was asked for."""
    return folder(stack) / "server.log"
