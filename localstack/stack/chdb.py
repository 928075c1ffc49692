"""The ClickHouse of today, as the library chDB behind a small HTTP server, which is `chdb_server.py`."""

import subprocess
from pathlib import Path

import packages
import process
from clickhouse import answers, http_url
from console import run
from layout import CACHE, CHDB_PORT, Stack, lock

NAME = "chdb"
PORTS = {"chDB": CHDB_PORT}
HERE = Path(__file__).parent
VENV = CACHE / "chdb-venv"


def install(stack: Stack) -> Path:
    """The Python that has the library, in an environment of its own."""
    python, requirements = packages.make_venv(VENV), HERE / "chdb.txt"
    command = [python, "-m", "pip", "install", "--no-cache-dir", "--progress-bar=off", "--no-deps", "--require-hashes", "-r", requirements]
    with lock(VENV, "installing chDB"):
        packages.once(NAME, [requirements], lambda: run(NAME, "installing it from PyPI (180 MB, unpacked 570 MB)", command, CACHE / "pip-chdb.log"), VENV)
    return python


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the server unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    folder = stack.folder / NAME
    folder.mkdir(exist_ok=True)
    # Isolated: this folder has a `chdb`, too. As whoever starts it, since the environment may be in a home that is closed to others.
    command = [install(stack), "-I", "-B", HERE / "chdb_server.py", str(stack.port(CHDB_PORT)), folder]
    return process.start(stack, NAME, command, {"HOME": str(folder), "CHDB_PASSWORD": stack.password(NAME)}, folder, log(stack))


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits for health."""
    process.wait_until(lambda: is_healthy(stack), "chDB", launched, log(stack), 120)


def stop(stack: Stack) -> bool:
    """Ends statements that are under way, too."""
    return process.stop(stack, NAME)


def is_healthy(stack: Stack) -> bool:
    """True when it answers its user."""
    return answers(client_env(stack)["CHDB_URL"])


def log(stack: Stack) -> Path:
    """The server's log."""
    return stack.folder / NAME / "server.log"


def client_env(stack: Stack) -> dict[str, str]:
    """What its clients have to know."""
    return {"CHDB_URL": http_url(stack, NAME, CHDB_PORT)}
