"""For those that are written in Python: an environment of their own."""

from pathlib import Path

import packages
from console import Failure, run
from layout import CACHE, lock
from peers import NotRun


def install(name: str, requirements: Path) -> Path:
    """The folder of its programs, made anew only when the requirements have changed."""
    venv = CACHE / "peers" / name

    def pip_install() -> None:
        command = [venv / "bin" / "python", "-m", "pip", "install", "--progress-bar=off", "-r", requirements]
        run(name, "installing it from PyPI", command, venv.with_suffix(".log"))

    try:
        packages.make_venv(venv)
        with lock(venv.parent, f"installing {name}"):
            packages.once("requirements", [requirements], pip_install, venv)
    except Failure as failure:
        raise NotRun(str(failure)) from failure
    return venv / "bin"
