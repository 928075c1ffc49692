"""What the machine must have, told at once and with the command that installs it."""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

import clickhouse
import kafka
from console import Failure
from java import find_java
from layout import Stack
from search import Release

APT = "apt-get install -y"
RUSTUP = "curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
DOCKER_HINT = "or use Docker:  make up DOCKER=1"


def oldest_postgres() -> Path:
    """The programs of the oldest PostgreSQL here that Sluice runs on, from the distribution; the wheel's is the newest."""
    found = [programs for major in (15, 16, 17) if os.access(programs := Path(f"/usr/lib/postgresql/{major}/bin"), os.X_OK)]
    if not found:
        sudo = "" if os.geteuid() == 0 else "sudo "
        raise Failure(f"the tests run on an older PostgreSQL, too, and this machine has none of 15 to 17:\n    {sudo}{APT} postgresql")
    return found[0]


def check(stack: Stack, search: Release) -> None:
    """Fails with all that is missing; `search` is the release of the search server that it has, unless it was given one."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Failure(f"the servers are built for Linux on x86-64, not for {platform.system()} on {platform.machine()}; {DOCKER_HINT}")
    targets = [name for name in stack.targets if not stack.facts.get(f"use_{name}")]  # those that are started here
    if "clickhouse" in targets:
        clickhouse.check()
    missing = []
    if not importlib.util.find_spec("ensurepip"):  # Debian keeps it out of python3
        missing.append(("Python's venv", f"{APT} python3-venv"))
    if not shutil.which("cargo"):
        missing.append(("cargo", RUSTUP))
    if not (shutil.which("cc") or shutil.which("gcc")):
        missing.append(("a C compiler", f"{APT} build-essential"))
    if not shutil.which("openssl"):
        missing.append(("openssl", f"{APT} openssl"))
    if not stack.facts.get("use_elasticsearch") and not search.find_java():
        package = "default-jre-headless" if search.java < 21 else "openjdk-21-jdk-headless"
        missing.append((search.java_in_words, f"{APT} {package}"))
    elif {"kafka", "mongodb"} & set(targets) and not find_java(kafka.JAVA):
        missing.append((f"Java {kafka.JAVA} or newer", f"{APT} default-jre-headless"))
    if missing:
        sudo = "" if os.geteuid() == 0 else "sudo "
        lines = [f"    {what:<24}{sudo if command.startswith(APT) else ''}{command}" for what, command in missing]
        raise Failure("this machine lacks what the stack needs:\n" + "\n".join(lines) + f"\n    {DOCKER_HINT}")
