"""A Lambda function in Python whose BatchProcessor writes a record at a time, behind the hand-written trigger."""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from console import Failure, run
from layout import CACHE
from peers import NotRun, Running, golang
from world import World

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
VERSION = re.search(r"^aws-lambda-powertools==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)[1]
BOOTSTRAP = HERE / "bootstrap"


@cache
def install() -> Path:
    """The Python of an environment with what is pinned."""
    folder = CACHE / "peers" / "powertools"
    python, made = folder / "bin" / "python", folder / "made-of"
    wanted = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    if made.exists() and made.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    try:
        run("powertools", "making an environment", [sys.executable, "-m", "venv", folder], log)
        command = [python, "-m", "pip", "install", "--progress-bar=off", "--no-deps", "-r", REQUIREMENTS]
        run("powertools", f"installing {VERSION} from PyPI", command, log)
    except Failure as failure:
        raise NotRun(str(failure)) from failure
    made.write_text(wanted)
    return python


@contextmanager
def functions(world: World) -> Iterator[Running]:
    """As the indexers."""
    with golang.functions(world, BOOTSTRAP, PYTHON=str(install())) as running:
        yield running
