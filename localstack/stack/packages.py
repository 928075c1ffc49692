"""The Python environment: LocalStack with the project's executor, boto3 for the deploy, cfn-lint for the template."""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from console import run, timed
from layout import CACHE, REPOSITORY, lock

VENV = CACHE / "venv"
PYTHON = VENV / "bin" / "python"
VALIDATOR = Path(__file__).with_name("kubernetes-validate.txt")
EXECUTOR = REPOSITORY / "localstack" / "executor"


def make_venv(venv: Path = VENV) -> Path:
    """An environment with pip, and nothing else yet. Who only wants pip waits for no installation: that has another lock."""
    with lock(CACHE / "pip", "making a Python environment"):
        made, version = venv / "made-by", sys.version
        if not made.exists() or made.read_text() != version:
            shutil.rmtree(venv, ignore_errors=True)  # half of one, or another Python's
            run("packages", "making a Python environment", [sys.executable, "-m", "venv", venv], CACHE / "venv.log")
            made.write_text(version)
    return venv / "bin" / "python"


@timed("packages")
def install() -> Path:
    """All of it. What was installed is known by a hash, so that the second time costs nothing."""
    make_venv()
    with lock(CACHE, "the Python environment"):
        requirements = EXECUTOR / "requirements.txt"
        once("requirements", [requirements], lambda: _install_requirements(requirements))
        once("executor", [EXECUTOR / "pyproject.toml", *sorted(EXECUTOR.rglob("*.py"))], _install_executor)
    return PYTHON


def install_for_tests() -> None:
    """What tests alone need."""
    with lock(CACHE, "the Python environment"):
        once("kubernetes-validate", [VALIDATOR], _install_validator)


def once(name: str, sources: list[Path], install_it, venv: Path = VENV) -> None:
    """Installs a part of an environment, unless it was installed from the same sources."""
    stamp, digest = venv / f"{name}.sha256", hashlib.sha256(b"\0".join(file.read_bytes() for file in sources)).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        install_it()
        stamp.write_text(digest)


def _install_requirements(requirements: Path) -> None:
    # The file is the whole set: nothing is resolved, so nothing can change by itself.
    command = [PYTHON, "-m", "pip", "install", "--progress-bar=off", "--no-deps", "--require-hashes", "-r", requirements]
    run("packages", "installing LocalStack, boto3 and cfn-lint from PyPI (2 to 5 minutes, 500 MB)", command, CACHE / "pip.log")
    (VENV / "executor.sha256").unlink(missing_ok=True)


def _install_validator() -> None:
    command = [PYTHON, "-m", "pip", "install", "--progress-bar=off", "--no-deps", "--require-hashes", "-r", VALIDATOR]
    run("packages", "installing Kubernetes' schemas from PyPI (23 MB)", command, CACHE / "pip-kubernetes-validate.log")


def _install_executor() -> None:
    with tempfile.TemporaryDirectory() as scratch:  # pip builds in the source's folder, which is the work tree
        copy = shutil.copytree(EXECUTOR, Path(scratch) / "executor")
        command = [PYTHON, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--force-reinstall", copy]
        run("packages", "installing the executor", command, CACHE / "pip-executor.log")
