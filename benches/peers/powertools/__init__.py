"""A Lambda function in Python whose BatchProcessor writes a record at a time, behind the hand-written trigger."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers import Running, environment, golang
from world import World

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
VERSION = re.search(r"^aws-lambda-powertools==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)[1]
BOOTSTRAP = HERE / "bootstrap"


def install() -> Path:
    """Its Python."""
    return environment.install("powertools", REQUIREMENTS) / "python"


@contextmanager
def functions(world: World) -> Iterator[Running]:
    """As the indexers."""
    with golang.functions(world, BOOTSTRAP, PYTHON=str(install())) as running:
        yield running
